"""One HTTP connection to one etcd endpoint, through etcd3-py, with workarounds for the library's defects.

etcd3-py provides the URL and version prefix, the session, TLS and the authorisation header. Its model codec
is not used (`raw=True` with bytes), as it takes 200 ms for a transaction of 60 puts. The differences:
- The constructor does no I/O (the library's fails with AttributeError on a dead endpoint). `connect` asks for
  the version, over the same session, so with the same TLS and within a time-out.
- Certificates are verified unless the options say otherwise. The environment (`REQUESTS_CA_BUNDLE`, proxies)
  is not read.
- Every call has a time-out for the whole answer, not only between two bytes.
- Calls use the connection below requests, with the session's TLS: a request is one write to its socket, and
  the answer is read by the standard library. A whole call through the session takes several times the CPU,
  and a task needs several calls.
- Errors are reported in Tally's own words (see `faults`).

A requests session is not thread-safe: one thread at a time uses a connection (see `gateway`).
"""

from __future__ import annotations

import math
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPException, HTTPResponse, IncompleteRead
from typing import Any

import msgspec
import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse, HTTPConnectionPool
from urllib3.connection import HTTPConnection

from controller.core.model.scalars import parse_etcd_url
from controller.errors import InvalidField
from controller.store.etcd import wire
from controller.store.etcd.client import Client, version_of
from controller.store.etcd.faults import ConnectionFailed, RpcError, connection_failed, rpc_error

_READ_BYTES = 256 * 1024
_MOST_BYTES = 64 * 2**20  # of what is read beside calls; metrics take far less
_LEAST_SECONDS = 0.05  # for an answer that came while its caller was busy
_ERRORS = (urllib3.exceptions.HTTPError, HTTPException, OSError)

_KEEPALIVE_OPTIONS = [
    # A watch without a limit on silence still notices a peer that vanished, after about half a minute.
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

    Secrets are given as file paths, and read again at each use, so that they can be rotated. `endpoints` are
    URLs such as `https://etcd-0:2379`; https is verified against `ca_file` (empty: the public authorities).
    Raises InvalidField for options that cannot work.
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
            parse_etcd_url(endpoint, f"endpoints[{index}]")
        if self.user and not self.password_file:
            raise InvalidField("password_file", f"is missing, but the user {self.user!r} is given: set both")
        if bool(self.cert_file) != bool(self.key_file):
            raise InvalidField(
                "key_file" if self.cert_file else "cert_file", "is missing: set both, or neither"
            )


class Connection(Client):  # type: ignore[misc]  # the library has no types
    """See the module's docstring. `stamp` identifies the certificate files that it was made with."""

    def __init__(self, endpoint: str, options: GatewayOptions, stamp: object) -> None:
        scheme, host, port = parse_etcd_url(endpoint, "endpoint")
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
        self._host = f"{host}:{port}"
        self._origin = f"{scheme}://{self._host}"
        self._paths: dict[str, str] = {}  # with the version's prefix

    def _retrieve_version(self) -> None:
        """Called by the library's constructor: assume a current etcd until `connect` has asked."""
        self._set_version("3.4.0")

    def _set_version(self, version: str) -> None:
        self.server_version = self.cluster_version = version
        self.server_version_sem = self.cluster_version_sem = version_of(version)

    def connect(self, timeout: float) -> str:
        """Ask for the server's version, and set the prefix of the paths accordingly.

        Raises ConnectionFailed, never `sent`.
        """
        try:
            version = wire.decode_version(self._read("/version", timeout)).etcdserver
            self._set_version(version)
            self._get_prefix()
            self._paths.clear()
        except RpcError as error:
            raise ConnectionFailed(str(error), sent=False) from error
        except (msgspec.MsgspecError, ValueError) as error:
            raise ConnectionFailed(
                f"{self.endpoint} does not answer as etcd does: {error}", sent=False
            ) from error
        return version

    def metrics(self, timeout: float) -> bytes:
        """etcd's own metrics, which it shows to whoever reaches it. Raises RpcError, ConnectionFailed."""
        return self._read("/metrics", timeout)

    def _read(self, path: str, timeout: float) -> bytes:
        url, ends = self._url(path, prefix=False), time.monotonic() + timeout
        try:
            with self._session.get(url, timeout=timeout, allow_redirects=False, stream=True) as response:
                content = bytearray()
                while part := response.raw.read1(_READ_BYTES):
                    content += part
                    if time.monotonic() > ends or len(content) > _MOST_BYTES:
                        raise TimeoutError("the answer did not end in time")
                if response.status_code != 200:
                    raise rpc_error(bytes(content), response.status_code, self.endpoint)
                return bytes(content)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise connection_failed(self.endpoint, error, sent=False) from error

    def send(self, path: str, body: bytes, *, timeout: float, token: str) -> Sent:
        """Send one request, once. The whole answer is due within `timeout` seconds.

        Raises ConnectionFailed.
        """
        ends = time.monotonic() + timeout
        # urllib3's `urlopen` sends a request and waits for its answer, which is not wanted here
        line = self._pool._get_conn()
        assert isinstance(line, HTTPConnection)
        line.timeout = timeout
        try:
            request = self._head(path, body, token) + body
            if line.is_closed:
                line.connect()
            line.sock.settimeout(timeout)
            with suppress(BrokenPipeError, ConnectionResetError):  # it may have been answered before the end
                line.sock.sendall(request)  # in one piece: etcd's server wakes once
        except _ERRORS as error:
            line.close()
            raise connection_failed(self.endpoint, error, sent=True) from error
        return Sent(self.endpoint, self._pool, line, ends)

    def call(self, path: str, body: bytes, *, timeout: float, token: str) -> bytes:
        """Send one request, once, and return the whole answer within `timeout` seconds.

        Raises RpcError, ConnectionFailed.
        """
        return self.send(path, body, timeout=timeout, token=token).answer()

    def stream(self, path: str, body: bytes, *, timeout: float, token: str) -> urllib3.HTTPResponse:
        """Send a request whose answer is a stream. `timeout` bounds the wait for its head.

        Raises RpcError, ConnectionFailed.
        """
        try:
            response = self.call_rpc(
                path, body, raw=True, timeout=timeout, headers=self._headers(body, token)
            )
        except _ERRORS as error:
            raise connection_failed(self.endpoint, error, sent=True) from error
        assert isinstance(response, urllib3.HTTPResponse)
        return response

    def _head(self, path: str, body: bytes, token: str) -> bytes:
        """What precedes the body of a request, by RFC 9112. Raises HTTPException for a token that is none."""
        if path not in self._paths:
            self._paths[path] = self._url(path).removeprefix(self._origin)
        lines = (
            f"POST {self._paths[path]} HTTP/1.1",
            f"Host: {self._host}",
            "Accept-Encoding: identity",
            *(f"{name}: {value}" for name, value in self._headers(body, token).items()),
        )
        if not all(line.isprintable() and line.isascii() for line in lines):
            raise HTTPException("the token that etcd has given cannot be sent: it is no text in ASCII")
        return "\r\n".join((*lines, "", "")).encode()

    @staticmethod
    def _headers(body: bytes, token: str) -> dict[str, str]:
        return {"Content-Length": str(len(body)), **({"authorization": token} if token else {})}

    def _post(
        self, url: str, data: bytes, *, headers: dict[str, str], timeout: float, **_: Any
    ) -> BaseHTTPResponse:
        """Overrides the library's; see the module's docstring. The answer's body is still to be read."""
        return self._pool.urlopen(
            "POST",
            url.removeprefix(self._origin),
            data,
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
        """The session's own pool: it has the TLS that `connect` used, and continues its connection."""
        adapter, session = self._session.get_adapter(self._origin), self._session
        request = requests.Request("POST", self._origin).prepare()
        pool = adapter.get_connection_with_tls_context(request, session.verify, cert=session.cert)
        adapter.cert_verify(pool, self._origin, session.verify, session.cert)
        assert isinstance(pool, HTTPConnectionPool)
        return pool

    def _raise_for_status(self, response: urllib3.HTTPResponse) -> None:
        """Overrides the library's, which raises TypeError for etcd 3.6's error bodies."""
        if response.status != 200:
            with response:
                raise rpc_error(response.read(), response.status, self.endpoint)


class Sent:
    """A request that was sent. Its answer is to be read once."""

    def __init__(self, endpoint: str, pool: HTTPConnectionPool, line: HTTPConnection, ends: float) -> None:
        self._endpoint = endpoint
        self._pool = pool
        self._line = line
        self._ends = ends

    def answer(self) -> bytes:
        """The whole answer. Raises RpcError, ConnectionFailed."""
        try:
            self._line.sock.settimeout(max(_LEAST_SECONDS, self._ends - time.monotonic()))
            with HTTPResponse(self._line.sock, method="POST") as response:
                response.begin()
                parts, late_until = [], math.inf
                while part := response.read1(_READ_BYTES):
                    parts.append(part)
                    now = time.monotonic()
                    if now > late_until:
                        raise TimeoutError("the answer did not end in time")
                    if now > self._ends:  # this process may have been stopped: what has come by now counts
                        late_until = min(late_until, now + _LEAST_SECONDS)
                        self._line.sock.settimeout(_LEAST_SECONDS)
                if response.length:
                    raise IncompleteRead(b"", response.length)
        except _ERRORS as error:
            self.abandon()
            raise connection_failed(self._endpoint, error, sent=True) from error
        except BaseException:
            self.abandon()
            raise
        if response.will_close:
            self._line.close()
        self._pool._put_conn(self._line)
        answer = b"".join(parts)
        if response.status != 200:
            raise rpc_error(answer, response.status, self._endpoint)
        return answer

    def abandon(self) -> None:
        """Drop the request: its answer will not be read."""
        self._line.close()


class _Adapter(HTTPAdapter):
    """One kept connection that never retries by itself: a resend that we do not know of would break I1."""

    def __init__(self) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> Any:
        """Called by requests' constructor."""
        return super().init_poolmanager(*args, **kwargs, socket_options=_KEEPALIVE_OPTIONS)
