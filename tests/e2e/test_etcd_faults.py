"""etcd dies, and is silent, under real replicas with real attempts."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import pytest

from controller.core.model.lifecycle import State
from tests.support.local import (
    QUICK,
    Gate,
    Journal,
    Line,
    check_promise,
    leader_of,
    leads,
    local_cluster,
    pid_of,
)
from tests.support.waiting import wait_until

SILENT_SECONDS = 8.0


def test_etcd_is_killed_and_restarted_in_the_midst_of_200_running_tasks(tmp_path: Path) -> None:
    """Half of them end while etcd is away.

    Nothing is lost, no attempt is touched, and no replica has to be restarted.
    """
    journal = Journal(tmp_path / "journal")
    away, back = Gate(tmp_path / "away"), Gate(tmp_path / "back")
    with local_cluster(tmp_path / "data", settings=QUICK) as cluster, cluster.client() as client:
        client.apply_pool({"name": "default", "capacity": {"cpu": 50}})
        tasks = [
            {
                "id": f"task-{n}",
                "command": journal.command((away if n % 2 else back).body),
                "resources": {"cpu": "250m"},
            }
            for n in range(200)
        ]
        ids = [result.id for result in client.submit_many(tasks)]
        waiting = [
            {"id": f"queued-{n}", "command": journal.command("true"), "resources": {"cpu": 1}}
            for n in range(20)
        ]
        ids += [result.id for result in client.submit_many(waiting)]
        wait_until(lambda: len(journal.starts()) == 200, "200 running tasks", timeout=60)
        pids = [pid_of(replica) for replica in cluster.replicas]

        cluster.etcd.kill()
        away.open()
        wait_until(
            lambda: not any(leads(replica) for replica in cluster.replicas),
            "the leader's own end of its term",
        )
        ended = [
            line.task_id for line in wait_until(lambda: ends(journal, 100), "the end of the first hundred")
        ]
        assert not set(ended) & {f"task-{n}" for n in range(0, 200, 2)}, "an attempt was stopped"
        cluster.etcd.start()
        back.open()
        views = client.wait(ids, timeout_seconds=60)

        assert {view.state for view in views.values()} == {State.SUCCEEDED}
        assert [pid_of(replica) for replica in cluster.replicas] == pids
        assert cluster.tend() == []
        history = check_promise(cluster, journal, ids)
        assert set(history.admissions.values()) == {1}


def ends(journal: Journal, count: int) -> list[Line]:
    """The lines of attempts that have ended, once there are that many."""
    lines = [line for line in journal.lines() if line.what == "end"]
    return lines if len(lines) >= count else []


@pytest.mark.slow  # the chaos run has it too; in one process, tests/runtime
def test_etcd_is_silent_for_longer_than_the_lease(tmp_path: Path) -> None:
    """The leader stops itself, followers answer and say how old their answer is, attempts run on, and all
    goes on by itself.
    """
    journal, gate = Journal(tmp_path / "journal"), Gate(tmp_path / "gate")
    with local_cluster(tmp_path / "data", settings=QUICK) as cluster, cluster.client() as client:
        client.apply_pool({"name": "default", "capacity": {"cpu": 4}})
        tasks = [
            {"id": f"task-{n}", "command": journal.command(gate.body), "resources": {"cpu": "250m"}}
            for n in range(16)
        ]
        tasks += [
            {"id": f"later-{n}", "command": journal.command("true"), "resources": {"cpu": 1}}
            for n in range(8)
        ]
        ids = [result.id for result in client.submit_many(tasks)]
        wait_until(lambda: len(journal.starts()) == 16, "running tasks")
        leader = leader_of(cluster)
        follower = next(replica for replica in cluster.replicas if replica is not leader)
        stale = f"http://127.0.0.1:{follower.status_port}/v1/tasks"

        wait_until(lambda: staleness(stale) < SILENT_SECONDS, "a follower that has loaded")

        os.kill(cluster.etcd.pid, signal.SIGSTOP)
        try:
            wait_until(lambda: not leads(leader), "the leader's own end of its term")
            wait_until(lambda: staleness(stale) > SILENT_SECONDS, "a stale answer", poll=0.2)
            assert len(httpx.get(stale, trust_env=False).json()["items"]) == 24
            assert not any(leads(replica) for replica in cluster.replicas)
        finally:
            os.kill(cluster.etcd.pid, signal.SIGCONT)
        gate.open()
        views = client.wait(ids, timeout_seconds=60)

        assert {view.state for view in views.values()} == {State.SUCCEEDED}
        assert cluster.tend() == []
        check_promise(cluster, journal, ids)


def staleness(url: str) -> float:
    """How old a replica says that its answer is; infinite while it has none."""
    answer = httpx.get(url, trust_env=False, timeout=5)
    return float(answer.headers["Tally-Staleness-Seconds"]) if answer.status_code == 200 else float("inf")
