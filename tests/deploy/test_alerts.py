"""Dashboards and alerts on a real Prometheus that scrapes real clusters, on which each trouble is caused."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from controller.client import Client
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.dev.cluster import LocalCluster
from controller.runtime.failpoints import VARIABLE
from controller.store.base import Committed, Guard, Put, Transaction
from controller.store.keys import Keys
from tests.deploy.monitoring import RULES, names_in, targets
from tests.support.local import (
    QUICK,
    add_replica,
    is_ready,
    kill,
    lead_by_turns,
    leader_of,
    local_cluster,
    wait_ready,
)
from tests.support.prometheus import Prometheus, prometheus
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

SINCE_ETCD_3_6 = {"tally_store_quota_bytes"}

pytestmark = [pytest.mark.xdist_group("prometheus"), pytest.mark.timeout(300)]
slow = pytest.mark.slow  # a trouble is caused, seen by Prometheus, and ended: about ten seconds each


def filled_in(expression: str) -> str:
    """A query as Grafana sends it."""
    values = {"$job": "tally", "$pool": ".+", "$instance": ".+", "$__rate_interval": "1m"}
    for variable, value in values.items():
        expression = expression.replace(variable, value)
    return expression


def quick_rules() -> dict[str, Any]:
    """The rules without patience, and with limits that a test reaches: 5 s of silence, 4 MiB of database."""
    text = (
        RULES.read_text()
        .replace("> 20\n", "> 5\n")
        .replace("> 120\n", "> 5\n")
        .replace("2147483648", str(4 * 2**20))
    )
    rules: dict[str, Any] = yaml.safe_load(text)
    for rule in rules["groups"][0]["rules"]:
        rule["for"] = "0s"
    return rules


class Watched(NamedTuple):
    """A cluster, and the Prometheus that scrapes it."""

    cluster: LocalCluster
    prometheus: Prometheus


def addresses(cluster: LocalCluster) -> list[str]:
    """What Prometheus scrapes."""
    return [f"127.0.0.1:{replica.status_port}" for replica in cluster.replicas]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Three replicas with something to show: tasks of all ends in a pool with three resources."""
    folder = tmp_path_factory.mktemp("watched")
    settings = {**QUICK, "TALLY_AUDIT_INTERVAL_SECONDS": "1"}
    with local_cluster(folder / "cluster", settings=settings) as cluster, cluster.client() as client:
        client.apply_pool(
            {
                "name": "default",
                "capacity": {"cpu": 4, "memory": "1Gi", "gpu": 2},
                "sharing": {"owners": {"default": {"guarantee": {"cpu": 1}, "limit": {"cpu": 4}}}},
                "preemption": {"reclaim": True},
            }
        )
        resources = {"cpu": "1", "memory": "16Mi", "gpu": 1}
        tasks = [{"id": f"ok-{n}", "command": ["sleep", "0.2"], "resources": resources} for n in range(6)]
        tasks += [{"id": f"bad-{n}", "command": ["false"], "resources": resources} for n in range(3)]
        tasks.append({"id": "many", "command": ["true"], "resources": resources, "array": {"size": 3}})
        with prometheus(folder / "prometheus", addresses(cluster), quick_rules()) as server:
            client.features.enable("arrays")
            client.submit_many(tasks)
            client.wait([str(task["id"]) for task in tasks], timeout_seconds=60)
            yield Watched(cluster, server)


def test_every_panel_shows_something(watched: Watched) -> None:
    """Each query of each dashboard, as Grafana sends it, gives numbers on a cluster that works."""
    wait_ready(watched.cluster)
    names = (f"more-{number}" for number in itertools.count())
    with watched.cluster.client() as client:

        def has_numbers(expression: str) -> bool:
            if any(series["value"][1] != "NaN" for series in watched.prometheus.query(expression)):
                return True
            command = {"command": ["sleep", "0.1"], "resources": {"cpu": 1, "gpu": 1}}
            # rates are of what happens while Prometheus looks
            client.submit_many([{"id": next(names), **command}])
            return False

        for target in targets():
            if not names_in(target.expr) <= SINCE_ETCD_3_6:
                wait_until(
                    partial(has_numbers, filled_in(target.expr)), f"data for {target}", timeout=60.0, poll=0.5
                )


@slow
def test_nothing_fires_when_all_is_well(watched: Watched) -> None:
    """Without any patience."""
    wait_ready(watched.cluster)
    wait_until(lambda: not watched.prometheus.firing(), "silence", poll=0.2)


def fires(server: Prometheus, alert: str, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Waits until the alert fires, and does `meanwhile` again and again until then."""
    wait_until(lambda: alert in server.firing() or bool(meanwhile() and False), alert, timeout=90.0, poll=0.2)


def is_silent(watched: Watched, *names: str) -> None:
    """Waits until none of the alerts fires."""
    wait_until(
        lambda: not watched.prometheus.firing() & set(names), f"an end of {names}", timeout=90.0, poll=0.2
    )


def test_a_ledger_that_was_changed_by_hand(watched: Watched) -> None:
    """Somebody else's write to a ledger: drift, and the leader's audit of itself finds it.

    Undone, both end.
    """
    key = Keys("default").ledger("default")
    with watched.cluster.client() as client:
        before = overwrite(client, key, b'{"held": {"cpu": "3"}}')
        fires(watched.prometheus, "TallyLedgerDrift")
        fires(watched.prometheus, "TallyAuditFindings")
        overwrite(client, key, before)
    is_silent(watched, "TallyLedgerDrift", "TallyAuditFindings")


def overwrite(client: Client, key: str, value: bytes) -> bytes:
    """Put a value around Tally, as an operator's etcdctl would; returns what stood there."""
    deadline = client.clock.boottime() + 30
    before, _ = client.store.get(key, deadline=deadline)
    assert before is not None
    transaction = Transaction((Guard(key, before.mod),), (Put(key, value),), Op(uuid.uuid4().hex))
    assert isinstance(client.store.commit(transaction, deadline=deadline), Committed)
    return before.value


@slow
def test_a_replica_that_is_gone_and_a_leader_that_changes_often(watched: Watched) -> None:
    """A follower is killed and comes back; the leader steps down again and again."""
    cluster = watched.cluster
    follower = next(replica for replica in cluster.replicas if replica is not leader_of(cluster))
    kill(follower)
    fires(watched.prometheus, "TallyReplicaDown")
    cluster.start_replica(follower)
    wait_ready(cluster)
    is_silent(watched, "TallyReplicaDown")

    fires(watched.prometheus, "TallyLeaderFlapping", partial(change_leader, watched))


def change_leader(watched: Watched) -> None:
    """Whoever leads steps down, and Prometheus sees the next term."""
    leader = leader_of(watched.cluster)
    with watched.cluster.client() as client:
        term = client.replicas.leader()
        client.replicas.step_down()
    wait_until(
        partial(changed_hands, watched, term.epoch if term else 0),
        f"a term after {leader.name}'s",
        timeout=60.0,
    )


def changed_hands(watched: Watched, epoch: int) -> bool:
    """Whether Prometheus has seen a later epoch on every replica."""
    seen = watched.prometheus.query('min(tally_epoch{job="tally"})')
    return bool(seen) and int(seen[0]["value"][1]) > epoch


@slow
def test_a_second_installation_under_the_same_job(watched: Watched, tmp_path: Path) -> None:
    """Two lead, as far as Prometheus can tell; by the fence this is all that can be seen of it."""
    with local_cluster(tmp_path / "other", replicas=1, settings=QUICK) as other:
        both = [*addresses(watched.cluster), *addresses(other)]
        with prometheus(tmp_path / "prometheus", both, quick_rules()) as server:
            fires(server, "TallyTwoLeaders")


@slow
def test_etcd_goes_silent_and_comes_back(watched: Watched) -> None:
    """Stopped in its tracks: no leader, calls that fail, replicas that hear nothing.

    All end when it goes on.
    """
    etcd_pid = watched.cluster.etcd.pid
    with watched.cluster.client() as client:
        client.submit({"id": "waits-for-etcd", "command": ["true"], "resources": {"cpu": 1}})
    os.kill(etcd_pid, signal.SIGSTOP)
    try:
        for alert in ("TallyNoLeader", "TallyEtcdErrors", "TallyFollowerLag"):
            fires(watched.prometheus, alert)
    finally:
        os.kill(etcd_pid, signal.SIGCONT)
    is_silent(watched, "TallyNoLeader", "TallyFollowerLag")


def test_an_engine_that_cannot_be_used(watched: Watched) -> None:
    """The folder of the process engine is taken away, as a file server that is gone would."""
    attempts = watched.cluster.state_dir / "default" / "attempts"
    away = attempts.with_name("away")
    attempts.rename(away)
    try:
        fires(watched.prometheus, "TallyEngineSilent")
    finally:
        shutil.rmtree(attempts, ignore_errors=True)
        away.rename(attempts)
    is_silent(watched, "TallyEngineSilent")


@slow
def test_a_database_that_grows(watched: Watched) -> None:
    """Tasks with large environments, which wait: above 80% of the limit."""
    with watched.cluster.client() as client:
        client.apply_pool({"name": "full", "capacity": {"cpu": 1}, "paused": True})
        env = {"TEXT": "x" * 30_000}
        client.submit_many(
            [{"id": f"large-{n}", "pool": "full", "command": ["true"], "env": env} for n in range(150)]
        )
    fires(watched.prometheus, "TallyStoreNearlyFull")


@slow
def test_a_leader_that_commits_nothing(tmp_path: Path) -> None:
    """Its loop hangs before a commit, while its lease still runs: the queue is stuck."""
    settings = {"TALLY_LEASE_TTL_SECONDS": "30", VARIABLE: "before-commit:hang"}
    with (
        local_cluster(tmp_path / "cluster", replicas=1, settings=settings) as cluster,
        cluster.client() as client,
    ):
        leader_of(cluster)
        with prometheus(tmp_path / "prometheus", addresses(cluster), quick_rules()) as server:
            client.apply_pool({"name": "default", "capacity": {"cpu": 1}})
            client.submit({"id": "cannot-start", "command": ["true"], "resources": {"cpu": 1}})
            fires(server, "TallyQueueStuck")


@slow
def test_an_etcd_that_takes_its_time(tmp_path: Path) -> None:
    """Each of its answers to the leader takes longer than a second: transitions are slow, and the lease
    holds.
    """
    with (
        local_cluster(tmp_path / "cluster", replicas=1, settings=QUICK) as cluster,
        cluster.client() as client,
        Proxy(cluster.options.etcd_port) as proxy,
    ):
        leader = add_replica(cluster, "far", TALLY_ETCD=proxy.url, TALLY_LEASE_TTL_SECONDS="30")
        wait_until(lambda: is_ready(leader), "the replica", timeout=60)
        lead_by_turns(cluster, leader)
        client.apply_pool({"name": "default", "capacity": {"cpu": 1}})
        with prometheus(
            tmp_path / "prometheus", [f"127.0.0.1:{leader.status_port}"], quick_rules()
        ) as server:
            proxy.delay(1.2)
            tasks = ({"id": f"late-{number}", "command": ["true"]} for number in itertools.count())
            fires(server, "TallyTransitionsSlow", lambda: client.submit(next(tasks)))
        assert leader_of(cluster) is leader
        kill(leader)  # in good order it would end slowly


@slow
def test_a_node_that_is_lost(tmp_path: Path) -> None:
    """A kubelet that cannot be reached: nothing proves that its pod stopped.

    It comes back, and so does what is known.
    """
    settings = {**QUICK, "TALLY_RELIST_SECONDS": "1"}
    options = {"engine": "kubernetes", "fake_cluster": True, "replicas": 1}
    with (
        local_cluster(tmp_path / "cluster", settings=settings, **options) as cluster,
        cluster.client() as client,
    ):
        assert cluster.fake_cluster is not None
        client.apply_pool({"name": "default", "capacity": {"cpu": 1}})
        client.submit(
            {"id": "far-away", "image": "busybox:1.36", "command": ["sleep", "600"], "resources": {"cpu": 1}}
        )
        wait_until(lambda: client.get("far-away").state is State.RUNNING, "the pod", timeout=60)
        with prometheus(tmp_path / "prometheus", addresses(cluster), quick_rules()) as server:
            cluster.fake_cluster.state.lose_node()
            fires(server, "TallyAttemptsLost")
            cluster.fake_cluster.state.restore_node()
            wait_until(lambda: "TallyAttemptsLost" not in server.firing(), "its end", timeout=90, poll=0.2)


@slow
def test_an_error_of_tallys_own(tmp_path: Path) -> None:
    """One task's step raises: it is counted, and in the second term the task is set aside.

    Both are told, and others go on.
    """
    settings = {**QUICK, VARIABLE: "plan-task:raise:poison"}
    with (
        local_cluster(tmp_path / "cluster", replicas=2, settings=settings) as cluster,
        cluster.client() as client,
    ):
        client.apply_pool({"name": "default", "capacity": {"cpu": 2}})
        with prometheus(tmp_path / "prometheus", addresses(cluster), quick_rules()) as server:
            client.submit_many(
                [
                    {"id": task_id, "command": ["true"], "resources": {"cpu": 1}}
                    for task_id in ("poison", "sound")
                ]
            )
            fires(server, "TallyErrors")
            fires(server, "TallyQuarantined")
            client.wait(["sound"], timeout_seconds=60)
