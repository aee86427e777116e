"""Nodes in the simulation, which the capacity of a pool follows, and the judge of what is recorded (I18)."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from controller.core.model import codec
from controller.core.model.capacities import CHANGES_KEPT, ObservedCapacity, decode_capacity
from controller.core.model.nodes import NodeRoom, Taint
from controller.core.model.resources import ZERO, Vector
from controller.core.planning import capacities
from controller.engine.base import EngineUnavailable
from controller.errors import CorruptValue
from controller.store.base import KeyEvent
from tests.simulation.concurrency import SimulatedEvent, SimulatedQueue
from tests.simulation.scheduler import Scheduler

if TYPE_CHECKING:
    from tests.simulation.engine import SimulatedEngine
    from tests.simulation.oracle import Oracle

POOL = "default"
FOLLOWS = {"from": "nodes", "selector": f"pool={POOL}"}
LABELS = {"pool": POOL}
MEMORY = 8
PAUSE_SECONDS, UNSEEN_SECONDS = 1.0, 3.0
"""A run lasts a minute: a record is written no more often than this in one term (in production: 10 s)."""


@contextmanager
def paced() -> Iterator[None]:
    """The leader writes records at that pace."""
    before = capacities.PAUSE_SECONDS, capacities.UNSEEN_SECONDS
    capacities.PAUSE_SECONDS, capacities.UNSEEN_SECONDS = PAUSE_SECONDS, UNSEEN_SECONDS
    try:
        yield
    finally:
        capacities.PAUSE_SECONDS, capacities.UNSEEN_SECONDS = before


class Nodes:
    """The machines of the cluster. One is always there and can be used, so that there is never nothing."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.is_on = False
        self.all: dict[str, NodeRoom] = {"n0": _node("n0", 1)}
        self.were: dict[Vector, None] = {self.truth: None}  # all that they ever gave
        self.watches: list[SimulatedQueue] = []
        self.changes = 0

    @property
    def truth(self) -> Vector:
        """What they give now, by sums of the judge's own."""
        sums = {"cpu": 0, "memory": 0}
        for node in self.all.values():
            if node.is_ready and not node.is_cordoned and not node.taints and node.labels == LABELS:
                for name in sums:
                    sums[name] += max(0, node.allocatable.get(name) - node.others.get(name))
        return Vector(sums)

    def act(self) -> None:
        """Something happens to one of them."""
        rng = self.scheduler.rng
        name = f"n{rng.randint(1, 4)}"
        node = self.all.get(name)
        if node is None:
            self._put(_node(name, rng.choice((1, 2, 3)), is_ready=rng.random() < 0.7))
            return
        change: dict[str, Any] = rng.choice(
            (
                {"is_ready": not node.is_ready},
                {"is_cordoned": not node.is_cordoned},
                {"taints": () if node.taints else (Taint("a", "b", "NoExecute"),)},
                {"others": Vector({"cpu": rng.choice((0, 500, 5000))})},
                {"allocatable": Vector({"cpu": 1000 * rng.choice((1, 2)), "memory": MEMORY})},
                {"labels": LABELS if node.labels != LABELS else {}},
                {},
            )
        )
        self._put(node._replace(**change) if change else None, name)

    def heal(self, cpu: int) -> None:
        """There is as much as this, and stays so."""
        self.is_on = False
        for name in [name for name in self.all if name != "n0"]:
            self._put(None, name)
        self._put(_node("n1", cpu))

    def _put(self, node: NodeRoom | None, name: str = "") -> None:
        self.changes += 1
        self.all.pop(name, None)
        if node is not None:
            self.all[node.name] = node
        self.were[self.truth] = None
        shown = tuple(self.all.values())
        for watch in self.watches:
            self.scheduler.after(self.scheduler.rng.random() ** 3, lambda watch=watch: watch.put(shown))  # type: ignore[misc]  # mypy knows no default of a lambda


def _node(name: str, cpu: int, **fields: Any) -> NodeRoom:
    return NodeRoom(name, LABELS, Vector({"cpu": 1000 * cpu, "memory": MEMORY}), **fields)


def survey(
    engine: SimulatedEngine,
    sink: Callable[[tuple[NodeRoom, ...]], None],
    trouble: Callable[[str], None],
    stop: SimulatedEvent,
) -> None:
    """As an engine shows its nodes: the present ones first. What comes late is put right by the next look."""
    nodes = engine._server.nodes
    news = SimulatedQueue(nodes.scheduler)
    nodes.watches.append(news)
    told: tuple[NodeRoom, ...] | None = None
    try:
        while not stop.is_set():
            if engine._read_from is not engine._server:
                raise EngineUnavailable("the survey was cut")
            if not engine._reachable():
                trouble("no route to the engine")
                told = None
                stop.wait(1.0)
                continue
            try:
                shown = news.get(timeout=1.0) if told is not None else tuple(nodes.all.values())
            except queue.Empty:
                shown = tuple(nodes.all.values())
            if shown != told:
                sink(shown)
                told = shown
    finally:
        nodes.watches.remove(news)


class NodeJudge:
    """I18, and that a record follows what was true, at its pace, each change with what it changed."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self.records: dict[str, ObservedCapacity] = {}
        self.written = 0

    def follows(self, pool: str) -> bool:
        """Whether the pool that is stored follows nodes."""
        value = self._oracle.values.get(self._oracle.keys.pool(pool))
        try:
            return value is not None and codec.decode_pool(pool, value).capacity_from is not None
        except CorruptValue:
            return False

    def capacity(self, pool: str) -> Vector:
        """What is recorded for a pool."""
        record = self.records.get(pool)
        return record.amounts if record is not None else ZERO

    def on_record(self, event: KeyEvent, pool: str) -> str:
        """Take in what a leader has written; returns what is wrong with it."""
        before = self.records.pop(pool, None)
        if event.item is None:
            return f"the record of {pool} was deleted, which follows nodes" if self.follows(pool) else ""
        self.written += 1
        after = self.records[pool] = decode_capacity(event.item.value)
        if not self.follows(pool):
            return f"there is a record of {pool}, which follows no nodes"
        if after.amounts not in self._oracle.engine.nodes.were and after.changes:
            return f"{pool} has {after.amounts}, which no nodes ever gave"
        return _wrong_change(pool, before, after)

    def left(self) -> list[str]:
        """What is not yet as it must be in the end."""
        if not self.follows(POOL):
            return [f"{POOL} has a record"] if POOL in self.records else []
        truth = self._oracle.engine.nodes.truth
        told = self.records.get(POOL)
        if told is None or told.amounts != truth:
            return [f"{POOL} has {self.capacity(POOL)}, and its nodes give {truth}"]
        return ["the nodes are out of sight"] if told.unseen_since is not None else []


def _wrong_change(pool: str, before: ObservedCapacity | None, after: ObservedCapacity) -> str:
    last = after.last
    known = before if before is not None else ObservedCapacity()
    if last is None:
        return f"{pool} has {after.amounts}, and no change led there" if after.amounts else ""
    if last.after != after.amounts or len(after.changes) > CHANGES_KEPT or not last.why:
        return f"the last change of {pool} led to {last.after}, and it has {after.amounts}"
    if after.changes == known.changes:
        return f"{pool} has changed without a change" if after.amounts != known.amounts else ""
    if last.before != known.amounts or after.changes != (*known.changes, last)[-CHANGES_KEPT:]:
        return f"the last change of {pool} began with {last.before}, and it had {known.amounts}"
    previous = known.last
    is_early = previous is not None and 0 <= last.at - previous.at < PAUSE_SECONDS - 0.001
    if previous is not None and previous.epoch == last.epoch and is_early:
        return f"{pool} was written again after {last.at - previous.at:.1f} s"
    return ""
