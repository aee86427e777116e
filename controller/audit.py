"""The invariants against a live cluster: etcd at one revision, and the engine's own list.

Order matters. The records are loaded first and the engine is listed after: an attempt starts only after its hold is
committed, and a hold ends only after the end was observed, so that an attempt found alive although its hold had ended
by the loaded revision is wrong for certain. What can be a matter of timing is looked at a second time, again records
first, and counts only if it is found again for the same attempt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import msgspec

from controller.clock import Clock
from controller.core.engine_invariants import check_engine
from controller.core.finding import Finding, Mender, Severity
from controller.core.identity_findings import check_identity, check_others, other_engine, recorded_engine, recorded_installation
from controller.core.installation import difference
from controller.core.invariants import check_world
from controller.core.printable import one_line
from controller.core.task import Observation
from controller.core.world import World
from controller.engine.base import Engine
from controller.store.base import Store
from controller.store.changes import changes_of
from controller.store.keys import Keys

LOAD_SECONDS = 30.0  # limit for each load of the records


_MENDERS = {
    Mender.OPERATOR: "not by machine",
    Mender.LEADER: "by itself, `--repair` hastens it",
    Mender.REPAIR: "with `--repair`",
    Mender.DELETION: "only if it is named",
}


@dataclass(frozen=True, slots=True)
class Report:
    """What an audit looked at, and what it found. `attempts` is None when no engine was given: records alone were checked."""

    cluster: str
    revision: int  # of the store, at which the records were loaded
    at: float  # seconds since the epoch
    tasks: int
    pools: int
    attempts: int | None = None
    engine: str = ""
    findings: tuple[Finding, ...] = ()

    @property
    def wrong(self) -> int:
        """How many findings break the promise; 0 means that the cluster is in order. `tally audit` exits with 1 otherwise."""
        return sum(finding.severity is Severity.WRONG for finding in self.findings)

    def finding(self, findings: Iterable[Finding], attempts: int | None, engine: str = "") -> Report:
        """The same with what was found, the worst first, and with how many attempts were looked at."""
        ordered = sorted(findings, key=lambda finding: (finding.severity is Severity.NOTICE, finding.invariant, finding.subject))
        return replace(self, findings=tuple(ordered), attempts=attempts, engine=engine)

    def to_json(self) -> dict[str, Any]:
        """The report for machines, as builtins; `verdict` is "ok" or "wrong"."""
        return {
            "cluster": self.cluster,
            "revision": self.revision,
            "at": self.at,
            "verdict": "wrong" if self.wrong else "ok",
            "checked": {"tasks": self.tasks, "pools": self.pools, "attempts": self.attempts, "engine": self.engine},
            "findings": msgspec.to_builtins(self.findings),
        }

    def to_text(self) -> str:
        """The report in words."""
        looked_at = f"{_count(self.tasks, 'task')}, {_count(self.pools, 'pool')}"
        if self.attempts is None:
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
        verdict = f"{_count(self.wrong, 'finding')} against the promise" if self.wrong else "Nothing is wrong"
        lines.append(f"{verdict}, {_count(notices, 'notice')}." if notices else f"{verdict}.")
        return "\n".join(map(one_line, lines))


class Look(NamedTuple):
    """The records at one revision, what the engine listed after they were loaded (None: no engine), and what does not hold."""

    world: World
    observations: list[Observation] | None
    findings: list[Finding]


def run_audit(store: Store, engine: Engine | None, cluster: str, clock: Clock, **timing: Any) -> Report:
    """The report of `examine`."""
    return examine(store, engine, cluster, clock, **timing)[0]


def examine(
    store: Store,
    engine: Engine | None,
    cluster: str,
    clock: Clock,
    *,
    second_look_seconds: float = 1.0,
    sleep: Callable[[float], object] = time.sleep,
) -> tuple[Report, Look]:
    """Check everything once, and what may be a matter of timing once more after `second_look_seconds`.

    Returns the report, and the last look. Reads only. Raises StoreError or EngineError when one of the two does not
    answer, InvalidField for a bad `cluster`.
    """
    keys = Keys(cluster)
    first = last = _look(store, engine, keys, clock)
    findings = first.findings
    if any(finding.transient for finding in findings):
        sleep(second_look_seconds)
        last = _look(store, engine, keys, clock)
        persisting = {_identity(finding): finding for finding in last.findings}
        findings = [
            persisting.get(_identity(finding), finding)
            for finding in findings
            if not finding.transient or _identity(finding) in persisting
        ]
    report = make_report(first.world, cluster, clock.now())
    observations = first.observations
    attempts = len(observations) if observations is not None else None
    return report.finding(findings, attempts, engine.name if engine is not None else ""), last


def make_report(world: World, cluster: str, at: float) -> Report:
    """A report of these records, with nothing found yet."""
    return Report(
        cluster=cluster,
        revision=world.revision,
        at=at,
        tasks=sum(task.spec_mod > 0 or task.status_mod > 0 for task in world.tasks.values()),
        pools=len(world.pools),
    )


def _look(store: Store, engine: Engine | None, keys: Keys, clock: Clock) -> Look:
    snapshot = store.load(keys.prefix, deadline=clock.boottime() + LOAD_SECONDS)
    world = World()
    world.load(changes_of(keys, snapshot.items), snapshot.revision)
    findings = [*check_world(world), *check_identity(world)]
    observations = None
    if engine is not None:
        recorded, installation = recorded_engine(world), recorded_installation(world)
        if recorded is not None and (why := difference(recorded, engine.identity())):
            return Look(world, None, [*findings, other_engine(world, why)])
        if installation is not None:
            engine.bind(installation)
        observations = engine.list()  # after the load: see the module's docstring
        findings += check_engine(world, observations, clock.now())
        findings += check_others(engine.others())
    return Look(world, observations, findings)


def _identity(finding: Finding) -> tuple[str, str, Severity]:
    return finding.invariant, finding.subject, finding.severity


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
