"""A watch never skips and never hangs, whatever happens to its connection and its server."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from controller.core.model.op import Op
from controller.dev.etcd import EtcdProcess
from controller.store.base import ClusterChanged, Compacted, Put, StoreDenied, Transaction
from controller.store.etcd.store import EtcdStore
from controller.store.etcd.watch import EtcdWatch
from tests.support.etcd import EtcdFactory, compact, in_seconds
from tests.support.fake_etcd import Answer, FakeEtcd, Reply, Stream, header, line
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until
from tests.support.watching import WatchReader

ProxyTo = Callable[[int], Proxy]


def put(store: EtcdStore, key: str, value: bytes = b"v") -> int:
    return store.commit(Transaction((), (Put(key, value),), Op("op")), deadline=in_seconds(30)).revision


def event(key: str, revision: int) -> dict[str, Any]:
    kv = {
        "key": base64.b64encode(key.encode()).decode(),
        "create_revision": "1",
        "mod_revision": str(revision),
        "version": "1",
    }
    return {"kv": kv}


def start(
    store: EtcdStore, prefix: str, after: int, silence: float = 0.0, *, once: bool = False
) -> tuple[EtcdWatch, WatchReader]:
    watch = store.watch(prefix, after=after, silence_seconds=silence, once=once)
    return watch, WatchReader(watch)


class TestOnRealEtcd:
    def test_a_killed_and_restarted_etcd_is_resumed_without_a_gap(self, etcd_factory: EtcdFactory) -> None:
        server = etcd_factory.start()
        store = etcd_factory.store(server.url)
        watch, reader = start(store, "/tally/", 1)
        expected = []
        for n in range(60):
            if n % 20 == 10:
                server.kill()
                server.start()
            expected.append((f"/tally/{n}", put(store, f"/tally/{n}")))
        reader.wait_for([key for key, _ in expected])
        assert [(found.key, found.mod) for found in reader.events] == expected
        assert watch.reconnects.total() >= 1
        reader.close()

    def test_a_silent_half_open_connection_is_given_up(
        self, etcd: EtcdProcess, etcd_factory: EtcdFactory, store: EtcdStore, prefix: str, proxy_to: ProxyTo
    ) -> None:
        proxy = proxy_to(etcd.config.client_port)
        watch, reader = start(
            etcd_factory.store(proxy.url, etcd.url), prefix, put(store, prefix), silence=0.3
        )
        wait_until(lambda: watch.connected, "the watch")
        proxy.black_hole()
        missed = put(store, prefix + "a")
        assert [found.mod for found in reader.wait_for([prefix + "a"])] == [missed]
        assert watch.reconnects["silence"] >= 1
        reader.close()

    def test_an_idle_watch_with_a_limit_on_silence_delivers_nothing_twice(
        self, etcd_factory: EtcdFactory, etcd: EtcdProcess, store: EtcdStore, prefix: str
    ) -> None:
        watch, reader = start(etcd_factory.store(etcd.url), prefix, put(store, prefix), silence=0.1)
        wait_until(lambda: watch.reconnects["silence"] >= 3, "several reconnects")
        put(store, prefix + "a")
        reader.wait_for([prefix + "a"])
        again = watch.reconnects["silence"]
        wait_until(lambda: watch.reconnects["silence"] >= again + 3, "several more")
        assert [found.key for found in reader.events] == [prefix + "a"]
        reader.close()

    def test_one_that_is_asked_for_once_ends_when_it_has_delivered_what_there_is(
        self, store: EtcdStore, prefix: str
    ) -> None:
        before = put(store, prefix)
        assert start(store, prefix, before, once=True)[1].wait_for_end() is None
        expected = [put(store, f"{prefix}{n}") for n in range(50)]
        watch, reader = start(store, prefix, before, once=True)
        assert reader.wait_for_end() is None
        assert [found.mod for found in reader.events] == expected
        assert watch.revision == expected[-1]
        assert watch.reconnects.total() == 0

    def test_one_that_is_asked_for_once_waits_for_its_own_prefix(self, store: EtcdStore, prefix: str) -> None:
        """It cannot tell whether what changed elsewhere was all."""
        before = put(store, prefix)
        put(store, "/elsewhere/" + prefix)
        watch, reader = start(store, prefix, before, once=True)
        wait_until(lambda: watch.connected, "the watch")
        mine = put(store, prefix)
        assert reader.wait_for_end() is None
        assert [found.mod for found in reader.events] == [mine]

    def test_one_that_is_asked_for_once_does_not_end_before_it_could_connect(
        self, etcd: EtcdProcess, etcd_factory: EtcdFactory, store: EtcdStore, prefix: str, proxy_to: ProxyTo
    ) -> None:
        proxy = proxy_to(etcd.config.client_port)
        before = put(store, prefix)
        missed = put(store, prefix + "a")
        through = etcd_factory.store(proxy.url)
        through.get(prefix, deadline=in_seconds())
        proxy.refuse()
        watch, reader = start(through, prefix, before, once=True)
        wait_until(lambda: watch.reconnects["unreachable"] >= 2, "attempts")
        proxy.heal()
        assert reader.wait_for_end() is None
        assert [found.mod for found in reader.events] == [missed]

    def test_compaction_while_it_was_cut_off(
        self, etcd: EtcdProcess, etcd_factory: EtcdFactory, store: EtcdStore, prefix: str, proxy_to: ProxyTo
    ) -> None:
        proxy = proxy_to(etcd.config.client_port)
        watch, reader = start(etcd_factory.store(proxy.url), prefix, put(store, prefix))
        wait_until(lambda: watch.connected, "the watch")
        proxy.refuse()
        put(store, prefix + "a")
        oldest = put(store, prefix + "b")
        compact(store, oldest)
        proxy.heal()
        error = reader.wait_for_end()
        assert isinstance(error, Compacted)
        assert error.revision == oldest

    def test_compaction_behind_a_watch_that_is_up_to_date_does_not_disturb_it(
        self, store: EtcdStore, prefix: str
    ) -> None:
        watch, reader = start(store, prefix, put(store, prefix))
        for n in range(5):
            put(store, f"{prefix}{n}")
            reader.wait_for([f"{prefix}{n}"])
            compact(store, watch.revision)
        assert len(reader.events) == 5
        reader.close()

    def test_another_cluster_ends_it(
        self, etcd: EtcdProcess, etcd_factory: EtcdFactory, prefix: str, proxy_to: ProxyTo
    ) -> None:
        other = etcd_factory.start()
        proxy = proxy_to(etcd.config.client_port)
        store = etcd_factory.store(proxy.url)
        watch, reader = start(store, prefix, put(store, prefix))
        wait_until(lambda: watch.connected, "the watch")
        proxy.target = other.config.client_port
        proxy.disconnect()
        assert isinstance(reader.wait_for_end(), ClusterChanged)

    def test_the_same_cluster_id_with_older_revisions_ends_it(self, etcd_factory: EtcdFactory) -> None:
        server = etcd_factory.start()
        store = etcd_factory.store(server.url)
        watch, reader = start(store, "/tally/", put(store, "/tally/a"))
        wait_until(lambda: watch.connected, "the watch")
        server.kill()
        server.config.data_dir.rename(server.config.data_dir.with_name("lost"))
        server.start()
        assert isinstance(reader.wait_for_end(), ClusterChanged)

    def test_closing_ends_it_whatever_state_it_is_in(
        self, etcd: EtcdProcess, etcd_factory: EtcdFactory, prefix: str, proxy_to: ProxyTo
    ) -> None:
        proxy = proxy_to(etcd.config.client_port)
        store = etcd_factory.store(proxy.url)
        never = store.watch(prefix, after=1)
        never.close()
        assert list(never) == []
        # others may have compacted what was
        watch, reader = start(store, prefix, store.get(prefix, deadline=in_seconds())[1])
        wait_until(lambda: watch.connected, "the watch")
        proxy.refuse()
        wait_until(lambda: watch.reconnects["unreachable"] >= 2, "vain attempts")
        reader.close()
        assert reader.error is None


class TestWhatAServerMaySend:
    @pytest.fixture
    def serve(self, etcd_factory: EtcdFactory) -> Iterator[Callable[[Answer], tuple[FakeEtcd, EtcdStore]]]:
        fakes: list[FakeEtcd] = []

        def make(answer: Answer) -> tuple[FakeEtcd, EtcdStore]:
            fakes.append(FakeEtcd(answer))
            return fakes[-1], etcd_factory.store(fakes[-1].url)

        yield make
        for fake in fakes:
            fake.__exit__()

    created = line(header=header(10), created=True)
    good = Stream([created, line(header=header(20), events=[event("/tally/a", 20)])], hold=True)

    @pytest.mark.parametrize(
        ("first", "cause"),
        [
            (Stream([created, line(header=header(10), canceled=True)], hold=True), "cancelled"),
            (
                Stream(
                    [created, line(header=header(10), canceled=True, cancel_reason="etcdserver: no leader")],
                    hold=True,
                ),
                "cancelled",
            ),
            (
                Stream(
                    [created, b'{"error":{"grpc_code":14,"message":"transport is closing"}}\n'], hold=True
                ),
                "cancelled",
            ),
            (
                Stream([created, b'{"error":{"code":14,"message":"transport is closing"}}\n'], hold=True),
                "cancelled",
            ),
            (Stream([created, b"this is no JSON\n"], hold=True), "broken answer"),
            (Stream([created[:20]]), "connection lost"),
            (Stream([]), "connection lost"),
            (Reply({"error": "x", "code": 14, "message": "etcdserver: server stopped"}, 503), "cancelled"),
            (Reply(b"<html>", 502), "cancelled"),
        ],
    )
    def test_an_end_of_any_kind_is_followed_by_a_new_connection_from_where_it_was(
        self, serve: Callable[[Answer], tuple[FakeEtcd, EtcdStore]], first: Stream | Reply, cause: str
    ) -> None:
        answers = iter([first, self.good])
        fake, store = serve(lambda *_: next(answers))
        watch, reader = start(store, "/tally/", 5)
        reader.wait_for(["/tally/a"])
        assert watch.reconnects == {cause: 1}
        assert [request["create_request"]["start_revision"] for _, request in fake.requests] == [5, 5]
        reader.close()

    def test_doubled_and_old_events_are_delivered_once(
        self, serve: Callable[[Answer], tuple[FakeEtcd, EtcdStore]]
    ) -> None:
        messages = [
            line(
                header=header(20), events=[event("/tally/a", 4), event("/tally/a", 5), event("/tally/a", 6)]
            ),
            line(header=header(20), events=[event("/tally/a", 6)]),
            line(header=header(99)),  # a progress notice: it carries no event, and moves nothing
            line(header=header(20), events=[event("/tally/a", 6), event("/tally/b", 7)]),
        ]
        answers = iter([Stream([self.created, *messages]), self.good])
        fake, store = serve(lambda *_: next(answers))
        _, reader = start(store, "/tally/", 5)
        wait_until(lambda: len(reader.events) == 3, "all events")
        assert [found.mod for found in reader.events] == [6, 7, 20]
        assert [request["create_request"]["start_revision"] for _, request in fake.requests] == [5, 7]
        reader.close()

    @pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
    def test_messages_may_be_cut_and_joined_anywhere(
        self, serve: Callable[[Answer], tuple[FakeEtcd, EtcdStore]], size: int
    ) -> None:
        stream = (
            self.created
            + b"\n"
            + b"".join(line(header=header(n), events=[event(f"/tally/ü{n}", n)]) for n in range(11, 31))
        )
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        _, store = serve(lambda *_: Stream(pieces, hold=True))
        _, reader = start(store, "/tally/", 10)
        wait_until(lambda: len(reader.events) == 20, "all events")
        assert [found.key for found in reader.events] == [f"/tally/ü{n}" for n in range(11, 31)]
        reader.close()

    def test_a_server_that_never_confirms_the_watch_is_left(
        self, serve: Callable[[Answer], tuple[FakeEtcd, EtcdStore]], etcd_factory: EtcdFactory
    ) -> None:
        silent, _ = serve(lambda *_: Stream([], hold=True))
        speaking, _ = serve(lambda *_: self.good)
        watch, reader = start(etcd_factory.store(silent.url, speaking.url), "/tally/", 5)
        reader.wait_for(["/tally/a"])
        assert watch.reconnects == {"silence": 1}
        reader.close()

    def test_a_message_of_another_cluster_ends_it(
        self, serve: Callable[[Answer], tuple[FakeEtcd, EtcdStore]]
    ) -> None:
        strange = line(header=header(20, cluster="999"), events=[event("/tally/a", 20)])
        _, store = serve(lambda *_: Stream([self.created, strange], hold=True))
        _, reader = start(store, "/tally/", 5)
        assert isinstance(reader.wait_for_end(), ClusterChanged)
        assert reader.events == []

    def test_a_missing_right_ends_it(self, serve: Callable[[Answer], tuple[FakeEtcd, EtcdStore]]) -> None:
        denial = line(
            header=header(5), created=True, canceled=True, cancel_reason="etcdserver: permission denied"
        )
        _, store = serve(lambda *_: Stream([denial], hold=True))
        _, reader = start(store, "/tally/", 5)
        error = reader.wait_for_end()
        assert isinstance(error, StoreDenied)
        assert "/tally/" in str(error)
