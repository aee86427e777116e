"""A mirror holds what the store holds, whatever it hears twice, late, in pages or anew."""

from __future__ import annotations

import random

import pytest

from controller.clock import SystemClock
from controller.core.model.model import Model
from controller.core.model.op import Op
from controller.store.base import Delete, Put, Transaction, Write
from controller.store.keys import Keys
from controller.store.memory import MemoryStore
from controller.store.mirror import Changed, Loaded, Mirror
from controller.store.records import changes_of
from controller.views.pools import all_pools
from controller.views.tasks import find_task

CLOCK, KEYS = SystemClock(), Keys("test")
TASK = b'{"id":"-","pool":"p","command":["true"],"submitted_at":5.0}'
STATUS = b'{"state":"Running","pool":"p","attempt":1,"hold":{"cpu":"1"}}'


class Heard:
    """A Listener that remembers."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def reloaded(self, revision: int) -> None:
        self.told.append(("reloaded", revision))

    def changed(self, changes: object, revision: int) -> None:
        self.told.append(("changed", revision))


def write(store: MemoryStore, drawn: random.Random) -> None:
    task = drawn.choice("abc")
    key, value = drawn.choice(
        [(KEYS.task(task), TASK), (KEYS.state(task), STATUS), (KEYS.pool("p"), b'{"capacity":{"cpu":"9"}}')]
    )
    write: Write = Delete(key) if drawn.random() < 0.3 else Put(key, drawn.choice([value, value, b"?"]))
    store.commit(Transaction((), (write,), Op("op")), deadline=CLOCK.boottime() + 5)


def shown(model: Model) -> object:
    return [find_task(model, task) for task in "abc"], all_pools(model), model.revision


def loaded(store: MemoryStore) -> Model:
    snapshot = store.load(KEYS.prefix, deadline=CLOCK.boottime() + 5)
    model = Model()
    model.load(changes_of(KEYS, snapshot.items), snapshot.revision)
    return model


def load(mirror: Mirror, store: MemoryStore, *, fresh: bool = False) -> None:
    is_first = True
    for page in store.pages(KEYS.prefix, deadline=lambda: CLOCK.boottime() + 5):
        mirror.take(Loaded.of(KEYS, page, fresh=fresh and is_first, is_first=is_first))
        is_first = False


@pytest.mark.parametrize("seed", range(20))
def test_it_holds_what_the_store_holds(seed: int) -> None:
    """Also when a batch comes twice, and when it is loaded again, from this store or another one."""
    drawn, store, heard = random.Random(seed), MemoryStore(CLOCK), Heard()
    mirror = Mirror(listeners=[heard])
    load(mirror, store)
    assert mirror.loaded
    for _ in range(10):
        if drawn.random() < 0.2:
            store = MemoryStore(CLOCK)
            for _ in range(drawn.randrange(5)):
                write(store, drawn)
            load(mirror, store, fresh=True)
        watch = store.watch(KEYS.prefix, after=mirror.model.revision)
        for _ in range(drawn.randrange(1, 6)):
            write(store, drawn)
        if drawn.random() < 0.2:
            load(mirror, store)
        while (batch := watch.poll()) is not None:
            for _ in range(drawn.choice([1, 2])):
                mirror.take(Changed.of(KEYS, batch))
        with mirror.reading() as model:
            assert shown(model) == shown(loaded(store))
        assert heard.told[-1] in [("reloaded", mirror.model.revision), ("changed", mirror.model.revision)]


def test_it_tells_what_is_news() -> None:
    """The tasks that changed, once; of a load, that anything may have."""
    store, drawn = MemoryStore(CLOCK), Mirror()
    load(drawn, store)
    watch = store.watch(KEYS.prefix, after=drawn.model.revision)
    store.commit(
        Transaction((), (Put(KEYS.task("a"), TASK), Put(KEYS.pool("p"), b"{}")), Op("op")),
        deadline=CLOCK.boottime() + 5,
    )
    batch = watch.poll()
    assert batch is not None
    news = drawn.take(Changed.of(KEYS, batch))
    assert {change.kind for change in news.changes or ()} == {"tasks", "pools"}
    assert list(news.touched.tasks) == ["a"]
    again = drawn.take(Changed.of(KEYS, batch))
    assert (again.changes, list(again.touched.tasks)) == ([], [])
    assert drawn.take(Loaded([], 0)).changes is None
