"""An installation that can be treated badly: three etcd members, replicas, users, and a proxy between each
pair of them.

With the Kubernetes engine, a fake cluster of two nodes belongs to it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from controller.client import Client
from controller.core.model.task import AttemptId
from controller.dev.cluster import CLUSTER, DevOptions, LocalCluster, ReplicaProcess
from controller.dev.etcd import EtcdProcess
from controller.dev.fake_kubernetes import ClusterOptions, FakeCluster, KubeletTimings
from controller.engine.base import Engine
from controller.engine.kubernetes.api import ClusterAccess
from controller.engine.kubernetes.engine import KubernetesEngine, KubernetesOptions
from controller.engine.process import attempt_folder as files
from controller.engine.process.engine import ProcessEngine
from controller.errors import TallyError
from controller.store.etcd.gateway import GatewayOptions
from controller.store.etcd.store import EtcdStore
from controller.store.keys import ROOT
from tests.chaos.attempts import SCALE
from tests.support.etcd import enable_authentication, free_ports
from tests.support.local import QUICK
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

T = TypeVar("T")

USER = "tally"
FLICKER_SECONDS = 0.6
TIMINGS = KubeletTimings(
    node_monitor=10.0
)  # seconds of the cluster: a lost node is noticed while the fault lasts

SETTINGS = {
    **QUICK,
    "TALLY_HEARTBEAT_SECONDS": "0.5",
    "TALLY_SILENCE_SECONDS": "2",
    "TALLY_RELIST_SECONDS": "3",
    "TALLY_AUDIT_INTERVAL_SECONDS": "5",
    "TALLY_KUBE_TIMEOUT_SECONDS": "2",
    "PYTHONFAULTHANDLER": "1",
}
"""Each replica notices what was done to it as soon as it can; one that crashes says where, in its log."""

EXPECTED_EXITS = (0, -signal.SIGTERM, -signal.SIGKILL, 70)
"""In good order, or terminated before it was up; killed, by us or at a failpoint; by itself, because it
was stuck.
"""


class Installation(LocalCluster):
    """Replicas that reach the etcd members through `links[replica]`, one proxy for each member, and users
    likewise.

    etcd has users: replicas and users sign in as USER, who may do everything under Tally's keys, and `store`
    as root. Followers reach the leader's endpoint through `endpoints[leader]`, which is shut when the leader
    is down, or `unseen`.
    """

    def __init__(
        self, path: Path, members: list[EtcdProcess], replicas: int, users: int, engine: str
    ) -> None:
        options = DevOptions(
            data_dir=path, replicas=replicas, samples=False, engine=engine, settings=SETTINGS
        )
        super().__init__(options, guarded=False)
        for replica, port in zip(self.replicas, free_ports(replicas), strict=True):
            replica.status_port = port
        if engine == "kubernetes":
            self.fake_cluster = FakeCluster(ClusterOptions(scale=SCALE, timings=TIMINGS))
            self.fake_cluster.state.add_node("node2")
        self.members = members
        names = [*(replica.name for replica in self.replicas), *(f"user-{n}" for n in range(users))]
        self.links = {name: [Proxy(member.config.client_port) for member in members] for name in names}
        ports = free_ports(replicas)
        self.endpoints = {
            r.name: Proxy(r.status_port, port) for r, port in zip(self.replicas, ports, strict=True)
        }
        self.unseen: dict[str, bool] = {}  # replicas whose endpoints refuse connections, True: by turns
        self.users = names[replicas:]
        self.armed: dict[str, str] = {}  # replica → failpoints of its next process
        self.exits: list[tuple[str, int]] = []
        (self.data_dir / "logs").mkdir(parents=True)
        self._secrets.mkdir()
        self.write_password("the first")
        (self._secrets / "root-password").write_text("root-password")
        unguarded = EtcdStore(GatewayOptions(self._urls), self.clock)
        enable_authentication(unguarded, USER, self.password, ROOT)
        unguarded.close()
        self.store = EtcdStore(self.as_root(*self._urls), self.clock)

    @property
    def endpoint(self) -> str:
        """One member, for what is judged when all is healed."""
        return self.members[0].url

    @property
    def _urls(self) -> tuple[str, ...]:
        return tuple(member.url for member in self.members)

    def as_root(self, *urls: str) -> GatewayOptions:
        """How the one who judges reaches these members, whatever becomes of USER."""
        return GatewayOptions(urls, user="root", password_file=str(self._secrets / "root-password"))

    @property
    def _password_file(self) -> Path:
        return self._secrets / "password"

    @property
    def _secrets(self) -> Path:
        return self.data_dir.with_name("secrets")

    @property
    def password(self) -> str:
        """What USER's password file says."""
        return self._password_file.read_text()

    def write_password(self, password: str) -> None:
        """Replace the password file, as whoever rotates secrets does."""
        new = self._password_file.with_suffix(".new")
        new.write_text(password)
        new.rename(self._password_file)

    def start(self) -> None:
        """Start the replicas, and the fake cluster; the members run already."""
        self._lock_file = self.folder.claim()  # `stop` ends only what is ours
        if self.fake_cluster is not None:
            self.fake_cluster.start()
            self.fake_cluster.kubeconfig(self.kubeconfig)
        for replica in self.replicas:
            self.start_replica(replica)

    def start_replica(self, replica: ReplicaProcess) -> None:
        """See LocalCluster; through the replica's own proxies, and with the failpoints that are armed for
        it.
        """
        common = self.options
        own = {
            "TALLY_ETCD": ",".join(link.url for link in self.links[replica.name]),
            "TALLY_USER": USER,
            "TALLY_PASSWORD_FILE": str(self._password_file),
            "TALLY_ADVERTISE": f"127.0.0.1:{self.endpoints[replica.name].port}",
        }
        if points := self.armed.pop(replica.name, ""):
            own["TALLY_FAILPOINTS"] = points
        self.options = dataclasses.replace(common, settings={**common.settings, **own})
        try:
            super().start_replica(replica)
        finally:
            self.options = common

    def tend(self) -> list[ReplicaProcess]:
        """See LocalCluster; notes how each ended."""
        for replica in self.replicas:
            if replica.process is not None and (code := replica.process.poll()) is not None:
                self.exits.append((replica.name, code))
        dead = super().tend()
        self._show_endpoints()
        return dead

    def _show_endpoints(self) -> None:
        """As the kernel of the replica's machine does: nobody listens where there is no process."""
        gone = int(self.clock.boottime() / FLICKER_SECONDS) % 2 == 0
        for replica in self.replicas:
            flickers = self.unseen.get(replica.name)
            if replica.process is None or flickers is False or (flickers and gone):
                self.endpoints[replica.name].shut()
            else:
                self.endpoints[replica.name].open()

    def client(self, user: str = "") -> Client:
        """A client that asks the members themselves, or through a user's proxies."""
        urls = [link.url for link in self.links[user]] if user else list(self._urls)
        return Client(urls, user=USER, password_file=str(self._password_file))

    def engine(self) -> Engine:
        """One more engine on what the replicas' engines are on; the caller closes it."""
        if self.fake_cluster is None:
            return ProcessEngine(self.state_dir, CLUSTER, self.clock)
        return KubernetesEngine(
            CLUSTER, self.clock, KubernetesOptions(access=ClusterAccess(kubeconfig=self.kubeconfig))
        )

    def until(self, condition: Callable[[], T], what: str, *, timeout: float = 60.0) -> T:
        """As `wait_until`, restarting replicas that died meanwhile."""

        def tended() -> T:
            self.tend()
            return condition()

        return wait_until(tended, what, timeout=timeout, poll=0.05)

    def up(self) -> list[ReplicaProcess]:
        """The replicas whose processes are there."""
        return [
            replica
            for replica in self.replicas
            if replica.process is not None and replica.process.poll() is None
        ]

    def leader(self) -> ReplicaProcess:
        """The replica that leads, once one does whose process is there."""

        def found() -> ReplicaProcess | None:
            with suppress(TallyError), self.client() as client:
                leader = client.replicas.leader()
                pids = {replica.process.pid: replica for replica in self.up() if replica.process is not None}
                registered = {view.instance: view.pid for view in client.replicas.all()}
                return pids.get(registered.get(leader.instance, 0)) if leader is not None else None
            return None

        replica = self.until(found, "a live leader")
        assert replica is not None
        return replica

    def supervised(self) -> dict[AttemptId, int]:
        """The attempts that run, and their supervisors' processes."""
        found = {}
        for folder in sorted((self.state_dir / CLUSTER / "attempts").glob("*")):
            with suppress(OSError, ValueError):  # removed, or not claimed yet
                if files.held(folder)[0] is files.Held.SUPERVISED:
                    task_id, _, number = folder.name.rpartition("-")
                    found[AttemptId(task_id, int(number))] = int(
                        json.loads((folder / files.RECORD).read_text())["supervisor"]
                    )
        return found

    def stop(self) -> None:
        """See LocalCluster; the proxies too. The members are whoever started them to stop."""
        super().stop()
        self.store.close()
        for link in (*itertools.chain(*self.links.values()), *self.endpoints.values()):
            link.heal()
            link.close()
