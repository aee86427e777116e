"""One HTTP connection to one etcd endpoint, through etcd3-py, with the library's defects worked round.

etcd3-py gives the URL and version prefix, the session, TLS and the authorisation header; its model codec is
left aside (`raw=True` with bytes), as it takes 200 ms for a transaction of 60 puts. What is different here:
- the constructor does no I/O (the library's fails with AttributeError on a dead endpoint), `connect` asks for
  the version, over the same session, so with the same TLS and within a time-out;
- certificates are verified unless the options say otherwise; the environment (`REQUESTS_CA_BUNDLE`, proxies)
  is not read;
- every call has a time-out, for the whole answer and not only between two bytes;
- calls go to the connection below requests, with the session's TLS: a whole call through the session takes
  three times the CPU (0.53 ms against 0.19 ms), which a task pays for several times;
- error bodies of etcd 3.4 to 3.6 become `RpcError`, and transport errors tell whether the request can have
  arrived.
A requests session is not made for several threads: a connection is used by one thread at a time (see
`gateway`).
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from http.client import HTTPException, RemoteDisconnected
from typing import Any
from urllib.parse import urlsplit

import msgspec
import requests
import semantic_version  # type: ignore[import-untyped]  # what etcd3-py keeps versions in
import urllib3
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPResponse
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ReadTimeoutError

from controller.errors import InvalidField, TallyError
from controller.store.base import Meanwhile, nothing
from controller.store.etcd import wire
from controller.store.etcd.client import Client

_READ_BYTES = 256 * 1024

_KEEPALIVE_OPTIONS = [
    # A watch without a limit on silence still notices a peer that vanished without a word, after about half a
    # minute.
    *urllib3.connection.HTTPConnection.default_socket_options,
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    ),
]


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """How to reach etcd.

    Secrets are given as file paths, and read again at each use, so that they can be rotated.

    `endpoints` are URLs such as `https://etcd-0:2379`; https is verified against `ca_file` (empty: the public
    authorities). Raises InvalidField for what cannot work.
    """

    endpoints: tuple[str, ...]
    user: str = ""
    password_file: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    insecure_skip_verify: bool = False

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise InvalidField("endpoints", "is empty; give at least one URL, such as http://127.0.0.1:2379")
        for index, endpoint in enumerate(self.endpoints):
            _parse_endpoint(endpoint, f"endpoints[{index}]")
        if self.user and not self.password_file:
            raise InvalidField("password_file", f"is not given, but the user {self.user!r} is")
        if bool(self.cert_file) != bool(self.key_file):
            raise InvalidField(
                "key_file" if self.cert_file else "cert_file", "is not given; both are needed, or neither"
            )


def _parse_endpoint(endpoint: str, field: str) -> tuple[str, str, int]:
    """Scheme, host (IPv6 in brackets) and port."""
    try:
        url = urlsplit(endpoint)
        port = url.port or 2379
    except ValueError as error:
        raise InvalidField(field, f"{endpoint!r} is not a URL: {error}") from None
    if (
        url.scheme not in ("http", "https")
        or not url.hostname
        or url.path.strip("/")
        or url.query
        or url.username
    ):
        raise InvalidField(field, f"{endpoint!r} is not of the form http://host:port or https://host:port")
    return url.scheme, f"[{url.hostname}]" if ":" in url.hostname else url.hostname, port


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
    """No answer, or not a whole one.

    `sent`: the request may have reached etcd; `untrusted`: TLS could not be set up.
    """

    def __init__(self, message: str, *, sent: bool, untrusted: bool = False) -> None:
        super().__init__(message)
        self.sent = sent
        self.untrusted = untrusted


# Messages first, since etcd uses one gRPC code for many things. Source: api/v3rpc/rpctypes/error.go in etcd's
# sources.
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
"""gRPC codes; those that are missing (Unknown, DeadlineExceeded, Unavailable, Internal, …) leave the
outcome open.
"""


_COMMON_NAME = b"CommonName of client sending a request against gateway"
"""Source: `accessController.ServeHTTP` in etcd's embed/serve.go; why:
https://github.com/etcd-io/etcd/pull/10366
"""

_COMMON_NAME_ADVICE = (
    "an etcd with users takes no client certificate with a common name: use one whose subject has none (an"
    " organization will do)"
)


def classify(message: str, code: int) -> ErrorClass:
    """What an error means, by etcd's own words and else by its gRPC code."""
    for words, fault in _FAULT_BY_MESSAGE:
        if words in message:
            return fault
    return _FAULT_BY_CODE.get(code, ErrorClass.TRANSIENT)


class Connection(Client):  # type: ignore[misc]  # the library has no types
    """See the module's docstring. `stamp` tells which version of the certificate files it was made with."""

    def __init__(self, endpoint: str, options: GatewayOptions, stamp: object) -> None:
        scheme, host, port = _parse_endpoint(endpoint, "endpoint")
        self.endpoint = endpoint
        self.stamp = stamp
        secure = scheme == "https"
        super().__init__(
            host=host,
            port=port,
            protocol=scheme,
            cert=(options.cert_file, options.key_file) if secure and options.cert_file else (),
            verify=False if options.insecure_skip_verify else options.ca_file or True,
        )
        # else REQUESTS_CA_BUNDLE overrides `verify`; it also costs a quarter of each call
        self._session.trust_env = False
        self._session.headers["Accept-Encoding"] = "identity"
        self._session.mount(f"{scheme}://", _Adapter())
        self._origin = f"{scheme}://{host}:{port}"

    def _retrieve_version(self) -> None:
        """Called by the library's constructor: assume a current etcd until `connect` has asked."""
        self._set_version("3.4.0")

    def _set_version(self, version: str) -> None:
        self.server_version = self.cluster_version = version
        self.server_version_sem = self.cluster_version_sem = semantic_version.Version(version)

    def connect(self, timeout: float) -> str:
        """Ask for the server's version, and set the prefix of the paths by it.

        Raises ConnectionFailed, never `sent`.
        """
        try:
            with self._session.get(
                self._url("/version", prefix=False), timeout=timeout, allow_redirects=False
            ) as response:
                if response.status_code != 200:
                    raise rpc_error(response.content, response.status_code, self.endpoint)
                version = wire.decode_version(response.content).etcdserver
            self._set_version(version)
            self._get_prefix()
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise _connection_failed(self.endpoint, error, sent=False) from error
        except RpcError as error:
            raise ConnectionFailed(str(error), sent=False) from error
        except (msgspec.MsgspecError, ValueError) as error:
            raise ConnectionFailed(
                f"{self.endpoint} does not answer as etcd does: {error}", sent=False
            ) from error
        return version

    def call(
        self, path: str, body: bytes, *, timeout: float, token: str, meanwhile: Meanwhile = nothing
    ) -> bytes:
        """One request, sent once; the whole answer within `timeout` seconds.

        Raises RpcError, ConnectionFailed.

        `meanwhile` is called once it has been sent.
        """
        ends = time.monotonic() + timeout
        try:
            with self._request(path, body, timeout, token, meanwhile) as response:
                parts = []
                while part := response.read1(_READ_BYTES):
                    parts.append(part)
                    if time.monotonic() > ends:
                        raise TimeoutError(f"the answer did not end within {timeout:.1f} s")
                return b"".join(parts)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _connection_failed(self.endpoint, error, sent=True) from error

    def stream(self, path: str, body: bytes, *, timeout: float, token: str) -> HTTPResponse:
        """A request whose answer goes on; `timeout` bounds the wait for its head.

        Raises RpcError, ConnectionFailed.
        """
        try:
            return self._request(path, body, timeout, token)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _connection_failed(self.endpoint, error, sent=True) from error

    def _request(
        self, path: str, body: bytes, timeout: float, token: str, meanwhile: Meanwhile = nothing
    ) -> HTTPResponse:
        headers = {"Content-Length": str(len(body)), **({"authorization": token} if token else {})}
        response = self.call_rpc(path, body, raw=True, timeout=timeout, headers=headers, meanwhile=meanwhile)
        assert isinstance(response, HTTPResponse)
        return response

    def _post(
        self,
        url: str,
        data: bytes,
        *,
        headers: dict[str, str],
        timeout: float,
        meanwhile: Meanwhile,
        **_: Any,
    ) -> BaseHTTPResponse:
        """Overrides the library's; see the module's docstring. The answer's body is yet to be read."""

        def body() -> Iterator[bytes]:
            yield data
            try:
                meanwhile()  # asked for a second part, urllib3 has sent the first
            except OSError as error:
                # no fault of the connection's
                raise RuntimeError("what was done meanwhile failed") from error

        return self._pool.urlopen(
            "POST",
            url.removeprefix(self._origin),
            body(),
            headers,
            retries=False,
            redirect=False,
            assert_same_host=False,
            timeout=timeout,
            preload_content=False,
            decode_content=False,
        )

    @cached_property
    def _pool(self) -> HTTPConnectionPool:
        """The session's own, so that TLS is as `connect` had it and its connection goes on."""
        adapter, session = self._session.get_adapter(self._origin), self._session
        request = requests.Request("POST", self._origin).prepare()
        pool = adapter.get_connection_with_tls_context(request, session.verify, cert=session.cert)
        adapter.cert_verify(pool, self._origin, session.verify, session.cert)
        assert isinstance(pool, HTTPConnectionPool)
        return pool

    def _raise_for_status(self, response: HTTPResponse) -> None:
        """Overrides the library's, which raises TypeError for etcd 3.6's error bodies."""
        if response.status != 200:
            with response:
                raise rpc_error(response.read(), response.status, self.endpoint)


class _Adapter(HTTPAdapter):
    """One kept connection, never a retry of its own: a transaction that is sent again without our knowing
    is the end of I1.
    """

    def __init__(self) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> Any:
        """Called by requests' constructor."""
        return super().init_poolmanager(*args, **kwargs, socket_options=_KEEPALIVE_OPTIONS)


def rpc_error(body: bytes, status: int, endpoint: str) -> RpcError:
    """An error body as RpcError; one that is not etcd's own (a load balancer's page) leaves the outcome
    open.
    """
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


def _connection_failed(endpoint: str, error: Exception, *, sent: bool) -> ConnectionFailed:
    """Translate a transport error.

    It counts as not sent only where the connection was certainly never set up.
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


_ISSUER_UNKNOWN = (18, 19, 20, 21)  # OpenSSL's X509_V_ERR_…: self-signed, or no issuer that is trusted
_OF_DEV = " (for a `tally dev` of another folder: --config DATA_DIR/tally.toml)"
_REFUSES_CLIENT = re.compile("ALERT_(.*CERTIFICATE|UNKNOWN_CA)")


def _tls_advice(endpoint: str, causes: list[BaseException], *, broken_off: bool) -> str:
    """Which setting a connection that failed before it was used speaks of, "" for none."""
    if endpoint.startswith("http:"):
        closed = any(isinstance(c, RemoteDisconnected) for c in causes)
        return (
            "an etcd with TLS does so to plain http: if it has, set `etcd` to https://… and"
            f" `ca_file`{_OF_DEV}"
            if closed
            else ""
        )
    if broken_off or any(isinstance(c, ssl.SSLError) and c.reason == "WRONG_VERSION_NUMBER" for c in causes):
        return "an etcd without TLS does so to https: if it has none, set `etcd` to http://…"
    if any(isinstance(c, ssl.SSLCertVerificationError) and c.verify_code in _ISSUER_UNKNOWN for c in causes):
        return f"set `ca_file` to the authority that signed etcd's certificate{_OF_DEV}"
    if any(isinstance(c, ssl.SSLError) and _REFUSES_CLIENT.search(c.reason or "") for c in causes):
        return "etcd asks for a client certificate that it trusts: set `cert_file` and `key_file`"
    return ""


_OF_CONNECTIONS = (OSError, HTTPException, urllib3.exceptions.HTTPError)  # requests' errors are OSErrors


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what is behind it, as requests and urllib3 wrap it: in arguments, `reason`, cause or
    context.

    What the caller was handling when it asked is in a context, too, and says nothing of the connection.
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
