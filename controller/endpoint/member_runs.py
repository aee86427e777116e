"""The states of an array's members, as the status endpoint answers them."""

from __future__ import annotations

from http import HTTPStatus

from starlette.responses import Response

from controller.endpoint import documents
from controller.endpoint.api import ReadApi
from controller.endpoint.problems import Problem
from controller.endpoint.route import Ask
from controller.views.array_runs import runs_of


def member_runs(api: ReadApi, ask: Ask) -> Response:
    """The states of all members, as runs of neighbours."""
    with api.view.reading() as model:
        found = runs_of(model, ask.path["id"])
    if found is None:
        raise Problem(HTTPStatus.NOT_FOUND, f"there is no array {ask.path['id'][:80]!r}")
    return Response(documents.encode(found), media_type="application/json")
