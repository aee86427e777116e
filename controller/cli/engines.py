"""Opens the engine of a cluster's replicas, for logs, events, rights and the audit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from controller.engine.base import EngineError
from controller.errors import UserError
from controller.store.base import StoreError
from controller.terminal import say

if TYPE_CHECKING:
    from controller.cli.session import Session
    from controller.client import Client, ReplicaView
    from controller.config import Settings
    from controller.engine.base import Engine
    from controller.engine.kubernetes.engine import KubernetesEngine

REMOTE = ("kubernetes", "docker")  # engines that are reached by an API, and not by a folder of this machine


def open_engine(session: Session) -> Engine | None:
    """The engine that the replicas have registered, else the one in the settings; None if neither names one.

    Raises UserError if it cannot be read from this machine, and EngineError if it cannot be reached.
    """
    return engine_of(session.client, session.settings, session.given("engine"), session.given("state_dir"))


def engine_of(
    client: Client, settings: Settings, engine: str | None, state_dir: Path | None
) -> Engine | None:
    """As `open_engine`. `engine` and `state_dir` are those that the settings give, and not their defaults."""
    return _open(client, settings, state_dir, *_named(client, engine))


def _open(
    client: Client, settings: Settings, state_dir: Path | None, name: str, registered: dict[str, object]
) -> Engine | None:
    if name in REMOTE:
        from controller.app import make_engine

        engine = make_engine(name, _as_registered(settings, registered), client.clock)
        client.outputs.bind(engine)
        return engine
    return client.outputs.engine(state_dir)


def _named(client: Client, engine: str | None) -> tuple[str, dict[str, object]]:
    """The engine's name, "" if it is not known, and what the replicas have registered of it."""
    registered = next((each for each in _registered(client.replicas.all()) if each.get("name")), {})
    return str(registered.get("name") or engine or ""), registered


def open_engine_or_warn(session: Session) -> tuple[Engine | None, str]:
    """As `open_engine`, for commands that can do without the engine: errors become a warning.

    Also returns why there is none; "" for the engine that runs nothing.
    """
    engine, problem = None, ""
    name, registered = _named(session.client, session.given("engine"))
    why = "no registered replica names it; give --state-dir DIR, or --engine kubernetes or docker"
    try:
        engine = _open(session.client, session.settings, session.given("state_dir"), name, registered)
    except UserError as error:
        why = str(error)
    except EngineError as error:
        why = str(error)
    if engine is None and name != "null":
        problem = why
    elif name == "null":
        why = "the engine `null` runs nothing, and keeps nothing"
    if engine is None:
        say(f"warning: the engine is not checked: {why}", err=True)
    return engine, problem


def registered_or_warn(session: Session) -> list[ReplicaView]:
    """The registered replicas. If etcd does not answer, which may be uninstalled: none, and a warning."""
    try:
        return session.client.replicas.all()
    except StoreError as error:
        say(f"warning: cannot tell whether replicas still run: {error}", err=True)
        return []


def open_kubernetes(session: Session, replicas: Sequence[ReplicaView]) -> KubernetesEngine:
    """The Kubernetes engine, from the flags and what the replicas have registered.

    It works without replicas, too, for use after an uninstallation.
    """
    from controller.app import make_engine
    from controller.engine.kubernetes.engine import KubernetesEngine

    registered = next((engine for engine in _registered(replicas) if engine.get("name") == "kubernetes"), {})
    engine = make_engine("kubernetes", _as_registered(session.settings, registered), session.client.clock)
    assert isinstance(engine, KubernetesEngine)
    return engine


def _registered(replicas: Sequence[ReplicaView]) -> list[dict[str, object]]:
    from controller.client.replica_views import by_engine

    return [replica.engine for replica in by_engine(replicas)]


def _as_registered(settings: Settings, registered: dict[str, object]) -> Settings:
    """The settings, completed by what the replicas have registered, as far as this machine can use it."""
    kubeconfig, namespaces = registered.get("kubeconfig"), registered.get("namespaces")
    if (
        settings.kubeconfig is None
        and not os.environ.get("KUBECONFIG")
        and kubeconfig
        and Path(str(kubeconfig)).is_file()
    ):
        settings = replace(settings, kubeconfig=Path(str(kubeconfig)))
    if not settings.kube_namespaces and isinstance(namespaces, list):
        settings = replace(settings, kube_namespaces=tuple(map(str, namespaces)))
    return settings
