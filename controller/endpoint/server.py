"""The status endpoint's server: read-only, with limits on everything, in a thread of its own (fault 9).

Connections are limited in number, time and size (see `connections`). Handlers run in a few threads. Streams
have no queues (see `stream`). Every method but GET and HEAD is answered with 405, on every path. `access`
decides which clients may read.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import cast

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller.config.values import is_loopback
from controller.endpoint.access import EndpointAccess
from controller.endpoint.api import Look, ReadApi, look_nowhere
from controller.endpoint.connections import (
    CERTIFIED,
    MAX_CONNECTIONS,
    MAX_HEAD_BYTES,
    MAX_REQUEST_BYTES,
    PROTECTION,
    Door,
    StatusProtocol,
    head_problem,
)
from controller.endpoint.minutes import Minutes
from controller.endpoint.problems import Problem, exhausted
from controller.endpoint.query import MIN_REVISION, WAIT, parse_parameters
from controller.endpoint.route import Ask, Route
from controller.endpoint.routes import ASSETS, ROUTES
from controller.endpoint.store_reads import HasComeTo, ReadLog, StoreReads, has_all, no_log
from controller.endpoint.stream import Feed
from controller.errors import TallyError
from controller.views.replica import Facts, Listener, ReadableReplica

MAX_WAITING = 128  # requests that may wait for a revision
KEEP_ALIVE_SECONDS = 5
UNACKNOWLEDGED_MILLISECONDS = 30_000  # a peer that acknowledges nothing for this long is cut off
STOP_SECONDS = 3.0
_READING = ("GET", "HEAD")
_PROBES = frozenset(route.path for route in ROUTES if route.is_probe)
_log = structlog.get_logger(__name__)


class StatusAddressUnavailable(TallyError):
    """The endpoint cannot listen on its address."""


class StatusServer:
    """Serves `view` on host:port (port 0: a free one) between `start` and `stop`.

    `exposition` returns the body of /metrics, `kept_log` a task's kept log, `look` what is to come, and
    `has_come_to` whether the store has a revision.
    """

    def __init__(
        self,
        view: ReadableReplica,
        host: str = "127.0.0.1",
        port: int = 0,
        exposition: Callable[[], bytes] = bytes,
        access: EndpointAccess | None = None,
        kept_log: ReadLog = no_log,
        look: Look = look_nowhere,
        has_come_to: HasComeTo = has_all,
    ) -> None:
        self._view = view
        self._access = access or EndpointAccess()
        self._address = (host, port)
        self._feed = Feed()
        self._api = ReadApi(view, self._feed, ROUTES, exposition, StoreReads(kept_log, has_come_to), look)
        self._minutes = Minutes(self._api.hour, view.reading, view.now)
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._subscriptions: list[Callable[[], None]] = []
        self.url = ""  # set by `start`

    def start(self) -> None:
        """Listen and serve. Raises StatusAddressUnavailable."""
        listening = listen(*self._address)
        host, port = listening.getsockname()[:2]
        scheme = "https" if self._access.tls is not None else "http"
        self.url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        alone = is_loopback(host)
        if not alone and not self._access.asks:
            _log.warning(
                "other machines can reach the status endpoint, and it requires no credentials: every client"
                " that reaches it can read all tasks. Set status_token_file or status_client_ca_file, or"
                " restrict access in the network",
                url=self.url,
            )
        elif not alone and self._access.tls is None:
            _log.warning(
                "the status endpoint's token crosses the network in clear text: set status_cert_file",
                url=self.url,
            )
        listeners: tuple[Listener, ...] = (self._feed, self._api.hour, *self._api.indexes)
        self._subscriptions = [self._view.subscribe(listener) for listener in listeners]
        self._server = uvicorn.Server(
            uvicorn.Config(
                application(self._api, self._access, checks_host=alone and not self._access.asks),
                http=cast(type[asyncio.Protocol], partial(StatusProtocol, Door(self._access))),
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=1,
            )
        )
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listening]}, name="tally-status", daemon=True
        )
        self._thread.start()
        self._minutes.start()

    def stop(self) -> None:
        """End all streams, all connections and the thread within STOP_SECONDS. Idempotent."""
        for end in self._subscriptions:
            end()
        self._minutes.close()
        self._feed.close()
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(STOP_SECONDS)
            if self._thread.is_alive():
                _log.warning("status endpoint still running", url=self.url, waited_seconds=STOP_SECONDS)
        self._api.close()  # only now: requests that were just arriving have been answered


def application(api: ReadApi, access: EndpointAccess, *, checks_host: bool) -> ASGIApp:
    """The routes as an ASGI application, with the headers and problem documents that all answers share."""
    app = Starlette(
        routes=[Path(route.path, _endpoint(api, route), methods=["GET"]) for route in (*api.routes, ASSETS)],
        exception_handlers={
            Problem: answer_problem,
            HTTPException: _answer_http_exception,
            Exception: answer_failure,
        },
    )
    app.router.redirect_slashes = False
    return _Frame(app, api.view, access, checks_host)


class _Frame:
    """Wraps every answer: checks the credentials and the method, and adds the common headers."""

    def __init__(
        self, app: ASGIApp, view: ReadableReplica, access: EndpointAccess, checks_host: bool
    ) -> None:
        self._app = app
        self._view = view
        self._access = access
        self._checks_host = checks_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        trusted = self._access.admits(headers.get("authorization", ""), scope["state"].get(CERTIFIED, False))
        scope["tally.trusted"] = trusted

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered = MutableHeaders(scope=message)
                told = _headers(scope.get("tally.facts") or self._view.facts()) if trusted else {}
                for name, value in (told | PROTECTION).items():
                    answered.setdefault(name, value)
            await send(message)

        await (self._refusal(scope, headers, trusted) or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, headers: Headers, trusted: bool) -> Response | None:
        if (problem := head_problem(scope)) is not None:
            return problem.response()
        if self._checks_host and not self._access.expects(headers.get("host", "")):
            detail = "this endpoint serves this machine only: use localhost or its address as the host"
            return Problem(HTTPStatus.MISDIRECTED_REQUEST, detail).response()
        if not trusted and scope["path"] not in _PROBES:
            detail = (
                "send a token as `Authorization: Bearer …`, or as the password in a browser, or present a"
                " client certificate"
            )
            answer = Problem(HTTPStatus.UNAUTHORIZED, detail).response()
            # one header per scheme: browsers ignore the second scheme in a list
            for scheme in ("Bearer", "Basic"):
                answer.headers.append("WWW-Authenticate", f'{scheme} realm="Tally"')
            return answer
        if scope["method"] not in _READING:
            detail = (
                "this endpoint is read-only: submit, cancel and change tasks with `tally`, which writes to"
                " the store"
            )
            return Problem(
                HTTPStatus.METHOD_NOT_ALLOWED, detail, headers={"Allow": ", ".join(_READING)}
            ).response()
        if int(headers.get("content-length", "0")) > MAX_REQUEST_BYTES:
            detail = "the request body is too large: this endpoint is read-only and needs none"
            return Problem(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, headers={"Connection": "close"}
            ).response()
        return None


def _endpoint(api: ReadApi, route: Route) -> Callable[[Request], Awaitable[Response]]:
    known = (*route.parameters, *((MIN_REVISION, WAIT) if route.reads_model else ()))
    names = {parameter.name for parameter in known}

    async def endpoint(request: Request) -> Response:
        given = request.query_params.multi_items()
        values = parse_parameters(
            known, given if route.strict else [pair for pair in given if pair[0] in names]
        )
        # without a limit, waiting requests could take up all connections
        if route.reads_model and values["wait"] and api.feed.waiting >= MAX_WAITING:
            detail = (
                f"{MAX_WAITING} requests are already waiting: omit `wait`, ask another replica, or try"
                " again later"
            )
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "5"})
        if route.reads_model and not await api.feed.reached(values["min_revision"], values["wait"]):
            detail = (
                f"this replica has not reached revision {values['min_revision']} yet: wait longer (`wait`),"
                " or ask another replica"
            )
            raise Problem(HTTPStatus.PRECONDITION_FAILED, detail, parameter="min_revision")
        facts = request.scope["tally.facts"] = api.view.facts()
        if route.reads_model and not facts.revision:  # an empty list would mean that there are no tasks
            detail = "this replica has not loaded the records yet: ask another one, or try again"
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "1"})
        ask = Ask(
            path=request.path_params,
            values=values,
            facts=facts,
            last_event_id=request.headers.get("last-event-id", ""),
            head_only=request.method == "HEAD",
            trusted=request.scope["tally.trusted"],
        )
        if route.in_loop:
            return await cast(Awaitable[Response], route.handle(api, ask))
        loop = asyncio.get_running_loop()
        return cast(Response, await loop.run_in_executor(api.readers, route.handle, api, ask))

    return endpoint


async def answer_problem(_: Request, error: Exception) -> Response:
    """Answer a Problem as its document."""
    return cast(Problem, error).response()


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    status = HTTPStatus(cast(HTTPException, error).status_code)
    detail = f"there is nothing at {request.url.path[:200]!r}; see / for what there is"
    return Problem(status, detail if status is HTTPStatus.NOT_FOUND else status.description).response()


async def answer_failure(request: Request, error: Exception) -> Response:
    """Answer an error that no handler expects: one that is raised on purpose, a limit, or a bug."""
    problem = exhausted(error)
    if isinstance(error, TallyError):  # raised on purpose: its text is for the caller
        problem = Problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error), headers={"Retry-After": "5"})
    if problem is not None:
        _log.warning("status request failed", path=request.url.path, why=problem.document.detail)
        return problem.response()
    _log.error("status request failed", path=request.url.path, error=repr(error), exc_info=error)
    return Problem(
        HTTPStatus.INTERNAL_SERVER_ERROR, "this is a bug in Tally; the replica's log has the details"
    ).response()


def _headers(facts: Facts) -> dict[str, str]:
    return {
        "Tally-Revision": str(facts.revision),
        "Tally-Role": facts.role,
        "Tally-Leader-Known": "true" if facts.leader else "false",
        "Tally-Staleness-Seconds": f"{facts.staleness_seconds:.3f}",
    }


def listen(host: str, port: int, what: str = "the status endpoint", flag: str = "--status") -> socket.socket:
    """A socket that listens on host:port (port 0: a free one). Raises StatusAddressUnavailable.

    `what` listens there, and `flag` chooses its address, for the message.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
        )[0]
        # The protocol is named: asyncio turns off Nagle's delay (40 ms per answer) only then.
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            user_timeout = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux only; connections inherit it
            if user_timeout is not None:
                listening.setsockopt(protocol, user_timeout, UNACKNOWLEDGED_MILLISECONDS)
            listening.bind(address)
            listening.listen(MAX_CONNECTIONS)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise StatusAddressUnavailable(
            f"{what} cannot listen on {host}:{port}: {error.strerror or error}; stop the process that"
            f" listens there, or choose another address with {flag} HOST:PORT (port 0 picks a free one)"
        ) from error
    return listening
