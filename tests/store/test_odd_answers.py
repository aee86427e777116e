"""Whatever stands in an answer of etcd, or of what answers in its place: a store's error, and never
another (fault 44).
"""

from __future__ import annotations

import contextlib
import json
import threading
from typing import Any

import pytest

from controller.core.model.op import Op
from controller.store.base import Delete, Guard, Put, StoreError, Transaction
from controller.store.etcd.store import EtcdStore
from tests.support.etcd import EtcdFactory, in_seconds
from tests.support.fake_etcd import FakeEtcd, Reply, Stream, header

DEEP = b"[" * 200_000
HEAD = json.dumps(header(5)).encode()
BODIES = [
    b"",
    b"{}",
    b"null",
    b"5",
    b"[]",
    DEEP,
    b'{"x":' + DEEP,
    b"\xff\xfe",
    b'{"header":5}',
    b'{"header":{"revision":"1e400"}}',
    b'{"header":{"cluster_id":"1234","revision":"-5"}}',
    b'{"header":' + HEAD + b',"kvs":[{"key":"%%"}]}',
    b'{"header":' + HEAD + b',"more":true}',
    b'{"header":' + HEAD + b',"responses":[{}]}',
    b'{"header":' + HEAD + b',"responses":[{"response_range":{"kvs":5}}]}',
    b'{"result":{}}',
    b'{"result":{"header":5}}',
    b'{"error":"x","code":"y"}',
    b'{"header":' + HEAD + b',"TTL":"9' + b"9" * 400 + b'"}',
    b'{"header":' + HEAD + b',"a":"\xff"}',
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body[:24]))
@pytest.mark.parametrize("status", [200, 500])
def test_every_call_fails_as_a_store_does(etcd_factory: EtcdFactory, body: bytes, status: int) -> None:
    """No KeyError, TypeError or RecursionError leaves it; and an answer without a header is no sign of
    another cluster.
    """

    def answer(path: str, _request: dict[str, Any]) -> Reply | Stream:
        return Stream([body + b"\n"]) if path.endswith("/watch") and status == 200 else Reply(body, status)

    guards = (Guard("k", 3), Guard("p/", 3, is_prefix=True))
    transaction = Transaction(guards, (Put("k", b"v"), Delete("x")), Op("op"))
    with FakeEtcd(answer) as fake:
        store: EtcdStore = etcd_factory.store(fake.url)
        for call in (
            lambda: store.get("k", deadline=in_seconds(0.05)),
            lambda: store.load("k", deadline=in_seconds(0.05)),
            lambda: store.commit(transaction, deadline=in_seconds(0.05)),
            lambda: store.grant(5, 5, deadline=in_seconds(0.05)),
            lambda: store.keep_alive(5, deadline=in_seconds(0.05)),
            lambda: store.revoke(5, deadline=in_seconds(0.05)),
            lambda: store.size(deadline=in_seconds(0.05)),
        ):
            with contextlib.suppress(StoreError):
                call()
        watch = store.watch("k", after=1)
        timer = threading.Timer(0.2, watch.close)
        timer.start()
        with contextlib.suppress(StoreError):
            assert list(watch) == []
        timer.cancel()
        if body in (b"{}", b'{"result":{}}'):
            assert store.identity.floor() == 0
