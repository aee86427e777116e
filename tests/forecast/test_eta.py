"""What `explain --eta` says of each kind of task, and that it then comes so."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from controller.core.model.requests import RequestKind
from controller.views.ahead import look
from controller.views.explain_forecast import explain_coming
from controller.views.forecast import ForecastView
from controller.views.words import at
from tests.forecast.test_ahead import Known, Reality
from tests.support.bench import Stage


@pytest.fixture
def stage() -> Stage:
    stage = Stage()
    stage.pool(capacity={"cpu": 2})
    return stage


def told(reality: Reality, *names: str, goes_on: Any = lambda: True) -> ForecastView:
    model = reality.stage.model()
    return look(model, reality.stage.clock.now(), goes_on, names=names, durations=Known(reality.seconds))


def said(view: ForecastView, name: str) -> str:
    """The sentences, with times in seconds from now on."""
    text = explain_coming(view, name)
    for second in range(1000):
        text = text.replace(at(view.now + second), f"+{second}")
    return text


def test_a_term_of_any_number_ends_no_look(stage: Stage) -> None:
    """Keys come from any hand."""
    stage.submit("t")
    for digits in (19, 4300, 4301):
        stage.put(f"{stage.keys.prefix}terms/{digits * '9'}", b"{}")
    reality = Reality(stage, {"t": 10.0})
    assert told(reality, "t").tasks["t"].ends_at is not None


def comes(reality: Reality, view: ForecastView, names: Collection[str]) -> None:
    """Let it come, and see that it was told so, to the second that a look takes together."""
    reality.go_on()
    for name in names:
        coming = view.tasks[name]
        began, ended = reality.of(name)
        assert coming.ends_at == pytest.approx(ended, abs=2)
        if not coming.has_begun:
            assert coming.begins_at == pytest.approx(began, abs=2)


def test_an_array_tells_of_its_first_and_its_last_member(stage: Stage) -> None:
    """Before it has begun, and when some of its members have."""
    stage.submit("first", resources={"cpu": 2}, priority=1)
    stage.submit("many", array={"size": 5})
    reality = Reality(stage, {"first": 30.0, "many": 10.0})
    view = told(reality, "many")
    text = said(view, "many")
    assert text.startswith(
        "The first member of many is expected to begin at +30, in 30s. Its last member is expected to begin"
        " at +50, in 50s. It is expected to end at +60, in 1m, as 1 run of the same command did."
    )
    reality.go_on(45)
    text = said(told(reality, "many"), "many")
    assert text.startswith("Of many, 1 member has not begun; the last one is expected to begin at +5, in 5s.")
    assert "is expected to begin at +5, in 5s. It is expected to end at +15" in text
    comes(reality, view, ["many"])


def test_members_are_told_of_by_their_names(stage: Stage) -> None:
    """One that runs, one that has not begun, and one that has ended."""
    stage.submit("many", array={"size": 5})
    reality = Reality(stage, {"many": 10.0})
    reality.go_on(10)
    names = [f"many-i{index}" for index in range(5)]
    view = told(reality, *names)
    assert said(view, "many-i2").startswith("It is expected to end at +10")
    assert said(view, "many-i4").startswith(
        "many-i4 is expected to begin at +10, in 10s. It is expected to end"
    )
    assert said(view, "many-i0") == "Nothing is to come of many-i0: it neither waits nor runs."
    whole = told(reality)
    assert "many-i4" not in whole.tasks, "a million of them are not kept"
    assert said(whole, "many-i4").startswith("Of its array: Of many, 1 member has not begun")
    comes(reality, view, ["many-i2", "many-i4"])


def test_a_gang_begins_at_once(stage: Stage) -> None:
    stage.submit("first", priority=1)
    stage.submit("together", array={"size": 2, "gang": True})
    reality = Reality(stage, {"first": 30.0, "together": 10.0})
    view = told(reality, "together")
    assert said(view, "together").startswith(
        "together is expected to begin at +30, in 30s. It is expected to end at +40, in 40s"
    )
    comes(reality, view, ["together"])


def test_a_task_on_hold_does_not_begin(stage: Stage) -> None:
    """Nor do further members of an array that is put on hold; what waits for it is not known."""
    stage.submit("a")
    stage.submit("many", array={"size": 5, "max_running": 1}, priority=1)
    stage.submit("child", after=["a"])
    reality = Reality(stage, {"a": 10.0, "many": 10.0, "child": 10.0})
    stage.submit("held")
    stage.change("held", on_hold=True)
    stage.change("many", on_hold=True)
    reality.seconds["held"] = 10.0
    reality.settle()
    view = told(reality, "held", "many", "child")
    assert said(view, "held") == "held does not begin as long as held is on hold."
    assert told(reality, "held").until == stage.clock.now(), "nothing is looked for"
    assert "have not begun. The last of them does not begin as long as many is on hold." in said(view, "many")
    assert said(view, "child").startswith("child is expected to begin at +10, in 10s, after a. ")
    stage.submit("grandchild", after=["held"])
    reality.seconds["grandchild"] = 10.0
    reality.settle()
    text = said(told(reality, "grandchild"), "grandchild")
    assert text.startswith(
        "When grandchild begins is not known: grandchild waits for held, and not all of that"
    )
    comes(reality, view, ["child"])
    assert not {"held", "grandchild"} & reality.began.keys()


def test_what_waits_for_a_failure_that_does_not_come_is_skipped(stage: Stage) -> None:
    stage.submit("a")
    stage.submit("rescue", after=[{"task": "a", "when": "failed"}])
    reality = Reality(stage, {"a": 10.0, "rescue": 10.0})
    assert said(told(reality, "rescue"), "rescue") == (
        "rescue is not expected to begin: it is expected to end as Cancelled at +10, in 10s, after a."
    )
    reality.go_on()
    assert stage.state("rescue") == "Cancelled"


def test_a_pool_that_admits_nothing_or_has_too_little(stage: Stage) -> None:
    """No task that runs without an end is blamed for it."""
    stage.submit("endless", priority=1)
    stage.submit("large", resources={"cpu": 2})
    reality = Reality(stage, {"endless": 1.0, "large": 10.0})
    del reality.seconds["endless"]
    view = told(reality, "large")
    assert said(view, "large").startswith(
        "When large begins is not known: nothing tells how long 1 task (endless) of pool default will run."
    )
    stage.pool(capacity={"cpu": 2}, paused=True)
    assert said(told(reality, "large"), "large") == (
        "large does not begin as long as pool default admits nothing."
    )
    stage.pool(capacity={"cpu": 1})
    assert said(told(reality, "large"), "large") == (
        "large does not begin: large asks for more than pool default has."
    )


def test_what_has_ended_ends_the_look(stage: Stage) -> None:
    """Nothing is to come of it, whatever else runs on; a task that is being cancelled ends."""
    stage.submit("a")
    stage.submit("b")
    reality = Reality(stage, {"a": 10.0, "b": 500.0})
    reality.go_on(10)
    view = told(reality, "a")
    assert said(view, "a") == "Nothing is to come of a: it neither waits nor runs."
    assert view.until == view.now
    stage.request("b", RequestKind.CANCEL)
    view = told(reality, "b")
    assert view.tasks["b"].ends_as == "Cancelled"


def test_a_look_that_has_no_more_time_says_how_far_it_went(stage: Stage) -> None:
    """Of an array of a million members, too, in little memory: members that have ended leave nothing."""
    stage.submit("many", array={"size": 1_000_000})
    stage.submit("behind", priority=-1)
    reality = Reality(stage, {"many": 60.0, "behind": 60.0})
    looks = iter([True] * 1000)
    model = stage.model()
    now = stage.clock.now()
    view = look(
        model,
        now,
        lambda: next(looks, False),
        names=["many", "behind", "many-i999999"],
        durations=Known(reality.seconds),
    )
    until = at(view.until)
    assert view.until > now + 60 * 900
    assert not view.is_whole
    assert "The last of them does not begin before " + until in explain_coming(view, "many")
    for name in ("behind", "many-i999999"):
        assert explain_coming(view, name).startswith(
            f"{name} does not begin before {until}, as far as is expected; no further was looked ahead."
        )
    assert len(model.tasks) < 10
    assert list(view.tasks) == ["many", "behind", "many-i999999"]


def test_a_first_pass_that_takes_too_long_is_ended(stage: Stage) -> None:
    """All members fit, and a look that must end begins only as many as there was time for."""
    stage.pool(capacity={"cpu": 100_000})
    stage.submit("many", array={"size": 50_000})
    looks = iter([True])
    model = stage.model()
    view = look(model, stage.clock.now(), lambda: next(looks, False), durations=Known({"many": 10.0}))
    assert not view.is_whole
    assert len(model.tasks) < 20_000


def test_an_array_whose_first_members_have_ended_has_begun(stage: Stage) -> None:
    """Also while none of its members runs; nobody knows any more when the first one began."""
    stage.submit("many", array={"size": 4})
    reality = Reality(stage, {"many": 10.0, "urgent": 50.0})
    stage.submit("urgent", resources={"cpu": 2}, priority=5)
    reality.go_on(20)
    assert {"urgent"} < reality.began.keys()
    view = told(reality, "many")
    coming = view.tasks["many"]
    assert (coming.has_begun, coming.begins_at, coming.left) == (True, None, 2)
    assert said(view, "many").startswith(
        "Of many, 2 members have not begun; the last one is expected to begin at +40, in 40s. It is"
        " expected to end at +50"
    )
    comes(reality, view, ["many"])
