"""A replica's registration: its own key, and never another's."""

from __future__ import annotations

from controller.core.model import codec
from controller.election.session import Registration
from controller.store.keys import Keys
from controller.store.memory import MemoryStore
from tests.support.bench import HandClock

KEYS = Keys("election")


def registration(store: MemoryStore, clock: HandClock, instance: str, lease: int) -> Registration:
    identity = {"id": "r1", "instance": instance}
    return Registration(store, KEYS.replica, clock, identity, dict, 2.0, lambda: lease)


def registered(store: MemoryStore) -> dict[str, str]:
    items = store.load(KEYS.replica(""), deadline=0).items
    return {
        item.key.removeprefix(KEYS.replica("")): codec.decode_mapping(item.value)["instance"]
        for item in items
    }


def test_who_has_lost_its_name_does_not_remove_who_has_it_now() -> None:
    """Its lease expired while it was paused, and another of its name registered: it takes another key, and
    leaves that one.
    """
    clock = HandClock()
    store = MemoryStore(clock)
    first = registration(store, clock, "aaaaaaaaaa", 1)
    first._refresh(clock.boottime() + 1)
    clock.move(60)
    store.expire_leases()
    second = registration(store.client(), clock, "bbbbbbbbbb", 2)
    second._refresh(clock.boottime() + 1)
    first._new_lease = lambda: 3
    first._refresh(clock.boottime() + 1)
    assert registered(store) == {"r1": "bbbbbbbbbb", "r1-aaaaaaaa": "aaaaaaaaaa"}


def test_its_other_name_is_given_up_once_its_own_is_free() -> None:
    """One registration for one replica."""
    clock = HandClock()
    store = MemoryStore(clock)
    other = registration(store, clock, "bbbbbbbbbb", 2)
    other._refresh(clock.boottime() + 1)
    one = registration(store.client(), clock, "aaaaaaaaaa", 1)
    one._refresh(clock.boottime() + 1)
    assert registered(store) == {"r1": "bbbbbbbbbb", "r1-aaaaaaaa": "aaaaaaaaaa"}
    store.revoke(2, deadline=0)
    one._refresh(clock.boottime() + 1)
    assert registered(store) == {"r1": "aaaaaaaaaa"}
