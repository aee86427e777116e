"""A connection to the status endpoint, with limits on everything that its peer can do (fault 9).

Limited are the number of connections, the time for a TLS handshake and for a request, the size of a request,
the idle time of keep-alive, and the time in which a peer reads none of its answer. At the maximum number, a
new connection replaces the one that has waited longest for its next request, or else the one that has been
sending a body longest, so neither idle connections nor slow bodies can keep a probe out. Connections count
from their acceptance, before TLS.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from itertools import chain
from typing import Any

import h11
from starlette.types import Scope
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from controller.endpoint.access import EndpointAccess
from controller.endpoint.problems import Problem
from controller.endpoint.stream import EncodedEvents

MAX_CONNECTIONS = 512
MAX_HEAD_BYTES = 16 * 1024
MAX_REQUEST_BYTES = 64 * 1024  # including a body, which no handler reads
REQUEST_SECONDS = 10.0  # for a client to send its request, and for a TLS handshake
LOOK_SECONDS = 10.0  # a connection whose peer reads nothing of an answer for this long is cut
# key in a request's state: whether its connection has a certificate that the client authority signed
CERTIFIED = "tally.certified"
CERTIFICATE = "tally.certificate"  # the same: that certificate, as `ssl` tells it; {} for none
CONNECTION = "tally.connection"  # key in a request's state: its StatusProtocol
CLOSE_SECONDS = 2.0  # for a peer to close its side of TLS

# Headers of every answer, even to a malformed request. Strict-Transport-Security is missing on purpose: it
# would apply to every port of the host name.
PROTECTION = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",  # the live page has its own
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_log = logging.getLogger(__name__)
# uvicorn logs a warning for each malformed request, which would let a client fill the log.
_log.setLevel(logging.ERROR)


def head_problem(scope: Scope) -> Problem | None:
    """Why a request is refused whose head is too long; None if it is not.

    h11 bounds what it has to wait for, and not what has arrived at once.
    """
    fields = sum(len(name) + len(value) for name, value in scope.get("headers", ()))
    if fields + len(scope.get("raw_path", b"")) + len(scope.get("query_string", b"")) <= MAX_HEAD_BYTES:
        return None
    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    return Problem(status, f"the address and the headers have more than {MAX_HEAD_BYTES} bytes")


class Door:
    """The state that the connections of one server share.

    `waiting` has the connections that wait for a request, the longest first; `sending`, in the same order,
    those whose request's body has not arrived. `most_bytes` is the size of a
    request; None if the handlers bound what they read. `most_connections` is MAX_CONNECTIONS, unless given.
    """

    def __init__(
        self,
        access: EndpointAccess,
        most_bytes: int | None = MAX_REQUEST_BYTES,
        most_connections: int | None = None,
    ) -> None:
        self.access = access
        self.most_bytes = most_bytes
        self._most_connections = most_connections
        self.waiting: dict[StatusProtocol, None] = {}
        self.sending: dict[StatusProtocol, None] = {}

    @property
    def most_connections(self) -> int:
        """How many there may be."""
        return self._most_connections or MAX_CONNECTIONS


class StatusProtocol(H11Protocol):
    """See the module's docstring. uvicorn creates one per connection, and handles HTTP in it.

    uvicorn writes to `transport`. With TLS, this is not the accepted transport, and it exists only after the
    handshake.
    """

    def __init__(
        self,
        door: Door,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state | {CONNECTION: self}, _loop)
        self.logger = _log
        self._door = door
        self._accepted: asyncio.Transport | None = None
        self._securing: asyncio.Task[None] | None = None
        self._is_open = False  # whether uvicorn knows of the connection
        self._early = b""  # data that arrived with the last message of the handshake
        self._overdue: asyncio.TimerHandle | None = None
        self._look_again: asyncio.TimerHandle | None = None
        self._received = 0  # bytes since the last request began
        self._untaken_before = 0
        self._took = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # of TCP, no other
        """See asyncio.Protocol."""
        self._accepted = transport
        if not self._finds_room():
            transport.abort()
            return
        self.connections.add(self)
        self._expect_request()
        self._look()
        if self._door.access.tls is None:
            self._open(transport)
        else:
            transport.pause_reading()  # the next bytes are TLS's
            self._securing = self.loop.create_task(self._secure(transport))

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if not self._is_open:
            self._early += data
            return
        before = self.cycle
        super().data_received(data)
        self._received = len(data) + (self._received if self.cycle is before else 0)
        if self._door.most_bytes is not None and self._received > self._door.most_bytes:
            self._cut()
        elif self._is_answering():
            self._door.waiting.pop(self, None)
            if self.conn.their_state is h11.SEND_BODY:
                self._door.sending.setdefault(self)
            else:
                self._door.sending.pop(self, None)

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._took = True
        if self._is_open:
            super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._forget()
        if self._is_open:
            super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for a request that it cannot parse; `msg` says why."""
        # in the middle of the previous request's answer
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self._cut()
            return
        answer = Problem(HTTPStatus.BAD_REQUEST, f"the request is not valid HTTP: {msg}").response()
        headers = [
            *answer.raw_headers,
            *((name.encode(), value.encode()) for name, value in PROTECTION.items()),
        ]
        head = h11.Response(
            status_code=answer.status_code,
            headers=[*headers, (b"Connection", b"close")],
            reason=b"Bad Request",
        )
        for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def on_response_complete(self) -> None:
        """Called by uvicorn after an answer was written."""
        self._expect_request()
        super().on_response_complete()

    def shutdown(self) -> None:
        """Called by uvicorn when the server stops."""
        if self._is_open:
            super().shutdown()
        else:
            self._cut()

    def write_page(self, page: EncodedEvents) -> bool:
        """Write a part of the current answer; see `stream.Write`."""
        if self.flow.write_paused or self.transport.is_closing():
            return False
        self.transport.write(page.plain if self.scope["http_version"] == "1.0" else page.chunk)
        return True

    # -- bounds

    def _finds_room(self) -> bool:
        if len(self.connections) < self._door.most_connections:
            return True
        longest = next(chain(self._door.waiting, self._door.sending), None)
        if longest is not None:
            longest._cut()
        return longest is not None

    async def _secure(self, accepted: asyncio.Transport) -> None:
        assert self._door.access.tls is not None
        try:
            secured = await self.loop.start_tls(
                accepted,
                self,
                self._door.access.tls,
                server_side=True,
                ssl_handshake_timeout=REQUEST_SECONDS,
                ssl_shutdown_timeout=CLOSE_SECONDS,
            )
        # No TLS, too late (TimeoutError), or cut off. Not logged: a peer can cause this often.
        except OSError:
            self._cut()
            return
        assert secured is not None
        certificate = secured.get_extra_info("peercert") or {}
        self.app_state = {**self.app_state, CERTIFIED: bool(certificate), CERTIFICATE: certificate}
        self._open(secured)
        if self._early:
            early, self._early = self._early, b""
            self.data_received(early)

    def _open(self, transport: asyncio.Transport) -> None:
        self._is_open = True
        super().connection_made(transport)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_request(self) -> None:
        self._door.sending.pop(self, None)
        self._door.waiting.pop(self, None)
        self._door.waiting[self] = None
        if self._overdue is not None:
            self._overdue.cancel()
        self._overdue = self.loop.call_later(REQUEST_SECONDS, self._cut_if_late)

    def _cut_if_late(self) -> None:
        if self._is_answering():
            return
        if self._untaken():  # a peer that does not read the previous answer is left to `_look`
            self._expect_request()
        else:
            self._cut()

    def _look(self) -> None:
        """Cut the connection if its peer has read none of the waiting bytes since the last look."""
        untaken = self._untaken()
        if 0 < self._untaken_before <= untaken and not self._took:
            self._cut()
            return
        self._untaken_before, self._took = untaken, False
        self._look_again = self.loop.call_later(LOOK_SECONDS, self._look)

    def _untaken(self) -> int:
        """The number of written bytes that the kernel has not accepted, since the peer does not read."""
        assert self._accepted is not None
        above = (
            self.transport.get_write_buffer_size()
            if self._is_open and self.transport is not self._accepted
            else 0
        )
        return above + self._accepted.get_write_buffer_size()

    def _cut(self) -> None:
        self._forget()
        if self._accepted is not None:
            self._accepted.abort()

    def _forget(self) -> None:
        self.connections.discard(self)
        self._door.waiting.pop(self, None)
        self._door.sending.pop(self, None)
        for timer in (self._overdue, self._look_again):
            if timer is not None:
                timer.cancel()
        if self._securing is not None and self._securing is not asyncio.current_task(self.loop):
            self._securing.cancel()
