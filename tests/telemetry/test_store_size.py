"""The store's size, as etcd tells it."""

from __future__ import annotations

import threading

from controller.clock import SystemClock
from controller.store.base import StoreSize, StoreUnavailable
from controller.store.etcd.store import EtcdStore
from controller.telemetry.store_size import StoreSizePoll
from tests.support.etcd import in_seconds
from tests.support.waiting import wait_until

CLOCK = SystemClock()


def test_etcd_tells_its_size(store: EtcdStore) -> None:
    size = store.size(deadline=in_seconds())
    assert 0 < size.in_use <= size.used
    assert size.quota == 0 or size.quota > size.used


def test_it_is_asked_again_and_again_whatever_fails(store: EtcdStore) -> None:
    told: list[StoreSize] = []
    asked = 0

    def ask(deadline: float) -> StoreSize:
        nonlocal asked
        asked += 1
        if asked % 2:
            raise StoreUnavailable("away")
        return store.size(deadline=deadline)

    poll = StoreSizePoll(ask, told.append, CLOCK, interval=0.01)
    poll.start()
    wait_until(lambda: len(told) >= 3, "three answers")
    poll.close()
    assert "store-size" not in {thread.name for thread in threading.enumerate()}
