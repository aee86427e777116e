"""What may be supposed, and what two looks that are compared say."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from controller.core.forecast.durations import Durations
from controller.core.forecast.supposed import Supposed
from controller.core.model import capacities
from controller.core.model.capacities import ObservedCapacity
from controller.core.model.lifecycle import State
from controller.core.model.nodes import CapacityFrom, CapacitySource
from controller.core.model.op import Op
from controller.core.model.resources import Vector
from controller.core.model.task import Reserve
from controller.errors import InvalidField
from controller.views.ahead import (
    CHANGED,
    ComparedView,
    LookQuestion,
    compare,
    look,
    look_as_supposed,
    parse_question,
)
from controller.views.explain_forecast import explain_coming, explain_compared
from controller.views.supposition import MOST, NoSuchTask, Supposition, judge, parse_supposition
from tests.forecast.test_ahead import Known, Reality
from tests.forecast.test_course import Each
from tests.support import schedules
from tests.support.bench import Stage


@pytest.fixture
def stage() -> Stage:
    """All features are on."""
    stage = Stage()
    stage.turn_on_all()
    stage.pool(capacity={"cpu": 2})
    return stage


def task(name: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, "command": ["true"], "resources": {"cpu": 1}, **fields}


def judged(stage: Stage, by: str = "", **fields: Any) -> Supposed:
    return judge(stage.model(), parse_supposition(fields), stage.clock.now(), by)


def compared(stage: Stage, seconds: dict[str, float], **fields: Any) -> ComparedView:
    """From what is stored, and what is known of all durations."""
    supposed = judged(stage, **fields)
    now, known = stage.clock.now(), Known(seconds)
    before = look(stage.model(), now, lambda: True, durations=known)
    after = look_as_supposed(stage.model(), supposed, now, lambda: True, durations=known)
    return compare(before, after, [spec.id for spec in supposed.tasks])


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ([], ""),
        ({"colour": 1}, "colour"),
        ({"tasks": {}}, "tasks"),
        ({"tasks": [1]}, "tasks[0]"),
        ({"tasks": [{}] * (MOST + 1)}, "tasks"),
        ({"pools": ["default"]}, "pools[0]"),
        ({"cancelled": ["a", "No"]}, "cancelled[1]"),
        ({"held": "a"}, "held"),
        ({"released": [None]}, "released[0]"),
        ({"priorities": ["a"]}, "priorities"),
        ({"priorities": {"a": "x"}}, "priorities.a"),
        ({"priorities": {"a": 10**10}}, "priorities.a"),
        ({"priorities": {"a": True}}, "priorities.a"),
    ],
)
def test_what_is_no_supposition_is_refused_by_its_field(raw: object, field: str) -> None:
    with pytest.raises(InvalidField) as refused:
        parse_supposition(raw)
    assert refused.value.field == field
    if isinstance(raw, dict):
        with pytest.raises(InvalidField) as refused:
            parse_question({"supposed": raw})
        assert refused.value.field == f"supposed.{field}"


@pytest.mark.parametrize(
    ("raw", "field"),
    [(1, ""), ({"tasks": ["A"]}, "tasks[0]"), ({"horizon_seconds": 0}, "horizon_seconds"), ({"x": 1}, "x")],
)
def test_what_is_no_question_is_refused_by_its_field(raw: object, field: str) -> None:
    with pytest.raises(InvalidField) as refused:
        parse_question(raw)
    assert refused.value.field == field


def test_a_question_survives_the_wire() -> None:
    supposed = Supposition(tasks=[task("a", after=["b"])], held=["c"], priorities={"d": -3})
    question = LookQuestion(tasks=["x"], horizon_seconds=60.0, supposed=supposed)
    assert parse_question(msgspec.json.decode(msgspec.json.encode(question))) == question


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"cancelled": ["nosuch"]}, "cancelled[0]"),
        ({"priorities": {"nosuch": 1}}, "priorities.nosuch"),
        ({"held": ["many-i7"]}, "held[0]"),
    ],
)
def test_a_task_that_there_is_not_is_named(stage: Stage, fields: dict[str, Any], field: str) -> None:
    stage.submit("many", array={"size": 5})
    with pytest.raises(NoSuchTask) as refused:
        judged(stage, **fields)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"held": ["many-i1"]}, "held[0]", "only the whole array"),
        ({"tasks": [task("many-i1")]}, "tasks[0].id", "the name of a member of the array many"),
        ({"tasks": [task("x", after=["many-i1"])]}, "tasks[0].after[0].task", "cannot wait for one member"),
        (
            {"tasks": [task("x", array={"size": 4}, after=[{"task": "many", "index": "same"}])]},
            "tasks[0].after[0].index",
            "many has 5 members",
        ),
        ({"tasks": [task("x", pool="closed")]}, "tasks[0].pool", "a gateway has attested"),
        ({"tasks": [task("x", pool="full"), task("y", pool="full")]}, "tasks[1].owner", "max_queued"),
        ({"tasks": [task("x", pool="full", owner="none")]}, "tasks[0].owner", "max_running is 0"),
        (
            {"tasks": [task("x", array={"size": 3, "gang": True})]},
            "tasks[0].resources.cpu",
            "3 members together",
        ),
        ({"pools": [{"name": "default"}, {"name": "default"}]}, "pools[1].name", "named twice"),
        ({"pools": [{"name": "new"}]}, "pools[0].capacity", "is missing"),
        (
            {"pools": [{"name": "default", "sharing": {}, "preemption": {}}]},
            "pools[0].preemption",
            "stops nothing",
        ),
    ],
)
def test_what_could_not_be_done_is_refused(
    stage: Stage, fields: dict[str, Any], field: str, says: str
) -> None:
    """As a submission, an application of a pool, and a request would be."""
    stage.pool("closed", require_attested=True)
    stage.pool("full", sharing={"owners": {"*": {"max_queued": 1}, "none": {"max_running": 0}}})
    stage.submit("many", array={"size": 5})
    with pytest.raises(InvalidField, match=says) as refused:
        judged(stage, **fields)
    assert refused.value.field == field


def test_a_hold_or_release_that_changes_nothing_is_refused(stage: Stage) -> None:
    """As `tally hold` and `tally release` would do nothing; a pending change may be supposed away."""
    stage.pool(capacity={"cpu": 2}, paused=True)
    stage.submit("a")
    stage.submit("b")
    stage.change("b", on_hold=True)
    stage.submit("c")
    Reality(stage, dict.fromkeys("abc", 10.0)).settle()
    refusals: list[tuple[dict[str, Any], str, str]] = [
        ({"released": ["a"]}, "released[0]", "a is not on hold"),
        ({"held": ["b"]}, "held[0]", "b is already on hold"),
    ]
    for fields, field, says in refusals:
        with pytest.raises(InvalidField, match=f"{says}, so this changes nothing") as refused:
            judged(stage, **fields)
        assert refused.value.field == field
    stage.change("c", on_hold=True)
    assert judged(stage, released=["c"]).requests


def test_features_that_are_off_are_refused_unless_a_pool_turns_them_on() -> None:
    stage = Stage()
    stage.pool(capacity={"cpu": 2})
    stage.submit("a")
    for fields, field in (
        ({"tasks": [task("x", owner="vision")]}, "tasks[0].owner"),
        ({"tasks": [task("x", array={"size": 2})]}, "tasks[0].array"),
        ({"held": ["a"]}, "held[0]"),
    ):
        with pytest.raises(InvalidField, match="needs the feature") as refused:
            judged(stage, **fields)
        assert refused.value.field == field
    pools = [{"name": "default", "sharing": {}}]
    assert judged(stage, tasks=[task("x", owner="vision")], pools=pools).tasks[0].owner == "vision"


def test_a_pool_has_the_fields_that_differ(stage: Stage) -> None:
    """All others stay; a new one is as if it had been applied."""
    stage.pool(capacity={"cpu": 2}, policy="backfill", reserve="asked")
    one, other = judged(
        stage, pools=[{"name": "default", "paused": True}, {"name": "new", "capacity": {"cpu": 1}}]
    ).pools
    assert (one.paused, one.policy, one.reserve, one.capacity.format()) == (
        True,
        "backfill",
        "asked",
        {"cpu": "2"},
    )
    assert other.reserve is Reserve.LACKING


def test_a_pool_that_follows_nodes_has_what_is_supposed(stage: Stage) -> None:
    """Amounts or another source take the place of its own; other fields leave that as it is."""
    stage.pool(capacity={"from": "nodes", "selector": "a=b"})
    observed = ObservedCapacity(amounts=Vector({"cpu": 3000}))
    stage.put(stage.keys.of(capacities.KIND, ("default",)), capacities.encode_capacity(observed, Op("x")))
    stage.submit("t", resources={"cpu": 16})
    assert stage.model().pools["default"].pool.capacity == Vector({"cpu": 3000})
    [amounts] = judged(stage, pools=[{"name": "default", "capacity": {"cpu": 16}}]).pools
    assert (amounts.capacity_from, amounts.capacity) == (None, Vector({"cpu": 16000}))
    other = {"from": "nodes", "selector": "c=d"}
    [source] = judged(stage, pools=[{"name": "default", "capacity": other}]).pools
    assert source.capacity_from is not None
    assert source.capacity_from.selector == "c=d"
    [paused] = judged(stage, pools=[{"name": "default", "paused": True}]).pools
    assert (paused.paused, paused.capacity_from) == (
        True,
        CapacityFrom(source=CapacitySource.NODES, selector="a=b"),
    )
    found = compared(stage, {"t": 10.0}, pools=[{"name": "default", "capacity": {"cpu": 16}}])
    assert [(each.id, each.begins_now) for each in found.changed] == [("t", None)]
    assert found.sooner == 1


def test_a_gateway_would_attest_what_it_submits(stage: Stage) -> None:
    """A pool that takes nothing else runs it; without a gateway it is refused."""
    stage.pool("closed", require_attested=True)
    supposed = judged(stage, by="alice", tasks=[task("x", pool="closed")])
    view = look_as_supposed(
        stage.model(), supposed, stage.clock.now(), lambda: True, durations=Known({"x": 10.0})
    )
    assert (view.tasks["x"].ends_as, view.tasks["x"].begins_at) == ("Succeeded", stage.clock.now())


def test_members_that_have_not_begun_can_be_supposed_to_be_cancelled(stage: Stage) -> None:
    stage.submit("many", array={"size": 6})
    seconds = {"many": 100.0}
    Reality(stage, seconds)
    found = compared(stage, seconds, cancelled=["many-i4", "many-i5"])
    [changed] = found.changed
    assert (changed.id, changed.has_begun, changed.later_seconds) == ("many", True, -100.0)


def test_what_differs_is_counted_and_told(stage: Stage) -> None:
    """By task, and by owner and pool; what differs by less than a minute does not count."""
    for number in range(4):
        stage.submit(f"t{number}", resources={"cpu": 2}, owner="ab"[number % 2])
    seconds = dict.fromkeys(("t0", "t1", "t2", "t3", "new", "short"), 100.0) | {"short": 30.0}
    reality = Reality(stage, seconds)
    urgent = task("new", resources={"cpu": 2}, priority=9)
    found = compared(stage, seconds, tasks=[urgent], cancelled=["t1"])
    assert [(each.id, each.never, each.later_seconds) for each in found.changed] == [("t1", True, None)]
    assert (found.sooner, found.later, found.never, found.differing) == (0, 0, 1, 1)
    assert [(each.owner, each.waiting, each.begin_then, each.wait_now) for each in found.waits] == [
        ("a", 1, 1, 200.0),
        ("b", 2, 1, 300.0),
    ]
    found = compared(stage, seconds, tasks=[urgent])
    assert [(each.id, each.later_seconds) for each in found.changed] == [
        (f"t{number}", 100.0) for number in (1, 2, 3)
    ]
    assert [(each.wait_now, each.wait_then) for each in found.waits] == [(200.0, 300.0), (200.0, 300.0)]
    assert [each.id for each in found.tasks] == ["new"]
    short = compared(stage, seconds, tasks=[task("short", resources={"cpu": 2}, priority=9)])
    assert (short.later, short.changed) == (0, [])
    stage.submit("new", **{name: value for name, value in urgent.items() if name != "id"})
    reality.settle()
    reality.go_on()
    for each in found.changed:
        assert reality.began[each.id] == pytest.approx(each.begins_then, abs=2)


@pytest.mark.parametrize(
    ("fields", "first"),
    [
        ({"priorities": {"t2": 5}}, "t2"),
        ({"held": ["t1"]}, "t2"),
        ({"released": ["held"], "priorities": {"held": 5}}, "held"),
        ({"cancelled": ["t1"], "priorities": {"t3": 5}}, "t3"),
    ],
)
def test_all_that_is_supposed_holds_together(stage: Stage, fields: dict[str, Any], first: str) -> None:
    """A larger pool is not given away before the rest counts."""
    for name in ("t0", "t1", "t2", "t3"):
        stage.submit(name, resources={"cpu": 2})
    stage.submit("held", resources={"cpu": 2})
    stage.change("held", on_hold=True)
    seconds = dict.fromkeys(("t0", "t1", "t2", "t3", "held"), 100.0)
    Reality(stage, seconds).settle()
    now, supposed = (
        stage.clock.now(),
        judged(stage, pools=[{"name": "default", "capacity": {"cpu": 4}}], **fields),
    )
    told = look_as_supposed(stage.model(), supposed, now, lambda: True, durations=Known(seconds)).tasks
    began = [name for name, each in told.items() if each.begins_at == now and not each.has_begun]
    assert began == [first]


def test_a_member_that_is_supposed_to_be_cancelled_does_not_begin(stage: Stage) -> None:
    """Of an array of which one runs, and of one that has not begun, with a larger pool at once."""
    stage.submit("some", array={"size": 3}, resources={"cpu": 2})
    stage.submit("others", array={"size": 2}, resources={"cpu": 2})
    Reality(stage, {"some": 100.0, "others": 100.0})
    now = stage.clock.now()
    supposed = judged(
        stage, pools=[{"name": "default", "capacity": {"cpu": 6}}], cancelled=["some-i1", "others-i0"]
    )
    known = Known({"some": 100.0, "others": 100.0})
    told = look_as_supposed(stage.model(), supposed, now, lambda: True, durations=known).tasks
    assert told["some"].last_at == now
    assert told["others"].begins_at == now


def test_a_course_has_the_windows_that_have_not_passed(stage: Stage) -> None:
    """Not who has set them: whoever may ask for a forecast sees them."""
    now = stage.clock.now()
    passed, goes_on, comes = (
        {"starts_at": now + start, "ends_at": now + start + 60, "by": "ops", "reason": "new disks"}
        for start in (-90, -30, 600)
    )
    stage.pool(capacity={"cpu": 2}, maintenance=[passed, goes_on, comes])
    stage.submit("t0")
    course = look(stage.model(), now, lambda: True).pools["default"]
    assert [(each.starts_at, each.by, each.reason) for each in course.maintenance] == [
        (now - 30, "", "new disks"),
        (now + 600, "", "new disks"),
    ]


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        ({}, "Nothing tells how long t0 runs: none of its kind has succeeded"),
        (
            {"command": 6.0},
            "It has run longer than the 1 run of the same command, so nothing tells when it ends.",
        ),
    ],
)
def test_a_run_that_has_outlived_its_kind_is_told_as_one(
    stage: Stage, seconds: dict[str, float], says: str
) -> None:
    """And how far off expectations were is not said of what is not expected."""
    stage.submit("t0", resources={"cpu": 2})
    stage.submit("t1", resources={"cpu": 2})
    reality = Reality(stage, {"t0": 600.0, "t1": 600.0})
    known = Durations()
    if seconds:
        model = stage.model()
        task = model.tasks["t0"]
        assert task.status is not None
        begun = stage.clock.now() - seconds["command"]
        known.hear(task, replace(task.status, state=State.SUCCEEDED, started_at=begun, finished_at=begun + 6))
    reality.go_on(30)
    view = look(stage.model(), stage.clock.now(), lambda: True, durations=known)
    told = explain_coming(view, "t0")
    assert says in told
    assert "off" not in told
    assert "3 runs with the same label" in explain_coming(view, "t1")


def test_what_is_bound_by_a_run_deadline_alone_is_told_as_a_bound(stage: Stage) -> None:
    stage.submit("t0", resources={"cpu": 2}, deadlines={"run": "2h"})
    stage.submit("t1", resources={"cpu": 2}, deadlines={"run": "2h"})
    leader = stage.leader()
    leader.acknowledge(leader.run())
    told = explain_coming(look(stage.model(), stage.clock.now(), lambda: True), "t1")
    assert re.match(r"t1 is expected to begin at \S+, in 2h at the latest\.", told), told


def test_an_array_that_has_begun_waits_for_its_last_member(stage: Stage) -> None:
    """It is counted among what waits, and told as such."""
    stage.submit("sweep", array={"size": 9})
    known = Known({"sweep": 60.0})
    leader = stage.leader()
    leader.acknowledge(leader.run())
    now = stage.clock.now()
    before = look(stage.model(), now, lambda: True, durations=known)
    supposed = judged(stage, cancelled=["sweep"])
    after = look_as_supposed(stage.model(), supposed, now, lambda: True, durations=known)
    found = compare(before, after)
    assert [(each.pool, each.waiting, each.begin_now, each.begin_then) for each in found.waits] == [
        ("default", 1, 1, 0)
    ]
    assert "1 task (the last member of sweep) does not begin any more" in explain_compared(found)


def test_runs_of_schedules_that_are_not_submitted_yet_are_left_out(stage: Stage) -> None:
    """Neither do they wait, nor do they no longer begin where a look got less far."""
    stage.leader()
    schedules.apply(stage)
    for number in range(4):
        stage.submit(f"t{number}", resources={"cpu": 2})
    now, looks, known = stage.clock.now(), iter([True] * 40), Known(Each())
    whole = look(stage.model(), now, lambda: True, horizon_seconds=7200.0, durations=known)
    short = look(stage.model(), now, lambda: next(looks, False), horizon_seconds=7200.0, durations=known)
    assert sum(each.is_new for each in whole.tasks.values()) > 60
    assert short.until < whole.until
    found = compare(whole, short)
    assert (found.never, found.later, found.changed) == (0, 0, [])
    assert [(each.pool, each.waiting) for each in found.waits] == [("default", 4)]


def test_of_many_that_differ_those_that_differ_most_are_listed(stage: Stage) -> None:
    names = [f"t{number:03}" for number in range(CHANGED + 50)]
    for name in names:
        stage.submit(name, resources={"cpu": 2})
    seconds = dict.fromkeys(names, 100.0)
    found = compared(stage, seconds, pools=[{"name": "default", "capacity": {"cpu": 4}}])
    assert (len(found.changed), found.changed[0].id) == (CHANGED, names[-1])
    assert found.differing == found.sooner == CHANGED + 49


def test_what_is_beyond_a_look_is_not_guessed(stage: Stage) -> None:
    """A look that ended early says nothing of what it has not reached, unless it is later in any case."""
    for number in range(6):
        stage.submit(f"t{number}", resources={"cpu": 2})
    known = Known(dict.fromkeys([f"t{number}" for number in range(6)], 100.0))
    now, looks = stage.clock.now(), iter([True, True])
    whole = look(stage.model(), now, lambda: True, durations=known)
    short = look(stage.model(), now, lambda: next(looks, False), durations=known)
    assert (short.is_whole, short.until) == (False, now + 200)
    assert compare(whole, short).differing == 0 == compare(short, whole).differing
    paused = judged(stage, pools=[{"name": "default", "paused": True}])
    none = look_as_supposed(stage.model(), paused, now, lambda: True, durations=known)
    found = compare(whole, none)
    assert (found.never, found.later) == (6, 0)
    assert found.changed[0].why == f"{found.changed[0].id} does not begin while pool default is paused."
