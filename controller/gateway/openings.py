"""What callers keep open at the same time: streams, watches, waits, uploads, looks ahead. Each has limits.

For one event loop. There is a limit for all callers together, so that the gateway stays alive, and one for
each caller, so that it stays there for others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from enum import StrEnum
from http import HTTPStatus
from typing import NamedTuple

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from controller.endpoint.problems import Problem

MOST_CONNECTIONS = 4096  # of all callers; see endpoint.connections


class Opening(StrEnum):
    """What can be open."""

    STREAMS = "streams"
    WATCHES = "watches"
    WAITS = "waits"
    READS = "reads"  # that wait for a revision
    CALLS = "calls"  # short requests that wait for their turn, or for etcd
    BODIES = "bodies"  # that have not arrived yet
    UPLOADS = "uploads"
    LISTS = "lists"
    ACTS = "acts"
    LOGS = "logs"
    FORECASTS = "forecasts"


class Limit(NamedTuple):
    """Of all callers together, and of one."""

    of_all: int
    of_one: int


LIMITS: Mapping[Opening, Limit] = {
    Opening.STREAMS: Limit(2048, 1024),
    Opening.WATCHES: Limit(1024, 256),
    Opening.WAITS: Limit(2048, 1024),
    Opening.READS: Limit(1024, 256),
    Opening.CALLS: Limit(1024, 256),
    Opening.BODIES: Limit(512, 64),
    Opening.UPLOADS: Limit(64, 16),
    Opening.LISTS: Limit(16, 4),
    Opening.ACTS: Limit(64, 16),
    Opening.LOGS: Limit(256, 64),
    Opening.FORECASTS: Limit(4, 2),
}

TOGETHER = Limit(MOST_CONNECTIONS - 512, MOST_CONNECTIONS // 2)
"""Of all kinds: some connections are left for probes and short requests, and half for other callers."""


class Openings:
    """See the module's docstring."""

    def __init__(self, limits: Mapping[Opening, Limit] = LIMITS) -> None:
        self._limits = limits
        self._of_all = Counter[Opening]()
        self._of_one = Counter[tuple[Opening, str]]()

    def counts(self) -> dict[str, int]:
        """How many of each kind are open."""
        return {str(kind): self._of_all[kind] for kind in Opening}

    def refusal(self, kind: Opening, name: str) -> Problem | None:
        """Why the caller may open no more of this kind now; None if it may."""
        limit, own = self._limits[kind], (self._of_one[each, name] for each in Opening)
        if self._of_one[kind, name] >= limit.of_one or sum(own) >= TOGETHER.of_one:
            detail = f"{name} has {self._of_one[kind, name]} {kind} open already: end some, or try again"
            return Problem(HTTPStatus.TOO_MANY_REQUESTS, detail, headers={"Retry-After": "2"})
        if self._of_all[kind] >= limit.of_all or self._of_all.total() >= TOGETHER.of_all:
            detail = f"{self._of_all[kind]} {kind} are open already: ask another gateway, or try again"
            return Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "5"})
        return None

    @contextmanager
    def one(self, kind: Opening, name: str) -> Iterator[None]:
        """One more of this kind is open. Raises Problem if the caller may open no more."""
        if (problem := self.refusal(kind, name)) is not None:
            raise problem
        self._of_all[kind] += 1
        self._of_one[kind, name] += 1
        try:
            yield
        finally:
            self._of_all[kind] -= 1
            self._of_one[kind, name] -= 1
            if not self._of_one[kind, name]:
                del self._of_one[kind, name]


class BrokenOff(Exception):
    """An answer that has begun cannot end as it should: its connection is cut, which its reader sees."""


class Open(Response):
    """An answer that counts as open from its first byte to its last.

    `refused` is called in its place if the caller may open no more of this kind by then. With `held`, which
    ends with the answer, it has been counted before.
    """

    def __init__(
        self,
        openings: Openings,
        kind: Opening,
        name: str,
        inner: Response,
        refused: Callable[[], None] = lambda: None,
        held: AbstractContextManager[object] | None = None,
    ) -> None:
        super().__init__()
        self._held = held
        self._refused = refused
        self._openings = openings
        self._kind = kind
        self._name = name
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, or say why not. To HEAD, which nothing would end, only the head is sent."""
        if scope["method"] == "HEAD":
            head = Response(status_code=self._inner.status_code, headers=self._inner.headers)
            await head(scope, receive, send)
            return
        problem = self._openings.refusal(self._kind, self._name) if self._held is None else None
        if problem is not None:
            self._refused()
            await problem.response()(scope, receive, send)
            return
        with self._held or self._openings.one(self._kind, self._name), suppress(BrokenOff):
            await self._inner(scope, receive, send)
