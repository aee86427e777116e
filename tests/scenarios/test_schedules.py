"""What a leader makes of schedules; the clock of the stage begins at 1970-01-12 13:46:40 UTC."""

from __future__ import annotations

from typing import Any

import pytest

from controller.core.model import attested, codec, quarantine
from controller.core.model.attested import Attestation
from controller.core.model.cron import next_tick
from controller.core.model.op import Op
from controller.core.model.requests import RequestKind
from controller.core.model.schedules import (
    ATTESTED,
    KIND,
    STATES,
    TickResult,
    encode_schedule,
    parse_schedule,
)
from controller.core.model.task import Phase
from controller.core.planning.plan import Plan
from controller.core.planning.transitions import Moment
from controller.store.base import Committed, Guard, Put, Transaction
from tests.support import schedules
from tests.support.bench import Stage, StagedReplica, observation, stops
from tests.support.schedules import TASK, apply, made, results, state_of


def begin(stage: Stage, **fields: Any) -> StagedReplica:
    """A leader that has seen the schedule, at 13:46:40."""
    apply(stage, **fields)
    leader = stage.leader()
    leader.run()
    return leader


def test_a_tick_makes_a_task_and_moves_the_cursor_at_once(stage: Stage) -> None:
    """The task is as a user would have written it, and says when its tick was."""
    leader = begin(stage, task={"command": ["true"], "labels": {"team": "ops"}})
    assert made(stage) == [], "no tick of the past"
    assert leader.planner.next_wake() == 1_000_020
    stage.clock.move(19)
    leader.run()
    assert made(stage) == []
    stage.clock.move(1)
    leader.run()
    assert made(stage) == ["nightly-197001121347"]
    task = stage.model().tasks["nightly-197001121347"]
    assert task.spec is not None
    assert not task.spec_error
    assert task.spec.labels == {"team": "ops", "tally.dev/schedule": "nightly"}
    assert task.spec.env == {"TALLY_SCHEDULED_AT": "1970-01-12T13:47:00Z"}
    assert task.spec.resources.format() == {"cpu": "100m"}, "what its pool fills in"
    assert state_of(stage).cursor == 1_000_020
    assert results(stage) == [("made", 1)]
    leader.run_to("nightly-197001121347", Phase.RUNNING)
    stage.check()


def test_a_variable_that_the_schedule_sets_stays(stage: Stage) -> None:
    """The time of the tick is told under a name that is the user's, if he uses it."""
    leader = begin(stage, task={**TASK, "env": {"TALLY_SCHEDULED_AT": "mine"}})
    stage.clock.move(20)
    leader.run()
    task = stage.model().tasks["nightly-197001121347"]
    assert task.spec is not None
    assert task.spec.env == {"TALLY_SCHEDULED_AT": "mine"}


def test_a_tick_is_due_by_the_calendar_though_the_moments_of_a_term_go_on_evenly(stage: Stage) -> None:
    """The wall clock was set forward in this term, and is set right again."""
    leader = begin(stage)
    stage.clock.ahead = 3600.0
    leader.run()
    assert (state_of(stage).cursor, results(stage)) == (1_003_560, [("skipped", 59), ("made", 1)])
    assert leader.reconciler.next_wake_seconds() == 20
    stage.clock.ahead = 0.0
    assert leader.reconciler.next_wake_seconds() == 3620
    stage.clock.move(3619)
    leader.run()
    assert len(made(stage)) == 1
    stage.clock.move(1)
    leader.run()
    assert results(stage)[-1] == ("made", 1)
    stage.check()


def test_a_clock_that_is_set_back_makes_no_tick_again(stage: Stage) -> None:
    """Nor does the cursor go back; the next tick is made when its time comes."""
    leader = begin(stage)
    stage.clock.move(20)
    leader.run()
    stage.clock.move(-300)
    leader.run()
    later = stage.leader()
    later.run()
    stage.clock.move(359)
    later.run()
    assert made(stage) == ["nightly-197001121347"]
    stage.clock.move(1)
    later.run()
    assert made(stage) == ["nightly-197001121347", "nightly-197001121348"]


@pytest.mark.parametrize(
    ("catch_up", "tasks", "told"),
    [
        ("none", [], [("skipped", 5)]),
        ("latest", ["nightly-197001121730"], [("skipped", 4), ("made", 1)]),
        ("all", [f"nightly-1970011217{minute:02d}" for minute in (26, 27, 28, 29, 30)], [("made", 1)] * 5),
    ],
)
def test_ticks_that_were_missed_are_caught_up_with_as_the_schedule_says(
    stage: Stage, catch_up: str, tasks: list[str], told: list[tuple[str, int]]
) -> None:
    """No replica led from 13:46 to 17:32; the five ticks were from 17:26 to 17:30."""
    begin(stage, catch_up=catch_up, cron="26-30 17 * * *")
    stage.clock.move(1_000_000 // 86400 * 86400 + 17 * 3600 + 32 * 60 - 1_000_000)
    stage.elect()
    leader = stage.leader()
    leader.run()
    assert made(stage) == tasks
    assert results(stage) == told
    assert state_of(stage).cursor == 1_000_000 // 86400 * 86400 + 17 * 3600 + 30 * 60


@pytest.mark.parametrize(("missed", "more"), [(150, False), (100_000, True)])
def test_at_most_a_hundred_ticks_are_caught_up_with(stage: Stage, missed: int, more: bool) -> None:
    """The older ones are counted as skipped, and if there are very many, not one by one."""
    begin(stage, catch_up="all", task={**TASK, "pool": "none"})
    stage.clock.move(missed * 60 + 20 - 60)
    stage.elect()
    stage.leader().run()
    state = state_of(stage)
    assert state.counts[TickResult.MADE] == 100
    assert state.counts[TickResult.SKIPPED] == (901 if more else 50)
    assert len(made(stage)) == 100
    assert state.cursor == 1_000_020 + (missed - 1) * 60
    assert len(state.recent) == 20


def test_none_still_makes_a_tick_that_is_less_than_a_minute_late(stage: Stage) -> None:
    """A take-over lasts seconds."""
    begin(stage, catch_up="none", cron="47 13 * * *")
    stage.clock.move(20 + 60)
    stage.elect()
    stage.leader().run()
    assert made(stage) == ["nightly-197001121347"]


def test_ticks_while_it_is_suspended_are_missed_ones(stage: Stage) -> None:
    """At its resumption, catch_up says which are made."""
    leader = begin(stage, suspended=True)
    stage.clock.move(300)
    leader.run()
    assert made(stage) == []
    assert leader.planner.next_wake() is None
    apply(stage)
    leader.sync()
    leader.run()
    assert made(stage) == ["nightly-197001121351"]
    assert results(stage) == [("skipped", 4), ("made", 1)]


def test_forbid_skips_a_tick_while_a_task_has_not_ended(stage: Stage) -> None:
    """It says which one."""
    leader = begin(stage, concurrency="forbid")
    stage.clock.move(20)
    leader.run_to("nightly-197001121347", Phase.RUNNING)
    stage.clock.move(60)
    leader.run()
    assert made(stage) == ["nightly-197001121347"]
    assert state_of(stage).recent[-1].why == "nightly-197001121347 has not ended"
    leader.see(observation(("nightly-197001121347", 1), Phase.SUCCEEDED))
    leader.run()
    stage.clock.move(60)
    leader.run()
    assert made(stage) == ["nightly-197001121347", "nightly-197001121349"]
    assert results(stage) == [("made", 1), ("skipped", 1), ("made", 1)]


@pytest.mark.parametrize("take_over", [False, True])
def test_replace_waits_for_the_proof_that_the_earlier_task_has_stopped(stage: Stage, take_over: bool) -> None:
    """It is cancelled by name, and the next one is made only then, also by the next leader."""
    leader = begin(stage, concurrency="replace")
    stage.clock.move(20)
    leader.run_to("nightly-197001121347", Phase.RUNNING)
    stage.clock.move(60)
    effects = leader.run()
    assert stops(effects) == ["nightly-197001121347-1"]
    assert made(stage) == ["nightly-197001121347"]
    assert state_of(stage).waiting == 1_000_080
    status = stage.status("nightly-197001121347")
    assert status.cancelling
    assert codec.decode_history(status)[-1].message == (
        "cancelled by schedule/nightly: for the tick of nightly-197001121348"
    )
    if take_over:
        stage.elect()
        leader = stage.leader(observation(("nightly-197001121347", 1), Phase.RUNNING))
        leader.run()
    assert made(stage) == ["nightly-197001121347"]
    leader.see(observation(("nightly-197001121347", 1), Phase.FAILED))
    leader.run()
    assert stage.state("nightly-197001121347") == "Cancelled"
    assert made(stage) == ["nightly-197001121347", "nightly-197001121348"]
    assert results(stage) == [("made", 1), ("replaced", 1)]
    assert state_of(stage).waiting == 0


@pytest.mark.parametrize("take_over", [False, True])
@pytest.mark.parametrize("gang", [False, True])
def test_replace_cancels_an_array_once_and_waits_for_all_its_members(
    stage: Stage, gang: bool, take_over: bool
) -> None:
    """The array has not ended when its cancel is consumed, and is not asked again: that would never end."""
    array = {"size": 3, "gang": True} if gang else {"size": 3, "max_running": 2}
    leader = begin(stage, concurrency="replace", task={**TASK, "array": array})
    stage.clock.move(20)
    first, second = "nightly-197001121347", "nightly-197001121348"
    begun = [f"{first}-i{index}" for index in range(3 if gang else 2)]
    leader.acknowledge(leader.run())
    leader.see(*(observation((member, 1), Phase.RUNNING) for member in begun))
    leader.run()
    stage.clock.move(60)
    assert sorted(stops(leader.run())) == [f"{member}-1" for member in begun]
    for member in begun:
        if take_over:
            stage.elect()
            leader = stage.leader(*(observation((each, 1), Phase.RUNNING) for each in begun))
            leader.run()
        assert made(stage) == [first]
        leader.see(observation((member, 1), Phase.FAILED))
        leader.run()
        begun = [each for each in begun if each != member]
    assert stage.state(first) == "Cancelled"
    assert made(stage) == [first, second]
    assert results(stage) == [("made", 1), ("replaced", 1)]
    asked = [step for step in codec.decode_history(stage.status(first)) if step.request == "cancel"]
    assert len(asked) == 1
    stage.check()


def test_a_member_that_is_retried_while_its_array_is_replaced_is_cancelled_again(stage: Stage) -> None:
    """Else the tick would wait until it has run."""
    leader = begin(stage, concurrency="replace", task={**TASK, "array": {"size": 2}})
    stage.clock.move(20)
    first = "nightly-197001121347"
    leader.acknowledge(leader.run())
    leader.see(*(observation((f"{first}-i{index}", 1), Phase.RUNNING) for index in range(2)))
    leader.run()
    stage.clock.move(60)
    leader.acknowledge(leader.run())
    stage.request(f"{first}-i0", RequestKind.RETRY)
    leader.sync()
    leader.see(observation((f"{first}-i0", 1), Phase.FAILED))
    leader.run()
    leader.see(observation((f"{first}-i1", 1), Phase.FAILED))
    leader.run()
    assert stage.state(first) == "Cancelled"
    assert made(stage)[-1] == "nightly-197001121348"


def test_a_later_tick_takes_the_place_of_one_that_waits(stage: Stage) -> None:
    """The one that waited is recorded as skipped."""
    leader = begin(stage, concurrency="replace")
    stage.clock.move(20)
    leader.run_to("nightly-197001121347", Phase.RUNNING)
    for _ in range(2):
        stage.clock.move(60)
        leader.run()
    assert state_of(stage).waiting == 1_000_140
    leader.see(observation(("nightly-197001121347", 1), Phase.FAILED))
    leader.run()
    assert made(stage) == ["nightly-197001121347", "nightly-197001121349"]
    assert results(stage) == [("made", 1), ("skipped", 1), ("replaced", 1)]


@pytest.mark.parametrize("catch_up", ["none", "latest"])
def test_what_was_missed_takes_the_place_of_a_tick_that_waits(stage: Stage, catch_up: str) -> None:
    """It is told of first, since it came first."""
    leader = begin(stage, concurrency="replace", catch_up=catch_up, cron="40-49 13 * * *")
    stage.clock.move(20)
    leader.run_to("nightly-197001121347", Phase.RUNNING)
    stage.clock.move(60)
    leader.run()
    assert state_of(stage).waiting == 1_000_080
    stage.clock.move(600)
    leader.run()
    state = state_of(stage)
    assert state.waiting == (0 if catch_up == "none" else 1_000_140)
    assert [outcome.tick for outcome in state.recent] == sorted(outcome.tick for outcome in state.recent)
    assert state.recent[1].why == "a later tick came while it waited"
    stage.check()


def test_a_tick_that_waits_is_skipped_when_the_schedule_is_suspended(stage: Stage) -> None:
    """Nothing is made of a schedule that is suspended."""
    leader = begin(stage, concurrency="replace")
    stage.clock.move(20)
    leader.run_to("nightly-197001121347", Phase.RUNNING)
    stage.clock.move(60)
    leader.run()
    apply(stage, concurrency="replace", suspended=True)
    leader.sync()
    leader.run()
    leader.see(observation(("nightly-197001121347", 1), Phase.FAILED))
    leader.run()
    assert made(stage) == ["nightly-197001121347"]
    assert state_of(stage).recent[-1].why == "the schedule was suspended"


@pytest.mark.parametrize("refusals", range(3))
def test_a_cancel_of_a_plan_that_was_refused_is_written_again(stage: Stage, refusals: int) -> None:
    """The schedule was applied again in between, unchanged."""
    leader = begin(stage, concurrency="replace")
    stage.clock.move(20)
    leader.run_to("nightly-197001121347", Phase.RUNNING)
    stage.clock.move(60)
    for _ in range(refusals):
        apply(stage, concurrency="replace")
        leader.reconciler.step()
    assert stops(leader.run()) == ["nightly-197001121347-1"]


def test_a_name_that_is_taken_is_recorded(stage: Stage) -> None:
    """What is there stays as it is, and the schedule goes on."""
    stage.submit("nightly-197001121347", command=["false"])
    leader = begin(stage)
    stage.clock.move(20)
    leader.run()
    assert results(stage) == [("name-taken", 1)]
    task = stage.model().tasks["nightly-197001121347"]
    assert task.spec is not None
    assert task.spec.command == ("false",)
    assert state_of(stage).live == ()


def test_a_name_that_is_taken_in_the_same_moment_is_found_by_the_store(stage: Stage) -> None:
    """The leader has not seen it yet: the transaction compares that there is no such task."""
    leader = begin(stage)
    stage.submit("nightly-197001121347", command=["false"])
    stage.clock.move(20)
    leader.run()
    assert results(stage) == [("name-taken", 1)]


def test_a_schedule_that_is_deleted_takes_its_state_with_it_and_leaves_its_tasks(stage: Stage) -> None:
    """One that is made again is a new one: it makes no tick that came before."""
    leader = begin(stage, catch_up="all")
    stage.clock.move(20)
    leader.run()
    stage.delete(stage.keys.of(KIND, ("nightly",)))
    leader.sync()
    leader.run()
    assert not stage.model().schedules.states
    assert made(stage) == ["nightly-197001121347"]
    stage.clock.move(600)
    apply(stage, catch_up="all")
    leader.sync()
    leader.run()
    assert made(stage) == ["nightly-197001121347"]


def test_a_schedule_that_was_deleted_and_made_again_unseen_starts_anew(stage: Stage) -> None:
    """No replica was there to delete its state: it is known by its create revision."""
    begin(stage, catch_up="all")
    stage.delete(stage.keys.of(KIND, ("nightly",)))
    stage.clock.move(600)
    apply(stage, catch_up="all")
    stage.elect()
    stage.leader().run()
    assert made(stage) == []
    assert state_of(stage).cursor == 1_000_600


def test_a_schedule_that_is_changed_keeps_its_cursor(stage: Stage) -> None:
    """What is due by the new expression since then is made."""
    leader = begin(stage, cron="0 0 1 1 *", catch_up="all")
    stage.clock.move(90)
    apply(stage, catch_up="all")
    leader.sync()
    leader.run()
    assert made(stage) == ["nightly-197001121347", "nightly-197001121348"]


def test_a_schedule_that_is_changed_in_the_moment_of_a_tick_is_read_again(stage: Stage) -> None:
    """The transaction compares the schedule: nothing is made by what it no longer says."""
    leader = begin(stage)
    apply(stage, suspended=True)
    stage.clock.move(20)
    leader.run()
    assert made(stage) == []


def test_no_more_than_a_hundred_tasks_of_a_schedule_wait_or_run(stage: Stage) -> None:
    """Its ticks are skipped until some have ended."""
    leader = begin(stage, catch_up="all", task={**TASK, "pool": "none"})
    for _ in range(2):
        stage.clock.move(100 * 60)
        leader.run()
    assert len(made(stage)) == 100
    assert state_of(stage).recent[-1].why == "100 of its tasks have not ended"


def test_many_schedules_go_into_one_transaction(stage: Stage) -> None:
    """As many as it takes."""
    for number in range(50):
        apply(stage, f"s{number}")
    leader = stage.leader()
    leader.run()
    stage.clock.move(20)
    before = stage.model().revision
    leader.run()
    assert len(made(stage)) == 50
    assert stage.model().revision - before < 20


def test_a_pass_looks_at_a_part_of_very_many_schedules(stage: Stage) -> None:
    """It is called again at once for the rest."""
    for number in range(300):
        apply(stage, f"s{number}")
    leader = stage.leader()
    leader.run()
    stage.elect()
    leader = stage.replica()
    for _ in range(2):
        assert leader.planner.next_wake() == 0.0
        leader.run()
    assert leader.planner.next_wake() == 1_000_020
    assert len(stage.model().schedules.states) == 300


def attest(stage: Stage, by: str = "alice", owner: str = "default") -> None:
    """Write the schedule as a gateway does."""
    raw = {"name": "nightly", "cron": "* * * * *", "task": TASK}
    keys = stage.keys
    current, _ = stage.store.get(keys.of(KIND, ("nightly",)), deadline=float("inf"))
    word = attested.encode(Attestation(owner=owner, by=by), Op("g"))
    puts = (
        Put(keys.of(KIND, ("nightly",)), encode_schedule(parse_schedule(raw), Op("g"))),
        Put(keys.of(ATTESTED, ("nightly",)), word),
    )
    guard = Guard(keys.of(KIND, ("nightly",)), current.mod if current is not None else 0)
    assert isinstance(
        stage.store.commit(Transaction((guard,), puts, Op("g")), deadline=float("inf")), Committed
    )


@pytest.mark.parametrize(("then", "is_attested"), [("", True), ("put", False), ("forged", False)])
def test_the_tasks_of_an_attested_schedule_are_attested(stage: Stage, then: str, is_attested: bool) -> None:
    """Not if somebody else has put the schedule since, or if its task is another owner's."""
    stage.pool(require_attested=True)
    attest(stage, owner="other" if then == "forged" else "default")
    if then == "put":
        apply(stage)
    leader = stage.leader()
    leader.run()
    stage.clock.move(20)
    leader.run()
    task = stage.model().tasks["nightly-197001121347"]
    found = stage.model().attestation_of(task)
    assert (found is not None and found.by == "alice") is is_attested
    assert task.state == ("Pending" if is_attested else "Failed")
    stage.check()


def test_a_schedule_or_a_state_that_cannot_be_read_is_left_alone(stage: Stage) -> None:
    """Others go on, and it goes on once it is mended."""
    leader = begin(stage)
    apply(stage, "other")
    leader.sync()
    leader.run()
    good = stage.value(stage.keys.of(STATES, ("nightly",)))
    for kind in (KIND, STATES):
        stage.put(stage.keys.of(kind, ("nightly",)), b'{"cron": 5')
        stage.clock.move(60)
        leader.sync()
        leader.run()
        assert (kind, ("nightly",)) in leader.model.quarantine
        assert not any(task_id.startswith("nightly") for task_id in made(stage))
        if kind == KIND:
            apply(stage)
            stage.clock.move(-60)
            leader.sync()
    assert len(made(stage)) == 1
    stage.put(stage.keys.of(STATES, ("nightly",)), good)
    stage.clock.move(1)
    leader.sync()
    leader.run()
    assert any(task_id.startswith("nightly") for task_id in made(stage))


def test_an_error_of_our_own_sets_one_schedule_aside(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is shown on the schedule, and others go on."""
    apply(stage, "bad", cron="0 0 1 1 *")
    leader = begin(stage)

    def fails(cron: str, zone: str, after: int) -> int | None:
        if cron == "0 0 1 1 *":
            raise ZeroDivisionError
        return next_tick(cron, zone, after)

    monkeypatch.setattr("controller.core.planning.ticks.next_tick", fails)
    apply(stage, "bad", cron="0 0 1 1 *")
    leader.sync()
    stage.clock.move(20)
    leader.run()
    assert made(stage) == ["nightly-197001121347"]
    assert leader.model.quarantine[KIND, ("bad",)] == "schedule: ZeroDivisionError: "


def test_a_pass_costs_nothing_while_nothing_is_due(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """No schedule is looked at before its time."""
    for number in range(20):
        apply(stage, f"s{number}", cron="0 0 1 1 *")
    leader = begin(stage)
    looked: list[str] = []
    inner = leader.planner.mending.ticks._try

    def look(name: str, moment: Moment) -> object:
        looked.append(name)
        return inner(name, moment)

    monkeypatch.setattr(leader.planner.mending.ticks, "_try", look)
    for _ in range(3):
        stage.clock.move(5)
        leader.run()
    assert looked == []
    stage.clock.move(5)
    leader.run()
    assert set(looked) == {"nightly"}


@pytest.mark.parametrize("answered", [True, False])
def test_a_commit_that_nobody_heard_of_is_not_repeated(stage: Stage, answered: bool) -> None:
    """The tick is made, and the next leader knows it."""
    leader = begin(stage)
    stage.clock.move(20)
    plan: Plan = leader.planner.plan(stage.clock.now())
    leader.commit(plan, answered=answered)
    if not answered:
        stage.elect()
        leader = stage.leader()
    leader.run()
    assert results(stage) == [("made", 1)]


def test_a_cancel_that_a_user_takes_back_is_made_again(stage: Stage) -> None:
    """Whoever waits for an end sees to it that it comes."""
    leader = begin(stage, concurrency="replace")
    stage.clock.move(20)
    leader.run()
    stage.put(stage.keys.state("nightly-197001121347"), b"{")  # nothing is done with the task for now
    leader.sync()
    stage.clock.move(60)
    leader.run()
    key = stage.keys.request("nightly-197001121347", RequestKind.CANCEL)
    assert stage.value(key)
    stage.delete(key)
    leader.sync()
    leader.run()
    assert stage.value(key)


def test_schedules_are_made_by_their_names(stage: Stage) -> None:
    """A state that names tasks of others is not read: the leader would cancel them."""
    leader = begin(stage, concurrency="replace")
    value = codec.encode({"cursor": 1, "create": 5, "live": ["other-197001121347"]})
    stage.put(stage.keys.of(STATES, ("nightly",)), value)
    leader.sync()
    leader.run()
    assert (STATES, ("nightly",)) in leader.model.quarantine
    assert schedules.made(stage) == []


FIRST, SECOND = "nightly-197001121347", "nightly-197001121348"


def removed(stage: Stage, concurrency: str) -> StagedReplica:
    """The first tick's task has succeeded, and is removed; the schedule's state still names it."""
    leader = begin(stage, concurrency=concurrency, task={**TASK, "retention_seconds": 0})
    stage.clock.move(20)
    leader.run_to(FIRST, Phase.SUCCEEDED)
    stage.clock.move(1)
    leader.run()
    assert made(stage) == []
    assert state_of(stage).live == (FIRST,)
    return leader


@pytest.mark.parametrize("concurrency", ["forbid", "replace"])
def test_what_is_left_of_an_earlier_task_that_is_set_aside_is_no_task(stage: Stage, concurrency: str) -> None:
    """It is gone, and a request for it stays, since nothing is decided for what is set aside."""
    leader = removed(stage, concurrency)
    stage.request(FIRST, RequestKind.CANCEL)
    aside = quarantine.Aside(reason="an error", seen=(0, 0, stage.model().revision))
    stage.put(stage.keys.of(quarantine.KIND, (FIRST,)), quarantine.encode(aside, Op("op")))
    leader.sync()
    assert stage.model().asides
    stage.clock.move(59)
    leader.run()
    assert made(stage) == [SECOND]
    assert state_of(stage).live == (SECOND,)


@pytest.mark.parametrize("concurrency", ["forbid", "replace"])
def test_another_task_under_the_name_of_an_earlier_tick_is_left_alone(stage: Stage, concurrency: str) -> None:
    """It was submitted once the schedule's task was gone, and the schedule's state still names that one."""
    leader = removed(stage, concurrency)
    stage.submit(FIRST)
    leader.run_to(FIRST, Phase.RUNNING)
    stage.clock.move(59)
    assert stops(leader.run()) == []
    assert not stage.status(FIRST).cancelling
    assert sorted(made(stage)) == [FIRST, SECOND]
    assert state_of(stage).live == (SECOND,)
    stage.check()
