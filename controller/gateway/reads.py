"""The handlers that read: tasks, pools, owners, replicas, and what was used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from functools import partial
from http import HTTPStatus

import msgspec
from starlette.responses import Response, StreamingResponse

from controller.client.views import TaskView
from controller.client.wire import pool_document
from controller.core.model import codec
from controller.endpoint.problems import Problem
from controller.gateway import bodies, documents
from controller.gateway.api import MAX_WATCHERS, GatewayApi, answer
from controller.gateway.bodies import NDJSON
from controller.gateway.operation import CallerRequest
from controller.gateway.service import Caller

PAGE = 256  # tasks that are encoded together
PACE_SECONDS = 0.05  # between two looks at what changed
MAX_WAITED_FOR = 1000
ALIVE_SECONDS = 15.0  # of silence, after which a stream says that it is alive


def task(api: GatewayApi, ask: CallerRequest) -> Response:
    """One task."""
    return answer(documents.task_document(api.service.task(ask.caller, ask.path["id"]), ask.caller))


def tasks(api: GatewayApi, ask: CallerRequest) -> Response:
    """The tasks that match, one a line."""
    found = _matching(api, ask, None)

    def pages() -> Iterable[bytes]:
        for begin in range(0, len(found), PAGE):
            yield b"".join(_lines(found[begin : begin + PAGE], ask.caller))

    return StreamingResponse(pages(), media_type=NDJSON)


def explanation(api: GatewayApi, ask: CallerRequest) -> Response:
    """Why a task is where it is."""
    task_id = ask.path["id"]
    return answer(documents.Explanation(id=task_id, text=api.service.explain(ask.caller, task_id)))


def kept_log(api: GatewayApi, ask: CallerRequest) -> Response:
    """The kept log of a task."""
    kept = api.service.kept_log(ask.caller, ask.path["id"])
    if kept is None:
        raise Problem(HTTPStatus.NOT_FOUND, f"no output of task {ask.path['id'][:80]!r} is kept")
    return answer(kept)


def pools(api: GatewayApi, _: CallerRequest) -> Response:
    """All pools."""
    return answer({"items": [pool_document(view) for view in api.service.pools()]})


def sharing(api: GatewayApi, ask: CallerRequest) -> Response:
    """How a pool is shared."""
    return answer(codec.to_builtins(api.service.sharing(ask.caller, ask.path["name"])))


def owners(api: GatewayApi, ask: CallerRequest) -> Response:
    """The owners of one pool, or of all."""
    found = api.service.owners(ask.caller, ask.values["pool"] or "")
    return answer({"items": codec.to_builtins(found)})


def usage(api: GatewayApi, ask: CallerRequest) -> Response:
    """What was used."""
    values = ask.values
    found = api.service.usage(
        ask.caller, values["by"], values["pool"] or "", values["since"], values["until"]
    )
    return answer(found)


def replicas(api: GatewayApi, _: CallerRequest) -> Response:
    """The registered replicas."""
    return answer({"items": codec.to_builtins(api.service.replicas())})


def leader(api: GatewayApi, _: CallerRequest) -> Response:
    """The leader."""
    return answer({"leader": codec.to_builtins(api.service.leader())})


async def wait(api: GatewayApi, ask: CallerRequest) -> Response:
    """The tasks that changed after a revision, as soon as one did, or when the time is over."""
    body: bodies.WaitBody = ask.body
    if not 1 <= len(body.ids) <= MAX_WAITED_FOR:
        raise Problem(
            HTTPStatus.BAD_REQUEST, f"ids: expected 1 to {MAX_WAITED_FOR} names of tasks", field="ids"
        )
    wanted, since, loop = set(body.ids), body.since, asyncio.get_running_loop()
    deadline = loop.time() + body.timeout_seconds
    while True:
        revision = api.feed.revision
        changed = api.changes.since(since) if since else None
        ids = wanted if changed is None else wanted & changed
        if ids or api.feed.closed or loop.time() >= deadline:
            break
        since = revision
        if await api.feed.reached(revision + 1, deadline - loop.time()):
            await asyncio.sleep(PACE_SECONDS)
    views = await api.run(lambda: api.service.readable(ask.caller, ids))
    return answer(
        documents.Waited(
            revision=revision,
            items=[documents.task_document(view, ask.caller) for view in views.values()],
            missing={task_id: api.service.no_task(task_id) for task_id in sorted(ids - views.keys())},
        )
    )


async def watch(api: GatewayApi, ask: CallerRequest) -> Response:
    """The tasks that match, and then those that change: a line for each look, with `items` and `revision`."""
    if api.watchers >= MAX_WATCHERS:
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"{MAX_WATCHERS} callers are watching: ask another gateway",
            headers={"Retry-After": "5"},
        )
    return StreamingResponse(_watched(api, ask), media_type=NDJSON)


async def _watched(api: GatewayApi, ask: CallerRequest) -> AsyncIterator[bytes]:
    api.watchers += 1
    since: int | None = None
    try:
        while not api.feed.closed:
            revision = api.feed.revision
            only = api.changes.since(since) if since is not None else None  # None: all
            views = await api.run(partial(_matching, api, ask, only)) if only is None or only else []
            if views or since is None:
                items = [documents.task_document(view, ask.caller) for view in views]
                yield msgspec.json.encode(documents.Watched(revision=revision, items=items)) + b"\n"
            since = revision
            if await api.feed.reached(revision + 1, ALIVE_SECONDS):
                await asyncio.sleep(PACE_SECONDS)
            else:
                yield b"\n"
    finally:
        api.watchers -= 1


def _matching(api: GatewayApi, ask: CallerRequest, only: set[str] | None) -> list[TaskView]:
    return api.service.tasks(
        ask.caller,
        pool=ask.values["pool"] or "",
        states=ask.values["state"],
        terms=ask.values["label"],
        owner=ask.values["owner"] or "",
        only=only,
    )


def _lines(views: Iterable[TaskView], caller: Caller) -> Iterable[bytes]:
    return (msgspec.json.encode(documents.task_document(view, caller)) + b"\n" for view in views)
