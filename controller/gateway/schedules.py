"""The operations of the gateway on schedules. Who may submit a task may have it made at its times."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from controller.client.views import ApplyResult
from controller.core.model import codec
from controller.gateway import bodies
from controller.gateway.api import GatewayApi, answer
from controller.gateway.operation import CallerRequest, Operation
from controller.gateway.parameters import DRY_RUN
from controller.views.schedules import ScheduleView

_NOT_FOUND = {HTTPStatus.NOT_FOUND: "There is no such schedule, as far as the caller may know."}
_WRITES = {
    HTTPStatus.FORBIDDEN: "The caller lacks a verb; `verb` names it.",
    HTTPStatus.CONFLICT: "There is another schedule of this name.",
}


def _list(api: GatewayApi, ask: CallerRequest) -> Response:
    return answer({"items": codec.to_builtins(api.service.schedules.all(ask.caller))})


def _one(api: GatewayApi, ask: CallerRequest) -> Response:
    return answer(codec.to_builtins(api.service.schedules.get(ask.caller, ask.path["name"])))


def _apply(api: GatewayApi, ask: CallerRequest) -> Response:
    definition = bodies.definition_of(ask.path["name"], ask.body)
    return answer(api.writing.schedules(ask.caller).apply(definition, dry_run=ask.values["dry_run"]))


def _delete(api: GatewayApi, ask: CallerRequest) -> Response:
    name = ask.path["name"]
    api.writing.schedules(ask.caller, name).delete(name)
    return Response(status_code=204)


def _suspend(api: GatewayApi, ask: CallerRequest) -> Response:
    name = ask.path["name"]
    return answer({"changed": api.writing.schedules(ask.caller, name).suspend(name)})


def _resume(api: GatewayApi, ask: CallerRequest) -> Response:
    name = ask.path["name"]
    return answer({"changed": api.writing.schedules(ask.caller, name).resume(name)})


_PATH = "/v1/schedules/{name}"
SCHEDULE_OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "GET",
        "/v1/schedules",
        "listSchedules",
        "All schedules.",
        _list,
        answer=dict,
        reads_model=True,
        from_memory=True,
    ),
    Operation(
        "GET",
        _PATH,
        "getSchedule",
        "One schedule.",
        _one,
        answer=ScheduleView,
        problems=_NOT_FOUND,
        reads_model=True,
        from_memory=True,
    ),
    Operation(
        "PUT",
        _PATH,
        "applySchedule",
        "Create a schedule, or replace its definition.",
        _apply,
        answer=ApplyResult,
        body=dict[str, Any],
        parameters=(DRY_RUN,),
        problems=_WRITES,
    ),
    Operation(
        "DELETE",
        _PATH,
        "deleteSchedule",
        "Delete a schedule. Its tasks stay.",
        _delete,
        problems={**_WRITES, **_NOT_FOUND},
        successes={HTTPStatus.NO_CONTENT: "Done."},
    ),
    *(
        Operation(
            "POST",
            f"{_PATH}/{verb}",
            f"{verb}Schedule",
            summary,
            handle,
            answer=dict,
            problems={**_WRITES, **_NOT_FOUND},
        )
        for verb, summary, handle in (
            ("suspend", "Make none of its tasks from now on.", _suspend),
            ("resume", "Make its tasks again.", _resume),
        )
    ),
)
