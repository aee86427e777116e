"""All routes of the status endpoint."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from controller.endpoint import (
    array_documents,
    documents,
    forecasts,
    minutes,
    query,
    schedule_documents,
    sharing_documents,
    summary,
)
from controller.endpoint.api import ReadApi
from controller.endpoint.route import Ask, Route
from controller.views.array_runs import MemberRuns
from controller.views.dependencies import NeighboursView
from controller.views.forecast import ForecastView
from controller.views.history import HourView
from controller.views.schedules import ScheduleView

_TEXT = "text/plain; charset=utf-8"
_UNAVAILABLE = HTTPStatus.SERVICE_UNAVAILABLE


def _checks(name: str, about: str, handle: Callable[[ReadApi, Ask], Awaitable[Response]]) -> Route:
    """A probe that answers with checks."""
    return Route(
        f"/{name}",
        name,
        about,
        handle,
        _TEXT,
        parameters=(query.VERBOSE,),
        problems={_UNAVAILABLE: "A check failed; `checks` says which."},
        in_loop=True,
        is_probe=True,
        strict=False,
    )


ROUTES: tuple[Route, ...] = (
    Route(
        "/", "page", "The live page.", ReadApi.page, "text/html; charset=utf-8", in_loop=True, strict=False
    ),
    _checks("livez", "Whether this process works; restart it if it does not.", ReadApi.livez),
    _checks("readyz", "Whether clients should query this replica.", ReadApi.readyz),
    _checks("healthz", "The older name of /livez.", ReadApi.livez),
    Route(
        "/leader",
        "isLeader",
        "Whether this replica leads: 200 on the leader only.",
        ReadApi.is_leader,
        _TEXT,
        problems={_UNAVAILABLE: "This replica does not lead."},
        in_loop=True,
        is_probe=True,
        strict=False,
    ),
    Route(
        "/metrics",
        "metrics",
        "Metrics for Prometheus.",
        ReadApi.exposition,
        "text/plain; version=0.0.4; charset=utf-8",
        strict=False,
    ),
    Route(
        "/openapi.json",
        "openapi",
        "This API, as an OpenAPI document.",
        ReadApi.openapi,
        answer=dict[str, Any],
        in_loop=True,
    ),
    Route(
        "/v1/summary",
        "getSummary",
        "An overview: leadership, replicas, tasks by state, pools, and problems with what to do about them.",
        ReadApi.summary,
        answer=summary.Summary,
        reads_model=True,
    ),
    Route(
        "/v1/tasks",
        "listTasks",
        "Tasks in pages, sorted by name unless `sort` says otherwise. Only the last page can have fewer tasks"
        " than requested.",
        ReadApi.tasks,
        answer=documents.TaskList,
        parameters=(
            query.POOL,
            query.OWNER,
            query.STATE,
            query.LABEL,
            query.SEARCH,
            query.SORT,
            query.LIMIT,
            query.CONTINUE,
        ),
        reads_model=True,
    ),
    Route(
        "/v1/tasks/{id}",
        "getTask",
        "One task, with its spec and its history; values of environment variables are masked.",
        ReadApi.task,
        answer=documents.TaskDocument,
        problems={HTTPStatus.NOT_FOUND: "There is no such task."},
        reads_model=True,
    ),
    Route(
        "/v1/tasks/{id}/members",
        "listMembers",
        "Members of an array, in the order of their indexes, and how far all of them have come.",
        array_documents.members,
        answer=array_documents.MemberList,
        parameters=query.MEMBERS,
        problems={HTTPStatus.NOT_FOUND: "There is no such task, or it is no array."},
        reads_model=True,
    ),
    Route(
        "/v1/tasks/{id}/members/runs",
        "getMemberRuns",
        "The states of an array's members in the order of their indexes, as runs of neighbours.",
        array_documents.member_runs,
        answer=MemberRuns,
        problems={HTTPStatus.NOT_FOUND: "There is no such array."},
        reads_model=True,
    ),
    Route(
        "/v1/tasks/{id}/neighbours",
        "getNeighbours",
        "What a task waits for, and what waits for it.",
        ReadApi.neighbours,
        answer=NeighboursView,
        parameters=query.NEIGHBOURS,
        problems={HTTPStatus.NOT_FOUND: "There is no such task."},
        reads_model=True,
    ),
    Route(
        "/v1/tasks/{id}/log",
        "getTaskLog",
        "The kept output of a task's last attempt that ended, if the task or its pool sets `keep_logs`.",
        ReadApi.task_log,
        answer=documents.LogDocument,
        problems={
            HTTPStatus.NOT_FOUND: "No output of such a task is kept.",
            _UNAVAILABLE: "The store does not answer, or too many logs are being read.",
        },
        in_loop=True,
    ),
    Route(
        "/v1/tasks/{id}/forecast",
        "getTaskForecast",
        "When a task is expected to begin and to end, also in words. The look may be some seconds old; see"
        " `now`.",
        forecasts.task_forecast,
        answer=forecasts.TaskForecast,
        parameters=(query.HERE,),
        moves="This replica leads, and sends you to a follower.",
        problems={
            HTTPStatus.NOT_FOUND: "There is no such task.",
            _UNAVAILABLE: "No look ahead was possible now.",
        },
        in_loop=True,
        reads_model=True,
    ),
    Route(
        "/v1/forecast",
        "getForecast",
        "What pools are expected to hold in the next hours, and when these tasks are expected to begin and to"
        " end. The look may be some seconds old; see `now`.",
        forecasts.forecast,
        answer=ForecastView,
        parameters=(query.TASKS, query.HERE),
        moves="This replica leads, and sends you to a follower.",
        problems={
            _UNAVAILABLE: "No look ahead was possible now.",
        },
        in_loop=True,
        reads_model=True,
    ),
    Route(
        "/v1/history",
        "getHistory",
        "What this replica has seen in the last hour, by pools and minutes: the queue, what began, what"
        " ended, and how long owners waited. It is kept in memory, and begins anew with the replica.",
        minutes.history,
        answer=HourView,
        reads_model=True,
    ),
    Route("/v1/pools", "listPools", "All pools.", ReadApi.pools, answer=documents.PoolList, reads_model=True),
    Route(
        "/v1/pools/{name}",
        "getPool",
        "One pool, with its owners and with what is being freed for whom.",
        ReadApi.pool,
        answer=documents.PoolDetail,
        problems={HTTPStatus.NOT_FOUND: "There is no such pool."},
        reads_model=True,
    ),
    Route(
        "/v1/owners",
        "listOwners",
        "The owners of pools with `sharing`: what each holds, may hold, waits for and has used.",
        ReadApi.owners,
        answer=sharing_documents.OwnerList,
        parameters=(query.POOL_OF_OWNERS,),
        reads_model=True,
    ),
    Route(
        "/v1/schedules",
        "listSchedules",
        "All schedules: what is due next, and what became of their last ticks.",
        schedule_documents.schedules,
        answer=schedule_documents.ScheduleList,
        reads_model=True,
    ),
    Route(
        "/v1/schedules/{name}",
        "getSchedule",
        "One schedule; values of environment variables are masked.",
        schedule_documents.schedule,
        answer=ScheduleView,
        problems={HTTPStatus.NOT_FOUND: "There is no such schedule."},
        reads_model=True,
    ),
    Route(
        "/v1/replicas",
        "listReplicas",
        "The registered replicas.",
        ReadApi.replicas,
        answer=documents.ReplicaList,
        reads_model=True,
    ),
    Route(
        "/v1/leader",
        "getLeader",
        "The leader.",
        ReadApi.leader,
        answer=documents.LeaderDocument,
        reads_model=True,
    ),
    Route(
        "/v1/audit",
        "getAudit",
        "The invariants, checked against the store and the engine; the result is cached for a few seconds."
        " `verdict` is ok, wrong, or incomplete: nothing was found, but the engine did not answer.",
        ReadApi.audit,
        answer=dict[str, Any],
        problems={_UNAVAILABLE: "The store does not answer."},
        in_loop=True,
    ),
    Route(
        "/v1/events",
        "streamEvents",
        "Changes of tasks as server-sent events: submitted, status, removed, quarantined; array, when members"
        " of one have changed; leader; gap when events were missed. The state in `status` is that of the"
        " record: an array has begun without a change of it, and /v1/tasks/{id} tells how it is shown.",
        ReadApi.events,
        "text/event-stream",
        parameters=(query.AFTER,),
        problems={
            HTTPStatus.GONE: "Changes after it are no longer kept, or it is no revision yet: list again.",
            _UNAVAILABLE: "Too many streams are open.",
        },
        in_loop=True,
    ),
)

ASSETS = Route(
    "/static/{name}",
    "asset",
    "A file of the live page. It is not a public interface, so the OpenAPI document omits it.",
    ReadApi.page,
    in_loop=True,
    strict=False,
)
