"""The members of an array, as the status endpoint and the gateway answer them."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from starlette.responses import Response

from controller.core.model.model import Model
from controller.endpoint.problems import Problem
from controller.endpoint.route import Ask
from controller.views.array_runs import runs_of
from controller.views.arrays import ArrayProgress, MemberView, members_of
from controller.views.tasks import find_task

if TYPE_CHECKING:
    from controller.endpoint.api import ReadApi


class MemberList(Struct, frozen=True, kw_only=True):
    """A page of members, by index. `next_offset` is the `offset` of the next page; null on the last one.

    `progress` is that of the whole array, at the same moment.
    """

    items: list[MemberView]
    next_offset: int | None
    progress: ArrayProgress


def member_list(model: Model, task_id: str, wanted: Mapping[str, Any]) -> MemberList | None:
    """The page that is wanted, by the parameters MEMBERS; None if it is no array."""
    found = members_of(
        model,
        task_id,
        offset=wanted["offset"],
        limit=wanted["limit"],
        states=wanted["state"],
        ranges=wanted["members"],
    )
    facts = find_task(model, task_id)
    if found is None or facts is None or facts.progress is None:
        return None
    return MemberList(items=found.items, next_offset=found.next_offset, progress=facts.progress)


def members(api: ReadApi, ask: Ask) -> Response:
    """Members of an array."""
    name = ask.path["id"]
    with api.view.reading() as model:
        is_there = find_task(model, name) is not None
        found = member_list(model, name, ask.values)
    return _answer(found, name, is_there=is_there)


def member_runs(api: ReadApi, ask: Ask) -> Response:
    """The states of all members, as runs of neighbours."""
    name = ask.path["id"]
    with api.view.reading() as model:
        is_there = find_task(model, name) is not None
        found = runs_of(model, name)
    return _answer(found, name, is_there=is_there)


def _answer(found: object | None, name: str, *, is_there: bool) -> Response:
    if found is None:
        what = f"task {name[:80]!r} is no array, and has no members"
        raise Problem(HTTPStatus.NOT_FOUND, what if is_there else f"there is no task {name[:80]!r}")
    return Response(msgspec.json.encode(found), media_type="application/json")
