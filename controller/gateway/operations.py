"""All operations of the gateway."""

from __future__ import annotations

from http import HTTPStatus

from controller.client.submission import SubmitResult
from controller.client.views import RequestResult
from controller.endpoint.query import Parameter
from controller.gateway import bodies, documents
from controller.gateway.api import GatewayApi
from controller.gateway.operation import Operation
from controller.gateway.policy import Right

_NOT_FOUND = {HTTPStatus.NOT_FOUND: "There is no such task, as far as the caller may know."}
_FORBIDDEN = {HTTPStatus.FORBIDDEN: "The caller lacks a verb; `verb` names it."}
_ACTED = {
    **_NOT_FOUND,
    **_FORBIDDEN,
    HTTPStatus.CONFLICT: "The task is in a state in which this cannot be done.",
}


def _act(text: str) -> Right:
    try:
        return Right(text)
    except ValueError:
        raise ValueError(f"expected one of {', '.join(Right)}") from None


def _name(text: str) -> str:
    if not 1 <= len(text) <= 253:
        raise ValueError("expected 1 to 253 characters")
    return text


_NAME = {"type": "string", "minLength": 1, "maxLength": 253}
_ACT = Parameter(
    "act", "What to ask about.", {"type": "string", "enum": list(Right)}, _act, default=Right.READ
)
_TASK = Parameter("task", "With this task.", _NAME, _name, default="")
_OWNER = Parameter("owner", "With a task of this owner.", _NAME, _name, default="")
_POOL = Parameter("pool", "In this pool, for submit.", _NAME, _name, default="")


def _action(name: str, summary: str, handle: object, body: object = bodies.ActionBody) -> Operation:
    return Operation(
        "POST",
        f"/v1/tasks/{{id}}/{name}",
        f"{name}Task",
        summary,
        handle,  # type: ignore[arg-type]  # a method of GatewayApi
        answer=RequestResult,
        body=body,
        problems=_ACTED,
    )


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "GET", "/v1/whoami", "whoami", "Who the caller is.", GatewayApi.whoami, answer=documents.Whoami
    ),
    Operation(
        "GET",
        "/v1/can-i",
        "canI",
        "Whether the caller may do something, with a task or with those of an owner.",
        GatewayApi.may_i,
        answer=documents.MayI,
        parameters=(_ACT, _TASK, _OWNER, _POOL),
        problems=_NOT_FOUND,
        reads_model=True,
    ),
    Operation(
        "POST",
        "/v1/tasks",
        "submitTasks",
        "Submit a task, or many as lines of JSON. The same task again is unchanged.",
        GatewayApi.submit,
        answer=SubmitResult,
        problems={
            **_FORBIDDEN,
            HTTPStatus.CONFLICT: "There is another task of this name.",
            HTTPStatus.REQUEST_TIMEOUT: "The body did not arrive.",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The task is larger than etcd takes.",
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "The body is of another type.",
        },
        in_loop=True,
    ),
    Operation(
        "GET",
        "/v1/tasks/{id}",
        "getTask",
        "One task.",
        GatewayApi.task,
        answer=dict,
        problems=_NOT_FOUND,
        reads_model=True,
    ),
    Operation(
        "GET",
        "/v1/tasks/{id}/explain",
        "explainTask",
        "Why a task waits, runs or ended.",
        GatewayApi.explanation,
        answer=documents.Explanation,
        problems=_NOT_FOUND,
        reads_model=True,
    ),
    _action("cancel", "Ask the leader to cancel a task.", GatewayApi.cancel),
    _action("retry", "Ask the leader to run a task again.", GatewayApi.retry),
    _action("hold", "Ask the leader not to admit a task.", GatewayApi.hold),
    _action("release", "Ask the leader to let a task wait again.", GatewayApi.release),
    _action(
        "priority",
        "Ask the leader to change a priority.",
        GatewayApi.set_priority,
        bodies.PriorityBody,
    ),
    Operation("GET", "/v1/pools", "listPools", "All pools.", GatewayApi.pools, answer=dict, reads_model=True),
)
