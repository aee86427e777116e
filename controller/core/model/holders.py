"""Who holds something of the pools with `sharing`: an index for preemption and shares, kept for these alone.

A task whose spec cannot be read also holds what its status says: it counts for shares, and is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from controller.core.model import quarantine
from controller.core.model.records import Task
from controller.core.model.task import Status


class Holders:
    """The Pending and Running tasks of some pools, by owner, and those that are being stopped."""

    def __init__(self) -> None:
        self._pools: dict[str, dict[str, dict[str, Task]]] = {}  # pool → owner → task
        self._aside: dict[str, dict[str, Task]] = {}  # pool → those that are left alone
        self._stopping: dict[str, dict[str, Task]] = {}
        self._places: dict[str, tuple[str, str]] = {}
        self._lowest: dict[tuple[str, str | None], int | None] = {}  # of a pool and an owner of it, or of all

    def keep(self, pool: str, tasks: Iterable[Task]) -> None:
        """Keep the index of this pool from now on; `tasks` hold something of it."""
        self.drop(pool)
        self._pools[pool], self._aside[pool], self._stopping[pool] = {}, {}, {}
        for task in tasks:
            self.add(task)

    def drop(self, pool: str) -> None:
        """Keep the index of this pool no longer."""
        for tasks in self._pools.pop(pool, {}).values():
            for task_id in tasks:
                self._forget_lowest(*self._places.pop(task_id))
        self._stopping.pop(pool, None)
        for task_id in self._aside.pop(pool, {}):
            del self._places[task_id]

    def add(self, task: Task) -> None:
        """Take in a task that holds something."""
        owners = self._pools.get(task.pool)
        if owners is None or task.status is None:
            return
        self._places[task.id] = task.pool, task.owner
        if task.frozen - {quarantine.KIND}:
            self._aside[task.pool][task.id] = task
            return
        owners.setdefault(task.owner, {})[task.id] = task
        self._forget_lowest(task.pool, task.owner)
        if task.status.stopping:
            self._stopping[task.pool][task.id] = task

    def discard(self, task_id: str) -> None:
        """Take out a task, if it is there."""
        place = self._places.pop(task_id, None)
        if place is not None:
            pool, owner = place
            if self._aside[pool].pop(task_id, None) is not None:
                return
            self._forget_lowest(pool, owner)
            tasks = self._pools[pool][owner]
            del tasks[task_id]
            if not tasks:
                del self._pools[pool][owner]
            self._stopping[pool].pop(task_id, None)

    def owners(self, pool: str) -> Iterator[str]:
        """The owners that hold something of the pool."""
        return iter(self._pools.get(pool, ()))

    def of(self, pool: str, owner: str) -> Iterator[Task]:
        """The tasks of an owner that hold something of the pool."""
        return iter(self._pools.get(pool, {}).get(owner, {}).values())

    def counted_owners(self, pool: str) -> set[str]:
        """Those whose shares are the sums of something; see `counted`."""
        return {*self._pools.get(pool, ()), *(task.owner for task in self._aside.get(pool, {}).values())}

    def counted(self, pool: str, owner: str) -> Iterator[Status]:
        """The statuses of all tasks of the owner that hold something of the pool, those left alone, too."""
        aside = (task for task in self._aside.get(pool, {}).values() if task.owner == owner)
        return (task.status for task in (*self.of(pool, owner), *aside) if task.status is not None)

    def lowest(self, pool: str, owner: str | None = None) -> int | None:
        """The lowest priority of the tasks of the owner (None: of all) that hold something of the pool.

        None if there is none. It is found anew only where the tasks have changed.
        """
        if (pool, owner) not in self._lowest:
            owners = self._pools.get(pool, {})
            if owner is None:
                found = [lowest for each in owners if (lowest := self.lowest(pool, each)) is not None]
            else:
                found = [task.priority for task in owners.get(owner, {}).values()]
            self._lowest[pool, owner] = min(found, default=None)
        return self._lowest[pool, owner]

    def stopping(self, pool: str) -> Iterator[Task]:
        """The tasks of the pool whose attempts are being stopped."""
        return iter(self._stopping.get(pool, {}).values())

    def _forget_lowest(self, pool: str, owner: str) -> None:
        self._lowest.pop((pool, owner), None)
        self._lowest.pop((pool, None), None)
