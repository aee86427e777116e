"""Replicas on a memory store, and a client of their cluster that knows what is true."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from controller.client import Client
from controller.clock import SystemClock
from controller.store.memory import MemoryStore
from tests.support.running import POOL, RunningReplica

CLUSTER = "runtime"
CLOCK = SystemClock()
Start = Callable[..., RunningReplica]


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore(CLOCK)


@pytest.fixture
def client(memory: MemoryStore) -> Client:
    made = Client.of_store(memory.client(), cluster=CLUSTER)
    made.apply_pool(POOL)
    return made


@pytest.fixture
def start(memory: MemoryStore) -> Iterator[Start]:
    """Starts replicas, which end with the test."""
    replicas: list[RunningReplica] = []

    def make(store: Any = None, name: str = "r1", **options: Any) -> RunningReplica:
        replicas.append(RunningReplica(store or memory.client(), name, cluster=CLUSTER, **options))
        return replicas[-1]

    yield make
    for replica in replicas:
        replica.close()
