"""The queue of the control loop, while a commit is in flight."""

from __future__ import annotations

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


def test_what_the_store_shows_later_waits_in_its_order() -> None:
    """What came after a load belongs to what was loaded, whatever its revision."""
    loaded = Loaded([], 7)
    inbox = inbox_of(changed(8), changed(5), loaded, changed(4), Wake())
    assert inbox.take_ahead(5) == []
    assert inbox.has_more()
    assert inbox.take_ahead(9) == [changed(8), changed(5)]
    assert inbox.take(0.0) == [loaded, changed(4), Wake()]
    assert not inbox.has_more()
