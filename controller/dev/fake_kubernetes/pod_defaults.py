"""Completes a new pod as the server does: defaults, QoS class, tolerations, dropped fields."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Any

from controller.dev.fake_kubernetes.apierrors import Document
from controller.dev.fake_kubernetes.version import ServerVersion

QUANTITY = re.compile(r"^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$")
_SUFFIXES = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_TAINTS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


def quantity(value: object) -> Decimal:
    """A resource quantity as a number. Raises ValueError in the server's words."""
    match = QUANTITY.match(str(value))
    if match is None:
        raise ValueError(f"quantities must match the regular expression '{QUANTITY.pattern}'")
    number, suffix = match.groups()
    try:
        if suffix in _BINARY:
            return Decimal(number) * Decimal(1024) ** _BINARY[suffix]
        if suffix in _SUFFIXES:
            return Decimal(number).scaleb(_SUFFIXES[suffix])
        return Decimal(number + suffix)
    except InvalidOperation as error:
        raise ValueError("unable to parse quantity's suffix") from error


def requests_of(spec: Document) -> dict[str, Decimal]:
    """What the pod's containers ask for, added up."""
    total: dict[str, Decimal] = {}
    for container in spec.get("containers", ()):
        for name, value in container.get("resources", {}).get("requests", {}).items():
            total[name] = total.get(name, Decimal(0)) + quantity(value)
    return total


def apply_defaults(pod: Document, version: ServerVersion) -> None:
    """Fill in the spec and the first status."""
    spec: Document = pod["spec"]
    for container in spec["containers"]:
        _default_container(container)
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("securityContext", {})
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("priority", 0)
    spec.setdefault("enableServiceLinks", True)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    _default_tolerations(spec)
    if not version.has_scheduling_gates:
        spec.pop("schedulingGates", None)
    pod["status"] = {"phase": "Pending", "qosClass": _qos_class(spec)}


def _default_container(container: Document) -> None:
    tag = str(container["image"]).rsplit("/", 1)[-1].partition(":")[2]
    resources: dict[str, Any] = container.setdefault("resources", {})
    if limits := resources.get("limits"):
        resources["requests"] = limits | resources.get("requests", {})
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    container.setdefault("imagePullPolicy", "Always" if tag in {"", "latest"} else "IfNotPresent")


def _default_tolerations(spec: Document) -> None:
    tolerations: list[Document] = spec.setdefault("tolerations", [])
    for taint in _TAINTS:
        if not any(
            each.get("key", taint) == taint and each.get("effect", "NoExecute") == "NoExecute"
            for each in tolerations
        ):
            tolerations.append(
                {"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
            )


def _qos_class(spec: Document) -> str:
    resources = [container.get("resources", {}) for container in spec["containers"]]
    asked = [
        each.get(side, {}).get(name)
        for each in resources
        for side in ("requests", "limits")
        for name in ("cpu", "memory")
    ]
    if not any(asked):
        return "BestEffort"
    guaranteed = all(each.get("limits", {}).get(name) for each in resources for name in ("cpu", "memory"))
    same = (
        all(
            each["requests"].get(name) == each["limits"].get(name)
            for each in resources
            for name in ("cpu", "memory")
        )
        if guaranteed
        else False
    )
    return "Guaranteed" if same else "Burstable"
