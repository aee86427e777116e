"""How Kubernetes merges the fields of a pod, by the name of the field: tables from its OpenAPI document.

A test compares them with the documents of the oldest server and of a new one (tests/core/test_merge_keys.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MERGE_KEYS: Mapping[str, tuple[str, ...]] = {
    "claims": ("name",),
    "containers": ("name",),
    "env": ("name",),
    "ephemeralContainers": ("name",),
    "evictionResponders": ("name",),
    "hostAliases": ("ip",),
    "imagePullSecrets": ("name",),
    "initContainers": ("name",),
    "ports": ("containerPort", "protocol"),
    "resourceClaims": ("name",),
    "schedulingGates": ("name",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "volumeDevices": ("devicePath",),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}
"""The fields that identify an entry of a list.

From `x-kubernetes-list-map-keys` and `x-kubernetes-patch-merge-key`. All other lists are atomic: tolerations,
envFrom, command, args, capabilities, terms of affinity, items of a volume.
"""

_KEY_DEFAULTS = {"protocol": "TCP"}

_HANDLERS = frozenset({"exec", "httpGet", "tcpSocket", "grpc", "sleep"})

ALTERNATIVES: Mapping[str, frozenset[str] | None] = {
    "env": frozenset({"value", "valueFrom"}),
    "valueFrom": None,
    "volumes": None,
    "resourceClaims": None,
    "livenessProbe": _HANDLERS,
    "readinessProbe": _HANDLERS,
    "startupProbe": _HANDLERS,
    "postStart": _HANDLERS,
    "preStop": _HANDLERS,
}
"""The fields of which an object, or an entry of a list, has only one (None: all but its merge keys)."""

DISCRIMINATED = frozenset({"seccompProfile", "appArmorProfile"})
"""Objects whose `type` says which other fields they have (`x-kubernetes-unions` with a discriminator)."""

ATOMIC = frozenset(
    {
        "configMapKeyRef",
        "dataSource",
        "fieldRef",
        "fileKeyRef",
        "labelSelector",
        "nodePublishSecretRef",
        "requiredDuringSchedulingIgnoredDuringExecution",
        "resourceFieldRef",
        "secretKeyRef",
        "secretRef",
        "selector",
    }
)
"""Objects that are replaced as a whole (`x-kubernetes-map-type: atomic`)."""


def identity(field: str, entry: object) -> tuple[str | int, ...] | None:
    """The key of an entry of the list `field`; None if the entry does not have it."""
    if not isinstance(entry, Mapping):
        return None
    values = tuple(entry.get(key, _KEY_DEFAULTS.get(key)) for key in MERGE_KEYS[field])
    return values if all(isinstance(value, str | int) for value in values) else None


def without_alternatives(below: Mapping[str, Any], above: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """`below` without the alternatives that `above` replaces.

    Both are values of `field`, or entries of the list `field`.
    """
    if field in ATOMIC:
        return {}
    if field in DISCRIMINATED:
        return below if above.get("type", below.get("type")) == below.get("type") else {}
    if field not in ALTERNATIVES:
        return below
    members, keys = ALTERNATIVES[field], MERGE_KEYS.get(field, ())

    def is_member(name: str) -> bool:
        return name in members if members is not None else name not in keys

    named = [name for name, value in above.items() if value is not None and is_member(name)]
    return {
        name: value for name, value in below.items() if not (named and is_member(name) and name not in named)
    }
