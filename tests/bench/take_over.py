"""B7: the leader is killed, stopped or cut off, again and again, while tasks run: how long until the next one
commits.

Three real replicas with the process engine. Users submit tasks all the time, and one more right after the
fault, so that the new leader has something to commit from its first moment on: what is measured is the
take-over, not the wait for a user. The gap is from the fault to the first status that a later term wrote, as
a watch of etcd sees it. At the end every task must have succeeded: what has not succeeded was left behind.

Whom a signal hits speaks to etcd directly. Only for the cut-off each replica has a proxy in between, which
runs in this very process, beside the users and the watch, and so takes its share of what is measured.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import NamedTuple

from controller.client import Client, Still
from controller.core.model.lifecycle import State
from controller.dev.cluster import LocalCluster, ReplicaProcess
from tests.bench.measure import Aim, Figure
from tests.bench.sizes import Sizes
from tests.bench.stage import CLOCK, cluster, start, wait_started
from tests.support.local import Witness, kill, leader_of, pid_of
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

PAUSE_SECONDS = 0.04
"""Between two submissions."""

LEFT_BEHIND_SECONDS = 120.0
REPLICAS = 3


class Fault(NamedTuple):
    """A signal to the leader (0: it is cut off from etcd); the aim is `seconds`, of TTL + `seconds` with
    `lease`.
    """

    name: str
    number: int
    dies: bool
    seconds: float
    lease: bool

    @property
    def cuts(self) -> bool:
        """Whether it is one of the network."""
        return self.number == 0


FAULTS = (
    Fault("SIGTERM", signal.SIGTERM, dies=True, seconds=0.1, lease=False),
    Fault("SIGKILL", signal.SIGKILL, dies=True, seconds=1.0, lease=False),
    Fault("SIGSTOP", signal.SIGSTOP, dies=False, seconds=1.0, lease=True),
    Fault("cut off from etcd", 0, dies=False, seconds=1.0, lease=True),
)


class Installation:
    """Three replicas; with `proxied`, each reaches etcd through a proxy of its own."""

    def __init__(self, running: LocalCluster, proxies: dict[str, Proxy]) -> None:
        self.running = running
        self._proxies = proxies
        for number in range(REPLICAS):
            self._start(f"r{number + 1}")
        with running.client() as client:
            client.apply_pool({"name": "default", "capacity": {"cpu": 1000}})

    def strike(self, fault: Fault) -> tuple[ReplicaProcess, float]:
        """The leader, and when it was hit (boottime)."""
        leader = leader_of(self.running)
        if not fault.cuts:
            return leader, kill(leader, fault.number)
        at = CLOCK.boottime()
        self._proxies[leader.name].black_hole()
        return leader, at

    def recover(self, fault: Fault, replica: ReplicaProcess) -> None:
        """Three replicas again."""
        if fault.cuts:
            self._proxies[replica.name].heal()
        elif not fault.dies:
            os.kill(pid_of(replica), signal.SIGCONT)
        else:
            assert replica.process is not None
            replica.process.wait(30)
            self.running.replicas.remove(replica)
            self._start(replica.name)
        self.wait_started()

    def wait_started(self) -> None:
        """Wait until all are ready."""
        for replica in self.running.replicas:
            wait_started(self.running, replica)

    def _start(self, name: str) -> None:
        proxy = self._proxies.get(name)
        start(self.running, name, **({"TALLY_ETCD": proxy.url} if proxy else {}))


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
            self._client.submit(_task(name))
            self.submitted.append(name)

    def close(self) -> None:
        """End the load."""
        self._closed.set()
        self._thread.join(60)
        self._client.close()


def take_over(sizes: Sizes) -> list[Figure]:
    """From the fault to the next leader's first commit, and tasks left behind; process engine, three
    replicas.
    """
    figures, left = [], []
    ttl = sizes.lease_ttl_seconds
    for fault in FAULTS:
        with _installation(ttl, proxied=fault.cuts) as installation:
            gaps, behind = _strikes(installation, fault, sizes.take_overs)
        bound = fault.seconds + (ttl if fault.lease else 0)
        what = f"{fault.name}: to the next leader's first commit" + (
            f" (lease of {ttl} s)" if fault.lease else ""
        )
        figures.append(Figure("B7", what, "s", gaps, aims=(Aim("p99", most=bound),), tail=True))
        left.append(float(behind))
    what = f"tasks left behind, after all {len(FAULTS) * sizes.take_overs} faults"
    return [
        *figures,
        Figure("B7", what, "tasks", [sum(left)], aims=(Aim("max", most=0.0),), details={"by_fault": left}),
    ]


@contextmanager
def _installation(ttl: int, *, proxied: bool) -> Iterator[Installation]:
    with ExitStack() as stack:
        # Closed after the replicas, which hand over through them when they end.
        proxies = {f"r{n + 1}": stack.enter_context(Proxy(0)) for n in range(REPLICAS if proxied else 0)}
        running = stack.enter_context(cluster(replicas=0, engine="process", TALLY_LEASE_TTL_SECONDS=str(ttl)))
        for proxy in proxies.values():
            proxy.target = running.options.etcd_port
        yield Installation(running, proxies)


def _strikes(installation: Installation, fault: Fault, times: int) -> tuple[list[float], int]:
    """The gaps in seconds, and how many of the tasks submitted meanwhile did not succeed."""
    gaps, behind, running = [], 0, installation.running
    with closing(Witness(running.endpoint)) as witness, running.client() as client:
        for turn in range(times):
            installation.wait_started()
            with closing(Users(running, f"users-{turn}")) as users:
                _wait_for_work(client, users)
                leader, at = installation.strike(fault)
                client.submit(_task(f"struck-{turn}"))
                gaps.append(witness.next_term(at))
                installation.recover(fault, leader)
            behind += _left_behind(client, [*users.submitted, f"struck-{turn}"])
    return gaps, behind


def _task(name: str) -> dict[str, object]:
    return {"id": name, "command": ["true"], "resources": {"cpu": 1}}


def _wait_for_work(client: Client, users: Users) -> None:
    """Until this leader has run the first tasks to their end: it leads for sure, and all is warm."""
    wait_until(lambda: len(users.submitted) >= 5, "the first tasks")
    client.wait(users.submitted[:5], timeout_seconds=60.0)


def _left_behind(client: Client, names: list[str]) -> int:
    try:
        views = client.wait(names, timeout_seconds=LEFT_BEHIND_SECONDS)
    except Still as still:
        views = still.views
    return sum(view.state is not State.SUCCEEDED for view in views.values())
