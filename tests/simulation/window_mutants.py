"""The seeded bugs of maintenance windows, for `mutants`."""

from __future__ import annotations

from tests.simulation.mutants_base import Edit, Mutant

_WINDOWS = "core.model.maintenance"
_ADMISSION = "core.planning.admission:Admission"
CALM = frozenset[str]()


def _mutant(name: str, where: str, old: str, new: str, faults: frozenset[str] | None = None) -> Mutant:
    edit = Edit(where, old, new)
    has_more = faults is None  # arrays and schedules
    return Mutant(
        name, (edit,), faults=faults, sharing=False, schedules=has_more, arrays=has_more, windows=True
    )


WINDOW_MUTANTS = (
    _mutant(
        "a window is ignored for retries",
        "core.model.indexes:Indexes._enqueue",
        "reach = task.spec.reach_seconds if _has_windows(pool) else 0.0",
        "reach = task.spec.reach_seconds if _has_windows(pool) and task.status is None else -9.0",
    ),
    _mutant(
        "a run deadline is ignored",
        "core.model.task:Spec.reach_seconds",
        "start + run + self.grace_seconds if run is not None else math.inf",
        "start + self.grace_seconds",
    ),
    _mutant(
        "the time to start and to stop is ignored",
        "core.model.task:Spec.reach_seconds",
        "start + run + self.grace_seconds",
        "run",
    ),
    _mutant(
        "a task without a run deadline is kept back by no window that comes",
        "core.model.task:Spec.reach_seconds",
        "math.inf",
        "0.0",
    ),
    _mutant(
        "tasks are admitted within a window",
        f"{_WINDOWS}:room",
        "if any(",
        "if False and any(",
    ),
    _mutant(
        "tasks that waited before the first window was set are not kept back",
        "core.model.indexes:Indexes.size_again",
        "or _has_windows(then) != _has_windows(now)",
        "",
    ),
    _mutant(
        "a head that is kept back blocks those behind it",
        "core.model.queue:Queue.admissible",
        "in self._counting(self._groups).items()",
        "in (self._groups if self._counting(self._groups) == self._groups else {}).items()",
        CALM,
    ),
    _mutant(
        "nobody looks at a pool when its window has ended",
        f"{_ADMISSION}._wake_for_windows",
        "self._agenda.wake_pool(window.ends_at, name)",
        "pass",
        CALM,
    ),
    _mutant(
        "a window lasts until the pool is defined again",
        f"{_WINDOWS}:room",
        "window.starts_at <= now < window.ends_at",
        "window.starts_at <= now",
        CALM,
    ),
)
