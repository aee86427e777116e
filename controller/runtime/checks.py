"""What a replica checks of itself: whether its process should go on, and whether it should be asked; each with its age."""

from __future__ import annotations

from controller.core.explain import span
from controller.core.freshness import Freshness, Limits
from controller.core.view import Check


def loop(silence_seconds: float, limit_seconds: float) -> Check:
    """Whether the control loop turns."""
    return Check("control-loop", silence_seconds <= limit_seconds, f"last turn {silence_seconds:.1f} s ago")


def model(tasks: int, revision: int, *, loaded: bool) -> Check:
    """Whether there is a model to answer from."""
    return Check("model", loaded, f"{tasks} tasks at revision {revision}" if loaded else "loading")


def store(age_seconds: float, limits: Limits, error: str) -> Check:
    """Whether the store was heard of lately; `error` is what its last answer said, if it was none."""
    seen = f"heard of {age_seconds:.1f} s ago"
    return Check("store", limits.judge(age_seconds) is not Freshness.DEAD, f"{seen}: {error}" if error else seen)


def leader(name: str) -> Check:
    """Whether anybody leads."""
    return Check("leader", bool(name), f"{name} leads" if name else "no leader is known")


def engine(name: str, age_seconds: float | None, limits: Limits, *, answers: bool) -> Check:
    """Whether the engine answers the leader: its last list, and not too long ago."""
    if age_seconds is None:
        return Check("engine", False, f"{name} has not answered in this term")
    seen = f"{name} answered {span(age_seconds)} ago"
    return Check(
        "engine", answers and limits.judge(age_seconds) is not Freshness.DEAD, seen if answers else f"{seen}, but not since"
    )
