"""Gangs: arrays whose members run all at once, or not at all (`gang`), and their roles (`roles`).

A gang is admitted as one task: its status takes the hold of all members in one transaction. Members take
their parts over from it, in transactions that leave the ledger as it was. So no gang is ever admitted in
part: what its members have not taken over is released with its status.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import Annotated

from msgspec import Meta, Struct

from controller.core.model.fields import Parse, mapping, read_fields
from controller.core.model.resources import ZERO, Vector
from controller.core.model.scalars import parse_integer, parse_name, parse_strings, shown
from controller.errors import InvalidField

MAX_GANG = 10_000
MAX_ROLES = 16
START_SECONDS = 600.0
"""The start deadline of a gang that states none: members that never start would keep the others waiting."""

ROLE, ROLE_INDEX, ROLE_SIZE = "TALLY_ROLE", "TALLY_ROLE_INDEX", "TALLY_ROLE_SIZE"
"""The variables by which a member of a role knows itself, beside those of every member."""


class MemberRole(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Neighbouring members of a gang that are alike. None: as the task says."""

    name: str
    size: int
    resources: Vector | None = None
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None


class Reserved(Struct, frozen=True, array_like=True):
    """What a gang holds for the members of one role that have not begun: how many, and the hold of each."""

    left: Annotated[int, Meta(ge=0, le=MAX_GANG)]
    hold: Vector


def total(reserved: Iterable[Reserved]) -> Vector:
    """What all these members hold."""
    found = ZERO
    for one in reserved:
        found += one.hold.times(one.left)
    return found


def role_of(sizes: Iterable[int], index: int) -> tuple[int, int]:
    """The role of a member, by its number, and the member's index within it. Raises IndexError."""
    for number, end in enumerate(ends := list(accumulate(sizes))):
        if index < end:
            return number, index - (ends[number - 1] if number else 0)
    raise IndexError(f"no role has member {index}")


def role_environment(role: MemberRole, index: int) -> dict[str, str]:
    """The variables of a member of a role; {} for a gang without roles."""
    return {ROLE: role.name, ROLE_INDEX: str(index), ROLE_SIZE: str(role.size)} if role.name else {}


def parse_roles(raw: object, field: str) -> tuple[MemberRole, ...]:
    """The `roles` of a gang, in the order of its members. Raises InvalidField."""
    if isinstance(raw, str) or not isinstance(raw, list | tuple):
        raise InvalidField(
            field, "expected a list, such as [{name: launcher, size: 1}, {name: worker, size: 8}]"
        )
    if len(raw) > MAX_ROLES:  # none, as a spec is printed that has none, is as if nothing were given
        raise InvalidField(field, f"has {len(raw)} roles, but at most {MAX_ROLES} are allowed")
    roles = tuple(_role(each, f"{field}[{number}]") for number, each in enumerate(raw))
    names = [role.name for role in roles]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise InvalidField(f"{field}[{number}].name", f"{name!r} is the name of an earlier role, too")
    return roles


def _role(raw: object, field: str) -> MemberRole:
    if isinstance(raw, MemberRole):
        return raw
    fields = mapping(raw, field, "expected a mapping such as {name: worker, size: 8, resources: {cpu: 2}}")
    for name in fields:
        if name not in _FIELDS and (advice := _ADVICE.get(name)):
            raise InvalidField(f"{field}.{name}", advice)
    for name in ("name", "size"):
        if fields.get(name) is None:
            raise InvalidField(f"{field}.{name}", "is missing: a role has a name and a size")
    return MemberRole(**read_fields(fields, _FIELDS, f"{field}."))


def _name(raw: object, field: str) -> str:
    if not isinstance(raw, str) or not raw:
        raise InvalidField(field, f"is {shown(raw)}, expected a name in quotes, such as 'worker'")
    return parse_name(raw, field, "the name of a role")


def _size(raw: object, field: str) -> int:
    return parse_integer(raw, field, 1, MAX_GANG)


_COUNTS = "is not a field; did you mean size?"
_AMOUNTS = "is not a field; did you mean resources, as in {name: worker, size: 8, resources: {cpu: 2}}?"
_COMMON = (
    "is the same for all roles, and is given for the task: a role has its own resources, command and args"
)
_ADVICE = {
    **dict.fromkeys(("count", "replicas", "members"), _COUNTS),
    **dict.fromkeys(("cpu", "memory"), _AMOUNTS),
    **dict.fromkeys(("image", "env", "working_dir", "labels", "retry", "deadlines", "pod_template"), _COMMON),
}
"""What is probably meant by a field that no role has."""

_FIELDS: dict[str, Parse] = {
    "name": _name,
    "size": _size,
    "resources": Vector.parse,
    "command": parse_strings,
    "args": parse_strings,
}
