"""The leader's audit of itself: what it keeps from one round to the next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest
from msgspec.structs import replace

from controller.audit.own import SelfAudit
from controller.clock import SystemClock
from controller.core.model import codec
from controller.core.model.after import Dependency, When
from controller.core.model.lifecycle import Event, State
from controller.core.model.maintenance import MaintenanceWindow
from controller.core.model.model import Model
from controller.core.model.op import NO_OP
from controller.core.model.records import Change
from controller.core.model.resources import Vector
from controller.core.model.task import AttemptId, Observation, Phase, Pool, Spec, Status, Step

CPU = Vector({"cpu": 500})
RUNS = Observation(attempt=AttemptId("job", 1), phase=Phase.RUNNING)


class Leader:
    """What the audit needs of a replica: a model with one running task, and what the engine showed."""

    def __init__(self) -> None:
        self.model = Model()
        self.seen: list[Observation] = [RUNS]
        self.mod = 0
        self.write("epoch", (), b'{"epoch":1}')
        pool = codec.encode_pool(Pool(name="default", capacity=Vector({"cpu": 1000})), NO_OP)
        self.write("pools", ("default",), pool)
        self.write("ledgers", ("default",), codec.encode_ledger(CPU, NO_OP, {}))
        spec = Spec(id="job", command=("true",), resources=CPU)
        self.write("tasks", ("job",), codec.encode_spec(spec, 1.0, NO_OP))
        steps = [(State.CREATED, Event.ADMITTED, State.PENDING)]
        steps.append((State.PENDING, Event.RUNNING_OBSERVED, State.RUNNING))
        history = tuple(
            codec.encode_step(Step(at=1.0, source=source, event=event, state=target, attempt=1, epoch=1))
            for source, event, target in steps
        )
        self.status = Status(
            state=State.RUNNING, pool="default", attempt=1, epoch=1, hold=CPU, steps=2, history=history
        )
        self.write("states", ("job",), codec.encode_status(self.status, {}))

    def write(self, kind: str, names: tuple[str, ...], value: bytes) -> None:
        self.mod += 1
        self.model.apply(Change(kind, names, value, self.mod, self.mod))
        self.model.advance_revision(self.mod)

    @contextmanager
    def reading(self) -> Iterator[Model]:
        yield self.model

    def observed(self) -> list[Observation] | None:
        return self.seen


@pytest.fixture
def leader() -> Leader:
    return Leader()


@pytest.fixture
def audit(leader: Leader) -> SelfAudit:
    return SelfAudit(leader, "test", 0, SystemClock(), heard=lambda _: None)


def found(audit: SelfAudit) -> set[str]:
    report = audit.audit()
    assert report is not None
    return {finding.invariant for finding in report.findings}


def test_what_a_pool_settles_is_found_no_longer(leader: Leader, audit: SelfAudit) -> None:
    """Though the task is as it was."""
    window = MaintenanceWindow(starts_at=2000.0, ends_at=3000.0)
    pool = Pool(name="default", capacity=Vector({"cpu": 1000}), maintenance=(window,))
    leader.write("pools", ("default",), codec.encode_pool(pool, NO_OP))
    told = {"windows_of": leader.mod, "admitted_at": 1000.0, "created_at": 1.0}
    leader.write("states", ("job",), codec.encode_status(replace(leader.status, **told), {}))
    assert found(audit) == found(audit) == {"I17"}
    leader.write("pools", ("default",), codec.encode_pool(pool, NO_OP))
    assert found(audit) == set()


def test_a_task_that_began_before_another_is_found(leader: Leader, audit: SelfAudit) -> None:
    """As `tally audit` finds it."""
    after = (Dependency(task="job", when=When.SUCCEEDED),)
    spec = Spec(id="next", command=("true",), resources=CPU, after=after)
    leader.write("tasks", ("next",), codec.encode_spec(spec, 1.0, NO_OP))
    assert found(audit) == set()
    leader.write("ledgers", ("default",), codec.encode_ledger(Vector({"cpu": 1000}), NO_OP, {}))
    leader.seen.append(Observation(attempt=AttemptId("next", 1), phase=Phase.RUNNING))
    leader.write("states", ("next",), codec.encode_status(replace(leader.status, created_at=1.0), {}))
    assert found(audit) == {"I13"}


def test_what_may_be_a_matter_of_timing_counts_in_two_rounds_in_a_row(
    leader: Leader, audit: SelfAudit
) -> None:
    """The observations are a copy, and no list that was taken after the model: one round proves nothing."""
    assert found(audit) == set()
    leader.seen = []
    assert found(audit) == set()
    assert found(audit) == {"I5"}
    leader.seen = [RUNS]
    assert found(audit) == set()
    leader.seen = []
    assert found(audit) == set(), "it was not found in the round before"


def test_a_verdict_on_a_history_ends_with_the_status_that_it_was_about(
    leader: Leader, audit: SelfAudit
) -> None:
    """It is kept from round to round, as long as nobody writes the status."""
    broken = msgspec.structs.replace(leader.status, history=leader.status.history[1:], steps=1)
    assert found(audit) == set()
    leader.write("states", ("job",), codec.encode_status(broken, {}))
    assert found(audit) == {"I3"}
    assert found(audit) == {"I3"}
    leader.write("states", ("job",), codec.encode_status(leader.status, {}))
    assert found(audit) == set()


def test_another_model_is_audited_from_its_beginning(leader: Leader, audit: SelfAudit) -> None:
    """etcd was restored, and its revisions went back: no verdict on the model before holds for this one."""
    for _ in range(9):
        leader.write("states", ("job",), codec.encode_status(leader.status, {}))
    assert found(audit) == set()
    restored = Leader()
    broken = msgspec.structs.replace(restored.status, history=restored.status.history[1:], steps=1)
    restored.write("states", ("job",), codec.encode_status(broken, {}))
    leader.model = restored.model
    assert found(audit) == {"I3"}
