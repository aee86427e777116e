"""What only the store in memory can show: leases by a clock that is moved by hand, and clients that share
a server.
"""

from __future__ import annotations

import pytest

from controller.core.model.op import Op
from controller.store.base import KeyEvent, Put, Transaction
from controller.store.memory import MemoryStore
from tests.support.bench import HandClock
from tests.support.watching import WatchReader


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def memory(clock: HandClock) -> MemoryStore:
    return MemoryStore(clock)


def put(store: MemoryStore, key: str, lease: int = 0) -> int:
    return store.commit(Transaction((), (Put(key, b"v", lease),), Op("op")), deadline=0).revision


def test_a_lease_lives_to_the_last_moment_and_not_beyond(memory: MemoryStore, clock: HandClock) -> None:
    memory.grant(1, 5, deadline=0)
    put(memory, "a", lease=1)
    clock.seconds += 4.999
    assert memory.get("a", deadline=0)[0] is not None
    assert memory.keep_alive(1, deadline=0) == 5
    clock.seconds += 4.999
    assert memory.get("a", deadline=0)[0] is not None
    clock.seconds += 0.001
    assert memory.get("a", deadline=0)[0] is None
    assert memory.keep_alive(1, deadline=0) == 0


def test_leases_expire_in_the_order_of_their_ends(memory: MemoryStore, clock: HandClock) -> None:
    for lease, ttl in ((1, 9), (2, 3), (3, 6)):
        memory.grant(lease, ttl, deadline=0)
        put(memory, f"k{lease}", lease=lease)
    watch = memory.watch("k", after=memory.get("k", deadline=0)[1])
    clock.seconds += 60
    batches = iter(watch)
    assert [next(batches).events[0].key for _ in range(3)] == ["k2", "k3", "k1"]


def test_moving_the_clock_wakes_a_waiting_watch(memory: MemoryStore, clock: HandClock) -> None:
    memory.grant(1, 5, deadline=0)
    after = put(memory, "a", lease=1)
    reader = WatchReader(memory.watch("a", after=after))
    clock.seconds += 5
    memory.expire_leases()
    assert reader.wait_for(["a"]) == [KeyEvent("a", after + 1, None)]
    reader.close()


def test_clients_share_keys_leases_and_history(memory: MemoryStore) -> None:
    other = memory.client()
    memory.grant(1, 5, deadline=0)
    reader = WatchReader(other.watch("", after=1))
    put(other, "a", lease=1)
    reader.wait_for(["a"])
    other.close()
    assert reader.wait_for_end() is None
    assert memory.get("a", deadline=0)[0] is not None
    memory.revoke(1, deadline=0)
    assert memory.load("", deadline=0).items == ()
