"""Reads a pool's `capacity`: amounts, or where it comes from (`{from: nodes, selector: "pool=batch"}`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controller.core.model.fields import mapping, one_of, read_fields
from controller.core.model.nodes import CapacityFrom, CapacitySource, terms_of
from controller.core.model.resources import Vector
from controller.core.model.scalars import parse_text
from controller.core.model.selector import InvalidSelector
from controller.errors import InvalidField

FOLLOWING = "capacity_from"
ENGINE_WITH_NODES = "kubernetes"


def with_source(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A pool's fields, with a capacity that names its source under the name by which that is stored.

    Raises InvalidField if the capacity is missing, or is given both ways.
    """
    given = dict(fields)
    capacity, source = given.get("capacity"), given.get(FOLLOWING)
    if isinstance(capacity, Mapping) and names_source(capacity):
        if source is not None:
            raise InvalidField(FOLLOWING, "is given twice, also as capacity.from: keep one")
        given["capacity"], given[FOLLOWING] = None, parse_capacity_from(capacity, "capacity")
    elif source is not None:
        if capacity:
            raise InvalidField("capacity", f"is given in amounts, and also as {FOLLOWING}: keep one of them")
        given["capacity"] = None
    elif capacity is None:
        raise InvalidField(
            "capacity", "is missing: give the resources of the pool, such as {cpu: 8, memory: 16Gi}"
        )
    return given


def names_source(capacity: Mapping[str, Any]) -> bool:
    """Whether it says where the capacity comes from: `from` may also be the name of a resource."""
    source = capacity.get("from")
    if not isinstance(source, str):
        return False
    try:
        Vector.parse({"from": source})
    except InvalidField:
        return True
    return False


def parse_capacity_from(raw: object, field: str) -> CapacityFrom:
    """Where a capacity comes from. Raises InvalidField, naming the field."""
    if isinstance(raw, CapacityFrom):
        return raw
    fields = dict(mapping(raw, field, 'expected a mapping such as {from: nodes, selector: "pool=batch"}'))
    if fields.get("from") is None:
        raise InvalidField(f"{field}.from", "is missing: say nodes")
    values = read_fields(fields, {"from": one_of(CapacitySource), "selector": parse_text}, f"{field}.")
    selector = values.get("selector", "")
    try:
        terms_of(selector)
    except InvalidSelector as error:
        raise InvalidField(f"{field}.selector", str(error)) from None
    return CapacityFrom(source=values["from"], selector=selector)


def check_source(source: CapacityFrom | None, engine: str) -> None:
    """Raise InvalidField if the installation's engine has no nodes to follow; "": it is not known yet."""
    if source is not None and engine not in ("", ENGINE_WITH_NODES):
        raise InvalidField(
            "capacity.from",
            f"is {source.source.value}, but the engine here is {engine}, which has no nodes: give amounts,"
            " such as {cpu: 8, memory: 16Gi}",
        )
