"""Why Tally exists, as a test: several replicas hear of the same end, in every order, doubled.

The real replicas, which all take themselves to be the leader, write the state once and release the resources
once. A naive backend, written here, which releases in each replica and computes the balance from what it has
read, corrupts it.
"""

from __future__ import annotations

import itertools

import pytest

from controller.core.model.lifecycle import State
from controller.core.model.task import Phase
from controller.election.term import LeadershipLost
from tests.support.bench import Stage, StagedReplica, observation

ORDERS = sorted(set(itertools.permutations([0, 0, 1, 1, 2, 2])))


def running_task(stage: Stage) -> StagedReplica:
    """One task runs, and holds 1 of 4 cpus; returns the replica that leads."""
    stage.pool()
    stage.submit("job")
    leader = stage.replica()
    leader.list_engine()
    leader.acknowledge(leader.run())
    leader.see(observation(("job", 1), Phase.RUNNING))
    leader.run()
    assert stage.state("job") == State.RUNNING
    assert stage.held() == {"cpu": "1"}
    return leader


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: "".join(map(str, order)))
def test_each_end_is_written_once(order: tuple[int, ...]) -> None:
    """Three replicas, all of the same term even, hear the end twice each: one write, one release."""
    stage = Stage()
    first = running_task(stage)
    replicas = [first, stage.replica(), stage.replica()]
    for replica in replicas[1:]:
        replica.list_engine(observation(("job", 1), Phase.RUNNING))
        replica.run()
    before, _ = stage.store.get(stage.keys.state("job"), deadline=stage.clock.boottime() + 5)
    for index in order:
        replicas[index].see(observation(("job", 1), Phase.SUCCEEDED))
        replicas[index].run()
    after, _ = stage.store.get(stage.keys.state("job"), deadline=stage.clock.boottime() + 5)
    ledger, _ = stage.store.get(stage.keys.ledger("default"), deadline=stage.clock.boottime() + 5)
    assert before is not None
    assert after is not None
    assert ledger is not None
    assert after.version == before.version + 1, "the state was written once"
    assert ledger.mod == after.mod, "the ledger was written last in the same transaction"
    assert stage.state("job") == State.SUCCEEDED
    assert stage.held() == {}
    stage.check()


def test_a_deposed_leader_writes_nothing() -> None:
    """The term before hears of the end, late: its transaction fails the fence, and it steps down."""
    stage = Stage()
    old = running_task(stage)
    stage.elect()
    new = stage.replica()
    new.list_engine(observation(("job", 1), Phase.SUCCEEDED))
    new.run()
    revision = stage.model().revision
    old.see(observation(("job", 1), Phase.FAILED, exit_code=1))
    with pytest.raises(LeadershipLost, match="fenced"):
        old.run()
    assert stage.model().revision == revision, "nothing was written"
    assert stage.state("job") == State.SUCCEEDED
    stage.check()


class NaiveReplica:
    """What a backend without a decider does: each replica hears the end, writes the state, and releases."""

    def __init__(self, store: dict[str, object]) -> None:
        self.store = store
        self._read_balance = 0

    def hear_end(self) -> None:
        """First half: read the balance."""
        self._read_balance = int(str(self.store["free"]))

    def release(self) -> None:
        """Second half: write what was computed from it."""
        self.store["state"] = "Succeeded"
        self.store["free"] = self._read_balance + 1


def naive_free(interleaving: tuple[tuple[int, str], ...]) -> int:
    """The naive backend's free cpus after one task of 1 cpu has ended, of 4 in all."""
    store: dict[str, object] = {"state": "Running", "free": 3}
    replicas = [NaiveReplica(store) for _ in range(3)]
    for index, half in interleaving:
        replicas[index].hear_end() if half == "read" else replicas[index].release()
    return int(str(store["free"]))


def test_the_naive_backend_is_corrupted() -> None:
    """The same observations, without election and fence: free resources grow, and updates are lost."""
    one_after_another = tuple((index, half) for index in range(3) for half in ("read", "write"))
    assert naive_free(one_after_another) == 6, "three releases for one task: more free than there is"
    two_tasks_read_together = ((0, "read"), (1, "read"), (0, "write"), (1, "write"))
    store: dict[str, object] = {"state": "Running", "free": 2}  # two tasks run, and each has one replica
    replicas = [NaiveReplica(store), NaiveReplica(store)]
    for index, half in two_tasks_read_together:
        replicas[index].hear_end() if half == "read" else replicas[index].release()
    assert store["free"] == 3, "two releases, one lost: 4 would be right"
