"""`tally drain`, and specs that `tally submit` takes again."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from controller.client import Client
from controller.core.model.lifecycle import State
from controller.core.model.resources import Vector
from tests.cli.conftest import Tally
from tests.client.conftest import PutStatus
from tests.support.waiting import wait_until

HOLDING = Vector({"cpu": 1000})


def test_a_pool_is_drained_when_nothing_of_it_is_held(
    tally: Tally, client: Client, put_status: PutStatus
) -> None:
    client.apply_pool({"name": "default", "capacity": {"cpu": 4}})
    client.submit({"id": "a", "command": ["true"]})
    client.submit({"id": "waits", "command": ["true"]})
    put_status("a", State.RUNNING, attempt=1, hold=HOLDING)
    late = tally("drain", "pool/default", "--timeout", "0.1s")
    assert late.exit_code == 4
    assert late.out.splitlines() == ["pool/default paused", "pool/default: 1 task still holds resources"]
    drained = []
    waiting = threading.Thread(target=lambda: drained.append(tally("drain", "default")))
    waiting.start()
    put_status("a", State.SUCCEEDED, attempt=1)
    waiting.join(30)
    assert drained[0].exit_code == 0
    assert drained[0].out.splitlines()[-1] == "pool/default drained"
    assert client.get("waits").state is State.CREATED
    assert tally("drain", "nope").exit_code == 5


def test_what_runs_may_be_cancelled(tally: Tally, client: Client, put_status: PutStatus) -> None:
    """Once each, with the reason; the leader does the rest."""
    client.submit({"id": "a", "command": ["true"]})
    client.apply_pool({"name": "default", "capacity": {"cpu": 4}})
    put_status("a", State.RUNNING, attempt=1, hold=HOLDING)
    draining = threading.Thread(target=lambda: tally("drain", "default", "--cancel", "--reason", "moving"))
    draining.start()
    wait_until(lambda: client.get("a").requests == ("cancel",), "the request")
    put_status("a", State.CANCELLED, attempt=1)
    draining.join(30)
    assert not draining.is_alive()


def test_a_spec_can_be_submitted_again(tally: Tally, client: Client, tmp_path: Path) -> None:
    """As YAML or JSON, one or many: each is unchanged, since nothing of it was lost."""
    specs: list[dict[str, Any]] = [
        {"id": "a", "command": ["sh", "-c", "echo $X: 'quoted'\n"], "env": {"X": "1"}, "labels": {"t": "no"}},
        {
            "id": "b",
            "command": ["true"],
            "retry": {"max_attempts": 3},
            "deadlines": {"run_seconds": 5},
            "priority": -2,
        },
    ]
    for spec in specs:
        client.submit(spec)
    for form in ("yaml", "json"):
        file = tmp_path / "specs"
        for names in (["a"], ["b"], ["a", "b"], []):
            file.write_text(tally("get", "tasks", *names, "-o", form, "--spec").out)
            again = tally("submit", "-f", str(file))
            assert again.exit_code == 0, again.err
            assert set(again.out.split()[1::2]) == {"unchanged"}, again.out
    for words in (["task", "a", "--spec"], ["pools", "-o", "yaml", "--spec"], ["tasks", "-w", "--spec"]):
        assert tally("get", *words).exit_code == 2
