"""A route of the status endpoint: one description, for the server and for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from controller.endpoint.query import Parameter
from controller.views.replica import Facts


@dataclass(frozen=True, slots=True)
class Ask:
    """A parsed request: its parameters by name, and the replica's facts from before the model is read."""

    path: Mapping[str, str]
    values: Mapping[str, Any]
    facts: Facts
    last_event_id: str = ""
    head_only: bool = False
    trusted: bool = True  # may see details; False only for a probe without credentials


@dataclass(frozen=True, slots=True)
class Route:
    """One path. `answer` is the type of its JSON document; None for other content.

    `handle` is called in a thread. With `in_loop` it is a coroutine function, and must not block.
    """

    path: str
    operation: str
    summary: str
    handle: Callable[[Any, Ask], Response | Awaitable[Response]]  # the Api, the request
    content_type: str = "application/json"
    answer: Any = None
    parameters: tuple[Parameter, ...] = ()
    problems: Mapping[HTTPStatus, str] = field(default_factory=dict)
    moves: str = ""  # when it answers 307, and whereto
    in_loop: bool = False
    reads_model: bool = False  # also takes the parameters min_revision and wait
    is_probe: bool = False  # needs no credentials (kubelet has none); without them, no details are shown
    strict: bool = True  # whether unknown parameters are refused; probes ignore them
