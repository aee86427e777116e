"""`threading`, `queue` and the clock as the production code sees them in a simulation.

`installed` puts them in the place of the real ones, in the modules that start threads or wait. Everything
else of these modules, and everything they call, is what runs in production.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import structlog

from controller import bulkhead
from controller.election import sentinel, session, term
from controller.runtime import (
    actuator,
    candidacy,
    failpoints,
    follower,
    inbox,
    log_keeper,
    observer,
    office,
    phase,
    replica,
    surveyor,
)
from controller.store import mirror
from tests.simulation.scheduler import Fiber, Killed, Machine, Scheduler, ThreadDied

THREADED = (
    sentinel,
    session,
    term,
    actuator,
    candidacy,
    follower,
    log_keeper,
    observer,
    office,
    phase,
    replica,
    surveyor,
    mirror,
)
QUEUED = (actuator, inbox, log_keeper)
_SWITCH_SECONDS = 2e-4  # a thread that could go on does so after up to this
_PREEMPTION = 0.01  # of clock reads


class Waiters:
    """Fibers that wait for one thing."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._waiting: list[tuple[Fiber, int]] = []

    def wait(self, give_up_at: float | None) -> None:
        """Until woken, or until a time (local to the machine)."""
        fiber = self.scheduler.current
        assert fiber is not None, "only a simulated thread can wait"
        turn = fiber.begin_wait()
        self._waiting.append((fiber, turn))
        if give_up_at is not None:
            machine = fiber.process.machine
            fiber.wake(turn, None, max(0.0, machine.true_time(give_up_at) - self.scheduler.now))
        fiber.wait()

    def wake(self) -> None:
        """Wake all; each looks for itself whether it can go on."""
        waiting, self._waiting = self._waiting, []
        for fiber, turn in waiting:
            fiber.wake(turn, None, self.scheduler.rng.random() * _SWITCH_SECONDS)


class SimulatedEvent:
    """threading.Event."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._waiters = Waiters(scheduler)
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        self._waiters.wake()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        give_up_at = deadline_of(self._waiters.scheduler, timeout)
        while not self._set and not has_passed(self._waiters.scheduler, give_up_at):
            self._waiters.wait(give_up_at)
        return self._set


class SimulatedLock:
    """threading.RLock, and Lock, which nobody here takes twice."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._waiters = Waiters(scheduler)
        self._owner: Fiber | None = None
        self._depth = 0

    def __enter__(self) -> SimulatedLock:
        fiber = self._waiters.scheduler.current
        while self._depth and self._owner is not fiber:
            self._waiters.wait(None)
        self._owner = fiber
        self._depth += 1
        return self

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._waiters.wake()


class SimulatedQueue:
    """queue.SimpleQueue."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._waiters = Waiters(scheduler)
        self._items: list[Any] = []

    def put(self, item: Any) -> None:
        self._items.append(item)
        self._waiters.wake()

    def get(self, timeout: float | None = None) -> Any:
        give_up_at = deadline_of(self._waiters.scheduler, timeout)
        while not self._items:
            if has_passed(self._waiters.scheduler, give_up_at):
                raise queue.Empty
            self._waiters.wait(give_up_at)
        return self._items.pop(0)

    def get_nowait(self) -> Any:
        if not self._items:
            raise queue.Empty
        return self._items.pop(0)

    def qsize(self) -> int:
        return len(self._items)


class SimulatedThread:
    """threading.Thread; it belongs to the process whose fiber starts it."""

    def __init__(self, scheduler: Scheduler, target: Callable[[], Any], name: str, daemon: bool) -> None:
        self._scheduler = scheduler
        self._target = target
        self._name = name
        self._ended = SimulatedEvent(scheduler)
        self._fiber: Fiber | None = None

    def start(self) -> None:
        starter = self._scheduler.current
        assert starter is not None
        self._fiber = Fiber(starter.process, self._name, self._run)

    def join(self, timeout: float | None = None) -> None:
        self._ended.wait(timeout)

    def is_alive(self) -> bool:
        return self._fiber is not None and not self._ended.is_set()

    def _run(self) -> None:
        self._target()
        self._ended.set()


class SimulatedClock:
    """controller.clock.Clock of one machine. A thread can lose the processor at any clock read."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._offset = 0.0
        self.anchor()

    def boottime(self) -> float:
        scheduler = self._machine.scheduler
        fiber = scheduler.current
        if fiber is not None and fiber.process.alive and scheduler.rng.random() < _PREEMPTION:
            fiber.sleep(scheduler.rng.random() ** 4 * 0.2)
        return self._machine.local()

    def now(self) -> float:
        return self._offset + self.boottime()

    def wall(self) -> float:
        return self._machine.scheduler.wall + self._machine.scheduler.now + self._machine.wall_offset

    def anchor(self) -> None:
        self._offset = self.wall() - self._machine.local()


@contextmanager
def installed(
    scheduler: Scheduler, sockets: dict[str, SimpleNamespace], hit: Callable[..., None]
) -> Iterator[None]:
    """Production code waits and starts threads on this scheduler; `sockets` are twins of the sentinel's other
    modules.

    `hit` is told of each failpoint that is passed.
    """
    threading_twin = SimpleNamespace(
        Thread=lambda target, name, daemon: SimulatedThread(scheduler, target, name, daemon),
        Event=lambda: SimulatedEvent(scheduler),
        Lock=lambda: SimulatedLock(scheduler),
        RLock=lambda: SimulatedLock(scheduler),
    )
    queue_twin = SimpleNamespace(SimpleQueue=_QueueFactory(scheduler), Empty=queue.Empty)
    replaced: list[tuple[ModuleType, str, Any]] = [
        (module, "threading", threading_twin) for module in THREADED
    ] + [(module, "queue", queue_twin) for module in QUEUED]
    replaced += [(sentinel, name, twin) for name, twin in sockets.items()]
    replaced += [(failpoints, "hit", hit)]
    before = [(module, name, getattr(module, name)) for module, name, _ in replaced]
    for module, name, twin in replaced:
        setattr(module, name, twin)
    try:
        yield
    finally:
        for module, name, real in before:
            setattr(module, name, real)


KEPT_APART = ("planning", "admission", "control-loop")
"""Where an error that was planted on a task may be caught."""


@contextmanager
def errors_found_by(scheduler: Scheduler) -> Iterator[None]:
    """What production code catches because nobody expected it ends the run: it is a finding, however well
    it was kept apart.
    """

    def found(where: str, error: BaseException, **about: str) -> None:
        if getattr(error, "is_planted", False) and where in KEPT_APART:
            return
        caught = ThreadDied(f"{where} ({', '.join(about.values())}) raised {type(error).__name__}: {error}")
        caught.__cause__ = error
        scheduler.failure = scheduler.failure or (error if getattr(error, "is_finding", False) else caught)

    real, bulkhead.caught = bulkhead.caught, found
    try:
        yield
    finally:
        bulkhead.caught = real


@contextmanager
def logging_into(scheduler: Scheduler) -> Iterator[None]:
    """What production code logs goes into the trace, if there is one, and nowhere else."""

    def to_trace(logger: object, method: str, event: MutableMapping[str, Any]) -> Any:
        if scheduler.trace is not None:
            facts = " ".join(f"{name}={value}" for name, value in event.items() if name != "event")
            scheduler.trace.append(
                f"{scheduler.now:11.6f} [{scheduler.current}]     {event['event']} {facts}"
            )
        raise structlog.DropEvent

    before = structlog.get_config()
    level = logging.INFO if scheduler.trace is not None else logging.CRITICAL
    structlog.configure(processors=[to_trace], wrapper_class=structlog.make_filtering_bound_logger(level))
    try:
        yield
    finally:
        structlog.configure(**before)


class _QueueFactory:
    """Stands for the class: `SimpleQueue()` and the annotations `SimpleQueue[...]`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def __call__(self) -> SimulatedQueue:
        return SimulatedQueue(self._scheduler)

    def __getitem__(self, item: object) -> _QueueFactory:
        return self


def deadline_of(scheduler: Scheduler, timeout: float | None) -> float | None:
    """When a wait that begins now is over, by the clock of the machine that waits; None: never."""
    fiber = scheduler.current
    if fiber is None or not fiber.process.alive:
        raise Killed
    return None if timeout is None else fiber.process.machine.local() + max(0.0, timeout)


def has_passed(scheduler: Scheduler, give_up_at: float | None) -> bool:
    """Whether a wait is over."""
    fiber = scheduler.current
    assert fiber is not None
    return give_up_at is not None and fiber.process.machine.local() >= give_up_at - 1e-9
