"""The fields of nodes, and of the pods of others on them, from raw JSON. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from fractions import Fraction
from typing import Any

import msgspec
from msgspec import Struct

from controller.core.model.demand import pod_requests
from controller.core.model.nodes import NodeRoom, Taint
from controller.core.model.resources import Vector
from controller.engine.kubernetes.pod import NOT_JSON_OF_ITS_TYPE, Condition, Meta, read_head
from controller.errors import InvalidField

_KEEPS_AWAY = ("NoSchedule", "NoExecute")
_NOT_HELD = ("pods", "attachable-volumes-")
"""What nodes say they have, and no task of Tally holds by this name."""

_SMALL = re.compile(r"([0-9]+(?:\.[0-9]*)?)([num])")
_PARTS = {"n": 10**9, "u": 10**6, "m": 10**3}


class TaintFields(Struct, frozen=True):
    """One of a node's spec.taints."""

    key: str = ""
    value: str = ""
    effect: str = ""


class NodeSpec(Struct, frozen=True):
    """A node's spec."""

    unschedulable: bool = False
    taints: list[TaintFields] | None = None


class NodeStatus(Struct, frozen=True):
    """A node's status."""

    allocatable: dict[str, Any] | None = None
    conditions: list[Condition] | None = None


class NodeObject(Struct, frozen=True):
    """The fields of a node that Tally uses."""

    metadata: Meta = Meta()
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()
    # why all but its metadata could not be read; no server sends it
    unreadable: str = msgspec.field(default="", name="-")

    def room(self, others: Vector) -> NodeRoom:
        """What it has, less what others request there. One that cannot be read is not ready."""
        conditions = self.status.conditions or ()
        return NodeRoom(
            self.metadata.name,
            self.metadata.labels or {},
            _allocatable(self.status.allocatable or {}),
            others,
            is_ready=any(each.type == "Ready" and each.status == "True" for each in conditions),
            is_cordoned=self.spec.unschedulable,
            taints=tuple(
                Taint(each.key, each.value, each.effect)
                for each in self.spec.taints or ()
                if each.effect in _KEEPS_AWAY
            ),
        )


class PlacedSpec(Struct, frozen=True, rename="camel"):
    """The part of a pod's spec that says what it requests, and where."""

    node_name: str = ""
    containers: list[dict[str, Any]] | None = None
    init_containers: list[dict[str, Any]] | None = None
    overhead: dict[str, Any] | None = None
    resources: dict[str, Any] | None = None


class PlacedPod(Struct, frozen=True):
    """A pod on a node, whoever made it."""

    metadata: Meta = Meta()
    spec: PlacedSpec = PlacedSpec()
    unreadable: str = msgspec.field(default="", name="-")

    def requests(self) -> Vector:
        """What the scheduler counts for it; parts of a unit are rounded up.

        Raises InvalidField if that cannot be counted.
        """
        spec = self.spec
        return pod_requests(
            {
                "containers": [_rounded_up(each) for each in spec.containers or ()],
                "initContainers": [_rounded_up(each) for each in spec.init_containers or ()],
                "overhead": _whole(spec.overhead or {}, math.ceil),
                **_rounded_up({"name": "", "resources": spec.resources or {}}),
            },
            "spec",
        )


_node_decoder = msgspec.json.Decoder(NodeObject)
_placed_decoder = msgspec.json.Decoder(PlacedPod)


def read_node(data: bytes | msgspec.Raw) -> NodeObject:
    """Decode a node; of an unreadable one, only the metadata. Raises EngineUnavailable if not even that."""
    try:
        return _node_decoder.decode(data)
    except NOT_JSON_OF_ITS_TYPE as error:
        return NodeObject(read_head(data, str(error)), unreadable=str(error) or "?")


def read_placed(data: bytes | msgspec.Raw) -> PlacedPod:
    """Decode a pod; of an unreadable one, only the metadata. Raises EngineUnavailable if not even that."""
    try:
        return _placed_decoder.decode(data)
    except NOT_JSON_OF_ITS_TYPE as error:
        return PlacedPod(read_head(data, str(error)), unreadable=str(error) or "?")


def _allocatable(raw: Mapping[str, Any]) -> Vector:
    """The amounts that can be read, of what tasks may hold; parts of a unit are rounded down."""
    amounts = {}
    for name, text in _whole(raw, math.floor).items():
        if not name.startswith(_NOT_HELD):
            with suppress(InvalidField):
                amounts[name] = Vector.parse({name: text}, name).get(name)
    return Vector(amounts)


def _whole(raw: Mapping[str, Any], rounded: Callable[[Fraction], int]) -> dict[str, Any]:
    """Quantities in whole units, as Tally counts them. What is no quantity stays as it is."""
    return {name: _whole_one(name, text, rounded) for name, text in raw.items()}


def _whole_one(name: str, text: Any, rounded: Callable[[Fraction], int]) -> Any:
    match = _SMALL.fullmatch(text) if isinstance(text, str) else None
    if match is None or (name == "cpu" and match[2] == "m" and "." not in match[1]):
        return text
    amount = rounded(Fraction(match[1]) / _PARTS[match[2]] * (1000 if name == "cpu" else 1))
    return f"{amount}m" if name == "cpu" else str(amount)


def _rounded_up(container: Mapping[str, Any]) -> dict[str, Any]:
    resources = container.get("resources") or {}
    return {
        "name": str(container.get("name", "")),
        "restartPolicy": container.get("restartPolicy"),
        "resources": {kind: _whole(resources.get(kind) or {}, math.ceil) for kind in ("requests", "limits")},
    }
