"""The members of an array, as the status endpoint and the gateway answer them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from controller.core.model.model import Model
from controller.views.arrays import ArrayProgress, MemberView, members_of
from controller.views.tasks import find_task


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
