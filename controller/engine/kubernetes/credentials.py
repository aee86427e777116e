"""The address of the API server and our credentials: the kubeconfig, the pod's account, credential plugins.

Credentials change while the engine runs. The official client reads a pod's own token again each minute. In
all other cases, the whole configuration is read again after the server has refused a credential (401); a
plugin's credential is renewed before it expires.

Any source of credentials may hang: a plugin, a file on a dead mount, an identity provider. Only **one**
refresh therefore runs at a time, in a thread of its own, and a call waits at most WAIT_SECONDS for it. After
a failure there is a pause, longer each time, in which calls fail at once with the same message. A credential
that is still valid is used meanwhile.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

import yaml
from kubernetes import config
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration
from kubernetes.config.kube_config import ConfigNode, KubeConfigLoader, KubeConfigMerger

from controller.clock import Clock
from controller.engine.base import EngineUnavailable
from controller.engine.kubernetes.credential_plugin import (
    PLUGIN_SECONDS,
    Credential,
    PluginFailed,
    run_plugin,
)

POOL_SIZE = 32  # connections kept; more are made when needed
WAIT_SECONDS = PLUGIN_SECONDS + 2.0
RETRY_SECONDS = 5.0  # between two refreshes at least; doubled with each failure
MAX_RETRY_SECONDS = 60.0
_RENEWED_EARLY = 0.25  # of a credential's life
_SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_DEFAULT_KUBECONFIG = "~/.kube/config"

_Result = TypeVar("_Result")


class ClusterEntry(NamedTuple):
    """A cluster's configuration, without credentials. `verified`: the server's certificate is verified."""

    host: str
    namespace: str
    verified: bool = True


class _Signed(NamedTuple):
    """A client with credentials; times are boottime, None for credentials that do not expire."""

    client: ApiClient
    renew_at: float | None = None
    expires_at: float | None = None
    files: TemporaryDirectory[str] | None = None  # the client's certificate and key, while it is in use


class Credentials:
    """See the module's docstring. Safe to use from several threads."""

    def __init__(self, kubeconfig: Path | None, context: str, clock: Clock) -> None:
        """Read the configuration; no plugin is run yet. Raises EngineUnavailable if it cannot be read."""
        self._kubeconfig = kubeconfig
        self._context = context
        self._clock = clock
        self._lock = threading.Lock()
        self._signed: _Signed | None = None
        self._before: _Signed | None = None  # calls under way may use its files
        self._refresh: Future[_Signed] | None = None  # Invariant: at most one is under way
        self._not_before = 0.0  # boottime: no refresh begins before
        self._pause = RETRY_SECONDS  # after the next failure
        self._failure = ""  # of the last refresh; "" after a good one
        self._closed = threading.Event()
        reading: Future[ClusterEntry] = Future()
        _run("kubernetes-configuration", reading, lambda: _place(kubeconfig, context))
        try:
            self.place = reading.result(WAIT_SECONDS)
        except TimeoutError as error:
            raise EngineUnavailable(
                f"no access to Kubernetes: its configuration was not read within {WAIT_SECONDS:g} s"
            ) from error
        except _Failed as error:
            message = f"no access to Kubernetes: {error}; give --kubeconfig, or run in a cluster"
            raise EngineUnavailable(message) from error

    def client(self, refused: ApiClient | None = None) -> ApiClient:
        """The client with the current credentials; not `refused`, if there is a newer one.

        Raises EngineUnavailable with the reason, and the time after which to try again.
        """
        with self._lock:
            signed, now = self._signed, self._clock.boottime()
            is_refused = signed is not None and signed.client is refused
            is_due = signed is None or is_refused or (signed.renew_at is not None and signed.renew_at <= now)
            if is_due and self._refresh is None and self._not_before <= now and not self._closed.is_set():
                self._begin()
            refresh = self._refresh
            if (
                signed is not None
                and not is_refused
                and (signed.expires_at is None or now < signed.expires_at)
            ):
                return signed.client
            if refresh is None and signed is not None and not self._failure:
                return signed.client  # it was made a moment ago: the server is to judge it
            if refresh is None:
                raise EngineUnavailable(
                    f"credentials for Kubernetes: {self._failure}", max(1.0, self._not_before - now)
                )
        try:
            return refresh.result(WAIT_SECONDS).client
        except TimeoutError as error:
            message = (
                f"credentials for Kubernetes have not arrived after {WAIT_SECONDS:g} s, and are still awaited"
            )
            raise EngineUnavailable(message, RETRY_SECONDS) from error
        except _Failed as error:
            raise EngineUnavailable(f"credentials for Kubernetes: {error}", RETRY_SECONDS) from error

    def close(self) -> None:
        """Drop the client's connections, and end a plugin that runs. Idempotent."""
        self._closed.set()
        with self._lock:
            for signed in (self._before, self._signed):
                if signed is not None:
                    signed.client.close()
                    _remove(signed)

    def _begin(self) -> None:
        self._refresh = Future()
        self._refresh.add_done_callback(self._take)
        _run("kubernetes-credentials", self._refresh, self._make)

    def _make(self) -> _Signed:
        configuration, expires_at, files = _load(self._kubeconfig, self._context, self._closed)
        client, now = ApiClient(configuration), self._clock.boottime()
        authorization(client)
        if expires_at is None:
            return _Signed(client, files=files)
        left = max(0.0, expires_at - self._clock.wall())
        return _Signed(client, now + left * (1 - _RENEWED_EARLY), now + left, files)

    def _take(self, done: Future[_Signed]) -> None:
        error = done.exception()
        with self._lock:
            before, self._refresh = self._signed, None
            if error is not None:
                self._failure = str(error)
                self._not_before = self._clock.boottime() + self._pause
                self._pause = min(2 * self._pause, MAX_RETRY_SECONDS)
                return
            self._failure, self._pause = "", RETRY_SECONDS
            self._not_before = self._clock.boottime() + RETRY_SECONDS if before is not None else 0.0
            self._signed, outlived, self._before = done.result(), self._before, before
        if before is not None:
            before.client.close()  # calls under way keep their connections
        if outlived is not None:
            _remove(outlived)


def _remove(signed: _Signed) -> None:
    """Remove its certificate and key: the library would keep those of each renewal until the process ends."""
    if signed.files is not None:
        signed.files.cleanup()


class _Failed(Exception):
    """An error while credentials were made, as text."""


def authorization(client: ApiClient) -> dict[str, str]:
    """The header that authenticates a call. A token file may end with a newline.

    Raises ConfigException for a token that no header can carry; the library would name it in its error.
    """
    token = (client.configuration.get_api_key_with_prefix("BearerToken") or "").strip()
    if not (token.isascii() and token.isprintable()):
        raise config.ConfigException("the token has a line break, or another character that none has")
    return {"Authorization": token} if token else {}


def named_kubeconfig() -> str:
    """The value of KUBECONFIG. An empty one counts as not set, as for kubectl."""
    return os.environ.get("KUBECONFIG", "")


def _run(name: str, future: Future[_Result], make: Callable[[], _Result]) -> None:
    """Call `make` in a thread of its own, which is lost if the call never returns.

    Any error of `make` becomes a _Failed of the future.
    """

    def run() -> None:
        try:
            result = make()
        except (PluginFailed, config.ConfigException, OSError, yaml.YAMLError) as error:
            future.set_exception(_Failed(str(error)))
        # a value of a type that the library does not expect may fail in any way
        except Exception as error:  # noqa: BLE001
            future.set_exception(_Failed(f"{type(error).__name__}: {error}"))
        else:
            future.set_result(result)

    threading.Thread(target=run, name=name, daemon=True).start()


def _is_in_cluster(kubeconfig: Path | None, context: str) -> bool:
    if kubeconfig is not None or context or named_kubeconfig():
        return False
    return "KUBERNETES_SERVICE_HOST" in os.environ and _SERVICE_ACCOUNT_NAMESPACE.exists()


class _Kubeconfig(NamedTuple):
    """The merged files, and the entries that the context selects."""

    whole: ConfigNode
    name: str
    cluster: Any  # ConfigNode, whose methods have no types
    user: ConfigNode | None
    namespace: str


def _read(kubeconfig: Path | None, context: str) -> _Kubeconfig:
    paths = str(kubeconfig) if kubeconfig is not None else named_kubeconfig() or _DEFAULT_KUBECONFIG
    whole: Any = KubeConfigMerger(paths).config
    if whole is None:
        raise config.ConfigException("there is no kubeconfig")
    name = context or whole["current-context"]
    chosen = whole["contexts"].get_with_name(name)["context"]
    cluster = whole["clusters"].get_with_name(chosen["cluster"])["cluster"]
    entry = whole["users"].get_with_name(chosen["user"], safe=True) if chosen.safe_get("user") else None
    user = entry["user"] if entry is not None and isinstance(entry.safe_get("user"), dict) else None
    namespace = str(chosen.safe_get("namespace") or "default")
    return _Kubeconfig(whole, name, cluster, user, namespace)


def _place(kubeconfig: Path | None, context: str) -> ClusterEntry:
    if _is_in_cluster(kubeconfig, context):
        configuration, _, _ = _load(kubeconfig, context, threading.Event())
        return ClusterEntry(configuration.host, _SERVICE_ACCOUNT_NAMESPACE.read_text().strip() or "default")
    found = _read(kubeconfig, context)
    server = str(found.cluster["server"]).rstrip("/")
    return ClusterEntry(
        server,
        found.namespace,
        not (server.startswith("https") and found.cluster.safe_get("insecure-skip-tls-verify")),
    )


def _load(
    kubeconfig: Path | None, context: str, closed: threading.Event
) -> tuple[Configuration, float | None, TemporaryDirectory[str] | None]:
    """The client's configuration with our credentials, when these expire (seconds since the epoch), and where
    a plugin's certificate and key are.
    """
    configuration = Configuration()
    configuration.retries = False
    configuration.connection_pool_maxsize = POOL_SIZE
    if _is_in_cluster(kubeconfig, context):
        config.load_incluster_config(client_configuration=configuration)
        return configuration, None, None
    found = _read(kubeconfig, context)
    expires_at = files = None
    if (
        found.user is not None
        and "exec" in found.user
        and not ("token" in found.user or "tokenFile" in found.user)
    ):
        folder = os.path.dirname(os.path.abspath(found.cluster.path))
        credential = run_plugin(found.user["exec"].value, found.cluster.value, folder, closed, PLUGIN_SECONDS)
        expires_at = credential.expires_at
        files = _put(credential, found.user)
    loader: Any = KubeConfigLoader(found.whole, active_context=found.name, config_base_path=None)
    try:
        loader.load_and_set(configuration)
    except BaseException:
        if files is not None:
            files.cleanup()
        raise
    # it would refresh in the caller's thread, each caller for itself
    configuration.refresh_api_key_hook = None
    return configuration, expires_at, files


def _put(credential: Credential, user: ConfigNode) -> TemporaryDirectory[str] | None:
    """Store the credential where the client's own loader reads it; returns the folder of its files."""
    del user.value["exec"]
    if credential.token:
        user.value["token"] = credential.token
    if credential.certificate:
        files = TemporaryDirectory(prefix="tally-kubernetes-")  # for its owner alone
        for name, text in (("client-certificate", credential.certificate), ("client-key", credential.key)):
            user.value[name] = os.path.join(files.name, name)
            Path(user.value[name]).write_text(text, encoding="utf-8")
        return files
    return None
