"""B7: the leader is killed, stopped or cut off, again and again, while tasks run: how long until the next one commits.

Three real replicas with the process engine, each reaching etcd through a proxy of its own. A user submits tasks without a
pause, so that a new leader always finds something to commit. The gap is from the fault to the first status that a later term
wrote, as a watch of etcd sees it. At the end every task must have succeeded: what has not succeeded was left behind.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import NamedTuple

from controller.client import Client, Still
from controller.core.lifecycle import State
from controller.dev import LocalCluster, ReplicaProcess
from tests.bench.measure import Aim, Figure
from tests.bench.sizes import Sizes
from tests.bench.stage import CLOCK, cluster, start, wait_started
from tests.support.local import Witness, kill, leader_of, pid_of
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

PAUSE_SECONDS = 0.04
"""Between two submissions: at most so much later than it could does a new leader find something to commit."""

LEFT_BEHIND_SECONDS = 120.0
REPLICAS = 3


class Fault(NamedTuple):
    """What is done to a leader, and how it is made good again; `seconds` is the aim, of TTL + `seconds` with `lease`."""

    name: str
    strike: Callable[[ReplicaProcess, Proxy], float]
    heal: Callable[[ReplicaProcess, Proxy], None]
    dies: bool
    seconds: float
    lease: bool


def _signal(number: int) -> Callable[[ReplicaProcess, Proxy], float]:
    return lambda replica, _: kill(replica, number)


def _cut_off(_: ReplicaProcess, proxy: Proxy) -> float:
    at = CLOCK.boottime()
    proxy.black_hole()
    return at


def _continue(replica: ReplicaProcess, _: Proxy) -> None:
    os.kill(pid_of(replica), signal.SIGCONT)


def _nothing(_: ReplicaProcess, __: Proxy) -> None:
    """A process that is dead is started anew."""


FAULTS = (
    Fault("SIGTERM", _signal(signal.SIGTERM), _nothing, True, 0.1, False),
    Fault("SIGKILL", _signal(signal.SIGKILL), _nothing, True, 1.0, False),
    Fault("SIGSTOP", _signal(signal.SIGSTOP), _continue, False, 1.0, True),
    Fault("cut off from etcd", _cut_off, lambda _, proxy: proxy.heal(), False, 1.0, True),
)


class Users:
    """Submits small tasks without a pause, in a thread of its own, until `close`."""

    def __init__(self, running: LocalCluster, prefix: str) -> None:
        self._prefix = prefix
        self.submitted: list[str] = []
        self._client = running.client()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bench-users", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closed.wait(PAUSE_SECONDS):
            name = f"{self._prefix}-{len(self.submitted)}"
            self._client.submit({"id": name, "command": ["true"], "resources": {"cpu": 1}})
            self.submitted.append(name)

    def close(self) -> None:
        """End the load."""
        self._closed.set()
        self._thread.join(60)
        self._client.close()


def take_over(sizes: Sizes) -> list[Figure]:
    """From the fault to the next leader's first commit, and tasks left behind; process engine, three replicas."""
    figures, left = [], []
    ttl = sizes.lease_ttl_seconds
    with _installation(ttl) as (running, proxies):
        for fault in FAULTS:
            gaps, behind = _strikes(running, proxies, fault, sizes.take_overs)
            bound = fault.seconds + (ttl if fault.lease else 0)
            what = f"{fault.name}: to the next leader's first commit" + (f" (lease of {ttl} s)" if fault.lease else "")
            figures.append(Figure("B7", what, "s", gaps, aims=(Aim("p99", most=bound),), tail=True))
            left.append(float(behind))
    what = f"tasks left behind, after all {len(FAULTS) * sizes.take_overs} faults"
    return [*figures, Figure("B7", what, "tasks", [sum(left)], aims=(Aim("max", most=0.0),), details={"by_fault": left})]


@contextmanager
def _installation(ttl: int) -> Iterator[tuple[LocalCluster, dict[str, Proxy]]]:
    """Replicas that reach etcd through proxies of their own."""
    with ExitStack() as stack:
        # Closed after the replicas, which hand over through them when they end.
        proxies = {f"r{n + 1}": stack.enter_context(Proxy(0)) for n in range(REPLICAS)}
        running = stack.enter_context(cluster(replicas=0, engine="process", TALLY_LEASE_TTL_SECONDS=str(ttl)))
        for name, proxy in proxies.items():
            proxy.target = running.options.etcd_port
            start(running, name, TALLY_ETCD=proxy.url)
        with running.client() as client:
            client.apply_pool({"name": "default", "capacity": {"cpu": 1000}})
        yield running, proxies


def _strikes(running: LocalCluster, proxies: dict[str, Proxy], fault: Fault, times: int) -> tuple[list[float], int]:
    """The gaps in seconds, and how many of the tasks submitted meanwhile did not succeed."""
    gaps, behind = [], 0
    with closing(Witness(running.endpoint)) as witness, running.client() as client:
        for turn in range(times):
            _wait_started(running)
            with closing(Users(running, f"{fault.name.split()[0].lower()}-{turn}")) as users:
                leader = leader_of(running)
                _wait_for_work(client, users)
                at = fault.strike(leader, proxies[leader.name])
                gaps.append(witness.next_term(at))
                fault.heal(leader, proxies[leader.name])
                _recover(running, proxies, fault, leader)
            behind += _left_behind(client, users.submitted)
    return gaps, behind


def _wait_for_work(client: Client, users: Users) -> None:
    """Until this leader has run the first tasks to their end: it leads for sure, and all is warm."""
    wait_until(lambda: len(users.submitted) >= 5, "the first tasks")
    client.wait(users.submitted[:5], timeout_seconds=60.0)


def _recover(running: LocalCluster, proxies: dict[str, Proxy], fault: Fault, replica: ReplicaProcess) -> None:
    """Three replicas again."""
    if fault.dies:
        assert replica.process is not None
        replica.process.wait(30)
        running.replicas.remove(replica)
        start(running, replica.name, TALLY_ETCD=proxies[replica.name].url)
    _wait_started(running)


def _left_behind(client: Client, names: list[str]) -> int:
    try:
        views = client.wait(names, timeout_seconds=LEFT_BEHIND_SECONDS)
    except Still as still:
        views = still.views
    return sum(view.state is not State.SUCCEEDED for view in views.values())


def _wait_started(running: LocalCluster) -> None:
    for replica in running.replicas:
        wait_started(running, replica)
