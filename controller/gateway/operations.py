"""All operations of the gateway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from controller.client.prepared import SubmitResult
from controller.client.views import RequestResult
from controller.core.model.kept_log import KeptLog
from controller.endpoint.array_documents import MemberList
from controller.endpoint.query import (
    AFTER,
    CONTINUE,
    LIMIT,
    MEMBERS,
    NEIGHBOURS,
    SEARCH,
    SORT,
    Parameter,
)
from controller.gateway import bodies, documents, parameters, reads, session_calls
from controller.gateway.admin_operations import ADMIN_OPERATIONS
from controller.gateway.api import GatewayApi
from controller.gateway.bodies import NDJSON
from controller.gateway.bulk import ActResults, act_on_tasks
from controller.gateway.forecasts import FORECAST_OPERATIONS
from controller.gateway.operation import JSON, CallerRequest, Operation
from controller.gateway.schedules import SCHEDULE_OPERATIONS
from controller.views.array_runs import MemberRuns
from controller.views.dependencies import NeighboursView
from controller.views.history import HourView
from controller.views.usage import Usage

_NOT_FOUND = {HTTPStatus.NOT_FOUND: "There is no such task, as far as the caller may know."}
_FORBIDDEN = {HTTPStatus.FORBIDDEN: "The caller lacks a verb; `verb` names it."}
_OTHER_SITE = {HTTPStatus.FORBIDDEN: "A browser may have been made to send it; `detail` says what is wrong."}
_ACTED = {
    **_NOT_FOUND,
    **_FORBIDDEN,
    HTTPStatus.CONFLICT: "The task is in a state in which this cannot be done.",
}


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


def _get(
    path: str,
    name: str,
    summary: str,
    handle: Callable[[GatewayApi, CallerRequest], Response | Awaitable[Response]],
    document: Any,
    parameters: tuple[Parameter, ...] = (),
    *,
    problems: Mapping[HTTPStatus, str] = {},  # never changed
    ndjson: bool = False,
    in_loop: bool = False,
    from_memory: bool = True,
) -> Operation:
    return Operation(
        "GET",
        path,
        name,
        summary,
        handle,
        answer=document,
        parameters=parameters,
        problems=problems,
        content_type=NDJSON if ndjson else "application/json",
        in_loop=in_loop,
        reads_model=True,
        from_memory=from_memory,
    )


BEGIN_SESSION = "beginSession"
OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "GET",
        "/session",
        "getSession",
        "The session of the gateway's page, and what its requests must have in X-Tally-CSRF.",
        session_calls.session,
        answer=session_calls.SessionDocument,
        in_loop=True,
    ),
    Operation(
        "POST",
        "/session",
        BEGIN_SESSION,
        "Keep the token that is sent, sealed, in a cookie that a browser sends in its place.",
        session_calls.begin_session,
        answer=session_calls.SessionDocument,
        problems={
            HTTPStatus.BAD_REQUEST: "There is no token, or it is too long for a cookie.",
            **_OTHER_SITE,
        },
        successes={HTTPStatus.CREATED: "The session has begun; Set-Cookie has it."},
        in_loop=True,
    ),
    Operation(
        "DELETE",
        "/session",
        "endSession",
        "Have the browser forget the session.",
        session_calls.end_session,
        problems=_OTHER_SITE,
        successes={HTTPStatus.NO_CONTENT: "There is none any more."},
        in_loop=True,
    ),
    Operation(
        "GET",
        "/v1/whoami",
        "whoami",
        "Who the caller is.",
        GatewayApi.whoami,
        answer=documents.Whoami,
        from_memory=True,
    ),
    Operation(
        "GET",
        "/v1/can-i",
        "canI",
        "Whether the caller may do something, with a task or with those of an owner.",
        GatewayApi.may_i,
        answer=documents.MayI,
        parameters=(parameters.ACT, parameters.TASK, parameters.OWNER, parameters.POOL),
        problems=_NOT_FOUND,
        reads_model=True,
        from_memory=True,
    ),
    Operation(
        "POST",
        "/v1/tasks",
        "submitTasks",
        "Submit a task, or many as lines of JSON. The same task again is unchanged.",
        GatewayApi.submit,
        answer=SubmitResult,
        parameters=(parameters.DRY_RUN,),
        problems={
            **_FORBIDDEN,
            HTTPStatus.CONFLICT: "There is another task of this name.",
            HTTPStatus.REQUEST_TIMEOUT: "The body did not arrive.",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The task is larger than etcd takes.",
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "The body is of another type, compressed, or not in UTF-8.",
        },
        successes={HTTPStatus.OK: "Unchanged; or the outcomes, one a line.", HTTPStatus.CREATED: "Created."},
        streams=(JSON, NDJSON),
        in_loop=True,
    ),
    _get(
        "/v1/tasks",
        "listTasks",
        "The tasks that match, one a line.",
        reads.tasks,
        None,
        parameters.SELECTION,
        ndjson=True,
        in_loop=True,
    ),
    _get(
        "/v1/tasks:page",
        "pageTasks",
        "A page of the tasks that match. Only the last page can have fewer tasks than were asked for.",
        reads.page,
        documents.TaskPage,
        (*parameters.SELECTION, SEARCH, SORT, LIMIT, CONTINUE),
    ),
    _get(
        "/v1/tasks:watch",
        "watchTasks",
        "The tasks that match, and then those that change, one look a line.",
        reads.watch,
        None,
        parameters.SELECTION,
        ndjson=True,
        in_loop=True,
    ),
    Operation(
        "GET",
        "/v1/events",
        "streamEvents",
        "Changes of tasks, as server-sent events. `gap` is the last event of a reader that fell behind.",
        reads.events,
        parameters=(AFTER,),
        problems={
            HTTPStatus.GONE: "The changes after that revision are no longer known, or etcd has it not."
        },
        content_type="text/event-stream",
        in_loop=True,
    ),
    Operation(
        "GET",
        "/metrics",
        "metrics",
        "The gateway's metrics, for Prometheus.",
        reads.metrics,
        problems=_FORBIDDEN,
        content_type="text/plain",
        from_memory=True,
    ),
    Operation(
        "POST",
        "/v1/tasks:wait",
        "waitForTasks",
        "Tasks, as soon as one of them has changed.",
        reads.wait,
        answer=documents.Waited,
        body=bodies.WaitBody,
        in_loop=True,
        reads_model=True,
    ),
    Operation(
        "POST",
        "/v1/tasks:act",
        "actOnTasks",
        "Ask the leader for the same of many tasks. Each has its own result, in the order of `tasks`.",
        act_on_tasks,
        answer=ActResults,
        body=bodies.ActsBody,
        in_loop=True,
    ),
    _get("/v1/tasks/{id}", "getTask", "One task.", reads.task, dict, problems=_NOT_FOUND),
    _get(
        "/v1/tasks/{id}/explain",
        "explainTask",
        "Why a task waits, runs or ended.",
        reads.explanation,
        documents.Explanation,
        problems=_NOT_FOUND,
    ),
    _get(
        "/v1/tasks/{id}/members/runs",
        "getMemberRuns",
        "The states of an array's members in the order of their indexes, as runs of neighbours.",
        reads.member_runs,
        MemberRuns,
        problems={**_NOT_FOUND, HTTPStatus.CONFLICT: "The task is no array."},
    ),
    _get(
        "/v1/tasks/{id}/neighbours",
        "getNeighbours",
        "What a task waits for, and what waits for it, of the tasks that the caller may read.",
        reads.neighbours,
        NeighboursView,
        NEIGHBOURS,
        problems=_NOT_FOUND,
    ),
    _get(
        "/v1/tasks/{id}/members",
        "listMembers",
        "Members of an array, in the order of their indexes.",
        reads.members,
        MemberList,
        MEMBERS,
        problems={**_NOT_FOUND, HTTPStatus.CONFLICT: "The task is no array."},
    ),
    Operation(
        "GET",
        "/v1/tasks/{id}/logs",
        "streamLogs",
        "The output of an attempt, as it is printed, from where the attempt runs.",
        reads.logs,
        parameters=(
            parameters.FOLLOW,
            parameters.ATTEMPT,
            parameters.CONTAINER,
            parameters.TAIL,
            parameters.SINCE,
            parameters.PREVIOUS,
            parameters.SKIP,
        ),
        problems=_NOT_FOUND,
        content_type="application/octet-stream",
        in_loop=True,
        reads_model=True,
    ),
    _get(
        "/v1/tasks/{id}/log",
        "getKeptLog",
        "The end of the output of a task's last attempt, if it is kept.",
        reads.kept_log,
        KeptLog,
        problems=_NOT_FOUND,
        from_memory=False,
    ),
    _action(
        "cancel",
        "Ask the leader to cancel a task, or members of an array.",
        GatewayApi.cancel,
        bodies.CancelBody,
    ),
    _action(
        "retry",
        "Ask the leader to run a task, or members of an array, again.",
        GatewayApi.retry,
        bodies.RetryBody,
    ),
    _action("hold", "Ask the leader not to admit a task.", GatewayApi.hold),
    _action("release", "Ask the leader to let a task wait again.", GatewayApi.release),
    _action(
        "priority",
        "Ask the leader to change a priority.",
        GatewayApi.set_priority,
        bodies.PriorityBody,
    ),
    _action(
        "confirm-stopped",
        "Confirm that the attempt of a task no longer runs, as who may do everything.",
        GatewayApi.confirm_stopped,
    ),
    _get("/v1/pools", "listPools", "All pools.", reads.pools, dict),
    _get("/v1/pools/{name}/sharing", "getSharing", "How a pool is shared.", reads.sharing, dict),
    *ADMIN_OPERATIONS,
    _get(
        "/v1/owners",
        "listOwners",
        "The owners of pools that are shared.",
        reads.owners,
        dict,
        (parameters.POOL_OF,),
    ),
    _get(
        "/v1/usage",
        "getUsage",
        "What was used of pools.",
        reads.usage,
        Usage,
        parameters.USAGE,
        problems=_FORBIDDEN,
        from_memory=False,
    ),
    _get(
        "/v1/history",
        "getHistory",
        "What this gateway has seen in the last hour, by pools: how long owners waited whose tasks the caller"
        " may read; and the queue, what began and what ended, for who may read the tasks of all owners.",
        reads.history,
        HourView,
    ),
    *SCHEDULE_OPERATIONS,
    *FORECAST_OPERATIONS,
    _get("/v1/replicas", "listReplicas", "The registered replicas.", reads.replicas, dict),
    _get("/v1/gateways", "listGateways", "The registered gateways.", reads.gateways, dict),
    _get("/v1/leader", "getLeader", "The leader.", reads.leader, dict),
)
