"""What `tally explain` says of arrays, and of their members in all phases."""

from __future__ import annotations

from controller.core.model.requests import RequestKind
from controller.core.model.task import Phase
from controller.gateway.veil import veiled
from controller.views.explain import explain
from tests.support.bench import Stage, StagedReplica, observation
from tests.views.test_arrays import end, step


def why(stage: Stage, name: str = "a") -> str:
    return explain(stage.model(), name, stage.clock.now())


def run(leader: StagedReplica, *members: int) -> None:
    leader.see(*(observation((f"a-i{index}", 1), Phase.RUNNING) for index in members))
    step(leader)


def test_the_pool_has_no_room(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 1000})
    assert why(stage) == (
        "a: 0 of 1,000 members have ended, 0 are under way and 1,000 wait; as to member 0, the next one, a is"
        " next in pool default and fits (cpu 1 of cpu 4 free): it is admitted in the leader's next pass."
    )
    step(leader)
    run(leader, 0, 1)
    end(leader, 1)
    assert why(stage) == (
        "a: 1 of 1,000 members has ended (1 succeeded), 4 are under way (1 running, 3 pending) and 995 wait;"
        " as to member 5, the next one, a waits for resources: it asks for cpu 1 (0 free) of pool default (4"
        " tasks there hold the rest), and no task is ahead."
    )


def test_as_many_run_as_may(stage: Stage, leader: StagedReplica) -> None:
    retry = {"max_attempts": 2, "backoff_seconds": 10}
    stage.submit("a", array={"size": 9, "max_running": 3}, resources={}, retry=retry)
    step(leader)
    end(leader, 1, failed=True)
    assert why(stage) == (
        "a: 0 of 9 members have ended, 3 are under way (2 pending, 1 in back-off) and 6 wait; member 3, the"
        " next one, waits until another one ends, since 3 of at most 3 are under way (max_running)."
    )


def test_one_has_failed_and_no_other_one_begins(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 9, "fail_fast": True})
    step(leader)
    end(leader, 2, failed=True)
    assert why(stage) == (
        "a: 6 of 9 members have ended (1 failed, 5 cancelled), 3 are under way (3 pending) and 0 wait; no"
        " other one begins, and those that run are stopped, since member 2 has failed (fail_fast)."
    )


def test_a_request_is_carried_out_first(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 9})
    step(leader)
    stage.request("a", RequestKind.CANCEL, members="2-6")
    assert why(stage).endswith("; no member begins until the request to cancel members 2-6 is carried out.")
    stage.delete(stage.keys.request("a", RequestKind.CANCEL))
    stage.request("a", RequestKind.RETRY, only_failed=True)
    assert why(stage).endswith(
        "; no member begins until the request to retry the failed ones of all members is carried out."
    )


def test_it_is_on_hold_or_waits_for_another_task(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("first", resources={"cpu": 4})
    stage.submit("a", array={"size": 3}, after=["first"])
    step(leader)
    assert "and 3 wait; as to member 0, the next one, a waits for 1 task to end: first (Pending)" in why(
        stage
    )
    stage.change("a", on_hold=True)
    step(leader)
    assert "as to member 0, the next one, a is on hold since" in why(stage)
    assert "the request to change it waits" not in why(stage)
    stage.change("a", on_hold=False)
    assert "; the request to change it waits for the leader" in why(stage)


def test_a_block_cannot_be_read(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 2000})
    step(leader)
    stage.put(f"{stage.keys.prefix}arrays/a/1", b"?")
    said = (
        "Tally leaves a alone, and none of its members begins, because 1 block of it cannot be read"
        " (arrays/a/1): restore the value, or have it deleted by `tally audit --repair --delete arrays/a/1`,"
        " and members that had ended run again."
    )
    assert why(stage).endswith(f"976 cannot be read and 1,020 wait; {said}")
    assert why(stage, "a-i1500") == f"What has become of a-i1500 cannot be read: {said}"


def test_the_status_of_a_member_cannot_be_read(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 2})
    stage.put(stage.keys.state("a-i1"), b"{")
    step(leader)
    end(leader, 0)
    told = explain(stage.model(), "a", stage.clock.now())
    assert "1 cannot be read and 0 wait; the status of a-i1 cannot be read: `tally audit`" in told


def test_the_phases_of_a_member(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 6}, retention_seconds=3600)
    step(leader)
    of_array = why(stage)
    assert "member 4, the next one" in of_array
    assert why(stage, "a-i4") == f"a-i4, member 4 of a, has not begun. {of_array}"
    assert why(stage, "a-i0").startswith("attempt 1 of a-i0 was admitted 0s ago, holds cpu 1 of pool default")
    leader.see(observation(("a-i0", 1), Phase.FAILED, exit_code=3))
    leader.reconciler.step()
    assert why(stage, "a-i0").startswith("a-i0, member 0 of a, ended as Failed, after 1 attempt: Failed")
    end(leader)
    assert why(stage, "a-i0") == (
        "a-i0, member 0 of a, ended as Failed, after 1 attempt: Failed (exit code 3); a has not ended, and it"
        " is known until that is removed; `tally retry 'a[0]'` runs it again."
    )
    end(leader, 1, 2, 3, 4)
    end(leader, 5)
    assert why(stage, "a-i1") == (
        "a-i1, member 1 of a, ended as Succeeded, after 1 attempt (exit code 0); it is known until a is"
        " removed, in 1h."
    )
    stage.request("a", RequestKind.RETRY)
    stage.pool(paused=True)
    step(leader)
    assert why(stage, "a-i0").startswith("a-i0, member 0 of a, is to run again, after 1 attempt. a: 5 of 6 ")
    assert why(stage, "a-i6") == "There is no task a-i6."


def test_an_array_that_has_ended(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 4}, retention_seconds=3600)
    step(leader)
    stage.request("a", RequestKind.CANCEL, members="3")
    step(leader)
    end(leader, 0, 1)
    end(leader, 2, 3, failed=True)
    assert why(stage) == (
        "a ended as Failed at 1970-01-12T13:46:40Z: MembersFailed: 1 of 4 members failed: 2; it will be"
        " removed in 1h, and `tally retry a` runs the failed and the cancelled members again (`--failed`: the"
        " failed ones alone) before that."
    )


def test_a_member_whose_name_is_taken(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a-i1", resources={"cpu": 1})
    stage.submit("a", array={"size": 2})
    step(leader)
    assert why(stage, "a-i1").startswith("attempt 1 of a-i1 was admitted")
    end(leader, 0, 1)
    stage.delete(stage.keys.state("a-i1"))
    stage.delete(stage.keys.task("a-i1"))
    assert why(stage, "a-i1").startswith("a-i1, member 1 of a, did not run: another task had its name;")


def test_others_names_are_veiled(stage: Stage, leader: StagedReplica) -> None:
    """The sentence says nothing more of tasks of others than that of another task does."""
    stage.submit("theirs", resources={"cpu": 4})
    stage.submit("also-theirs", resources={"cpu": 3})
    stage.submit("a", array={"size": 3})
    leader.sync()
    assert "also-theirs" in why(stage)
    assert "theirs" not in veiled(why(stage), lambda name: name == "a", lambda _: True)
