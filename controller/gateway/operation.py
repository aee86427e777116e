"""A route of the gateway: one description, for the server and for the OpenAPI document."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from controller.endpoint.problems import Problem
from controller.endpoint.query import Parameter
from controller.gateway.caller import Caller

IDEMPOTENCY_KEY = "Idempotency-Key"


@dataclass(frozen=True, slots=True)
class CallerRequest:
    """A parsed request of a caller who has signed in.

    `body` is an instance of the route's `body`, if it has one. `request` is for handlers that stream, as is
    `still`: who the caller is and what it may do by now; None when it may not sign in any more.
    """

    caller: Caller
    path: Mapping[str, str]
    values: Mapping[str, Any]
    body: Any
    request: Request
    still: Callable[[], Awaitable[Caller | None]]

    async def still_there(self, so: str = "") -> Caller:
        """Who the caller is by now. Raises Problem (401) if it may not sign in any more; `so` ends it."""
        caller = await self.still()
        if caller is None:
            raise Problem(HTTPStatus.UNAUTHORIZED, f"the token is not valid any more{so}")
        return caller

    def call(self) -> str:
        """The same for each copy of a request that is sent again, and for no other; "" if no key tells.

        Nobody can name another caller's.
        """
        request = self.request
        if not (key := request.headers.get(IDEMPOTENCY_KEY, "")):
            return ""
        parts = (self.caller.identity.name, request.method, request.url.path, key)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. `answer` is the type of its JSON document; None for other content.

    `handle` is called in a thread. With `in_loop` it is a coroutine function, and must not block.
    """

    method: str
    path: str
    operation: str
    summary: str
    handle: Callable[[Any, CallerRequest], Response | Awaitable[Response]]  # the api, the request
    answer: Any = None
    body: Any = None
    parameters: tuple[Parameter, ...] = ()
    problems: Mapping[HTTPStatus, str] = field(default_factory=dict)
    content_type: str = "application/json"
    in_loop: bool = False
    streams: tuple[str, ...] = ()  # types of the body that `handle` itself takes in
    successes: Mapping[HTTPStatus, str] = field(default_factory=lambda: {HTTPStatus.OK: "As asked for."})
    reads_model: bool = False  # also takes the parameters min_revision and wait
    from_memory: bool = False  # `handle` asks nobody else, such as etcd

    @property
    def knows_copies(self) -> bool:
        """Whether a copy of a request that is sent again is known by its key."""
        is_write = self.method != "GET" and not self.reads_model
        return is_write and self.path.startswith("/v1/") and not self.streams  # a task is known by its name

    @property
    def takes(self) -> tuple[str, ...]:
        """The types of the body; none if it has no body."""
        return self.streams or ((JSON,) if self.body is not None else ())
