"""B20: looks ahead: what one costs, how far off those of a recorded run were, and whether a leader is slower
for them.

The recorded run: tasks of a few kinds, whose run times are drawn anew for each, go through a real replica and
a real etcd. Its history is then read back from etcd: at many moments it is looked ahead from what was stored
at that moment, and nothing else, and what is told is compared with what came.
"""

from __future__ import annotations

import gc
import random
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial
from http import HTTPStatus
from itertools import count, groupby
from typing import NamedTuple

from controller.client.client import Client
from controller.core.model import codec
from controller.core.model.lifecycle import WAITING, State
from controller.core.model.model import Model
from controller.core.model.op import Op
from controller.core.model.records import Change
from controller.core.model.validation import parse_pool, parse_spec
from controller.dev.cluster import ReplicaProcess
from controller.store.base import KeyEvent
from controller.store.etcd.store import EtcdStore
from controller.store.records import to_change
from controller.views.ahead import look
from tests.bench.latency import IDLE_SECONDS, StateWatch
from tests.bench.measure import MEMORY, Aim, Figure, quantile
from tests.bench.sizes import Sizes
from tests.bench.stage import (
    CLOCK,
    KEYS,
    PATIENCE_SECONDS,
    POOL,
    Burned,
    ask,
    burn,
    cluster,
    history,
    pool_counts,
    store_on,
)
from tests.support.waiting import wait_until

OWNERS = 20
LOOK_SECONDS = 2.0  # the aim for 20,000 tasks that wait
KINDS = {"short": 0.2, "medium": 0.6, "long": 2.0}  # the median run time of each, in seconds
SPREAD = 0.5  # of the logarithm of a run time: one of three is off by more than 65 %
MOMENTS = 20
ASKED_SECONDS = 0.5
BESIDE_MS = 1.0  # the aim: by no more is a leader's loop later beside a look
TURN = 10  # tasks
SOON = 1.0  # a wait that is shorter counts as so many seconds


def forecasts(sizes: Sizes) -> list[Figure]:
    """Looks at waiting tasks; the back-test; and a burn-down while a replica is asked again and again."""
    return [*_looks(sizes), *_back_test(sizes), *_beside(sizes)]


# -- what a look costs


def _looks(sizes: Sizes) -> list[Figure]:
    plain, shared = list[float](), list[float]()
    for turn in range(sizes.repeat):
        plain.append(_look_seconds(sizes.owned, turn, shared=False))
        shared.append(_look_seconds(sizes.owned, turn, shared=True))
    aims = (Aim("median", most=LOOK_SECONDS * sizes.owned / 20_000),)
    one = Figure(
        "B20", f"a look at {sizes.owned:,} waiting tasks, to the last one", "s", plain, MEMORY, aims=aims
    )
    other = Figure(
        "B20",
        f"the same in a pool that {OWNERS} owners share",
        "s",
        shared,
        MEMORY,
        baseline=one.median,
        against="by priority, in turns",
    )
    return [one, other]


def _look_seconds(count: int, seed: int, *, shared: bool) -> float:
    """As in a forecaster's fork: on a whole model, without the search for cycles."""
    rng, now = random.Random(seed), 1e9
    pool = {
        "name": "default",
        "capacity": {"cpu": 200, "memory": "400Gi"},
        **({"sharing": {}} if shared else {}),
    }
    changes = [Change("pools", ("default",), codec.encode_pool(parse_pool(pool), Op("x")), 1, 1)]
    for number in range(count):
        spec = parse_spec(
            {
                "id": f"t{number}",
                "command": ["true"],
                "resources": {"cpu": rng.choice([1, 2, 4]), "memory": "1Gi"},
                "priority": rng.choice([0, 0, 5]),
                "deadlines": {"run": rng.randint(60, 3600)},
                "owner": f"o{number % OWNERS}" if shared else "default",
            }
        )
        value = codec.encode_spec(spec, now, Op(f"s{number}"))
        changes.append(Change("tasks", (spec.id,), value, number + 2, number + 2))
    model = Model()
    model.load(changes, count + 2)
    gc.collect()
    gc.disable()
    try:
        began = CLOCK.boottime()
        view = look(model, now, lambda: True, horizon_seconds=90 * 86400.0)
        seconds = CLOCK.boottime() - began
    finally:
        gc.enable()
    assert all(coming.ends_at is not None for coming in view.tasks.values())
    return seconds


# -- the back-test


class _Run(NamedTuple):
    """A run: its changes in the order of etcd's history, and when each task was admitted and had ended."""

    events: list[KeyEvent]
    admitted: dict[str, float]
    ended: dict[str, float]


def _back_test(sizes: Sizes) -> list[Figure]:
    starts, ends, told, all_told = list[float](), list[float](), 0, 0
    run = _recorded(sizes)
    for model, now in _moments(run):
        waiting = [name for name, task in model.tasks.items() if task.state in WAITING]
        later = sum(at > now for at in run.admitted.values())
        assert 0.9 * later <= len(waiting) <= 1.1 * later + 20, "the model is not that of the moment"
        view = look(model, now, lambda: True)
        all_told += len(waiting)
        for name in waiting:
            coming, came = view.tasks[name], run.admitted[name]
            if coming.begins_at is None:
                continue  # it was said that it is not known
            told += 1
            starts.append(_error(coming.begins_at, came, now))
            if coming.ends_at is not None:
                ends.append(_error(coming.ends_at, run.ended[name], now))
    return [
        Figure("B20", f"back-test of {len(run.admitted):,} tasks: starts, off by", "% of the wait", starts),
        Figure("B20", "the same, 90th percentile", "% of the wait", [quantile(starts, 0.9)]),
        Figure("B20", "their ends, off by", "% of the time ahead", ends),
        Figure("B20", "the same, 90th percentile", "% of the time ahead", [quantile(ends, 0.9)]),
        Figure(
            "B20", "of the starts that were asked for, those that were told", "%", [100 * told / all_told]
        ),
    ]


def _error(told: float, came: float, now: float) -> float:
    return 100 * abs(told - came) / max(came - now, SOON)


def _recorded(sizes: Sizes) -> _Run:
    """Tasks of three kinds and three owners, submitted at once: some in twos, with priorities."""
    rng = random.Random(20)
    tasks = []
    for number in range(max(20, sizes.owned // 40)):
        kind = rng.choice(list(KINDS))
        tasks.append(
            {
                "id": f"{kind}-{number}",
                "command": [kind],
                "resources": {"cpu": rng.choice([1, 1, 2])},
                "priority": rng.choice([0, 0, 1]),
                "owner": rng.choice(["a", "b", "c"]),
                "env": {"TALLY_NULL_SECONDS": f"{KINDS[kind] * rng.lognormvariate(0, SPREAD):.3f}"},
            }
        )
    pool = {"name": "default", "capacity": {"cpu": 16}, "sharing": {}, "policy": "backfill"}
    with cluster() as running, running.client() as client, store_on(running.endpoint) as store:
        client.apply_pool(pool)
        results = client.submit_many(tasks)
        assert all(result.accepted for result in results)
        client.wait([str(task["id"]) for task in tasks], timeout_seconds=PATIENCE_SECONDS)
        events = list(history(store))
        views = {str(task["id"]): client.get(str(task["id"])).status for task in tasks}
    admitted, ended = dict[str, float](), dict[str, float]()
    for name, status in views.items():
        assert status is not None
        assert status.state is State.SUCCEEDED
        assert status.admitted_at is not None
        assert status.finished_at is not None
        admitted[name], ended[name] = status.admitted_at, status.finished_at
    return _Run(events, admitted, ended)


def _moments(run: _Run) -> Iterator[tuple[Model, float]]:
    """Moments of the run in even steps, and a model of what was stored at each."""
    first, last = min(run.admitted.values()), max(run.admitted.values())
    for step in range(MOMENTS):
        now = first + (last - first) * (step + 0.5) / MOMENTS
        model, revision = Model(), 0
        for mod, events in groupby(run.events, key=lambda event: event.mod):  # each revision as a whole
            changes = [to_change(KEYS, event.key, event.item, event.mod) for event in events]
            if any(map(partial(_is_later, now), changes)):
                break
            for change in changes:
                model.apply(change)
            revision = mod
        model.advance_revision(revision)
        yield model, now


def _is_later(now: float, change: Change) -> bool:
    if change.kind != "states" or change.value is None:
        return False
    status, _ = codec.decode_status(change.value)
    return max(at or 0.0 for at in (status.admitted_at, status.started_at, status.finished_at)) > now


# -- beside a leader


def _beside(sizes: Sizes) -> list[Figure]:
    return [*_burned_beside(sizes), *_latency_beside(sizes)]


def _burned_beside(sizes: Sizes) -> list[Figure]:
    """What a leader does for a task, while nobody asks, and while somebody does."""
    alone, asked = list[Burned](), list[Burned]()
    with cluster() as running:
        leader = running.replicas[0]
        burn(running, max(10, sizes.burned // 10), "warm")
        for turn in range(sizes.repeat):
            alone.append(burn(running, sizes.burned, f"alone{turn}"))
            with _asking(lambda: ask(leader, "/v1/forecast?here"), pause_seconds=ASKED_SECONDS):
                asked.append(burn(running, sizes.burned, f"asked{turn}"))
    rates = [[sizes.burned / burned.seconds for burned in each] for each in (alone, asked)]
    used = [[1e6 * burned.cpu_seconds / sizes.burned for burned in each] for each in (alone, asked)]
    what = f"burn-down of {sizes.burned:,} tasks"
    while_asked = "the same while its leader is asked for a forecast each half a second"
    rate, cpu = (
        Figure("B20", what, "tasks/s", rates[0]),
        Figure("B20", f"{what}, the leader's CPU", "µs/task", used[0]),
    )
    against = "nobody asks, in turns"
    return [
        rate,
        Figure("B20", while_asked, "tasks/s", rates[1], baseline=rate.median, against=against),
        cpu,
        Figure("B20", f"{while_asked}, its CPU", "µs/task", used[1], baseline=cpu.median, against=against),
    ]


def _latency_beside(sizes: Sizes) -> list[Figure]:
    """Submit to running by a leader that nobody asks, and by one beside which it is always looked ahead.

    Both have as many tasks that wait. In turns, so that both meet the same machine; also beside a process
    that only computes, and steps back as one that looks: what is left is what cores take from each other.
    """
    quiet, busy, asked, names = list[float](), list[float](), list[float](), count()
    beyond = list[float]()  # of each turn, the median of the quiet ones of that turn
    loops: dict[int, list[float]] = {id(quiet): [], id(busy): [], id(asked): []}
    with _loaded(sizes) as alone, _loaded(sizes) as asker:
        asker.look()  # the process that looks is begun, and has loaded its model
        turns: list[tuple[_Loaded, Callable[[], AbstractContextManager[None]], list[float]]] = [
            (alone, nullcontext, quiet),
            (alone, _computing, busy),
            (asker, lambda: _asking(asker.look), asked),
        ]
        for turn in range(-1, max(1, sizes.latencies // TURN)):
            for loaded, beside, samples in turns:
                ran = [f"turn{next(names)}" for _ in range(TURN)]
                with beside():
                    told = [loaded.run(name) for name in ran]
                if turn >= 0:
                    samples += told
                    loops[id(samples)] += map(loaded.loop, ran)
            if turn >= 0:
                beyond += [each - statistics.median(quiet[-TURN:]) for each in asked[-TURN:]]
    base = Figure("B20", f"submit to running, {sizes.owned:,} wait, nobody asks", "ms", quiet, tail=True)
    other = Figure(
        "B20",
        "the same beside a process that only computes, on what others leave",
        "ms",
        busy,
        baseline=base.median,
        against="nobody asks, in turns",
        tail=True,
    )
    return [
        base,
        other,
        Figure(
            "B20",
            "the same while it is looked ahead for its leader all the time",
            "ms",
            asked,
            baseline=other.median,
            against="one that computes, in turns",
            tail=True,
        ),
        Figure(
            "B20",
            "the same, beyond the median of a turn in which nobody asks",
            "ms",
            beyond,
            tail=True,
        ),
        own := Figure("B20", "the leader's loop: from the engine's word to its turn", "ms", loops[id(quiet)]),
        Figure("B20", "the same beside a process that only computes", "ms", loops[id(busy)]),
        Figure("B20", "the same while it is looked ahead all the time", "ms", loops[id(asked)]),
        Figure(
            "B20",
            "by how much the loop is later then",
            "ms",
            [each - own.median for each in loops[id(asked)]],
            aims=(Aim("median", most=BESIDE_MS),),
        ),
    ]


@contextmanager
def _computing() -> Iterator[None]:
    """Beside a process that only computes, on what others leave, as a look does."""
    script = "from controller.forecaster.surroundings import yield_cores\nyield_cores()\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        try:
            yield
        finally:
            process.kill()


class _Loaded(NamedTuple):
    """A leader in whose pool `full` many tasks wait, and others can run in `default`."""

    leader: ReplicaProcess
    client: Client
    store: EtcdStore
    states: StateWatch
    serial: Iterator[int]

    def look(self) -> None:
        """Ask when a task will begin, as of now: no look before can tell, while others are submitted."""
        _, revision = self.store.get(KEYS.leader, deadline=CLOCK.boottime() + 10)
        status, body = ask(self.leader, f"/v1/tasks/waits-0/forecast?here&min_revision={revision}&wait=10")
        assert status == HTTPStatus.OK, body

    def run(self, name: str) -> float:
        """Milliseconds from its submission until it runs."""
        threading.Event().wait(IDLE_SECONDS)
        began = CLOCK.boottime()
        self.client.submit({"id": name, "command": ["true"], "resources": {"cpu": 1}})
        return self.states.seen.wait(
            name, (State.RUNNING, State.SUCCEEDED), (State.SUCCEEDED,), began
        ).running

    def loop(self, name: str) -> float:
        """Milliseconds from the attempt's start, as the engine tells it, until the loop took that up.

        Both are times of the leader's process. A step tells whole milliseconds, so a sample may be
        off by half of one, and below zero; their median is not.
        """
        view = self.client.get(name)
        assert view.status is not None
        assert view.status.started_at is not None
        begun = next(step for step in view.history() if step.state in (State.RUNNING, State.SUCCEEDED))
        return 1000 * (begun.at - view.status.started_at)


@contextmanager
def _loaded(sizes: Sizes) -> Iterator[_Loaded]:
    with cluster() as running, running.client() as client, store_on(running.endpoint) as store:
        client.apply_pool(POOL)
        client.apply_pool({"name": "full", "capacity": {"cpu": max(1, sizes.owned // 40)}})
        results = client.submit_many([_waiting(f"waits-{number}") for number in range(sizes.owned)])
        assert all(result.accepted for result in results)
        leader = running.replicas[0]
        wait_until(
            lambda: sum(pool_counts(leader, "full").values()) >= sizes.owned,
            "the leader to know all",
            timeout=PATIENCE_SECONDS,
        )
        with closing(StateWatch(store)) as states:
            yield _Loaded(leader, client, store, states, count())


def _waiting(name: str) -> dict[str, object]:
    long, deadlines = {"TALLY_NULL_SECONDS": "7200"}, {"run": 3600}
    return {
        "id": name,
        "command": ["true"],
        "resources": {"cpu": 1},
        "pool": "full",
        "env": long,
        "deadlines": deadlines,
    }


@contextmanager
def _asking(asks: Callable[[], object], pause_seconds: float = 0.0) -> Iterator[None]:
    """Somebody asks again and again, and once before this begins."""
    ended = threading.Event()

    def ask_again() -> None:
        while not ended.wait(pause_seconds):
            asks()

    asks()
    thread = threading.Thread(target=ask_again, name="bench-forecasts", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(60)
