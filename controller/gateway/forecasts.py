"""The operations of the gateway on what is to come. See `shown_forecasts`."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from starlette.responses import Response

from controller.endpoint.forecasts import TaskForecast
from controller.endpoint.query import TASKS
from controller.gateway.api import GatewayApi, answer
from controller.gateway.openings import Opening
from controller.gateway.operation import CallerRequest, Operation
from controller.views.ahead import LookAnswer, parse_question
from controller.views.forecast import ForecastView


async def _forecast(api: GatewayApi, ask: CallerRequest) -> Response:
    names, at_least = ask.values["tasks"], ask.values["min_revision"]
    return await _looked(api, ask, lambda: api.service.forecasts.of(ask.caller, names, at_least=at_least))


async def _of_task(api: GatewayApi, ask: CallerRequest) -> Response:
    name, at_least = ask.path["id"], ask.values["min_revision"]

    def told() -> TaskForecast:
        return TaskForecast.of(api.service.forecasts.of(ask.caller, [name], at_least=at_least), name)

    return await _looked(api, ask, told)


async def _suppose(api: GatewayApi, ask: CallerRequest) -> Response:
    def told() -> LookAnswer:
        wanted = parse_question(ask.body)
        if wanted.supposed is not None:
            return api.service.forecasts.suppose(
                ask.caller, wanted.supposed, wanted.horizon_seconds, wanted.tasks
            )
        return LookAnswer(
            now=api.service.forecasts.of(
                ask.caller, wanted.tasks or None, wanted.horizon_seconds, ask.values["min_revision"]
            )
        )

    return await _looked(api, ask, told)


async def _looked(api: GatewayApi, ask: CallerRequest, told: Callable[[], object]) -> Response:
    with api.openings.one(Opening.FORECASTS, ask.caller.identity.name):
        return answer(await api.run(told, ask.caller))


_PROBLEMS = {
    HTTPStatus.NOT_FOUND: "There is no such task, as far as the caller may know.",
    HTTPStatus.SERVICE_UNAVAILABLE: "No look ahead was possible now; Retry-After says when to try again.",
}
FORECAST_OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "GET",
        "/v1/forecast",
        "getForecast",
        "What pools are expected to hold in the next hours, and when these tasks are expected to begin and to"
        " end. The look may be some seconds old; see `now`.",
        _forecast,
        answer=ForecastView,
        parameters=(TASKS,),
        problems=_PROBLEMS,
        in_loop=True,
        reads_model=True,
    ),
    Operation(
        "GET",
        "/v1/tasks/{id}/forecast",
        "getTaskForecast",
        "When a task is expected to begin and to end, also in words.",
        _of_task,
        answer=TaskForecast,
        problems=_PROBLEMS,
        in_loop=True,
        reads_model=True,
    ),
    Operation(
        "POST",
        "/v1/forecast",
        "lookAhead",
        "What is to come of tasks, and what would come if it were as is supposed. Nothing is written.",
        _suppose,
        answer=LookAnswer,
        body=dict,
        problems={
            **_PROBLEMS,
            HTTPStatus.FORBIDDEN: "The caller may not submit what is supposed; `verb` names what it lacks.",
            HTTPStatus.CONFLICT: "What is supposed cannot be done; `detail` says why.",
        },
        in_loop=True,
        reads_model=True,
    ),
)
