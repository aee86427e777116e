"""What the tests of views have in common."""

from __future__ import annotations

import pytest

from tests.scenarios.test_arrays import step
from tests.support.bench import Stage, StagedReplica


@pytest.fixture
def stage() -> Stage:
    """An empty cluster with one pool of 4 cpus."""
    stage = Stage()
    stage.pool()
    return stage


@pytest.fixture
def leader(stage: Stage) -> StagedReplica:
    """It has begun what may begin at once of the tasks that the stage has."""
    leader = stage.leader()
    step(leader)
    return leader
