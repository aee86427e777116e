"""One run: an installation under load, a schedule of faults drawn from a seed, and the judgement when all is
healed.

A step injects one or two faults, holds them for a while, undoes them, and waits until something is committed
again. Every fault comes once before any comes twice. What the run proves, it proves from etcd's history
(`Recorder`), from what the tasks wrote themselves or the kubelets know (`Attempts`) and from what users were
told (`Users`).
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

from controller.clock import SystemClock
from controller.dev.cluster import ReplicaProcess
from controller.dev.etcd import EtcdBinary
from controller.election.sentinel import BURST, BURST_SECONDS
from tests.chaos.attempts import Attempts, Pods, Processes
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.ground import Ground
from tests.chaos.installation import EXPECTED_EXITS, Installation
from tests.chaos.linearizability import violations
from tests.chaos.load import Users
from tests.chaos.mix import LockedProcesses, Mix
from tests.chaos.recorder import Recorder
from tests.support.etcd import EtcdFactory
from tests.support.local import check_promise, logged

POOL = {"name": "default", "capacity": {"cpu": 6}, "policy": "backfill"}
HOLD_SECONDS = (0.2, 4.0)
SHORT_HOLD_SECONDS = (0.2, 2.5)  # where each fault comes once: some are shorter than the lease, some longer
DEPOSED = "the leader's process is gone: ending its term before its lease"  # in a replica's log
QUOTA_BYTES = 24 * 2**20  # of etcd: soon used up by somebody who means to
LINKS = ["leader's links", "follower's links", "users' links", "endpoints"]
ORDER = ["key", "access", "engine", "watches", "nodes", "history", *LINKS, "replicas", "etcd"]
"""In which the faults of one step are injected: what needs etcd comes before what takes it away."""


class Step(NamedTuple):
    """What was done, from the run's beginning on: when, which faults, to whom, how long, and the longest
    time without a commit.
    """

    at: float
    faults: tuple[str, ...]
    notes: tuple[str, ...]
    held: float
    gap: float

    def __str__(self) -> str:
        to = f" ({', '.join(self.notes)})" if self.notes else ""
        return (
            f"{self.at:7.2f} s  {' + '.join(self.faults)}{to}, for {self.held:.2f} s: no commit for"
            f" {self.gap:.2f} s"
        )


@dataclass
class Report:
    """What a run did and saw."""

    seed: int
    steps: list[Step] = field(default_factory=list)
    summary: str = ""
    found: list[str] = field(default_factory=list)  # by the auditor of the mix

    def schedule(self) -> str:
        """The steps, one a line."""
        return "\n".join([f"seed {self.seed}:", *map(str, self.steps)])

    def table(self) -> str:
        """Fault, times injected, longest time it was held, longest time without a commit from then to the
        recovery.
        """
        rows = [f"{'fault':<26} {'rows':<8} {'times':>5} {'held, s':>8} {'recovery, s':>12}"]
        for name, fault in FAULTS.items():
            steps = [step for step in self.steps if name in step.faults]
            if steps:
                numbers = ", ".join(map(str, fault.rows)) or "–"
                held, gap = max(step.held for step in steps), max(step.gap for step in steps)
                rows.append(f"{name:<26} {numbers:<8} {len(steps):>5} {held:>8.1f} {gap:>12.1f}")
        return "\n".join([*rows, self.summary])


def run(
    path: Path,
    etcd: EtcdBinary,
    *,
    seed: int,
    seconds: float | None,
    replicas: int = 3,
    users: int = 3,
    engine: str = "process",
    faults: Iterable[str] = (),
    mixed: bool = False,
) -> Report:
    """Inject these faults (none: all that this engine can have) for so long (None: until each came once),
    then heal all and judge. A failure tells the seed and what had been done."""
    names = list(faults) or [fault.name for fault in FAULTS.values() if fault.engine in ("", engine)]
    report = Report(seed)
    try:
        with _started(path, etcd, seed, replicas, users, engine, mixed=mixed) as (
            installation,
            recorder,
            attempts,
            load,
            mix,
        ):
            schedule = _draw(random.Random(seed), [FAULTS[name] for name in names])
            if mix is not None:
                report.found = mix.auditor.findings
            destroyed = _strike(installation, recorder, schedule, report, seconds)
            load.__exit__()
            if mix is not None:
                mix.__exit__()
                mix.end_schedules()
            load.settle(destroyed)
            recorder.catch_up(installation.store)
            if mix is not None:
                mix.judge(destroyed)
            _judge(installation, recorder, attempts, load, mix, report)
    except BaseException as error:
        found = "\n".join(report.found[:50])
        error.add_note(f"{report.schedule()}\nlogs: {path}\nthe auditor found {len(report.found)}: {found}")
        raise
    return report


@contextmanager
def _started(
    path: Path, etcd: EtcdBinary, seed: int, replicas: int, users: int, engine: str, *, mixed: bool
) -> Iterator[tuple[Installation, Recorder, Attempts, Users, Mix | None]]:
    with ExitStack() as stack:
        factory = EtcdFactory(etcd, path)
        stack.callback(factory.close)
        members = factory.start_cluster(
            quota_backend_bytes=QUOTA_BYTES * (2 if mixed else 1),
            extra_args=("--auth-token-ttl=2", "--bcrypt-cost=4"),
        )
        installation = Installation(path / "data", members, replicas, users + mixed, engine)
        stack.callback(installation.stop)
        recorder = Recorder(installation.as_root(member.url) for member in members)
        stack.callback(recorder.close)
        cluster, mix = installation.fake_cluster, None
        attempts: Attempts = Processes(path / "journal") if cluster is None else Pods(cluster)
        if mixed:
            attempts = locked = LockedProcesses(path / "journal")
            mix = Mix(installation, locked, seed, installation.users[-1])
            recorder.tell = mix.take
        installation.start()
        if mix is not None:
            mix.set_up()
            stack.enter_context(mix)
        else:
            with installation.client() as client:
                client.apply_pool(POOL)
        load = stack.enter_context(Users(installation, attempts, seed, installation.users[:users]))
        installation.until(lambda: recorder.commits, "the first commit")
        yield installation, recorder, attempts, load, mix


def _strike(
    installation: Installation,
    recorder: Recorder,
    schedule: Iterable[list[Fault]],
    report: Report,
    seconds: float | None,
) -> set[str]:
    """Inject faults until the time is over, or the first comes again; returns the tasks of which an
    attempt was destroyed.
    """
    clock, destroyed = SystemClock(), set[str]()
    began = clock.boottime()
    for number, faults in enumerate(schedule):
        known = {name for step in report.steps for name in step.faults}
        if (
            clock.boottime() - began > seconds
            if seconds is not None
            else known >= {fault.name for fault in faults}
        ):
            return destroyed
        rng = random.Random(f"{report.seed}/{number}")
        ground = Ground(installation, recorder, installation.leader(), rng, destroyed)
        hold = rng.uniform(*(HOLD_SECONDS if seconds is not None else SHORT_HOLD_SECONDS))
        at = clock.boottime()
        names = tuple(fault.name for fault in faults)
        report.steps.append(Step(at - began, names, (), hold, 0.0))  # told even if it does not end
        with ExitStack() as injected:
            for fault in faults:
                injected.enter_context(contextmanager(fault.inject)(ground))
            _pace(installation, hold)
        healed = clock.boottime()
        installation.until(partial(recorder.commits_since, healed), "a commit after all was healed")
        gap = _longest_gap(at, healed, recorder.commits_since(at))
        report.steps[-1] = Step(at - began, names, tuple(ground.notes), healed - at, gap)
    raise AssertionError("the faults never end")


def _draw(rng: random.Random, known: list[Fault]) -> Iterator[list[Fault]]:
    """One or two faults at a time, which strike different things; each comes once before any comes twice."""
    deck: list[Fault] = []
    while True:
        if not deck:
            deck = rng.sample(known, len(known))
        drawn = [deck.pop()]
        other = next((fault for fault in reversed(deck) if fault.strikes != drawn[0].strikes), None)
        if other is not None and rng.random() < 0.7:
            deck.remove(other)
            drawn.append(other)
        yield sorted(drawn, key=lambda fault: ORDER.index(fault.strikes))


def _pace(installation: Installation, seconds: float) -> None:
    clock, pause = SystemClock(), threading.Event()
    until = clock.boottime() + seconds
    while (left := until - clock.boottime()) > 0:
        installation.tend()
        pause.wait(min(0.1, left))


def _longest_gap(at: float, healed: float, commits: list[float]) -> float:
    """The longest time without a commit between `at` and the first commit after `healed`."""
    last, longest = at, 0.0
    for commit in commits:
        longest, last = max(longest, commit - last), commit
        if commit > healed:
            break
    return longest


def _depositions(installation: Installation, replica: ReplicaProcess) -> list[datetime]:
    """When the newest process of a replica ended another's term because it saw its endpoint go."""
    entries = logged(installation, replica)
    began = max(index for index, entry in enumerate(entries) if entry["event"] == "replica starts")
    return [
        datetime.fromisoformat(entry["timestamp"]) for entry in entries[began:] if entry["event"] == DEPOSED
    ]


def _judge(
    installation: Installation,
    recorder: Recorder,
    attempts: Attempts,
    load: Users,
    mix: Mix | None,
    report: Report,
) -> None:
    acknowledged = load.acknowledged | (mix.acknowledged.keys() if mix is not None else set())
    check_promise(
        installation, attempts, acknowledged, engine=installation.engine(), history=recorder.history
    )
    untrue = violations(load.calls, recorder.versions, recorder.requested)
    assert not untrue, "users were told what was not so:\n" + "\n".join(untrue)
    unexpected = [(name, code) for name, code in installation.exits if code not in EXPECTED_EXITS]
    assert not unexpected, f"replicas ended as nobody made them: {unexpected}"
    for replica in installation.replicas:
        for began, ended in zip(times := _depositions(installation, replica), times[BURST:], strict=False):
            assert (ended - began).total_seconds() >= BURST_SECONDS, (
                f"{replica.name} deposed leaders too often: {times}"
            )
    history = recorder.history
    report.summary = (
        f"{len(report.steps)} steps, {len(history.terms)} terms, {history.revisions} revisions,"
        f" {len(acknowledged)} tasks, {len(attempts.starts())} attempts, {len(load.calls)} answers to"
        f" users, {len(installation.exits)} deaths of replicas"
    )
    if mix is not None:
        report.summary += f"\n{mix.summary()}"
