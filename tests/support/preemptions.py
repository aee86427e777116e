"""Preemptions by the hundred: an owner takes back what is guaranteed to it, again and again.

The borrower's tasks fill the pool and never end by themselves; each round, the owner with the guarantee
submits short ones, for which all of the borrower's are stopped, and then begin anew.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from controller.client import Client
from controller.core.model.lifecycle import State
from controller.dev.cluster import LocalCluster
from tests.support.local import kill, leader_of, wait_ready
from tests.support.waiting import wait_until

PATIENCE = 300.0
Make = Callable[[str], dict[str, Any]]


def shared_pool(pool: dict[str, Any], size: int) -> dict[str, Any]:
    """The pool with room for so many tasks of 10m, all of it guaranteed to `owner`."""
    whole = {"cpu": f"{10 * size}m"}
    capacity = {**pool.get("capacity", {}), **whole}
    sharing = {"owners": {"owner": {"guarantee": whole}, "borrower": {}}}
    preemption = {"reclaim": True, "min_run": 0, "per_minute": 100_000}
    return {**pool, "capacity": capacity, "sharing": sharing, "preemption": preemption}


def preempt(
    cluster: LocalCluster,
    users: Client,
    pool: dict[str, Any],
    make: Make,
    *,
    rounds: int,
    size: int,
    kills: bool,
    looks: Callable[[], object] = lambda: None,
) -> dict[str, list[str]]:
    """Run the rounds, with the leader killed in every second one if `kills`; returns the ids by owner.

    `looks` is called again and again meanwhile.
    """
    name = pool["name"]
    users.apply_pool(shared_pool(pool, size))

    def specs(owner: str, shell: str) -> list[dict[str, Any]]:
        return [
            {**make(shell), "pool": name, "owner": owner, "resources": {"cpu": "10m"}} for _ in range(size)
        ]

    def until(what: str, reached: Callable[[], bool]) -> None:
        wait_until(lambda: looks() is None and reached(), what, timeout=PATIENCE, poll=0.2)

    def running(ids: list[str]) -> int:
        views = [view for view in users.tasks(pool=name, state="Running") if view.id in ids]
        return sum(not (view.status is not None and view.status.stopping) for view in views)

    borrowers, ids = specs("borrower", "sleep 86400"), []
    users.submit_many(borrowers)
    borrowed = [spec["id"] for spec in borrowers]
    for number in range(rounds):
        until("the borrower to fill the pool", lambda: running(borrowed) == size)
        own = specs("owner", "sleep 0.2")
        assert all(result.outcome == "created" for result in users.submit_many(own))
        if kills and number % 2:
            wait_ready(cluster)
            kill(leader_of(cluster), signal.SIGKILL)
        ids += [spec["id"] for spec in own]
        finished = users.wait([spec["id"] for spec in own], timeout_seconds=PATIENCE)
        looks()
        assert {view.state for view in finished.values()} == {State.SUCCEEDED}
    until("the borrower to come back", lambda: running(borrowed) == size)
    for task_id in borrowed:
        users.cancel(task_id)
    users.wait(borrowed, timeout_seconds=PATIENCE)
    return {"owner": ids, "borrower": borrowed}
