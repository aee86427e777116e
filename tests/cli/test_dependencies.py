"""get, describe, --tree and wait of tasks that wait for others."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from controller.client import Client
from controller.core.model.features import KNOWN
from controller.core.model.lifecycle import State
from tests.cli.conftest import Tally
from tests.client.conftest import PutRaw, PutStatus
from tests.client.test_features import release

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _tasks(client: Client, put_raw: PutRaw) -> None:
    """D after b and c, which are after a."""
    put_raw("engine", b'{"engine":{"name":"null","id":"e"},"installation":"abc"}')
    put_raw("leader", release("r1", knows=list(KNOWN)))
    client.features.enable("dependencies")
    put_raw("leader", release("r1", knows=list(KNOWN)))
    for name, after in (
        ("a", []),
        ("b", ["a"]),
        ("c", ["a"]),
        ("d", ["b", {"task": "c", "when": "finished"}]),
    ):
        client.submit({"id": name, "command": ["true"], "after": after})


def test_a_list_says_for_how_many_a_task_waits(tally: Tally, put_status: PutStatus) -> None:
    """Only while it waits."""
    reasons = {line.split()[0]: line for line in tally("get", "tasks").out.splitlines()}
    assert "Waits for 1 " in reasons["b"]
    assert "Waits for 2 " in reasons["d"]
    assert "Waits" not in reasons["a"]
    put_status("a", State.SUCCEEDED)
    assert "Waits" not in tally("get", "task", "b").out
    assert "Waits for 2 " in tally("get", "task", "d", "-o", "wide").out


def test_a_document_has_a_verdict_for_each(tally: Tally, put_status: PutStatus) -> None:
    """Beside the spec, as it was submitted."""
    put_status("b", State.FAILED)
    told = json.loads(tally("get", "task", "d", "-o", "json").out)
    assert told["after"] == [
        {"task": "b", "when": "succeeded", "verdict": "unmet", "state": "Failed", "index": "all"},
        {"task": "c", "when": "finished", "verdict": "unfinished", "state": "Created", "index": "all"},
    ]
    assert told["reason"] == "WaitsForTasks"
    assert tally("get", "task", "d", "-o", "json", "--spec").document["after"][1]["when"] == "finished"


def test_describe(tally: Tally, client: Client, put_status: PutStatus) -> None:
    """How many keep it, and each with its verdict; those that keep it first, and not all of very many."""
    put_status("b", State.SUCCEEDED)
    page = tally("describe", "task", "d").out
    assert "Waits for: 1 of 2 tasks" in page
    assert "d waits for 1 of 2 tasks to end: c (Created)." in page
    rows = [line.split() for line in page.partition("After:\n")[2].splitlines()[1:3]]
    assert rows == [["c", "finished", "Created", "unfinished"], ["b", "succeeded", "Succeeded", "met"]]
    put_status("b", State.FAILED)
    page = tally("describe", "task", "d").out
    assert "1 of 2 tasks; b is Failed, so it will be Failed once the others have ended" in page
    names = [f"p{n:02}" for n in range(30)]
    client.submit_many([{"id": name, "command": ["true"]} for name in names])
    client.submit({"id": "many", "command": ["true"], "after": names})
    page = tally("describe", "task", "many").out
    assert "p19" in page
    assert "p20" not in page
    assert "  and 10 more: tally get task many -o yaml" in page


def test_a_tree(tally: Tally, put_status: PutStatus) -> None:
    """What it waits for, and what waits for it; what is behind a task is printed once."""
    put_status("a", State.SUCCEEDED)
    lines = [line.rstrip() for line in tally("get", "task", "d", "--tree").out.splitlines()]
    assert lines[0] == "d waits for:"
    assert [line[:9].rstrip() for line in lines[2:]] == ["├── b", "│   └── a", "└── c", "    └── a"]
    assert lines[2].split()[2:] == ["Created", "succeeded", "unfinished", "-"]
    assert lines[4].split()[2:] == ["Created", "finished", "unfinished", "-"]
    assert "unfinished   Waits for 2" in tally("get", "task", "a", "--tree").out
    assert lines[3].split()[3:] == ["Succeeded", "succeeded", "met", "-"]
    below = tally("get", "task", "a", "--tree").out
    assert below.startswith("These wait for a:\n")
    assert below.count("└── d ") == 2
    assert tally("get", "task", "d", "--tree", "-o", "json").document["nodes"][0]["id"] == "d"


def test_what_is_behind_a_task_is_printed_once(tally: Tally, client: Client) -> None:
    client.submit({"id": "e", "command": ["true"], "after": ["b", "d"]})
    told = tally("get", "task", "e", "--tree").out
    assert told.count("b (see above)") == 1
    assert told.count(" a ") == 2


@pytest.mark.parametrize(
    ("words", "exit_code", "told"),
    [
        ("get tasks --tree", 2, "--tree is for one task"),
        ("get task a d --tree", 2, "--tree is for one task"),
        ("get pool default --tree", 2, "--tree is for one task"),
        ("get task a -w --tree", 2, "--tree is for one task"),
        ("get task a --tree -o wide", 2, "-o wide is not supported here"),
        ("get task nope --tree", 5, "there is no task"),
    ],
)
def test_what_is_wrong_is_named(tally: Tally, words: str, exit_code: int, told: str) -> None:
    answer = tally(*words.split())
    assert (answer.exit_code, told in " ".join(answer.err.split())) == (exit_code, True)


def test_the_example_is_a_diamond(tally: Tally) -> None:
    """Deploy/examples/diamond.yaml, as the page about dependencies submits it."""
    assert tally("submit", "-f", str(ROOT / "deploy" / "examples" / "diamond.yaml")).exit_code == 0
    told = tally("get", "task", "diamond-report", "--tree").out
    for words in ("├── diamond-clean", "└── diamond-check", "diamond-load"):
        assert words in told
    assert "diamond-report waits for 2 tasks to end" in tally("explain", "diamond-report").out


def test_a_task_alone_has_no_tree(tally: Tally, client: Client) -> None:
    client.submit({"id": "alone", "command": ["true"]})
    answer = tally("get", "task", "alone", "--tree")
    assert (answer.exit_code, answer.out) == (0, "")
    assert "alone waits for no task" in answer.err


def test_a_flag_names_what_a_task_waits_for(tally: Tally, client: Client) -> None:
    """In one list with commas; what is wrong in it is named by its place."""
    answer = tally("submit", "e", "--after", "b, c:finished,d:failed", "--", "true")
    assert (answer.exit_code, answer.out) == (0, "task/e created\n")
    assert [(each.task, each.when) for each in client.get("e").after] == [
        ("b", "succeeded"),
        ("c", "finished"),
        ("d", "failed"),
    ]
    for text, told in (
        ("b,nope", "after[1].task: there is no task nope: submit"),
        ("b,c:never", "after[1].when: is 'never', expected one of succeeded, failed, finished"),
        ("b,c:", "after[1].when: is '', expected one of"),
        ("b,,c", "after[1].task: "),
        ("", "after[0].task: "),
        ("b,b:failed", "after[1]: names b a second time"),
    ):
        answer = tally("submit", "f", "--after", text, "--", "true")
        assert (answer.exit_code, answer.out, told in answer.err) == (1, "", True), answer.err
    for text in ("b:same:failed", "b:failed:never:same"):
        answer = tally("submit", "f", "--after", text, "--", "true")
        assert answer.exit_code == 2
        assert "write TASK, TASK:WHEN, TASK:same or TASK:WHEN:same" in " ".join(answer.err.split())
    assert tally("submit", "-f", "x", "--after", "b").exit_code == 2


def test_a_wait_passes_what_was_skipped(tally: Tally, client: Client, put_status: PutStatus) -> None:
    """A pipeline whose alarm is not needed has done what it should; one that somebody cancelled has not."""
    put_status("a", State.SUCCEEDED)
    alarm = ("submit", "alarm", "--after", "a:failed", "--", "true")
    assert tally(*alarm).exit_code == 0
    put_status("alarm", State.CANCELLED, attempt=0, reason="Skipped")
    answer = tally("submit", "--wait", *alarm[1:])
    assert (answer.exit_code, answer.out) == (0, "task/alarm unchanged\ntask/alarm Cancelled (Skipped)\n")
    assert tally("wait", "a", "alarm").exit_code == 0
    assert tally("wait", "alarm", "--for=succeeded").exit_code == 1
    assert tally("wait", "alarm", "--for=cancelled").exit_code == 0
    put_status("alarm", State.CANCELLED, attempt=0, reason="Cancelled")
    assert tally("wait", "a", "alarm").exit_code == 1


def test_to_wait_for_the_last_tells_what_failed(tally: Tally, put_status: PutStatus) -> None:
    """A wait on the last of a chain is one on all; it ends with 1, and the reason."""
    words = "it was to run after the success of b, which is Failed"
    put_status("d", State.FAILED, attempt=0, reason="DependencyFailed", message=words)
    answer = tally("wait", "d", "--for=succeeded")
    assert answer.exit_code == 1
    assert "task/d Failed (DependencyFailed)" in answer.out
    assert "It never ran: `tally explain d` says why." in answer.err
    assert words in tally("explain", "d").out


def test_an_array_that_cannot_follow_another_is_refused(tally: Tally, client: Client) -> None:
    """By what is stored, and by what comes before it in the same file."""
    client.features.enable("arrays")
    submit = partial(tally, "submit")
    assert submit("three", "--array", "3", "--", "true").exit_code == 0
    assert submit("follows", "--array", "3", "--after", "three:Finished:Same", "--", "true").exit_code == 0
    (dependency,) = client.get("follows").after
    assert dependency.wish == "finished (same index)"
    answer = submit("four", "--array", "4", "--after", "three:same", "--", "true")
    assert "after[0].index: is `same`, but three has 3 members, and this array has 4" in answer.err
    assert (
        "after[0].index: is `same`, but the task is no array"
        in submit("e", "--after", "three:same", "--", "x").err
    )
    answer = submit("more", "--array", "3", "--after", "b:same", "--dry-run", "--", "true")
    assert (
        "after[0].index: is `same`, but b is no array: leave it out, to wait for the end of b" in answer.err
    )
    results = client.submit_many(
        [
            {"id": "first", "command": ["true"], "array": {"size": 2}},
            {
                "id": "next",
                "command": ["true"],
                "array": {"size": 3},
                "after": [{"task": "first", "index": "same"}],
            },
        ]
    )
    assert {each.id: each.outcome for each in results} == {"first": "created", "next": "invalid"}


def test_a_member_tells_what_it_waits_for(tally: Tally, client: Client) -> None:
    """By its own index; what is around it is what is around its array, and so it says."""
    client.features.enable("arrays")
    for given in (("cut",), ("render", "--after", "cut:same")):
        assert tally("submit", *given, "--array", "3", "--", "true").exit_code == 0
    [after] = tally("get", "task", "render[2]", "-o", "json").document["after"]
    assert (after["task"], after["index"], after["verdict"]) == ("cut-i2", "same", "unfinished")
    page = tally("describe", "task", "render-i2").out
    assert "Waits for: 1 of 1 task" in page
    [row] = [line.split() for line in page.partition("After:\n")[2].splitlines()[1:]]
    assert row == ["cut-i2", "succeeded", "(same", "index)", "Created", "unfinished"]
    tree = tally("get", "task", "render-i2", "--tree")
    assert (tree.exit_code, tree.out) == (0, tally("get", "task", "render", "--tree").out)
    assert "└── cut " in tree.out
    assert "render-i2 is a member of render, whose tree this is" in tree.err


def test_a_task_cannot_wait_for_a_member(tally: Tally, client: Client) -> None:
    """And is told what it can wait for; of a gang, `same` means nothing."""
    client.features.enable("arrays")
    client.features.enable("gangs")
    assert tally("submit", "cut", "--array", "3", "--", "true").exit_code == 0
    assert tally("submit", "mpi", "--array", "3", "--gang", "--", "true").exit_code == 0
    told = " ".join(tally("submit", "w", "--after", "cut-i2", "--", "true").err.split())
    assert "after[0].task: cut-i2 is a member of the array cut, and a task cannot wait for one member" in told
    assert "there is no task cut-i3" in tally("submit", "w", "--after", "cut-i3", "--", "true").err
    told = tally("submit", "w", "--array", "3", "--after", "mpi:same", "--", "true").err
    assert "mpi is a gang, whose members end together: leave it out" in " ".join(told.split())
    both: list[dict[str, Any]] = [
        {"id": "new", "command": ["x"], "array": {"size": 2}},
        {"id": "w", "command": ["x"], "after": ["new-i0"]},
    ]
    results = client.submit_many(both, dry_run=True)
    assert next(each.message for each in results if not each.accepted).startswith(
        "after[0].task: new-i0 is a member"
    )
