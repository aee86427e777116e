"""The nodes of a cluster as an engine sees them, and what pools have of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

from msgspec import Struct, field

from controller.core.model.resources import MAX_NAMES, ZERO, Vector
from controller.core.model.selector import Requirement, parse_selector, selects

NOT_READY, CORDONED = "is not ready", "is cordoned"


class CapacitySource(StrEnum):
    """What a pool's capacity follows."""

    NODES = "nodes"


class CapacityFrom(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """In place of amounts: a pool has what the nodes give whose labels match `selector` ("": all nodes)."""

    source: CapacitySource = field(name="from")
    selector: str = ""


class Taint(NamedTuple):
    """What keeps pods that do not tolerate it from a node. `effect` is NoSchedule or NoExecute."""

    key: str
    value: str
    effect: str


class NodeRoom(NamedTuple):
    """One node. `others` is what pods request there that are not of this installation of Tally."""

    name: str
    labels: Mapping[str, str] = {}
    allocatable: Vector = ZERO
    others: Vector = ZERO
    is_ready: bool = True
    is_cordoned: bool = False
    taints: tuple[Taint, ...] = ()

    @property
    def room(self) -> Vector:
        """What it has for this installation, if it can be used; of nothing less than 0."""
        return Vector({name: max(0, have - self.others.get(name)) for name, have in self.allocatable.items()})

    def unusable(self, tolerations: Iterable[Any] = ()) -> str:
        """Why no pod with these tolerations can begin there, as in "is not ready"; "" if it can."""
        if not self.is_ready:
            return NOT_READY
        if self.is_cordoned:
            return CORDONED
        for taint in self.taints:
            if not any(_tolerates(each, taint) for each in tolerations):
                text = f"{taint.key}={taint.value}" if taint.value else taint.key
                return f"has the taint {text}:{taint.effect}, which the pool's pod template does not tolerate"
        return ""


class Counted(NamedTuple):
    """What a pool has of some nodes: the sum of their rooms, and for each why it is not in it ("": it is)."""

    amounts: Vector
    nodes: Mapping[str, tuple[NodeRoom, str]]

    @property
    def usable(self) -> int:
        """How many nodes are in the sum."""
        return sum(not why for _, why in self.nodes.values())


def count(nodes: Iterable[NodeRoom], selector: str, tolerations: Iterable[Any]) -> Counted:
    """What a pool has of these nodes. The selector must be valid."""
    terms, known = terms_of(selector), tuple(tolerations)
    matching = {node.name: (node, node.unusable(known)) for node in nodes if selects(terms, node.labels)}
    sums: dict[str, int] = {}
    for node, why in matching.values():
        if not why:
            for name, amount in node.room.items():
                sums[name] = sums.get(name, 0) + amount
    if len(sums) > MAX_NAMES:  # more could not be stored
        first = sorted(sums, key=lambda name: (name not in ("cpu", "memory"), name))[:MAX_NAMES]
        sums = {name: sums[name] for name in first}
    return Counted(Vector(sums), matching)


def tolerations_of(template: Mapping[str, Any]) -> tuple[Any, ...]:
    """The tolerations of a pool's pod template."""
    spec = template.get("spec")
    found = spec.get("tolerations") if isinstance(spec, Mapping) else None
    return tuple(found) if isinstance(found, list) else ()


@lru_cache(maxsize=256)
def terms_of(selector: str) -> tuple[Requirement, ...]:
    """The terms of a selector; none for "". Raises InvalidSelector."""
    return parse_selector(selector) if selector else ()


def _tolerates(toleration: Any, taint: Taint) -> bool:
    """Whether a toleration, as a pod template has it, is for the taint."""
    if not isinstance(toleration, Mapping):
        return False
    key, effect = toleration.get("key") or "", toleration.get("effect") or ""
    if effect not in ("", taint.effect) or key not in ("", taint.key):
        return False
    if toleration.get("operator") == "Exists":
        return True
    return key != "" and (toleration.get("value") or "") == taint.value
