"""Which parcel goes next, and what becomes of it. No threads and no clock: the courier has them.

- The parcels of one task to one receiver go one after the other. All others do not wait for each other.
- A parcel that failed is tried again after a pause that doubles. So is a receiver that did not answer, or
  answered that it cannot (429, 5xx): all its parcels wait, and then one of them goes first. An answer such as
  404 concerns its parcel alone: what one task sends must not delay another's.
- One host has at most `per_host` parcels under way, and one while it fails. Its receivers take turns.
- A quarter of the `workers` is for hosts that answered soon when they were told last, whatever the others do:
  one for each. A host is none of these once one of its parcels has been under way for SOON_SECONDS. All hosts
  that fail share a quarter. So a parcel for a receiver that works waits for others only where dozens of hosts
  that answered soon begin to hang within that time; and only for the time of one request.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from itertools import count

from sortedcontainers import SortedList

from controller.core.model.notify_url import parse_notify_url
from controller.errors import InvalidField
from controller.notifier.delivery import Delivered, Undelivered
from controller.notifier.parcel import Parcel, ParcelKey
from controller.notifier.receivers import HostStanding, Lane, PendingParcel, Receiver, ReceivingHost

MAX_COUNTED_HOSTS = 100
OTHER_HOSTS = "others"  # counted together, so that nobody's names make metrics grow
MAX_KNOWN_HOSTS = 10_000
SOON_SECONDS = 0.5
_TOO_MANY = 429

Outcome = tuple[Parcel, Delivered | Undelivered]


class Rounds:
    """See the module's docstring. One thread at a time uses it. `now` is a boottime, `wall` the Unix time.

    `spread` gives numbers from 0 to 1, which spread pauses from a half to the whole. The counts are of this
    process: `failed` are tries, `retries` those after a parcel's first.
    """

    def __init__(
        self,
        workers: int,
        per_host: int,
        backoff_seconds: tuple[float, float],
        give_up_after_seconds: float,
        spread: Callable[[], float],
    ) -> None:
        self._workers = workers
        self._per_host = per_host
        self._backoff = backoff_seconds
        self._give_up = give_up_after_seconds
        self._spread = spread
        self._receivers: dict[str, Receiver] = {}
        self._hosts: dict[str, ReceivingHost] = {}
        self._agenda: SortedList[tuple[float, int, Receiver]] = SortedList()
        self._crowd: dict[str, Receiver] = {}  # those that could go if fewer of their standing were under way
        self._busy: Counter[HostStanding] = Counter()
        self._answered: dict[str, None] = {}  # hosts that answered soon, the last that did last
        self._fresh: deque[tuple[float, Lane]] = deque()  # when it went → the lane of one that may end soon
        self._turns = count()
        self.delivered = self.failed = self.retries = self.dead = 0
        self.by_host: Counter[tuple[str, str]] = Counter()

    def take(self, parcel: Parcel, now: float) -> bool:
        """Deliver it from now on; False if it waits already, or is under way."""
        receiver = self._receivers.get(parcel.target) or self._new_receiver(parcel.target)
        lane = receiver.lanes.setdefault(parcel.task_id, Lane(parcel.task_id))
        if lane.has(parcel.sequence):
            return False
        lane.put(PendingParcel(parcel, now))
        self._line_up(receiver, lane)
        self._plan(receiver, now)
        return True

    def forget(self, key: ParcelKey, now: float) -> bool:
        """Try it no more, and tell nothing of it; False if there is no such parcel."""
        receiver = self._receivers.get(key.target)
        lane = receiver.lanes.get(key.task_id) if receiver is not None else None
        if receiver is None or lane is None or not lane.has(key.sequence):
            return False
        if pending := lane.find(key.sequence):
            lane.waiting.remove(pending)
        else:
            lane.is_forgotten = True
        self._line_up(receiver, lane)
        self._plan(receiver, now)
        self._drop_if_empty(receiver, lane)
        return True

    def due(self) -> float | None:
        """When to call `next` again; None if nothing waits for the time alone."""
        return self._agenda[0][0] if self._agenda else None

    def next(self, now: float) -> Parcel | None:
        """A parcel to be delivered now: it is under way until `ended` is called with it."""
        self._find_overdue(now)
        while self._agenda and self._agenda[0][0] <= now:
            _, _, receiver = self._agenda.pop(0)
            receiver.place = None
            host = receiver.host
            if host.busy >= (1 if host.is_failing else self._per_host):
                host.parked[receiver.url] = receiver
                continue
            standing = self._standing(host)
            if not self._has_room(standing, host):
                self._crowd[receiver.url] = receiver
                continue
            _, _, lane = receiver.ready.pop(0)
            lane.place, lane.under_way = None, lane.waiting.pop(0)
            self.retries += lane.under_way.tries > 0
            lane.under_way.standing, lane.under_way.went = standing, now
            self._busy[standing] += 1
            if standing is HostStanding.ANSWERS_SOON:
                self._fresh.append((now, lane))
            receiver.busy += 1
            host.busy += 1
            self._plan(receiver, now)
            return lane.under_way.parcel
        return None

    def ended(
        self, parcel: Parcel, outcome: Delivered | Undelivered, now: float, wall: float
    ) -> list[Outcome]:
        """Take in what came of a parcel. Returns what is over now: delivered, or dead, which is final."""
        receiver = self._receivers[parcel.target]
        lane = receiver.lanes[parcel.task_id]
        pending, lane.under_way = lane.under_way, None
        assert pending is not None
        is_ours, lane.is_forgotten = not lane.is_forgotten, False
        self._busy[pending.standing] -= 1
        receiver.busy -= 1
        receiver.host.busy -= 1
        self._learn(receiver, outcome, now, is_soon=now - pending.went <= SOON_SECONDS)
        over: list[Outcome] = []
        if isinstance(outcome, Delivered):
            if is_ours:
                over.append((parcel, outcome))
        elif is_ours:
            pending.tries += 1
            left = parcel.begun + self._give_up - wall
            if outcome.is_final or left <= 0:
                over.append((parcel, outcome._replace(is_final=True)))
            else:
                pause = max(self._pause(pending.tries), outcome.retry_after_seconds or 0.0)
                pending.due = now + min(pause, left)
                lane.put(pending)
        self._line_up(receiver, lane)
        over += self._given_up(receiver, wall)
        self._drop_if_empty(receiver, lane)
        for parked in [*receiver.host.parked.values(), *self._crowd.values()]:
            self._plan(parked, now)
        self._plan(receiver, now)  # it has had its turn
        self._count_over(over, receiver.host.name)
        return over

    def waiting(self) -> Iterator[Parcel]:
        """All that are neither delivered nor dead, in no order."""
        for receiver in self._receivers.values():
            for lane in receiver.lanes.values():
                yield from (each.parcel for each in lane.waiting)
                if lane.under_way is not None and not lane.is_forgotten:
                    yield lane.under_way.parcel

    def _learn(
        self, receiver: Receiver, outcome: Delivered | Undelivered, now: float, *, is_soon: bool
    ) -> None:
        """Whether the receiver works."""
        if isinstance(outcome, Delivered):
            self._recover(receiver, is_soon=is_soon)
            return
        self.failed += 1
        self._count(receiver.host.name, "failed")
        if 0 < outcome.status < 500 and outcome.status != _TOO_MANY:
            self._recover(receiver, is_soon=is_soon)
            return
        receiver.fail(outcome, now)
        self._answered.pop(receiver.host.name, None)
        pause = max(self._pause(receiver.streak), outcome.retry_after_seconds or 0.0)
        receiver.not_before = max(receiver.not_before, now + pause)

    def _recover(self, receiver: Receiver, *, is_soon: bool) -> None:
        receiver.recover()
        self._answered.pop(receiver.host.name, None)
        if is_soon:
            self._answered[receiver.host.name] = None
        if len(self._answered) > MAX_KNOWN_HOSTS:
            del self._answered[next(iter(self._answered))]

    def _standing(self, host: ReceivingHost) -> HostStanding:
        if host.is_failing:
            return HostStanding.FAILS
        return HostStanding.ANSWERS_SOON if host.name in self._answered else HostStanding.OTHER

    def _find_overdue(self, now: float) -> None:
        """Who does not answer soon now is another host, and counts among them."""
        while self._fresh and now - self._fresh[0][0] > SOON_SECONDS:
            went, lane = self._fresh.popleft()
            late = lane.under_way
            if late is not None and late.went == went and late.standing is HostStanding.ANSWERS_SOON:
                self._answered.pop(self._receivers[late.parcel.target].host.name, None)
                self._busy[late.standing] -= 1
                late.standing = HostStanding.OTHER
                self._busy[late.standing] += 1

    def _has_room(self, standing: HostStanding, host: ReceivingHost) -> bool:
        reserve = self._workers // 4
        if standing is HostStanding.ANSWERS_SOON:
            return not host.busy or self._busy.total() < self._workers - reserve
        if standing is HostStanding.FAILS and self._busy[standing] >= max(1, reserve):
            return False
        return self._busy[HostStanding.FAILS] + self._busy[HostStanding.OTHER] < self._workers - reserve

    def _given_up(self, receiver: Receiver, wall: float) -> list[Outcome]:
        """What is too old, of a receiver that fails: there is no time to try each once more."""
        over: list[Outcome] = []
        if receiver.fault is None:
            return over
        fault = receiver.fault._replace(is_final=True)
        for lane in [each for each in receiver.lanes.values() if each.under_way is None]:
            old = 0
            while old < len(lane.waiting) and lane.waiting[old].parcel.begun + self._give_up <= wall:
                over.append((lane.waiting[old].parcel, fault))
                old += 1
            if old:
                del lane.waiting[:old]
                self._line_up(receiver, lane)
                self._drop_if_empty(receiver, lane)
        return over

    def _pause(self, failures: int) -> float:
        first, last = self._backoff
        longest: float = min(last, first * 2.0 ** min(failures - 1, 60))
        return longest * (1 + self._spread()) / 2

    def _line_up(self, receiver: Receiver, lane: Lane) -> None:
        """Put the lane where its first parcel belongs among its receiver's."""
        if lane.place is not None:
            receiver.ready.remove(lane.place)
            lane.place = None
        if lane.waiting and lane.under_way is None:
            lane.place = (lane.waiting[0].due, next(self._turns), lane)
            receiver.ready.add(lane.place)

    def _plan(self, receiver: Receiver, now: float) -> None:
        """Put the receiver where its next parcel belongs; not before others that could go now."""
        receiver.host.parked.pop(receiver.url, None)
        self._crowd.pop(receiver.url, None)
        if receiver.place is not None:
            self._agenda.remove(receiver.place)
            receiver.place = None
        is_probed = receiver.fault is not None and receiver.busy > 0
        if receiver.ready and not is_probed:
            at = max(now, receiver.not_before, receiver.ready[0][0])
            receiver.place = (at, next(self._turns), receiver)
            self._agenda.add(receiver.place)

    def _new_receiver(self, url: str) -> Receiver:
        try:
            name = parse_notify_url(url, "target", allow_http=True).host
        except InvalidField:
            name = ""  # the delivery says what is wrong
        host = self._hosts.setdefault(name, ReceivingHost(name))
        host.receivers += 1
        receiver = self._receivers[url] = Receiver(url, host)
        return receiver

    def _drop_if_empty(self, receiver: Receiver, lane: Lane) -> None:
        """Keep nothing of what has no parcels."""
        if not lane.waiting and lane.under_way is None:
            receiver.lanes.pop(lane.task_id, None)
        if not receiver.lanes and self._receivers.pop(receiver.url, None) is not None:
            receiver.host.receivers -= 1
            if not receiver.host.receivers:
                del self._hosts[receiver.host.name]

    def _count_over(self, over: list[Outcome], host: str) -> None:
        for _, outcome in over:
            is_delivered = isinstance(outcome, Delivered)
            self.delivered += is_delivered
            self.dead += not is_delivered
            self._count(host, "delivered" if is_delivered else "dead")

    def _count(self, host: str, what: str) -> None:
        counted = {name for name, _ in self.by_host}
        if host not in counted and len(counted) >= MAX_COUNTED_HOSTS:
            host = OTHER_HOSTS
        self.by_host[host, what] += 1
