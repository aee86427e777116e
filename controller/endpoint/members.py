"""The members of an array, as the status endpoint answers them."""

from __future__ import annotations

from http import HTTPStatus

from starlette.responses import Response

from controller.endpoint import documents
from controller.endpoint.api import ReadApi
from controller.endpoint.array_documents import member_list
from controller.endpoint.problems import Problem
from controller.endpoint.route import Ask
from controller.views.array_runs import runs_of
from controller.views.tasks import find_task


def members(api: ReadApi, ask: Ask) -> Response:
    """A page of members."""
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
        why = "is no array, and has no members" if is_there else "does not exist"
        raise Problem(HTTPStatus.NOT_FOUND, f"task {name[:80]!r} {why}")
    return Response(documents.encode(found), media_type="application/json")
