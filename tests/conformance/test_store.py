"""What every store must do; the same tests run on etcd and on its twin in memory."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import pytest

from controller.core.model.op import Op
from controller.store.base import (
    MAX_OPERATIONS,
    MOST_SHOWN,
    Committed,
    Compacted,
    Delete,
    Guard,
    KeyValue,
    LeaseNotFound,
    Put,
    Refused,
    RequestTooLarge,
    Store,
    StoreUnavailable,
    Transaction,
    Write,
)
from controller.store.memory import MemoryStore
from tests.support.etcd import CLOCK, EtcdFactory, compact, in_seconds
from tests.support.waiting import wait_until
from tests.support.watching import WatchReader

_ops = iter(range(10**9))


@dataclass
class Kit:
    """A store under test and what its tests need."""

    store: Store
    client: Callable[[], Store]
    compact: Callable[[int], None]
    prefix: str

    def commit(self, *writes: Write, guards: tuple[Guard, ...] = (), op: str = "") -> Committed | Refused:
        return self.store.commit(
            Transaction(guards, writes, Op(op or f"op-{next(_ops)}")), deadline=in_seconds()
        )

    def put(self, name: str, value: bytes = b"v", lease: int = 0) -> int:
        return self.commit(Put(self.prefix + name, value, lease)).revision

    def get(self, name: str) -> KeyValue | None:
        return self.store.get(self.prefix + name, deadline=in_seconds())[0]

    def revision(self) -> int:
        return self.store.get(self.prefix, deadline=in_seconds())[1]

    def load(self, revision: int = 0) -> dict[str, bytes]:
        items = self.store.load(self.prefix, deadline=in_seconds(), revision=revision).items
        return {item.key.removeprefix(self.prefix): item.value for item in items}


@pytest.fixture(params=["memory", "etcd"])
def kit(request: pytest.FixtureRequest, prefix: str) -> Iterator[Kit]:
    if request.param == "memory":
        memory = MemoryStore(CLOCK)
        yield Kit(memory, memory.client, memory.compact, prefix)
        memory.close()
        return
    etcd = request.getfixturevalue("etcd")
    factory: EtcdFactory = request.getfixturevalue("etcd_factory")
    store = factory.store(etcd.url)
    yield Kit(store, lambda: factory.store(etcd.url), lambda revision: compact(store, revision), prefix)


@pytest.fixture
def read(kit: Kit) -> Iterator[Callable[[int], WatchReader]]:
    readers: list[WatchReader] = []

    def start(after: int) -> WatchReader:
        readers.append(WatchReader(kit.store.watch(kit.prefix, after=after)))
        return readers[-1]

    yield start
    for reader in readers:
        reader.close()


class TestKeys:
    def test_create_mod_and_version_follow_the_key(self, kit: Kit) -> None:
        first = kit.put("a", b"1")
        second = kit.put("a", b"2")
        assert second == first + 1
        assert kit.get("a") == KeyValue(kit.prefix + "a", b"2", first, second, 2, 0)

    def test_a_key_created_again_starts_over(self, kit: Kit) -> None:
        kit.put("a")
        kit.commit(Delete(kit.prefix + "a"))
        again = kit.put("a")
        found = kit.get("a")
        assert found is not None
        assert (found.create, found.mod, found.version) == (again, again, 1)

    def test_an_absent_key_is_none_and_its_answer_has_the_revision(self, kit: Kit) -> None:
        revision = kit.put("a")
        assert kit.store.get(kit.prefix + "b", deadline=in_seconds()) == (None, revision)

    @pytest.mark.parametrize("value", [b"", b"\0\xff\xfe", "ü – 統".encode(), bytes(range(256)) * 100])
    def test_values_are_any_bytes_and_an_empty_one_is_not_missing(self, kit: Kit, value: bytes) -> None:
        kit.put("a", value)
        found = kit.get("a")
        assert found is not None
        assert found.value == value

    def test_keys_are_text_in_utf8(self, kit: Kit) -> None:
        kit.put("ü/統")
        assert list(kit.load()) == ["ü/統"]

    def test_one_transaction_is_one_revision(self, kit: Kit) -> None:
        kit.put("c")
        before = kit.revision()
        result = kit.commit(
            Put(kit.prefix + "a", b"1"), Put(kit.prefix + "b", b"2"), Delete(kit.prefix + "c")
        )
        assert result == Committed(before + 1)
        assert kit.load() == {"a": b"1", "b": b"2"}

    def test_removing_a_missing_key_changes_nothing(self, kit: Kit) -> None:
        before = kit.put("a")
        assert kit.commit(Delete(kit.prefix + "b")) == Committed(before)
        assert kit.revision() == before


class TestLoad:
    def test_it_is_sorted_and_holds_only_the_prefix(self, kit: Kit) -> None:
        for name in ("b", "a", "c/d"):
            kit.put(name)
        kit.commit(Put(kit.prefix[:-1] + "0", b"neighbour"))
        assert list(kit.load()) == ["a", "b", "c/d"]

    def test_many_keys_come_in_pages_of_one_revision(self, kit: Kit) -> None:
        names = [f"{n:05}" for n in range(1300)]
        for start in range(0, len(names), 100):
            kit.commit(*(Put(kit.prefix + name, name.encode()) for name in names[start : start + 100]))
        snapshot = kit.store.load(kit.prefix, deadline=in_seconds())
        assert [item.key.removeprefix(kit.prefix) for item in snapshot.items] == names
        assert snapshot.revision == kit.revision()
        pages = list(kit.store.pages(kit.prefix, deadline=in_seconds))
        assert [item for page in pages for item in page.items] == list(snapshot.items)
        assert [page.more for page in pages] == [True] * (len(pages) - 1) + [False]
        assert {page.revision for page in pages} == {snapshot.revision}
        unread = kit.store.pages(kit.prefix, deadline=in_seconds)
        assert next(unread).items == pages[0].items
        assert isinstance(unread, Generator)
        unread.close()  # what was asked for meanwhile is given up
        assert kit.load() == {name: name.encode() for name in names}

    def test_nothing_is_one_empty_page(self, kit: Kit) -> None:
        (page,) = kit.store.pages(kit.prefix, deadline=in_seconds)
        assert (page.items, page.more) == ((), False)

    def test_an_older_revision_shows_what_was(self, kit: Kit) -> None:
        kit.put("a", b"1")
        then = kit.put("b", b"1")
        kit.put("a", b"2")
        kit.commit(Delete(kit.prefix + "b"))
        assert kit.load(then) == {"a": b"1", "b": b"1"}
        assert kit.load() == {"a": b"2"}

    def test_a_compacted_revision_says_so(self, kit: Kit) -> None:
        then = kit.put("a", b"1")
        now = kit.put("a", b"2")
        kit.compact(now)
        with pytest.raises(Compacted):
            kit.load(then)
        assert kit.load(now) == {"a": b"2"}

    def test_a_revision_that_is_not_there_yet_is_unavailable(self, kit: Kit) -> None:
        with pytest.raises(StoreUnavailable, match="does not exist yet"):
            kit.load(kit.revision() + 1000)


class TestGuards:
    def test_a_guard_of_zero_means_absent(self, kit: Kit) -> None:
        key = kit.prefix + "a"
        assert isinstance(kit.commit(Put(key, b"1"), guards=(Guard(key, 0),)), Committed)
        refused = kit.commit(Put(key, b"2"), guards=(Guard(key, 0),))
        assert isinstance(refused, Refused)
        assert refused.current[key] == kit.get("a")

    def test_a_guard_by_mod_and_one_by_create(self, kit: Kit) -> None:
        key = kit.prefix + "a"
        created = kit.put("a")
        changed = kit.put("a")
        assert isinstance(kit.commit(Put(key, b"x"), guards=(Guard(key, created),)), Refused)
        assert isinstance(kit.commit(Put(key, b"x"), guards=(Guard(key, changed, on_create=True),)), Refused)
        both = (Guard(key, changed), Guard(key, created, on_create=True))
        assert isinstance(kit.commit(Put(key, b"x"), guards=both), Committed)

    def test_a_refusal_changes_nothing_and_shows_every_guarded_key(self, kit: Kit) -> None:
        a, b = kit.prefix + "a", kit.prefix + "b"
        revision = kit.put("a")
        refused = kit.commit(
            Put(a, b"2"), Put(b, b"2"), guards=(Guard(a, revision), Guard(b, 99), Guard(a, revision, True))
        )
        assert refused == Refused(revision, {a: kit.get("a"), b: None})
        assert kit.load() == {"a": b"v"}

    def test_the_same_transaction_again_is_recovered_and_not_applied_twice(self, kit: Kit) -> None:
        key = kit.prefix + "a"
        same = Transaction((Guard(key, 0),), (Put(key, b'{"n":1,"op":"mine"}'),), Op("mine"))
        first = kit.store.commit(same, deadline=in_seconds())
        found = kit.get("a")
        refusal = Refused(first.revision, {key: found})
        assert kit.store.commit(same, deadline=in_seconds()) == Committed(first.revision, refusal)
        assert found is not None
        assert found.version == 1

    def test_a_copy_of_a_value_by_hand_does_not_tell_when_it_was_applied(self, kit: Kit) -> None:
        """It carries our `op`, too, and is younger than our transaction."""
        a, b = (kit.prefix + name for name in "ab")
        ours = b'{"n":1,"op":"mine"}'
        same = Transaction((Guard(a, 0), Guard(b, 0)), (Put(a, ours), Put(b, ours)), Op("mine"))
        first = kit.store.commit(same, deadline=in_seconds())
        edited = kit.put("a", b'{"n":2,"op":"mine"}')
        second = kit.store.commit(same, deadline=in_seconds())
        assert isinstance(second, Committed)
        assert second.revision == first.revision
        assert second.shown_by == Refused(edited, {a: kit.get("a"), b: kit.get("b")})

    def test_the_same_deletion_again_is_recovered(self, kit: Kit) -> None:
        key = kit.prefix + "a"
        same = Transaction((Guard(key, kit.put("a")),), (Delete(key),), Op("mine"))
        first = kit.store.commit(same, deadline=in_seconds())
        second = kit.store.commit(same, deadline=in_seconds())
        assert isinstance(first, Committed)
        assert isinstance(second, Committed)
        assert (first.recovered, second.recovered) == (False, True)

    def test_of_many_writers_with_one_guard_one_wins(self, kit: Kit) -> None:
        key = kit.prefix + "a"
        results: list[Committed | Refused] = []

        def write(n: int) -> None:
            result = kit.store.commit(
                Transaction((Guard(key, 0),), (Put(key, b"%d" % n),), Op(f"w{n}")), deadline=in_seconds()
            )
            results.append(result)

        threads = [threading.Thread(target=write, args=(n,), name=f"writer-{n}") for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(type(result).__name__ for result in results) == ["Committed"] + 7 * ["Refused"]


class TestGuardsOfPrefixes:
    def guard(self, kit: Kit, name: str, revision: int) -> Guard:
        return Guard(kit.prefix + name, revision, is_prefix=True)

    def holds(self, kit: Kit, name: str, revision: int) -> bool:
        other = Put(kit.prefix + "other", b"")
        return isinstance(kit.commit(other, guards=(self.guard(kit, name, revision),)), Committed)

    def test_there_must_be_no_such_key(self, kit: Kit) -> None:
        assert self.holds(kit, "a/", 0)
        assert self.holds(kit, "a/", kit.revision())
        kit.put("a/1")
        assert not self.holds(kit, "a/", 0)

    def test_no_key_may_be_newer_and_the_same_revision_is_not(self, kit: Kit) -> None:
        kit.put("a/1")
        newest = kit.put("a/2")
        assert not self.holds(kit, "a/", newest - 1)
        assert self.holds(kit, "a/", newest)
        assert self.holds(kit, "a/", newest + 5)
        newer = kit.put("a/1", b"changed")
        assert not self.holds(kit, "a/", newest)
        assert self.holds(kit, "a/", newer)

    def test_one_new_key_among_old_ones_is_enough(self, kit: Kit) -> None:
        for name in ("a/1", "a/3", "a/4"):
            seen = kit.put(name)
        kit.put("a/2")
        assert not self.holds(kit, "a/", seen)

    def test_a_deletion_does_not_count(self, kit: Kit) -> None:
        seen = kit.put("a/1")
        kit.put("a/2")
        kit.commit(Delete(kit.prefix + "a/2"))
        assert self.holds(kit, "a/", seen)
        kit.commit(Delete(kit.prefix + "a/1"))
        assert self.holds(kit, "a/", 0)

    @pytest.mark.parametrize("neighbour", ["ab/1", "a0", "a", "a.", "A/", "b/a/1"])
    def test_neighbours_do_not_count(self, kit: Kit, neighbour: str) -> None:
        kit.put(neighbour)
        assert self.holds(kit, "a/", 0)

    @pytest.mark.parametrize(
        "below", ["a", "ab/1", "a/", "a\0", "aÿ", "a\U0010ffff", "a\U0010ffff\U0010ffff"]
    )
    def test_a_prefix_is_any_text(self, kit: Kit, below: str) -> None:
        assert self.holds(kit, "a", 0)
        kit.put(below)
        assert not self.holds(kit, "a", 0)

    @pytest.mark.parametrize("name", ["ÿ", "\U0010ffff"])
    def test_the_last_letters_have_prefixes_too(self, kit: Kit, name: str) -> None:
        kit.put("z")
        assert self.holds(kit, name, 0)
        kit.put(name + "/1")
        assert not self.holds(kit, name, 0)

    def test_its_own_writes_may_be_below_it(self, kit: Kit) -> None:
        first = kit.commit(Put(kit.prefix + "a/1", b"1"), guards=(self.guard(kit, "a/", 0),))
        assert isinstance(first, Committed)
        same = (self.guard(kit, "a/", first.revision),)
        both = (Put(kit.prefix + "a/2", b"2"), Delete(kit.prefix + "a/1"))
        assert isinstance(kit.commit(*both, guards=same), Committed)
        assert isinstance(kit.commit(*both, guards=same), Refused)
        assert kit.load() == {"a/2": b"2"}

    def test_a_refusal_shows_what_is_new_by_its_own_name(self, kit: Kit) -> None:
        seen = kit.put("a/1")
        kit.put("a/2")
        revision = kit.put("b")
        key = kit.prefix + "b"
        refused = kit.commit(Put(key, b"2"), guards=(Guard(key, revision), self.guard(kit, "a/", seen)))
        assert refused == Refused(revision, {key: kit.get("b"), kit.prefix + "a/2": kit.get("a/2")})
        assert kit.load()["b"] == b"v"

    def test_a_refusal_by_another_guard_shows_nothing_of_what_is_old(self, kit: Kit) -> None:
        seen = kit.put("a/1")
        key = kit.prefix + "b"
        refused = kit.commit(Put(key, b"2"), guards=(self.guard(kit, "a/", seen), Guard(key, 99)))
        assert refused == Refused(seen, {key: None})

    def test_a_key_that_is_guarded_itself_is_shown_once(self, kit: Kit) -> None:
        revision = kit.put("a/1")
        key = kit.prefix + "a/1"
        guards = (Guard(key, revision), self.guard(kit, "a/", 0), self.guard(kit, "a/", 0))
        assert kit.commit(Put(key, b"2"), guards=guards) == Refused(revision, {key: kit.get("a/1")})

    def test_a_refusal_shows_few_of_many(self, kit: Kit) -> None:
        old = kit.put("a/00")
        puts = [Put(f"{kit.prefix}a/{n:02}", b"") for n in range(1, 60)]
        kit.commit(*puts)
        refused = kit.commit(Put(kit.prefix + "b", b""), guards=(self.guard(kit, "a/", old),))
        assert isinstance(refused, Refused)
        assert list(refused.current) == [put.key for put in puts[:MOST_SHOWN]]

    def test_the_same_transaction_again_is_recovered(self, kit: Kit) -> None:
        """Also where only keys below the prefix show it."""
        key, below = kit.prefix + "a", kit.prefix + "p/1"
        ours = b'{"op":"mine"}'
        guards = (Guard(key, kit.put("a")), self.guard(kit, "p/", 0))
        same = Transaction(guards, (Delete(key), Put(below, ours)), Op("mine"))
        first = kit.store.commit(same, deadline=in_seconds())
        assert isinstance(first, Committed)
        second = kit.store.commit(same, deadline=in_seconds())
        refusal = Refused(first.revision, {key: None, below: kit.get("p/1")})
        assert second == Committed(first.revision, refusal)


class TestLimits:
    def test_etcds_number_of_operations_is_taken_and_one_more_refused(self, kit: Kit) -> None:
        puts = [Put(f"{kit.prefix}{n:03}", b"") for n in range(MAX_OPERATIONS)]
        guards = tuple(Guard(put.key, 0) for put in puts)
        assert isinstance(kit.commit(*puts, guards=guards), Committed)
        with pytest.raises(RequestTooLarge, match="129 operations"):
            kit.commit(*puts, Put(kit.prefix + "more", b""))
        assert len(kit.load()) == MAX_OPERATIONS
        revision = kit.revision()
        guards = tuple(Guard(put.key, revision, is_prefix=True) for put in puts)
        assert isinstance(kit.commit(*puts, guards=guards), Committed)
        assert isinstance(kit.commit(*puts, guards=guards), Refused)

    def test_a_large_request_is_refused_and_nothing_written(self, kit: Kit) -> None:
        assert isinstance(kit.commit(Put(kit.prefix + "a", b"x" * 1_000_000)), Committed)
        with pytest.raises(RequestTooLarge, match="bytes"):
            kit.commit(Put(kit.prefix + "b", b"x" * 1_100_000))
        assert list(kit.load()) == ["a"]

    def test_a_key_written_twice_is_the_callers_mistake(self, kit: Kit) -> None:
        with pytest.raises(ValueError, match="twice"):
            kit.commit(Put(kit.prefix + "a", b"1"), Delete(kit.prefix + "a"))


class TestLeases:
    def lease(self) -> int:
        return random.getrandbits(62) + 1

    def test_keys_go_with_their_lease_in_one_revision(self, kit: Kit) -> None:
        lease = self.lease()
        assert kit.store.grant(lease, 60, deadline=in_seconds()) == 60
        kit.put("a", lease=lease)
        last = kit.put("b", lease=lease)
        found = kit.get("a")
        assert found is not None
        assert found.lease == lease
        kit.store.revoke(lease, deadline=in_seconds())
        assert kit.load() == {}
        assert kit.revision() == last + 1
        kit.store.revoke(lease, deadline=in_seconds())

    def test_a_grant_sent_again_counts_as_granted(self, kit: Kit) -> None:
        lease = self.lease()
        assert [kit.store.grant(lease, 60, deadline=in_seconds()) for _ in range(2)] == [60, 60]
        kit.store.revoke(lease, deadline=in_seconds())

    def test_the_shortest_lease_is_two_seconds(self, kit: Kit) -> None:
        lease = self.lease()
        assert kit.store.grant(lease, 1, deadline=in_seconds()) == 2
        kit.store.revoke(lease, deadline=in_seconds())

    def test_renewing_a_lost_lease_returns_zero(self, kit: Kit) -> None:
        lease = self.lease()
        assert kit.store.keep_alive(lease, deadline=in_seconds()) == 0
        kit.store.grant(lease, 60, deadline=in_seconds())
        assert kit.store.keep_alive(lease, deadline=in_seconds()) == 60
        kit.store.revoke(lease, deadline=in_seconds())
        assert kit.store.keep_alive(lease, deadline=in_seconds()) == 0

    def test_a_key_put_again_without_the_lease_stays(self, kit: Kit) -> None:
        lease = self.lease()
        kit.store.grant(lease, 60, deadline=in_seconds())
        kit.put("a", lease=lease)
        kit.put("a")
        kit.store.revoke(lease, deadline=in_seconds())
        assert list(kit.load()) == ["a"]

    def test_a_put_with_a_lost_lease_writes_nothing(self, kit: Kit) -> None:
        with pytest.raises(LeaseNotFound, match="the lease has expired, so nothing was written"):
            kit.commit(Put(kit.prefix + "a", b""), Put(kit.prefix + "b", b"", self.lease()))
        assert kit.load() == {}

    def test_a_lease_that_is_not_renewed_expires_and_watches_see_it(
        self, kit: Kit, read: Callable[[int], WatchReader]
    ) -> None:
        lease = self.lease()
        kit.store.grant(lease, 2, deadline=in_seconds())
        after = kit.put("a", lease=lease)
        events = read(after).wait_for([kit.prefix + "a"])
        assert [(event.mod, event.item) for event in events] == [(after + 1, None)]
        assert kit.store.keep_alive(lease, deadline=in_seconds()) == 0


class TestWatch:
    def test_every_change_above_a_revision_in_order(
        self, kit: Kit, read: Callable[[int], WatchReader]
    ) -> None:
        kit.put("before")
        after = kit.revision()
        reader = read(after)
        expected = []
        for n in range(30):
            mod = kit.commit(Put(f"{kit.prefix}{n}", b"1"), Put(f"{kit.prefix}last", b"%d" % n)).revision
            expected += [(f"{kit.prefix}{n}", mod), (f"{kit.prefix}last", mod)]
        kit.commit(Put(kit.prefix[:-1] + "0", b"neighbour"))
        gone = kit.commit(Delete(kit.prefix + "last")).revision
        expected.append((kit.prefix + "last", gone))
        wait_until(lambda: len(reader.events) == len(expected), "all events")
        assert [(event.key, event.mod) for event in reader.events] == expected
        assert reader.events[-1].item is None
        assert reader.batches[-1].revision == gone

    def test_a_batch_never_splits_a_revision(self, kit: Kit, read: Callable[[int], WatchReader]) -> None:
        after = kit.revision()
        for start in range(20):
            kit.commit(*(Put(f"{kit.prefix}{start:02}-{n:03}", b"x" * 2000) for n in range(100)))
        reader = read(after)
        wait_until(lambda: len(reader.events) == 2000, "all events")
        for batch in reader.batches:
            mods = [event.mod for event in batch.events]
            assert mods == sorted(mods)
            assert batch.revision == mods[-1]
            assert all(mods.count(mod) == 100 for mod in set(mods))

    def test_history_that_is_compacted_is_not_skipped(
        self, kit: Kit, read: Callable[[int], WatchReader]
    ) -> None:
        after = kit.put("a", b"1")
        kit.put("a", b"2")
        oldest = kit.put("a", b"3")
        kit.compact(oldest)
        error = read(after).wait_for_end()
        assert isinstance(error, Compacted)
        assert error.revision == oldest

    def test_a_deletion_at_the_compacted_revision_is_not_skipped(
        self, kit: Kit, read: Callable[[int], WatchReader]
    ) -> None:
        after = kit.put("a")
        deleted = kit.commit(Delete(kit.prefix + "a")).revision
        kit.put("b")
        kit.compact(deleted)
        assert isinstance(read(after).wait_for_end(), Compacted)

    def test_closing_ends_the_iteration(self, kit: Kit) -> None:
        reader = WatchReader(kit.store.watch(kit.prefix, after=kit.revision()))
        kit.put("a")
        reader.wait_for([kit.prefix + "a"])
        reader.close()
        reader.watch.close()
        assert reader.error is None

    def test_closing_the_store_ends_its_watches_and_no_others(self, kit: Kit) -> None:
        other = kit.client()
        mine = WatchReader(other.watch(kit.prefix, after=kit.revision()))
        kit.put("a")
        mine.wait_for([kit.prefix + "a"])
        other.close()
        other.close()
        assert mine.wait_for_end() is None
        with pytest.raises(StoreUnavailable, match="closed"):
            other.get(kit.prefix, deadline=in_seconds())
        assert kit.get("a") is not None

    def test_a_watch_may_be_iterated_again_where_it_was(self, kit: Kit) -> None:
        watch = kit.store.watch(kit.prefix, after=kit.revision())
        first = kit.put("a")
        assert next(iter(watch)).revision == first
        second = kit.put("b")
        assert next(iter(watch)).revision == second
        watch.close()
