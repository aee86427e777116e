"""What the tests of views have in common."""

from __future__ import annotations

import pytest

from tests.support.bench import Stage, StagedReplica


@pytest.fixture
def stage() -> Stage:
    """An empty cluster with one pool of 4 cpus."""
    stage = Stage()
    stage.pool()
    return stage


@pytest.fixture
def leader(stage: Stage) -> StagedReplica:
    return stage.leader()
