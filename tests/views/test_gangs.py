"""What readers are shown of gangs: why one waits, starts, is stopped or ended; its members; what it used."""

from __future__ import annotations

from controller.core.model import features
from controller.core.model.requests import RequestKind
from controller.core.model.task import Phase
from controller.views import usage
from controller.views.array_runs import runs_of
from controller.views.arrays import members_of, progress_of
from controller.views.explain import explain
from controller.views.features import uses
from controller.views.gangs import roles_text
from controller.views.tasks import find_task
from tests.scenarios.test_arrays import end, step
from tests.scenarios.test_gangs import admit, runs
from tests.support.bench import Stage, StagedReplica, observation

ROLES = [{"name": "launcher", "size": 1}, {"name": "worker", "size": 3, "resources": {"cpu": "500m"}}]
OF_ROLES = "4 members (1 launcher, 3 worker)"


def submit(stage: Stage, name: str = "g", **more: object) -> None:
    stage.submit(name, array={"gang": True, "roles": ROLES}, **more)


def why(stage: Stage, name: str = "g") -> str:
    return explain(stage.model(), name, stage.clock.now())


def fail(leader: StagedReplica, name: str) -> None:
    """The first attempt of a member fails, and the others are told to stop."""
    leader.see(observation((name, 1), Phase.FAILED, exit_code=7, reason="Error"))
    leader.sync()
    leader.acknowledge(leader.run())


def states(stage: Stage, name: str = "g") -> list[tuple[int, str]]:
    found = runs_of(stage.model(), name)
    assert found is not None
    return found.runs


def test_it_waits_for_room_for_all(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("big", resources={"cpu": 2})
    step(leader)
    submit(stage)
    asks = f"g is a gang of {OF_ROLES}, which begin together or not at all, and ask for cpu 2500m in all"
    assert why(stage) == (
        f"{asks}: g waits for resources: it asks for cpu 2500m (2 free) of pool default (1 task there holds"
        " the rest), and no task is ahead."
    )
    assert why(stage, "g-i2") == f"g-i2, member 2 of g, has not begun. {why(stage)}"
    stage.pool(capacity={"cpu": 2})
    leader.sync()
    assert "g cannot run: it asks for cpu 2500m (2 in all) of pool default" in why(stage)


def test_it_starts(stage: Stage, leader: StagedReplica) -> None:
    submit(stage)
    admit(leader)
    holds = "holds cpu 2500m of pool default"
    assert why(stage) == (
        f"attempt 1 of g was admitted 0s ago and {holds}: 0 of {OF_ROLES} run, 4 have not begun; it is"
        " stopped in 10m if not all run by then."
    )
    step(leader)
    runs(leader, "g-i0-1")
    leader.see(
        observation(("g-i2", 1), Phase.PENDING, waiting="ErrImagePull", waiting_message="not found."),
        observation(("g-i3", 1), Phase.PENDING),
    )
    step(leader)
    stage.clock.move(120)
    assert why(stage) == (
        f"attempt 1 of g was admitted 2m ago and {holds}: 1 of {OF_ROLES} runs, 3 have begun and do not run"
        " yet (g-i2: the engine says: ErrImagePull: not found; g-i1, g-i3); it is stopped in 8m if not all"
        " run by then."
    )
    assert why(stage, "g-i2").endswith("; it is member 2 of the gang g (worker), which is Pending.")
    assert progress_of(stage.model().tasks["g"]) is not None
    assert states(stage) == [(1, "Running"), (3, "Pending")]


def test_it_runs(stage: Stage, leader: StagedReplica) -> None:
    submit(stage, deadlines={"run": 3600})
    step(leader)
    runs(leader, "g-i0-1", "g-i1-1", "g-i2-1", "g-i3-1")
    end(leader, "g-i0-1")
    stage.clock.move(60)
    assert why(stage) == (
        "attempt 1 of g has been running since 1970-01-12T13:46:40Z (1m): 1 of 4 members has ended, and it"
        " holds cpu 1500m of pool default; it is stopped in 59m if it has not ended by then."
    )
    assert why(stage, "g-i0").startswith("g-i0, member 0 of g, ended as Succeeded, after 1 attempt")


def test_it_is_stopped_and_ends(stage: Stage, leader: StagedReplica) -> None:
    submit(stage)
    step(leader)
    runs(leader, "g-i0-1", "g-i1-1", "g-i2-1", "g-i3-1")
    fail(leader, "g-i1")
    cause = "g-i1 failed: Error (exit code 7)"
    assert why(stage) == (
        f"attempt 1 of g is being stopped because a member did not succeed: {cause}; 3 of 4 members have"
        " still to prove their end (g-i0, g-i2, g-i3); it holds cpu 2 of pool default."
    )
    assert why(stage, "g-i2") == (
        f"attempt 1 of g-i2 is being stopped because its gang g is being stopped ({cause}), and holds cpu"
        " 500m of pool default until its end is observed; it is member 2 of the gang g (worker), which is"
        " Running."
    )
    end(leader, "g-i0-1", "g-i2-1", phase=Phase.FAILED)
    assert "; 1 of 4 members has still to prove its end (g-i3); it holds cpu 500m" in why(stage)
    end(leader, "g-i3-1", phase=Phase.FAILED)
    assert why(stage) == (
        f"g ended as Failed at 1970-01-12T13:46:40Z, after 1 attempt: Error: {cause}; it will be removed in"
        " 1d, and `tally retry g` runs all of its members again before that."
    )
    assert why(stage, "g-i1").endswith("`tally retry g` runs the whole gang.")
    assert states(stage) == [(1, "Cancelled"), (1, "Failed"), (2, "Cancelled")]
    stage.request("g", RequestKind.RETRY)
    assert "; the request to retry it waits for the leader" in why(stage)


def test_a_member_that_is_lost_is_named_with_the_command(stage: Stage, leader: StagedReplica) -> None:
    submit(stage)
    step(leader)
    runs(leader, "g-i0-1", "g-i1-1", "g-i2-1", "g-i3-1")
    leader.see(observation(("g-i2", 1), Phase.FAILED, stopped=False))
    step(leader)
    fail(leader, "g-i1")
    end(leader, "g-i0-1", "g-i3-1", phase=Phase.FAILED)
    assert why(stage).endswith(
        "; 1 of 4 members has still to prove its end (g-i2); 1 member (g-i2) is lost: if you know that one no"
        " longer runs, confirm it, as with `tally confirm-stopped g-i2`; it holds cpu 500m of pool default."
    )


def test_members_that_never_began_are_cancelled_with_their_gang(stage: Stage, leader: StagedReplica) -> None:
    submit(stage, retention_seconds=3600)
    admit(leader)
    assert states(stage) == [(4, "Waiting")]
    stage.request("g", RequestKind.CANCEL)
    step(leader)
    assert states(stage) == [(4, "Cancelled")]
    progress = progress_of(stage.model().tasks["g"])
    assert progress is not None
    assert (progress.cancelled, progress.waiting) == (4, 0)
    assert why(stage, "g-i3") == (
        "g-i3, member 3 of g, ended as Cancelled, and never ran; it is known until g is removed, in 1h;"
        " `tally retry g` runs the whole gang."
    )


def test_members_have_their_roles_in_each_phase(stage: Stage, leader: StagedReplica) -> None:
    submit(stage)
    roles = ["launcher", "worker", "worker", "worker"]
    for advance in (lambda: admit(leader), lambda: step(leader), lambda: fail(leader, "g-i1")):
        found = members_of(stage.model(), "g")
        assert found is not None
        assert [each.role for each in found.items] == roles
        advance()
    end(leader, "g-i0-1", "g-i2-1", "g-i3-1", phase=Phase.FAILED)
    found = members_of(stage.model(), "g", states={"Cancelled"})
    assert found is not None
    assert [(each.index, each.role) for each in found.items] == [
        (0, "launcher"),
        (2, "worker"),
        (3, "worker"),
    ]


def test_a_gang_that_is_retried_tells_what_it_asks_for(stage: Stage, leader: StagedReplica) -> None:
    submit(stage, retry={"max_attempts": 2, "backoff_seconds": 50})
    step(leader)
    fail(leader, "g-i1")
    end(leader, "g-i0-1", "g-i2-1", "g-i3-1", phase=Phase.FAILED)
    assert why(stage).startswith(
        f"g is a gang of {OF_ROLES}, which begin together or not at all, and ask for"
    )
    assert "cpu 2500m in all: g is in back-off after Error: g-i1 failed" in why(stage)
    assert why(stage, "g-i2") == f"g-i2, member 2 of g, is to run again, after 1 attempt. {why(stage)}"
    found = members_of(stage.model(), "g")
    assert found is not None
    assert [(each.state, each.attempts) for each in found.items] == [("Waiting", 1)] * 4
    facts = find_task(stage.model(), "g-i2")
    assert facts is not None
    assert (facts.state, facts.attempt) == ("WaitingRetry", 1)
    assert states(stage) == [(4, "Waiting")]


def test_a_gang_whose_spec_is_gone(stage: Stage, leader: StagedReplica) -> None:
    submit(stage)
    step(leader)
    stage.delete(stage.keys.task("g"))
    step(leader)
    assert "attempt 1 of g is being stopped because its spec was deleted" in why(stage)


def test_a_member_whose_status_cannot_be_read(stage: Stage, leader: StagedReplica) -> None:
    submit(stage)
    step(leader)
    stage.put(stage.keys.state("g-i2"), b"?")
    assert "3 have begun and do not run yet (g-i0, g-i1, g-i3), 1 cannot be read; " in why(stage)
    fail(leader, "g-i1")
    assert "; the status of 1 member cannot be read: see `tally audit`" in why(stage)


def test_its_roles() -> None:
    stage = Stage()
    submit(stage)
    stage.submit("plain", array={"gang": True, "size": 3})
    assert roles_text(stage.model().tasks["g"].spec) == "launcher (0), worker (1-3)"
    assert roles_text(stage.model().tasks["plain"].spec) == ""
    found = members_of(stage.model(), "plain")
    assert found is not None
    assert {each.role for each in found.items} == {""}


def test_what_it_used_is_counted_once(stage: Stage, leader: StagedReplica) -> None:
    submit(stage, labels={"team": "a"})
    stage.submit("other", labels={"team": "a"})
    admit(leader)
    for _ in range(3):
        stage.clock.move(60)
        step(leader)
    told = usage.by_label(stage.model(), "team", "", (None, None), round(stage.clock.now() * 1000))
    assert [(line.name, line.used) for line in told.items] == [("a", {"cpu": str(180_000 * 3500)})]
    assert any("a gang is counted whole" in note for note in told.notes)
    fail(leader, "g-i1")
    stage.clock.move(60)
    end(leader, "g-i0-1", "g-i2-1", "g-i3-1", phase=Phase.FAILED)
    stage.clock.move(60)
    step(leader)
    told = usage.by_label(stage.model(), "team", "", (None, None), round(stage.clock.now() * 1000))
    assert [line.used for line in told.items] == [{"cpu": str(240_000 * 2500 + 300_000 * 1000)}]


def test_usage_by_label_says_that_it_lacks_members_that_ended(stage: Stage, leader: StagedReplica) -> None:
    """Their times are in no block. A gang is counted by its own history."""
    submit(stage, labels={"team": "a"})
    step(leader)
    for member in range(4):
        end(leader, f"g-i{member}-1")

    def notes(pool: str = "") -> str:
        now = round(stage.clock.now() * 1000)
        return " ".join(usage.by_label(stage.model(), "team", pool, (None, None), now).notes)

    assert "members of arrays" not in notes()
    stage.submit("a", array={"size": 2}, labels={"team": "a"})
    step(leader)
    assert "members of arrays" not in notes()
    end(leader, "a-i0-1")
    assert "members of arrays that have ended are left out" in notes()
    assert "members of arrays" not in notes("other")


def test_what_keeps_the_feature_on(stage: Stage, leader: StagedReplica) -> None:
    submit(stage)
    stage.submit("array", array={"size": 2}, resources={})
    admit(leader)
    assert uses(stage.model(), features.GANGS) == ["task/g"]
    step(leader)
    stage.delete(stage.keys.task("g"))
    assert uses(stage.model(), features.GANGS) == ["task/g", *(f"task/g-i{index}" for index in range(4))]
