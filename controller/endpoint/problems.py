"""Errors of the status endpoint, as documents of RFC 9457 (problem details for HTTP)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from msgspec import Struct
from starlette.responses import Response

CONTENT_TYPE = "application/problem+json"


class ProblemDocument(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem: what kind (`title`, with the HTTP status), and what exactly (`detail`, a sentence that
    says what to do).
    """

    title: str
    status: int
    detail: str
    type: str = "about:blank"
    parameter: str = ""  # the parameter that does not hold
    checks: tuple[str, ...] = ()  # the checks that failed


class Problem(Exception):
    """Raised by whatever handles a request; answered as its document."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        parameter: str = "",
        checks: tuple[str, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.document = ProblemDocument(
            title=status.phrase, status=status.value, detail=detail, parameter=parameter, checks=checks
        )
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """The answer to the client."""
        return Response(msgspec.json.encode(self.document), self.document.status, self.headers, CONTENT_TYPE)
