"""A task waits for others: what opens its gate, what closes it again, and what becomes of it otherwise."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from controller.core.model import codec
from controller.core.model.codec import decode_history
from controller.core.model.op import Op
from controller.core.model.requests import RequestKind
from controller.core.model.task import Phase
from controller.core.model.validation import parse_spec
from controller.core.planning.keeping import EARLY_SECONDS
from controller.core.promise.invariants import check_model
from controller.core.promise.replay import replay
from controller.store.base import Committed, Put, Refused, Transaction
from controller.store.records import to_transaction
from controller.views.dependencies import parents_of
from tests.support.bench import Stage, StagedReplica, observation, starts


def step(leader: StagedReplica) -> list[str]:
    """What is started now."""
    leader.sync()
    started = starts(effects := leader.run())
    leader.acknowledge(effects)
    leader.stage.check()
    return started


def end(leader: StagedReplica, task_id: str, phase: Phase = Phase.SUCCEEDED, attempt: int = 1) -> list[str]:
    """The attempt ends; returns what is started then."""
    leader.see(observation((task_id, attempt), phase, exit_code=0 if phase is Phase.SUCCEEDED else 1))
    return step(leader)


def reason(stage: Stage, task_id: str) -> tuple[str, str]:
    status = stage.status(task_id)
    assert replay(status) == []
    return status.state.value, status.reason


def put_together(stage: Stage, *specs: dict[str, Any]) -> None:
    """Specs in one transaction, by hand: nothing checks what they wait for."""
    writes = []
    for n, fields in enumerate(specs):
        spec = parse_spec({"command": ["true"], "resources": {"cpu": 1}, **fields})
        value = codec.encode_spec(spec, stage.clock.now() + n * 1e-6, Op("together"))
        writes.append(Put(stage.keys.task(spec.id), value))
    answer = stage.store.commit(Transaction((), tuple(writes), Op("together")), deadline=float("inf"))
    assert isinstance(answer, Committed)


def test_a_task_begins_when_those_that_it_waits_for_have_succeeded(stage: Stage) -> None:
    leader = stage.leader()
    stage.submit("load")
    stage.submit("check")
    stage.submit("train", after=["load", "check"])
    assert step(leader) == ["load-1", "check-1"]
    assert end(leader, "load") == []
    assert stage.state("train") == "Created"
    assert end(leader, "check") == ["train-1"]


def ended(stage: Stage, leader: StagedReplica, how: str) -> None:
    """A task `parent` that ends so."""
    if how == "Cancelled":
        stage.request("parent", RequestKind.CANCEL)
        return
    assert step(leader) == ["parent-1"]
    leader.see(observation(("parent", 1), Phase.SUCCEEDED if how == "Succeeded" else Phase.FAILED))


@pytest.mark.parametrize(
    ("when", "how"),
    [*itertools.product(["succeeded", "failed", "finished"], ["Succeeded", "Failed", "Cancelled"])],
)
def test_each_wish_and_each_end(stage: Stage, when: str, how: str) -> None:
    """Failed meets `failed`; Cancelled meets `finished` alone."""
    leader = stage.leader()
    stage.submit("parent")
    stage.submit("child", after=[{"task": "parent", "when": when}])
    ended(stage, leader, how)
    started = step(leader)
    if when == "finished" or when == how.lower():
        assert started == ["child-1"]
    elif when == "succeeded":
        assert started == []
        assert reason(stage, "child") == ("Failed", "DependencyFailed")
        assert "parent" in stage.status("child").message
    else:
        assert started == []
        assert reason(stage, "child") == ("Cancelled", "Skipped")


def test_a_failure_is_decided_when_all_have_ended(stage: Stage) -> None:
    """So the end of the last task is the end of all."""
    leader = stage.leader()
    stage.submit("a")
    stage.submit("b")
    stage.submit("last", after=["a", "b"])
    step(leader)
    end(leader, "a", Phase.FAILED)
    assert stage.state("last") == "Created"
    stage.request("a", RequestKind.RETRY)
    assert step(leader) == ["a-2"]
    assert end(leader, "b") == []
    assert end(leader, "a", attempt=2) == ["last-1"], "the retry came in time"


def test_a_long_chain_ends_in_few_transactions(stage: Stage) -> None:
    """A failure does not take a transaction for each link."""
    leader = stage.leader()
    stage.submit("t0")
    for n in range(1, 200):
        stage.submit(f"t{n}", after=[f"t{n - 1}"])
    assert step(leader) == ["t0-1"]
    before = stage.model().revision
    end(leader, "t0", Phase.FAILED)
    assert {stage.state(f"t{n}") for n in range(200)} == {"Failed"}
    assert stage.model().revision - before <= 200 / 40


def test_who_failed_for_another_has_failed(stage: Stage) -> None:
    """`failed` is met by DependencyFailed, in the same chain."""
    leader = stage.leader()
    stage.submit("a")
    stage.submit("b", after=["a"])
    stage.submit("report", after=[{"task": "b", "when": "failed"}])
    step(leader)
    assert end(leader, "a", Phase.FAILED) == ["report-1"]
    assert reason(stage, "b") == ("Failed", "DependencyFailed")


def test_a_retry_in_between_closes_the_gate_again(stage: Stage) -> None:
    """The child could have begun, but the pool was full; then its parent is run again."""
    stage.pool(capacity={"cpu": 1})
    leader = stage.leader()
    stage.submit("parent")
    step(leader)
    stage.submit("child", after=[{"task": "parent", "when": "failed"}], resources={"cpu": 1})
    stage.pool(paused=True, capacity={"cpu": 1})
    step(leader)
    end(leader, "parent", Phase.FAILED)
    stage.request("parent", RequestKind.RETRY)
    stage.pool(capacity={"cpu": 1})
    assert step(leader) == ["parent-2"], "the child is not started in the same transaction, either"
    assert end(leader, "parent", attempt=2) == []
    assert reason(stage, "child") == ("Cancelled", "Skipped")


def test_a_retry_waits_for_the_parents_again(stage: Stage) -> None:
    """Retries of a whole chain, parents first, as `retry --downstream` requests them."""
    leader = stage.leader()
    stage.submit("a")
    stage.submit("b", after=[{"task": "a", "when": "finished"}])
    stage.submit("c", after=["b"])
    step(leader)
    end(leader, "a", Phase.FAILED)
    end(leader, "b", Phase.FAILED)
    assert reason(stage, "c") == ("Failed", "DependencyFailed")
    for task_id in "abc":
        stage.request(task_id, RequestKind.RETRY)
    assert step(leader) == ["a-2"]
    assert end(leader, "a", attempt=2) == ["b-2"]
    assert end(leader, "b", attempt=2) == ["c-1"]


def test_an_automatic_retry_does_not_wait_again(stage: Stage) -> None:
    leader = stage.leader()
    stage.submit("a")
    stage.submit(
        "b", after=[{"task": "a", "when": "failed"}], retry={"max_attempts": 2, "backoff_seconds": 0}
    )
    step(leader)
    assert end(leader, "a", Phase.FAILED) == ["b-1"]
    stage.request("a", RequestKind.RETRY)
    assert step(leader) == ["a-2"]
    assert end(leader, "b", Phase.FAILED) == ["b-2"]


def test_no_cycle_can_be_stored(stage: Stage) -> None:
    """Whoever writes them, in whatever order: the younger ones are never waited for."""
    leader = stage.leader()
    put_together(
        stage,
        {"id": "a", "after": ["b"]},
        {"id": "b", "after": ["c"]},
        {"id": "c", "after": ["a"]},
    )
    assert step(leader) == []
    assert reason(stage, "a") == ("Failed", "DependencyUnknown")
    assert reason(stage, "b") == ("Failed", "DependencyUnknown")
    assert reason(stage, "c") == ("Failed", "DependencyFailed")


def test_a_task_that_was_made_again_is_another_one(stage: Stage) -> None:
    leader = stage.leader()
    stage.pool(paused=True)
    stage.submit("parent")
    stage.submit("child", after=["parent"])
    step(leader)
    stage.delete(stage.keys.task("parent"))
    stage.submit("parent")
    stage.pool()
    assert step(leader) == ["parent-1"]
    assert reason(stage, "child") == ("Failed", "DependencyUnknown")


def test_who_is_refused_compares_that_its_parent_is_no_older_one(stage: Stage) -> None:
    """Also where the plan changes that parent: without its spec, it is waited for again."""
    leader = stage.leader()
    stage.submit("parent")
    stage.submit("child", after=["parent"])
    assert step(leader) == ["parent-1"]
    stage.delete(stage.keys.task("parent"))
    stage.submit("parent")
    leader.sync()
    leader.see(observation(("parent", 1), Phase.RUNNING))
    plan = leader.planner.plan(stage.clock.now())
    assert [change.task_id for change in plan.changes] == ["parent", "child"]
    stage.delete(stage.keys.task("parent"))
    answer = stage.store.commit(
        to_transaction(plan, stage.keys, leader.leadership.revision), deadline=float("inf")
    )
    assert isinstance(answer, Refused)
    assert answer.current[stage.keys.task("parent")] is None


def test_a_task_that_was_never_there(stage: Stage) -> None:
    leader = stage.leader()
    stage.submit("child", after=["nobody"])
    assert step(leader) == []
    assert reason(stage, "child") == ("Failed", "DependencyUnknown")
    assert "nobody" in stage.status("child").message


def test_who_began_once_needs_nobody_again(stage: Stage) -> None:
    """A retry after the parents were removed."""
    leader = stage.leader()
    stage.submit("parent", retention_seconds=10)
    stage.submit("child", after=["parent"], retention_seconds=10_000)
    step(leader)
    end(leader, "parent")
    end(leader, "child", Phase.FAILED)
    stage.clock.move(60)
    step(leader)
    assert "parent" not in stage.model().tasks
    stage.request("child", RequestKind.RETRY)
    assert step(leader) == ["child-2"]


def test_a_parent_is_kept_while_a_task_waits_for_it(stage: Stage) -> None:
    leader = stage.leader()
    stage.submit("a", retention_seconds=10)
    stage.submit("b", retention_seconds=10)
    stage.submit("child", after=["a", "b"])
    step(leader)
    end(leader, "a")
    stage.clock.move(3600)
    step(leader)
    assert stage.state("a") == "Succeeded"
    assert end(leader, "b") == ["child-1"]
    assert "a" not in stage.model().tasks, "it is removed as soon as nobody waits for it"
    stage.clock.move(20)
    step(leader)
    assert "b" not in stage.model().tasks


def test_the_wait_in_the_queue_begins_with_the_last_end(stage: Stage) -> None:
    stage.pool(capacity={"cpu": 1})
    leader = stage.leader()
    stage.submit("parent", resources={"cpu": 1})
    stage.submit("child", after=["parent"], deadlines={"queue": 60})
    step(leader)
    stage.clock.move(3600)
    step(leader)
    assert stage.state("child") == "Created"
    stage.pool(paused=True, capacity={"cpu": 1})
    end(leader, "parent")
    stage.clock.move(59)
    step(leader)
    assert stage.state("child") == "Created"
    stage.clock.move(2)
    step(leader)
    assert reason(stage, "child") == ("Failed", "QueueDeadlineExceeded")


def test_a_new_leader_sees_the_same_gates(stage: Stage) -> None:
    leader = stage.leader()
    stage.submit("a")
    stage.submit("b", after=["a"])
    step(leader)
    stage.elect()
    second = stage.leader(observation(("a", 1), Phase.RUNNING))
    assert step(second) == []
    assert end(second, "a") == ["b-1"]


def test_a_cancel_of_who_waits(stage: Stage) -> None:
    leader = stage.leader()
    stage.submit("a")
    stage.submit("b", after=["a"])
    stage.submit("c", after=["b"])
    stage.submit("d", after=[{"task": "b", "when": "finished"}])
    step(leader)
    stage.request("b", RequestKind.CANCEL)
    assert step(leader) == ["d-1"]
    assert reason(stage, "b") == ("Cancelled", "Cancelled")
    assert reason(stage, "c") == ("Failed", "DependencyFailed")


def test_a_thousand_parents(stage: Stage) -> None:
    stage.pool(capacity={"cpu": 1000})
    leader = stage.leader()
    names = [f"p{n}" for n in range(1000)]
    for name in names:
        stage.submit(name)
    stage.submit("last", after=names)
    assert len(step(leader)) == 1000
    leader.see(*[observation((name, 1), Phase.SUCCEEDED) for name in names[1:]])
    assert step(leader) == []
    assert end(leader, names[0]) == ["last-1"]


def awaits(stage: Stage) -> list[str]:
    """The records that keep parents."""
    found = stage.store.load(stage.keys.awaits, deadline=float("inf")).items
    return [item.key.removeprefix(stage.keys.awaits) for item in found]


def test_records_that_keep_parents_are_deleted(stage: Stage) -> None:
    """Once the child has begun; and if no child comes, after a while."""
    leader = stage.leader()
    stage.submit("a")
    stage.submit("b", after=["a"])
    for record in ("a/b", "a/nobody", "x/a"):
        stage.put(stage.keys.awaits + record, b"anything")
    step(leader)
    assert awaits(stage) == ["a/b", "a/nobody"], "a names nobody"
    end(leader, "a")
    assert awaits(stage) == ["a/nobody"]
    wake = leader.planner.next_wake()
    assert wake is not None
    assert wake <= stage.clock.now() + EARLY_SECONDS
    stage.clock.move(EARLY_SECONDS + 1)
    step(leader)
    assert awaits(stage) == []


def test_history_says_why(stage: Stage) -> None:
    leader = stage.leader()
    stage.submit("a")
    stage.submit("b", after=["a"])
    step(leader)
    end(leader, "a", Phase.FAILED)
    last = decode_history(stage.status("b"))[-1]
    assert (last.event, last.reason) == ("rejected", "DependencyFailed")
    assert last.message == "it was to run after the success of a, which is Failed"


def i13(stage: Stage) -> list[str]:
    return [f"{each.subject} {each.what}" for each in check_model(stage.model()) if each.invariant == "I13"]


def test_the_audit_sees_who_began_too_early(stage: Stage) -> None:
    leader = stage.leader()
    stage.submit("a")
    stage.submit("b", after=["a"])
    stage.submit("c")
    step(leader)
    assert i13(stage) == []
    begun = stage.value(stage.keys.state("c"))
    stage.put(stage.keys.state("b"), begun)
    assert i13(stage) == ["task/b began before a had succeeded"]


def test_a_member_that_has_the_name_of_a_parent_by_now_is_none(stage: Stage) -> None:
    """Of an array that is older than the child: the task of that name ended, and was removed since."""
    leader = stage.leader()
    stage.submit("a", array={"size": 1})
    stage.change("a", on_hold=True)
    stage.submit("a-i0")
    step(leader)
    stage.submit("b", after=["a-i0"])
    assert end(leader, "a-i0") == ["b-1"]
    stage.delete(stage.keys.task("a-i0"))
    step(leader)
    stage.change("a", on_hold=False)
    assert step(leader) == ["a-i0-2"]  # the first one had its name
    assert i13(stage) == []
    assert [each.state for each in parents_of(stage.model(), "b")] == [None]


def test_a_member_that_ends_in_the_same_plan_is_no_parent_either(stage: Stage) -> None:
    """Whoever names a member waits for nobody, and is refused at once: nothing touches it again."""
    leader = stage.leader()
    stage.submit("a", array={"size": 1})
    assert step(leader) == ["a-i0-1"]
    stage.submit("b", after=["a-i0"])
    assert end(leader, "a-i0") == []
    assert (stage.state("a"), reason(stage, "b")) == ("Succeeded", ("Failed", "DependencyUnknown"))


def test_a_name_that_is_kept_for_others_is_taken(stage: Stage) -> None:
    """Its task has ended, and its spec was deleted. It stays for a child, which waits for the array, too."""
    leader = stage.leader()
    stage.submit("a-i0")
    assert step(leader) == ["a-i0-1"]
    stage.submit("a", array={"size": 1})
    stage.change("a", on_hold=True)
    stage.submit("b", after=[{"task": "a-i0", "when": "finished"}, {"task": "a", "when": "finished"}])
    step(leader)
    stage.delete(stage.keys.task("a-i0"))
    step(leader)
    assert end(leader, "a-i0") == []
    stage.change("a", on_hold=False)
    assert step(leader) == ["b-1"]
    array = stage.model().arrays.of("a")
    assert array is not None
    assert (stage.state("a"), array.fate(0).reason) == ("Failed", "NameTaken")


def test_the_audit_sees_who_waits_for_nobody(stage: Stage) -> None:
    stage.submit("b", after=["nobody"])
    assert i13(stage) == ["task/b waits for nobody, which is not there, or no older task: it can never run"]
    step(stage.leader())
    assert i13(stage) == []


def test_any_number_of_unknown_parents(stage: Stage) -> None:
    """What is compared fits one transaction."""
    leader = stage.leader()
    stage.submit("child", after=[f"nobody-{n}" for n in range(1000)])
    assert step(leader) == []
    assert reason(stage, "child") == ("Failed", "DependencyUnknown")
    stage.request("child", RequestKind.RETRY)
    assert step(leader) == []
    assert stage.status("child").steps == 3


def test_a_child_is_removed_after_the_records_that_keep_its_parents(stage: Stage) -> None:
    """Else they would keep the parents, as those of a child that is on its way."""
    leader = stage.leader()
    stage.submit("a", retention_seconds=0.001)
    stage.submit("b", after=["a"], retention_seconds=0.001)
    stage.put(f"{stage.keys.awaits}a/b", b"{}")
    step(leader)
    stage.request("b", RequestKind.CANCEL)
    stage.clock.move(1)
    step(leader)
    end(leader, "a")
    stage.clock.move(1)
    step(leader)
    assert awaits(stage) == []
    assert stage.model().tasks == {}
