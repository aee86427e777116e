"""Gangs in the simulation: who submits them, and the judge of what they hold and of their rounds (I16)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from controller.core.model import codec
from controller.core.model.arrays import MemberName
from controller.core.model.blocks import Fate, MemberOutcome
from controller.core.model.demand import demand
from controller.core.model.requests import Request, RequestKind
from controller.core.model.resources import ZERO, Vector
from controller.core.model.task import Spec, Status
from controller.errors import CorruptValue
from tests.simulation.changes import steps_since

if TYPE_CHECKING:
    from tests.simulation.oracle import Oracle

HOLDING, WAITING = ("Pending", "Running"), ("Created", "WaitingRetry")
IDLE_SECONDS = 3.0
"""Where nothing goes wrong, a member is asked to end within so many seconds after its gang."""


def fields_of_gang(rng: random.Random) -> dict[str, Any]:
    """What makes a task a gang, now and then with roles; it starts within seconds, or not at all."""
    fields: dict[str, Any] = {"deadlines": {"start_seconds": rng.choice((2, 10, 40))}}
    if rng.random() < 0.5:
        return {**fields, "array": {"gang": True, "size": rng.choice((1, 2, 3, 4, 7))}}
    sizes: tuple[tuple[str, int], ...] = (("first", 1), ("rest", rng.choice((1, 2, 4))))
    roles: list[dict[str, Any]] = [{"name": name, "size": size} for name, size in sizes]
    roles[rng.randrange(2)]["resources"] = {"cpu": rng.choice(("100m", "500m"))}
    return {**fields, "array": {"gang": True, "roles": roles}}


def is_gang(spec: Spec | None) -> bool:
    """Whether it is the spec of a gang."""
    return spec is not None and spec.array is not None and spec.array.gang


def needs(spec: Spec, index: int, pool: Any) -> Vector:
    """What a member of this gang needs of its pool."""
    assert spec.array is not None
    resources = spec.resources
    for role in spec.array.roles:
        if index < role.size:
            resources = spec.resources if role.resources is None else role.resources
            break
        index -= role.size
    fields = {name: getattr(spec, name) for name in spec.__struct_fields__}
    return demand(Spec(**{**fields, "array": None, "resources": resources}), pool)


class GangJudge:
    """It looks at what stands in etcd, and keeps no index."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self.counts: dict[str, int] = {}
        self._running_on: dict[str, float] = {}  # members of gangs that are being stopped: since when

    def status(self, name: str) -> Status | None:
        """The status of a task, as it stands in etcd now."""
        item = self._oracle.etcd.get(self._oracle.keys.state(name))
        try:
            return codec.decode_status(item.value)[0] if item is not None else None
        except CorruptValue:
            return None

    def round(self, name: str) -> int:
        """The round that a gang's blocks tell of."""
        status = self._oracle.statuses.get(name) or self._oracle.frozen.get(name)
        if status is None:
            return 1
        return status.attempt + (status.state in WAITING)

    def is_silent(self, old: Status | None, new: Status) -> bool:
        """Whether members alone tell of this change: they have taken over their parts."""
        return old is not None and bool(old.reserved) and old.steps == new.steps and old.state == new.state

    def tells_of(self, old: Status) -> bool:
        """Whether the blocks of its gang tell how this member has ended: it is of the gang's round."""
        gang = self.status(old.array) or self._oracle.frozen.get(old.array)
        return gang is not None and gang.attempt == old.attempt and gang.state not in WAITING

    def wrong_step(self, name: str, old: Status | None, new: Status) -> str:
        """What is wrong with a step of a gang that begins to hold, holds, or ends."""
        held = old is not None and old.state in HOLDING
        if new.state not in HOLDING:
            return self._wrong_end(name, old, new) if held and old is not None and old.reserved else ""
        spec = self._spec(name)
        if not held:
            return self._wrong_admission(name, old, new, spec)
        assert old is not None
        if bool(new.reserved) != bool(old.reserved):
            return "becomes a gang, or ceases to be one, while it holds"
        if not new.reserved:
            return ""
        if new.stopping:
            return "is being stopped, and holds for its members" if new.hold else ""
        begun = self._begun(name)
        taken = sum((status.hold for status in begun.values()), start=ZERO)
        if old.hold - new.hold != taken:
            return f"holds {new.hold} after {old.hold}, and its members took over {taken}"
        if self.is_silent(old, new) and not begun:
            return "was written without a step"
        if new.state == "Running" and old.state == "Pending":
            return self._wrong_run(name, new, spec)
        return ""

    def wrong_begin(self, name: str, new: Status, fate: Fate, changed: set[str]) -> str:
        """What is wrong with a member of a gang that begins."""
        gang, spec = self.status(new.array), self._spec(new.array)
        assert spec is not None
        if gang is None or gang.state not in HOLDING or gang.stopping or not gang.reserved:
            return "begins, and its gang is not admitted"
        if gang.attempt != new.attempt:
            return f"begins round {new.attempt}, and its gang is in {gang.attempt}"
        if self._oracle.keys.state(new.array) not in changed:
            return "begins, and takes nothing over from its gang"
        if fate.has_ended:
            return f"begins again in one round: it has {fate.outcome}"
        pool = self._pool(new)
        is_sure = self._oracle.specs_put.get(new.array) == 1 and (pool is not None or not new.sized_by)
        if is_sure and new.hold != needs(spec, new.index, pool):
            return f"takes over {new.hold}, and needs {needs(spec, new.index, pool)}"
        self._count("begun")
        return ""

    @staticmethod
    def wrong_member(old: Status, new: Status) -> str:
        """What is wrong with a step of a member that has begun."""
        waits = new.of_gang and any(step.state == "WaitingRetry" for step in steps_since(old, new))
        return "is to be retried, and its gang is not" if waits else ""

    def wrong_answer(self, name: str, old: Status, new: Status, request: Request) -> str:
        """What is wrong with a request that took effect: a gang is asked as a whole, or not at all."""
        if new.of_gang and request.kind is not RequestKind.CONFIRM_STOPPED:
            return f"is a member of a gang, and {request.kind} took effect for it alone"
        is_sure = is_gang(self._spec(name)) and self._oracle.specs_put.get(name) == 1
        if (request.members or request.only_failed) and (is_sure or old.reserved):
            return f"is a gang, and {request.kind} of a part of it took effect"
        return ""

    def running_on(self) -> str:
        """Where nothing goes wrong: the member that runs on though its gang is being stopped; "" if none."""
        now, found = self._oracle.scheduler.now, dict[str, float]()
        for name, status in self._oracle.statuses.items():
            gang = self._oracle.statuses.get(status.array) if status.of_gang else None
            if gang is not None and gang.stopping and status.state in HOLDING and not status.stopping:
                found[name] = self._running_on.get(name, now)
        self._running_on = found
        return next((name for name, since in found.items() if now - since > IDLE_SECONDS), "")

    def left(self) -> list[str]:
        """Gangs that are admitted, and of which members never begin, once all has settled."""
        return [
            f"{name} holds for members that never begin"
            for name, status in self._oracle.statuses.items()
            if status.state in HOLDING and any(part.left for part in status.reserved) and not status.stopping
        ]

    # -- details

    def _wrong_admission(self, name: str, old: Status | None, new: Status, spec: Spec | None) -> str:
        ready_at = (old.retry_at or 0.0) if old is not None and old.state == "WaitingRetry" else 0.0
        if codec.decode_history(new)[-1].at + 0.001 + self._oracle.wall_spread < ready_at:
            return "was admitted before its back-off was over"
        if spec is None or self._oracle.specs_put.get(name) != 1 or not is_gang(spec):
            return ""
        assert spec.array is not None
        if not new.reserved:
            return "is a gang, and was admitted as a task"
        pool = self._pool(new)
        due = sum((needs(spec, index, pool) for index in range(spec.array.size)), start=ZERO)
        if new.hold != due:
            return f"was admitted with {new.hold}, and its members need {due}"
        if members := self._members(name):
            return f"was admitted while member {min(members)} of an earlier round has a status"
        self._count("admitted")
        if new.attempt > 1:
            self._count("again")
        return ""

    def _wrong_run(self, name: str, new: Status, spec: Spec | None) -> str:
        if spec is None or spec.array is None or self._oracle.specs_put.get(name) != 1:
            return ""
        fates = self._oracle.arrays.fates(name, spec.array.size)
        if fates is None:
            return ""
        members = self._members(name)
        for index, fate in enumerate(fates):
            damaged = self._oracle.frozen.get(f"{name}-i{index}")  # what it said is what the writer may know
            status = members.get(index) or damaged or Status()
            runs = status.state in ("Running", "Succeeded") or self._has_just_run(new, status)
            if not runs and fate.outcome is not MemberOutcome.SUCCEEDED:
                return f"runs, and member {index} does not"
        self._count("run")
        return ""

    def _has_just_run(self, new: Status, member: Status) -> bool:
        """Whether this member has run, and the end of that is news to the plan that writes this status."""
        known, _ = self._oracle.sent[new.op]
        item = self._oracle.etcd.get(self._oracle.keys.state(f"{member.array}-i{member.index}"))
        return member.started_at is not None and item is not None and item.mod > known

    def _wrong_end(self, name: str, old: Status, new: Status) -> str:
        if members := self._members(name):
            return f"ends as {new.state} while member {min(members)} has a status"
        if new.hold or new.reserved:
            return "has ended, and holds for its members"
        spec = self._spec(name)
        if spec is None or spec.array is None or self._oracle.specs_put.get(name) != 1:
            return ""
        item = self._oracle.etcd.get(self._oracle.keys.task(name))
        assert item is not None
        op = str(codec.decode_mapping(item.value).get("op", ""))
        fates = self._oracle.arrays.fates(name, spec.array.size, of=f"{op}/{old.attempt}")
        if fates is None:
            return ""
        has_all = all(fate.outcome is MemberOutcome.SUCCEEDED for fate in fates)
        self._count(f"ended {new.state}")
        if has_all != (new.state == "Succeeded"):
            what = "have all" if has_all else "have not all"
            return f"ends as {new.state}, and its members {what} succeeded"
        return ""

    def _spec(self, name: str) -> Spec | None:
        return self._oracle.arrays.spec(name)

    def _pool(self, status: Status) -> Any:
        """The pool by which a hold was sized; None if its template had no part in it."""
        item = self._oracle.etcd.get(self._oracle.keys.pool(status.pool))
        if not status.sized_by or item is None or item.mod != status.sized_by:
            return None
        return codec.decode_pool(status.pool, item.value)

    def _members(self, name: str) -> dict[int, Status]:
        """The members that have a status now."""
        found = {}
        for item in self._oracle.etcd.load(self._oracle.keys.state(f"{name}-i")).items:
            member = MemberName.parse(item.key.rsplit("/", 1)[1])
            if member is None or member.array != name:
                continue
            status = self.status(str(member))
            if status is not None and status.array == name:
                found[status.index] = status
        return found

    def _begun(self, name: str) -> dict[int, Status]:
        """The members that have begun with this revision."""
        return {
            index: status
            for index, status in self._members(name).items()
            if self._oracle.before.get(self._oracle.keys.state(f"{name}-i{index}"), b"") is None
        }

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1
