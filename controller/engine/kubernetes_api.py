"""Calls to a Kubernetes API server: configuration, authentication and connections by the official client, bodies raw.

The client's typed methods would check every body against its own models, which know neither what is newer than they nor
haste; so they are left out, and JSON goes in and out as it is. Nothing is repeated by the transport: what is not idempotent
is repeated by whoever knows what a second time means. Each call has time-outs, and takes its turn under a rate limit.

Credentials change while we run: the client reads a pod's own token again each minute, and a plugin's when it expires, but never a
kubeconfig's `tokenFile`, client key or inline certificates. So a 401, which says that nothing was done, makes us read the whole
configuration again, and the call is sent once more if we have another token now. Files of
authorities are read for each new connection.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import urllib3
import yaml
from kubernetes import config
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration
from kubernetes.client.exceptions import ApiException
from msgspec import Struct

from controller.clock import Clock
from controller.engine.base import EngineError, EngineUnavailable

JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
CONNECT_SECONDS = 3.0
POOL_SIZE = 32  # connections kept; more are made when needed
CREDENTIALS_RETRY_SECONDS = 5.0
_SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_STREAM_BYTES = 64 * 1024
_UNAUTHORIZED = 401
_UNREADABLE = (config.ConfigException, OSError, yaml.YAMLError, TypeError, ValueError, KeyError, AttributeError)
"""How the client fails at a configuration: the last four where a value is of another kind than it thinks."""


class ApiRefused(EngineError):
    """The server understood the call, and refuses it: nothing was changed. `fields` are those that it finds fault with."""

    def __init__(self, code: int, reason: str, message: str, fields: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.fields = fields


class _Cause(Struct, frozen=True):
    reason: str = ""
    field: str = ""


class _Details(Struct, frozen=True, rename="camel"):
    kind: str = ""
    causes: list[_Cause] | None = None
    retry_after_seconds: int = 0


class Status(Struct, frozen=True):
    """The server's words about a call that failed."""

    kind: str = ""
    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None


decode_status = msgspec.json.Decoder(Status).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to reach the server: in-cluster, else the kubeconfig (KUBECONFIG, ~/.kube/config) and its context."""

    kubeconfig: Path | None = None
    context: str = ""
    qps: float = 50.0
    burst: int = 100
    timeout_seconds: float = 5.0


class RateLimit:
    """A token bucket: `qps` calls a second in the long run, `burst` at once."""

    def __init__(self, qps: float, burst: int, clock: Clock) -> None:
        self._qps = qps
        self._burst = float(burst)
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = self._burst
        self._at = clock.boottime()
        self._waited = 0.0

    def take(self) -> float:
        """Take a turn; returns in how many seconds it comes."""
        with self._lock:
            now = self._clock.boottime()
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._qps) - 1.0
            self._at = now
            wait = max(0.0, -self._tokens / self._qps)
            self._waited += wait
            return wait

    def waited(self) -> float:
        """Seconds that calls have waited for their turns, in all."""
        return self._waited


class KubernetesApi:
    """See the module's docstring. Safe to use from several threads. `faults` counts what went wrong, by kind."""

    def __init__(self, access: Access, clock: Clock) -> None:
        """Raises EngineUnavailable when there is no configuration that can be read."""
        configuration, self.namespace = _load(access)
        self._client = ApiClient(configuration)
        self._access = access
        self._clock = clock
        self._renewing = threading.Lock()
        self._renew_again_at = 0.0  # boottime
        self._timeout = access.timeout_seconds
        self.limit = RateLimit(access.qps, access.burst, clock)
        self._closed = threading.Event()
        self.host = str(configuration.host)
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
        """The body of a good answer. Raises ApiRefused, and EngineUnavailable when nothing can be concluded."""
        response = self._send(method, path, query or {}, body, content_type, timeout or self._timeout)
        try:
            data: bytes = response.data
        except urllib3.exceptions.HTTPError as error:
            raise self._broken(error) from error
        return data

    def stream(self, path: str, query: Mapping[str, object], silence_seconds: float) -> Stream:
        """An answer that goes on; see Stream. The first bytes must come as soon as those of any other call."""
        response = self._send("GET", path, query, None, JSON, self._timeout)
        return Stream(self, response, silence_seconds)

    def close(self) -> None:
        """Drop all connections; calls under way fail, and so do later ones. Idempotent."""
        self._closed.set()
        self._client.close()  # type: ignore[no-untyped-call]

    def _send(
        self, method: str, path: str, query: Mapping[str, object], body: object, content_type: str, timeout: float
    ) -> urllib3.BaseHTTPResponse:
        if self._closed.is_set() or self._closed.wait(self.limit.take()):
            raise EngineUnavailable("the connection to Kubernetes is closed")
        headers = {"Accept": JSON} | ({"Content-Type": content_type} if body is not None else {})
        client = self._client  # of this call, and replaced where its credentials are

        def send() -> urllib3.BaseHTTPResponse:
            request = client.param_serialize(
                method, path, query_params=list(query.items()), header_params=headers | _authorization(client), body=body
            )
            answer = client.call_api(*request, _request_timeout=(min(CONNECT_SECONDS, timeout), timeout))
            response: urllib3.BaseHTTPResponse = answer.response
            return response

        try:
            response = send()
            if response.status == _UNAUTHORIZED:
                signed, client = _authorization(client), self._renewed(client)
                if _authorization(client) != signed:
                    response = send()
            if 200 <= response.status < 300:
                return response
            data = response.data
        except (urllib3.exceptions.HTTPError, ApiException) as error:  # ApiException: a certificate that is not trusted
            raise self._broken(error) from error
        except (config.ConfigException, OSError) as error:
            self.faults["credentials"] += 1
            raise EngineUnavailable(f"credentials for Kubernetes: {error}", CREDENTIALS_RETRY_SECONDS) from error
        raise self.fault(_status_of(response.status, data), response.headers.get("Retry-After", ""))

    def _renewed(self, refused: ApiClient) -> ApiClient:
        """A client with the configuration as it is now, after the server did not accept the credentials of `refused`.

        The same one again when that was tried a moment ago: plugins that make credentials are not to be stormed.
        """
        with self._renewing:
            if self._client is refused and self._clock.boottime() >= self._renew_again_at and not self._closed.is_set():
                self._renew_again_at = self._clock.boottime() + CREDENTIALS_RETRY_SECONDS
                self._client = ApiClient(_load(self._access)[0])
                refused.close()  # type: ignore[no-untyped-call]  # calls under way keep their connections
            return self._client

    def fault(self, status: Status, retry_after: str = "") -> EngineError:
        """The error that an answer other than good means."""
        self.faults[str(status.code)] += 1
        told = status.details.retry_after_seconds if status.details is not None else 0
        pause = float(retry_after) if retry_after.isdigit() else float(told)
        words = f"Kubernetes answers {status.code} {status.reason}: {status.message}"
        if status.code == _UNAUTHORIZED:
            return EngineUnavailable(f"{words} (our credentials are not accepted)", CREDENTIALS_RETRY_SECONDS)
        if status.code >= 500 or status.code in (408, 429) or pause:
            return EngineUnavailable(words, pause or 1.0)
        causes = status.details.causes if status.details is not None else None
        fields = tuple(cause.field for cause in causes or () if cause.field)
        return ApiRefused(status.code, status.reason, status.message, fields)

    def _broken(self, error: Exception) -> EngineUnavailable:
        kind = "timeout" if isinstance(error, urllib3.exceptions.TimeoutError) else "connection"
        self.faults[kind] += 1
        return EngineUnavailable(f"Kubernetes at {self.host} does not answer: {error}")


class Stream:
    """A long answer, in chunks as they come. Iterate it in one thread; `close` may come from any, and ends the iteration."""

    def __init__(self, api: KubernetesApi, response: Any, silence_seconds: float) -> None:
        self._api = api
        self._response = response
        self._closed = threading.Event()
        socket = getattr(response.connection, "sock", None)
        if socket is not None:
            socket.settimeout(silence_seconds)

    def __iter__(self) -> Iterator[bytes]:
        """Ends when the server ends it. Raises EngineUnavailable for silence and broken connections."""
        try:
            yield from self._response.stream(_STREAM_BYTES, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            # The last two are how the library fails when the connection is closed by another thread.
            if not self._closed.is_set():
                self._api.faults["stream"] += 1
                raise EngineUnavailable(f"Kubernetes at {self._api.host} broke off: {error}") from error
        finally:
            self._response.close()

    def lines(self) -> Iterator[bytes]:
        """Line by line; an unfinished last one is left out."""
        rest = b""
        for chunk in self:
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines

    def close(self) -> None:
        """End the iteration, also while it waits."""
        self._closed.set()
        try:
            self._response.shutdown()
        except (ValueError, RuntimeError, OSError):
            return  # it has ended already


def _load(access: Access) -> tuple[Configuration, str]:
    """The client's configuration and the namespace that it names. Raises EngineUnavailable."""
    configuration = Configuration()
    configuration.retries = False
    configuration.connection_pool_maxsize = POOL_SIZE
    try:
        if access.kubeconfig is None and not access.context and "KUBECONFIG" not in os.environ and _is_in_cluster():
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            return configuration, _SERVICE_ACCOUNT_NAMESPACE.read_text().strip() or "default"
        file = str(access.kubeconfig) if access.kubeconfig is not None else None
        context = access.context or None
        config.load_kube_config(file, context=context, client_configuration=configuration)  # type: ignore[no-untyped-call]
        contexts, active = config.list_kube_config_contexts(file)  # type: ignore[no-untyped-call]
    except _UNREADABLE as error:
        raise EngineUnavailable(f"no access to Kubernetes: {error}; give --kubeconfig, or run in a cluster") from error
    chosen = next((each for each in contexts if each["name"] == access.context), active)
    return configuration, str(chosen.get("context", {}).get("namespace") or "default")


def _authorization(client: ApiClient) -> dict[str, str]:
    """The header that signs a call. Files of tokens end with a newline where people have made them."""
    token = client.configuration.get_api_key_with_prefix("BearerToken")
    return {"Authorization": token.strip()} if token else {}


def _is_in_cluster() -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ and _SERVICE_ACCOUNT_NAMESPACE.exists()


def _status_of(code: int, data: bytes) -> Status:
    """The body of an answer other than good; of proxies it is anything."""
    try:
        status = decode_status(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Status(code=code, message=data[:200].decode(errors="replace"))
    return msgspec.structs.replace(status, code=code)
