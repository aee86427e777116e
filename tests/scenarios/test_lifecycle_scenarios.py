"""The leader's decisions, one scenario each; docstrings say what must be true."""

from __future__ import annotations

import pytest

from controller.core.model import codec
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.core.model.requests import RequestKind
from controller.core.model.task import Phase
from controller.core.model.validation import parse_spec
from controller.core.planning.events import Started, StartRefused
from controller.core.planning.plan import Effect, Prove, Start, Stop
from controller.store.base import Guard, Put, Transaction
from tests.support.bench import Stage, observation, starts, stops


def test_nothing_starts_before_the_engine_was_listed(stage: Stage) -> None:
    """A new leader does not know yet what runs: it admits and starts only after a full list."""
    stage.submit("job")
    leader = stage.replica()
    assert leader.run() == []
    leader.list_engine()
    assert starts(leader.run()) == ["job-1"]


def test_persist_before_act(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the start is asked for, the hold stands in the store already."""
    stage.submit("job")
    leader = stage.leader()
    perform, stored = leader.reconciler._perform, []

    def look_first(effect: Effect) -> None:
        stored.append((type(effect), stage.status("job").state, stage.held()))
        perform(effect)

    monkeypatch.setattr(leader.reconciler, "_perform", look_first)
    leader.run()
    assert stored == [(Start, State.PENDING, {"cpu": "1"})]


def test_capacity_is_never_exceeded(stage: Stage) -> None:
    """Of five tasks of one cpu, four are admitted into four cpus; the fifth follows when one has ended."""
    for n in range(5):
        stage.submit(f"job{n}")
    leader = stage.leader()
    effects = leader.run()
    assert starts(effects) == ["job0-1", "job1-1", "job2-1", "job3-1"]
    assert stage.held() == {"cpu": "4"}
    leader.acknowledge(effects)
    leader.see(observation(("job2", 1), Phase.SUCCEEDED))
    assert starts(leader.run()) == ["job4-1"]
    assert stage.held() == {"cpu": "4"}
    stage.check()


def test_a_failed_attempt_is_retried_after_its_back_off(stage: Stage) -> None:
    """Failed and WaitingRetry are one transaction; the next attempt has the next number, and starts only
    when due.
    """
    stage.submit("job", retry={"max_attempts": 2, "backoff_seconds": 10})
    leader = stage.leader()
    leader.run_to("job", Phase.FAILED)
    assert stage.state("job") == State.WAITING_RETRY
    assert stage.held() == {}
    stage.clock.move(9.9)
    assert leader.run() == []
    stage.clock.move(1.2)
    effects = leader.run()
    assert starts(effects) == ["job-2"]
    leader.acknowledge(effects)
    leader.see(observation(("job", 2), Phase.FAILED, exit_code=3))
    leader.run()
    status = stage.status("job")
    assert status is not None
    assert (status.state, status.attempt, status.exit_code) == (State.FAILED, 2, 3)
    assert [step.event for step in codec.decode_history(status)] == [
        "admitted",
        "failed-observed",
        "retry-due",
        "admitted",
        "failed-observed",
    ]
    stage.check()


def test_rules_are_asked_in_order(stage: Stage) -> None:
    """The first rule that matches decides: exit code 2 fails at once, although attempts are left."""
    rules = [{"exit_codes": [2], "action": "fail"}, {"reasons": ["Error"], "action": "ignore"}]
    stage.submit("two", retry={"max_attempts": 3, "rules": rules})
    stage.submit("one", retry={"max_attempts": 1, "rules": rules})
    leader = stage.leader()
    leader.acknowledge(leader.run())
    leader.see(observation(("two", 1), Phase.FAILED, exit_code=2, reason="Error"))
    leader.see(observation(("one", 1), Phase.FAILED, exit_code=1, reason="Error"))
    leader.run()
    assert stage.state("two") == State.FAILED
    assert stage.state("one") == State.WAITING_RETRY, "ignored failures use up no attempts"


def test_start_failures_use_up_no_attempts(stage: Stage) -> None:
    """What failed before it ever ran has its own limit."""
    stage.submit("job", retry={"max_attempts": 1, "max_start_failures": 2, "backoff_seconds": 1})
    leader = stage.leader()
    for attempt in (1, 2):
        leader.acknowledge(leader.run())
        leader.see(observation(("job", attempt), Phase.FAILED, ran=False, reason="ErrImagePull"))
        leader.run()
        assert stage.state("job") == State.WAITING_RETRY
        stage.clock.move(10)
    leader.acknowledge(leader.run())
    leader.see(observation(("job", 3), Phase.FAILED, ran=False, reason="ErrImagePull"))
    leader.run()
    assert stage.state("job") == State.FAILED
    assert "failed to start 3 times" in stage.status("job").message


def test_cancel_while_running_holds_until_the_end_is_observed(stage: Stage) -> None:
    """A cancel marks the attempt and stops it; its resources are released when the end is proven, not
    before (I1, I8).
    """
    stage.submit("job")
    leader = stage.leader()
    leader.run_to("job", Phase.RUNNING)
    stage.request("job", RequestKind.CANCEL)
    leader.sync()
    effects = leader.run()
    assert stops(effects) == ["job-1"]
    assert stage.status("job").cancelling
    assert stage.held() == {"cpu": "1"}
    assert not stage.model().tasks["job"].requests, (
        "the request was deleted by the transaction in which it took effect"
    )
    leader.acknowledge(effects)
    leader.see(observation(("job", 1), Phase.FAILED, signal=15))
    leader.run()
    assert stage.state("job") == State.CANCELLED
    assert stage.held() == {}
    stage.check()


def test_success_before_the_stop_counts(stage: Stage) -> None:
    """A task that had succeeded before its cancel reached it is Succeeded."""
    stage.submit("job")
    leader = stage.leader()
    leader.run_to("job", Phase.RUNNING)
    stage.request("job", RequestKind.CANCEL)
    leader.sync()
    leader.run()
    leader.see(observation(("job", 1), Phase.SUCCEEDED))
    leader.run()
    assert stage.state("job") == State.SUCCEEDED


def test_cancel_and_retry_at_the_same_moment(stage: Stage) -> None:
    """Cancel and retry of a running task: cancelled first, then another attempt; each request takes effect
    once.
    """
    stage.submit("job")
    leader = stage.leader()
    leader.run_to("job", Phase.RUNNING)
    stage.request("job", RequestKind.CANCEL)
    stage.request("job", RequestKind.RETRY)
    leader.sync()
    leader.acknowledge(leader.run())
    assert stage.model().tasks["job"].requests, "the retry waits for the end"
    leader.see(observation(("job", 1), Phase.FAILED))
    assert starts(leader.run()) == ["job-2"]
    assert not stage.model().tasks["job"].requests
    stage.check()


def test_cancel_of_a_waiting_task(stage: Stage) -> None:
    """A task that waits holds nothing, and is Cancelled at once, even when there is room for it in the
    same pass.
    """
    stage.submit("job")
    stage.request("job", RequestKind.CANCEL)
    leader = stage.leader()
    assert leader.run() == []
    assert stage.state("job") == State.CANCELLED


def test_requests_without_effect_are_recorded(stage: Stage) -> None:
    """A retry of a Succeeded task changes nothing, is deleted, and stands in the history."""
    stage.submit("job")
    leader = stage.leader()
    leader.run_to("job", Phase.SUCCEEDED)
    stage.request("job", RequestKind.RETRY)
    leader.sync()
    leader.run()
    status = stage.status("job")
    assert status is not None
    assert (status.state, status.attempt, status.reason) == (State.SUCCEEDED, 1, "Succeeded")
    assert codec.decode_history(status)[-1].reason == "RequestIgnored"
    assert not stage.model().tasks["job"].requests


@pytest.mark.parametrize(
    ("phase", "limit", "reason"),
    [(Phase.PENDING, "start", "StartDeadlineExceeded"), (Phase.RUNNING, "run", "DeadlineExceeded")],
)
def test_deadlines_stop_the_attempt(stage: Stage, phase: Phase, limit: str, reason: str) -> None:
    """An attempt over its deadline is stopped; the task fails with the deadline's reason once the end is
    proven.
    """
    stage.submit("job", deadlines={limit: 60}, retry={"max_start_failures": 0})
    leader = stage.leader()
    leader.run_to("job", phase)
    stage.clock.move(59)
    assert leader.run() == []
    stage.clock.move(2)
    effects = leader.run()
    assert stops(effects) == ["job-1"]
    assert stage.held() == {"cpu": "1"}
    leader.acknowledge(effects)
    leader.see(observation(("job", 1), Phase.FAILED, signal=15))
    leader.run()
    status = stage.status("job")
    assert status is not None
    assert (status.state, status.reason) == (State.FAILED, reason)
    assert stage.held() == {}


def test_queue_deadline(stage: Stage) -> None:
    """A task that was not admitted in time fails, with the deadline's name."""
    stage.submit("big", resources={"cpu": 4})
    stage.submit("late", deadlines={"queue": "1m"})
    leader = stage.leader()
    leader.run()
    stage.clock.move(61)
    leader.run()
    assert stage.status("late").reason == "QueueDeadlineExceeded"


def test_a_terminal_phase_without_proof_holds(stage: Stage) -> None:
    """Failed without proof of stop: lost, resources held, nothing restarted; the proof, when it comes,
    ends it.
    """
    stage.submit("job", retry={"max_attempts": 2, "backoff_seconds": 0})
    leader = stage.leader()
    leader.run_to("job", Phase.RUNNING)
    leader.see(observation(("job", 1), Phase.FAILED, stopped=False, reason="DeadlineExceeded"))
    assert leader.run() == []
    status = stage.status("job")
    assert status is not None
    assert status.state == State.RUNNING
    assert status.lost_since is not None
    assert stage.held() == {"cpu": "1"}
    leader.see(observation(("job", 1), Phase.FAILED, reason="DeadlineExceeded"))
    assert starts(leader.run()) == ["job-2"]


def test_an_unknown_phase_that_recovers(stage: Stage) -> None:
    """A node that was away for a while: lost, then found, and nothing ran twice."""
    stage.submit("job")
    leader = stage.leader()
    leader.run_to("job", Phase.RUNNING)
    leader.see(observation(("job", 1), Phase.UNKNOWN))
    leader.run()
    assert stage.status("job").lost_since is not None
    leader.see(observation(("job", 1), Phase.RUNNING))
    leader.run()
    assert stage.status("job").lost_since is None
    leader.see(observation(("job", 1), Phase.SUCCEEDED))
    leader.run()
    assert stage.state("job") == State.SUCCEEDED
    stage.check()


def test_an_attempt_that_was_declared_dead_and_is_shown_alive_since(stage: Stage) -> None:
    """A terminal phase without proof is no last word: what was asked for since counts, what comes late
    does not.
    """
    stage.submit("job", on_lost={"replace_after": "10m"}, retry={"max_attempts": 2, "backoff_seconds": 0})
    leader = stage.leader()
    leader.run_to("job", Phase.RUNNING)
    stage.clock.move(1)
    began = stage.clock.now()
    stage.clock.move(1)
    leader.see(observation(("job", 1), Phase.FAILED, stopped=False, reason="NodeLost"))
    leader.see(observation(("job", 1), Phase.RUNNING))
    leader.list_engine(observation(("job", 1), Phase.RUNNING), began=began)
    leader.run()
    assert stage.status("job").lost_since is not None, "a late event, and a list that began before"
    stage.clock.move(60)
    leader.list_engine(observation(("job", 1), Phase.RUNNING))
    leader.run()
    assert stage.status("job").lost_since is None
    stage.clock.move(601)
    assert leader.run() == [], "it runs, and is not replaced"
    leader.see(observation(("job", 1), Phase.SUCCEEDED))
    leader.run()
    assert stage.state("job") == State.SUCCEEDED
    stage.check()


def test_what_is_there_now_is_what_is_stopped_and_asked_for(stage: Stage) -> None:
    """Somebody removed the object that was recorded, and a late start made it anew under its name."""
    stage.submit("job")
    leader = stage.leader()
    leader.acknowledge(leader.run())
    leader.see(observation(("job", 1), Phase.RUNNING, uid="first"))
    leader.run()
    stage.clock.move(1)
    leader.list_engine(observation(("job", 1), Phase.RUNNING, uid="second"))
    stage.request("job", RequestKind.CANCEL)
    leader.sync()
    (stop,) = [effect for effect in leader.run() if isinstance(effect, Stop)]
    assert stop.uid == "second"
    leader.acknowledge([stop])
    stage.clock.move(1)
    leader.list_engine()
    (prove,) = [effect for effect in leader.run() if isinstance(effect, Prove)]
    assert prove.uid == "second"


def test_an_operator_confirms_that_a_lost_attempt_stopped(stage: Stage) -> None:
    """confirm-stopped ends the hold of a lost attempt; the next one starts although the engine never gave
    a proof.
    """
    stage.submit("job", retry={"max_attempts": 2, "backoff_seconds": 0})
    leader = stage.leader()
    leader.run_to("job", Phase.RUNNING)
    stage.request("job", RequestKind.CONFIRM_STOPPED)
    leader.sync()
    leader.run()
    assert stage.state("job") == State.RUNNING, "not lost: the word is not believed"
    leader.see(observation(("job", 1), Phase.UNKNOWN))
    leader.run()
    stage.request("job", RequestKind.CONFIRM_STOPPED, attempt=1)
    leader.sync()
    effects = leader.run()
    assert "job-2" in starts(effects)
    assert stops(effects) == ["job-1"], "should it come back, it is an orphan"
    stage.check()


def test_on_lost_replaces_after_the_time_the_user_gave(stage: Stage) -> None:
    """`replace_after` gives the attempt up without proof; by default it is held for ever."""
    stage.submit("replace", on_lost={"replace_after": "10m"}, retry={"max_attempts": 2, "backoff_seconds": 0})
    stage.submit("hold", retry={"max_attempts": 2, "backoff_seconds": 0})
    leader = stage.leader()
    leader.acknowledge(leader.run())
    leader.see(observation(("replace", 1), Phase.UNKNOWN), observation(("hold", 1), Phase.UNKNOWN))
    leader.run()
    stage.clock.move(601)
    assert starts(leader.run()) == ["replace-2"]
    assert stage.state("hold") == State.PENDING
    assert stage.held() == {"cpu": "2"}


@pytest.mark.parametrize("array", [{}, {"array": {"size": 1}}], ids=["task", "member"])
def test_no_attempt_is_given_up_by_what_a_user_has_taken_back(stage: Stage, array: dict[str, object]) -> None:
    """The transaction compares the spec that says so: the leader may not have heard of another one (I4)."""
    name = "job-i0" if array else "job"
    stage.submit("job", on_lost={"replace_after": "10m"}, retry={"max_attempts": 2}, **array)
    leader = stage.leader()
    leader.acknowledge(leader.run())
    leader.see(observation((name, 1), Phase.UNKNOWN))
    leader.run()
    stage.submit("job", retry={"max_attempts": 2}, **array)
    stage.clock.move(601)
    assert starts(leader.run()) == []
    leader.sync()
    assert starts(leader.run()) == []
    assert (stage.state(name), stage.held()) == (State.PENDING, {"cpu": "1"})


def test_an_attempt_without_a_hold_is_an_orphan(stage: Stage) -> None:
    """What runs without a hold is stopped, and a task of it does not start while it may still run (I4,
    I5).
    """
    stage.submit("job")
    leader = stage.replica()
    leader.list_engine(
        observation(("job", 3), Phase.RUNNING, uid="u"), observation(("unknown", 1), Phase.RUNNING)
    )
    effects = leader.run()
    assert sorted(stops(effects)) == ["job-3", "unknown-1"]
    assert starts(effects) == [], "attempt 3 may still run"
    leader.acknowledge(effects)
    leader.see(observation(("job", 3), Phase.FAILED))
    assert starts(leader.run()) == ["job-1"] or starts(leader.effects)[-1] == "job-4"


def test_take_over_adopts_and_starts_nothing_twice(stage: Stage) -> None:
    """A new leader adopts what the list shows, starts what was committed but never created, and notices
    what is gone.
    """
    for name in ("adopted", "uncreated", "vanished"):
        stage.submit(name)
    old = stage.leader()
    old.acknowledge(old.run())
    old.see(
        observation(("vanished", 1), Phase.RUNNING, uid="v"),
        observation(("adopted", 1), Phase.RUNNING, uid="a"),
    )
    old.run()
    stage.elect()
    new = stage.replica()
    new.list_engine(observation(("adopted", 1), Phase.RUNNING, uid="a"))
    assert starts(new.run()) == ["uncreated-1"]
    assert stage.state("adopted") == State.RUNNING
    assert (stage.state("vanished"), stage.status("vanished").reason) == (State.FAILED, "Gone")
    stage.check()


def test_a_list_older_than_the_start_proves_nothing(stage: Stage) -> None:
    """A list that was asked for before an attempt was started cannot show that it is gone."""
    stage.submit("job")
    leader = stage.leader()
    began = stage.clock.now()
    effects = leader.run()
    stage.clock.move(1)
    leader.acknowledge(effects)
    leader.list_engine(began=began)
    leader.run()
    assert stage.state("job") == State.PENDING
    stage.clock.move(1)
    leader.list_engine()
    leader.run()
    assert stage.status("job").reason == "Gone"


def test_a_silent_engine_proves_nothing(stage: Stage) -> None:
    """While the engine does not answer nothing is failed or admitted; afterwards all goes on."""
    from controller.core.planning.events import EngineSilent

    stage.submit("one")
    leader = stage.leader()
    leader.run_to("one", Phase.RUNNING)
    leader.reconciler.handle(EngineSilent(leader.leadership.epoch, "connection refused"))
    stage.submit("two")
    leader.sync()
    stage.clock.move(3600)
    assert leader.run() == []
    assert stage.state("one") == State.RUNNING
    leader.list_engine(observation(("one", 1), Phase.RUNNING))
    assert starts(leader.run()) == ["two-1"]


def test_retention_removes_a_finished_task_and_nothing_brings_it_back(stage: Stage) -> None:
    """After its retention a task's records go; the watch's late echo of its spec does not make it Created
    again.
    """
    stage.submit("job", retention_seconds=60)
    leader = stage.leader()
    leader.run_to("job", Phase.SUCCEEDED)
    late = leader.model.tasks["job"]
    spec, _ = stage.store.get(stage.keys.task("job"), deadline=stage.clock.boottime() + 5)
    assert spec is not None
    stage.clock.move(61)
    assert leader.run() == []
    assert stage.model().tasks == {}
    from controller.store.records import to_change

    leader.model.apply(to_change(stage.keys, spec.key, spec, spec.mod))
    assert leader.run() == []
    assert "job" not in leader.model.tasks
    assert late.id == "job"


def test_a_name_is_kept_for_an_hour_and_its_numbers_are_not_reused(stage: Stage) -> None:
    """A task that is submitted again under a removed one's name does not adopt that one's result: it has
    the next number.
    """
    stage.submit("job", retention_seconds=60)
    leader = stage.leader()
    leader.run_to("job", Phase.SUCCEEDED)
    ended = observation(("job", 1), Phase.SUCCEEDED, finished_at=stage.clock.now())
    stage.clock.move(61)
    assert leader.run() == []
    stage.submit("job")
    leader.sync()
    assert starts(leader.run()) == ["job-2"]
    stage.elect()
    new = stage.replica()
    new.list_engine(
        ended,
        observation(("job", 2), Phase.SUCCEEDED),
        observation(("gone", 7), Phase.SUCCEEDED, finished_at=stage.clock.now()),
    )
    assert new.run() == []
    stage.submit("gone")
    new.sync()
    assert starts(new.run()) == ["gone-8"]


def test_tombstones_of_removed_tasks_are_forgotten_after_an_hour(stage: Stage) -> None:
    """Until then a late start of the same attempt meets its name."""
    leader = stage.replica()
    leader.list_engine(
        observation(("old", 1), Phase.SUCCEEDED, finished_at=stage.clock.now() - 3601),
        observation(("young", 1), Phase.FAILED),
    )
    assert [str(effect.attempt) for effect in leader.run()] == ["old-1"]
    stage.clock.move(3601)
    assert [str(effect.attempt) for effect in leader.run()] == ["young-1"]


def test_an_attempt_does_not_carry_the_last_ones_words(stage: Stage) -> None:
    """A second attempt that runs is Running, and not "Running (Error)"."""
    stage.submit("job", retry={"max_attempts": 2, "backoff_seconds": 0})
    leader = stage.leader()
    leader.run_to("job", Phase.FAILED)
    leader.run()
    status = stage.status("job")
    assert status is not None
    assert (status.state, status.attempt, status.reason, status.message) == (State.PENDING, 2, "", "")


def test_tasks_of_one_submission_keep_its_order(stage: Stage) -> None:
    """Many tasks may be created in one transaction, at one revision; they are admitted in the order of
    their submission.
    """
    stage.pool(capacity={"cpu": 1})
    specs = [
        parse_spec({"id": task_id, "command": ["true"], "resources": {"cpu": 1}})
        for task_id in ("zebra", "mouse", "ape")
    ]
    writes = tuple(
        Put(stage.keys.task(spec.id), codec.encode_spec(spec, stage.clock.now() + n * 1e-6, Op("op")))
        for n, spec in enumerate(specs)
    )
    guards = tuple(Guard(write.key, 0) for write in writes)
    stage.store.commit(Transaction(guards, writes, Op("op")), deadline=stage.clock.boottime() + 5)
    assert starts(stage.leader().run()) == ["zebra-1"]


def test_a_spec_written_around_the_client(stage: Stage) -> None:
    """An invalid spec fails with the field's name; one that no pool can hold fails with the numbers; JSON
    rubbish is left alone.
    """
    stage.put(stage.keys.task("nan"), b'{"id":"nan","command":["x"],"resources":{"cpu":"NaN"}}')
    stage.put(stage.keys.task("huge"), b'{"id":"huge","command":["x"],"resources":{"cpu":"400"}}')
    stage.put(stage.keys.task("rubbish"), b"\xff\xfe")
    stage.submit("good")
    leader = stage.leader()
    assert starts(leader.run()) == ["good-1"]
    assert stage.status("nan").message.startswith("resources.cpu")
    assert "asks for 400, but pool 'default' has 4 in all" in stage.status("huge").message
    assert stage.model().mod_of("states", ("rubbish",)) == 0
    assert ("tasks", ("rubbish",)) in stage.model().quarantine


def test_a_pool_that_shrinks_kills_nothing(stage: Stage) -> None:
    """Overcommit is shown, what runs goes on, what waits waits; a removed pool's tasks wait too."""
    for n in range(4):
        stage.submit(f"job{n}")
    stage.submit("waits", resources={"cpu": 3})
    leader = stage.leader()
    leader.acknowledge(leader.run())
    stage.pool(capacity={"cpu": 2})
    leader.sync()
    assert leader.run() == []
    assert stage.held() == {"cpu": "4"}
    for n in range(4):
        leader.see(observation((f"job{n}", 1), Phase.SUCCEEDED))
    assert leader.run() == []
    assert stage.state("waits") == State.CREATED
    stage.pool(capacity={"cpu": 3})
    leader.sync()
    assert starts(leader.run()) == ["waits-1"]
    stage.check()


def test_newer_fields_survive_an_older_leader(stage: Stage) -> None:
    """A newer version's fields in a status, a history entry and a ledger are written back by this one."""
    stage.submit("job")
    leader = stage.leader()
    leader.run_to("job", Phase.RUNNING)
    for key in (stage.keys.state("job"), stage.keys.ledger("default")):
        item, _ = stage.store.get(key, deadline=stage.clock.boottime() + 5)
        assert item is not None
        value = item.value[:-1] + b',"from_the_future":{"x":1}}'
        stage.put(key, value.replace(b'"event":"admitted"', b'"event":"admitted","newer":7'))
    leader.sync()
    leader.see(observation(("job", 1), Phase.SUCCEEDED))
    leader.run()
    for key in (stage.keys.state("job"), stage.keys.ledger("default")):
        item, _ = stage.store.get(key, deadline=stage.clock.boottime() + 5)
        assert item is not None
        assert b'"from_the_future":{"x":1}' in item.value
    item, _ = stage.store.get(stage.keys.state("job"), deadline=stage.clock.boottime() + 5)
    assert item is not None
    assert b'"newer":7' in item.value
    assert stage.state("job") == State.SUCCEEDED


def test_a_quarantined_status_freezes_its_task(stage: Stage) -> None:
    """A status that does not parse is not "absent": the task does not start again; mended, it goes on."""
    stage.submit("job")
    leader = stage.leader()
    leader.run_to("job", Phase.RUNNING)
    good, _ = stage.store.get(stage.keys.state("job"), deadline=stage.clock.boottime() + 5)
    assert good is not None
    stage.put(stage.keys.state("job"), b"not json")
    leader.sync()
    leader.see(observation(("job", 1), Phase.SUCCEEDED))
    assert leader.run() == []
    item, _ = stage.store.get(stage.keys.state("job"), deadline=stage.clock.boottime() + 5)
    assert item is not None
    assert item.value == b"not json", "left alone"
    stage.put(stage.keys.state("job"), good.value)
    leader.sync()
    leader.run()
    assert stage.state("job") == State.SUCCEEDED


def test_large_batches_are_split(stage: Stage) -> None:
    """A thousand tasks that become ready at once go into transactions within etcd's limits."""
    stage.pool(capacity={"cpu": 1000})
    for n in range(300):
        stage.submit(f"job{n:03}")
    leader = stage.leader()
    assert len(starts(leader.run())) == 300
    assert len({task.status_mod for task in stage.model().tasks.values()}) >= 5
    assert stage.held() == {"cpu": "300"}
    stage.check()


def test_uncounted_attempts_never_follow_in_a_tight_loop(stage: Stage) -> None:
    """A back-off of zero is for failures, whose number is limited; what the platform refuses is tried
    again ever more slowly.
    """
    stage.submit("job", retry={"backoff_seconds": 0})
    leader = stage.leader()
    pauses = []
    for attempt in (1, 2, 3):
        leader.acknowledge(leader.run())
        leader.see(
            observation(("job", attempt), Phase.FAILED, ran=False, disrupted=True, reason="QuotaExceeded")
        )
        leader.run()
        status = stage.status("job")
        assert status is not None
        assert status.retry_at is not None
        pauses.append(status.retry_at - stage.clock.now())
        stage.clock.move(pauses[-1])
    assert pauses == [1, 2, 4]
    assert status.start_failures == 0


def test_a_later_attempt_is_admitted_only_by_the_spec_that_stands(stage: Stage) -> None:
    """The spec is deleted, or another put in its place, while the leader is about to admit the second
    attempt.
    """
    for task_id in ("deleted", "replaced"):
        stage.submit(task_id, retry={"max_attempts": 2, "backoff_seconds": 1})
    leader = stage.leader()
    leader.acknowledge(leader.run())
    for task_id in ("deleted", "replaced"):
        leader.see(observation((task_id, 1), Phase.FAILED, exit_code=1))
    leader.run()
    stage.clock.move(2)
    stage.delete(stage.keys.task("deleted"))
    stage.delete(stage.keys.task("replaced"))
    stage.submit("replaced", resources={"cpu": 3}, retry={"max_attempts": 2})
    leader.run()
    assert "deleted" not in stage.model().tasks, "failed, and removed with its spec"
    assert stage.held() == {"cpu": "3"}
    stage.check()


def test_an_end_waits_for_the_start_that_is_under_way(stage: Stage) -> None:
    """Somebody removes the attempt while its start is being repeated: the engine may make it anew, and
    then it holds on.
    """
    stage.submit("job")
    leader = stage.leader()
    effects = leader.run()
    leader.see(observation(("job", 1), Phase.FAILED, uid="first", reason="Deleted"))
    leader.run()
    assert stage.state("job") == State.PENDING
    assert stage.held() == {"cpu": "1"}
    started = observation(("job", 1), Phase.PENDING, uid="second")
    leader.reconciler.handle(Started(leader.leadership.epoch, effects[0], started))
    leader.see(observation(("job", 1), Phase.FAILED, uid="first", reason="Deleted"))
    leader.run()
    assert stage.state("job") == State.PENDING, "the proof was of the first"
    leader.list_engine(observation(("job", 1), Phase.FAILED, uid="first"), began=stage.clock.now() - 1)
    leader.see(observation(("job", 1), Phase.RUNNING, uid="second"))
    leader.run()
    assert stage.state("job") == State.RUNNING, "a list from before tells of the first, too"
    leader.see(observation(("job", 1), Phase.SUCCEEDED, uid="second"))
    leader.run()
    assert stage.state("job") == State.SUCCEEDED
    stage.check()


def test_an_end_that_came_before_the_answer_to_the_start_is_taken_with_it(stage: Stage) -> None:
    """A task can be over before its start is answered, and a refusal can follow an end."""
    for task_id in ("fast", "refused"):
        stage.submit(task_id)
    leader = stage.leader()
    fast, refused = leader.run()
    for task_id in ("fast", "refused"):
        leader.see(observation((task_id, 1), Phase.SUCCEEDED, uid=task_id))
    leader.run()
    leader.reconciler.handle(
        Started(leader.leadership.epoch, fast, observation(("fast", 1), Phase.RUNNING, uid="fast"))
    )
    leader.reconciler.handle(StartRefused(leader.leadership.epoch, refused, "NameTaken", "it exists", False))
    leader.run()
    assert [stage.state(task_id) for task_id in ("fast", "refused")] == [State.SUCCEEDED, State.SUCCEEDED]
    assert stage.held() == {}


def test_an_operators_word_waits_for_the_start_that_is_under_way(stage: Stage) -> None:
    """Nothing runs yet, so that it looks dead; but the start is on its way, and what it starts would hold
    nothing.
    """
    stage.submit("job")
    leader = stage.leader()
    effects = leader.run()
    stage.request("job", RequestKind.CANCEL)
    leader.sync()
    leader.run()
    stage.request("job", RequestKind.CONFIRM_STOPPED, attempt=1)
    leader.sync()
    leader.run()
    assert stage.state("job") == State.PENDING
    leader.acknowledge(effects)
    assert stops(leader.run()) == ["job-1"]
    assert stage.state("job") == State.PENDING, "the engine knows better: it shows the attempt"
    leader.see(observation(("job", 1), Phase.FAILED))
    leader.run()
    assert stage.state("job") == State.CANCELLED
    assert stage.held() == {}


def test_an_operators_word_waits_until_a_late_start_would_find_its_name_taken(stage: Stage) -> None:
    """An earlier leader's start may still be on its way: what nobody has seen is stopped before it is
    believed to be dead.
    """
    stage.submit("job")
    stage.leader().run()
    stage.request("job", RequestKind.CANCEL)
    stage.elect()
    leader = stage.leader()
    stage.request("job", RequestKind.CONFIRM_STOPPED, attempt=1)
    leader.sync()
    effects = leader.run()
    assert stops(effects) == ["job-1"]
    assert stage.state("job") == State.PENDING
    leader.acknowledge(effects)
    leader.run()
    assert stage.state("job") == State.CANCELLED
    assert stage.held() == {}
    stage.check()
