"""What the waiting tasks of a queue ask for, in sum: kept as tasks come and go, so that it costs no scan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from controller.core.model.resources import ZERO


class QueueSums:
    """Sums by owner. Arrays, which stand in a queue for all of their members, are only listed."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, int]] = {}  # owner → resource → amount
        self._counts: dict[str, int] = {}  # owner → tasks in its sum; no number is 0
        self._arrays: dict[str, dict[str, None]] = {}

    def add(self, owner: str, task_id: str, request: Mapping[str, int], *, repeats: bool) -> None:
        """A task joins the queue; `repeats`: it is an array."""
        if repeats:
            self._arrays.setdefault(owner, {})[task_id] = None
            return
        self._counts[owner] = self._counts.get(owner, 0) + 1
        sums = self._sums.setdefault(owner, {})
        for name, amount in request.items():
            sums[name] = sums.get(name, 0) + amount

    def discard(self, owner: str, task_id: str, request: Mapping[str, int], *, repeats: bool) -> None:
        """The same task leaves the queue."""
        if repeats:
            del self._arrays[owner][task_id]
            if not self._arrays[owner]:
                del self._arrays[owner]
            return
        self._counts[owner] -= 1
        sums = self._sums[owner]
        for name, amount in request.items():
            sums[name] -= amount
        if not self._counts[owner]:
            del self._counts[owner], self._sums[owner]

    def owners(self) -> Iterator[str]:
        """Those who have anything in the queue; "" for all, if the pool is not shared."""
        return iter({**self._counts, **self._arrays})

    def sum_of(self, owner: str) -> tuple[Mapping[str, int], int]:
        """What the owner's tasks ask for, without its arrays, and how many tasks that are.

        The caller changes nothing in it.
        """
        return self._sums.get(owner, ZERO), self._counts.get(owner, 0)

    def arrays_of(self, owner: str) -> Iterator[str]:
        """The owner's arrays that are no gangs."""
        return iter(self._arrays.get(owner, ()))
