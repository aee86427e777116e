"""The whole path on a fake cluster: real etcd, three replica processes, the leader killed, answers lost,
watches ended.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.audit.audit import run_audit
from controller.client import Client
from controller.clock import SystemClock
from controller.core.model.lifecycle import FINISHED
from controller.dev.cluster import CLUSTER, LocalCluster
from controller.dev.fake_kubernetes import ClusterOptions, FakeCluster, script_annotation
from tests.engine.kubernetes_cases import engine_on
from tests.engine.process_cases import wait_for
from tests.support.local import local_cluster

TASKS = 500
LEADERS_KILLED = 3
SETTINGS = {
    "TALLY_LEASE_TTL_SECONDS": "2",
    "TALLY_KEEPALIVE_INTERVAL_SECONDS": "0.5",
    "TALLY_DEADLINE_MARGIN_SECONDS": "0.3",
    "TALLY_RELIST_SECONDS": "3",
}


@pytest.fixture
def fake() -> Iterator[FakeCluster]:
    with FakeCluster(ClusterOptions(scale=0.1)).start() as cluster:
        yield cluster


@pytest.fixture
def replicas(fake: FakeCluster, tmp_path: Path) -> Iterator[LocalCluster]:
    """etcd and three replicas, on the fake cluster."""
    settings = {**SETTINGS, "TALLY_KUBECONFIG": str(fake.kubeconfig(tmp_path / "kubeconfig"))}
    with local_cluster(tmp_path / "data", engine="kubernetes", settings=settings) as cluster:
        yield cluster


def task(index: int, chance: random.Random) -> dict[str, Any]:
    """Most succeed; some fail twice, some run until they are cancelled."""
    script: dict[str, Any] = {
        "run_seconds": chance.uniform(0.5, 10.0),
        "exit_code": 3 if index % 10 == 3 else 0,
    }
    if index % 10 == 7:
        script = {"run_seconds": None, "on_term": 143}
    return {
        "id": f"job-{index}",
        "image": "busybox:1",
        "command": ["run"],
        "resources": {"cpu": 1},
        "grace_seconds": 5,
        "retry": {"max_attempts": 2, "backoff_seconds": 0.5},
        "pod_template": {"metadata": {"annotations": script_annotation(**script)}},
    }


def kill_leader(cluster: LocalCluster, client: Client) -> bool:
    """SIGKILL for the replica that leads; False when there is none now."""
    leader = client.replicas.leader()
    for replica in cluster.replicas:
        if leader is not None and replica.process is not None and leader.id.startswith(replica.name):
            os.kill(replica.process.pid, signal.SIGKILL)
            replica.process.wait()
            return True
    return False


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("gates", [False, True], ids=["", "gated"])
def test_every_task_ends_once(fake: FakeCluster, replicas: LocalCluster, tmp_path: Path, gates: bool) -> None:
    """The audit is clean, no attempt ran twice, no task ran twice at once, and no pod is left without a
    task.
    """
    chance = random.Random(1)
    with Client(replicas.endpoint, cluster=CLUSTER) as client:
        client.apply_pool(
            {"name": "default", "capacity": {"cpu": 60}, "engine_options": {"scheduling_gates": gates}}
        )
        fake.state.faults.drop_answers(rate=0.05)
        list(client.submit_many(task(index, chance) for index in range(TASKS)))
        waiting_for_cancel = [f"job-{index}" for index in range(TASKS) if index % 10 == 7]
        killed = 0
        seen_ended = 0

        def all_ended() -> bool:
            nonlocal killed, seen_ended
            replicas.tend()
            states = {view.id: view.state for view in client.tasks()}
            for task_id in [each for each in waiting_for_cancel if states[each] in ("Running", "Pending")]:
                client.cancel(task_id)
                waiting_for_cancel.remove(task_id)
            ended = sum(state in FINISHED for state in states.values())
            if killed < LEADERS_KILLED and ended >= (killed + 1) * TASKS // (LEADERS_KILLED + 1):
                killed += kill_leader(replicas, client)
            if ended > seen_ended + 25:
                seen_ended = ended
                fake.state.watches.cut() if chance.random() < 0.5 else fake.state.watches.expire()
            return ended == TASKS

        wait_for(all_ended, "all tasks to end", 200.0)
        assert killed == LEADERS_KILLED
        assert Counter(view.state for view in client.tasks()) == {
            "Succeeded": TASKS * 8 // 10,
            "Failed": TASKS // 10,
            "Cancelled": TASKS // 10,
        }
        fake.state.faults.clear()
        engine = engine_on(fake, tmp_path, CLUSTER)
        wait_for(
            lambda: not any("deletionTimestamp" in pod["metadata"] for pod in fake.state.pods()),
            "deleted pods to be let go",
        )
        report = run_audit(client.store, engine, CLUSTER, SystemClock())
        engine.close()
    assert report.findings == ()
    assert fake.state.overlaps() == []
    assert max(Counter(run.pod for run in fake.state.executions).values()) == 1
    assert all(run.ended is not None for run in fake.state.executions)
    assert {pod["metadata"]["labels"]["tally.dev/task"] for pod in fake.state.pods()} <= {
        f"job-{index}" for index in range(TASKS)
    }
    assert fake.state.faults.struck["drop-answer create"] > 5
