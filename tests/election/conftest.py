"""One store, one clock, and two who want to lead."""

from __future__ import annotations

import pytest

from controller.store.memory import MemoryStore
from tests.election.candidates import Candidate
from tests.support.bench import HandClock


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def memory(clock: HandClock) -> MemoryStore:
    return MemoryStore(clock)


@pytest.fixture
def one(memory: MemoryStore, clock: HandClock) -> Candidate:
    return Candidate(memory, clock)


@pytest.fixture
def other(memory: MemoryStore, clock: HandClock) -> Candidate:
    return Candidate(memory.client(), clock, "b")
