"""The engine that a cluster's replicas use, opened from the command line: for logs, events, rights and the audit."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from controller.core.errors import UserError

if TYPE_CHECKING:
    from controller.cli.session import Session
    from controller.config import Settings
    from controller.engine.base import Engine
    from controller.engine.kubernetes import KubernetesEngine

REMOTE = ("kubernetes", "docker")  # engines whose truth is behind an API, and not in a folder of this machine


def open_engine(session: Session) -> Engine | None:
    """The engine, by what the replicas have registered and by the flags; None when no replica is registered.

    Raises UserError when it cannot be read from this machine, EngineError when it cannot be reached.
    """
    registered = next((engine for engine in _registered(session) if engine.get("name")), {})
    name = str(registered.get("name", ""))
    if name in REMOTE:
        from controller.app import make_engine

        engine = make_engine(name, _as_registered(session.settings, registered), session.client.clock)
        session.client.bind(engine)
        return engine
    return session.client.engine(session.given("state_dir"))


def open_engine_or_warn(session: Session) -> Engine | None:
    """The same for commands that have something to say without it."""
    try:
        return open_engine(session)
    except UserError as error:
        print(f"warning: the engine is not checked: {error}", file=sys.stderr)
        return None


def open_kubernetes(session: Session) -> KubernetesEngine:
    """The Kubernetes engine, from the flags where no replica says otherwise: for use after an uninstallation too."""
    from controller.app import make_engine
    from controller.engine.kubernetes import KubernetesEngine

    registered = next((engine for engine in _registered(session) if engine.get("name") == "kubernetes"), {})
    engine = make_engine("kubernetes", _as_registered(session.settings, registered), session.client.clock)
    assert isinstance(engine, KubernetesEngine)
    return engine


def _registered(session: Session) -> list[dict[str, object]]:
    """The engines of the replicas; one that is not the recorded engine comes last."""
    return [replica.engine for replica in sorted(session.client.replicas(), key=lambda replica: bool(replica.engine_problem))]


def _as_registered(settings: Settings, registered: dict[str, object]) -> Settings:
    """The flags win; what they leave open is taken from the replicas, where it can be used on this machine."""
    kubeconfig, namespaces = registered.get("kubeconfig"), registered.get("namespaces")
    if settings.kubeconfig is None and "KUBECONFIG" not in os.environ and kubeconfig and Path(str(kubeconfig)).is_file():
        settings = replace(settings, kubeconfig=Path(str(kubeconfig)))
    if not settings.kube_namespaces and isinstance(namespaces, list):
        settings = replace(settings, kube_namespaces=tuple(map(str, namespaces)))
    return settings
