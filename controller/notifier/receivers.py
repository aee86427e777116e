"""What the rounds know of hosts, receivers and tasks while they have parcels for them."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from enum import Enum

from sortedcontainers import SortedList

from controller.notifier.delivery import Undelivered
from controller.notifier.parcel import Parcel


class HostStanding(Enum):
    """What is known of a host: it answers soon, it failed last, or neither."""

    ANSWERS_SOON = 1
    FAILS = 2
    OTHER = 3


@dataclass(eq=False, slots=True)
class PendingParcel:
    """A parcel that is neither delivered nor dead. It is tried at `due` (boottime) or later.

    It went last at `went`, when its host had that `standing`.
    """

    parcel: Parcel
    due: float
    tries: int = 0
    went: float = 0.0
    standing: HostStanding = HostStanding.OTHER


@dataclass(eq=False, slots=True)
class Lane:
    """The parcels of one task to one receiver, by their sequence. One at a time is under way.

    If `is_forgotten`, the one under way is none of ours any more. `place` is where it stands in `ready`.
    """

    task_id: str
    waiting: list[PendingParcel] = field(default_factory=list)
    under_way: PendingParcel | None = None
    is_forgotten: bool = False
    place: tuple[float, int, Lane] | None = None

    def put(self, pending: PendingParcel) -> None:
        """Put it where its sequence belongs."""
        insort(self.waiting, pending, key=lambda each: each.parcel.sequence)

    def find(self, sequence: int) -> PendingParcel | None:
        """The waiting parcel of that sequence."""
        return next((each for each in self.waiting if each.parcel.sequence == sequence), None)

    def has(self, sequence: int) -> bool:
        """Whether the parcel waits, or is under way and not forgotten."""
        under_way = None if self.is_forgotten else self.under_way
        is_under_way = under_way is not None and under_way.parcel.sequence == sequence
        return is_under_way or self.find(sequence) is not None


@dataclass(eq=False, slots=True)
class ReceivingHost:
    """What receivers of one name share. `parked` are those that could go if the host were not full."""

    name: str
    busy: int = 0
    is_failing: bool = False
    receivers: int = 0
    parked: dict[str, Receiver] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Receiver:
    """One URL. `ready` are the lanes with nothing under way, by when they are due.

    `fault` is what failed last, None if it did not. It failed `streak` times in a row, and nothing goes there
    before `not_before` (boottime). `place` is where it stands in the agenda.
    """

    url: str
    host: ReceivingHost
    lanes: dict[str, Lane] = field(default_factory=dict)
    ready: SortedList[tuple[float, int, Lane]] = field(default_factory=SortedList)
    busy: int = 0
    streak: int = 0
    not_before: float = 0.0
    fault: Undelivered | None = None
    place: tuple[float, int, Receiver] | None = None

    def recover(self) -> None:
        """It has answered."""
        self.streak, self.not_before, self.fault = 0, 0.0, None
        self.host.is_failing = False

    def fail(self, fault: Undelivered, now: float) -> None:
        """It, and not just one parcel, has failed. Of failures that were under way at once, one counts."""
        self.host.is_failing = True
        self.fault = fault
        if now >= self.not_before:
            self.streak += 1
