"""B9: a follower that answers questions and feeds 200 streams, while its leader burns tasks down beside a stock of others.

Requests go one by one, a hundredth of a second apart, in turns of kinds. The lag is taken for each revision: from the moment
that a watch of etcd delivers it until a reader of the follower's stream has it.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx

from controller.dev import LocalCluster
from controller.store.base import StoreError
from controller.store.etcd import EtcdStore
from tests.bench.measure import MEMORY, Aim, Figure
from tests.bench.sizes import Sizes
from tests.bench.stage import CLOCK, KEYS, ROOT, burn, cluster, store_on

KINDS = {
    "one task": "/v1/tasks/stock-00000001",
    "a page of 100": "/v1/tasks?limit=100",
    "a page by pool and state": "/v1/tasks?pool=stock&state=Succeeded&limit=100",
    "all pools": "/v1/pools",
}
PAUSE_SECONDS = 0.01
_P99_MS, _LAG_MS = 50.0, 100.0


def reads(sizes: Sizes) -> list[Figure]:
    """Requests to a follower and 200 streams of it, while a burn-down runs on the leader; null engine."""
    return [figure for stored in sizes.read_stored for figure in _reads(sizes, stored)]


def _reads(sizes: Sizes, stored: int) -> list[Figure]:
    beside = f"{stored:,} tasks stored"
    with cluster(replicas=2, stock=stored) as running:
        burn(running, max(10, sizes.read_burned // 10), "warm")
        alone = _rates(running, sizes, "alone")
        url = f"http://127.0.0.1:{running.replicas[1].status_port}"
        with store_on(running.endpoint) as store, _readers(url, sizes.readers) as readers:
            with closing(Revisions(store)) as revisions, closing(Requests(url)) as requests:
                under = _rates(running, sizes, "read")
            streamed = _end(readers)
    lags = [1000 * (at - revisions.at[revision]) for revision, at in streamed["revisions"] if revision in revisions.at]
    base = Figure("", "", "", alone).median
    served, cut = [float(streamed["served"])], [float(streamed["cut"])]
    return [
        *(
            Figure("B9", f"{kind} from a follower, {beside}", "ms", samples, MEMORY, aims=(Aim("p99", most=_P99_MS),), tail=True)
            for kind, samples in requests.milliseconds.items()
        ),
        Figure(
            "B9", f"streams served, of {sizes.readers} asked for", "streams", served, MEMORY,
            aims=(Aim("median", least=float(sizes.readers)),), details={"refused": streamed["refused"]},
        ),
        Figure("B9", f"of these, cut off as too slow, {beside}", "streams", cut, MEMORY),
        Figure("B9", f"events sent to them a second, {beside}", "events/s", [streamed["events"] / streamed["seconds"]], MEMORY),
        Figure("B9", f"lag of a revision on the stream, {beside}", "ms", lags, aims=(Aim("p99", most=_LAG_MS),), tail=True),
        Figure(
            "B9", f"burn-down of {sizes.read_burned:,} meanwhile, {beside}", "tasks/s", under,
            baseline=base, against="without readers", aims=(Aim("ratio", least=0.9),),
        ),
    ]  # fmt: skip


def _rates(running: LocalCluster, sizes: Sizes, name: str) -> list[float]:
    return [sizes.read_burned / burn(running, sizes.read_burned, f"{name}{number}").seconds for number in range(sizes.repeat)]


@contextmanager
def _readers(url: str, count: int) -> Iterator[subprocess.Popen[str]]:
    """A process with so many open streams; see `stream_readers`."""
    command = [sys.executable, "-m", "tests.bench.stream_readers", url, str(count)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("the readers did not come up")
            yield process
        finally:
            process.kill()


def _end(readers: subprocess.Popen[str]) -> dict[str, Any]:
    """End the streams; what they have seen."""
    told, _ = readers.communicate("end\n", timeout=60)
    return dict(json.loads(told))


class Requests:
    """Asks a replica, one request after the other over one connection, until `close`."""

    def __init__(self, url: str) -> None:
        self.milliseconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self._http = httpx.Client(base_url=url, timeout=30, trust_env=False)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bench-requests", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for kind, path in itertools.cycle(KINDS.items()):
            began = CLOCK.boottime()
            self._http.get(path).raise_for_status()
            self.milliseconds[kind].append(1000 * (CLOCK.boottime() - began))
            if self._closed.wait(PAUSE_SECONDS) and all(self.milliseconds.values()):
                return

    def close(self) -> None:
        """End; each kind has been asked at least once."""
        self._closed.set()
        self._thread.join(60)
        self._http.close()


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
