"""From a release without features to this one and back, under load, with leaders killed on the way.

Somebody submits all the time, to a pool that every release knows. Meanwhile replicas are replaced one by one,
a pool is shared, attempts are stopped for others, and all of it is taken back.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from controller.client import Client, NotFound
from controller.core.model.lifecycle import State
from controller.dev.cluster import LocalCluster, ReplicaProcess
from controller.errors import UserError
from tests.support.load import POOL, Load
from tests.support.local import (
    QUICK,
    Journal,
    check_promise,
    kill,
    lead_by_turns,
    leader_of,
    local_cluster,
    wait_ready,
)
from tests.support.share_auditor import audit
from tests.support.share_records import read
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("chaos")

TURNS = 2
PLAIN = {"name": "shared", "capacity": {"cpu": 2}}
SHARED = {
    **PLAIN,
    "sharing": {"owners": {"vision": {"guarantee": {"cpu": 2}}}},
    "preemption": {"reclaim": True, "min_run": 0, "per_minute": 100},
}


class Versions:
    """Which release each replica runs. `settings` are those of the older one.

    A replica that comes in the place of another has a name of its own, as a pod has.
    """

    def __init__(self, cluster: LocalCluster, settings: dict[str, str]) -> None:
        self._cluster = cluster
        self._older = settings
        self._names = (f"r{n}" for n in itertools.count(len(cluster.replicas) + 1))
        self.is_older = {replica.name: True for replica in cluster.replicas}

    def replace(self, replica: ReplicaProcess, *, older: bool) -> ReplicaProcess:
        """As a rolling update does: it is told to stop, and another one of that release comes."""
        assert replica.process is not None
        replica.process.terminate()
        replica.process.wait(30)
        return self._start_for(replica, older=older)

    def kill_leader(self) -> None:
        """The leader is killed, and another one of its release comes."""
        leader = leader_of(self._cluster)
        kill(leader)
        assert leader.process is not None
        leader.process.wait(30)
        self._start_for(leader, older=self.is_older[leader.name])

    def _start_for(self, gone: ReplicaProcess, *, older: bool) -> ReplicaProcess:
        common = self._cluster.options
        if not older:
            settings = {key: value for key, value in common.settings.items() if key not in self._older}
            self._cluster.options = dataclasses.replace(common, settings=settings)
        replica = ReplicaProcess(next(self._names), gone.status_port)
        try:
            self._cluster.start_replica(replica)
        finally:
            self._cluster.options = common
        place = self._cluster.replicas.index(gone)
        self._cluster.replicas[place] = replica
        self.is_older[replica.name] = older
        with self._cluster.client() as client:
            wait_until(
                lambda: any(each.id == replica.name for each in client.replicas.all()),
                f"the registration of {replica.name}",
                timeout=60,
            )
        return replica

    def wait_for_these_alone(self) -> None:
        """Until the registrations of all others have expired."""
        names = {replica.name for replica in self._cluster.replicas}
        with self._cluster.client() as client:
            wait_until(lambda: {each.id for each in client.replicas.all()} == names, "no others", timeout=90)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_there_and_back_under_load(tmp_path: Path, before_features: dict[str, str]) -> None:
    journal = Journal(tmp_path / "journal")
    settings = {**QUICK, **before_features}
    with (
        local_cluster(tmp_path / "data", replicas=3, settings=settings) as cluster,
        cluster.client() as client,
    ):
        versions = Versions(cluster, before_features)
        client.apply_pool(POOL)
        with Load(cluster, journal, 0.6) as load:
            upgrade(cluster, client, versions)
            owned = share(cluster, client, versions, journal)
            way_back(cluster, client, versions, owned)
            load.finish()
        last = {"command": journal.command("true"), "pool": "shared", "resources": {"cpu": 1}}
        client.submit({"id": "last", **last})
        assert client.wait(["last"], timeout_seconds=60)["last"].state is State.SUCCEEDED
        check_promise(cluster, journal, [*load.acknowledged, *owned, "last"])
        auditor = audit(read(cluster.endpoint), "default")
        assert auditor.findings == []
        assert auditor.preemptions > 0
        assert auditor.rebuilds <= 1, "only as the pool was shared"
        elections = [*elected(cluster.endpoint)]
    with_features = [number for number, election in enumerate(elections) if election.on]
    first, last_one = with_features[0], with_features[-1]
    assert any(election.is_older for election in elections[:first])
    assert not any(election.is_older for election in elections[first : last_one + 1]), "never meanwhile"
    assert len(with_features) > TURNS
    assert any(election.is_older for election in elections[last_one + 1 :]), "it leads again"


def upgrade(cluster: LocalCluster, client: Client, versions: Versions) -> None:
    """One after the other; both releases lead by turns, and leaders are killed."""
    versions.kill_leader()
    first = versions.replace(cluster.replicas[0], older=False)
    others = cluster.replicas[1:]
    lead_by_turns(cluster, first)
    with pytest.raises(UserError, match=others[0].name):
        client.features.enable("owners")
    with pytest.raises(UserError, match=others[0].name):
        client.apply_pool(SHARED)
    lead_by_turns(cluster, others[0])
    versions.kill_leader()
    for replica in [*cluster.replicas]:
        if versions.is_older[replica.name]:
            versions.replace(replica, older=False)
    versions.kill_leader()
    wait_ready(cluster)
    versions.wait_for_these_alone()


def share(cluster: LocalCluster, client: Client, versions: Versions, journal: Journal) -> list[str]:
    """A pool is shared, and attempts are stopped for its owner, while a replica of the older release is
    there, too. Returns the tasks of owners.
    """
    client.apply_pool(SHARED)  # turns the features on
    assert {view.name for view in client.features.all() if view.state == "on"} == {"claims", "owners"}
    versions.replace(cluster.replicas[0], older=True)
    owned = []
    for turn in range(TURNS):
        owned += submit(client, journal, f"search-{turn}", 3, "sleep 1", owner="search")
        wait_until(
            lambda turn=turn: running(client, f"search-{turn}") == 2,  # type: ignore[misc]
            "the pool being full",
            timeout=60,
        )
        owned += submit(client, journal, f"vision-{turn}", 2, "sleep 0.3", owner="vision")
        wait_until(
            lambda: any(view.reason.lower() == "preempted" for view in client.tasks(pool="shared")),
            "a preemption",
            timeout=60,
        )
        versions.kill_leader()
        with suppress(NotFound):
            client.replicas.step_down()
        ended = client.wait(owned, timeout_seconds=60)
        assert {view.state for view in ended.values()} == {State.SUCCEEDED}
    return owned


def submit(client: Client, journal: Journal, name: str, count: int, body: str, **fields: Any) -> list[str]:
    ids = [f"{name}-{n}" for n in range(count)]
    common: dict[str, Any] = {"command": journal.command(body), "pool": "shared", "resources": {"cpu": 1}}
    common |= {"grace_seconds": 1, "retention_seconds": 30, **fields}
    assert all(each.outcome == "created" for each in client.submit_many({"id": i, **common} for i in ids))
    return ids


def running(client: Client, name: str) -> int:
    return sum(view.state is State.RUNNING and view.id.startswith(name) for view in client.tasks())


def way_back(cluster: LocalCluster, client: Client, versions: Versions, owned: list[str]) -> None:
    """What keeps a feature on is named. Once all of it is gone, the older release leads again."""
    for name, kept_by in (("claims", "pool/shared"), ("owners", "the feature claims requires it")):
        with pytest.raises(UserError, match=kept_by):
            client.features.drop(name)
    client.apply_pool(PLAIN)
    assert client.features.drop("claims")
    with pytest.raises(UserError, match="task/"):
        client.features.drop("owners")
    wait_until(
        lambda: not {view.id for view in client.tasks(pool="shared")} & set(owned),
        "the end of their retention",
        timeout=90,
        poll=0.2,
    )
    assert client.features.drop("owners")
    older = cluster.replicas[0]
    lead_by_turns(cluster, older)
    for replica in cluster.replicas[1:]:
        versions.replace(replica, older=True)
    versions.kill_leader()
    wait_ready(cluster)


class Election(NamedTuple):
    """Whether the older release was elected, and whether a feature was on."""

    is_older: bool
    on: bool


def elected(url: str) -> Iterator[Election]:
    """All elections, as etcd was told of them."""
    on = False
    for event in read(url):
        kind = event.key.removeprefix("/tally/default/")
        if event.value is not None and kind in ("engine", "leader"):
            value = json.loads(event.value)
            if kind == "leader":
                yield Election("features" not in value, on)
            else:
                on = any(part.startswith("feature/") for part in value["engine"].get("parts", {}))
