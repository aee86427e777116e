"""The documents of the gateway's API."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from msgspec import UNSET, Struct, UnsetType, field

from controller.client import wire
from controller.client.views import TaskView
from controller.endpoint.documents import masked_spec
from controller.gateway.caller import Caller
from controller.gateway.policy import Right
from controller.gateway.veil import MessageVeil


class Whoami(Struct, frozen=True, kw_only=True):
    """Who the caller is, and what it may do. An owner list of null means: of all owners."""

    name: str
    cluster: str  # the installation that the gateway serves
    groups: list[str]
    method: str
    is_admin: bool
    owners: dict[str, list[str] | None]  # act → the owners for whom it is allowed
    pools: dict[str, list[str] | None]  # owner → the pools to which the caller may submit; null: all


class MayI(Struct, frozen=True, kw_only=True):
    """Whether the caller may do what it asks about."""

    allowed: bool
    verb: str  # the least verb that allows it


class Explanation(Struct, frozen=True, kw_only=True):
    """Why a task waits, runs or ended."""

    id: str
    text: str


class TaskPage(Struct, frozen=True, kw_only=True):
    """A page of tasks. `continue` asks for the next page; "" on the last one."""

    items: list[dict[str, Any]]
    continue_: str = field(name="continue")


class Watched(Struct, frozen=True, kw_only=True):
    """Tasks as they are at a revision of the store. With `more`, the next ones belong to the same look.

    `gone`: what changed and is not there any more, whether it matched or not.
    """

    revision: int
    items: list[dict[str, Any]]
    more: bool = False
    gone: list[str] | UnsetType = UNSET


class Waited(Watched, frozen=True, kw_only=True):
    """Those of the tasks that changed. `missing` has those that do not exist, each with a sentence."""

    missing: dict[str, str]


def whoami(caller: Caller, cluster: str) -> Whoami:
    """What is known of the caller."""
    identity, rights = caller
    return Whoami(
        name=identity.name,
        cluster=cluster,
        groups=sorted(identity.groups),
        method=identity.method,
        is_admin=rights.is_admin,
        owners={
            act: None if owners is None else sorted(owners) for act, owners in rights.reachable().items()
        },
        pools={
            owner: None if pools is None else sorted(pools) for owner, pools in sorted(rights.pools.items())
        },
    )


def task_document(view: TaskView, caller: Caller, owner_of: Callable[[str], str | None]) -> dict[str, Any]:
    """A task as `tally get -o json` prints it.

    The values of its environment are masked for a caller who may not submit for its owner, since whoever
    submits such a task sees them anyway. `owner_of`: see MessageVeil.
    """
    document = wire.task_document(view)
    if view.spec is not None and not caller.rights.allows(Right.SUBMIT, view.owner, view.pool):
        document["spec"] = masked_spec(view.spec)
    if not caller.rights.may_read_all:
        MessageVeil(owner_of, partial(caller.rights.allows, Right.READ)).document(document)
    return document
