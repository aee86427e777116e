"""The queue of the control loop, while a commit is in flight."""

from __future__ import annotations

import threading

import pytest

from controller.core.planning.events import EngineSilent
from controller.runtime.inbox import Inbox, Message, Wake
from controller.store.mirror import Changed, Loaded


def changed(revision: int) -> Changed:
    return Changed([], revision)


def inbox_of(*messages: Message) -> Inbox:
    inbox = Inbox()
    for message in messages:
        inbox.put(message)
    return inbox


def test_the_engine_does_not_wait_for_the_store() -> None:
    inbox = inbox_of(changed(3), EngineSilent(1, "a"), changed(9), EngineSilent(1, "b"))
    assert inbox.take_ahead(5) == [changed(3), EngineSilent(1, "a"), EngineSilent(1, "b")]
    assert not inbox.has_more()
    assert inbox.take(0.0) == [changed(9)]


def test_pages_of_a_load_are_taken_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads them waits, however much faster a store is read than taken in."""
    monkeypatch.setattr("controller.runtime.inbox.LOOK_SECONDS", 0.01)
    inbox, pages = Inbox(), [Loaded([], number, is_last=False) for number in range(50)]
    reader = threading.Thread(target=lambda: [inbox.put_page(page, lambda: False) for page in pages])
    reader.start()
    taken = list[Message]()
    while len(taken) < len(pages):
        assert len(inbox) <= 1
        taken += inbox.take(5.0)
    reader.join(5)
    assert taken == pages
    assert inbox.put_page(pages[0], lambda: True)
    assert not inbox.put_page(pages[1], lambda: True)
    assert inbox.take(0.0) == [pages[0]]
    assert inbox.put_page(pages[1], lambda: True)


def test_what_the_store_shows_later_waits_in_its_order() -> None:
    """What came after a load belongs to what was loaded, whatever its revision."""
    loaded = Loaded([], 7)
    inbox = inbox_of(changed(8), changed(5), loaded, changed(4), Wake())
    assert inbox.take_ahead(5) == []
    assert inbox.has_more()
    assert inbox.take_ahead(9) == [changed(8), changed(5)]
    assert inbox.take(0.0) == [loaded, changed(4), Wake()]
    assert not inbox.has_more()
