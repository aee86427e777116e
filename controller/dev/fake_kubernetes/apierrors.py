"""Refusals in the server's own words: a `Status` document with code, reason, message and details.

The wording is that of kube-apiserver (k8s.io/apimachinery `api/errors`, and the recordings of a real
cluster), so that what a user reads through Tally is what a real cluster would have said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Document = dict[str, Any]

REGEX_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"


class ApiError(Exception):
    """An answer that is not 2xx.

    `plain` sends the message as text instead of a Status document, as the server's filters do.
    """

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: Document | None = None,
        metadata: Document | None = None,
        headers: Mapping[str, str] | None = None,
        plain: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.metadata = metadata or {}
        self.headers = dict(headers or {})
        self.plain = plain

    def document(self) -> Document:
        """The Status document."""
        status: Document = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.metadata,
            "status": "Failure",
        }
        status |= {"message": self.message, "reason": self.reason}
        if self.details is not None:
            status["details"] = self.details
        return status | {"code": self.code}


class Cause(NamedTuple):
    """One field at fault. `reason` is a cause type such as FieldValueInvalid."""

    reason: str
    field: str
    message: str


def invalid_value(field: str, value: object, why: str) -> Cause:
    """A value that `field` may not have."""
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    return Cause("FieldValueInvalid", field, f"Invalid value: {shown}: {why}")


def required(field: str, why: str = "") -> Cause:
    """A field that is missing."""
    return Cause("FieldValueRequired", field, f"Required value: {why}" if why else "Required value")


def forbidden_field(field: str, why: str) -> Cause:
    """A field that may not be set or changed."""
    return Cause("FieldValueForbidden", field, f"Forbidden: {why}")


def invalid(kind: str, name: str, causes: Sequence[Cause]) -> ApiError:
    """422: the object was understood, and is refused."""
    words = [f"{cause.field}: {cause.message}" for cause in causes]
    summary = words[0] if len(words) == 1 else f"[{', '.join(words)}]"
    details = {
        "name": name,
        "kind": kind,
        "causes": [
            {"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in causes
        ],
    }
    return ApiError(422, "Invalid", f'{kind} "{name}" is invalid: {summary}', details=details)


def bad_request(message: str) -> ApiError:
    """400."""
    return ApiError(400, "BadRequest", message)


def unauthorized() -> ApiError:
    """401."""
    return ApiError(401, "Unauthorized", "Unauthorized")


def forbidden(resource: str, name: str, why: str, causes: Sequence[Cause] = ()) -> ApiError:
    """403, for a missing right, a quota or an admission plugin."""
    details: Document = {"name": name, "kind": resource} if name else {"kind": resource}
    if causes:
        details["causes"] = [
            {"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in causes
        ]
    subject = f'{resource} "{name}"' if name else resource
    return ApiError(403, "Forbidden", f"{subject} is forbidden: {why}", details=details)


def not_found(resource: str, name: str) -> ApiError:
    """404 for an object."""
    return ApiError(
        404, "NotFound", f'{resource} "{name}" not found', details={"name": name, "kind": resource}
    )


def no_such_path() -> ApiError:
    """404 for a path that names no resource."""
    return ApiError(404, "NotFound", "the server could not find the requested resource", details={})


def method_not_allowed() -> ApiError:
    """405."""
    return ApiError(
        405, "MethodNotAllowed", "the server does not allow this method on the requested resource", details={}
    )


def already_exists(resource: str, name: str) -> ApiError:
    """409 for a creation."""
    return ApiError(
        409, "AlreadyExists", f'{resource} "{name}" already exists', details={"name": name, "kind": resource}
    )


def conflict(resource: str, name: str, why: str) -> ApiError:
    """409 for a change whose precondition does not hold."""
    message = f'Operation cannot be fulfilled on {resource} "{name}": {why}'
    return ApiError(409, "Conflict", message, details={"name": name, "kind": resource})


def modified(resource: str, name: str) -> ApiError:
    """409 for a change of an older version."""
    return conflict(
        resource,
        name,
        "the object has been modified; please apply your changes to the latest version and try again",
    )


def too_old(revision: int, current: int) -> ApiError:
    """410 for a watch or an exact list of a compacted version."""
    return ApiError(410, "Expired", f"too old resource version: {revision} ({current})")


def too_large(revision: int, current: int) -> ApiError:
    """504 for a version that this server has not seen yet (a server that was restored, or lags behind)."""
    message = f"Too large resource version: {revision}, current: {current}"
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    return ApiError(504, "Timeout", f"Timeout: {message}", details={"causes": causes, "retryAfterSeconds": 1})


def continue_expired(token: str) -> ApiError:
    """410 for a continued list; `token` continues it without consistency."""
    message = (
        "The provided continue parameter is too old to display a consistent list result. You can start a new"
        " list without the continue parameter, or use the continue token in this response to retrieve the"
        " remainder of the results. Continuing with the provided token results in an inconsistent list -"
        " objects that were created, modified, or deleted between the time the first chunk was returned and"
        " now may show up in the list."
    )
    return ApiError(410, "Expired", message, metadata={"continue": token})


def unsupported_media_type() -> ApiError:
    """415."""
    accepted = (
        "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json"
    )
    message = f"the body of the request was in an unknown format - accepted media types include: {accepted}"
    return ApiError(415, "UnsupportedMediaType", message, details={})
