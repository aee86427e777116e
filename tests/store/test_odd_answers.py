"""Whatever stands in an answer of etcd, or of what answers in its place: a store's error, and never another (fault 44)."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.store import wire
from controller.store.base import Delete, Guard, Put, StoreError, Transaction
from controller.store.etcd import EtcdStore
from tests.support.etcd import EtcdFactory, in_seconds
from tests.support.fake_etcd import FakeEtcd, Reply, Stream, header

DEEP = b"[" * 200_000
HEAD = json.dumps(header(5)).encode()
BODIES = [
    b"", b"{}", b"null", b"5", b"[]", DEEP, b'{"x":' + DEEP, b"\xff\xfe", b'{"header":5}', b'{"header":{"revision":"1e400"}}',
    b'{"header":{"cluster_id":"1234","revision":"-5"}}', b'{"header":' + HEAD + b',"kvs":[{"key":"%%"}]}',
    b'{"header":' + HEAD + b',"more":true}', b'{"header":' + HEAD + b',"responses":[{}]}',
    b'{"header":' + HEAD + b',"responses":[{"response_range":{"kvs":5}}]}', b'{"result":{}}', b'{"result":{"header":5}}',
    b'{"error":"x","code":"y"}', b'{"header":' + HEAD + b',"TTL":"9' + b"9" * 400 + b'"}', b'{"header":' + HEAD + b',"a":"\xff"}',
]  # fmt: skip
DECODERS: list[Callable[[bytes], Any]] = [
    wire.decode_range, wire.decode_transaction, wire.decode_lease, wire.decode_keep_alive, wire.decode_watch, wire.decode_token,
    wire.decode_version, wire.decode_status, wire.decode_error,
]  # fmt: skip
RECORDED = [
    {"header": header(7), "kvs": [{"key": "YQ==", "value": "Yg==", "mod_revision": "5"}], "count": "1", "more": False},
    {"header": header(7), "succeeded": False, "responses": [{"response_range": {"header": header(7)}}]},
    {"result": {"header": header(7), "created": True, "events": [{"kv": {"key": "YQ==", "mod_revision": "8"}, "type": "PUT"}]}},
    {"result": {"header": header(7), "ID": "5", "TTL": "5"}},
    {"error": "etcdserver: request timed out", "message": "etcdserver: request timed out", "code": 14},
    {"etcdserver": "3.5.1", "etcdcluster": "3.5.0"},
    {"header": header(7), "token": "abc", "dbSize": "20480"},
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A recorded answer in which one value is another, or some bytes are."""
    document = draw(st.sampled_from(RECORDED))

    def change(value: Any) -> Any:
        if isinstance(value, dict) and value and draw(st.integers(0, 3)):
            name = draw(st.sampled_from(sorted(value)))
            return {**value, name: change(value[name])}
        if isinstance(value, list) and value and draw(st.integers(0, 3)):
            return [change(value[0]), *value[1:]]
        return draw(JSON)

    data = json.dumps(change(document)).encode()
    if draw(st.booleans()):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=4)) + data[at + draw(st.integers(0, 4)) :]
    return data


@given(data=mutated() | st.binary(max_size=60) | st.sampled_from(BODIES))
def test_a_decoder_takes_an_answer_or_says_that_it_is_none(data: bytes) -> None:
    for decode in DECODERS:
        try:
            decode(data)
        except msgspec.MsgspecError:
            continue


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body[:24]))
@pytest.mark.parametrize("status", [200, 500])
def test_every_call_fails_as_a_store_does(etcd_factory: EtcdFactory, body: bytes, status: int) -> None:
    """No KeyError, TypeError or RecursionError leaves it; and an answer without a header is no sign of another cluster."""

    def answer(path: str, _request: dict[str, Any]) -> Reply | Stream:
        return Stream([body + b"\n"]) if path.endswith("/watch") and status == 200 else Reply(body, status)

    transaction = Transaction((Guard("k", 3),), (Put("k", b"v"), Delete("x")), "op")
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
