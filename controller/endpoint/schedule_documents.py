"""The documents of the status endpoint's API about schedules. See `documents`."""

from __future__ import annotations

from http import HTTPStatus

from msgspec import Struct
from starlette.responses import Response

from controller.endpoint.api import ReadApi
from controller.endpoint.documents import encode, masked_spec
from controller.endpoint.problems import Problem
from controller.endpoint.route import Ask
from controller.views.schedules import ScheduleView, masked_task, schedule_names, schedule_view


class ScheduleList(Struct, frozen=True, kw_only=True):
    """The schedules, by name."""

    items: list[ScheduleView]


_SHOWN = masked_task(masked_spec)


def schedules(api: ReadApi, _: Ask) -> Response:
    """All schedules. The model is held for one at a time: their times to come may take long."""
    now, found = api.view.wall(), list[ScheduleView | None]()
    with api.view.reading() as model:
        names = schedule_names(model)
    for name in names:
        with api.view.reading() as model:
            found.append(schedule_view(model, name, now, _SHOWN))
    items = [view for view in found if view is not None]
    return Response(encode(ScheduleList(items=items)), media_type="application/json")


def schedule(api: ReadApi, ask: Ask) -> Response:
    """One schedule."""
    name, now = ask.path["name"], api.view.wall()
    with api.view.reading() as model:
        found = schedule_view(model, name, now, _SHOWN, foresee=True)
    if found is None:
        raise Problem(HTTPStatus.NOT_FOUND, f"there is no schedule {name[:80]!r}")
    return Response(encode(found), media_type="application/json")
