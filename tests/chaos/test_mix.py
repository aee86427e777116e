"""The chaos run with a mix of all that users can ask for, for a while; and planted faults that its auditor
must see.

Longer runs, other seeds: `make chaos MIX=1 MINUTES=30 SEED=7`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controller.dev.etcd import EtcdBinary
from tests.chaos.run import run
from tests.support.mix_auditor import MixAuditor, Ran
from tests.support.share_records import Event

# a group of several tests, which xdist starts before single ones: this takes long
pytestmark = pytest.mark.xdist_group("chaos")

FAULTS = ["leader killed", "leader stopped", "member killed", "supervisors killed", "user hears no answers"]
Revision = dict[str, Any]
TICK = 1_795_715_460  # 2026-11-26T17:51:00Z


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_mix_of_all_keeps_the_promise(etcd_binary: EtcdBinary, tmp_path: Path) -> None:
    """Half a minute of some faults; the auditor has seen each kind of task."""
    report = run(tmp_path, etcd_binary, seed=1, seconds=30, faults=FAULTS, mixed=True)
    print(f"{report.schedule()}\n{report.table()}")
    assert " 0 members begun," not in report.summary
    assert " 0 rounds of gangs" not in report.summary
    assert " 0 children begun" not in report.summary
    assert " 0 shares compared" not in report.summary


# -- a history in small, and what may be wrong with it


def status(state: str, attempt: int, *steps: str, **fields: Any) -> dict[str, Any]:
    """A status whose history has these steps: an event, or `event:source`."""
    rows = []
    for number, step in enumerate(steps):
        event, _, source = step.partition(":")
        rows.append({"at": 10.0 + number, "event": event, "source": source or "Pending", "attempt": attempt})
    hold = {"hold": {"cpu": "1"}} if state == "Pending" else {}
    return {"state": state, "pool": "default", "attempt": attempt, "steps": len(rows), "history": rows,
            **hold, **fields}  # fmt: skip


BEGINS, ENDS = "admitted:Created", "succeeded-observed"


def held(cpus: int) -> Revision:
    return {"ledgers/default": {"held": {"cpu": str(cpus)} if cpus else {}}}


def member(array: str, index: int, state: str = "Pending", attempt: int = 1, **more: Any) -> Revision:
    steps = (BEGINS,) if state == "Pending" else (BEGINS, ENDS)
    return {f"states/{array}-i{index}": status(state, attempt, *steps, array=array, index=index, **more)}


def block(array: str, of: str, *outcomes: str) -> Revision:
    return {
        f"arrays/{array}/0": {"of": of, "members": [[1, each, int(each != "waiting")] for each in outcomes]}
    }


def gang(state: str, left: int, *steps: str, attempt: int = 1) -> Revision:
    reserved = {"reserved": [[left, {"cpu": "1"}]]} if state == "Pending" else {}
    hold = {"cpu": str(left)} if left else {}
    return {"states/g": {**status(state, attempt, *steps), **reserved, "hold": hold}}


def sound() -> list[Revision]:
    """Two members of an array, of which each has one of another array behind it; a gang of two; a tick."""
    same = [{"task": "a", "index": "same"}]
    labels = {"tally.dev/schedule": "s"}
    return [
        {"pools/default": {"capacity": {"cpu": "4"}}},
        {"tasks/a": {"op": "a", "array": {"size": 2, "max_running": 2}, "resources": {"cpu": "1"}}},
        {"tasks/b": {"op": "b", "array": {"size": 2}, "after": same}},
        {"tasks/c": {"op": "c", "after": ["a"]}},
        {"tasks/g": {"op": "g", "array": {"size": 2, "gang": True}, "resources": {"cpu": "1"}}},
        {**member("a", 0), **member("a", 1), **held(2)},  # 5
        {**member("a", 0, "Succeeded"), **held(1)},
        {"states/a-i0": None, **block("a", "a", "succeeded", "waiting")},
        {**member("b", 0), **held(2)},  # 8
        {**member("a", 1, "Succeeded"), **held(1)},
        {"states/a-i1": None, **block("a", "a", "succeeded", "succeeded")},
        {"states/a": status("Succeeded", 0, "members-succeeded:Created")},  # 11
        {"states/c": status("Pending", 1, BEGINS), **held(2)},
        {"states/c": status("Succeeded", 1, BEGINS, ENDS), **held(1)},
        {**gang("Pending", 2, BEGINS), **held(3)},  # 14
        {**gang("Pending", 1, BEGINS), **member("g", 0, of_gang=True)},
        {**gang("Pending", 0, BEGINS), **member("g", 1, of_gang=True)},
        {**member("g", 0, "Succeeded", of_gang=True), **member("g", 1, "Succeeded", of_gang=True), **held(1)},
        {"states/g-i0": None, "states/g-i1": None, **block("g", "g/1", "succeeded", "succeeded")},  # 18
        gang("Succeeded", 0, BEGINS, ENDS),
        {"schedules/s": {"catch_up": "latest"}, "schedule-states/s": {"cursor": TICK, "create": 1}},
        {
            "tasks/s-202611261752": {"op": "s", "labels": labels},
            "schedule-states/s": {"cursor": TICK + 60, "create": 1, "counts": {"made": 1}},
        },  # 21
    ]


def audited(revisions: list[Revision]) -> MixAuditor:
    auditor = MixAuditor()
    for number, revision in enumerate(revisions, 1):
        events = [
            Event(f"/tally/default/{key}", None if value is None else json.dumps(value).encode(), number)
            for key, value in revision.items()
        ]
        auditor.apply(number, events, heard=TICK + 1000.0 + number)
    return auditor


def test_a_sound_history_has_no_findings() -> None:
    auditor = audited(sound())
    assert auditor.findings == []
    assert auditor.members.begun == 5
    assert auditor.children.paired == auditor.children.begun == 1
    assert list(auditor.gangs.admitted) == [("g", 1)]
    assert list(auditor.ticks.made) == ["s-202611261752"]
    lines = [Ran("a-i0", 1, "start", 10.5), Ran("a-i0", 1, "end", 10.7), Ran("b-i0", 1, "start", 11.0)]
    assert not [each for each in auditor.judge_attempts(lines) if "never came to its end" not in each]


def _doubled_hold(revisions: list[Revision]) -> None:
    revisions[5] |= held(3)


def _hold_that_is_not_told(revisions: list[Revision]) -> None:
    revisions[5] |= held(1)


def _begun_twice(revisions: list[Revision]) -> None:
    revisions.insert(8, {**member("a", 0, attempt=2), **held(2)})


def _one_attempt_twice(revisions: list[Revision]) -> None:
    revisions[8] = {**member("b", 0), **held(1), "states/a-i0": revisions[5]["states/a-i0"]}


def _ended_twice(revisions: list[Revision]) -> None:
    revisions[10] |= block("a", "a", "failed", "succeeded")


def _ended_untold(revisions: list[Revision]) -> None:
    revisions[10] = {"states/a-i1": None}


def _ended_before_its_members(revisions: list[Revision]) -> None:
    revisions[9], revisions[10] = {}, {}


def _gang_half_admitted(revisions: list[Revision]) -> None:
    revisions[14] = {**gang("Pending", 1, BEGINS), **held(2)}


def _part_of_a_gang_lost(revisions: list[Revision]) -> None:
    revisions[15] = {**gang("Pending", 0, BEGINS), **member("g", 0, of_gang=True), **held(2)}


def _member_before_its_gang(revisions: list[Revision]) -> None:
    revisions[14], revisions[15] = {**member("g", 0, of_gang=True), **held(2)}, {}


def _member_of_another_round(revisions: list[Revision]) -> None:
    revisions[15] |= member("g", 0, attempt=2, of_gang=True)


def _child_too_early(revisions: list[Revision]) -> None:
    revisions[11], revisions[12] = revisions[12], revisions[11]


def _child_of_one_that_is_retried(revisions: list[Revision]) -> None:
    revisions[11]["requests/a/retry"] = {"kind": "retry"}


def _member_before_its_own(revisions: list[Revision]) -> None:
    revisions[8] = {**member("b", 1), **held(2)}


def _tick_twice(revisions: list[Revision]) -> None:
    revisions += [{"tasks/s-202611261752": None}, dict(revisions[21])]


def _tick_missed(revisions: list[Revision]) -> None:
    revisions[21]["schedule-states/s"]["cursor"] += 60


def _tick_beside_another(revisions: list[Revision]) -> None:
    revisions[20]["schedules/s"]["concurrency"] = "forbid"
    state = {"cursor": TICK + 120, "create": 1, "counts": {"made": 2}}
    tick = {"op": "t", "labels": {"tally.dev/schedule": "s"}}
    revisions.append({"tasks/s-202611261753": tick, "schedule-states/s": state})


def _tick_without_its_cursor(revisions: list[Revision]) -> None:
    del revisions[21]["schedule-states/s"]


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (_doubled_hold, "ledger"),
        (_hold_that_is_not_told, "ledger"),
        (_begun_twice, "member"),
        (_one_attempt_twice, "once"),
        (_ended_twice, "member"),
        (_ended_untold, "member"),
        (_ended_before_its_members, "member"),
        (_gang_half_admitted, "gang"),
        (_part_of_a_gang_lost, "gang"),
        (_member_before_its_gang, "gang"),
        (_member_of_another_round, "gang"),
        (_child_too_early, "order"),
        (_child_of_one_that_is_retried, "order"),
        (_member_before_its_own, "order"),
        (_tick_twice, "tick"),
        (_tick_missed, "tick"),
        (_tick_without_its_cursor, "tick"),
        (_tick_beside_another, "tick"),
    ],
)
def test_a_planted_fault_is_seen(fault: Callable[[list[Revision]], None], check: str) -> None:
    revisions = sound()
    fault(revisions)
    found = audited(revisions).findings
    assert [finding for finding in found if f": {check}: " in finding], found


SUCCEEDS = [Ran("c", 1, "start", 11.0), Ran("c", 1, "end", 12.0)]


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ([Ran("c", 2, "start", 10.5)], "held from inf"),
        ([Ran("c", 1, "start", 9.0)], "held from 10"),
        ([Ran("c", 1, "start", TICK + 9000.0)], "held from 10"),
        ([*SUCCEEDS, Ran("c", 1, "start", 12.5)], "began twice"),
        ([*SUCCEEDS, Ran("c", 2, "start", 12.5)], "attempt 2 ran"),
        ([Ran("c", 1, "overlap", 11.0)], "while another one was there"),
        ([*SUCCEEDS, Ran("a-i1", 1, "end", 11.5)], "its parents ended later"),
        ([Ran("a-i0", 1, "start", 11.0)], "never came to its end"),
    ],
)
def test_what_attempts_wrote_is_held_against_the_history(lines: list[Ran], what: str) -> None:
    assert any(what in found for found in audited(sound()).judge_attempts(lines))
    assert not any(what in found for found in audited(sound()).judge_attempts(SUCCEEDS)) or "never" in what


def test_what_is_left_over_is_seen() -> None:
    auditor = audited(sound())
    left = auditor.left()
    assert "tasks/b is Created" in left  # and its member holds
    assert any(each.startswith("ledgers/default is not zero") for each in left)
    assert any(each.startswith("states/b-i0 of a member is left") for each in left)
    assert auditor.behind(TICK + 119.0) == []
    assert auditor.behind(TICK + 120.0) == [f"s is at {TICK + 60}, and due is {TICK + 120}"]
    gone = audited([*sound(), {"tasks/a": None, "states/a": None, "awaits/a/x": {}}]).left()
    assert {"awaits/a/x is left", "arrays/a/0 is left, and its array is gone"} <= set(gone)
