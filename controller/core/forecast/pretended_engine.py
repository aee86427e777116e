"""The engine of a look ahead: it runs nothing, and attempts end, well, when their expected time has come."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from controller.core.forecast.durations import Basis, Durations, Expected
from controller.core.model.records import Task
from controller.core.model.task import AttemptId, Observation, Phase

_NEVER = float("inf")


class PretendedEngine:
    """See the module's docstring. `endless`: what it runs of which nothing tells how long, and the pools."""

    def __init__(self, durations: Durations) -> None:
        self._durations = durations
        self._ends: list[tuple[float, AttemptId, bool]] = []  # a heap; with whether it ends well
        self._runs: dict[AttemptId, tuple[Basis | None, str]] = {}  # with its pool
        self._ended: dict[str, Mapping[Basis, int]] = {}
        self.endless: dict[str, str] = {}

    def ended(self, pool: str) -> Mapping[Basis, int]:
        """How many attempts of the pool have ended, by what their durations rest on."""
        return self._ended.get(pool, {})

    def next_end(self) -> float:
        """When the next attempt ends; infinite if none does."""
        return self._ends[0][0] if self._ends else _NEVER

    def begin(
        self,
        attempt: AttemptId,
        task: Task,
        now: float,
        started_at: float | None = None,
        latest: float = _NEVER,
    ) -> Expected | None:
        """An attempt begins, or has begun at `started_at`. It ends by `latest`.

        Returns what is known of how long it takes.
        """
        elapsed = max(0.0, now - started_at) if started_at is not None else 0.0
        expected = self._durations.expected(task, elapsed)
        if expected is None and latest == _NEVER:
            self._runs[attempt] = None, task.pool
            self.endless[task.id] = task.pool
            return None
        seconds, basis = (
            (expected.seconds, expected.basis) if expected is not None else (_NEVER, Basis.DEADLINE)
        )
        self._runs[attempt] = basis, task.pool
        heapq.heappush(self._ends, (max(now, min(now - elapsed + seconds, latest)), attempt, True))
        return expected

    def stop(self, attempt: AttemptId, at: float) -> None:
        """It ends then, and not well, unless it has ended before."""
        if attempt in self._runs:
            heapq.heappush(self._ends, (at, attempt, False))

    def take_ends(self, now: float) -> list[Observation]:
        """What has ended by then."""
        found = []
        while self._ends and self._ends[0][0] <= now:
            at, attempt, is_well = heapq.heappop(self._ends)
            if attempt not in self._runs:
                continue  # it was stopped before
            basis, pool = self._runs.pop(attempt)
            self.endless.pop(attempt.task_id, None)
            if basis is not None:
                before = self.ended(pool)
                self._ended[pool] = {**before, basis: before.get(basis, 0) + 1}
            phase, exit_code, reason = (
                (Phase.SUCCEEDED, 0, "Completed") if is_well else (Phase.FAILED, None, "Stopped")
            )
            found.append(
                Observation(
                    attempt=attempt,
                    phase=phase,
                    stopped=True,
                    exit_code=exit_code,
                    reason=reason,
                    finished_at=at,
                )
            )
        return found
