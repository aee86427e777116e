"""All members at once: as runs of neighbours, and by pool and state."""

from __future__ import annotations

import pytest

from controller.core.model.blocks import Block, Fate, MemberOutcome
from controller.core.model.op import Op
from controller.core.model.requests import RequestKind
from controller.views import array_runs
from controller.views.array_runs import MemberRuns, members_by_pool, runs_of
from controller.views.arrays import members_of
from tests.support.bench import Stage, StagedReplica
from tests.views.test_arrays import end, progress, step


def runs(stage: Stage) -> MemberRuns:
    """Those of the array a. They are what the list of members has, and what the progress counts."""
    model = stage.model()
    found, listed = runs_of(model, "a"), members_of(model, "a", limit=10_000)
    assert found is not None
    assert listed is not None
    assert [state for count, state in found.runs for _ in range(count)] == [
        member.state for member in listed.items
    ]
    counts = dict.fromkeys(progress(stage).by_state(), 0)
    for count, state in found.runs:
        if state in counts:
            counts[state] += count
    assert counts == progress(stage).by_state()
    return found


def test_neighbours_with_one_state_are_one_run(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 2500})
    assert runs(stage).runs == [(2500, "Waiting")]
    step(leader)
    assert runs(stage).runs == [(4, "Pending"), (2496, "Waiting")]
    end(leader, 0, 1)
    end(leader, 2, failed=True)
    assert runs(stage).runs == [
        (2, "Succeeded"),
        (1, "Failed"),
        (4, "Pending"),
        (2493, "Waiting"),
    ]
    stage.request("a", RequestKind.CANCEL, members="1000-2047,2499")
    step(leader)
    assert runs(stage).runs[3:] == [
        (993, "Waiting"),
        (1048, "Cancelled"),
        (451, "Waiting"),
        (1, "Cancelled"),
    ]


def test_what_cannot_be_read_and_what_never_began(stage: Stage, leader: StagedReplica) -> None:
    stage.submit("a", array={"size": 2000})
    stage.put(f"{stage.keys.prefix}arrays/a/0", b"?")
    assert runs(stage).runs == [(1024, "Unreadable"), (976, "Waiting")]
    stage.delete(f"{stage.keys.prefix}arrays/a/0")
    stage.request("a", RequestKind.CANCEL)
    step(leader)
    assert runs(stage).runs == [(2000, "Cancelled")]
    assert runs_of(stage.model(), "b") is None
    assert members_by_pool(stage.model())["default", "Cancelled"] == 2000


def test_a_block_with_more_members_than_the_array(stage: Stage, leader: StagedReplica) -> None:
    """Whoever wrote it: what is beyond the array is left out."""
    stage.submit("a", array={"size": 3})
    array = stage.model().arrays.of("a")
    assert array is not None
    block = Block.of_fates(
        array.of, [Fate(MemberOutcome.SUCCEEDED, 1, 0)] * 2 + [Fate(MemberOutcome.FAILED, 1)] * 5
    )
    stage.put(f"{stage.keys.prefix}arrays/a/0", block.encode(Op("another")))
    assert runs(stage).runs == [(2, "Succeeded"), (1, "Failed")]


def test_too_many_runs_are_cut_off(
    stage: Stage, leader: StagedReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of a run."""
    monkeypatch.setattr(array_runs, "MAX_RUNS", 2)
    stage.submit("a", array={"size": 50})
    step(leader)
    end(leader, 1)
    found = runs_of(stage.model(), "a")
    assert found == MemberRuns(id="a", size=50, runs=[(1, "Pending"), (1, "Succeeded")], truncated=True)
