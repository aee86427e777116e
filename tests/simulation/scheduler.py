"""Virtual time, and threads of which exactly one runs: the ground that the simulation stands on.

Production code keeps its threads. Each simulated thread (`Fiber`) is a real one, but it runs only while it
holds the baton, and gives it back wherever it would block: at a store or engine call, a lock, a queue, an
event, now and then at a clock read. What happens next is always the earliest entry of one agenda, and every
delay comes from one seeded generator, so that a seed fixes the whole run, to the last interleaving.

Machines have clocks of their own (offset, rate), can be paused (their fibers are then not scheduled) and
killed (their fibers unwind at the point where they are, and nothing that they do on the way takes effect).
"""

from __future__ import annotations

import _thread
import heapq
import random
import zlib
from collections.abc import Callable
from typing import Any

Action = Callable[[], None]
WALL = 1_700_000_000.0  # what a right wall clock shows as a simulation begins, unless it says otherwise


class Killed(BaseException):
    """Raised in the fibers of a killed process; no production code catches it."""


class ThreadDied(Exception):
    """A production thread ended with an error that nobody handled."""


class Scheduler:
    """See the module's docstring. `now` is true time in seconds; nobody but the simulation knows it."""

    def __init__(self, seed: int | random.Random) -> None:
        self.rng = seed if isinstance(seed, random.Random) else random.Random(seed)
        self.now = 0.0
        self.wall = WALL
        self.steps = 0
        self.digest = 0  # of all that happened, in order: two runs of one seed must agree
        self.current: Fiber | None = None
        self.failure: BaseException | None = None
        self.trace: list[str] | None = None
        self._agenda: list[tuple[float, int, Action]] = []
        self._entries = 0
        self._baton = _thread.allocate_lock()
        self._baton.acquire()

    def at(self, when: float, action: Action) -> None:
        """Let something happen at a time; entries of the same time happen in the order in which they were
        made.
        """
        self._entries += 1
        heapq.heappush(self._agenda, (max(when, self.now), self._entries, action))

    def after(self, delay: float, action: Action) -> None:
        """Let something happen after so many seconds."""
        self.at(self.now + delay, action)

    def step(self) -> bool:
        """Let the next thing happen; False when there is none. Raises what a fiber died of."""
        if not self._agenda:
            return False
        self.now, _, action = heapq.heappop(self._agenda)
        self.steps += 1
        action()
        if self.failure is not None:
            raise self.failure
        return True

    def note(self, what: str) -> None:
        """Something worth a line in the trace; it is part of the digest, so that replays are compared by
        it.
        """
        self.digest = zlib.crc32(f"{self.now:.6f} {what}".encode(), self.digest)
        if self.trace is not None:
            fiber = f" [{self.current}]" if self.current is not None else ""
            self.trace.append(f"{self.now:11.6f}{fiber} {what}")

    def hand_over(self, fiber: Fiber) -> None:
        """Run a fiber until it waits or ends.

        A fiber that kills its own process hands over too: the baton comes back to it.
        """
        before, self.current = self.current, fiber
        outer, self._baton = self._baton, _thread.allocate_lock()
        self._baton.acquire()
        fiber.baton.release()
        self._baton.acquire()
        self.current, self._baton = before, outer

    def give_back(self) -> None:
        """Called by the fiber that runs: the scheduler goes on."""
        self._baton.release()


class Machine:
    """A computer: its clock, and whether it runs. Local time is `rate` times as fast as true time."""

    def __init__(self, scheduler: Scheduler, name: str) -> None:
        self.scheduler = scheduler
        self.name = name
        self.rate = 1.0
        self.wall_offset = 0.0
        self.paused_until = 0.0
        self._local, self._since = 1000.0 + scheduler.rng.random() * 1000, scheduler.now

    def local(self) -> float:
        """Seconds of the machine's boottime clock; it goes on while the machine is paused."""
        return self._local + (self.scheduler.now - self._since) * self.rate

    def true_time(self, local: float) -> float:
        """When the machine's clock will show `local`, at its present rate."""
        return self._since + (local - self._local) / self.rate

    def set_rate(self, rate: float) -> None:
        """From now on the clock runs fast or slow."""
        self._local, self._since, self.rate = self.local(), self.scheduler.now, rate


class Process:
    """One life of a program on a machine: its fibers, until it ends or is killed."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine = machine
        self.name = name
        self.alive = True
        self.fibers: list[Fiber] = []
        self.at_end: list[Action] = []  # what its machine's kernel does then

    def kill(self) -> None:
        """End every fiber where it is.

        One that calls this itself unwinds at its next wait, or by the Killed raised here.
        """
        if not self.alive:
            return
        self.alive = False
        for action in self.at_end:
            action()
        scheduler = self.machine.scheduler
        for fiber in self.fibers:
            if fiber is not scheduler.current and not fiber.ended:
                scheduler.hand_over(fiber)
        if scheduler.current is not None and scheduler.current.process is self:
            raise Killed


class Fiber:
    """A thread that runs only when it is handed the baton. `wait` is the one place where it stops."""

    def __init__(self, process: Process, name: str, target: Callable[[], Any]) -> None:
        self.process = process
        self.name = name
        self.ended = False
        self.hangs_until = 0.0
        self.baton = _thread.allocate_lock()
        self.baton.acquire()
        self._target = target
        self._turn = 0  # which wait it is in: a wake-up that is meant for an earlier one is dropped
        self._result: object = None
        process.fibers.append(self)
        _thread.start_new_thread(self._main, ())
        self.wake(0, None, process.machine.scheduler.rng.random() * 1e-4)

    def __str__(self) -> str:
        return f"{self.process.name}/{self.name}"

    @property
    def scheduler(self) -> Scheduler:
        """The one scheduler."""
        return self.process.machine.scheduler

    def begin_wait(self) -> int:
        """Announce a wait; returns what `wake` has to be given to end it."""
        self._turn += 1
        return self._turn

    def wait(self) -> Any:
        """Give up the baton until somebody wakes this wait; returns what it was woken with."""
        if not self.process.alive:
            raise Killed
        self.scheduler.give_back()
        self.baton.acquire()
        if not self.process.alive:
            raise Killed
        return self._result

    def wake(self, turn: int, result: object, delay: float = 0.0) -> None:
        """End the wait `turn`, if the fiber is still in it by then and its machine runs."""
        self.scheduler.after(delay, lambda: self._resume(turn, result))

    def sleep(self, seconds: float) -> None:
        """Wait for so many seconds of true time."""
        self.wake(self.begin_wait(), None, seconds)
        self.wait()

    def _resume(self, turn: int, result: object) -> None:
        if self.ended or turn != self._turn or not self.process.alive:
            return
        machine = self.process.machine
        runs_at = max(machine.paused_until, self.hangs_until)
        if runs_at > self.scheduler.now:
            # In the order in which they would have come: what happens to a stopped process is found when it
            # goes on.
            self.scheduler.at(runs_at, lambda: self._resume(turn, result))
            return
        self._turn += 1
        self._result = result
        self.scheduler.hand_over(self)

    def _main(self) -> None:
        self.baton.acquire()
        try:
            if self.process.alive:
                self._target()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001  # handed to the scheduler, which raises it
            died = ThreadDied(f"the thread {self} died of {type(error).__name__}: {error}")
            died.__cause__ = error
            self.scheduler.failure = self.scheduler.failure or (
                error if getattr(error, "is_finding", False) else died
            )
        self.ended = True
        self.scheduler.give_back()
