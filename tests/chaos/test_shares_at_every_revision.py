"""Leaders of a shared pool are killed amid preemptions. An auditor that shares no code with Tally then looks
at each revision that etcd ever had.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from controller.client import Client
from controller.core.model.lifecycle import State
from tests.chaos.pools import shared_pool
from tests.support.local import (
    QUICK,
    Journal,
    Tending,
    check_promise,
    kill,
    leader_of,
    local_cluster,
    wait_ready,
)
from tests.support.share_auditor import audit
from tests.support.share_records import read
from tests.support.waiting import wait_until

# a group of several tests, which xdist starts before single ones: this takes long
pytestmark = pytest.mark.xdist_group("chaos")

KILLS = 3
POOL = shared_pool(cpu=4, limit=3)


@pytest.mark.slow  # the simulator judges the same after each step, with more faults
@pytest.mark.timeout(120)
def test_shares_are_exact_at_every_revision_whoever_is_killed(tmp_path: Path) -> None:
    """Four owners, three replicas; each leader is killed while attempts are being stopped for others."""
    journal = Journal(tmp_path / "journal")
    with (
        local_cluster(tmp_path / "data", replicas=3, settings=QUICK) as cluster,
        cluster.client() as client,
        Tending(cluster),
    ):
        client.apply_pool(POOL)
        ids: list[str] = []
        for turn in range(KILLS):
            # those who may be stopped fill the pool first
            ids += _submit(client, journal, turn, "sleep 1", search=4, anybody=3)
            _until_running(client, 4)
            seen = _preempted(client)
            ids += _submit(client, journal, turn, "sleep 0.2", vision=4, speech=3)
            wait_until(lambda seen=seen: _preempted(client) - seen, "a preemption")  # type: ignore[misc]
            kill(leader_of(cluster))
            wait_ready(cluster)
        ended = client.wait(ids, timeout_seconds=60)
        assert {view.state for view in ended.values()} == {State.SUCCEEDED}
        auditor = audit(read(cluster.endpoint), "default")
        print(f"{auditor.revisions} revisions, {auditor.preemptions} preemptions")
        assert auditor.findings == []
        assert auditor.unfinished() == []
        assert auditor.rebuilds == 0, "what was used was never estimated"
        assert auditor.preemptions >= KILLS
        history = check_promise(cluster, journal, ids)
        assert len(history.writers) > KILLS


def _submit(client: Client, journal: Journal, turn: int, body: str, **owners: int) -> list[str]:
    """So many tasks of each owner, of three priorities and two sizes."""
    names = itertools.count()
    tasks: list[dict[str, Any]] = [
        {
            "id": f"{owner}-{turn}-{n}",
            "owner": owner,
            "command": journal.command(body),
            "resources": {"cpu": "500m" if n % 3 == 2 else 1},
            "priority": next(names) % 3,
            "grace_seconds": 1,
        }
        for owner, count in owners.items()
        for n in range(count)
    ]
    assert all(result.outcome == "created" for result in client.submit_many(tasks))
    return [task["id"] for task in tasks]


def _until_running(client: Client, least: int) -> None:
    wait_until(
        lambda: sum(view.state is State.RUNNING for view in client.tasks()) >= least,
        "running tasks",
        poll=0.1,
    )


def _preempted(client: Client) -> frozenset[tuple[str, int]]:
    """The attempts that were, or are being, stopped for others."""
    return frozenset((view.id, view.attempt) for view in client.tasks() if view.reason.lower() == "preempted")
