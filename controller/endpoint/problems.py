"""The errors of the status endpoint, as problem details for HTTP (RFC 9457)."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from msgspec import Struct
from starlette.responses import Response

CONTENT_TYPE = "application/problem+json"


class ProblemDocument(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem: `title` names its kind, as the HTTP status does; `detail` says what is wrong.

    Where the client can do something, `detail` says what.
    """

    title: str
    status: int
    detail: str
    type: str = "about:blank"
    parameter: str = ""  # the parameter that is wrong
    field: str = ""  # the field of the body that is wrong
    verb: str = ""  # the verb that the caller lacks
    checks: tuple[str, ...] = ()  # the checks that failed


class Problem(Exception):
    """Raised by handlers; answered as its document."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        parameter: str = "",
        field: str = "",
        verb: str = "",
        checks: tuple[str, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.document = ProblemDocument(
            title=status.phrase,
            status=status.value,
            detail=detail,
            parameter=parameter,
            field=field,
            verb=verb,
            checks=checks,
        )
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """The answer to the client."""
        return Response(msgspec.json.encode(self.document), self.document.status, self.headers, CONTENT_TYPE)


def exhausted(error: BaseException) -> Problem | None:
    """What is answered if an error says that this process may have no more threads, files or memory.

    That is no bug: its limits are too small for what is asked. None for any other error.
    """
    is_thread = isinstance(error, RuntimeError) and "start new thread" in str(error)
    is_limit = isinstance(error, OSError) and error.errno in _EXHAUSTED
    if not (is_thread or is_limit or isinstance(error, MemoryError)):
        return None
    detail = f"a limit is reached ({str(error) or 'memory'}): raise those of threads, files or memory"
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "5"})


_EXHAUSTED = (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
