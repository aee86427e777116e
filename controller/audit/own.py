"""The leader's periodic audit of itself: its model against its ledgers and its knowledge of the engine.

It asks neither etcd nor the engine, and so costs them nothing; `tally audit` and `/v1/audit` ask both. It
holds the model for one slice at a time, so that the leader's work is not delayed. A history is replayed again
only if it, or its task's pool, has changed, or if something is wrong with it. A finding that may be a matter
of timing counts if two rounds in a row find it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, Protocol

import structlog

from controller import bulkhead
from controller.audit.audit import Report, make_report
from controller.clock import Clock
from controller.core.model.model import Model
from controller.core.model.task import Observation
from controller.core.promise.array_invariants import check_arrays
from controller.core.promise.attested_invariants import check_attestations, check_attested
from controller.core.promise.capacity_invariants import check_capacities
from controller.core.promise.dependency_invariants import check_dependencies
from controller.core.promise.engine_invariants import check_engine
from controller.core.promise.finding import Finding, FindingSeverity
from controller.core.promise.invariants import (
    check_layout,
    check_ledgers,
    check_requests,
    check_task,
    holding_tasks,
)
from controller.core.promise.schedule_invariants import check_schedules
from controller.core.promise.terms import Written, check_terms, written_by
from controller.engine.base import EngineUnavailable

SLICE = 500  # tasks that are checked before the model is released

log = structlog.get_logger(__name__)


class Led(Protocol):
    """What the audit needs of a replica."""

    def reading(self) -> AbstractContextManager[Model]:
        """The model, held still until the context ends."""
        ...

    def observed(self) -> list[Observation] | None:
        """The leader's observations of attempts; None while the replica does not lead.

        The caller holds the model. Raises EngineUnavailable while the engine does not answer.
        """
        ...


class SelfAudit:
    """Runs in a thread of its own from `start` to `close`, and passes each report to `heard`, as JSON.

    `interval_seconds` 0 makes `start` do nothing.
    """

    def __init__(
        self,
        replica: Led,
        cluster: str,
        interval_seconds: float,
        clock: Clock,
        heard: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._replica = replica
        self._cluster = cluster
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._heard = heard
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="self-audit", daemon=True)
        self._model: Model | None = None
        self._followed = 0  # the revision up to which histories were followed
        self._histories: dict[str, list[Finding]] = {}  # task → what is wrong with its status
        # what may be a matter of timing, as the last round saw it
        self._doubtful: set[tuple[str, str]] = set()
        self._told: frozenset[tuple[str, str]] = frozenset()
        self.last: dict[str, Any] | None = None

    def start(self) -> None:
        """Start the thread, unless the audit is switched off."""
        if self._interval_seconds:
            self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def _run(self) -> None:
        while not self._closed.wait(self._interval_seconds):
            try:
                report = self.audit()
                self.last = report.to_json() if report is not None else None
                if report is not None and self.last is not None:
                    self._tell(report)
                    self._heard(self.last)
            except Exception as error:  # noqa: BLE001  # an audit only looks; the next round looks again
                bulkhead.caught("self-audit", error)
                self.last = None

    def audit(self) -> Report | None:
        """One round; None while the replica does not lead."""
        with self._replica.reading() as model:
            observations, engine_problem = self._observed()
            if observations is None:
                self._model, self._doubtful = None, set()
                return None
            if model is not self._model:
                self._model, self._followed, self._histories = model, 0, {}
            holders = list(holding_tasks(model))
            findings = [*check_layout(model), *check_ledgers(model, holders), *check_requests(model)]
            findings += [*check_attested(model, holders), *check_attestations(model), *check_schedules(model)]
            findings += [*check_arrays(model), *check_capacities(model)]
            about_attempts = (
                [] if engine_problem else check_engine(model, observations, self._clock.now(), holders)
            )
            report = make_report(model, self._cluster, self._clock.now())
        written = self._follow(model)
        with self._replica.reading():
            findings += check_terms(model, written)
        findings += [finding for found in self._histories.values() for finding in found]
        # The observations are not a list that was taken after the model: all about attempts waits for a
        # second round.
        doubtful = [*about_attempts, *(finding for finding in findings if finding.transient)]
        findings = [finding for finding in findings if not finding.transient]
        findings += [finding for finding in doubtful if _identity(finding) in self._doubtful]
        self._doubtful = {_identity(finding) for finding in doubtful}
        return report.finding(findings, len(observations), engine_problem=engine_problem)

    def _observed(self) -> tuple[list[Observation] | None, str]:
        """The observations of attempts, or why there are none."""
        try:
            return self._replica.observed(), ""
        except EngineUnavailable as error:
            return [], str(error)

    def _follow(self, model: Model) -> list[Written]:
        """Check each task's status, slice by slice; returns what each status says of its writer."""
        written: list[Written] = []
        after_others: list[str] = []
        with self._replica.reading():
            revision, names = model.revision, list(model.tasks)
        for chunk in _slices(names):
            with self._replica.reading():
                for task_id in chunk:
                    task = model.tasks.get(task_id)
                    if task is None:
                        continue
                    if (one := written_by(task)) is not None:
                        written.append(one)
                    pool = model.pools.get(task.pool)
                    changed = max(task.status_mod, task.spec_mod, pool.mod if pool is not None else 0)
                    if changed > self._followed or task_id in self._histories:
                        self._histories[task_id] = check_task(task, pool)
                        if task.source is not None or (task.spec is not None and task.spec.after):
                            after_others.append(task_id)
        for task_id in after_others:  # each may have many parents, so it is a slice of its own
            with self._replica.reading():
                if (task := model.tasks.get(task_id)) is not None:
                    self._histories[task_id] += check_dependencies(model, (task,))
        # Gone with their tasks, or empty.
        self._histories = {
            task_id: found for task_id, found in self._histories.items() if found and task_id in model.tasks
        }
        self._followed = revision
        return written

    def _tell(self, report: Report) -> None:
        """Log each finding that the last round did not have."""
        found = {_identity(finding): finding for finding in report.findings}
        for identity, finding in found.items():
            if identity not in self._told:
                say = log.error if finding.severity is FindingSeverity.WRONG else log.warning
                say(
                    "audit",
                    invariant=finding.invariant,
                    subject=finding.subject,
                    what=finding.what,
                    repair=finding.repair,
                )
        self._told = frozenset(found)


def _slices(names: list[str]) -> Iterator[list[str]]:
    remaining = iter(names)
    while chunk := list(islice(remaining, SLICE)):
        yield chunk


def _identity(finding: Finding) -> tuple[str, str]:
    return finding.invariant, finding.subject
