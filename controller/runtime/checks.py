"""What a replica checks of itself: whether its process should keep running, and whether it can answer."""

from __future__ import annotations

from controller.core.model.installation import EngineIdentity
from controller.core.model.printable import counted
from controller.views.explain import span
from controller.views.freshness import Freshness, StalenessLimits
from controller.views.replica import Check


def loop(silence_seconds: float, limit_seconds: float) -> Check:
    """Whether the control loop turns."""
    return Check("control-loop", silence_seconds <= limit_seconds, f"last turn {silence_seconds:.1f} s ago")


def model(tasks: int, revision: int, *, loaded: bool) -> Check:
    """Whether there is a model to answer from."""
    return Check("model", loaded, f"{counted(tasks, 'task')} at revision {revision}" if loaded else "loading")


def store(age_seconds: float, limits: StalenessLimits, error: str) -> Check:
    """Whether the store was heard from recently. `error` is its last error; "" if it answers."""
    seen = f"heard from {age_seconds:.1f} s ago" + (f": {error}" if error else "")
    return Check("store", limits.judge(age_seconds) is not Freshness.DEAD, seen, error)


def leader(name: str, age_seconds: float, limits: StalenessLimits) -> Check:
    """Whether a replica leads, as far as the store told `age_seconds` ago."""
    verb = "leads" if limits.judge(age_seconds) is Freshness.FRESH else f"led {span(age_seconds)} ago"
    return Check("leader", bool(name), f"{name} {verb}" if name else "no leader is known")


def engine_identity(told: EngineIdentity | None, why_not: str) -> Check:
    """Whether the engine is the recorded one: a replica with another one must not lead."""
    return Check("engine-identity", not why_not, why_not or str(told))


def clock(problem: str) -> Check:
    """Whether the clock agrees with most other replicas': one that differs must not lead."""
    return Check("clock", not problem, problem or "agrees with most others, or is not known to differ")


def engine(name: str, age_seconds: float | None, limits: StalenessLimits, *, silent: str | None) -> Check:
    """Whether the engine answers the leader, and not too long ago: a call that hangs says nothing.

    `silent` is why its last list failed ("" if that is not known); None if it did not fail.
    """
    if age_seconds is None:
        return Check(
            "engine", False, f"{name} has not answered in this term" + (f": {silent}" if silent else "")
        )
    answers = silent is None and limits.judge(age_seconds) is not Freshness.DEAD
    if answers:
        return Check("engine", True, f"{name} answered {span(age_seconds)} ago")
    return Check(
        "engine",
        False,
        f"{name} does not answer, and answered last {span(age_seconds)} ago"
        + (f": {silent}" if silent else ""),
    )
