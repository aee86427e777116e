"""A transaction is applied once, whatever happens to its answer; a call ends by its deadline, whatever is
silent.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from os import kill
from typing import Any

import pytest

from controller.core.model.op import Op
from controller.dev.etcd import EtcdProcess
from controller.errors import InvalidField
from controller.store.base import (
    ClusterChanged,
    Committed,
    Guard,
    OutcomeUnknown,
    Put,
    Refused,
    RequestTooLarge,
    StoreError,
    StoreFull,
    StoreUnavailable,
    Transaction,
)
from controller.store.etcd.gateway import GatewayOptions
from controller.store.etcd.store import EtcdStore
from controller.store.etcd.wire import prefix_range
from tests.support.etcd import CLOCK, EtcdFactory, admin, compact, free_ports, in_seconds
from tests.support.fake_etcd import FakeEtcd, Reply, Stream, header
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

ProxyTo = Callable[[int], Proxy]

_FULL = {
    "error": "etcdserver: mvcc: database space exceeded",
    "code": 8,
    "message": "etcdserver: mvcc: database space exceeded",
}
_BODY = 60  # bytes of an answer that arrive before it is cut: less than its HTTP head


def create(key: str, op: str) -> Transaction:
    return Transaction((Guard(key, 0),), (Put(key, f'{{"op":"{op}"}}'.encode()),), Op(op))


class TestFailover:
    def test_a_dead_endpoint_is_passed_over_and_asked_last_from_then_on(
        self, etcd: EtcdProcess, etcd_factory: EtcdFactory, prefix: str
    ) -> None:
        dead = f"http://127.0.0.1:{free_ports(1)[0]}"
        store = etcd_factory.store(dead, etcd.url)
        assert isinstance(store.commit(create(prefix, "a"), deadline=in_seconds()), Committed)
        assert store.gateway.endpoints.order() == [etcd.url, dead]
        store.get(prefix, deadline=in_seconds())
        assert store.gateway.endpoints.failures == {dead: 1}

    def test_a_silent_endpoint_does_not_use_up_the_deadline(
        self, etcd: EtcdProcess, etcd_factory: EtcdFactory, prefix: str, proxy_to: ProxyTo
    ) -> None:
        proxy = proxy_to(etcd.config.client_port)
        store = etcd_factory.store(proxy.url, etcd.url)
        store.get(prefix, deadline=in_seconds())
        proxy.black_hole()
        assert isinstance(store.commit(create(prefix, "a"), deadline=in_seconds(3)), Committed)

    def test_a_stopped_member_of_three_is_passed_over(self, etcd_factory: EtcdFactory) -> None:
        members = etcd_factory.start_cluster()
        store = etcd_factory.store(*(member.url for member in members))
        for n, member in enumerate(members):
            kill(member.pid, signal.SIGSTOP)
            try:
                assert isinstance(
                    store.commit(create(f"/tally/{n}", f"op{n}"), deadline=in_seconds(20)), Committed
                )
            finally:
                kill(member.pid, signal.SIGCONT)
        assert [item.version for item in store.load("/tally/", deadline=in_seconds()).items] == [1, 1, 1]

    def test_without_a_quorum_the_outcome_is_unknown_until_it_is_back(
        self, etcd_factory: EtcdFactory
    ) -> None:
        members = etcd_factory.start_cluster()
        store = etcd_factory.store(*(member.url for member in members))
        store.get("/tally/", deadline=in_seconds())
        for member in members[1:]:
            member.kill()
        same = create("/tally/a", "mine")
        with pytest.raises(OutcomeUnknown, match="mine"):
            store.commit(same, deadline=in_seconds(1.5))
        with pytest.raises(StoreUnavailable):
            store.get("/tally/", deadline=in_seconds(0.5))
        for member in members[1:]:
            member.launch()
        assert isinstance(store.commit(same, deadline=in_seconds(30)), Committed)
        found, _ = store.get("/tally/a", deadline=in_seconds())
        assert found is not None
        assert found.version == 1


class TestLostAnswers:
    """The request arrives, its answer does not."""

    def test_an_answer_that_came_in_time_counts_however_late_it_is_read(
        self, etcd: EtcdProcess, etcd_factory: EtcdFactory, prefix: str
    ) -> None:
        """Its reader was stopped, or busy."""
        store, witness = (etcd_factory.store(etcd.url) for _ in range(2))
        store.get(prefix, deadline=in_seconds())
        deadline = in_seconds(0.5)
        with store.begin(create(f"{prefix}late", "late"), deadline=deadline) as pending:
            wait_until(lambda: witness.get(f"{prefix}late", deadline=in_seconds())[0], "the commit")
            wait_until(lambda: in_seconds(-0.2) > deadline, "a time well beyond the deadline")
            assert isinstance(pending.result(), Committed)

    @pytest.fixture(params=["silence", "reset", "cut in the head", "cut in the body"])
    def lose(self, request: pytest.FixtureRequest) -> Callable[[Proxy], None]:
        return {
            "silence": Proxy.drop_answers,
            "reset": Proxy.reset_answers,
            "cut in the head": lambda proxy: proxy.cut_answers(_BODY),
            "cut in the body": lambda proxy: proxy.cut_answers(3 * _BODY),
        }[request.param]

    @pytest.fixture
    def proxy(self, etcd: EtcdProcess, proxy_to: ProxyTo) -> Proxy:
        return proxy_to(etcd.config.client_port)

    @pytest.fixture
    def lossy(self, proxy: Proxy, etcd_factory: EtcdFactory, prefix: str) -> EtcdStore:
        store = etcd_factory.store(proxy.url)
        store.get(prefix, deadline=in_seconds())
        return store

    def once(self, proxy: Proxy, lose: Callable[[Proxy], None], call: Callable[[], Any]) -> Any:
        """The call's result, its first answer being lost."""
        lose(proxy)
        with ThreadPoolExecutor(1) as pool:
            result = pool.submit(call)
            assert proxy.swallowed.wait(20)
            proxy.heal()
            return result.result(30)

    def test_a_transaction_is_applied_once_and_recovered(
        self, proxy: Proxy, lossy: EtcdStore, lose: Callable[[Proxy], None], prefix: str
    ) -> None:
        result = self.once(proxy, lose, lambda: lossy.commit(create(prefix, "mine"), deadline=in_seconds(20)))
        found, _ = lossy.get(prefix, deadline=in_seconds())
        assert found is not None
        assert result == Committed(found.mod, Refused(found.mod, {prefix: found}))
        assert found.version == 1

    def test_a_refused_transaction_stays_refused(
        self, proxy: Proxy, lossy: EtcdStore, lose: Callable[[Proxy], None], prefix: str
    ) -> None:
        lossy.commit(create(prefix, "theirs"), deadline=in_seconds())
        result = self.once(proxy, lose, lambda: lossy.commit(create(prefix, "mine"), deadline=in_seconds(20)))
        assert isinstance(result, Refused)

    def test_every_other_call_succeeds_in_the_end(
        self, proxy: Proxy, lossy: EtcdStore, lose: Callable[[Proxy], None], prefix: str
    ) -> None:
        lease = abs(hash(prefix)) % 2**62 + 1
        lossy.commit(create(prefix, "a"), deadline=in_seconds())
        assert self.once(proxy, lose, lambda: lossy.get(prefix, deadline=in_seconds(20)))[0] is not None
        assert len(self.once(proxy, lose, lambda: lossy.load(prefix, deadline=in_seconds(20))).items) == 1
        assert self.once(proxy, lose, lambda: lossy.grant(lease, 60, deadline=in_seconds(20))) == 60
        assert self.once(proxy, lose, lambda: lossy.keep_alive(lease, deadline=in_seconds(20))) == 60
        self.once(proxy, lose, lambda: lossy.revoke(lease, deadline=in_seconds(20)))
        assert lossy.keep_alive(lease, deadline=in_seconds()) == 0

    def test_past_the_deadline_it_is_in_doubt_and_the_same_again_tells(
        self, proxy: Proxy, lossy: EtcdStore, lose: Callable[[Proxy], None], prefix: str
    ) -> None:
        same = create(prefix, "mine")
        lose(proxy)
        with pytest.raises(OutcomeUnknown, match="mine"):
            lossy.commit(same, deadline=in_seconds(0.6))
        proxy.heal()
        answer = lossy.commit(same, deadline=in_seconds())
        assert isinstance(answer, Committed)
        assert answer.recovered

    def test_what_was_never_sent_is_not_in_doubt(self, etcd_factory: EtcdFactory, prefix: str) -> None:
        store = etcd_factory.store(f"http://127.0.0.1:{free_ports(1)[0]}")
        with pytest.raises(StoreUnavailable, match="refused"):
            store.commit(create(prefix, "a"), deadline=in_seconds(0.3))

    def test_a_deadline_that_has_passed_sends_nothing(self, lossy: EtcdStore, prefix: str) -> None:
        with pytest.raises(StoreUnavailable, match="no time left"):
            lossy.commit(create(prefix, "a"), deadline=CLOCK.boottime() - 1)
        assert lossy.get(prefix, deadline=in_seconds())[0] is None


def test_an_answer_that_trickles_for_ever_ends_at_the_deadline(etcd_factory: EtcdFactory) -> None:
    ended = threading.Event()

    def trickle() -> Iterator[bytes]:
        while not ended.wait(0.05):
            yield b" "

    with FakeEtcd(lambda *_: Stream(trickle())) as fake:
        with pytest.raises(StoreUnavailable):
            etcd_factory.store(fake.url).get("a", deadline=in_seconds(1))
        ended.set()


def test_etcd_killed_and_restarted_under_writers_loses_and_doubles_nothing(etcd_factory: EtcdFactory) -> None:
    server = etcd_factory.start()
    store = etcd_factory.store(server.url)
    keys = [f"/tally/{n:03}" for n in range(150)]
    half = threading.Event()

    def write(key: str) -> Committed | Refused:
        if key == keys[len(keys) // 2]:
            half.set()
        return store.commit(create(key, key), deadline=in_seconds(60))

    with ThreadPoolExecutor(3) as pool:
        results = [pool.submit(write, key) for key in keys]
        assert half.wait(30)
        server.kill()
        server.start()
        assert all(isinstance(result.result(60), Committed) for result in results)
    items = store.load("/tally/", deadline=in_seconds()).items
    assert [(item.key, item.version) for item in items] == [(key, 1) for key in keys]


class TestAmbiguousErrors:
    """Errors that etcd answers although the transaction may have been applied."""

    @pytest.mark.parametrize(
        ("status", "body"),
        [
            (
                503,
                {
                    "error": "etcdserver: request timed out",
                    "code": 14,
                    "message": "etcdserver: request timed out",
                },
            ),
            (503, {"code": 14, "message": "etcdserver: leader changed"}),
            (500, {"error": "x", "code": 2, "message": "something unheard of"}),
            (504, {"error": "context deadline exceeded", "code": 4, "message": "context deadline exceeded"}),
            (502, b"<html>a load balancer's page</html>"),
            (200, b'{"header":{"clus'),
            (200, b""),
        ],
    )
    def test_the_same_bytes_are_sent_again(self, etcd_factory: EtcdFactory, status: int, body: Any) -> None:
        key, same = "/tally/a", create("/tally/a", "mine")
        kv = {
            "key": "L3RhbGx5L2E=",
            "value": "eyJvcCI6Im1pbmUifQ==",
            "create_revision": "7",
            "mod_revision": "7",
            "version": "1",
        }
        refusal = {"header": header(9), "responses": [{"response_range": {"header": header(9), "kvs": [kv]}}]}
        replies = iter([Reply(body, status), Reply(body, status), Reply(refusal)])
        with FakeEtcd(lambda *_: next(replies)) as fake:
            store = etcd_factory.store(fake.url)
            answer = store.commit(same, deadline=in_seconds())
            assert isinstance(answer, Committed)
            assert (answer.revision, answer.recovered) == (7, True)
            assert len(fake.requests) == 3
            assert fake.requests[0] == fake.requests[1] == fake.requests[2]
        assert same.guards[0].key == key

    def test_a_definite_error_after_a_doubtful_one_leaves_the_doubt(self, etcd_factory: EtcdFactory) -> None:
        replies = iter(
            [
                Reply({"code": 14, "message": "etcdserver: request timed out"}, 503),
                Reply({"code": 7, "message": "etcdserver: permission denied"}, 403),
            ]
        )
        with (
            FakeEtcd(lambda *_: next(replies)) as fake,
            pytest.raises(OutcomeUnknown, match="permission denied"),
        ):
            etcd_factory.store(fake.url).commit(create("/tally/a", "mine"), deadline=in_seconds())

    def test_too_many_requests_is_not_doubtful(self, etcd_factory: EtcdFactory) -> None:
        body = {"code": 8, "message": "etcdserver: too many requests"}
        with (
            FakeEtcd(lambda *_: Reply(body, 429)) as fake,
            pytest.raises(StoreUnavailable, match="too many requests"),
        ):
            etcd_factory.store(fake.url).commit(create("/tally/a", "mine"), deadline=in_seconds(0.3))


class TestOutOfSpace:
    @pytest.fixture
    def full(self, etcd_factory: EtcdFactory) -> EtcdStore:
        """A store whose quota has been used up."""
        store = etcd_factory.store(etcd_factory.start(quota_backend_bytes=2 * 1024 * 1024).url)
        store.commit(Transaction((), (Put("/tally/old", b'{"op":"old"}'),), Op("old")), deadline=in_seconds())
        value = b'{"op":"fill"}' + b"x" * 500_000
        fill = [
            Transaction((Guard(f"/tally/{n}", 0),), (Put(f"/tally/{n}", value),), Op("fill"))
            for n in range(20)
        ]
        with pytest.raises(StoreFull):
            any(store.commit(transaction, deadline=in_seconds()) is None for transaction in fill)
        return store

    def test_a_write_is_refused_and_certainly_not_applied(self, full: EtcdStore) -> None:
        with pytest.raises(StoreFull, match="alarm disarm"):
            full.commit(create("/tally/new", "mine"), deadline=in_seconds())
        assert full.get("/tally/new", deadline=in_seconds())[0] is None

    def test_when_room_was_made_writes_go_on(self, full: EtcdStore) -> None:
        """etcd 3.5.1 refuses deletions in transactions as well; a plain one, compaction and
        defragmentation are the way out.
        """
        key, range_end = prefix_range(b"/tally/")
        revision = int(
            admin(full, "/kv/deleterange", {"key": key, "range_end": range_end})["header"]["revision"]
        )
        compact(full, revision)
        admin(full, "/maintenance/defragment", {})
        for alarm in admin(full, "/maintenance/alarm", {"action": "GET"}).get("alarms", []):
            admin(full, "/maintenance/alarm", {"action": "DEACTIVATE", **alarm})
        assert isinstance(full.commit(create("/tally/new", "mine"), deadline=in_seconds()), Committed)

    def test_one_that_was_applied_all_the_same_is_recovered(
        self, etcd: EtcdProcess, etcd_factory: EtcdFactory, store: EtcdStore, prefix: str
    ) -> None:
        """etcd applies, finds the quota passed, and answers with the error."""
        same = create(prefix, "mine")

        def answer(path: str, request: dict[str, Any]) -> Reply:
            result = store.gateway.call(
                path.removeprefix("/v3"), _encode(request), _decode, deadline=in_seconds()
            )
            return Reply(_FULL, 429) if path.endswith("/kv/txn") else Reply(result)

        with FakeEtcd(answer) as fake:
            result = etcd_factory.store(fake.url).commit(same, deadline=in_seconds())
        found, _ = store.get(prefix, deadline=in_seconds())
        assert found is not None
        assert result == Committed(found.mod, Refused(found.mod, {prefix: found}))

    def test_where_a_guard_says_nothing_it_stays_in_doubt(self, etcd_factory: EtcdFactory) -> None:
        with FakeEtcd(lambda *_: Reply(_FULL, 429)) as fake, pytest.raises(OutcomeUnknown):
            etcd_factory.store(fake.url).commit(
                Transaction((), (Put("/tally/a", b""),), Op("mine")), deadline=in_seconds()
            )


def _encode(request: dict[str, Any]) -> bytes:
    return json.dumps(request).encode()


def _decode(data: bytes) -> bytes:
    return data


def test_limits_lower_than_ours_are_etcds_to_tell(etcd_factory: EtcdFactory) -> None:
    small = etcd_factory.start(extra_args=("--max-txn-ops=10", "--max-request-bytes=20000"))
    store = etcd_factory.store(small.url)
    with pytest.raises(RequestTooLarge, match="too many operations"):
        store.commit(
            Transaction((), tuple(Put(f"/tally/{n}", b"") for n in range(11)), Op("many")),
            deadline=in_seconds(),
        )
    with pytest.raises(RequestTooLarge, match="too large"):
        store.commit(Transaction((), (Put("/tally/a", b"x" * 30_000),), Op("large")), deadline=in_seconds())
    with pytest.raises(RequestTooLarge):
        store.commit(
            Transaction((), (Put("/tally/a", b"x" * 1_000_000),), Op("larger")), deadline=in_seconds()
        )
    assert store.load("/tally/", deadline=in_seconds()).items == ()


class TestAnotherCluster:
    def test_another_cluster_behind_the_same_address(
        self, etcd: EtcdProcess, etcd_factory: EtcdFactory, proxy_to: ProxyTo, prefix: str
    ) -> None:
        """Nothing gets through, in any thread and of any kind, until the caller has loaded again."""
        other = etcd_factory.start()
        proxy = proxy_to(etcd.config.client_port)
        store = etcd_factory.store(proxy.url)
        store.commit(create(prefix, "a"), deadline=in_seconds())
        proxy.target = other.config.client_port
        proxy.disconnect()
        with pytest.raises(ClusterChanged, match="cluster"):
            store.get(prefix, deadline=in_seconds())
        with pytest.raises(ClusterChanged):
            store.commit(create(prefix, "b"), deadline=in_seconds())
        with pytest.raises(ClusterChanged):
            store.keep_alive(1, deadline=in_seconds())
        assert store.load(prefix, deadline=in_seconds()).items == ()
        assert isinstance(store.commit(create(prefix, "b"), deadline=in_seconds()), Committed)

    def test_the_same_cluster_id_with_older_revisions(self, etcd_factory: EtcdFactory) -> None:
        """A member that lost its data and starts empty has the same cluster id; only its revisions tell."""
        server = etcd_factory.start()
        store = etcd_factory.store(server.url)
        store.commit(create("/tally/a", "a"), deadline=in_seconds())
        server.kill()
        server.config.data_dir.rename(server.config.data_dir.with_name("lost"))
        server.start()
        with pytest.raises(ClusterChanged, match="gone back from 2 to 1"):
            store.get("/tally/a", deadline=in_seconds())
        assert next(iter(store.pages("/tally/", deadline=in_seconds))).era == 1
        assert store.load("/tally/", deadline=in_seconds()).revision == 1
        assert next(iter(store.pages("/tally/", deadline=in_seconds))).era == 1


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "field"),
        [
            ({"endpoints": ()}, "endpoints"),
            ({"endpoints": ("etcd:2379",)}, r"endpoints\[0\]"),
            ({"endpoints": ("http://a", "ftp://b")}, r"endpoints\[1\]"),
            ({"endpoints": ("http://a:99999",)}, r"endpoints\[0\]"),
            ({"endpoints": ("http://user:secret@a",)}, r"endpoints\[0\]"),
            ({"endpoints": ("http://a/path",)}, r"endpoints\[0\]"),
            ({"endpoints": ("http://a",), "user": "u"}, "password_file"),
            ({"endpoints": ("http://a",), "cert_file": "c"}, "key_file"),
            ({"endpoints": ("http://a",), "key_file": "k"}, "cert_file"),
        ],
    )
    def test_what_cannot_work_is_refused_by_name(self, options: dict[str, Any], field: str) -> None:
        with pytest.raises(InvalidField, match=field):
            GatewayOptions(**options)

    def test_something_that_is_not_etcd(self, etcd_factory: EtcdFactory) -> None:
        with (
            FakeEtcd(lambda *_: Reply(b"hello")) as fake,
            pytest.raises(StoreUnavailable, match="broken answer"),
        ):
            etcd_factory.store(fake.url).get("a", deadline=in_seconds(1.0))

    def test_a_call_that_is_plainly_wrong_is_not_repeated(self, etcd: EtcdProcess, store: EtcdStore) -> None:
        with pytest.raises(StoreError, match="key is not provided"):
            store.get("", deadline=in_seconds())
        assert store.gateway.endpoints.failures == {}
