"""What passes between a forecaster and its process: one JSON value a line."""

from __future__ import annotations

from msgspec import Struct

from controller.core.forecast.ahead import HORIZON_SECONDS
from controller.store.etcd.connection import GatewayOptions
from controller.views.forecast import ForecastView
from controller.views.supposition import Supposition


class Subject(Struct, frozen=True, kw_only=True):
    """The first line: the installation of which the process keeps a model. `name`: who asks, for the log."""

    cluster: str
    options: GatewayOptions
    silence_seconds: float
    name: str


class Question(Struct, frozen=True, kw_only=True):
    """What is to come of these tasks (None: of all), and what would come of all if it were as `supposed`?

    `revision`: what the asker has seen. What is told of the tasks that are named is no older; all of it is of
    `at_least` or later. `by`: who would submit what is supposed.
    """

    tasks: list[str] | None = []
    revision: int = 0
    at_least: int = 0
    horizon_seconds: float = HORIZON_SECONDS
    supposed: Supposition | None = None
    by: str = ""


class StartError(Struct, frozen=True, array_like=True):
    """A task has begun whose beginning was told: so many seconds off, and as a share of its wait.

    The wait is the longer one of what was told and what came, so the share is at most 1.
    """

    seconds: float
    share: float


class RefusedSupposition(Struct, frozen=True):
    """What is supposed cannot be done: the field, and why. `is_missing`: it names no task that there is."""

    field: str
    detail: str
    is_missing: bool


class Reply(Struct, frozen=True, kw_only=True):
    """The answer to a question; or `refused`, or `problem`: why there is none.

    `is_new`: the look was for this question. `starts`: the errors that were found since the last answer.
    """

    forecast: ForecastView | None = None
    then: ForecastView | None = None
    refused: RefusedSupposition | None = None
    problem: str = ""
    is_new: bool = False
    starts: list[StartError] = []
