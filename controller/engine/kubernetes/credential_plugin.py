"""Runs a kubeconfig's credential plugin (`exec`) once, with limits on its time and output.

The official client has no such limits, and hides failures: it then sends the call without a credential.
Plugins are never interactive here, since a controller has no terminal. Source:
https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import IO, Any

import msgspec
from msgspec import Struct

PLUGIN_SECONDS = 15.0
MAX_OUTPUT_BYTES = 1024 * 1024
_CHUNK_BYTES = 64 * 1024
_POLL_SECONDS = 0.2
_WORDS = 300  # characters of what a failed plugin says


class PluginFailed(Exception):
    """The plugin gives no credential; the message names it and says why."""


class Credential(Struct, frozen=True, kw_only=True):
    """A token, or a client certificate and its key as PEM. `expires_at`: seconds since the epoch."""

    token: str = ""
    certificate: str = ""
    key: str = ""
    expires_at: float | None = None


class _Status(Struct, frozen=True, rename="camel"):
    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: datetime | None = None


class _ExecCredential(Struct, frozen=True, rename="camel"):
    api_version: str
    kind: str
    status: _Status


def run_plugin(
    plugin: Mapping[str, Any],
    cluster: Mapping[str, Any],
    folder: str,
    closed: threading.Event,
    seconds: float,
) -> Credential:
    """Run the plugin of the kubeconfig's `exec` section, and return its credential.

    `folder` is the kubeconfig's, for relative paths. The plugin and its process group are killed after
    `seconds`, or when `closed` is set. Raises PluginFailed.
    """
    command, version = plugin.get("command"), plugin.get("apiVersion")
    if not command or not version:
        raise PluginFailed("the kubeconfig's exec section needs command and apiVersion")
    info: dict[str, Any] = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}
    if plugin.get("provideClusterInfo"):
        info["spec"]["cluster"] = _cluster_info(cluster)
    added = {str(each["name"]): str(each["value"]) for each in plugin.get("env") or ()}
    environment = os.environ | added | {"KUBERNETES_EXEC_INFO": msgspec.json.encode(info).decode()}
    arguments = [str(command), *map(str, plugin.get("args") or ())]
    name = f"credential plugin {command}"
    try:
        process = subprocess.Popen(  # the user's own kubeconfig names it, as for kubectl
            arguments,
            cwd=folder or None,
            env=environment,
            process_group=0,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except (OSError, ValueError) as error:
        hint = plugin.get("installHint")
        raise PluginFailed(f"{name} cannot be run: {error}" + (f" ({hint})" if hint else "")) from error
    try:
        output, words = _read(process, name, closed, seconds)
    except PluginFailed:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if process.returncode != 0:
        raise PluginFailed(
            f"{name} ended with exit code {process.returncode}" + (f": {words}" if words else "")
        )
    return _decoded(output, name, str(version))


def _read(
    process: subprocess.Popen[bytes], name: str, closed: threading.Event, seconds: float
) -> tuple[bytes, str]:
    """The plugin's output until it has ended, and its stderr.

    A child that keeps the pipes open is not waited for.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    read: dict[IO[bytes], bytearray] = {process.stdout: bytearray(), process.stderr: bytearray()}
    give_up_at = time.monotonic() + seconds
    with process.stdout, process.stderr, selectors.DefaultSelector() as selector:
        for pipe in read:
            os.set_blocking(pipe.fileno(), False)
            selector.register(pipe, selectors.EVENT_READ)
        while True:
            # checked before the last read, so that none of its output is missed
            ended = process.poll() is not None
            for key, _ in selector.select(0 if ended else _POLL_SECONDS):
                chunk = os.read(key.fd, _CHUNK_BYTES)
                read[key.fileobj] += chunk  # type: ignore[index]  # the pipes that were registered
                if not chunk:
                    selector.unregister(key.fileobj)
            said = read[process.stderr][-_WORDS:].decode(errors="replace").strip()
            if any(len(data) > MAX_OUTPUT_BYTES for data in read.values()):
                raise PluginFailed(f"{name} printed more than {MAX_OUTPUT_BYTES} bytes, and was ended")
            if ended or not selector.get_map():
                if ended:
                    return bytes(read[process.stdout]), said
                closed.wait(_POLL_SECONDS)  # it closed its output, and has still to end
            if closed.is_set() or time.monotonic() > give_up_at:
                why = (
                    "was ended, because the engine closes"
                    if closed.is_set()
                    else f"did not end within {seconds:g} s"
                )
                raise PluginFailed(f"{name} {why}" + (f": {said}" if said else ""))


def _decoded(output: bytes, name: str, version: str) -> Credential:
    try:
        answer = msgspec.json.decode(output, type=_ExecCredential)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PluginFailed(f"{name} printed no ExecCredential: {error}") from error
    status = answer.status
    if answer.kind != "ExecCredential" or answer.api_version != version:
        raise PluginFailed(
            f"{name} printed {answer.kind} of {answer.api_version}, not ExecCredential of {version}"
        )
    if not status.token and not (status.client_certificate_data and status.client_key_data):
        raise PluginFailed(f"{name} returned neither a token nor a client certificate with its key")
    expires = status.expiration_timestamp
    return Credential(
        token=status.token,
        certificate=status.client_certificate_data,
        key=status.client_key_data,
        expires_at=expires.timestamp() if expires is not None else None,
    )


def _cluster_info(cluster: Mapping[str, Any]) -> dict[str, Any]:
    """The cluster in the form of the exec API, with the plugin's part of its extensions as `config`."""
    known = {name: value for name, value in cluster.items() if name != "extensions"}
    for each in cluster.get("extensions") or ():
        if each.get("name") == "client.authentication.k8s.io/exec":
            known["config"] = each.get("extension")
    return known
