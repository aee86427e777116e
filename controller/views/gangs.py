"""The facts of gangs, as all readers show them: what holds for one, and which members it still waits for."""

from __future__ import annotations

from typing import NamedTuple

from controller.core.model.array_records import Array
from controller.core.model.gangs import MemberRole, role_of
from controller.core.model.lifecycle import FINISHED, State
from controller.core.model.resources import Vector
from controller.core.model.task import Spec, Status


class GangFacts(NamedTuple):
    """How far a gang has come that holds resources: members by their names, in the order of their indexes.

    `held` is what the gang and its members hold together. `starting` have begun, and do not run yet.
    `stopping` are those under way whose end is not proven; `lost` are those of them that are lost.
    `unreadable` are those whose status cannot be read: they may run.
    """

    size: int
    held: Vector
    running: tuple[str, ...]
    starting: tuple[tuple[str, Status], ...]
    stopping: tuple[str, ...]
    lost: tuple[str, ...]
    unreadable: tuple[int, ...]
    not_begun: int
    ended: int


def gang_facts(status: Status, array: Array | None) -> GangFacts:
    """The facts of the gang with this status. `array` has its members; None: there are none."""
    known = sorted(array.members.items()) if array is not None else []
    members = [(task.id, task.status) for _, task in known if task.status is not None]
    under_way = [(name, own) for name, own in members if own.state not in FINISHED]
    return GangFacts(
        size=array.size if array is not None else 0,
        held=sum((own.hold for _, own in under_way), status.hold),
        running=tuple(name for name, own in under_way if own.state is State.RUNNING),
        starting=tuple((name, own) for name, own in under_way if own.state is not State.RUNNING),
        stopping=tuple(name for name, _ in under_way),
        lost=tuple(name for name, own in under_way if own.lost_since is not None),
        unreadable=tuple(sorted(array.hidden)) if array is not None else (),
        not_begun=array.waiting if array is not None else 0,
        ended=array.ended if array is not None else 0,
    )


def roles_text(spec: Spec | None) -> str:
    """The roles of a gang, with the indexes of their members: `launcher (0), worker (1-8)`; "" for none."""
    told, first = [], 0
    for role in _roles(spec):
        last = first + role.size - 1
        told.append(f"{role.name} ({first}-{last})" if last > first else f"{role.name} ({first})")
        first = last + 1
    return ", ".join(told)


def role_name(spec: Spec | None, index: int) -> str:
    """The name of the role that a member of this array has; "" if that has no roles."""
    roles = _roles(spec)
    try:
        return roles[role_of((role.size for role in roles), index)[0]].name if roles else ""
    except IndexError:
        return ""


def is_gang(spec: Spec | None) -> bool:
    """Whether the spec is that of a gang."""
    return spec is not None and spec.array is not None and spec.array.gang


def _roles(spec: Spec | None) -> tuple[MemberRole, ...]:
    return spec.array.roles if spec is not None and spec.array is not None else ()
