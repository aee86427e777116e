"""What a route of the status endpoint is: the one description that the server serves and the OpenAPI
document shows.
"""

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
    """A request, parsed: values by name, the facts as they were before the model is read, and what else
    was sent.
    """

    path: Mapping[str, str]
    values: Mapping[str, Any]
    facts: Facts
    last_event_id: str = ""
    head_only: bool = False
    trusted: bool = True  # may be told all; False only where a probe without credentials asks


@dataclass(frozen=True, slots=True)
class Route:
    """One path. `answer` is the type of its JSON document, None for other content.

    `handle` is called in a thread unless `in_loop`; then it is a coroutine function, which must not block.
    """

    path: str
    operation: str
    summary: str
    handle: Callable[[Any, Ask], Response | Awaitable[Response]]  # the Api, the request
    content_type: str = "application/json"
    answer: Any = None
    parameters: tuple[Parameter, ...] = ()
    problems: Mapping[HTTPStatus, str] = field(default_factory=dict)
    in_loop: bool = False
    reads_model: bool = False  # takes min_revision and wait as well
    is_probe: bool = False  # answered to everybody, in one word to whom has no credentials: kubelet has none
    strict: bool = True  # whether unknown parameters are refused; probes take what they are sent
