"""Engine events: an engine's list, its observations, the outcome of effects, and its silence.

`epoch` is that of the tenure that asked. A later tenure does not believe the answer.
"""

from __future__ import annotations

from typing import NamedTuple

from controller.core.model.nodes import NodeRoom
from controller.core.model.task import Observation
from controller.core.planning.plan import Effect


class Listed(NamedTuple):
    """A full list of the engine's attempts, requested at `began`."""

    epoch: int
    observations: list[Observation]
    began: float


class Observed(NamedTuple):
    """One observation from the engine's watch."""

    epoch: int
    observation: Observation


class EngineSilent(NamedTuple):
    """The engine did not answer a list. Nothing is concluded, and nothing is admitted until it answers."""

    epoch: int
    message: str


class Started(NamedTuple):
    """A Start was carried out, or found the attempt there."""

    epoch: int
    effect: Effect
    observation: Observation


class StartRefused(NamedTuple):
    """The engine refused a Start, and has certainly started nothing.

    A `transient` refusal is tried again, and does not count.
    """

    epoch: int
    effect: Effect
    reason: str
    message: str
    transient: bool


class StopSent(NamedTuple):
    """The engine accepted a Stop. The end is still to be observed, unless the engine reported it at once."""

    epoch: int
    effect: Effect
    observation: Observation | None


class Found(NamedTuple):
    """The engine's answer to a Prove."""

    epoch: int
    effect: Effect
    observation: Observation


class LogKept(NamedTuple):
    """A KeepLog is over: written at `revision`, or given up (0). The engine may now drop the attempt."""

    epoch: int
    effect: Effect
    revision: int


class EffectFailed(NamedTuple):
    """The engine did not answer an effect, so that its outcome is unknown.

    The effect is tried again after a pause. The pause grows from `retry_after` seconds with each failure in a
    row, unless it `is_delay`: what the effect needs then takes its time.
    """

    epoch: int
    effect: Effect
    message: str
    retry_after: float
    is_delay: bool = False


class NodesSeen(NamedTuple):
    """The nodes, all of them, as the engine sees them now, since a pool's capacity follows them."""

    epoch: int
    nodes: tuple[NodeRoom, ...]


class NodesUnseen(NamedTuple):
    """The nodes cannot be seen now. Nothing is concluded: what was seen before stays."""

    epoch: int
    message: str


EngineEvent = (
    NodesSeen
    | NodesUnseen
    | Listed
    | Observed
    | EngineSilent
    | Started
    | StartRefused
    | StopSent
    | Found
    | LogKept
    | EffectFailed
)
