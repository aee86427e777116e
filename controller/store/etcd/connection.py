"""One HTTP connection to one endpoint of etcd's JSON gateway.

- The constructor does no I/O. `connect` asks for the version, over the same session, so with the same TLS and
  within a time-out; the version decides the prefix of the paths.
- Certificates are verified unless the options say otherwise. The environment (`REQUESTS_CA_BUNDLE`, proxies)
  is not read.
- Every call has a time-out, for the whole answer and not only between two bytes.
- Calls go to the connection below requests, with the session's TLS: a whole call through the session takes
  three times the CPU (0.53 ms against 0.19 ms), which a task pays for several times.
- What went wrong is told in our own words (see `faults`).

A requests session is not made for several threads: a connection is used by one thread at a time (see
`gateway`).

No client library stands between: etcd3-py weighs 31 MB with what it depends on, and its other parts (locks,
leases, watches) have the defects that tests/store/test_etcd3_defects.py shows.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import msgspec
import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPResponse

from controller.errors import InvalidField
from controller.store.base import Meanwhile, nothing
from controller.store.etcd import wire
from controller.store.etcd.faults import ConnectionFailed, RpcError, connection_failed, rpc_error

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


class Connection:
    """See the module's docstring. `stamp` tells which version of the certificate files it was made with."""

    def __init__(self, endpoint: str, options: GatewayOptions, stamp: object) -> None:
        scheme, host, port = _parse_endpoint(endpoint, "endpoint")
        self.endpoint = endpoint
        self.stamp = stamp
        self._origin = f"{scheme}://{host}:{port}"
        self._prefix = "/v3"  # until `connect` has asked
        self._adapter = _Adapter()
        self._session = requests.Session()
        if scheme == "https" and options.cert_file:
            self._session.cert = (options.cert_file, options.key_file)
        self._session.verify = False if options.insecure_skip_verify else options.ca_file or True
        # else REQUESTS_CA_BUNDLE overrides `verify`; it also costs a quarter of each call
        self._session.trust_env = False
        self._session.headers["Accept-Encoding"] = "identity"
        self._session.mount(f"{scheme}://", self._adapter)

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def connect(self, timeout: float) -> str:
        """Ask for the server's version, and set the prefix of the paths by it.

        Raises ConnectionFailed, never `sent`.
        """
        try:
            with self._session.get(
                f"{self._origin}/version", timeout=timeout, allow_redirects=False
            ) as response:
                if response.status_code != 200:
                    raise rpc_error(response.content, response.status_code, self.endpoint)
                version = wire.decode_version(response.content).etcdserver
            self._prefix = _prefix_of(version)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise connection_failed(self.endpoint, error, sent=False) from error
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
            raise connection_failed(self.endpoint, error, sent=True) from error

    def stream(self, path: str, body: bytes, *, timeout: float, token: str) -> HTTPResponse:
        """A request whose answer goes on; `timeout` bounds the wait for its head.

        Raises RpcError, ConnectionFailed.
        """
        try:
            return self._request(path, body, timeout, token)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise connection_failed(self.endpoint, error, sent=True) from error

    def _request(
        self, path: str, body: bytes, timeout: float, token: str, meanwhile: Meanwhile = nothing
    ) -> HTTPResponse:
        headers = {"Content-Length": str(len(body)), **({"authorization": token} if token else {})}
        response = self._post(path, body, headers, timeout, meanwhile)
        assert isinstance(response, HTTPResponse)
        if response.status != 200:
            with response:
                raise rpc_error(response.read(), response.status, self.endpoint)
        return response

    def _post(
        self, path: str, data: bytes, headers: dict[str, str], timeout: float, meanwhile: Meanwhile
    ) -> BaseHTTPResponse:
        """The answer's head; its body is yet to be read."""

        def body() -> Iterator[bytes]:
            yield data
            try:
                meanwhile()  # asked for a second part, urllib3 has sent the first
            except OSError as error:
                # no fault of the connection's
                raise RuntimeError("what was done meanwhile failed") from error

        return self._pool.urlopen(
            "POST",
            self._prefix + path,
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
        adapter, session = self._adapter, self._session
        request = requests.Request("POST", self._origin).prepare()
        pool = adapter.get_connection_with_tls_context(request, session.verify, cert=session.cert)
        adapter.cert_verify(pool, self._origin, session.verify, session.cert)  # type: ignore[no-untyped-call]
        assert isinstance(pool, HTTPConnectionPool)
        return pool


def _prefix_of(version: str) -> str:
    """What the paths of that etcd begin with. Raises ValueError for what is no version."""
    major, minor = map(int, version.split(".")[:2])
    if (major, minor) >= (3, 4):
        return "/v3"
    return "/v3beta" if (major, minor) == (3, 3) else "/v3alpha"


class _Adapter(HTTPAdapter):
    """One kept connection, never a retry of its own: a transaction that is sent again without our knowing
    is the end of I1.
    """

    def __init__(self) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> Any:
        """Called by requests' constructor."""
        return super().init_poolmanager(*args, **kwargs, socket_options=_KEEPALIVE_OPTIONS)
