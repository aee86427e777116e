"""The errors of calls to etcd, and what they mean for the caller.

Error bodies of etcd 3.4 to 3.6 become `RpcError`, with an `ErrorClass`. Transport errors become
`ConnectionFailed`, which says whether the request can have arrived, and which setting to look at.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from enum import Enum, auto
from http.client import HTTPException, RemoteDisconnected
from typing import Any

import msgspec
import requests
import urllib3
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ReadTimeoutError

from controller.errors import TallyError
from controller.store.etcd import wire


class ErrorClass(Enum):
    """What an error answer of etcd means for the caller."""

    # another try, best on another endpoint, may succeed; the request may have been applied
    TRANSIENT = auto()
    BUSY = auto()  # the same, but it was certainly not applied
    TOKEN = auto()  # sign in again
    DENIED = auto()
    AUTH_OFF = auto()
    COMPACTED = auto()
    FUTURE = auto()
    TOO_LARGE = auto()
    FULL = auto()
    LEASE_MISSING = auto()
    LEASE_EXISTS = auto()
    REFUSED = auto()  # anything else that trying again does not change


class RpcError(TallyError):
    """etcd answered with an error. `in_doubt`: an earlier send of the same request may have been applied."""

    def __init__(self, fault: ErrorClass, message: str, endpoint: str = "") -> None:
        super().__init__(f"{endpoint}: {message}" if endpoint else message)
        self.fault = fault
        self.in_doubt = False


class ConnectionFailed(TallyError):
    """There was no answer, or only a part of one.

    `sent`: the request may have reached etcd. `untrusted`: TLS could not be set up.
    """

    def __init__(self, message: str, *, sent: bool, untrusted: bool = False) -> None:
        super().__init__(message)
        self.sent = sent
        self.untrusted = untrusted


# Messages come first, since etcd uses one gRPC code for many things. Source: api/v3rpc/rpctypes/error.go in
# etcd's sources.
_FAULT_BY_MESSAGE = (
    ("invalid auth token", ErrorClass.TOKEN),
    ("revision in header is old", ErrorClass.TOKEN),
    ("revision of auth store is old", ErrorClass.TOKEN),
    ("user name is empty", ErrorClass.TOKEN),
    ("permission denied", ErrorClass.DENIED),
    ("authentication failed", ErrorClass.DENIED),
    ("authentication is not enabled", ErrorClass.AUTH_OFF),
    ("required revision has been compacted", ErrorClass.COMPACTED),
    ("required revision is a future revision", ErrorClass.FUTURE),
    ("request is too large", ErrorClass.TOO_LARGE),
    ("too many operations", ErrorClass.TOO_LARGE),
    ("received message larger than max", ErrorClass.TOO_LARGE),
    ("database space exceeded", ErrorClass.FULL),
    ("lease not found", ErrorClass.LEASE_MISSING),
    ("lease already exists", ErrorClass.LEASE_EXISTS),
    ("too many requests", ErrorClass.BUSY),
)

_FAULT_BY_CODE = {
    3: ErrorClass.REFUSED,
    5: ErrorClass.REFUSED,
    6: ErrorClass.REFUSED,
    7: ErrorClass.DENIED,
    9: ErrorClass.REFUSED,
    11: ErrorClass.REFUSED,
    12: ErrorClass.REFUSED,
    16: ErrorClass.TOKEN,
}
"""gRPC codes. All others (Unknown, DeadlineExceeded, Unavailable, Internal, …) leave the outcome open."""

_COMMON_NAME = b"CommonName of client sending a request against gateway"
"""Source: `accessController.ServeHTTP` in etcd's embed/serve.go.

For the reason, see https://github.com/etcd-io/etcd/pull/10366
"""

_COMMON_NAME_ADVICE = (
    "an etcd with authentication accepts no client certificate with a common name: use one whose subject"
    " has none (an organization is enough)"
)


def classify(message: str, code: int) -> ErrorClass:
    """What an error means, by etcd's own words, or else by its gRPC code."""
    for words, fault in _FAULT_BY_MESSAGE:
        if words in message:
            return fault
    return _FAULT_BY_CODE.get(code, ErrorClass.TRANSIENT)


def rpc_error(body: bytes, status: int, endpoint: str) -> RpcError:
    """An error body as RpcError. One that is not etcd's (a load balancer's page) leaves the outcome open."""
    try:
        answer = wire.decode_error(body)
    except msgspec.MsgspecError:
        if _COMMON_NAME in body:
            return RpcError(ErrorClass.DENIED, _COMMON_NAME_ADVICE, endpoint)
        return RpcError(
            ErrorClass.TRANSIENT,
            f"HTTP {status}: {body[:200].decode(errors='backslashreplace').strip()}",
            endpoint,
        )
    if isinstance(answer.error, wire.StreamError):
        return stream_error(answer.error, endpoint)
    message = answer.message or answer.error or f"HTTP {status}"
    return RpcError(classify(message, answer.code), message, endpoint)


def stream_error(error: wire.StreamError, endpoint: str = "") -> RpcError:
    """An error inside a stream as RpcError."""
    return RpcError(classify(error.message, error.grpc_code or error.code), error.message, endpoint)


def connection_failed(endpoint: str, error: Exception, *, sent: bool) -> ConnectionFailed:
    """Translate a transport error.

    It counts as not sent only if the connection was certainly never set up.
    """
    causes = list(_causes(error))
    timed_out = (requests.Timeout, ConnectTimeoutError, ReadTimeoutError)
    if (isinstance(error, timed_out) and not isinstance(error, NewConnectionError)) or any(
        isinstance(c, TimeoutError) for c in causes
    ):
        never_connected = isinstance(error, requests.ConnectTimeout | ConnectTimeoutError)
        return ConnectionFailed(f"{endpoint}: no answer in time", sent=sent and not never_connected)
    refused = any(isinstance(c, NewConnectionError | ssl.SSLCertVerificationError) for c in causes)
    broken_off = any(isinstance(c, ssl.SSLEOFError | ssl.SSLZeroReturnError) for c in causes)
    untrusted = not broken_off and any(isinstance(c, ssl.SSLError) for c in causes)
    innermost = next((c for c in reversed(causes) if isinstance(c, OSError) and c.strerror), causes[-1])
    words = f"{endpoint}: {str(innermost) or type(innermost).__name__}"
    if not sent and (advice := _tls_advice(endpoint, causes, broken_off=broken_off)):
        words = f"{words}: {advice}"
    return ConnectionFailed(words, sent=sent and not refused, untrusted=untrusted)


_ISSUER_UNKNOWN = (18, 19, 20, 21)  # OpenSSL's X509_V_ERR_…: self-signed, or no trusted issuer

_OF_DEV = " (for a `tally dev` of another folder: --config DATA_DIR/tally.toml)"

_REFUSES_CLIENT = re.compile("ALERT_(.*CERTIFICATE|UNKNOWN_CA)")


def _tls_advice(endpoint: str, causes: list[BaseException], *, broken_off: bool) -> str:
    """Which setting to look at, for a connection that failed before its use; "" for none."""
    if endpoint.startswith("http:"):
        closed = any(isinstance(c, RemoteDisconnected) for c in causes)
        return (
            "an etcd with TLS does this to plain http: if it has TLS, set `etcd` to https://… and"
            f" `ca_file`{_OF_DEV}"
            if closed
            else ""
        )
    if broken_off or any(isinstance(c, ssl.SSLError) and c.reason == "WRONG_VERSION_NUMBER" for c in causes):
        return "an etcd without TLS does this to https: if it has none, set `etcd` to http://…"
    if any(isinstance(c, ssl.SSLCertVerificationError) and c.verify_code in _ISSUER_UNKNOWN for c in causes):
        return f"set `ca_file` to the authority that signed etcd's certificate{_OF_DEV}"
    if any(isinstance(c, ssl.SSLError) and _REFUSES_CLIENT.search(c.reason or "") for c in causes):
        return "etcd asks for a client certificate that it trusts: set `cert_file` and `key_file`"
    return ""


_OF_CONNECTIONS = (OSError, HTTPException, urllib3.exceptions.HTTPError)  # requests' errors are OSErrors


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and the errors behind it, as requests and urllib3 wrap them.

    They are in arguments, `reason`, cause or context. An error that the caller was handling is in a context,
    too, and says nothing about the connection.
    """
    seen: set[int] = set()
    pending: list[Any] = [error]
    while pending:
        current = pending.pop(0)
        if isinstance(current, _OF_CONNECTIONS if seen else BaseException) and id(current) not in seen:
            seen.add(id(current))
            yield current
            pending += [
                *current.args,
                getattr(current, "reason", None),
                current.__cause__,
                current.__context__,
            ]
