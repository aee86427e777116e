"""What an engine tells a leader, as values: what it has, what became of an effect, that it is silent.

`epoch` is the tenure that asked: what was said to an earlier one is no longer believed.
"""

from __future__ import annotations

from typing import NamedTuple

from controller.core.model.task import Observation
from controller.core.planning.plan import Effect


class Listed(NamedTuple):
    """A full list of the engine, asked for at `began`."""

    epoch: int
    observations: list[Observation]
    began: float


class Observed(NamedTuple):
    """One observation from the engine's watch."""

    epoch: int
    observation: Observation


class EngineSilent(NamedTuple):
    """The engine did not answer a list: nothing is concluded, and nothing new is admitted until it does."""

    epoch: int
    message: str


class Started(NamedTuple):
    """A Start was carried out (or found the attempt there)."""

    epoch: int
    effect: Effect
    observation: Observation


class StartRefused(NamedTuple):
    """The engine refused a Start, and certainly started nothing.

    What is `transient` is tried again, uncounted.
    """

    epoch: int
    effect: Effect
    reason: str
    message: str
    transient: bool


class StopSent(NamedTuple):
    """A Stop was taken by the engine; the end is still to be observed, unless the engine told it at once."""

    epoch: int
    effect: Effect
    observation: Observation | None


class Found(NamedTuple):
    """The engine's answer to a Prove."""

    epoch: int
    effect: Effect
    observation: Observation


class LogKept(NamedTuple):
    """A KeepLog is over: written at `revision`, or given up (0). The engine may let go of the attempt now."""

    epoch: int
    effect: Effect
    revision: int


class EffectFailed(NamedTuple):
    """The engine did not answer an effect: nothing is known of its outcome.

    It is tried again after a pause, which grows from `retry_after` seconds with each failure in a row; not
    where it `is_delay`: what it needs takes its time.
    """

    epoch: int
    effect: Effect
    message: str
    retry_after: float
    is_delay: bool = False


EngineEvent = (
    Listed | Observed | EngineSilent | Started | StartRefused | StopSent | Found | LogKept | EffectFailed
)
