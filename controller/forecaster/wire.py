"""What passes between a forecaster and its process: one JSON value a line."""

from __future__ import annotations

from msgspec import Struct

from controller.store.etcd.gateway import GatewayOptions
from controller.views.forecast import ForecastView


class Installation(Struct, frozen=True, kw_only=True):
    """The first line: of which installation the process keeps a model."""

    cluster: str
    options: GatewayOptions
    silence_seconds: float
    name: str  # of whoever asks, for the log
    idle_seconds: float = 300.0  # the process ends if nobody asks for so long


class Question(Struct, frozen=True, kw_only=True):
    """What is to come of these tasks? `revision`: what the asker has seen; the answer is no older."""

    tasks: list[str] = []
    revision: int = 0


class StartError(Struct, frozen=True, array_like=True):
    """A task has begun whose beginning was told: so many seconds off, and that as a share of its wait."""

    seconds: float
    share: float


class Answer(Struct, frozen=True, kw_only=True):
    """The answer to a question, or `problem`: why there is none.

    `is_new`: the look was for this question. `starts`: the errors that were found since the last answer.
    """

    forecast: ForecastView | None = None
    is_new: bool = False
    problem: str = ""
    starts: list[StartError] = []
