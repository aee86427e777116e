"""The store's size, as etcd tells it."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import MsgspecError

from controller.clock import SystemClock
from controller.store.base import StoreDenied, StoreSize, StoreUnavailable
from controller.store.etcd.store import EtcdStore
from controller.store.etcd.wire import status_in_metrics
from controller.telemetry.store_size import StoreSizePoll
from tests.support.etcd import EtcdFactory, in_seconds
from tests.support.fake_etcd import FakeEtcd, Reply
from tests.support.waiting import wait_until

CLOCK = SystemClock()
NAMES = (
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "etcd_server_quota_backend_bytes",
)


def test_etcd_tells_its_size(store: EtcdStore) -> None:
    size = store.size(deadline=in_seconds())
    assert 0 < size.in_use <= size.used
    assert size.quota == 0 or size.quota > size.used


def test_metrics_tell_it_to_whom_the_status_is_refused(store: EtcdStore) -> None:
    """Its own metrics, as they are; see EtcdStore.size."""
    told = store._measured(in_seconds())
    assert (told.db_size, told.db_size_in_use) == store.size(deadline=in_seconds())[:2]
    assert told.db_size_quota > told.db_size


@pytest.mark.parametrize("metrics", [None, b"", b"etcd_mvcc_db_total_size_in_bytes NaN\n"])
def test_nobody_tells_it(metrics: bytes | None, etcd_factory: EtcdFactory) -> None:
    denied = Reply(b'{"error":"etcdserver: permission denied","code":7}', 403)
    with FakeEtcd(lambda _path, _request: denied) as fake:
        fake.metrics = metrics
        with pytest.raises(StoreDenied, match="watch etcd_mvcc_db_total_size_in_bytes where"):
            etcd_factory.store(fake.url).size(deadline=in_seconds())


@given(st.lists(st.sampled_from([*NAMES, " ", "\n", '{a="b"}', "1.5e+09", "+Inf"]) | st.text(max_size=3)))
def test_whatever_the_metrics_are(pieces: list[str]) -> None:
    try:
        told = status_in_metrics("".join(pieces).encode())
    except MsgspecError:
        return
    assert told.db_size >= 0


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
