"""B11: the Kubernetes engine over real HTTP, against a fake cluster in a process of its own.

CPU is this process's alone: what the engine costs its controller. The server is Python too, and slower than
what it serves; so rates are told for each core of CPU that the engine used, beside what was reached in this
run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from kubernetes import client
from kubernetes.watch import Watch

from controller.config import Settings
from controller.core.model.fencing import fencing_environment
from controller.core.model.task import AttemptId, Launch, Observation
from controller.core.model.validation import parse_pool, parse_spec
from controller.engine.kubernetes.api import ClusterAccess
from controller.engine.kubernetes.engine import KubernetesEngine, KubernetesOptions
from controller.engine.kubernetes.pod import decode_event, decode_pod
from controller.engine.kubernetes.pod_observation import observe
from tests.bench.measure import Aim, Figure
from tests.bench.pod_server import recorded
from tests.bench.sizes import Sizes
from tests.bench.stage import CLOCK, ROOT, disk
from tests.support.kubernetes_recordings import load
from tests.support.waiting import wait_until

EVENTS = 10
WORKERS = 8  # as many as a replica has actuators
SCALE = 0.02
HTTP = "none: pods on a fake API server"
WAIT_SECONDS = 900.0


class Cost(NamedTuple):
    """Seconds on the clock, and of this process's CPU."""

    seconds: float
    cpu: float


def pods(sizes: Sizes) -> list[Figure]:
    """The Kubernetes engine over HTTP: creations, whole lives of pods, and a watch of many; and its
    decoding alone.
    """
    with disk() as folder, serving(folder) as server, closing(engine_on(folder)) as engine:
        created = _created(engine, sizes.pods)
    with disk() as folder, serving(folder) as server, closing(engine_on(folder)) as engine:
        born, buried = lived(engine, sizes.pods)
    with disk() as folder, serving(folder) as server, closing(engine_on(folder)) as engine:
        watched = _watched(engine, server, sizes.watched_pods)
    qps: Any = Settings.__dataclass_fields__["kube_qps"].default
    aims = (Aim("median", least=qps),)
    note = (
        f"the rate limiter allows {qps:g} calls a second: an engine that does more on one core is limited by"
        " it, not by CPU"
    )
    events = sizes.watched_pods * EVENTS
    return [
        Figure(
            "B11",
            f"creations of {sizes.pods:,} pods, for each core used",
            "pods/s",
            [sizes.pods / created.cpu],
            HTTP,
            aims=aims,
            note=note,
        ),
        Figure(
            "B11", "the same, as reached beside this server", "pods/s", [sizes.pods / created.seconds], HTTP
        ),
        Figure(
            "B11",
            "cpu of a pod's life: create, its events, delete, finalizer",
            "ms",
            [1000 * (born.cpu + buried.cpu) / sizes.pods],
            HTTP,
        ),
        Figure(
            "B11",
            f"watch of {sizes.watched_pods:,} pods × {EVENTS} events, for each core used",
            "events/s",
            [events / watched.cpu],
            HTTP,
        ),
        Figure(
            "B11", "the same, as reached beside this server", "events/s", [events / watched.seconds], HTTP
        ),
        *_decoding(sizes),
    ]


@contextmanager
def serving(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A fake cluster; see `pod_server`."""
    command = [sys.executable, "-m", "tests.bench.pod_server", str(folder / "kubeconfig"), str(SCALE)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            _expect(process, "ready")
            yield process
        finally:
            process.kill()


def _expect(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if line != word:
        raise RuntimeError(f"the fake cluster said {line!r} instead of {word!r}")


def engine_on(folder: Path) -> KubernetesEngine:
    """An engine whose rate limiter limits nothing."""
    access = ClusterAccess(kubeconfig=folder / "kubeconfig", qps=1e6, burst=1_000_000, timeout_seconds=60.0)
    return KubernetesEngine("bench", CLOCK, KubernetesOptions(access=access))


def _launch(number: int) -> Launch:
    attempt = AttemptId(f"bench-{number}", 1)
    spec = parse_spec(
        {"id": attempt.task_id, "image": "busybox:1", "command": ["true"], "resources": {"cpu": "10m"}}
    )
    pool = parse_pool({"name": "default", "capacity": {"cpu": 1000}})
    environment = fencing_environment(attempt, 1, spec.env)
    return Launch(attempt=attempt, cluster="bench", term=1, spec=spec, pool=pool, environment=environment)


@contextmanager
def _measured() -> Iterator[list[float]]:
    """Wall and CPU seconds of the block, appended to the list when it ends."""
    cost: list[float] = []
    began, used = CLOCK.boottime(), time.process_time()
    yield cost
    cost += [CLOCK.boottime() - began, time.process_time() - used]


def _created(engine: KubernetesEngine, count: int) -> Cost:
    """Creations alone, by as many threads as a replica has."""
    launches = [_launch(number) for number in range(count)]
    engine.start(_launch(count))  # connected, and the client's modules are loaded
    with ThreadPoolExecutor(WORKERS) as workers, _measured() as cost:
        for _ in workers.map(engine.start, launches):
            pass
    return Cost(*cost)


@contextmanager
def _watching(engine: KubernetesEngine, sink: Callable[[Observation], None]) -> Iterator[None]:
    stop = threading.Event()
    watch = threading.Thread(target=engine.watch, args=(sink, stop), name="bench-pod-watch", daemon=True)
    watch.start()
    try:
        yield
    finally:
        stop.set()
        watch.join(30)


def lived(engine: KubernetesEngine, count: int) -> tuple[Cost, Cost]:
    """Created and watched until its end; and then forgotten: deleted, let go of, and seen to be gone.

    As a leader does it.
    """
    ended, gone, told = dict[AttemptId, str](), set[AttemptId](), threading.Event()
    warm = _launch(count)

    def sink(seen: Observation) -> None:
        if seen.attempt == warm.attempt:
            told.set()
        elif seen.gone:
            gone.add(seen.attempt)
        elif seen.stopped:
            ended[seen.attempt] = seen.uid

    launches = [_launch(number) for number in range(count)]
    with _watching(engine, sink):
        engine.start(warm)
        assert told.wait(60)
        with ThreadPoolExecutor(WORKERS) as workers, _measured() as born:
            for _ in workers.map(engine.start, launches):
                pass
            wait_until(lambda: len(ended) == count, "the end of all pods", timeout=WAIT_SECONDS, poll=0.2)
        with ThreadPoolExecutor(WORKERS) as workers, _measured() as buried:
            for _ in workers.map(lambda each: engine.forget(each, uid=ended[each]), sorted(ended)):
                pass
            wait_until(lambda: len(gone) == count, "all pods being gone", timeout=WAIT_SECONDS, poll=0.2)
    return Cost(*born), Cost(*buried)


def _watched(engine: KubernetesEngine, server: subprocess.Popen[str], count: int) -> Cost:
    """Events that others cause, read from the watch and judged."""
    seen, told = Counter[str](), threading.Event()

    def sink(observation: Observation) -> None:
        seen["all"] += 1
        told.set()

    with _watching(engine, sink):
        engine.start(_launch(1_000_000))  # its event tells that the watch is on
        assert told.wait(60)
        settled = _quiet(seen)
        assert server.stdin is not None
        with _measured() as cost:
            server.stdin.write(f"events {count} {EVENTS}\n")
            server.stdin.flush()
            wait_until(
                lambda: seen["all"] - settled >= count * EVENTS, "all events", timeout=WAIT_SECONDS, poll=0.05
            )
        _expect(server, "written")
    return Cost(*cost)


def _quiet(seen: Counter[str]) -> int:
    """How many events there were, once there are no more."""
    last = [-1, -2, -3, -4, -5]

    def still() -> bool:
        last[:] = [*last[1:], seen["all"]]
        return len(set(last)) == 1

    wait_until(still, "the watch to be quiet", timeout=60.0, poll=0.1)
    return last[-1]


def _decoding(sizes: Sizes) -> list[Figure]:
    """The same bytes of recorded events, in one thread: decoded and judged by Tally, and decoded into the
    client's models.
    """
    life = [event["object"] for event in load("succeeded").events if event["type"] != "BOOKMARK"]
    lines = [
        json.dumps(
            {
                "type": "MODIFIED" if turn else "ADDED",
                "object": recorded(life[min(turn, len(life) - 1)], number),
            }
        ).encode()
        for turn in range(EVENTS)
        for number in range(sizes.watched_pods)
    ]
    theirs = [
        1e6 / _microseconds(_with_client, lines[:: max(1, len(lines) // sizes.decoded)])
        for _ in range(sizes.repeat)
    ]
    ours = [1e6 / _microseconds(_with_tally, lines) for _ in range(sizes.repeat)]
    what, on = "recorded events decoded on one core", "none: bytes in memory"
    base = Figure("B11", f"{what}: the official client's models", "events/s", theirs, on)
    aims = (Aim("ratio", least=5.0),)
    return [
        base,
        Figure("B11", f"{what}: Tally, judged too", "events/s", ours, on, base.median, "the client's", aims),
    ]


def _with_tally(line: bytes) -> None:
    observe(decode_pod(decode_event(line).object))


_watch, _api = Watch(), client.ApiClient()
_watch._api_client = _api  # what stream() sets before it decodes


def _with_client(line: bytes) -> None:
    _watch.unmarshal_event(line.decode(), "V1Pod")


def _microseconds(read: Callable[[bytes], None], lines: list[bytes]) -> float:
    began = time.thread_time()
    for line in lines:
        read(line)
    return 1e6 * (time.thread_time() - began) / len(lines)
