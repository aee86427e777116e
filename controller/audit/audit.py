"""Checks the invariants on a live cluster: etcd at one revision, and the engine's list.

The order matters: the records are loaded first, then the engine is listed. An attempt starts only after its
hold is committed, and a hold ends only after the end was observed. An attempt that is alive although its hold
had ended at the loaded revision is therefore certainly wrong. A finding that may be a matter of timing is
checked a second time, in the same order, and counts only if it is found again for the same attempt.

If the engine cannot be listed, the records are still checked. The report then says why the engine was not
checked, and concludes nothing about attempts.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import msgspec

from controller.clock import Clock
from controller.core.model.installation import difference
from controller.core.model.model import Model
from controller.core.model.printable import one_line
from controller.core.model.task import Observation
from controller.core.promise.engine_invariants import check_engine
from controller.core.promise.finding import Finding, FindingSeverity, Mender
from controller.core.promise.identity_findings import (
    check_identity,
    check_others,
    other_engine,
    recorded_engine,
    recorded_installation,
)
from controller.core.promise.invariants import check_model
from controller.engine.base import Engine, EngineError
from controller.store.base import Store
from controller.store.keys import Keys
from controller.store.records import changes_of

LOAD_SECONDS = 30.0  # limit for each load of the records


_MENDERS = {
    Mender.OPERATOR: "not automatic",
    Mender.LEADER: "automatic, sooner with `--repair`",
    Mender.REPAIR: "with `--repair`",
    Mender.DELETION: "only if you name the key",
}


@dataclass(frozen=True, slots=True)
class Report:
    """What an audit checked, and what it found.

    `attempts` is None if only the records were checked. `engine_problem` then says why; "" if no engine was
    to be checked.
    """

    cluster: str
    revision: int  # of the store, at which the records were loaded
    at: float  # seconds since the epoch
    tasks: int
    pools: int
    attempts: int | None = None
    engine: str = ""
    engine_problem: str = ""
    findings: tuple[Finding, ...] = ()

    @property
    def wrong(self) -> int:
        """The number of findings that break the promise. If there are any, `tally audit` exits with 1."""
        return sum(finding.severity is FindingSeverity.WRONG for finding in self.findings)

    @property
    def verdict(self) -> str:
        """One of "wrong", "ok" and "incomplete": nothing was found, but the engine could not be checked."""
        return "wrong" if self.wrong else "incomplete" if self.engine_problem else "ok"

    def finding(
        self, findings: Iterable[Finding], attempts: int | None, engine: str = "", engine_problem: str = ""
    ) -> Report:
        """This report with findings, the worst first, and the number of checked attempts or a problem."""
        ordered = sorted(
            findings,
            key=lambda finding: (
                finding.severity is FindingSeverity.NOTICE,
                finding.invariant,
                finding.subject,
            ),
        )
        looked_at = None if engine_problem else attempts
        return replace(
            self, findings=tuple(ordered), attempts=looked_at, engine=engine, engine_problem=engine_problem
        )

    def to_json(self) -> dict[str, Any]:
        """The report for machines, as builtins."""
        checked = {"tasks": self.tasks, "pools": self.pools, "attempts": self.attempts, "engine": self.engine}
        return {
            "cluster": self.cluster,
            "revision": self.revision,
            "at": self.at,
            "verdict": self.verdict,
            "checked": {**checked, "engine_problem": self.engine_problem},
            "findings": msgspec.to_builtins(self.findings),
        }

    def to_text(self) -> str:
        """The report in words."""
        looked_at = f"{_count(self.tasks, 'task')}, {_count(self.pools, 'pool')}"
        if self.engine_problem:
            engine = f"The engine was not checked, because {self.engine_problem.rstrip('.')}."
        elif self.attempts is None:
            engine = "The engine was not checked: orphans and lost attempts would not show (I4, I5)."
        else:
            engine = f"Engine {self.engine}: {_count(self.attempts, 'attempt')}."
        lines = [f"Cluster {self.cluster!r} at revision {self.revision}: {looked_at}. {engine}"]
        for finding in self.findings:
            since = f" (since revision {finding.since_revision})" if finding.since_revision else ""
            lines += [
                f"{finding.severity.upper()} {finding.invariant} {finding.subject} {finding.what}{since}",
                f"    likely cause: {finding.likely_cause}",
                f"    repair:       {_MENDERS[finding.mender]}: {finding.repair}",
            ]
        notices = len(self.findings) - self.wrong
        verdict = (
            f"The promise is broken: {_count(self.wrong, 'finding')}" if self.wrong else "Nothing is wrong"
        )
        if self.engine_problem:
            verdict += " in the records"
        lines.append(f"{verdict}, {_count(notices, 'notice')}." if notices else f"{verdict}.")
        if self.engine_problem:
            lines.append(
                "This verdict does not cover attempts: orphans and lost attempts would not show (I4, I5)."
            )
        return "\n".join(map(one_line, lines))


class Look(NamedTuple):
    """The records at one revision, the engine's list after their load (None: none), and the findings."""

    model: Model
    observations: list[Observation] | None
    findings: list[Finding]
    engine_problem: str = ""  # why it listed nothing


def run_audit(store: Store, engine: Engine | None, cluster: str, clock: Clock, **timing: Any) -> Report:
    """The report of `examine`."""
    return examine(store, engine, cluster, clock, **timing)[0]


def examine(
    store: Store,
    engine: Engine | None,
    cluster: str,
    clock: Clock,
    *,
    engine_problem: str = "",
    second_look_seconds: float = 1.0,
    sleep: Callable[[float], object] = time.sleep,
) -> tuple[Report, Look]:
    """Check everything once, and after `second_look_seconds` again what may be a matter of timing.

    Returns the report and the last look; writes nothing. `engine_problem` says why no engine is given,
    although it was to be checked. Raises StoreError if the store does not answer, and InvalidField for an
    invalid `cluster`.
    """
    keys = Keys(cluster)
    first = last = _look(store, engine, keys, clock)
    findings = first.findings
    if any(finding.transient for finding in findings):
        sleep(second_look_seconds)
        last = _look(store, engine, keys, clock)
        # One subject may have several findings of a kind, such as one for each resource of a pool.
        persisting: dict[tuple[str, str, FindingSeverity], deque[Finding]] = defaultdict(deque)
        for finding in last.findings:
            persisting[_identity(finding)].append(finding)
        findings = [
            persisting[_identity(finding)].popleft() if persisting[_identity(finding)] else finding
            for finding in findings
            if not finding.transient or persisting[_identity(finding)]
        ]
    report = make_report(first.model, cluster, clock.now())
    observations = first.observations
    attempts = len(observations) if observations is not None else None
    problem = engine_problem or first.engine_problem or last.engine_problem
    return report.finding(findings, attempts, engine.name if engine is not None else "", problem), last


def make_report(model: Model, cluster: str, at: float) -> Report:
    """A report of these records, with nothing found yet."""
    return Report(
        cluster=cluster,
        revision=model.revision,
        at=at,
        tasks=sum(task.spec_mod > 0 or task.status_mod > 0 for task in model.tasks.values()),
        pools=len(model.pools),
    )


def _look(store: Store, engine: Engine | None, keys: Keys, clock: Clock) -> Look:
    snapshot = store.load(keys.prefix, deadline=clock.boottime() + LOAD_SECONDS)
    model = Model()
    model.load(changes_of(keys, snapshot.items), snapshot.revision)
    findings = [*check_model(model), *check_identity(model)]
    if engine is None:
        return Look(model, None, findings)
    recorded, installation = recorded_engine(model), recorded_installation(model)
    try:
        if recorded is not None and (why := difference(recorded, engine.identity())):
            return Look(
                model, None, [*findings, other_engine(model, why)], f"it is not this installation's: {why}"
            )
        if installation is not None:
            engine.bind(installation)
        observations = engine.attempts()  # after the load: see the module's docstring
        others = engine.others()
    except EngineError as error:
        return Look(model, None, findings, str(error))
    # any error means that nothing was listed; the records are checked all the same
    except Exception as error:  # noqa: BLE001
        return Look(model, None, findings, f"an unexpected {type(error).__name__} occurred: {error}")
    findings += check_engine(model, observations, clock.now())
    findings += check_others(others)
    return Look(model, observations, findings)


def _identity(finding: Finding) -> tuple[str, str, FindingSeverity]:
    return finding.invariant, finding.subject, finding.severity


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
