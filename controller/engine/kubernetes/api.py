"""Calls to a Kubernetes API server. The official client does configuration, authentication and connections.

Its methods are not used: they are slow, and check every body against models that do not know newer fields.
Bodies are raw JSON. The transport repeats nothing: only the caller of a call that is not idempotent knows
what a repetition means. Each call has time-outs, and waits for its turn under a rate limit.

`credentials` makes the credentials. A 401 means that nothing was done, so the call is sent once more if there
is a new credential by then. Each call has a total time limit, even if the server sends slowly, and each
answer has a limit of size. CA files are read for each new connection.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec
import urllib3
from kubernetes import config
from kubernetes.client.api_client import ApiClient
from msgspec import Struct
from urllib3.exceptions import InsecureRequestWarning

from controller.clock import Clock
from controller.engine.base import EngineError, EngineUnavailable
from controller.engine.kubernetes.credentials import RETRY_SECONDS, Credentials, authorization
from controller.retry_after import retry_after_seconds

JSON = "application/json"
MAX_RETRY_AFTER_SECONDS = 300.0  # the limit for what a server asks for
JSON_PATCH = "application/json-patch+json"
CONNECT_SECONDS = 3.0
_CHUNK_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 64 * 1024**2  # a page of 500 pods has a few megabytes
_UNAUTHORIZED, _NOT_FOUND = 401, 404


class TooManyBytes(EngineUnavailable):
    """The answer to one call is larger than MAX_ANSWER_BYTES."""


class ApiRefused(EngineError):
    """The server understood the call and refuses it: nothing was changed.

    `fields` are the fields that the server objects to. `about` is the resource and the name of the object
    that it speaks of, such as ("pods", "task-1"), each "" if it does not say.
    """

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        fields: tuple[str, ...] = (),
        about: tuple[str, str] = ("", ""),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.fields = fields
        self.about = about

    def is_absence(self, resource: str, name: str) -> bool:
        """Whether this object does not exist. A 404 of somebody between us and the server does not say so."""
        return self.code == _NOT_FOUND and self.about == (resource, name)


class _Cause(Struct, frozen=True):
    field: str = ""


class _Details(Struct, frozen=True, rename="camel"):
    kind: str = ""
    name: str = ""
    causes: list[_Cause] | None = None
    retry_after_seconds: int = 0


class ApiStatus(Struct, frozen=True):
    """The server's `Status` for a failed call."""

    kind: str = ""
    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None


decode_status = msgspec.json.Decoder(ApiStatus).decode


def kind_of(data: bytes) -> str:
    """The kind of the object that this is; "" if it is none."""
    return _status_of(0, data).kind


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterAccess:
    """How to reach the server: in-cluster, else by the kubeconfig (KUBECONFIG, ~/.kube/config)."""

    kubeconfig: Path | None = None
    context: str = ""
    qps: float = 50.0
    burst: int = 100
    timeout_seconds: float = 5.0


class RateLimit:
    """A token bucket: `qps` calls per second on average, `burst` at once."""

    def __init__(self, qps: float, burst: int, clock: Clock) -> None:
        self._qps = qps
        self._burst = float(burst)
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = self._burst
        self._at = clock.boottime()
        self._waited = 0.0

    def take(self) -> float:
        """Reserve a turn; returns the seconds until it comes."""
        with self._lock:
            now = self._clock.boottime()
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._qps) - 1.0
            self._at = now
            wait = max(0.0, -self._tokens / self._qps)
            self._waited += wait
            return wait

    def waited(self) -> float:
        """The total time for which calls have waited for their turns."""
        return self._waited


class KubernetesApi:
    """See the module's docstring.

    Safe to use from several threads. `faults` counts failed calls, by kind.
    """

    def __init__(self, access: ClusterAccess, clock: Clock) -> None:
        """Raises EngineUnavailable if no configuration can be read."""
        self._credentials = Credentials(access.kubeconfig, access.context, clock)
        self.host, self.namespace, self.is_verified = self._credentials.place
        if not self.is_verified:  # warned of once, at the start; the library would warn at each call
            warnings.filterwarnings(
                "ignore", f".*'{re.escape(urlsplit(self.host).hostname or '')}'", InsecureRequestWarning
            )
        self._clock = clock
        self._timeout = access.timeout_seconds
        self.limit = RateLimit(access.qps, access.burst, clock)
        self._closed = threading.Event()
        self.faults: Counter[str] = Counter()

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: object = None,
        content_type: str = JSON,
        timeout: float | None = None,
    ) -> bytes:
        """The body of a successful answer.

        Raises ApiRefused, and EngineUnavailable if nothing can be concluded.
        """
        limit = timeout or self._timeout
        response = self._send(method, path, query or {}, body, content_type, limit)
        return self._body(response, self._clock.boottime() + limit)

    def stream(self, path: str, query: Mapping[str, object], silence_seconds: float) -> Stream:
        """A long answer; see Stream. Its start has the time limit of any other call."""
        response = self._send("GET", path, query, None, JSON, self._timeout)
        return Stream(self, response, silence_seconds)

    def close(self) -> None:
        """Close all connections; running and later calls fail. Idempotent."""
        self._closed.set()
        self._credentials.close()

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, object],
        body: object,
        content_type: str,
        timeout: float,
    ) -> urllib3.BaseHTTPResponse:
        if self._closed.is_set() or self._closed.wait(self.limit.take()):
            raise EngineUnavailable("the connection to Kubernetes is closed")
        place = f"{path}?{urlencode(query, quote_via=quote)}" if query else path
        headers = {"Accept": JSON} | ({"Content-Type": content_type} if body is not None else {})
        data = msgspec.json.encode(body) if body is not None else None
        limits = urllib3.Timeout(connect=min(CONNECT_SECONDS, timeout), read=timeout)
        client = self._signed()

        def send() -> urllib3.BaseHTTPResponse:
            response: urllib3.BaseHTTPResponse = client.rest_client.pool_manager.request(
                method,
                client.configuration.host + place,
                body=data,
                headers=client.default_headers | headers | authorization(client),
                timeout=limits,
                preload_content=False,
            )
            return response

        try:
            response = send()
            if response.status == _UNAUTHORIZED:
                signed, client = authorization(client), self._signed(refused=client)
                if authorization(client) != signed:
                    response.close()
                    response = send()
            if 200 <= response.status < 300:
                return response
            answer = self._body(response, self._clock.boottime() + timeout)
        except urllib3.exceptions.HTTPError as error:
            raise self._broken(error) from error
        except (config.ConfigException, OSError) as error:
            self.faults["credentials"] += 1
            raise EngineUnavailable(f"credentials for Kubernetes: {error}", RETRY_SECONDS) from error
        raise self.fault(_status_of(response.status, answer), response.headers.get("Retry-After", ""))

    def _signed(self, refused: ApiClient | None = None) -> ApiClient:
        try:
            return self._credentials.client(refused)
        except EngineUnavailable:
            self.faults["credentials"] += 1
            raise

    def _body(self, response: urllib3.BaseHTTPResponse, give_up_at: float) -> bytes:
        """The whole body.

        Raises EngineUnavailable if it is incomplete at `give_up_at` (boottime), breaks off, or is too large.
        """
        data = bytearray()
        try:
            while chunk := response.read1(_CHUNK_BYTES):
                data += chunk
                if self._clock.boottime() > give_up_at:
                    raise urllib3.exceptions.TimeoutError("its answer came too slowly")
                if len(data) > MAX_ANSWER_BYTES:
                    self.faults["connection"] += 1
                    raise TooManyBytes(
                        f"Kubernetes at {self.host} sends an answer of more than {MAX_ANSWER_BYTES} bytes"
                    )
        except TooManyBytes:
            response.close()
            raise
        except (urllib3.exceptions.HTTPError, OSError) as error:
            response.close()
            raise self._broken(error) from error
        response.release_conn()
        return bytes(data)

    def fault(self, status: ApiStatus, retry_after: str = "") -> EngineError:
        """The error for an answer that is not successful: ApiRefused if the server itself has said so."""
        self.faults[str(status.code)] += 1
        told = status.details.retry_after_seconds if status.details is not None else 0
        asked = retry_after_seconds(retry_after, self._clock.wall(), MAX_RETRY_AFTER_SECONDS)
        pause = asked if asked is not None else float(min(max(told, 0), MAX_RETRY_AFTER_SECONDS))
        words = f"Kubernetes answers {status.code} {status.reason}: {status.message}"
        if status.code == _UNAUTHORIZED:
            return EngineUnavailable(f"{words} (it does not accept our credentials)", RETRY_SECONDS)
        if status.code >= 500 or status.code in (408, 429) or pause:
            return EngineUnavailable(words, pause or 1.0)
        if status.kind != "Status":
            # of a proxy: it is no word of the server's on what there is, or what it allows
            return EngineUnavailable(f"{words} (which is no answer of Kubernetes' own)", RETRY_SECONDS)
        causes = status.details.causes if status.details is not None else None
        fields = tuple(cause.field for cause in causes or () if cause.field)
        about = (status.details.kind, status.details.name) if status.details is not None else ("", "")
        if status.code == _NOT_FOUND and not about[1] and "denied the request" not in status.message:
            # of a proxy that lacks the cluster: the server names what it does not find
            return EngineUnavailable(f"{words} (which does not name what is missing)", RETRY_SECONDS)
        return ApiRefused(status.code, status.reason, status.message, fields, about)

    def _broken(self, error: Exception) -> EngineUnavailable:
        kind = "timeout" if isinstance(error, urllib3.exceptions.TimeoutError) else "connection"
        self.faults[kind] += 1
        return EngineUnavailable(f"Kubernetes at {self.host} does not answer: {error}")


class Stream:
    """A long answer, in chunks as they arrive.

    One thread iterates. Any thread may call `close`, which ends the iteration.
    """

    def __init__(self, api: KubernetesApi, response: Any, silence_seconds: float) -> None:
        self._api = api
        self._response = response
        self._closed = threading.Event()
        socket = getattr(response.connection, "sock", None)
        if socket is not None:
            socket.settimeout(silence_seconds)

    def __iter__(self) -> Iterator[bytes]:
        """Ends when the server ends the answer. Raises EngineUnavailable for silence or a broken stream."""
        try:
            yield from self._response.stream(_CHUNK_BYTES, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            # The library raises the last two when another thread closes the connection.
            if not self._closed.is_set():
                self._api.faults["stream"] += 1
                raise EngineUnavailable(
                    f"Kubernetes at {self._api.host} broke the connection: {error}"
                ) from error
        finally:
            self._response.close()

    def lines(self) -> Iterator[bytes]:
        """The lines of the answer, without an incomplete last one."""
        rest = b""
        for chunk in self:
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
            if len(rest) > MAX_ANSWER_BYTES:
                self._api.faults["stream"] += 1
                raise EngineUnavailable(
                    f"Kubernetes at {self._api.host} sends a line of more than {MAX_ANSWER_BYTES} bytes"
                )

    def close(self) -> None:
        """End the iteration, also while it waits."""
        self._closed.set()
        try:
            self._response.shutdown()
        except (ValueError, RuntimeError, OSError):
            return  # the answer has ended already


def _status_of(code: int, data: bytes) -> ApiStatus:
    """The body of an answer that is not successful; a proxy may send anything."""
    try:
        status = decode_status(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ApiStatus(code=code, message=data[:200].decode(errors="replace"))
    return msgspec.structs.replace(status, code=code)
