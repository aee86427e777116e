"""B9: a follower that answers questions and feeds 200 streams, while its leader burns tasks down beside a
stock of others.

Questions go one by one, a hundredth of a second apart, in turns of kinds. The lag is taken for each revision,
on every tenth stream: from the moment that a watch of etcd delivers the revision here, until the stream's
reader has all of it. That watch goes on in the runs without readers too. Who asks and who reads are processes
of their own, but on the same cores as etcd, the leader and the follower, so that a part of what they cost the
leader is not the follower's doing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from controller.dev.cluster import LocalCluster
from controller.store.base import StoreError
from controller.store.etcd.store import EtcdStore
from tests.bench.measure import MEMORY, Aim, Figure
from tests.bench.questions import KINDS
from tests.bench.sizes import Sizes
from tests.bench.stage import CLOCK, KEYS, ROOT, burn, cluster, store_on

_P99_MS, _LAG_MS = 50.0, 100.0


@dataclass
class Seen:
    """What those who asked and read have seen, over all runs."""

    milliseconds: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    lags: list[float] = field(default_factory=list)
    served: list[float] = field(default_factory=list)
    refused: int = 0
    cut: list[float] = field(default_factory=list)
    events: list[float] = field(default_factory=list)  # a second, to all
    megabytes: list[float] = field(default_factory=list)


def reads(sizes: Sizes) -> list[Figure]:
    """Questions to a follower and 200 streams of it, while a burn-down runs on the leader; null engine."""
    return [figure for stored in sizes.read_stored for figure in _reads(sizes, stored)]


def _reads(sizes: Sizes, stored: int) -> list[Figure]:
    beside = f"{stored:,} tasks stored"
    alone, under, seen = [], [], Seen()
    with cluster(replicas=2, stock=stored) as running:
        burn(running, max(10, sizes.read_burned // 10), "warm")
        # in both, since it costs them too
        with store_on(running.endpoint) as store, closing(Revisions(store)) as revisions:
            for number in range(sizes.repeat):
                alone.append(sizes.read_burned / burn(running, sizes.read_burned, f"alone{number}").seconds)
                with _watched(running, sizes.readers, revisions, seen):
                    under.append(
                        sizes.read_burned / burn(running, sizes.read_burned, f"read{number}").seconds
                    )
    base = Figure("", "", "", alone).median
    return [
        *(
            Figure(
                "B9",
                f"{kind} from a follower, {beside}",
                "ms",
                samples,
                MEMORY,
                aims=(Aim("p99", most=_P99_MS),),
                tail=True,
            )
            for kind, samples in seen.milliseconds.items()
        ),
        Figure(
            "B9",
            f"streams served, of {sizes.readers} asked for",
            "streams",
            seen.served,
            MEMORY,
            aims=(Aim("median", least=float(sizes.readers)),),
            details={"refused": seen.refused},
        ),
        Figure("B9", f"of these, cut off as too slow, {beside}", "streams", seen.cut, MEMORY),
        Figure(
            "B9",
            f"events sent to them a second, {beside}",
            "events/s",
            seen.events,
            MEMORY,
            details={"megabytes_a_second": seen.megabytes},
        ),
        Figure(
            "B9",
            f"lag of a revision on a stream, {beside}",
            "ms",
            seen.lags,
            aims=(Aim("p99", most=_LAG_MS),),
            tail=True,
        ),
        Figure(
            "B9",
            f"burn-down of {sizes.read_burned:,} meanwhile, {beside}",
            "tasks/s",
            under,
            baseline=base,
            against="without, in turns",
            aims=(Aim("ratio", least=0.9),),
        ),
    ]


@contextmanager
def _watched(running: LocalCluster, readers: int, revisions: Revisions, seen: Seen) -> Iterator[None]:
    """Streams are read and questions asked of the follower meanwhile; what they saw is added to `seen`."""
    url = f"http://127.0.0.1:{running.replicas[1].status_port}"
    with _process("stream_readers", url, str(readers)) as reading:
        revisions.at.clear()
        with _process("questions", url) as asking:
            yield
            asked = _end(asking)
        delivered = dict(revisions.at)
        streamed = _end(reading, max(delivered))
    for kind, samples in asked.items():
        seen.milliseconds[kind] += samples
    seen.lags += [lag for heard in streamed["heard"][::10] for lag in _lags(delivered, heard)]
    seen.served.append(streamed["served"])
    seen.refused += streamed["refused"]
    seen.cut.append(streamed["cut"])
    seen.events.append(streamed["served"] * streamed["events"] / streamed["seconds"])
    seen.megabytes.append(streamed["bytes"] / 1e6 / streamed["seconds"])


def _lags(delivered: dict[int, float], heard: list[tuple[int, float]]) -> Iterator[float]:
    """Milliseconds from a revision's delivery until one stream had it.

    Raises RuntimeError when it never came.
    """
    known = [revision for revision, _ in heard]
    for revision, at in delivered.items():
        place = bisect_left(known, revision)
        if place == len(known):
            raise RuntimeError(f"a stream that was not cut off has not heard of revision {revision}")
        yield 1000 * (heard[place][1] - at)


@contextmanager
def _process(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """One of those modules, at work."""
    command = [sys.executable, "-m", f"tests.bench.{module}", *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError(f"{module} did not come up")
            yield process
        finally:
            process.kill()


def _end(process: subprocess.Popen[str], said: object = "") -> dict[str, Any]:
    """End it; what it has seen."""
    told, _ = process.communicate(f"{said}\n", timeout=120)
    return dict(json.loads(told))


class Revisions:
    """When etcd's watch delivered each revision, until `close`."""

    def __init__(self, store: EtcdStore) -> None:
        self.at: dict[int, float] = {}
        _, revision = store.get(KEYS.leader, deadline=CLOCK.boottime() + 30)
        self._watch = store.watch(KEYS.state(""), after=revision)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bench-revisions", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for batch in self._watch:
                at = CLOCK.boottime()
                for event in batch.events:
                    self.at.setdefault(event.mod, at)
        except StoreError:
            if not self._closed.is_set():
                raise

    def close(self) -> None:
        """End the watch."""
        self._closed.set()
        self._watch.close()
        self._thread.join(30)
