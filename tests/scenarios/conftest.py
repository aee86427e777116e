"""Where most scenarios begin."""

from __future__ import annotations

import pytest

from tests.support.bench import Stage


@pytest.fixture
def stage() -> Stage:
    """An empty cluster with one pool of 4 cpus."""
    stage = Stage()
    stage.pool()
    return stage
