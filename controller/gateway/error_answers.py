"""What the gateway answers to errors: problem documents (RFC 9457), which say what the caller can do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import cast

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route

from controller import bulkhead
from controller.client.errors import Conflict, NotFound
from controller.endpoint.problems import Problem, exhausted
from controller.endpoint.server import answer_problem
from controller.engine.base import EngineError, LogsRefused
from controller.errors import InvalidField, TallyError, UserError
from controller.gateway.identity import SignInUnavailable
from controller.gateway.policy import Forbidden
from controller.store.base import StoreDenied, StoreError

log = structlog.get_logger(__name__)


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    found = cast(HTTPException, error)
    status, headers, path = HTTPStatus(found.status_code), dict(found.headers or {}), request.url.path[:200]
    if status is HTTPStatus.METHOD_NOT_ALLOWED:  # which the first route of the path raises, for its own ones
        headers["Allow"] = ", ".join(sorted(_methods_at(request)))
    details = {
        HTTPStatus.NOT_FOUND: f"there is nothing at {path!r}; see /openapi.json for what there is",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{path!r} takes {headers.get('Allow', 'other methods')} only",
    }
    return Problem(status, details.get(status, status.description), headers=headers).response()


def _methods_at(request: Request) -> set[str]:
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    found = (route.methods or set() for route in routes if route.matches(request.scope)[0] is not Match.NONE)
    return set[str]().union(*found)


def problem_of(error: Exception) -> Problem:
    """What is answered to this error. One that nobody expects is counted, and shown in the log."""
    detail = str(error)
    if isinstance(error, Forbidden):
        return Problem(HTTPStatus.FORBIDDEN, detail, verb=error.verb)
    if isinstance(error, NotFound):
        return Problem(HTTPStatus.NOT_FOUND, detail)
    if isinstance(error, InvalidField):
        return Problem(HTTPStatus.BAD_REQUEST, detail, field=error.field)
    if isinstance(error, Conflict | UserError):
        return Problem(HTTPStatus.CONFLICT, detail)
    if isinstance(error, LogsRefused):
        return Problem(HTTPStatus.BAD_REQUEST, detail)
    if isinstance(error, SignInUnavailable | EngineError):
        return Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "5"})
    if isinstance(error, StoreDenied):
        return Problem(HTTPStatus.FORBIDDEN, f"the gateway's own user of etcd may not do this: {detail}")
    if isinstance(error, StoreError):
        return Problem(
            HTTPStatus.SERVICE_UNAVAILABLE, "etcd does not answer: try again", headers={"Retry-After": "2"}
        )
    if isinstance(error, TallyError):  # raised on purpose: its text is for the caller
        return Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "5"})
    if problem := exhausted(error):
        log.warning("request failed", why=problem.document.detail)
        return problem
    bulkhead.caught("gateway", error)
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "this is a bug in Tally; the log has the details")


async def _answer_error(_: Request, error: Exception) -> Response:
    return problem_of(error).response()


async def _answer_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it: the caller left, or broke the framing of its body


ERROR_ANSWERS: Mapping[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    Problem: answer_problem,
    HTTPException: _answer_http_exception,
    TallyError: _answer_error,
    ClientDisconnect: _answer_gone,
    Exception: _answer_error,
}
