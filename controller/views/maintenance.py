"""Maintenance windows as readers show them: what they keep back, until when, and what would run before."""

from __future__ import annotations

from typing import NamedTuple

from controller.core.model.maintenance import (
    MaintenanceWindow,
    Windows,
    keeping_back,
    not_passed,
    opens_at,
    room,
)
from controller.core.model.model import Model
from controller.core.model.task import Pool, Spec
from controller.views.words import at, span, words_of


def kept_back(model: Model, pool: str, now: float) -> int:
    """How many of the tasks in the pool's queue its windows keep back. The cost is that of its groups."""
    return len(model.queue(pool)) - model.eligible(pool, now).counting()


def windows_that_keep(model: Model, pool: str, now: float) -> tuple[int, str] | None:
    """How many tasks the pool's windows keep back, and the first window, in words; None: no task."""
    number, record = kept_back(model, pool, now), model.pools.get(pool)
    window = keeping_back(record.pool.maintenance, now) if record is not None else None
    return (number, window_text(window)) if number and window is not None else None


class WindowFacts(NamedTuple):
    """Of a pool with windows: whether one goes on, and how many tasks are kept back."""

    goes_on: bool
    kept_back: int


def windows_by_pool(model: Model, now: float) -> dict[str, WindowFacts]:
    """The pools with windows that have not passed."""
    found = {name: not_passed(record.pool.maintenance, now) for name, record in model.pools.items()}
    return {
        name: WindowFacts(room(windows, now) < 0, kept_back(model, name, now))
        for name, windows in found.items()
        if windows
    }


def window_text(window: MaintenanceWindow) -> str:
    """From when to when, and why."""
    reason = f" ({words_of(window.reason)})" if window.reason else ""
    return f"{at(window.starts_at)} to {at(window.ends_at)}{reason}"


def windows_text(windows: Windows, now: float) -> str:
    """The windows that have not passed, each with who has set it; "" for none."""
    by = ((window_text(each), f", set by {each.by}" if each.by else "") for each in not_passed(windows, now))
    return "; ".join(map("".join, by))


def window_note(windows: Windows, now: float) -> str:
    """Until when nothing is admitted, or when the next window begins; "" if none is left."""
    window = keeping_back(windows, now)
    if window is None:
        return ""
    is_within = window.starts_at <= now
    return (
        f"maintenance until {at(window.ends_at)}" if is_within else f"maintenance at {at(window.starts_at)}"
    )


def explain_window(spec: Spec | None, pool: Pool, now: float) -> str:
    """What keeps an attempt back that has yet to be admitted, and until when; "" if no window does."""
    if spec is None or not pool.maintenance:
        return ""
    windows, reach = pool.maintenance, spec.reach_seconds
    window, left = keeping_back(windows, now), room(windows, now)
    if window is None or reach <= left:
        return ""
    kept = f"is kept back by the maintenance window of pool {pool.name}, {window_text(window)}"
    opens = opens_at(windows, now, reach)
    until = f"it is not admitted before {at(opens)}, in {span(opens - now)}"
    if left < 0:
        return f"{kept}, within which nothing is admitted; {until}"
    start, grace, run = spec.deadlines.start_seconds or 0.0, spec.grace_seconds, spec.deadlines.run_seconds
    beside = " and ".join(
        f"{span(each)} to {what}" for what, each in (("start", start), ("stop", grace)) if each
    )
    why = "it has no run deadline, and so could run into it"
    if run is not None:
        why = f"its run deadline is {span(run)}" + (f", beside {beside}" if beside else "")
    most = left - start - grace
    before = f"a run deadline of at most {span(most)} would let it run before"
    if most < 1:
        before = "no run deadline would let it run before" + (f", beside {beside}" if beside else "")
    return f"{kept}: {why}, and {span(left)} are left; {before}; {until}"
