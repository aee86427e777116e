"""The gateway's server: signs callers in, bounds what each may take, and answers as RFC 9457 has errors."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import cast

import msgspec
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route as Path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller.client.gateway_calls import GATEWAY_HEADER
from controller.config.values import is_loopback
from controller.endpoint.access import EndpointAccess
from controller.endpoint.connections import (
    CERTIFICATE,
    MAX_HEAD_BYTES,
    PROTECTION,
    Door,
    StatusProtocol,
    head_problem,
)
from controller.endpoint.problems import Problem
from controller.endpoint.query import MIN_REVISION, WAIT, parse_parameters
from controller.endpoint.reloaded import Reloaded
from controller.endpoint.server import listen
from controller.gateway import bodies, openapi
from controller.gateway.api import WRITTEN, GatewayApi
from controller.gateway.caller import RECHECK_SECONDS, Caller
from controller.gateway.cross_site import refuse_other_sites, require_csrf_token
from controller.gateway.error_answers import ERROR_ANSWERS
from controller.gateway.identity import Identity, SignInUnavailable
from controller.gateway.metrics import UNKNOWN, GatewayMetrics, Measures
from controller.gateway.openings import MOST_CONNECTIONS, Opening
from controller.gateway.operation import CallerRequest, Operation
from controller.gateway.operations import BEGIN_SESSION, OPERATIONS
from controller.gateway.page import PageFiles
from controller.gateway.policy import AccessPolicy
from controller.gateway.rates import Rates
from controller.gateway.session_calls import SESSION, SET_COOKIE
from controller.gateway.sessions import BrowserSession, SentCookie, ending_header, sent_cookie
from controller.gateway.sign_in import SignIn
from controller.runtime.standby import Standby
from controller.views.replica import Listener

# also to a caller to whom no rule gives anything
OPEN_TO_ALL = ("whoami", "canI", "getSession", BEGIN_SESSION, "endSession")
READING = ("GET", "HEAD")
PAGE = "page"  # in the metrics, the operation of a request for a file of the page
OPERATION = "tally.operation"  # key in a request's scope: the operation that it asks for
SEEN = "tally.seen"  # key in a request's scope: the revision that the model had before it was read
KEEP_ALIVE_SECONDS = 30
STOP_SECONDS = 10.0
_log = structlog.get_logger(__name__)


class GatewayServer:
    """Serves on host:port (port 0: a free one) between `start` and `stop`."""

    def __init__(
        self,
        api: GatewayApi,
        standby: Standby,
        sign_in: SignIn,
        policy: Reloaded[AccessPolicy],
        rates: Rates,
        access: EndpointAccess,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._api = api
        self._standby = standby
        self._sign_in = sign_in
        self._policy = policy
        self._rates = rates
        self._access = access
        self._address = (host, port)
        self._ends: list[Callable[[], None]] = []
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._files = PageFiles()
        self.url = ""  # set by `start`

    def start(self) -> None:
        """Listen and serve. Raises StatusAddressUnavailable."""
        listening = listen(*self._address, "the gateway", "--gateway")
        host, port = listening.getsockname()[:2]
        scheme = "https" if self._access.tls is not None else "http"
        self.url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        if not is_loopback(host) and self._access.tls is None:
            _log.warning(
                "the gateway's tokens cross the network in clear text: set gateway_cert_file", url=self.url
            )
        # who hears of a revision finds its changes, and who hears of a change whose task it is
        api = self._api
        listeners: tuple[Listener, ...] = (
            api.events.owners,
            api.changes,
            api.writing.waiting,
            api.service.hour.listener,
            api.events,
            *api.service.pages.indexes,
            api.feed,
        )
        self._ends = [self._standby.subscribe(each) for each in listeners]
        self._api.metrics.observe(
            Measures(
                self._api.service.cluster,
                lambda: not self._failed(),
                lambda: self._standby.revision,
                lambda: self._standby.staleness_seconds,
                self._api.openings.counts,
                self._problems,
            )
        )
        door = Door(self._access, None, MOST_CONNECTIONS)
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._application(),
                http=cast(type[asyncio.Protocol], partial(StatusProtocol, door)),
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=int(STOP_SECONDS) - 2,
            )
        )
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listening]}, name="tally-gateway", daemon=True
        )
        self._thread.start()
        self._api.service.hour.minutes.start()

    def stop(self) -> None:
        """Take no more requests, answer those that have come, and end within STOP_SECONDS. Idempotent."""
        for end in self._ends:
            end()
        self._api.service.hour.minutes.close()
        self._api.feed.close()
        self._api.logs.close()
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(STOP_SECONDS)
        self._api.close()
        self._sign_in.close()

    def state(self) -> dict[str, object]:
        """Whether callers should come here, which checks fail, and which settings' files cannot be used."""
        failed = self._failed()
        unusable = [setting for setting, error in self._problems().items() if error]
        return {"ready": not failed, "problems": (*failed, *unusable)}

    def _failed(self) -> list[str]:
        return [check.name for check in self._standby.ready() if not check.ok and check.name != "leader"]

    def _problems(self) -> dict[str, str]:
        self._policy.current()
        return {
            "gateway_policy_file": self._policy.error,
            **self._sign_in.problems(),
            **self._api.sessions.problems(),
        }

    # -- requests

    def _application(self) -> ASGIApp:
        document = msgspec.json.encode(openapi.document(OPERATIONS))  # once: whoever asks, it is the same

        async def described(_: Request) -> Response:
            return Response(document, media_type="application/json")

        probes: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/openapi.json": described,
        }
        app = Starlette(
            routes=[
                Path("/", self._page, methods=["GET"]),
                Path("/static/{name}", self._page, methods=["GET"]),
                *(Path(path, probe, methods=["GET"]) for path, probe in probes.items()),
                *(Path(route.path, self._endpoint(route), methods=[route.method]) for route in OPERATIONS),
            ],
            exception_handlers=dict(ERROR_ANSWERS),
        )
        app.router.redirect_slashes = False
        return _Frame(app, self._standby, self._api.metrics)

    async def _livez(self, _: Request) -> Response:
        check = self._standby.live()
        return PlainTextResponse("ok\n" if check.ok else check.detail, 200 if check.ok else 503)

    async def _readyz(self, _: Request) -> Response:
        # whether a leader is known is told to who has signed in: without one, tasks are taken in and wait
        failed = self._failed()
        return PlainTextResponse(", ".join(failed) or "ok\n", 503 if failed else 200)

    async def _page(self, request: Request) -> Response:
        # whoever asks: the page shows nothing that its reader has not signed in for
        request.scope[OPERATION] = PAGE
        return self._files.answer(request.path_params.get("name", ""))

    def _endpoint(self, route: Operation) -> Callable[[Request], Awaitable[Response]]:
        known = (*route.parameters, *((MIN_REVISION, WAIT) if route.reads_model else ()))

        async def endpoint(request: Request) -> Response:
            request.scope[OPERATION] = route.operation
            caller = await self._caller(request)
            if caller.rights.may_nothing and route.operation not in OPEN_TO_ALL:
                detail = f"no rule gives {caller.identity.name} anything: ask who keeps the gateway's policy"
                raise Problem(HTTPStatus.FORBIDDEN, detail)
            wait = self._rates.take(caller.identity.name)
            if wait:
                detail = f"{caller.identity.name} asks too often: try again in {wait} s"
                raise Problem(HTTPStatus.TOO_MANY_REQUESTS, detail, headers={"Retry-After": str(wait)})
            still = self._still(request, caller)
            values = parse_parameters(known, request.query_params.multi_items())
            if route.reads_model:
                await self._reach(caller.identity.name, values["min_revision"], values["wait"])
                request.scope[SEEN] = self._standby.revision
            if route.takes:
                bodies.require_plain(request.headers)
            body = None
            if route.body is not None:
                with self._api.openings.one(Opening.BODIES, caller.identity.name):
                    sent = await bodies.whole(request)
                parse = partial(bodies.parse_body, sent, route.body)
                is_small = len(sent) <= bodies.SMALL_BYTES
                body = parse() if is_small else await self._api.read(parse, caller)
            if (now := await still()) is None:  # to wait, or to send a body, may have taken long
                raise _not_signed_in(request)
            ask = CallerRequest(now, request.path_params, values, body, request, still)
            if route.in_loop:
                return await cast(Awaitable[Response], route.handle(self._api, ask))
            work = partial(route.handle, self._api, ask)
            api = self._api
            with api.openings.one(Opening.CALLS, caller.identity.name):
                if route.from_memory:
                    return cast(Response, await api.read(work, caller))
                found = await (api.run(work, caller) if route.reads_model else api.write(work, ask))
                return cast(Response, found)

        return endpoint

    async def _caller(self, request: Request) -> Caller:
        metrics = self._api.metrics
        try:
            identity = await self._identity(request)
        except SignInUnavailable:
            metrics.signed_in("unavailable")
            raise
        metrics.signed_in(identity.method if identity is not None else "none")
        if identity is None:
            raise _not_signed_in(request)
        session = request.scope.get(SESSION)
        if request.method not in READING:
            _refuse_other_pages(request, session)
        if session is not None and (renewed := self._api.sessions.renewed(session)) is not None:
            request.scope[SET_COOKIE] = self._api.sessions.header(renewed)
        wanted = request.headers.get("tally-cluster", "")
        if wanted not in ("", self._api.service.cluster):
            detail = f"cluster: is {wanted[:80]!r}, but this gateway serves {self._api.service.cluster!r}"
            raise Problem(HTTPStatus.BAD_REQUEST, detail, field="cluster")
        return Caller(identity, self._policy.current().rights(identity))

    async def _identity(self, request: Request) -> Identity | None:
        certificate = request.scope["state"].get(CERTIFICATE, {})
        given = request.headers.getlist("authorization")
        if len(given) > 1:
            return None  # a proxy in between may have read another one than we would
        sent = _cookie_of(request)
        if sent is not None:
            session = request.scope[SESSION] = self._api.sessions.opened(sent)
            if session is None:
                return None
            given = [session.authorization]
        return await self._sign_in.identify("".join(given), certificate)

    def _still(self, request: Request, caller: Caller) -> Callable[[], Awaitable[Caller | None]]:
        """For answers that go on: who the caller is by now, asked at most every RECHECK_SECONDS."""
        known: Caller | None = caller
        at = asyncio.get_running_loop().time()

        async def still() -> Caller | None:
            nonlocal known, at
            now = asyncio.get_running_loop().time()
            if known is None or now - at < RECHECK_SECONDS:
                return known
            at = now
            try:
                identity = await self._identity(request)
            except SignInUnavailable:
                return known  # it is not known that it may not
            known = None
            if identity is not None and identity.name == caller.identity.name:
                known = Caller(identity, self._policy.current().rights(identity))
            return known

        return still

    async def _reach(self, name: str, revision: int, seconds: float) -> None:
        if not self._standby.revision:
            detail = "this gateway has not loaded the records yet: ask another one, or try again"
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "1"})
        feed = self._api.feed
        if feed.revision < revision and seconds:
            with self._api.openings.one(Opening.READS, name):
                await feed.reached(revision, seconds)
        if feed.revision < revision:
            if feed.closed:
                detail = "this gateway is stopping: ask another one, or try again"
                raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "1"})
            detail = f"this gateway has not reached revision {revision} yet: wait longer (`wait`)"
            raise Problem(HTTPStatus.PRECONDITION_FAILED, detail, parameter="min_revision")


class _Frame:
    """Adds the headers that all answers share."""

    def __init__(self, app: ASGIApp, standby: Standby, metrics: GatewayMetrics) -> None:
        self._app = app
        self._standby = standby
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = time.monotonic()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.answered(
                    scope.get(OPERATION, UNKNOWN), message["status"], time.monotonic() - begun
                )
                answered = MutableHeaders(scope=message)
                # Who resumes a stream after it misses nothing that came while the model was read. After a
                # write it is that of the write: who sends it as min_revision reads what it has written.
                revision = max(scope.get(SEEN, self._standby.revision), scope.get(WRITTEN, 0))
                for name, value in {
                    **PROTECTION,
                    "Tally-Revision": str(revision),
                    GATEWAY_HEADER: "1",
                }.items():
                    answered.setdefault(name, value)
                if SET_COOKIE in scope:
                    answered.append("Set-Cookie", scope[SET_COOKIE])
            await send(message)

        if (problem := head_problem(scope)) is not None:
            await problem.response()(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)


def _cookie_of(request: Request) -> SentCookie | None:
    """The session's cookie; None if there is none, and for a request that has an Authorization header."""
    if "authorization" in request.headers:
        return None
    return sent_cookie(request.headers, secure=request.scope["scheme"] == "https")


def _refuse_other_pages(request: Request, session: BrowserSession | None) -> None:
    """Raises Problem (403) if a browser may have been made to send this, with its cookie or certificate."""
    # no page of another site can send an Authorization header; but it may have one sign in as its owner
    if "authorization" not in request.headers or request.scope[OPERATION] == BEGIN_SESSION:
        refuse_other_sites(request.headers, request.scope["scheme"])
    if session is not None:
        require_csrf_token(request.headers, session)


def _not_signed_in(request: Request) -> Problem:
    """The answer to who is nobody. A session of nobody ends."""
    detail = "sign in: send a token as `Authorization: Bearer …`, or present a client certificate"
    sent = _cookie_of(request)
    if sent is not None:
        request.scope[SET_COOKIE] = ending_header(sent.name)
        detail = "the session has ended, or its token is not valid any more: sign in again"
    elif "authorization" in request.headers:
        detail = "the token that was sent is not valid here: it is unknown, has expired, or was revoked"
    return Problem(HTTPStatus.UNAUTHORIZED, detail, headers={"WWW-Authenticate": 'Bearer realm="Tally"'})
