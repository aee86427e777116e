"""An installation that can be treated badly: three etcd members, replicas, users, and a proxy between each pair of them."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from controller.client import Client
from controller.core.errors import TallyError
from controller.core.task import AttemptId
from controller.dev import CLUSTER, DevOptions, LocalCluster, ReplicaProcess
from controller.embedded_etcd import EtcdProcess
from controller.engine import attempt_folder as files
from controller.store.etcd import EtcdStore
from controller.store.gateway import GatewayOptions
from tests.support.etcd import free_ports
from tests.support.local import QUICK
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

T = TypeVar("T")

SETTINGS = {
    **QUICK,
    "TALLY_HEARTBEAT_SECONDS": "0.5",
    "TALLY_SILENCE_SECONDS": "2",
    "TALLY_RELIST_SECONDS": "3",
    "TALLY_AUDIT_INTERVAL_SECONDS": "5",
}
"""Each replica notices what was done to it as soon as it can."""

EXPECTED_EXITS = (0, -signal.SIGTERM, -signal.SIGKILL, 70)
"""In good order, or terminated before it was up; killed, by us or at a failpoint; by itself, because it was stuck."""


class Installation(LocalCluster):
    """Replicas that reach the etcd members through `links[replica]`, one proxy for each member, and users likewise."""

    def __init__(self, path: Path, members: list[EtcdProcess], replicas: int, users: int) -> None:
        super().__init__(DevOptions(data_dir=path, replicas=replicas, samples=False, settings=SETTINGS))
        for replica, port in zip(self.replicas, free_ports(replicas), strict=True):
            replica.status_port = port
        self.members = members
        names = [*(replica.name for replica in self.replicas), *(f"user-{n}" for n in range(users))]
        self.links = {name: [Proxy(member.config.client_port) for member in members] for name in names}
        self.users = names[replicas:]
        self.armed: dict[str, str] = {}  # replica → failpoints of its next process
        self.exits: list[tuple[str, int]] = []
        self.store = EtcdStore(GatewayOptions(tuple(member.url for member in members)), self.clock)

    @property
    def endpoint(self) -> str:
        """One member, for what is judged when all is healed."""
        return self.members[0].url

    def start(self) -> None:
        """Start the replicas; the members run already."""
        (self.data_dir / "logs").mkdir(parents=True)
        for replica in self.replicas:
            self.start_replica(replica)

    def start_replica(self, replica: ReplicaProcess) -> None:
        """See LocalCluster; through the replica's own proxies, and with the failpoints that are armed for it."""
        common = self.options
        own = {"TALLY_ETCD": ",".join(link.url for link in self.links[replica.name])}
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
        return super().tend()

    def client(self, user: str = "") -> Client:
        """A client that asks the members themselves, or through a user's proxies."""
        return Client([link.url for link in self.links[user]] if user else [member.url for member in self.members])

    def until(self, condition: Callable[[], T], what: str, *, timeout: float = 60.0) -> T:
        """As `wait_until`, restarting replicas that died meanwhile."""

        def tended() -> T:
            self.tend()
            return condition()

        return wait_until(tended, what, timeout=timeout, poll=0.05)

    def up(self) -> list[ReplicaProcess]:
        """The replicas whose processes are there."""
        return [replica for replica in self.replicas if replica.process is not None and replica.process.poll() is None]

    def leader(self) -> ReplicaProcess:
        """The replica that leads, once one does whose process is there."""

        def found() -> ReplicaProcess | None:
            with suppress(TallyError), self.client() as client:
                leader = client.leader()
                pids = {replica.process.pid: replica for replica in self.up() if replica.process is not None}
                registered = {view.instance: view.pid for view in client.replicas()}
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
                if files.is_locked(folder):
                    task_id, _, number = folder.name.rpartition("-")
                    found[AttemptId(task_id, int(number))] = int(json.loads((folder / files.RECORD).read_text())["supervisor"])
        return found

    def stop(self) -> None:
        """See LocalCluster; the proxies too. The members are whoever started them to stop."""
        super().stop()
        self.store.close()
        for links in self.links.values():
            for link in links:
                link.heal()
                link.close()
