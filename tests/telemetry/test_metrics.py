"""The metrics: what a run counts, what a scrape measures, and that their number is bounded."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from controller import bulkhead
from controller.client import Client
from controller.clock import SystemClock
from controller.core.model import codec
from controller.core.model.after import Dependency
from controller.core.model.arrays import ArraySpec
from controller.core.model.lifecycle import State
from controller.core.model.maintenance import MaintenanceWindow
from controller.core.model.notices import Dead, EndNotice, encode_notice
from controller.core.model.notify_rules import Ending
from controller.core.model.op import Op
from controller.core.model.records import Ledger
from controller.core.model.resources import Vector
from controller.core.model.schedules import TickOutcome, TickResult
from controller.core.model.shares import Account, Share, encode_share
from controller.core.model.sharing import Ceiling, OwnerPolicy, Preemption, Sharing
from controller.core.model.task import AttemptId, Launch, Observation, Phase, Pool, Spec, Status, Step
from controller.election.term import LeadershipLost
from controller.engine.base import AttemptRefused, AttemptUnknown, EngineError, EngineUnavailable
from controller.engine.null import NullEngine
from controller.runtime.instruments import Taken
from controller.store.base import (
    ClusterChanged,
    Guard,
    LeaseNotFound,
    OutcomeUnknown,
    Purpose,
    Put,
    RequestTooLarge,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreSize,
    StoreUnavailable,
    Transaction,
)
from controller.store.memory import MemoryStore
from controller.telemetry.catalog import FAMILIES, ROLE
from controller.telemetry.measured import MeasuredEngine, MeasuredStore
from controller.telemetry.metrics import Metrics
from controller.views.freshness import RULE
from controller.views.replica import Check, Facts
from tests.endpoint.model_view import ModelView
from tests.support.bench import HandClock, Stage, observation
from tests.support.running import POOL, RecordingEngine, RunningReplica, submit
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
CLOCK = SystemClock()


def samples(metrics: Metrics) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Sample name → its series: labels and value."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """The sum of the series that have these labels."""
    return sum(v for found, v in samples(metrics).get(name, []) if labels.items() <= found.items())


class Run(NamedTuple):
    metrics: Metrics
    store: MemoryStore
    replica: RunningReplica
    client: Client
    engine: RecordingEngine


@pytest.fixture
def run() -> Iterator[Run]:
    """A leading replica whose store, engine and loop are measured."""
    metrics, store, engine = Metrics(CLOCK), MemoryStore(CLOCK), RecordingEngine(CLOCK)
    client = Client.of_store(store.client(), cluster="c")
    client.apply_pool(POOL)
    measured: Any = MeasuredEngine(engine, metrics, CLOCK)
    with RunningReplica(
        MeasuredStore(store, metrics, CLOCK), cluster="c", engine=measured, clock=CLOCK, instruments=metrics
    ) as replica:
        metrics.observe(replica.replica)
        replica.until_leading()
        yield Run(metrics, store, replica, client, engine)


def finish(run: Run, *ids: str) -> None:
    """Submit the tasks, and wait until their ends are counted, which is just after the commit that others
    see.
    """
    before = ended(run)
    submit(run.client, *ids)
    wait_until(lambda: ended(run) == before + len(ids), "the count")


def ended(run: Run) -> float:
    return sum(value(run.metrics, "tally_transitions_total", to=state) for state in ("Succeeded", "Failed"))


def test_a_run_is_counted(run: Run) -> None:
    submit(run.client, "refused", env={"TALLY_NULL_SECONDS": "soon"}, retry={"max_start_failures": 0})
    wait_until(lambda: ended(run) == 1, "the refused one")
    finish(run, "a", "b")
    led = {"replica_role": "leader", "pool": "default"}
    assert value(run.metrics, "tally_transitions_total", **{"from": "Created", "to": "Pending"}, **led) == 3
    assert value(run.metrics, "tally_transitions_total", to="Succeeded", reason="Completed", **led) == 2
    assert value(run.metrics, "tally_transitions_total", to="Failed", reason="InvalidDuration", **led) == 1
    assert value(run.metrics, "tally_queue_wait_seconds_count", **led) == 3
    assert value(run.metrics, "tally_run_seconds_count", state="Succeeded", **led) == 2
    assert value(run.metrics, "tally_tasks", state="Succeeded", **led) == 2
    assert (
        value(
            run.metrics, "tally_engine_request_seconds_count", verb="start", code="ok", replica_role="leader"
        )
        == 2
    )
    assert (
        value(
            run.metrics,
            "tally_engine_request_seconds_count",
            verb="start",
            code="refused",
            replica_role="leader",
        )
        >= 1
    )
    assert (
        value(
            run.metrics,
            "tally_transaction_seconds_count",
            kind="plan",
            outcome="applied",
            replica_role="leader",
        )
        >= 2
    )
    assert value(run.metrics, "tally_transaction_seconds_count", kind="election", outcome="applied") == 1
    assert value(run.metrics, "tally_transaction_seconds_count", kind="registration", outcome="applied") >= 1
    assert value(run.metrics, "tally_take_over_seconds_count", replica_role="leader") == 1
    assert value(run.metrics, "tally_leading", replica_role="leader") == 1
    assert 0 < value(run.metrics, "tally_lease_remaining_seconds") <= 2
    assert value(run.metrics, "tally_pool_drift") == 0


def test_counts_keep_the_role_in_which_they_were_made(run: Run) -> None:
    """A leader that steps down shows what it counted as one, and measures as a follower: no sum loses or
    doubles anything.
    """
    finish(run, "a")
    run.client.replicas.step_down()
    wait_until(
        lambda: (
            value(run.metrics, "tally_leading", replica_role="follower") == 0
            and samples(run.metrics)["tally_leading"][0][0][ROLE] == "follower"
        ),
        "the end of its term",
    )
    assert value(run.metrics, "tally_transitions_total", to="Succeeded", replica_role="leader") == 1
    assert value(run.metrics, "tally_transitions_total", replica_role="follower") == 0
    run.replica.until_leading(after=1)
    finish(run, "b")
    assert value(run.metrics, "tally_transitions_total", to="Succeeded", replica_role="leader") == 2
    assert value(run.metrics, "tally_take_over_seconds_count") == 2


def test_an_engine_that_fails_is_seen(run: Run) -> None:
    def fail() -> None:
        raise EngineUnavailable("gone", 0.05)

    run.engine.on = {"attempts": fail, "watch": fail}
    tenure = run.replica.replica._office.tenure
    assert tenure is not None
    tenure._observer._relist.set()  # the next list, now
    wait_until(
        lambda: value(run.metrics, "tally_engine_request_seconds_count", verb="list", code="unavailable"),
        "the list",
    )
    run.engine.on = {}


class MovingView(ModelView):
    """A view whose facts can be changed one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.changed: dict[str, Any] = {}

    def facts(self) -> Facts:
        return replace(super().facts(), **self.changed)


def shared_pool(cpu: int, **fields: Any) -> Pool:
    """A pool whose owner has a guarantee and a limit that follow its capacity."""
    amounts = Vector({"cpu": cpu})
    policy = OwnerPolicy(guarantee=amounts, limit=Ceiling(amounts))
    sharing = Sharing(owners={"default": policy})
    preemption = Preemption(reclaim=True, per_minute=cpu)
    return Pool(name="default", capacity=amounts, sharing=sharing, preemption=preemption, **fields)


def with_window(starts_at: float) -> Pool:
    """A pool that is maintained from then on."""
    window = MaintenanceWindow(starts_at=starts_at, ends_at=2e9)
    return Pool(name="windows", capacity=Vector({"cpu": 1000}), maintenance=(window,))


def share(cpu: int, running: int, used: int) -> bytes:
    """The share of the only owner."""
    held, spent = Vector({"cpu": cpu}), Vector({"cpu": used})
    part = Vector({"cpu": used // 3})
    return encode_share(
        Share(held=held, running=running, used=spent, at=1, lost=part, stopping=part), Op("op")
    )


def complete(metrics: Metrics, view: ModelView) -> None:
    """Something of every kind happens."""
    view.write(("pools", ("default",), codec.encode_pool(shared_pool(2000), Op("op"))))
    whole = Ledger(account=Account(shares_op=Op("x"), day=1)).encode(Op("x"))
    view.write(("shares", ("default", "default"), share(1000, 0, 5)), ("ledgers", ("default",), whole))
    view.write(("pools", ("windows",), codec.encode_pool(with_window(1e9), Op("op"))))
    view.submit("task-one", resources=Vector({"cpu": 1000}))
    view.submit("array-one", pool="of-arrays", array=ArraySpec(size=3))
    view.write(("replicas", ("r",), b'{"applied_revision":1}'), ("unknown", ("junk",), b"?"))
    metrics.observe(view)
    metrics.exposition()  # the scrape before: what is next is compared with it
    happen(metrics, 1)
    view.role, view.reloads, view.ages = "leader", {"compacted": 1}, {"r": 0.5}


def happen(metrics: Metrics, times: int) -> None:
    """What is counted, once more; what others count and measure, so many times."""
    metrics.entered("taking-over")
    metrics.entered("leading")
    metrics.took_over(0.1)
    metrics.unnoticed(1)
    metrics.looked_ahead(1.5)
    metrics.begun_as_told(20.0, 0.1)
    metrics.ticked(TickOutcome(tick=60, result=TickResult.MADE))
    steps = [
        Step(at=10.0, source="Created", event="admitted", state="Pending", attempt=1),
        Step(at=11.0, source="Pending", event="running-observed", state="Running", attempt=1),
        Step(
            at=15.0,
            source="Running",
            event="succeeded-observed",
            state="Succeeded",
            attempt=1,
            reason="Completed",
        ),
    ]
    status = Status(
        state=State.SUCCEEDED,
        pool="default",
        attempt=1,
        created_at=4.0,
        admitted_at=10.0,
        started_at=11.0,
        steps=3,
    )
    metrics.transitioned([Taken(None, status, steps)])
    store, engine = (
        MeasuredStore(MemoryStore(CLOCK), metrics, CLOCK),
        MeasuredEngine(NullEngine(CLOCK), metrics, CLOCK),
    )
    store.commit(Transaction((Guard("k", 0),), (Put("k", b"v"),), Op("o")), deadline=CLOCK.boottime() + 5)
    store.get("k", deadline=CLOCK.boottime() + 5)
    engine.attempts()
    metrics.count("tally_engine_watch_restarts", "unavailable")
    bulkhead.caught("effect", ValueError("odd"))
    metrics.sized(StoreSize(3 * times, 2 * times, 4 * times))
    finding = {"invariant": "I1", "severity": "wrong"}
    metrics.audited(
        {
            "at": 7.0 * times,
            "findings": [*[finding] * (times + 1), {"invariant": "layout", "severity": "notice"}],
        }
    )
    metrics.outside.watch_restarts = lambda: {"silence": 2 * times}
    metrics.outside.endpoint_failures = lambda: {"http://a:2379": times}
    metrics.outside.engine_faults = lambda: {"503": 4 * times}
    metrics.outside.rate_limit_seconds = lambda: 1.5 * times


def test_the_catalog_is_what_is_exposed() -> None:
    """Every family appears once something of every kind has happened, with its labels and the role, and
    nothing else does.
    """
    metrics = Metrics(CLOCK)
    complete(metrics, ModelView())
    exposed = samples(metrics)
    for family in FAMILIES:
        name = f"{family.exposed}_count" if family.buckets else family.exposed
        assert name in exposed, name
        for labels, _ in exposed[name]:
            assert set(labels) == {*family.labels, ROLE}, name
    known = {family.exposed for family in FAMILIES}
    others = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for name in exposed
        if not name.startswith(("process_", "python_"))
    }
    assert others <= known
    assert all(ROLE in labels for series in exposed.values() for labels, _ in series)
    assert value(metrics, "tally_audit_findings", invariant="I1", severity="wrong") == 2
    assert value(metrics, "tally_pool_admissible", pool="default") == 1


def notice(dead: Dead | None = None) -> bytes:
    return encode_notice(
        EndNotice(
            task="task-one", urls=(), ending=Ending.FAILED, at=1.0, pool="default", owner="default", dead=dead
        ),
        Op("x"),
    )


def test_every_metric_moves() -> None:
    """Each shows another value when what it measures is another; only who this is stays."""
    metrics, view = Metrics(CLOCK), MovingView()
    complete(metrics, view)
    before = samples(metrics)
    happen(metrics, 2)
    view.changed = {
        "phase": "leading",
        "term": 7,
        "epoch": 4,
        "lease_seconds": 3.5,
        "staleness_seconds": 9.0,
        "role": "follower",
        "leader": "",
        "reloads": {"compacted": 2},
        "replica_ages": {"r": 1.5},
        "ready": (Check("clock", ok=False, detail="it was never set"),),
    }
    view.write(("pools", ("default",), codec.encode_pool(shared_pool(4000, paused=True), Op("op"))))
    view.write(
        ("shares", ("default", "default"), share(4000, 1, 99)),
        ("claims", ("default", "task-one"), b'{"kind":"reclaim","asked":{"cpu":"1"}}'),
        ("ledgers", ("default",), codec.encode_ledger(Vector({"cpu": 3000}), Op("x"), {})),
        ("unknown", ("more",), b"?"),
        ("attested", ("task-one",), b'{"owner":"default","by":"x"}'),
        ("schedules", ("one",), b'{"name":"one","cron":"* * * * *","task":{"command":["true"]}}'),
        ("outbox", ("task-one", "1"), notice()),
        ("outbox", ("task-one", "2"), notice(dead=Dead(why={}))),
    )
    view.set_state("task-one", State.RUNNING, hold=Vector({"cpu": 1000}), lost_since=900.0)
    view.set_state("task-two", State.CREATED, steps=1, attempt=0, on_hold=True)
    view.submit("task-three", after=(Dependency(task="task-one"),))
    view.write(("pools", ("windows",), codec.encode_pool(with_window(0.0), Op("op"))))
    view.submit("task-four", pool="windows")
    view.submit("array-two", pool="of-arrays", array=ArraySpec(size=3))
    view.write(("replicas", ("r",), b'{"applied_revision":1}'), ("gateways", ("g",), b"{}"))
    after = samples(metrics)
    names = {
        family.exposed: f"{family.exposed}_count" if family.buckets else family.exposed for family in FAMILIES
    }
    still = {
        exposed
        for exposed, name in names.items()
        if values(before.get(name, [])) == values(after.get(name, []))
    }
    assert still == {"tally_build_info", "tally_replica_info"}


def values(series: list[tuple[dict[str, str], float]]) -> list[tuple[tuple[str, ...], float]]:
    """What is shown, whatever the role."""
    return sorted(
        (tuple(text for name, text in labels.items() if name != ROLE), value) for labels, value in series
    )


def test_a_queue_is_stuck_if_what_is_next_stays_the_same() -> None:
    """A long array that goes on always has a next member, and a busy pool a next task: that is progress."""
    metrics, view, stage = Metrics(CLOCK), ModelView(), Stage()
    stage.pool()
    leader = stage.leader()
    view.model = leader.model
    metrics.observe(view)

    def is_stuck() -> float:
        return value(metrics, "tally_pool_admissible", pool="default")

    stage.submit("a", array={"size": 6, "max_running": 3})
    leader.sync()
    assert [is_stuck(), is_stuck()] == [0, 1], "nobody admits it"
    leader.acknowledge(leader.run())
    assert [is_stuck(), is_stuck()] == [0, 0], "three run, and no more may"
    leader.see(observation(("a-i0", 1), Phase.SUCCEEDED))
    leader.commit(leader.planner.plan(stage.clock.now()))
    assert is_stuck() == 0, "the next one has just come to be next"
    assert is_stuck() == 1
    leader.acknowledge(leader.run())
    assert [is_stuck(), is_stuck()] == [0, 0]
    leader.see(observation(("a-i1", 1), Phase.SUCCEEDED))
    leader.commit(leader.planner.plan(stage.clock.now()))
    assert is_stuck() == 0, "another member is next"


def test_members_of_arrays_are_counted() -> None:
    """By pool and state; their arrays are counted as one task each."""
    metrics, view, stage = Metrics(CLOCK), ModelView(), Stage()
    stage.pool()
    leader = stage.leader()
    view.model = leader.model
    metrics.observe(view)
    stage.submit("a", array={"size": 100_000})
    stage.submit("b", array={"size": 10}, pool="nowhere")
    leader.sync()
    leader.acknowledge(leader.run())
    members = "tally_array_members"
    assert value(metrics, members, pool="default", state="Waiting") == 99_996
    assert value(metrics, members, pool="default", state="Pending") == 4
    assert value(metrics, members, pool="Other", state="Waiting") == 10
    assert value(metrics, "tally_tasks", pool="default", state="Running") == 1
    leader.see(observation(("a-i0", 1), Phase.SUCCEEDED, exit_code=0))
    leader.run()
    assert value(metrics, members, pool="default", state="Succeeded") == 1
    assert value(metrics, members, pool="default", state="Pending") == 4
    assert value(metrics, members, pool="default", state="Failed") == 0


def test_tasks_that_wait_for_others_are_counted() -> None:
    """Until the last of these has ended, and with none again."""
    metrics, view = Metrics(CLOCK), ModelView()
    metrics.observe(view)
    view.define_pool("default", cpu=4000)
    view.submit("first")
    view.submit("next", after=(Dependency(task="first"),))
    assert value(metrics, "tally_tasks_gated", pool="default") == 1.0
    view.set_state("first", State.SUCCEEDED, finished_at=950.0)
    assert value(metrics, "tally_tasks_gated", pool="default") == 0.0


def test_durations_are_those_of_the_task() -> None:
    metrics = Metrics(CLOCK)
    complete(metrics, ModelView())
    assert value(metrics, "tally_queue_wait_seconds_sum") == 6.0
    assert value(metrics, "tally_start_seconds_sum") == 1.0
    assert value(metrics, "tally_run_seconds_sum", state="Succeeded") == 4.0
    before = Status(state=State.WAITING_RETRY, retry_at=20.0, pool="default")
    again = Status(state=State.PENDING, pool="default", attempt=2, created_at=4.0)
    retried = Step(at=22.0, source="WaitingRetry", event="admitted", state="Pending", attempt=2)
    metrics.transitioned([Taken(before, again, [retried])])
    assert value(metrics, "tally_queue_wait_seconds_sum") == 8.0  # two more: since the end of its back-off


def test_what_users_write_makes_no_series() -> None:
    """Names of tasks, pools that nobody defined, reasons of others' words: their number is not bounded."""
    metrics, view = Metrics(CLOCK), ModelView()
    view.define_pool("default", cpu=1000)
    metrics.observe(view)
    for n in range(200):
        view.submit(f"secret-name-{n}", pool=f"anywhere-{n}")
        status = Status(state=State.FAILED, pool=f"anywhere-{n}", steps=1)
        step = Step(at=1.0, source="Created", event="rejected", state="Failed", reason=f"Odd{n}")
        metrics.transitioned([Taken(None, status, [step])])
    text = metrics.exposition().decode()
    assert "secret-name" not in text
    assert "anywhere" not in text
    assert "Odd" not in text
    assert value(metrics, "tally_tasks", pool="Other", state="Created") == 200
    assert value(metrics, "tally_transitions_total", pool="Other", reason="Other") == 200


def test_a_ledger_that_does_not_fit_its_holds_shows() -> None:
    metrics, view = Metrics(CLOCK), ModelView()
    view.define_pool("default", cpu=4000, memory=2**30)
    view.submit("a")
    view.set_state("a", State.RUNNING, hold=Vector({"cpu": 1500}))
    view.write(("ledgers", ("default",), codec.encode_ledger(Vector({"cpu": 2000}), Op("x"), {})))
    metrics.observe(view)
    cpu = {"pool": "default", "resource": "cpu"}
    assert value(metrics, "tally_pool_held", **cpu) == 2.0
    assert value(metrics, "tally_pool_free", **cpu) == 2.0
    assert value(metrics, "tally_pool_drift", **cpu) == 0.5
    assert value(metrics, "tally_pool_capacity", pool="default", resource="memory") == 2**30


class FailingStore(MemoryStore):
    """Fails every call with the error that it was given."""

    def __init__(self, error: Exception) -> None:
        super().__init__(CLOCK)
        self.error = error

    def begin(self, transaction: Transaction, *, deadline: float) -> Any:
        raise self.error

    def get(self, key: str, *, deadline: float) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (OutcomeUnknown("?"), "ambiguous"),
        (StoreFull("full"), "full"),
        (StoreUnavailable("away"), "unavailable"),
        (RequestTooLarge("large"), "too_large"),
        (LeaseNotFound("gone"), "lease_missing"),
        (StoreDenied("no"), "denied"),
        (ClusterChanged("other"), "cluster_changed"),
        (StoreError("odd"), "error"),
    ],
)
def test_each_outcome_of_a_transaction_is_told_apart(error: Exception, outcome: str) -> None:
    metrics = Metrics(CLOCK)
    store = MeasuredStore(FailingStore(error), metrics, CLOCK)
    with pytest.raises(type(error)):
        store.commit(Transaction((), (Put("k", b"v"),), Op("op"), Purpose.ELECTION), deadline=0.0)
    with pytest.raises(type(error)):
        store.get("k", deadline=0.0)
    assert value(metrics, "tally_transaction_seconds_count", kind="election", outcome=outcome) == 1
    assert value(metrics, "tally_store_request_seconds_count", verb="get", outcome=outcome) == 1


def test_conflicts_are_counted() -> None:
    metrics = Metrics(CLOCK)
    store = MeasuredStore(MemoryStore(CLOCK), metrics, CLOCK)
    transaction = Transaction((Guard("k", 0),), (Put("k", b"v"),), Op("i/1/1"))
    for _ in range(2):
        store.commit(transaction, deadline=CLOCK.boottime() + 5)
    outcomes = {labels["outcome"]: v for labels, v in samples(metrics)["tally_transaction_seconds_count"]}
    assert outcomes == {"applied": 1, "conflict": 1}
    assert value(metrics, "tally_transaction_bytes_count", kind="plan") == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AttemptRefused("NameTaken", "no"), "refused"),
        (AttemptRefused("Quota", "no", transient=True), "refused_transient"),
        (EngineUnavailable("away"), "unavailable"),
        (AttemptUnknown("who"), "unknown_attempt"),
        (LeadershipLost("late"), "lost_leadership"),
        (EngineError("odd"), "error"),
    ],
)
def test_each_outcome_of_an_engine_call_is_told_apart(error: Exception, code: str) -> None:
    class Failing(NullEngine):
        def start(self, launch: Launch, confirm: Any = None) -> Observation:
            raise error

    metrics = Metrics(CLOCK)
    engine = MeasuredEngine(Failing(CLOCK), metrics, CLOCK)
    attempt = AttemptId("a", 1)
    launch = Launch(
        attempt=attempt, cluster="c", term=1, spec=Spec(id="a"), pool=Pool(name="p"), environment={}
    )
    with pytest.raises(type(error)):
        engine.start(launch)
    assert value(metrics, "tally_engine_request_seconds_count", verb="start", code=code) == 1


def test_an_engine_that_never_answers_is_silent() -> None:
    """From when this replica took office, until the engine answers in this term: as on the page."""
    clock, view = HandClock(), ModelView()
    metrics = Metrics(clock)
    metrics.observe(view)
    clock.move(500.0)
    view.role = "leader"
    metrics.entered("taking-over")
    clock.move(130.0)
    assert value(metrics, "tally_engine_silence_seconds") == 130.0
    view.engine_age = 2.0
    assert value(metrics, "tally_engine_silence_seconds") == 2.0


def test_what_an_audit_found_is_told_as_long_as_it_says_something() -> None:
    """Another replica audits by now, and the trouble may be mended: an old word must not keep an alert
    firing.
    """
    clock = HandClock()
    metrics = Metrics(clock)
    metrics.observe(ModelView())
    metrics.audited({"at": 7.0, "findings": [{"invariant": "I1", "severity": "wrong"}]})
    assert value(metrics, "tally_audit_findings", invariant="I1", severity="wrong") == 1
    clock.move(RULE.audit.dead_seconds)
    assert value(metrics, "tally_audit_age_seconds") == RULE.audit.dead_seconds
    assert "tally_audit_findings" not in samples(metrics)


def test_prometheus_finds_no_fault_with_them() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    metrics = Metrics(CLOCK)
    complete(metrics, ModelView())
    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=metrics.exposition(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (checked.returncode, checked.stderr.decode(), checked.stdout.decode()) == (0, "", "")


def test_the_reference_is_fresh() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "controller.telemetry.metrics"],
        capture_output=True,
        timeout=60,
        check=True,
        cwd=ROOT,
    ).stdout.decode()
    written = (ROOT / "deploy" / "metrics.md").read_text()
    assert written == printed, "renew it: python -m controller.telemetry.metrics > deploy/metrics.md"


def test_the_time_of_a_load_is_the_stores_and_not_its_takers() -> None:
    clock = HandClock()
    metrics = Metrics(clock)
    for page in MeasuredStore(MemoryStore(CLOCK), metrics, clock).pages("/", deadline=lambda: 5.0):
        clock.move(100.0)  # until the model has it
        assert not page.more
    [(_, seconds)] = [
        (labels, value)
        for labels, value in samples(metrics)["tally_store_request_seconds_sum"]
        if "load" in labels.values()
    ]
    assert seconds == 0.0
