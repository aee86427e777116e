"""What happened in each pool in the last hour: kept in memory, by minutes, and bounded.

A process knows what it has heard itself: nothing from before it began, and nothing of what was missed when
its model was loaded again. Nothing is written or read anywhere for it.

An array counts by its members: what begins and ends is theirs. What is kept of a pool is at most HOUR
minutes, MAX_OWNERS owners, and the last SAMPLE waits of each; the owners beyond are counted together.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import AbstractContextManager
from statistics import median

import msgspec
from msgspec import Struct

from controller.core.model.lifecycle import FINISHED, Event, State
from controller.core.model.model import Model
from controller.core.model.records import Change, Task
from controller.core.model.task import DEFAULT_OWNER, Status
from controller.views.pools import pool_names
from controller.views.tasks import pool_of

MINUTE = 60.0  # seconds
HOUR = 60  # minutes
MAX_POOLS = 100
MAX_OWNERS = 20  # of each pool
SAMPLE = 100  # waits of an owner, of which the median is told
OTHERS = ""  # stands for the owners beyond MAX_OWNERS: no owner has this name

ENDED = tuple(state.value for state in State if state in FINISHED)


class OwnerWaits(Struct, frozen=True, kw_only=True):
    """For how long attempts of an owner waited that began within the hour, in seconds.

    `owner` is "" for all owners beyond the first ones. `median` is that of the last SAMPLE of them.
    """

    owner: str
    began: int
    median: float
    longest: float


class PoolHour(Struct, frozen=True, kw_only=True):
    """A pool in the last hour: a number for each minute.

    `queued` is the length of its queue at the minute's end, null where nobody looked; the last one is now.
    `begun` are attempts. `ended` are tasks, and members of arrays, by how they ended.
    """

    queued: list[int | None]
    begun: list[int]
    ended: dict[str, list[int]]
    waits: list[OwnerWaits]


class HourView(Struct, frozen=True, kw_only=True):
    """What this process has seen in the last hour, or `since` it began. Times are seconds since the epoch.

    `minutes` are the beginnings of the minutes, the oldest first; the last one goes on. `missed_at`: then the
    model was loaded again, and changes just before were missed; null: it was not. `left_out` counts what
    has happened, since it began, in pools beyond MAX_POOLS.
    """

    now: float
    since: float
    missed_at: float | None
    minutes: list[float]
    pools: dict[str, PoolHour]
    left_out: int


class _Told(Struct, frozen=True):
    """What of a stored status is looked at: a small part, so that looking costs little."""

    state: State = State.CREATED
    pool: str = ""
    owner: str = DEFAULT_OWNER
    queued_at: float = 0.0
    admitted_at: float | None = None
    history: tuple[msgspec.Raw, ...] = ()


class _ToldStep(Struct, frozen=True):
    source: str = ""
    event: str = ""


_status_decoder = msgspec.json.Decoder(_Told)
_step_decoder = msgspec.json.Decoder(_ToldStep)
_UNREADABLE = msgspec.MsgspecError, UnicodeDecodeError, RecursionError


def _told(value: bytes) -> _Told | None:
    try:
        return _status_decoder.decode(value)
    except _UNREADABLE:
        return None  # the model has quarantined it


class _Minute:
    """What happened in a minute."""

    __slots__ = ("began", "begun", "ended", "longest", "queued")

    def __init__(self) -> None:
        self.queued: int | None = None
        self.begun = 0
        self.ended = Counter[str]()
        self.began = Counter[str]()  # by owner
        self.longest: dict[str, float] = {}  # wait, by owner


class _Pool:
    """The last hour of a pool. Its minutes come in order."""

    __slots__ = ("minutes", "waits")

    def __init__(self) -> None:
        self.minutes: dict[int, _Minute] = {}
        self.waits: dict[str, deque[tuple[int, float]]] = {}

    def at(self, minute: int) -> _Minute:
        found = self.minutes.get(minute)
        if found is None:
            self.forget(minute)
            found = self.minutes[minute] = _Minute()
        return found

    def forget(self, minute: int) -> None:
        """What is an hour old at that minute. A clock that was set back makes nothing older."""
        oldest = minute - HOUR
        for each in [each for each in self.minutes if each <= oldest]:
            del self.minutes[each]
        while len(self.minutes) >= 2 * HOUR:  # a clock that jumps to and fro
            del self.minutes[min(self.minutes)]
        for owner, waits in list(self.waits.items()):
            while waits and waits[0][0] <= oldest:
                waits.popleft()
            if not waits:
                del self.waits[owner]

    def began(self, minute: int, owner: str, wait: float) -> None:
        at, waits = self.at(minute), self.waits.get(owner)
        if waits is None:
            if len(self.waits.keys() - {OTHERS}) >= MAX_OWNERS:
                owner = OTHERS
            waits = self.waits.setdefault(owner, deque(maxlen=SAMPLE))
        at.begun += 1
        at.began[owner] += 1
        at.longest[owner] = max(wait, at.longest.get(owner, 0.0))
        waits.append((minute, wait))


class LastHour:
    """See the module's docstring. A Listener; all else is called by who holds the model's lock.

    `now` is the clock of this process, by which minutes are counted.
    """

    def __init__(
        self, reading: Callable[[], AbstractContextManager[Model]], now: Callable[[], float]
    ) -> None:
        self._reading = reading
        self._now = now
        self._since = now()
        self._missed_at: float | None = None
        self._revision = 0  # all changes up to here are counted, or were missed
        self._pools: dict[str, _Pool] = {}
        self._left_out = 0

    def reloaded(self, revision: int) -> None:
        """See Listener. What led there is not known, and is not counted when it is told again."""
        if not self._revision:  # the first load
            self._since = self._now()
        elif revision != self._revision:
            self._missed_at = self._now()
        self._revision = revision

    def changed(self, changes: Sequence[Change], revision: int) -> None:
        """See Listener."""
        known, minute = self._revision, int(self._now() // MINUTE)
        with self._reading() as model:
            for change in changes:
                if change.kind == "states" and change.value is not None and change.mod > known:
                    task = model.tasks.get(change.names[0])
                    status: Status | _Told | None = task.status if task is not None else None
                    if task is None or task.status_mod != change.mod:  # more of them are about this task
                        status = _told(change.value)
                    if status is not None and (status.state is State.PENDING or status.state in FINISHED):
                        self._take(status, task, minute)
        self._revision = max(known, revision)

    def look(self, model: Model, minute: int) -> None:
        """Note how long the queues are at the end of that minute (`now // MINUTE`)."""
        for name, length in self._lengths(model).items():
            if (length or name in self._pools) and (pool := self._of(name, minute)) is not None:
                pool.at(minute).queued = length

    def view(self, model: Model) -> HourView:
        """The last hour, of all pools of which there is anything to tell."""
        now = self._now()
        last = int(now // MINUTE)
        first = max(last - HOUR + 1, min(last, int(self._since // MINUTE)))
        minutes = range(first, last + 1)
        pools = {}
        for name, length in sorted(self._lengths(model).items()):
            found = _pool_hour(self._pools.get(name) or _Pool(), minutes, length)
            if any(found.begun) or any(found.queued) or any(map(any, found.ended.values())):
                pools[name] = found
        return HourView(
            now=now,
            since=self._since,
            missed_at=self._missed_at if self._missed_at and self._missed_at >= first * MINUTE else None,
            minutes=[minute * MINUTE for minute in minutes],
            pools=pools,
            left_out=self._left_out,
        )

    def _lengths(self, model: Model) -> dict[str, int]:
        """The lengths of the queues, of those that are kept first."""
        names = dict.fromkeys([*self._pools, *pool_names(model)])
        return {name: len(model.queue(name)) for name in list(names)[:MAX_POOLS]}

    def _take(self, told: Status | _Told, task: Task | None, minute: int) -> None:
        """A status as it was written. Its last step is what it was written for."""
        try:
            step = _step_decoder.decode(told.history[-1]) if told.history else _ToldStep()
        except _UNREADABLE:
            return
        has_begun = step.event == Event.ADMITTED and told.state is State.PENDING
        has_ended = told.state in FINISHED and step.source not in FINISHED
        if not has_begun and not has_ended:
            return
        if task is not None and task.array is not None:
            return  # its members are counted, and a gang is written again as they begin
        name = told.pool or (pool_of(task) if task is not None else "")
        pool = self._of(name, minute)
        if pool is None:
            self._left_out += 1
        elif has_begun:
            pool.began(minute, told.owner, max(0.0, (told.admitted_at or 0.0) - told.queued_at))
        else:
            pool.at(minute).ended[told.state.value] += 1

    def _of(self, name: str, minute: int) -> _Pool | None:
        """That pool; None if there are too many of which something was heard within the hour."""
        found = self._pools.get(name)
        if found is None and len(self._pools) >= MAX_POOLS:
            for each, pool in list(self._pools.items()):
                pool.forget(minute)
                if not pool.minutes:
                    del self._pools[each]
        if found is None and len(self._pools) < MAX_POOLS:
            found = self._pools[name] = _Pool()
        return found


def _pool_hour(pool: _Pool, minutes: range, length: int) -> PoolHour:
    found = [pool.minutes.get(minute) or _Minute() for minute in minutes]
    return PoolHour(
        queued=[*(each.queued for each in found[:-1]), length],
        begun=[each.begun for each in found],
        ended={state: [each.ended[state] for each in found] for state in ENDED},
        waits=list(_waits(pool, found, minutes)),
    )


def _waits(pool: _Pool, found: Iterable[_Minute], minutes: range) -> Iterable[OwnerWaits]:
    found = list(found)
    for owner in sorted(pool.waits, key=lambda owner: (owner == OTHERS, owner)):
        sample = [wait for minute, wait in pool.waits[owner] if minute in minutes]
        if sample:
            yield OwnerWaits(
                owner=owner,
                began=sum(each.began[owner] for each in found),
                median=median(sample),
                longest=max(each.longest.get(owner, 0.0) for each in found),
            )


def hour_of_owners(view: HourView, owners: Container[str]) -> HourView:
    """What somebody may know who may read the tasks of these owners only: their waits, and no sums."""
    shown = {}
    for name, pool in view.pools.items():
        waits = [each for each in pool.waits if each.owner != OTHERS and each.owner in owners]
        if waits:
            shown[name] = PoolHour(queued=[], begun=[], ended={}, waits=waits)
    return msgspec.structs.replace(view, pools=shown, left_out=0)
