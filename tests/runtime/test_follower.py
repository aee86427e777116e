"""The follower by itself: what it tells the model after each kind of gap."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from controller.clock import SystemClock
from controller.core.model.op import Op
from controller.runtime.follower import PAUSE_SECONDS, Follower
from controller.runtime.inbox import Inbox
from controller.store.base import (
    Batch,
    ClusterChanged,
    Compacted,
    Page,
    Put,
    StoreError,
    StoreUnavailable,
    Transaction,
    Watch,
)
from controller.store.keys import Keys
from controller.store.memory import MemoryStore
from controller.store.mirror import Changed, Loaded
from tests.support.meddling import MeddledStore
from tests.support.waiting import wait_until

CLOCK = SystemClock()


class _Broken:
    """A watch that ends with an error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __iter__(self) -> Iterator[Batch]:
        raise self._error

    def close(self) -> None:
        """Nothing to close."""


def test_only_the_first_page_of_another_store_says_that_it_is_another() -> None:
    """Whichever call has noticed it: here a load merely failed. A gap later on is a reload like any other,
    and ends no leader's term.
    """
    store, inbox = MeddledStore(MemoryStore(CLOCK)), Inbox()
    pages: list[Page | StoreError] = [
        Page(9, (), more=True),
        StoreUnavailable("required revision is a future revision"),
        Page(5, (), more=True, era=1),
        Page(5, (), more=False, era=1),
        Compacted(1),
        Page(6, (), more=False, era=1),
    ]

    def read(*_args: Any, **_kwargs: Any) -> Iterator[Page]:
        while pages:
            page = pages.pop(0)
            if isinstance(page, StoreError):
                raise page
            yield page
            if not page.more:
                return

    store.on["pages"] = read
    store.on["watch"] = lambda *_args, **_kwargs: _Broken(ClusterChanged("restored"))
    follower = Follower(store, Keys("followed"), CLOCK, inbox, silence_seconds=5.0)
    loads = list[Loaded]()

    def all_of_them() -> bool:
        loads.extend(message for message in inbox.take(0.0) if isinstance(message, Loaded))
        return len(loads) == 4

    follower.start()
    wait_until(all_of_them, "the parts of three loads")
    follower.close()
    assert [(load.revision, load.is_first, load.fresh) for load in loads] == [
        (9, True, False),
        (5, True, True),
        (5, False, False),
        (6, True, False),
    ]


def test_a_store_that_sends_it_back_each_time_is_not_stormed_with_loads() -> None:
    """Every load is the whole store: between two of them it waits, whatever the watch says."""
    store = MeddledStore(MemoryStore(CLOCK))
    loaded_at: list[float] = []

    def load(real: Any, *args: Any, **kwargs: Any) -> Any:
        loaded_at.append(CLOCK.boottime())
        return real(*args, **kwargs)

    store.on["pages"] = load
    store.on["watch"] = lambda *_args, **_kwargs: _Broken(Compacted(1))
    follower = Follower(store, Keys("followed"), CLOCK, Inbox(), silence_seconds=5.0)
    follower.start()
    wait_until(lambda: len(loaded_at) >= 2, "two loads")
    follower.close()
    assert loaded_at[1] - loaded_at[0] >= PAUSE_SECONDS


def test_one_that_rests_has_no_watch_until_it_is_hurried() -> None:
    store, keys, inbox = MeddledStore(MemoryStore(CLOCK)), Keys("followed"), Inbox()
    ended = list[bool]()

    class Seen:
        """A watch of which it is known whether it has been closed."""

        def __init__(self, watch: Watch) -> None:
            self._watch = watch
            self._number = len(ended)
            ended.append(False)

        def __iter__(self) -> Iterator[Batch]:
            return iter(self._watch)

        def close(self) -> None:
            self._watch.close()
            ended[self._number] = True

    def put(name: str) -> int:
        writes = (Put(keys.prefix + name, b"v"),)
        revision: int = store.commit(Transaction((), writes, Op(name)), deadline=0.0).revision
        return revision

    store.on["watch"] = lambda real, *args, **kwargs: Seen(real(*args, **kwargs))
    follower = Follower(store, keys, CLOCK, inbox, silence_seconds=5.0, rest_seconds=3600.0)
    follower.start()
    wait_until(lambda: ended == [True], "the first rest")
    inbox.take(0.0)
    expected = [put("a"), put("b")]
    assert (len(inbox), ended) == (0, [True])
    follower.hurry()
    wait_until(lambda: ended == [True, True], "the second rest")
    assert [message.revision for message in inbox.take(0.0) if isinstance(message, Changed)] == expected
    follower.close()
    assert ended == [True, True]
