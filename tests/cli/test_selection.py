"""Commands act on tasks that are named, or on those that match: shown first, and confirmed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from contextlib import suppress
from typing import Any

import pytest

from controller.client import Client
from controller.core.model.lifecycle import State
from tests.cli.conftest import Tally
from tests.client.conftest import PutRaw, PutStatus
from tests.client.test_changes import act
from tests.client.test_features import release


@pytest.fixture(autouse=True)
def _tasks(client: Client, put_raw: PutRaw) -> None:
    """Three tasks, of which two have a label, in an installation where changes are on."""
    put_raw("engine", b'{"engine":{"name":"null","id":"e"},"installation":"abc"}')
    put_raw("leader", release("r1", knows=["changes"]))
    client.features.enable("changes")
    client.apply_pool({"name": "gpu", "capacity": {"cpu": 1}})
    labels = {"team": "vision"}
    client.submit_many(
        [
            {"id": "a", "command": ["true"], "labels": labels},
            {"id": "b", "command": ["true"], "labels": labels, "pool": "gpu"},
            {"id": "c", "command": ["true"]},
        ]
    )


def asked(client: Client) -> list[str]:
    return [view.id for view in client.tasks() if view.requests]


def test_hold_release_and_set_priority_by_name(tally: Tally, client: Client) -> None:
    assert tally("hold", "task/a", "--reason", "not yet").out == "task/a hold requested\n"
    assert tally("set", "priority", "-5", "a").out == "task/a set priority -5 requested\n"
    act(client)
    row = next(line for line in tally("get", "tasks", "-o", "wide").out.splitlines() if line.startswith("a "))
    assert ("Created (on hold)" in row, "OnHold" in row, " -5 " in row) == (True, True, True)
    described = tally("describe", "task", "a").out
    assert "State:     Created (on hold)\n" in described
    assert "Priority:  -5 (in its spec: 0)\n" in described
    assert "priority -5 (was 0), requested by" in described
    told = tally("explain", "a").out
    assert "a is on hold since" in told
    assert "not yet" in told
    assert "tally release a" in told
    assert [row[0] for row in tally("get", "tasks", "--state", "on-hold").rows()] == ["a"]
    assert [row[0] for row in tally("get", "tasks", "--state", "waiting,running").rows()] == ["a", "b", "c"]
    assert {
        each["name"]: each["on_hold"] for each in tally("get", "pools", "-o", "json").document["items"]
    } == {
        "default": None,
        "gpu": None,
    }
    described = tally("describe", "pool", "default").out
    assert "On hold: 1\n" in described
    assert tally("release", "a").out == "task/a release requested\n"
    assert tally("hold", "nope").exit_code == 5
    assert tally("set", "priority", "high", "a").exit_code == 2


def test_what_matches_is_shown_and_nothing_is_requested(tally: Tally, client: Client) -> None:
    answer = tally("hold", "-l", "team=vision", "--dry-run")
    a, b = (client.get(name).create_revision for name in "ab")
    assert answer.out.splitlines() == [
        f"task/a (Created, pool default, owner default, created at revision {a}): hold",
        f"task/b (Created, pool gpu, owner default, created at revision {b}): hold",
    ]
    assert answer.err == "2 tasks; nothing was requested.\n"
    assert asked(client) == []


def test_without_a_terminal_a_yes_is_needed(tally: Tally, client: Client) -> None:
    answer = tally("cancel", "--pool", "gpu")
    assert (answer.exit_code, "this would act on 1 task: add --yes" in answer.err) == (1, True)
    assert asked(client) == []
    assert tally("cancel", "--pool", "gpu", "--yes").out == "task/b cancel requested\n"


@pytest.mark.parametrize(
    ("answer", "code", "told"),
    [
        (signal.SIGINT, 130, "Nothing was changed."),
        (b"\x04", 1, "Nothing was changed."),
        (b"n\n", 1, "Nothing was changed."),
        (b"y\n", 0, "task/b cancel requested"),
    ],
)
def test_an_answer_on_a_terminal(
    executable: list[str], environment: dict[str, str], client: Client, answer: Any, code: int, told: str
) -> None:
    """Ctrl-C, the end of the input, no, and yes."""
    ours, theirs = os.openpty()
    with open(ours, "r+b", buffering=0) as terminal, open(theirs, "r+b", buffering=0) as side:
        process = subprocess.Popen(
            [*executable, "cancel", "--pool", "gpu"],
            stdin=side,
            stdout=side,
            stderr=side,
            start_new_session=True,
        )
        text = ""
        while "1 task: cancel? [y/N]: " not in text:
            assert select.select([terminal], [], [], 30)[0], f"no such prompt in {text!r}"
            text += terminal.read(1024).decode()
        if isinstance(answer, bytes):
            terminal.write(answer)
        else:
            process.send_signal(answer)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
            if process.poll() is None:  # it came between the prompt and the read, which it does not end
                process.send_signal(answer)
        assert process.wait(timeout=30) == code
        os.set_blocking(ours, False)  # all that it has printed is there
        text += (terminal.read(4096) or b"").decode()
    assert told in text
    assert "Abort" not in text
    assert asked(client) == (["b"] if code == 0 else [])


def test_only_what_the_command_can_act_on(tally: Tally, client: Client, put_status: PutStatus) -> None:
    put_status("a", State.RUNNING)
    put_status("b", State.FAILED)
    assert tally("hold", "--owner", "default", "-y").out == "task/c hold requested\n"
    assert tally("retry", "--state", "finished", "-y").out == "task/b retry requested\n"
    assert tally("cancel", "--state", "holding", "-y").out == "task/a cancel requested\n"
    answer = tally("release", "-l", "team=vision", "-y")
    assert (answer.exit_code, answer.out) == (0, "")
    assert answer.err == "Nothing to do: none of the 2 tasks that match can be acted on.\n"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["hold"], "name tasks, or select them"),
        (["hold", "a", "--pool", "gpu"], "not both"),
        (["cancel", "--state", "odd"], "is not a state"),
        (["cancel", "-l", "=="], "selector"),
        (["set", "priority", "5"], "name tasks, or select them"),
    ],
)
def test_a_wrong_selection_is_a_usage_error(tally: Tally, arguments: list[str], what: str) -> None:
    answer = tally(*arguments)
    assert answer.exit_code == 2
    assert what in answer.err


def test_the_last_word_counts_before_the_leader_hears_the_first(tally: Tally, client: Client) -> None:
    """What matches by what is asked of it counts, too."""
    assert tally("hold", "-l", "team=vision", "-y").exit_code == 0
    assert tally("release", "-l", "team=vision", "-y").out.count("release requested") == 2
    assert tally("hold", "a").out == "task/a hold requested\n"
    tally("set", "priority", "7", "c")
    assert tally("set", "priority", "0", "--state", "created", "-y").out.count("requested") == 3
    assert all(view.requests == ("change",) for view in client.tasks())


def test_a_victim_of_preemption_is_selected(tally: Tally, put_status: PutStatus) -> None:
    put_status("a", State.RUNNING, stopping="preempted")
    put_status("b", State.RUNNING, stopping="cancel")
    assert tally("hold", "-l", "team=vision", "-y").out == "task/a hold requested\n"


def test_a_cancel_overrides_a_retry_that_waits(tally: Tally, put_status: PutStatus) -> None:
    put_status("a", State.CANCELLED)
    assert tally("cancel", "a").out == "task/a is already Cancelled\n"
    assert tally("retry", "a").out == "task/a retry requested\n"
    assert tally("cancel", "a").out == "task/a cancel requested\n"
    tally("cancel", "c")
    answer = tally("retry", "c")
    assert (answer.exit_code, "the leader has yet to cancel it" in answer.err) == (1, True)
