"""The gateway's own promises: threads do not share a connection, keys of any bytes survive, versions are
told.
"""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from controller.core.model.op import Op
from controller.dev.etcd import EtcdBinary, EtcdProcess
from controller.store.base import Committed, Guard, Put, StoreUnavailable, Transaction
from controller.store.etcd.connection import Connection, GatewayOptions
from controller.store.etcd.faults import ConnectionFailed, ErrorClass, classify
from controller.store.etcd.store import EtcdStore
from controller.store.etcd.wire import prefix_range
from tests.support.etcd import EtcdFactory, admin, free_ports, in_seconds
from tests.support.fake_etcd import FakeEtcd, Reply, header


def test_many_threads_through_one_store_each_get_their_own_answer(store: EtcdStore, prefix: str) -> None:
    def roundtrip(n: int) -> bool:
        key, value = f"{prefix}{n}", b"%d" % n * 50
        result = store.commit(
            Transaction((Guard(key, 0),), (Put(key, value),), Op(f"op-{n}")), deadline=in_seconds(30)
        )
        found, _ = store.get(key, deadline=in_seconds(30))
        return isinstance(result, Committed) and found is not None and found.value == value

    with ThreadPoolExecutor(24) as pool:
        assert all(pool.map(roundtrip, range(300)))
    assert store.gateway.endpoints.failures == {}


def test_a_foreign_key_that_is_no_text_is_shown_and_does_not_stop_the_load(
    store: EtcdStore, prefix: str
) -> None:
    admin(store, "/kv/put", {"key": prefix.encode() + b"\xff\x00", "value": b"x"})
    keys = [item.key for item in store.load(prefix, deadline=in_seconds()).items]
    assert keys == [prefix + "\\xff\0"]


def test_pages_go_on_after_a_key_that_is_no_text(store: EtcdStore, prefix: str) -> None:
    foreign = [{"request_put": {"key": prefix.encode() + b"\xff%03d" % n}} for n in range(120)]
    for _ in range(5):
        admin(store, "/kv/txn", {"success": foreign})
        foreign = [{"request_put": {"key": put["request_put"]["key"] + b"x"}} for put in foreign]
    assert len(store.load(prefix, deadline=in_seconds()).items) == 600


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        (b"/tally/", (b"/tally/", b"/tally0")),
        (b"", (b"\0", b"\0")),
        (b"a\xff\xff", (b"a\xff\xff", b"b")),
        (b"\xff", (b"\xff", b"\0")),
    ],
)
def test_the_range_of_a_prefix(prefix: bytes, expected: tuple[bytes, bytes]) -> None:
    assert prefix_range(prefix) == expected


@pytest.mark.parametrize(
    ("message", "code", "fault"),
    [
        ("etcdserver: invalid auth token", 16, ErrorClass.TOKEN),
        ("auth: revision in header is old", 2, ErrorClass.TOKEN),
        ("etcdserver: revision of auth store is old", 3, ErrorClass.TOKEN),
        ("etcdserver: user name is empty", 3, ErrorClass.TOKEN),
        ("rpc error: code = PermissionDenied desc = etcdserver: permission denied", 0, ErrorClass.DENIED),
        ("etcdserver: mvcc: database space exceeded", 8, ErrorClass.FULL),
        ("grpc: received message larger than max (2700008 vs. 2097152)", 8, ErrorClass.TOO_LARGE),
        ("etcdserver: no leader", 14, ErrorClass.TRANSIENT),
        ("etcdserver: not capable", 14, ErrorClass.TRANSIENT),
        ("something new", 2, ErrorClass.TRANSIENT),
        ("something new", 0, ErrorClass.TRANSIENT),
        ("something new", 3, ErrorClass.REFUSED),
    ],
)
def test_what_an_error_means(message: str, code: int, fault: ErrorClass) -> None:
    assert classify(message, code) is fault


def test_the_version_of_each_endpoint(
    etcd: EtcdProcess, etcd_binary: EtcdBinary, etcd_factory: EtcdFactory
) -> None:
    dead = f"http://127.0.0.1:{free_ports(1)[0]}"
    versions = etcd_factory.store(etcd.url, dead).gateway.versions(deadline=in_seconds())
    assert versions[etcd.url] == ".".join(map(str, etcd_binary.version))
    assert "refused" in versions[dead]


def test_paths_follow_the_servers_version(etcd_factory: EtcdFactory) -> None:
    with FakeEtcd(lambda *_: Reply({"header": header()})) as fake:
        fake.version = "3.3.27"
        etcd_factory.store(fake.url).get("a", deadline=in_seconds())
        assert [path for path, _ in fake.requests] == ["/v3beta/kv/range"]


def test_a_closed_store_asks_nobody(etcd: EtcdProcess, etcd_factory: EtcdFactory) -> None:
    store = etcd_factory.store(etcd.url)
    store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        store.get("a", deadline=in_seconds())


def test_requests_are_what_etcd_documents(etcd_factory: EtcdFactory) -> None:
    with FakeEtcd(lambda *_: Reply({"header": header(5), "succeeded": True})) as fake:
        transaction = Transaction(
            (Guard("k", 3), Guard("p/", 7, is_prefix=True), Guard("k", 2, on_create=True)),
            (Put("k", b"\0", 9),),
            Op("op"),
        )
        assert etcd_factory.store(fake.url).commit(transaction, deadline=in_seconds()) == Committed(5)
        assert fake.requests[0][1] == {
            "compare": [
                {"key": "aw==", "target": "MOD", "mod_revision": 3},
                {"key": "cC8=", "range_end": "cDA=", "target": "MOD", "result": "LESS", "mod_revision": 8},
                {"key": "aw==", "target": "CREATE", "create_revision": 2},
            ],
            "success": [{"request_put": {"key": "aw==", "value": "AA==", "lease": 9}}],
            "failure": [
                {"request_range": {"key": "aw=="}},
                {"request_range": {"key": "cC8=", "range_end": "cDA=", "min_mod_revision": 8, "limit": 8}},
            ],
        }


def test_a_server_that_drips_does_not_hold_a_call() -> None:
    """The time is that of the whole answer: the next endpoint gets its turn."""
    sent: list[bytes] = []
    ended = threading.Event()

    def drip(line: socket.socket) -> None:
        with suppress(OSError), line:
            line.recv(65536)
            line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while len(sent) < 1000 and not ended.wait(0.05):
                line.sendall(b" ")
                sent.append(b" ")

    with socket.create_server(("127.0.0.1", 0)) as server:
        serving = threading.Thread(target=lambda: drip(server.accept()[0]))
        serving.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        connection = Connection(url, GatewayOptions((url,)), None)
        with pytest.raises(ConnectionFailed):
            connection.connect(0.5)
        ended.set()
        serving.join()
    assert 0 < len(sent) < 500
