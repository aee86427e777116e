"""B4: what stored tasks cost: the rate of a burn-down, and a pass, beside ever more tasks that have
finished or wait.
"""

from __future__ import annotations

import threading
from typing import Any

from msgspec.structs import replace

from controller.core.model import codec
from controller.core.model.model import Model
from controller.core.model.op import Op
from controller.core.model.task import Observation, Phase
from controller.core.model.validation import parse_pool, parse_spec
from controller.core.planning.events import Listed, Observed, Started
from controller.core.planning.plan import Effect, Start, Term
from controller.core.planning.planner import Planner
from controller.core.promise.terms import current_epoch
from controller.election.elector import Timings
from controller.election.term import Leadership
from controller.engine.null import NullEngine
from controller.runtime.inbox import Inbox
from controller.runtime.options import ReplicaOptions
from controller.runtime.reconciler import Reconciler
from controller.runtime.surroundings import Surroundings
from controller.store.base import Committed, Guard, Put, Transaction
from controller.store.memory import MemoryStore
from controller.store.records import DEFAULT_LIMITS, changes_of
from tests.bench.measure import MEMORY, Aim, Figure
from tests.bench.sizes import Sizes
from tests.bench.stage import CLOCK, KEYS, burn, cluster, stock_records

FLAT_UP_TO = 100_000


def growth(sizes: Sizes) -> list[Figure]:
    """The rate of a burn-down and the cost of a pass beside stored tasks, half of them finished, half
    waiting.
    """
    rates: list[Figure] = []
    passes: list[Figure] = []
    for count in sizes.growth:
        flat = FLAT_UP_TO >= count > sizes.growth[0]
        with cluster(stock=count) as running:
            burn(running, max(10, sizes.growth_burned // 10), "warm")
            runs = [burn(running, sizes.growth_burned, f"burn{number}") for number in range(sizes.repeat)]
        samples = [sizes.growth_burned / run.seconds for run in runs]
        base = rates[0].median if rates else None
        against = f"with {sizes.growth[0]:,}"
        aims = (Aim("ratio", least=0.9),) if flat else ()
        what = f"burn-down of {sizes.growth_burned:,} tasks beside {count:,} stored"
        rates.append(Figure("B4", what, "tasks/s", samples, baseline=base, against=against, aims=aims))
        base = passes[0].median if passes else None
        aims = (Aim("ratio", most=1.1),) if flat else ()
        what, samples = f"pass of one change, {count:,} tasks stored", pass_microseconds(count, sizes.passes)
        passes.append(
            Figure("B4", what, "µs", samples, MEMORY, baseline=base, against=against, aims=aims, tail=True)
        )
    return [*rates, *passes]


def pass_microseconds(count: int, times: int) -> list[float]:
    """One change of one task, planned, committed (to memory) and performed: an end and the admission that
    it allows.
    """
    store = MemoryStore(CLOCK)
    _fill(store, count, times + 1)
    store.grant(1, 3600, deadline=CLOCK.boottime() + 5)
    leadership = _lead(store)
    model = Model()
    snapshot = store.load(KEYS.prefix, deadline=CLOCK.boottime() + 600)
    model.load(changes_of(KEYS, snapshot.items), snapshot.revision)
    planner = Planner(
        model, Term(leadership.revision, current_epoch(model) or 1, "bench", KEYS.cluster), DEFAULT_LIMITS
    )
    lock, performed = threading.RLock(), list[Effect]()
    inside = Surroundings(
        store,
        NullEngine(CLOCK),
        KEYS,
        CLOCK,
        Inbox(),
        ReplicaOptions(KEYS.cluster, {}, Timings()),
        lambda: lock,
    )
    reconciler = Reconciler(model, planner, leadership, inside, perform=performed.append)
    reconciler.handle(Listed(1, [], CLOCK.now()))
    _settle(reconciler)
    samples = []
    for _ in range(times):
        # each end has led to one admission
        (start,) = (effect for effect in performed if isinstance(effect, Start))
        performed.clear()
        attempt = Observation(attempt=start.attempt, phase=Phase.RUNNING)
        reconciler.handle(Started(1, start, attempt))
        _settle(reconciler)
        ended = Observed(1, replace(attempt, phase=Phase.SUCCEEDED, stopped=True, exit_code=0))
        began = CLOCK.boottime()
        reconciler.handle(ended)
        _settle(reconciler)
        samples.append(1e6 * (CLOCK.boottime() - began))
    return samples


def _settle(reconciler: Reconciler) -> None:
    while reconciler.step():
        pass


def _fill(store: MemoryStore, count: int, waiting: int) -> None:
    """The stock, and in another pool as many waiting tasks as passes can admit, one at a time."""
    pools: tuple[dict[str, Any], ...] = (
        {"name": "stock", "capacity": {"cpu": 1000}, "paused": True},
        {"name": "default", "capacity": {"cpu": 1}},
    )
    records = [(KEYS.pool(pool["name"]), codec.encode_pool(parse_pool(pool), Op("bench"))) for pool in pools]
    for number in range(waiting):
        spec = parse_spec({"id": f"pass-{number}", "command": ["true"], "resources": {"cpu": 1}})
        records.append((KEYS.task(spec.id), codec.encode_spec(spec, CLOCK.now(), Op("bench"))))
    records += stock_records(count)
    for first in range(0, len(records), 100):
        writes = tuple(Put(key, value) for key, value in records[first : first + 100])
        store.commit(Transaction((), writes, Op("bench")), deadline=CLOCK.boottime() + 60)


def _lead(store: MemoryStore) -> Leadership:
    writes = (Put(KEYS.leader, b"{}", 1), Put(KEYS.epoch, codec.encode({"epoch": 1})))
    result = store.commit(
        Transaction((Guard(KEYS.leader, 0),), writes, Op("bench")), deadline=CLOCK.boottime() + 5
    )
    assert isinstance(result, Committed)
    return Leadership(result.revision, 1, 1, float("inf"), CLOCK)
