"""An elector beside the replica that it speaks to, on a memory store and a clock that the test moves."""

from __future__ import annotations

import itertools

from controller.core.model.installation import EngineIdentity
from controller.core.model.op import Op
from controller.election.elector import Elector, Timings
from controller.election.term import Leadership
from controller.store.base import Delete, Guard, Put, Transaction
from controller.store.keys import Keys
from controller.store.memory import MemoryStore
from tests.support.bench import HandClock
from tests.support.meddling import MeddledStore

KEYS = Keys("elections")
TIMINGS = Timings(
    lease_ttl_seconds=5,
    keepalive_interval_seconds=1.0,
    deadline_margin_seconds=0.5,
    request_timeout_seconds=5.0,
)


class Candidate:
    """An elector, the replica it speaks to, and what was called in which order."""

    def __init__(self, store: MemoryStore, clock: HandClock, name: str = "a") -> None:
        self.clock = clock
        self.store = MeddledStore(store)
        self.alive = True
        self.identity: EngineIdentity | None = EngineIdentity(name="test", id="e1")
        self.problem = ""
        self.events: list[str] = []
        leases = itertools.count(1 + 1000 * ord(name))
        identity = {"id": name, "instance": f"instance-{name}"}
        self.elector = Elector(self.store, KEYS, clock, self, identity, TIMINGS, lambda: next(leases))

    def on_elected(self, leadership: Leadership) -> None:
        self.events.append(f"elected {leadership.epoch}")

    def on_lost(self, leadership: Leadership, why: str) -> None:
        leader, _ = self.store.get(KEYS.leader, deadline=0)
        self.events.append(
            f"lost {leadership.epoch}: {why}{', key still there' if leader is not None else ''}"
        )

    def loop_is_alive(self, within_seconds: float) -> bool:
        return self.alive

    def engine(self) -> EngineIdentity | None:
        return self.identity

    def why_not(self) -> str:
        return self.problem

    @property
    def leads(self) -> bool:
        """Whether it may act now."""
        return self.elector.leadership is not None and not self.elector.leadership.why_ended()

    def run(self, seconds: float) -> None:
        """Step as its driver does, until the clock has moved so far."""
        until = self.clock.boottime() + seconds
        while (now := self.clock.boottime()) < until:
            self.clock.move(min(max(0.01, self.elector.step()), until - now))

    def elect(self) -> Leadership:
        self.elector.step()
        assert self.elector.leadership is not None
        return self.elector.leadership


def put(store: MemoryStore, key: str, value: bytes, lease: int = 0) -> None:
    """By hand."""
    current, _ = store.get(key, deadline=0)
    store.commit(
        Transaction((Guard(key, current.mod if current else 0),), (Put(key, value, lease),), Op("hand")),
        deadline=0,
    )


def delete(store: MemoryStore, key: str) -> None:
    item, _ = store.get(key, deadline=0)
    assert item is not None
    store.commit(Transaction((Guard(key, item.mod),), (Delete(key),), Op("hand")), deadline=0)
