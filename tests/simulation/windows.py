"""Maintenance windows in the simulation: who sets and removes them, and the judge of admissions (I17).

The judge reads the windows from the bytes of the pool as they stand in etcd when an admission is committed,
and adds up deadlines itself. Where nothing goes wrong, it also judges who waits in vain: for what is kept
back, or for a window that has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from controller.core.model import codec
from controller.core.model.demand import demand
from controller.core.model.resources import ZERO
from controller.core.model.task import Pool, Spec, Status
from controller.errors import CorruptValue
from controller.store.base import Put

if TYPE_CHECKING:
    from tests.simulation.oracle import Oracle
    from tests.simulation.users import Users

IDLE_SECONDS = 1.0
ROUNDING = 1e-6
WAITING = ("Created", "WaitingRetry")
MOST = 3


class WindowUsers:
    """Operators who maintain pools: each window is seconds long, and most begin soon."""

    def __init__(self, users: Users) -> None:
        self._users = users
        self.is_on = False
        self.one_by_one = False  # each window when the last one has ended, and nothing else happens for long
        self._windows: dict[str, list[dict[str, Any]]] = {}

    def pace(self, submitted: int, tasks: int) -> float:
        """How much longer than usual users wait before they act again."""
        return 25.0 if self.is_on and self.one_by_one and submitted >= tasks else 1.0

    def of(self, pool: str) -> list[dict[str, Any]]:
        """Those that a definition keeps."""
        return self._windows.get(pool, [])

    def deadlines(self) -> dict[str, Any]:
        """What a task asks for that hopes to run before a window."""
        rng = self._users.scheduler.rng
        found: dict[str, Any] = {"run_seconds": rng.choice((0.2, 0.5, 1, 2))}
        if rng.random() < 0.3:
            found["start_seconds"] = rng.choice((0.5, 1))
        return found

    def drain(self) -> None:
        """A window is set, or all of a pool are removed."""
        rng = self._users.scheduler.rng
        name = rng.choice(("default", "default", "spare"))
        now, known = self._users.now(), self._windows.setdefault(name, [])
        known[:] = [window for window in known if window["ends_at"] > now]
        if known and self.one_by_one:
            return
        if (known and rng.random() < 0.2) or len(known) == MOST:
            known.clear()
        else:
            starts_at = now + rng.choice((0, 4, 8) if self.one_by_one else (0, 1, 2, 4, 8, 16))
            if all(window["starts_at"] != starts_at for window in known):
                known.append({"starts_at": starts_at, "ends_at": starts_at + rng.choice((0.3, 0.6, 1))})
        self._put(name)

    def clear(self) -> None:
        """No pool is maintained any more."""
        self._windows.clear()

    def _put(self, name: str) -> None:
        """As the client does: this field alone."""
        key = self._users.keys.pool(name)
        stored = self._users.oracle.values.get(key)
        if stored is None:
            return
        fields = {**codec.decode_mapping(stored), "maintenance": self.of(name), "op": self._users.new_op()}
        self._users.write(Put(key, codec.encode(fields)))


class Waiting(NamedTuple):
    """A task that waits, in the order of a queue."""

    rank: int
    create: int
    told: float
    task_id: str
    spec: Spec


class WindowJudge:
    """See the module's docstring."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self._idle: dict[str, float] = {}  # task → since when it could have been admitted
        self.admissions = self.kept_back = self.heads = 0

    def wrong_step(
        self, old: Status | None, new: Status, spec_id: str, definition: bytes | None, spec: bytes | None
    ) -> str:
        """What is wrong with an admission that a leader wrote; "" if nothing is.

        `definition` is the value of its pool, and `spec` that of `spec_id`, at that revision.
        """
        # a member of a gang was admitted with that, and takes over its part later
        if new.state != "Pending" or (old is not None and old.state not in WAITING) or new.of_gang:
            return ""
        windows = codec.decode_mapping(definition).get("maintenance", []) if definition is not None else []
        if not windows or spec is None or new.admitted_at is None:
            return ""
        try:
            stored = codec.decode_spec(spec_id, spec)
        except CorruptValue:
            return ""
        self.admissions += 1
        window = met(windows, stored.spec, new.admitted_at)
        return f"was admitted at {new.admitted_at:.3f}, and could run into {window}" if window else ""

    def check_idle(self) -> None:
        """Where nothing goes wrong, no task waits for long that fits, if what is before it is kept back."""
        oracle, idle = self._oracle, dict[str, float]()
        for name in oracle.capacities if oracle.leaderships() else ():
            if (first := self._first(name)) is not None:
                self.heads += 1
                idle[first] = self._idle.get(first, oracle.scheduler.now)
        self._idle = idle
        for task_id, since in idle.items():
            if oracle.scheduler.now - since > IDLE_SECONDS:
                from tests.simulation.oracle import Violation

                raise Violation("windows", f"{task_id} fits its pool, and is not admitted", task_id)

    def _first(self, name: str) -> str | None:
        """The first task of a pool, if it may run and fits, and the judge knows of all that is before it."""
        oracle, now = self._oracle, self._oracle.now()
        definition = oracle.values.get(oracle.keys.pool(name))
        if definition is None:
            return None
        pool = codec.decode_pool(name, definition)
        windows = codec.decode_mapping(definition).get("maintenance", [])
        if pool.paused or pool.require_attested or pool.sharing is not None or not windows:
            return None  # whose turn it is among owners, the judge of claims knows
        waiting = self._waiting(pool)
        may_run = [one for one in waiting if not met(windows, one.spec, now)]
        self.kept_back += len(waiting) - len(may_run)
        if not may_run or may_run[0].spec.array is not None or may_run[0].spec.after:
            return None
        first = may_run[0]
        free = pool.capacity - oracle.ledgers.get(name, ZERO)
        # one that is about to be kept back may be judged otherwise by the leader's clock, a moment later
        is_sure = not met(windows, first.spec, now + IDLE_SECONDS)
        return first.task_id if demand(first.spec, pool).fits(free) and is_sure else None

    def _waiting(self, pool: Pool) -> list[Waiting]:
        oracle, found = self._oracle, list[Waiting]()
        for task_id in oracle.accepted:
            key, status = oracle.keys.task(task_id), oracle.statuses.get(task_id)
            value = oracle.values.get(key)
            if value is None or (status is not None and not _waits(status, oracle.now())):
                continue
            stored = codec.decode_spec(task_id, value)
            asks = any(each.startswith(oracle.keys.request(task_id, "")) for each in oracle.requests())
            runs = any(attempt.live for attempt in oracle.engine.every.get(task_id, ()))
            name = status.pool if status is not None and status.pool else stored.spec.pool
            if stored.error or asks or runs or name != pool.name:
                continue
            if not demand(stored.spec, pool).fits(pool.capacity):
                continue
            priority = stored.spec.priority
            if status is not None and status.priority is not None:
                priority = status.priority
            place = (-priority, oracle.creates[key], stored.submitted_at, task_id)
            found.append(Waiting(*place, stored.spec))
        return sorted(found, key=lambda one: one[:4])


def _waits(status: Status, now: float) -> bool:
    is_due = status.state == "Created" or (status.retry_at or 0.0) <= now
    return status.state in WAITING and is_due and not status.on_hold


def may_be_kept_back(pool: Pool, spec: Spec, now: float, seconds: float) -> bool:
    """Whether a window may keep the task back at some time from so many seconds ago to as many from now."""
    windows = [codec.to_builtins(window) for window in pool.maintenance]
    begun = [window["starts_at"] for window in windows if abs(window["starts_at"] - now) <= seconds]
    return any(met(windows, spec, at) for at in (now - seconds, *begun, now + seconds))


def met(windows: list[dict[str, Any]], spec: Spec, at: float) -> str:
    """The window into which an attempt could run that is admitted then; "" for none."""
    limits = spec.deadlines
    for window in windows:
        begin, end = window["starts_at"], window["ends_at"]
        if end <= at:
            continue
        if begin <= at or limits.run_seconds is None:
            return f"the window from {begin:.3f} to {end:.3f}"
        last = at + (limits.start_seconds or 0.0) + limits.run_seconds + spec.grace_seconds
        if last > begin + ROUNDING:
            return f"the window from {begin:.3f} to {end:.3f}, {last - begin:.3f} s"
    return ""
