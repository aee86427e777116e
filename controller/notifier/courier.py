"""Delivers parcels with a few threads, and tells what became of them with one."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

from controller import bulkhead
from controller.clock import Clock
from controller.errors import InvalidField
from controller.notifier.delivery import Delivered, Undelivered
from controller.notifier.parcel import Parcel, ParcelKey
from controller.notifier.rounds import Outcome, Rounds

CLOSING_SECONDS = 5.0  # as long as a connection is waited for


class CourierCounts(NamedTuple):
    """What a courier has done since it began, and what it has still to do.

    `failed` counts tries, `retries` those after a parcel's first. `by_host` has (host, `delivered`, `failed`
    or `dead`); hosts beyond the first hundred are counted as `others`. `oldest_waiting_seconds` is since the
    oldest event that waits, 0 without one.
    """

    delivered: int
    failed: int
    retries: int
    dead: int
    waiting: int
    oldest_waiting_seconds: float
    by_host: Mapping[tuple[str, str], int]


class Courier:
    """Delivers each parcel that it takes until it is delivered or dead; see `rounds` for the order.

    `deliver` is called by `workers` threads, which begin at once. `heard` is called by one thread, once for
    each parcel, with what became of it: Delivered, or an Undelivered that is final. A parcel is dead when the
    receiver wants no more of it, or when a try fails later than `give_up_after_seconds` after it has begun.
    Nothing is kept but what was taken: who needs the rest after a restart takes it again, so that a receiver
    may be told twice. Any thread may call. Raises InvalidField.
    """

    def __init__(
        self,
        deliver: Callable[[Parcel], Delivered | Undelivered],
        clock: Clock,
        heard: Callable[[Parcel, Delivered | Undelivered], None],
        *,
        workers: int = 32,
        per_host: int = 2,
        backoff_seconds: tuple[float, float] = (5.0, 3600.0),
        give_up_after_seconds: float = 86400.0,
        spread: Callable[[], float] = random.random,
    ) -> None:
        _check(workers, per_host, backoff_seconds)
        self._deliver = deliver
        self._clock = clock
        self._heard = heard
        self._rounds = Rounds(workers, per_host, backoff_seconds, give_up_after_seconds, spread)
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._news = threading.Condition(self._lock)
        self._over: deque[Outcome] = deque()
        self._is_closing = self._is_closed = False
        self._workers = [
            threading.Thread(target=self._run, name=f"courier-{number}", daemon=True)
            for number in range(workers)
        ]
        self._teller = threading.Thread(target=self._tell, name="courier-tells", daemon=True)
        for thread in (*self._workers, self._teller):
            thread.start()

    def take(self, parcel: Parcel) -> bool:
        """Deliver it from now on; False if the courier has it already, or is closed."""
        with self._lock:
            if self._is_closing or not self._rounds.take(parcel, self._clock.boottime()):
                return False
            self._work.notify()
            return True

    def forget(self, key: ParcelKey) -> bool:
        """Try the parcel no more, and tell nothing of it; False if the courier does not have it.

        If it is under way, the receiver may still get it.
        """
        with self._lock:
            is_forgotten = self._rounds.forget(key, self._clock.boottime())
            self._work.notify()
            return is_forgotten

    def counts(self) -> CourierCounts:
        """How it stands."""
        with self._lock:
            rounds = self._rounds
            began = [parcel.begun for parcel in rounds.waiting()]
            oldest = max(0.0, self._clock.wall() - min(began)) if began else 0.0
            return CourierCounts(
                rounds.delivered,
                rounds.failed,
                rounds.retries,
                rounds.dead,
                len(began),
                oldest,
                dict(rounds.by_host),
            )

    def close(self, within_seconds: float = CLOSING_SECONDS) -> None:
        """Begin no more deliveries, and end the threads; idempotent.

        What is over within that time is still told. A delivery that takes longer goes on alone, and nothing
        is told of it, nor of anything else after this returns; but a call of `heard` that has begun and hangs
        is not waited for any longer either.
        """
        ends = self._clock.boottime() + within_seconds
        with self._lock:
            self._is_closing = True
            self._work.notify_all()
        for worker in self._workers:
            worker.join(max(0.0, ends - self._clock.boottime()))
        with self._lock:
            self._is_closed = True
            self._news.notify_all()
        self._teller.join(max(1.0, ends - self._clock.boottime()))
        with self._lock:
            self._over.clear()

    def _run(self) -> None:
        """One worker."""
        while (parcel := self._next()) is not None:
            try:
                outcome = self._deliver(parcel)
            except Exception as error:  # noqa: BLE001  # counted and logged; confined to this parcel
                bulkhead.caught("delivery", error, task=parcel.task_id)
                outcome = Undelivered("an unexpected error, which the log of the notifier shows")
            with self._lock:
                over = self._rounds.ended(parcel, outcome, self._clock.boottime(), self._clock.wall())
                if over and not self._is_closed:
                    self._over.extend(over)
                    self._news.notify()

    def _next(self) -> Parcel | None:
        """Wait for what can go; None when closing."""
        with self._lock:
            while not self._is_closing:
                now = self._clock.boottime()
                parcel = self._rounds.next(now)
                due = self._rounds.due()
                if parcel is not None:
                    if due is not None:
                        self._work.notify()  # while this one is busy, another must know what is due
                    return parcel
                self._work.wait(due - now if due is not None else None)
            return None

    def _tell(self) -> None:
        """The thread that calls `heard`."""
        while (told := self._told()) is not None:
            parcel, outcome = told
            try:
                self._heard(parcel, outcome)
            except Exception as error:  # noqa: BLE001  # counted and logged; confined to this parcel
                bulkhead.caught("delivery heard", error, task=parcel.task_id)

    def _told(self) -> Outcome | None:
        """Wait for what is over; None when closed and all is told."""
        with self._lock:
            while not self._over and not self._is_closed:
                self._news.wait()
            return self._over.popleft() if self._over else None


def _check(workers: int, per_host: int, backoff_seconds: tuple[float, float]) -> None:
    """Raises InvalidField."""
    if workers < 1:
        raise InvalidField("workers", f"is {workers}, expected 1 or more")
    if per_host < 1:
        raise InvalidField("per_host", f"is {per_host}, expected 1 or more")
    if not 0 < backoff_seconds[0] <= backoff_seconds[1]:
        raise InvalidField("backoff_seconds", f"is {backoff_seconds}, expected a pause and a longer one")
