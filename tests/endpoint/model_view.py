"""A replica's view on a real model, to which a test writes as the store's watch would."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from controller.core.model import codec, kept_log
from controller.core.model.kept_log import KeptLog
from controller.core.model.lifecycle import FINISHED, Event, State
from controller.core.model.model import Model
from controller.core.model.op import Op
from controller.core.model.records import Change
from controller.core.model.resources import Vector
from controller.core.model.task import Pool, Spec, Status, Step
from controller.errors import TallyError
from controller.views.ahead import look
from controller.views.forecast import ForecastView
from controller.views.replica import AuditResult, Check, EndedRegistration, Facts, Listener


class ModelView:
    """See ReplicaView.

    `role`, `leader`, `checks` and `report` may be set by tests; `audits` counts the audits made.
    """

    def __init__(self) -> None:
        self.model = Model()
        self.loaded = True
        self.lock = threading.RLock()
        self.listeners: list[Listener] = []
        self.role, self.leader = "follower", "replica-b"
        self.checks: tuple[Check, ...] = (Check("model", True, "loaded"),)
        self.report: dict[str, Any] | TallyError = {"verdict": "ok", "findings": []}
        self.audits = 0
        self.logs: dict[str, KeptLog | Exception] = {}
        self.verdict: AuditResult | None = None
        self.staleness = 0.25
        self.engine_age: float | None = None
        self.reloads: dict[str, int] = {}
        self.time = 1000.0
        self.ahead = 0.0  # of the wall clock
        self.ages: dict[str, float] = {}  # of registrations
        self.ended: tuple[EndedRegistration, ...] = ()
        self.written: list[Change] = []
        self.stored: int | None = None  # the revision that the store has now, if anybody knows
        self.no_look: TallyError | None = None  # why there is no look ahead

    def facts(self) -> Facts:
        return Facts(
            replica="replica-a",
            cluster="test",
            role=self.role,
            phase="following",
            term=0,
            epoch=3,
            revision=self.model.revision or int(self.loaded),
            staleness_seconds=self.staleness,
            leader=self.leader,
            engine="null",
            live=self.checks,
            ready=self.checks,
            reloads=self.reloads,
            boottime=self.time,
            engine_age_seconds=self.engine_age,
            replica_ages=self.ages,
            ended=self.ended,
            verdict=self.verdict,
        )

    @contextmanager
    def reading(self) -> Iterator[Model]:
        with self.lock:
            yield self.model

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        with self.lock:
            self.listeners.append(listener)
            listener.reloaded(self.model.revision)
        return lambda: self.listeners.remove(listener) if listener in self.listeners else None

    def audit(self) -> dict[str, Any]:
        self.audits += 1
        if isinstance(self.report, TallyError):
            raise self.report
        self.verdict = AuditResult.of(
            {"at": self.time, "revision": self.model.revision, "findings": [], **self.report}, self.time
        )
        return self.report

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return self.time + self.ahead

    def kept_log(self, task_id: str) -> KeptLog | None:
        """What the store holds of a task's output; `logs` may be set by tests."""
        if isinstance(kept := self.logs.get(task_id), Exception):
            raise kept
        return kept

    def has_come_to(self, revision: int) -> bool:
        return self.stored is None or revision <= self.stored

    def keep_log(self, task_id: str, text: str, **fields: Any) -> None:
        """As the leader does at the end of an attempt."""
        defaults: dict[str, Any] = {"attempt": 1, "text": text, "at": self.time}
        self.logs[task_id] = KeptLog(**defaults | fields)
        self.write((kept_log.KIND, (task_id,), b"{}"))

    def look(self, names: Sequence[str], revision: int, at_least: int) -> ForecastView:
        """What is to come of these tasks, without another process. Raises `no_look`, if it is set."""
        if self.no_look is not None:
            raise self.no_look
        with self.lock:
            assert self.model.revision >= max(revision, at_least)
            own = Model()
            for change in self.written:
                own.apply(change)
            own.advance_revision(self.model.revision)
        found = look(own, self.time, lambda: True)
        tasks = {name: found.tasks[name] for name in names if name in found.tasks}
        return msgspec.structs.replace(found, tasks=tasks)

    # -- what the store's watch would bring
    # --------------------------------------------------------------------------

    def write(self, *records: tuple[str, tuple[str, ...], bytes | None]) -> int:
        """One revision that changes these records; returns it."""
        with self.lock:
            revision = self.model.revision + 1
            changes = [Change(kind, names, value, revision, revision) for kind, names, value in records]
            self.written += changes
            for change in changes:
                self.model.apply(change)
            self.model.advance_revision(revision)
            for listener in self.listeners:
                listener.changed(changes, revision)
            return revision

    def submit(self, task_id: str, *, at: float = 900.0, **fields: Any) -> int:
        fields.setdefault("command", ("true",))
        return self.write(("tasks", (task_id,), codec.encode_spec(Spec(id=task_id, **fields), at, Op("op"))))

    def set_state(self, task_id: str, state: State, **fields: Any) -> int:
        return self.write(("states", (task_id,), status_value(state, **fields)))

    def define_pool(self, name: str, **capacity: int) -> int:
        return self.write(
            ("pools", (name,), codec.encode_pool(Pool(name=name, capacity=Vector(capacity)), Op("op")))
        )


def status_value(state: State, **fields: Any) -> bytes:
    """A stored status with a history of one step."""
    step = Step(at=950.0, source=State.CREATED, event=Event.ADMITTED, state=State.PENDING, attempt=1, epoch=3)
    values = {
        "pool": "default",
        "attempt": 1,
        "epoch": 3,
        "steps": 1,
        "history": (codec.encode_step(step),),
        "finished_at": 960.0 if state in FINISHED else None,
        **fields,
    }
    return codec.encode_status(Status(state=state, **values), {})
