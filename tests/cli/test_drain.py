"""`tally drain`, and specs that `tally submit` takes again."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from controller.cli.drain import parse_start
from controller.client import Client
from controller.core.model.features import KNOWN
from controller.core.model.lifecycle import State
from controller.core.model.maintenance import Windows
from controller.core.model.resources import Vector
from tests.cli.conftest import Tally
from tests.client.conftest import PutRaw, PutStatus
from tests.client.test_features import release
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


@pytest.fixture
def _led(put_raw: PutRaw) -> None:
    """A replica of this release leads."""
    put_raw("engine", b'{"engine":{"name":"null","id":"e"},"installation":"abc"}')
    put_raw("leader", release("r1", knows=list(KNOWN)))


@pytest.mark.usefixtures("_led")
def test_a_window_is_set_shown_and_removed(tally: Tally, client: Client) -> None:
    """With the absolute time, the zone, the reason and who has set it."""
    client.apply_pool({"name": "default", "capacity": {"cpu": 4}})
    window_words = ("--at", "2999-01-01T22:00+01:00", "--for", "90m", "--reason", "new nodes")
    first_time = tally("drain", "default", *window_words)
    assert "feature/maintenance turned on: replicas of a release without it" in first_time.out
    told = tally("drain", "default", *window_words)
    assert told.exit_code == 0
    [window] = stored(client)
    assert (window.ends_at - window.starts_at, window.reason) == (5400, "new nodes")
    first = datetime.fromtimestamp(window.starts_at).astimezone()
    assert told.out.startswith(f"pool/default maintenance from {first.isoformat()} ({first:%Z}) to ")
    assert told.out.endswith(f": new nodes, set by {window.by}\n")
    assert tally("drain", "default", "--list").out == told.out
    assert "maintenance at 2999-01-01T21:00:00Z" in tally("get", "pools").out
    described = tally("describe", "pool", "default").out
    assert "2999-01-01T21:00:00Z to 2999-01-01T22:30:00Z (new nodes), set by" in described
    tally("drain", "default", "--at", "2999-01-02T22:00+01:00", "--for", "1h")
    missed = tally("drain", "default", "--remove", "--at", "2999-01-03T22:00+01:00")
    assert missed.exit_code == 1
    assert "has no window that begins at" in missed.err
    removed = tally("drain", "default", "--remove", "--at", "2999-01-01T22:00+01:00")
    assert removed.out.startswith("pool/default maintenance removed: from ")
    assert len(stored(client)) == 1
    tally("drain", "default", "--remove")
    assert tally("drain", "default", "--remove").out == "pool/default unchanged\n"
    assert tally("drain", "default", "--list").out == "pool/default has no maintenance window\n"


@pytest.mark.usefixtures("_led")
def test_a_window_says_what_it_keeps_back(tally: Tally, client: Client) -> None:
    client.submit_many(
        [
            {"id": "for-ever", "command": ["true"]},
            {"id": "fits", "command": ["true"], "deadlines": {"run": "1m"}, "grace_seconds": 0},
        ]
    )
    told = tally("drain", "default", "--at", "2999-01-01T22:00+01:00", "--for", "1h")
    assert "pool/default keeps back 1 waiting task from now until it has ended" in told.out


@pytest.mark.usefixtures("_led")
def test_windows_that_have_passed_go_with_the_next_write(tally: Tally, client: Client) -> None:
    late = {"starts_at": "2999-01-01T00:00Z", "ends_at": 32_503_680_000}
    windows: list[dict[str, Any]] = [{"starts_at": 5, "ends_at": 6}, late]
    client.apply_pool({"name": "default", "capacity": {"cpu": 4}, "maintenance": windows})
    assert len(stored(client)) == 2
    assert len(tally("drain", "default", "--list").out.splitlines()) == 1
    tally("drain", "default", "--at", "now", "--for", "1h")
    assert len(stored(client)) == 2
    assert stored(client)[0].starts_at > 6
    passed = tally("drain", "default", "--at", "2020-01-01T00:00Z", "--for", "1h")
    assert passed.exit_code == 1
    assert "ends_at: has passed" in passed.err


@pytest.mark.parametrize(
    "words",
    [
        ("--at", "25:00", "--for", "1h"),
        ("--at", "soon", "--for", "1h"),
        ("--at", "22:00"),
        ("--for", "1h"),
        ("--at", "22:00", "--for", "0"),
        ("--at", "22:00", "--for", "1h", "--cancel"),
        ("--at", "22:00", "--for", "1h", "--timeout", "1h"),
        ("--list", "--remove"),
        ("--list", "--at", "22:00"),
        ("--remove", "--for", "1h"),
    ],
)
def test_words_that_say_no_window(tally: Tally, client: Client, words: tuple[str, ...]) -> None:
    client.apply_pool({"name": "default", "capacity": {"cpu": 4}})
    assert tally("drain", "default", *words).exit_code == 2
    assert stored(client) == ()


def test_the_next_time_of_the_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the local zone, also across the change to another one."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        noon = datetime(2026, 3, 28, 11, tzinfo=UTC).timestamp()  # 12:00 there; the next night is shorter
        assert parse_start("13:00", noon) == noon + 3600
        assert parse_start("12:00", noon) == noon + 23 * 3600
        assert parse_start("9:30", noon) == noon + 20.5 * 3600
        assert parse_start("now", noon + 0.5) == noon
        assert parse_start("2026-03-28T12:00", noon) == noon
    finally:
        monkeypatch.undo()
        time.tzset()


def stored(client: Client) -> Windows:
    [view] = [view for view in client.pools() if view.name == "default"]
    assert view.definition is not None
    return view.definition.maintenance
