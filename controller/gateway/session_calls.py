"""The handlers of a browser's session: who it is of, its begin, and its end."""

from __future__ import annotations

from http import HTTPStatus

from msgspec import Struct
from starlette.responses import Response

from controller.endpoint.problems import Problem
from controller.gateway.api import GatewayApi, answer
from controller.gateway.operation import CallerRequest
from controller.gateway.sessions import COOKIE, SECURE_COOKIE, BrowserSession, ending_header, sent_cookie

SESSION = "tally.session"  # key in a request's scope: the BrowserSession that signed it in
SET_COOKIE = "tally.set-cookie"  # key in a request's scope: the Set-Cookie header of its answer


class SessionDocument(Struct, frozen=True, kw_only=True):
    """The caller's session. Who proves who it is in another way has none, and needs none."""

    name: str  # the caller's
    cluster: str  # the installation that the gateway serves
    csrf: str  # what X-Tally-CSRF must be in requests that change something; "" without a session
    ends_at: float | None  # seconds since the epoch: when it ends if nothing is asked by then


async def session(api: GatewayApi, ask: CallerRequest) -> Response:
    """The caller's session."""
    return answer(_document(api, ask, ask.request.scope.get(SESSION)))


async def begin_session(api: GatewayApi, ask: CallerRequest) -> Response:
    """A session for the token that the request was sent with. Raises InvalidField, Problem."""
    authorization = ask.request.headers.get("authorization", "")
    if not authorization:
        detail = "a session stands for a token: send one as `Authorization: Bearer …`"
        raise Problem(HTTPStatus.BAD_REQUEST, detail)
    # a proxy in between may be the one that speaks TLS: the browser tells in Origin
    secure = came_by_tls(ask) or ask.request.headers.get("origin", "").startswith("https://")
    begun = api.sessions.begin(authorization, secure=secure)
    ask.request.scope[SET_COOKIE] = api.sessions.header(begun)
    return answer(_document(api, ask, begun), HTTPStatus.CREATED)


async def end_session(_: GatewayApi, ask: CallerRequest) -> Response:
    """No session any more, in this browser."""
    sent = sent_cookie(ask.request.headers, secure=came_by_tls(ask))
    name = sent.name if sent is not None else SECURE_COOKIE if came_by_tls(ask) else COOKIE
    ask.request.scope[SET_COOKIE] = ending_header(name)
    return Response(status_code=HTTPStatus.NO_CONTENT)


def came_by_tls(ask: CallerRequest) -> bool:
    """Whether the request's connection has TLS."""
    return bool(ask.request.scope["scheme"] == "https")


def _document(api: GatewayApi, ask: CallerRequest, of: BrowserSession | None) -> SessionDocument:
    return SessionDocument(
        name=ask.caller.identity.name,
        cluster=api.service.cluster,
        csrf=of.secret if of is not None else "",
        ends_at=of.ends_at if of is not None else None,
    )
