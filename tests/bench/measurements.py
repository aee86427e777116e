"""What is measured. Each function takes how often to repeat, and returns figures."""

from __future__ import annotations

import signal
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from controller.core.invariants import current_epoch
from controller.core.planner import Planner, Term
from controller.core.task import AttemptId, Observation, Phase
from controller.core.world import World
from controller.election.elector import Timings
from controller.election.term import Leadership
from controller.engine.null import NullEngine
from controller.runtime.inbox import Listed, Observed
from controller.runtime.reconciler import DEFAULT_LIMITS, Reconciler
from controller.runtime.replica import Replica
from controller.store.changes import changes_of
from controller.store.etcd import EtcdStore
from controller.store.gateway import GatewayOptions
from controller.store.memory import MemoryStore
from tests.bench.measure import Figure
from tests.bench.pods import pod_events
from tests.bench.stage import CLOCK, CLUSTER, KEYS, client_of, etcd, specs, store_finished
from tests.support.local import QUICK, Witness, add_replica, kill, leader_of, local_cluster
from tests.support.running import RunningReplica
from tests.support.waiting import wait_until

FSYNC = "etcd, fsync"
STORED = (0, 1_000, 20_000)
BURN = 2_000
SUBMIT = 10_000
CHANGES = 200

_TIMINGS = Timings()


def ready(repeat: int) -> list[Figure]:
    """From the start of a replica in this process until its model has loaded everything; without the interpreter's start."""
    figures = []
    with etcd() as member:
        store = EtcdStore(GatewayOptions((member.url,)), CLOCK)
        client = client_of(member.url)
        stored = 0
        for count in STORED:
            half = (count - stored) // 2
            store_finished(store, half, f"done{count}")
            client.submit_many(specs(count - stored - half, f"waiting{count}", pool="default"))
            stored = count
            samples = []
            for _ in range(repeat):
                own = EtcdStore(GatewayOptions((member.url,)), CLOCK)
                began = CLOCK.boottime()
                with RunningReplica(own, cluster=CLUSTER, engine=NullEngine(CLOCK, 3600.0), timings=_TIMINGS, workers=1) as replica:
                    wait_until(partial(_has_loaded, replica.replica, count), "the load", poll=0.005)
                    samples.append(CLOCK.boottime() - began)
                own.close()
            figures.append(Figure(f"replica ready, {count:,} tasks stored", FSYNC, "s", samples))
        client.close()
        store.close()
    return figures


def _has_loaded(replica: Replica, count: int) -> bool:
    return replica._loaded and len(replica._world.tasks) >= count


def a_pass(repeat: int) -> list[Figure]:
    """One change of one task, planned, committed and performed: an admission and an end, with many others stored."""
    figures: list[Figure] = []
    for count in STORED[1:]:
        samples = [seconds * 1e6 for _ in range(repeat) for seconds in _passes(count)]
        base = figures[0].median if figures else None
        figures.append(Figure(f"pass of one change, {count:,} tasks stored", "memory", "µs", samples, base))
    return figures


def _passes(count: int) -> list[float]:
    """Half of the stored tasks have finished, half wait behind a full pool; one ends and one is admitted at a time."""
    store = MemoryStore(CLOCK)
    client = client_of(store)
    client.apply_pool({"name": "default", "capacity": {"cpu": 1}})
    store_finished(store, count // 2)
    client.submit_many(specs(count // 2, "waiting"))
    store.grant(1, 3600, deadline=CLOCK.boottime() + 5)
    world = World()
    leadership = _lead(store)
    snapshot = store.load(KEYS.prefix, deadline=CLOCK.boottime() + 60)
    world.load(changes_of(KEYS, snapshot.items), snapshot.revision)
    world.discard_dirty()
    planner = Planner(world, Term(leadership.revision, current_epoch(world) or 1, "bench", CLUSTER), DEFAULT_LIMITS)
    lock, performed = threading.RLock(), []
    reconciler = Reconciler(world, planner, leadership, store, KEYS, CLOCK, performed.append, lambda: lock)
    reconciler.handle(Listed(1, [], CLOCK.now()))
    while reconciler.step():
        pass
    samples = []
    for _ in range(CHANGES):
        (running,) = world.holding.values()
        attempt = AttemptId(running.id, running.attempt)
        seen = Observation(attempt=attempt, phase=Phase.SUCCEEDED, stopped=True, exit_code=0)
        began = CLOCK.boottime()
        reconciler.handle(Observed(1, seen))
        while reconciler.step():
            pass
        samples.append(CLOCK.boottime() - began)
    return samples


def _lead(store: MemoryStore) -> Leadership:
    from controller.core import codec
    from controller.store.base import Committed, Guard, Put, Transaction

    writes = (Put(KEYS.leader, b"{}", 1), Put(KEYS.epoch, codec.encode({"epoch": 1})))
    result = store.commit(Transaction((Guard(KEYS.leader, 0),), writes, "bench"), deadline=CLOCK.boottime() + 5)
    assert isinstance(result, Committed)
    return Leadership(result.revision, 1, 1, float("inf"), CLOCK)


def burn_down(repeat: int) -> list[Figure]:
    """From the first admission to the last end, the whole way through etcd: admitted, running, succeeded, each recorded."""
    rates, commits = [], []
    for round_number in range(repeat):
        with etcd() as member:
            client = client_of(member.url)
            client.submit_many(specs(BURN, f"burn{round_number}"))
            store = EtcdStore(GatewayOptions((member.url,)), CLOCK)
            _, before = client.store.get(KEYS.leader, deadline=CLOCK.boottime() + 5)
            began = CLOCK.boottime()
            with RunningReplica(store, cluster=CLUSTER, engine=NullEngine(CLOCK), timings=_TIMINGS) as replica:
                world = replica.replica._world
                wait_until(lambda w=world: _finished(w) >= BURN, "the end of all", timeout=300, poll=0.005)
                rates.append(BURN / (CLOCK.boottime() - began))
            _, after = client.store.get(KEYS.leader, deadline=CLOCK.boottime() + 5)
            commits.append(BURN / (after - before))
            store.close()
            client.close()
    return [
        Figure(f"burn-down of {BURN:,} tasks, null engine", FSYNC, "tasks/s", rates),
        Figure("tasks for each revision of etcd meanwhile", FSYNC, "tasks", commits),
    ]


def _finished(world: World) -> int:
    return sum(number for (_, state), number in list(world.counts.items()) if state == "Succeeded")


def submit(repeat: int) -> list[Figure]:
    """`Client.submit_many`, which waits until all is committed."""
    samples = []
    with etcd() as member:
        client = client_of(member.url)
        for round_number in range(repeat):
            tasks = specs(SUBMIT, f"submit{round_number}")
            began = CLOCK.boottime()
            client.submit_many(tasks)
            samples.append(SUBMIT / (CLOCK.boottime() - began))
        client.close()
    return [Figure(f"submission of {SUBMIT:,} tasks", FSYNC, "tasks/s", samples)]


def take_over(repeat: int) -> list[Figure]:
    """From the signal to the next leader's first commit of a status, under steady load; real processes."""
    figures = []
    configurations: list[tuple[str, dict[str, str]]] = [
        ("defaults", {}), ("defaults, --fast-takeover=false", {"TALLY_FAST_TAKEOVER": "false"}), ("lease of 2 s", QUICK),
    ]  # fmt: skip
    for name, settings in configurations:
        for number in (signal.SIGTERM, signal.SIGKILL):
            samples = [_gap(settings, number) for _ in range(repeat)]
            figures.append(Figure(f"take-over after {signal.Signals(number).name}, {name}", FSYNC, "s", samples))
    return figures


def _gap(settings: dict[str, str], number: int) -> float:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tally-bench-"))
        cluster = stack.enter_context(local_cluster(Path(folder), replicas=1, engine="null", settings=settings))
        client = stack.enter_context(cluster.client())
        client.apply_pool({"name": "default", "capacity": {"cpu": 1000}})
        first = leader_of(cluster)
        add_replica(cluster, "next")
        wait_until(lambda: len(client.replicas()) == 2, "the second replica")
        witness = Witness(cluster.endpoint)
        stack.callback(witness.close)
        client.submit_many(specs(500, "load", env={"TALLY_NULL_SECONDS": "600"}))
        wait_until(lambda: witness.first_commits, "the first leader's commits")
        client.submit_many(specs(500, "more"))
        return witness.next_term(kill(first, number))


MEASUREMENTS: dict[str, Callable[[int], list[Figure]]] = {
    "ready": ready,
    "pass": a_pass,
    "burn-down": burn_down,
    "submit": submit,
    "take-over": take_over,
    "pod-events": pod_events,
}
