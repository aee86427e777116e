"""The engine that a cluster's replicas use, opened from the command line: for logs, events, rights and the
audit.
"""

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
    from controller.client import ReplicaView
    from controller.config import Settings
    from controller.engine.base import Engine
    from controller.engine.kubernetes.engine import KubernetesEngine

REMOTE = ("kubernetes", "docker")  # engines whose truth is behind an API, and not in a folder of this machine


def open_engine(session: Session) -> Engine | None:
    """The engine, by what the replicas have registered, else by the settings; None when neither tells.

    Raises UserError when it cannot be read from this machine, EngineError when it cannot be reached.
    """
    registered = next(
        (engine for engine in _registered(session.client.replicas.all()) if engine.get("name")), {}
    )
    name = str(registered.get("name") or session.given("engine") or "")
    if name in REMOTE:
        from controller.app import make_engine

        engine = make_engine(name, _as_registered(session.settings, registered), session.client.clock)
        session.client.outputs.bind(engine)
        return engine
    return session.client.outputs.engine(session.given("state_dir"))


def open_engine_or_warn(session: Session) -> tuple[Engine | None, str]:
    """The same for commands that have something to say without it, which is said as a warning.

    With what is the matter with the engine, where it cannot be used; "" where it is not known here, or of
    another machine.
    """
    engine, problem = None, ""
    why = "no replica is registered that names it; give --state-dir DIR, or --engine kubernetes or docker"
    try:
        engine = open_engine(session)
    except UserError as error:
        why = str(error)
    except EngineError as error:
        why = problem = str(error)
    if engine is None:
        say(f"warning: the engine is not checked: {why}", err=True)
    return engine, problem


def registered_or_warn(session: Session) -> list[ReplicaView]:
    """The registered replicas; none, with a warning, where etcd does not answer: it may be gone by now."""
    try:
        return session.client.replicas.all()
    except StoreError as error:
        say(f"warning: whether replicas still run is not known: {error}", err=True)
        return []


def open_kubernetes(session: Session, replicas: Sequence[ReplicaView]) -> KubernetesEngine:
    """The Kubernetes engine, from the flags where no replica says otherwise: for use after an
    uninstallation too.
    """
    from controller.app import make_engine
    from controller.engine.kubernetes.engine import KubernetesEngine

    registered = next((engine for engine in _registered(replicas) if engine.get("name") == "kubernetes"), {})
    engine = make_engine("kubernetes", _as_registered(session.settings, registered), session.client.clock)
    assert isinstance(engine, KubernetesEngine)
    return engine


def _registered(replicas: Sequence[ReplicaView]) -> list[dict[str, object]]:
    from controller.client.views import by_engine

    return [replica.engine for replica in by_engine(replicas)]


def _as_registered(settings: Settings, registered: dict[str, object]) -> Settings:
    """The flags win; what they leave open is taken from the replicas, where it can be used on this
    machine.
    """
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
