"""Each defect of etcd3-py that the store works round: the naive use fails, ours does not.

If one of the first halves fails after an upgrade of the library, the defect is gone, and so may be our way
round it.
"""

from __future__ import annotations

import base64
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import etcd3
import pytest
import requests

from controller.core.model.op import Op
from controller.dev.etcd import EtcdProcess
from controller.store.base import (
    Compacted,
    Guard,
    Put,
    Refused,
    StoreDenied,
    StoreError,
    StoreUnavailable,
    Transaction,
)
from controller.store.etcd.store import EtcdStore
from tests.support.etcd import EtcdFactory, enable_authentication, free_ports, in_seconds
from tests.support.fake_etcd import FakeEtcd, Reply, Stream, header, line
from tests.support.proxy import Proxy
from tests.support.tls import Authority
from tests.support.waiting import wait_until
from tests.support.watching import WatchReader


@pytest.fixture(autouse=True)
def _library_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def its_threads() -> Iterator[None]:
    """No thread of the library outlives the test: whichever test ran when it died would be blamed."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()


def naive(etcd: EtcdProcess, **options: Any) -> etcd3.Client:
    return etcd3.Client(port=etcd.config.client_port, **options)


def put(store: EtcdStore, key: str, value: bytes = b"v") -> int:
    return store.commit(Transaction((), (Put(key, value),), Op("op")), deadline=in_seconds()).revision


def test_a_dead_endpoint_fails_the_constructor(
    etcd: EtcdProcess, etcd_factory: EtcdFactory, prefix: str
) -> None:
    (dead,) = free_ports(1)
    with pytest.raises(AttributeError):
        etcd3.Client(port=dead)
    store = etcd_factory.store(f"http://127.0.0.1:{dead}")
    with pytest.raises(StoreUnavailable, match="refused"):
        store.get(prefix, deadline=in_seconds(0.5))


def test_one_endpoint_and_no_failover(
    etcd: EtcdProcess, etcd_factory: EtcdFactory, prefix: str, proxy_to: Callable[[int], Proxy]
) -> None:
    proxy = proxy_to(etcd.config.client_port)
    client = etcd3.Client(port=proxy.port)
    store = etcd_factory.store(proxy.url, etcd.url)
    put(store, prefix)
    proxy.refuse()
    with pytest.raises(requests.ConnectionError):
        client.range(prefix)
    assert store.get(prefix, deadline=in_seconds())[0] is not None


def test_certificates_are_not_verified_unless_asked(
    etcd_factory: EtcdFactory, authority: Authority, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)
    server = etcd_factory.start(**authority.server_files())
    assert naive(server, protocol="https").range(prefix).header.revision == 1
    with pytest.raises(StoreDenied, match="certificate verify failed"):
        etcd_factory.store(server.url).get(prefix, deadline=in_seconds())
    assert etcd_factory.store(server.url, ca_file=authority.ca_file).get(prefix, deadline=in_seconds()) == (
        None,
        1,
    )


def test_the_environment_overrides_the_ca(
    etcd_factory: EtcdFactory, authority: Authority, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = etcd_factory.start(**authority.server_files())
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", authority.stranger().ca_file)
    with pytest.raises(requests.exceptions.SSLError):
        naive(server, protocol="https", verify=authority.ca_file).range(prefix)
    assert etcd_factory.store(server.url, ca_file=authority.ca_file).get(prefix, deadline=in_seconds()) == (
        None,
        1,
    )
    # The other way round it is worse: the environment makes a server trusted that the given file does not
    # vouch for.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", authority.ca_file)
    with pytest.raises(StoreDenied, match="certificate verify failed"):
        etcd_factory.store(server.url, ca_file=authority.stranger().ca_file).get(
            prefix, deadline=in_seconds()
        )


def test_no_timeout_unless_given(
    etcd: EtcdProcess, etcd_factory: EtcdFactory, prefix: str, proxy_to: Callable[[int], Proxy]
) -> None:
    proxy = proxy_to(etcd.config.client_port)
    client = etcd3.Client(port=proxy.port)
    proxy.drop_answers()
    ended = threading.Event()

    def ask() -> None:
        with pytest.raises(requests.RequestException):
            client.range(prefix)
        ended.set()

    thread = threading.Thread(target=ask, name="naive-call")
    thread.start()
    wait_until(proxy.swallowed.is_set, "the answer to be lost")
    with pytest.raises(StoreUnavailable):
        etcd_factory.store(proxy.url).get(prefix, deadline=in_seconds(1.0))
    assert not ended.is_set()
    proxy.disconnect()
    thread.join(10)
    assert ended.is_set()


# The library's own thread may renew the lease while `release` revokes it, and dies of that.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.usefixtures("its_threads")
def test_a_lock_is_stolen_from_its_holder(etcd: EtcdProcess, store: EtcdStore, prefix: str) -> None:
    name = prefix.replace("/", "-")
    first = naive(etcd).Lock(name, lock_ttl=60)
    late = naive(etcd).Lock(name, lock_ttl=60)
    seen = late._get_locker()
    first.acquire()
    assert first.is_acquired
    late._get_locker = lambda: seen  # it looked just before the other one wrote
    late.acquire()
    del late._get_locker
    assert late.is_acquired
    assert not first.is_acquired  # it holds the lock, was told so, and another one has it
    late.release()
    first.lease.cancel_keepalive()

    key = prefix + "leader"
    claims = [
        Transaction((Guard(key, 0, on_create=True),), (Put(key, b"%d" % n),), Op(f"claim-{n}"))
        for n in range(2)
    ]
    store.commit(claims[0], deadline=in_seconds())
    refused = store.commit(claims[1], deadline=in_seconds())
    assert isinstance(refused, Refused)
    assert (current := refused.current[key]) is not None
    assert current.value == b"0"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.usefixtures("its_threads")
def test_a_lost_lease_is_never_noticed(etcd: EtcdProcess, store: EtcdStore) -> None:
    client = naive(etcd)
    lease = client.Lease(ttl=2)
    lease.grant()
    renewed: list[float] = []
    cancelled = threading.Event()
    lease.keepalive(keep_cb=lambda: renewed.append(0.0), cancel_cb=cancelled.set)
    wait_until(lambda: renewed, "a first renewal")
    client.lease_revoke(lease.ID)
    seen = len(renewed)
    wait_until(lambda: len(renewed) > seen + 1, "renewals of the lease that is gone")
    assert lease.keeping
    assert not cancelled.is_set()
    assert store.keep_alive(lease.ID, deadline=in_seconds()) == 0
    lease.cancel_keepalive()


def test_text_is_encoded_in_latin_1(etcd: EtcdProcess, store: EtcdStore, prefix: str) -> None:
    client = naive(etcd)
    with pytest.raises(UnicodeEncodeError):
        client.put(prefix + "統", "v")
    client.put(prefix + "ü", "v")
    assert client.range(prefix + "ü").kvs[0].key == (prefix + "ü").encode("latin-1")
    put(store, prefix + "統ü", "統ü".encode())
    item, _ = store.get(prefix + "統ü", deadline=in_seconds())
    assert item is not None
    assert item.value.decode() == "統ü"


def test_an_empty_value_reads_as_none(etcd: EtcdProcess, store: EtcdStore, prefix: str) -> None:
    put(store, prefix + "empty", b"")
    assert naive(etcd).range(prefix + "empty").kvs[0].value is None
    item, _ = store.get(prefix + "empty", deadline=in_seconds())
    assert item is not None
    assert item.value == b""


def test_the_token_is_not_renewed(etcd_factory: EtcdFactory, tmp_path: Path) -> None:
    server = etcd_factory.start(extra_args=("--auth-token-ttl=1",))
    enable_authentication(etcd_factory.store(server.url), "tally", "secret", "/tally/")
    client = naive(server, username="tally", password="secret")
    client.auth()
    (tmp_path / "password").write_text("secret\n")
    store = etcd_factory.store(server.url, user="tally", password_file=str(tmp_path / "password"))
    client.range("/tally/a")
    assert store.get("/tally/a", deadline=in_seconds()) == (None, 1)

    def refused() -> bool:
        try:
            client.range("/tally/a")
        # the latter where a body has no `error`: see the next test
        except (etcd3.errors.ErrInvalidAuthToken, TypeError):
            return True
        return False

    # a call renews it, so asking more often would keep it alive
    wait_until(refused, "the token to expire", poll=2.0)
    assert store.get("/tally/a", deadline=in_seconds()) == (None, 1)


def test_an_error_body_of_etcd_3_6_raises_type_error(etcd_factory: EtcdFactory) -> None:
    body = {"code": 3, "message": "etcdserver: key is not provided", "details": []}
    with FakeEtcd(lambda *_: Reply(body, 400)) as fake:
        with pytest.raises(TypeError):
            etcd3.Client(port=fake.port).range("a")
        with pytest.raises(StoreError, match="key is not provided"):
            etcd_factory.store(fake.url).get("a", deadline=in_seconds())


def test_a_watcher_dies_with_a_restart(etcd_factory: EtcdFactory) -> None:
    server = etcd_factory.start()
    store = etcd_factory.store(server.url)
    client = naive(server)
    watcher = client.Watcher(key="/tally/", prefix=True)
    watcher.onEvent(lambda _: None)
    died: list[BaseException] = []

    def watch() -> None:
        try:
            watcher.run()
        except Exception as error:  # noqa: BLE001  # what the test asks about
            died.append(error)

    thread = threading.Thread(target=watch, name="naive-watch")
    thread.start()
    reader = WatchReader(store.watch("/tally/", after=put(store, "/tally/a")))
    wait_until(lambda: watcher.watching and getattr(reader.watch, "connected", False), "both watches")
    server.kill()
    thread.join(30)
    assert [type(error) for error in died] == [requests.ConnectionError]
    server.start()
    put(store, "/tally/b")
    reader.wait_for(["/tally/b"])
    reader.close()


def _starts(fake: FakeEtcd) -> list[int]:
    return [
        int(request["create_request"].get("start_revision") or 0)
        for path, request in fake.requests
        if path.endswith("/watch")
    ]


def _event(key: str, revision: int) -> dict[str, Any]:
    kv = {
        "key": base64.b64encode(key.encode()).decode(),
        "create_revision": "1",
        "mod_revision": str(revision),
        "version": "1",
    }
    return {"kv": kv}


def test_a_reconnect_skips_history(etcd_factory: EtcdFactory) -> None:
    """The server confirms a watch from revision 11 while it is at 50, and is gone before it sends the
    events between.
    """
    answers: Iterator[Stream]

    def script() -> Iterator[Stream]:
        yield Stream([line(header=header(50), created=True)])
        yield Stream(
            [line(header=header(50), created=True), line(header=header(50), events=[_event("/tally/a", 60)])],
            hold=True,
        )

    answers = script()
    with FakeEtcd(lambda *_: next(answers)) as fake:
        watcher = etcd3.Client(port=fake.port).Watcher(key="/tally/", prefix=True, start_revision=11)
        next(iter(watcher))
        assert _starts(fake) == [11, 51]
        watcher.stop()
    answers = script()
    with FakeEtcd(lambda *_: next(answers)) as fake:
        reader = WatchReader(etcd_factory.store(fake.url).watch("/tally/", after=10))
        reader.wait_for(["/tally/a"])
        assert _starts(fake) == [10, 10]
        reader.close()


def test_a_watcher_jumps_over_compaction(etcd_factory: EtcdFactory) -> None:
    answers: Iterator[Stream]

    def script() -> Iterator[Stream]:
        yield Stream([line(header=header(20), created=True)])
        compacted = line(header=header(50), canceled=True, compact_revision="40")
        yield Stream([line(header=header(50), created=True), compacted], hold=True)
        yield Stream(
            [line(header=header(50), created=True), line(header=header(50), events=[_event("/tally/a", 60)])],
            hold=True,
        )

    answers = script()
    with FakeEtcd(lambda *_: next(answers)) as fake:
        watcher = etcd3.Client(port=fake.port).Watcher(key="/tally/", prefix=True, start_revision=11)
        assert next(iter(watcher)).mod_revision == 60  # no error, and all between 21 and 40 is lost
        assert _starts(fake)[-1] == 40
        watcher.stop()
    answers = script()
    with FakeEtcd(lambda *_: next(answers)) as fake:
        reader = WatchReader(etcd_factory.store(fake.url).watch("/tally/", after=10))
        error = reader.wait_for_end()
        assert isinstance(error, Compacted)
        assert error.revision == 40


def test_every_import_of_the_library_loads_aiohttp() -> None:
    """Ours does not, and leaves the asynchronous client to whoever asks for it."""

    def loads(modules: str) -> bool:
        program = f"import sys, {modules}; print('aiohttp' in sys.modules)"
        return (
            subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
            == "True\n"
        )

    assert loads("etcd3")
    assert not loads("controller.store.etcd.store, etcd3.stateful")
    assert loads("controller.store.etcd.store; from etcd3 import AioClient; AioClient.__init__")
