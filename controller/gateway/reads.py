"""The handlers that read: tasks, pools, owners, replicas, and what was used."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import ExitStack
from functools import partial
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.responses import Response, StreamingResponse

from controller.client.gateway_calls import ATTEMPT_HEADER
from controller.client.views import TaskView
from controller.client.wire import pool_document
from controller.core.model import codec
from controller.endpoint.array_documents import member_list
from controller.endpoint.problems import Problem
from controller.endpoint.query import AFTER, parse_parameters
from controller.endpoint.stream import FELL_BEHIND, FellBehind
from controller.engine.base import LogOptions
from controller.gateway import bodies, documents
from controller.gateway.api import GatewayApi, answer
from controller.gateway.bodies import NDJSON, OUTPUT
from controller.gateway.caller import RECHECK_SECONDS, Caller
from controller.gateway.events import stream
from controller.gateway.openings import BrokenOff, Open, Opening
from controller.gateway.operation import CallerRequest
from controller.gateway.policy import Forbidden, PolicyVerb, Right
from controller.telemetry.metrics import CONTENT_TYPE
from controller.views.array_changes import listed_among, named_among
from controller.views.array_runs import runs_of

PAGE = 256  # tasks that are encoded together
PACE_SECONDS = 0.05  # between two looks at what changed
MAX_WAITED_FOR = 1000
LOOK_SECONDS = 5.0  # between two looks whether the reader of an output may still read it
ALIVE_SECONDS = 15.0  # of silence, after which a stream says that it is alive


def task(api: GatewayApi, ask: CallerRequest) -> Response:
    """One task."""
    return answer(_document(api, ask.caller, api.service.task(ask.caller, ask.path["id"])))


async def tasks(api: GatewayApi, ask: CallerRequest) -> Response:
    """The tasks that match, one a line. The model is held for a page at a time, so that nobody waits long."""
    return Open(
        api.openings,
        Opening.LISTS,
        ask.caller.identity.name,
        StreamingResponse(_listed(api, ask), media_type=NDJSON),
    )


async def _listed(api: GatewayApi, ask: CallerRequest) -> AsyncIterator[bytes]:
    ids = await api.read(partial(_matching_ids, api, ask), ask.caller)
    for begin in range(0, len(ids), PAGE):
        page = ids[begin : begin + PAGE]
        if (caller := await ask.still()) is None:
            raise BrokenOff  # not whole, as far as its reader knows
        yield await api.read(partial(_page, api, dataclasses.replace(ask, caller=caller), page), caller)


def _page(api: GatewayApi, ask: CallerRequest, ids: Sequence[str]) -> bytes:
    views = api.service.readable(ask.caller, ids).values()
    return b"".join(msgspec.json.encode(_document(api, ask.caller, view)) + b"\n" for view in views)


def page(api: GatewayApi, ask: CallerRequest) -> Response:
    """A page of the tasks that match."""
    views, token = api.service.page(ask.caller, ask.values)
    items = [_document(api, ask.caller, view) for view in views]
    return answer(documents.TaskPage(items=items, continue_=token))


def explanation(api: GatewayApi, ask: CallerRequest) -> Response:
    """Why a task is where it is."""
    task_id = ask.path["id"]
    return answer(documents.Explanation(id=task_id, text=api.service.explain(ask.caller, task_id)))


def member_runs(api: GatewayApi, ask: CallerRequest) -> Response:
    """The states of an array's members."""
    name = ask.path["id"]
    return answer(api.service.of_array(ask.caller, name, lambda model: runs_of(model, name)))


def neighbours(api: GatewayApi, ask: CallerRequest) -> Response:
    """What a task waits for, and what waits for it."""
    wanted = {name: ask.values[name] for name in ("direction", "depth", "limit")}
    return answer(api.service.neighbours(ask.caller, ask.path["id"], **wanted))


def members(api: GatewayApi, ask: CallerRequest) -> Response:
    """Members of an array."""
    name = ask.path["id"]
    found = api.service.of_array(ask.caller, name, lambda model: member_list(model, name, ask.values))
    return answer(found)


def kept_log(api: GatewayApi, ask: CallerRequest) -> Response:
    """The kept log of a task."""
    kept = api.service.kept_log(ask.caller, ask.path["id"])
    if kept is None:
        raise Problem(HTTPStatus.NOT_FOUND, f"no output of task {ask.path['id'][:80]!r} is kept")
    return answer(kept)


def pools(api: GatewayApi, ask: CallerRequest) -> Response:
    """All pools."""
    return answer({"items": [pool_document(view) for view in api.service.pools(ask.caller)]})


def sharing(api: GatewayApi, ask: CallerRequest) -> Response:
    """How a pool is shared."""
    return answer(codec.to_builtins(api.service.sharing(ask.caller, ask.path["name"])))


def owners(api: GatewayApi, ask: CallerRequest) -> Response:
    """The owners of one pool, or of all."""
    found = api.service.owners(ask.caller, ask.values["pool"] or "")
    return answer({"items": codec.to_builtins(found)})


def history(api: GatewayApi, ask: CallerRequest) -> Response:
    """What happened in the last hour."""
    return answer(api.service.hour.to(ask.caller))


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


def gateways(api: GatewayApi, _: CallerRequest) -> Response:
    """The registered gateways."""
    return answer({"items": codec.to_builtins(api.service.gateways())})


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
    with api.openings.one(Opening.WAITS, ask.caller.identity.name):
        while True:
            revision = api.feed.revision
            caller = await ask.still_there()
            is_as_before = caller.rights == ask.caller.rights  # otherwise it may read others by now
            changed = api.changes.since(since, caller.rights) if since and is_as_before else None
            ids = wanted if changed is None else named_among(changed, wanted)
            is_over = loop.time() >= deadline
            if is_over and since > revision:
                ids = wanted  # it has seen more than there is: etcd was restored, and all may be otherwise
            if ids or api.feed.closed or is_over:
                break
            since = max(since, revision)
            if await api.feed.reached(since + 1, min(RECHECK_SECONDS, deadline - loop.time())):
                await asyncio.sleep(PACE_SECONDS)
    return answer(await api.read(partial(_waited, api, caller, ids, revision), caller))


def _waited(api: GatewayApi, caller: Caller, ids: set[str], revision: int) -> documents.Waited:
    """What is told of these tasks. It holds the model, which the event loop must not wait for."""
    views = api.service.readable(caller, sorted(ids))
    items = [_document(api, caller, view) for view in views.values()]
    left = sorted(ids - views.keys())
    missing = api.service.no_tasks(caller, left) if left else {}
    return documents.Waited(revision=revision, items=items, missing=missing)


async def watch(api: GatewayApi, ask: CallerRequest) -> Response:
    """The tasks that match, and then those that change: a line for each look, with `items` and `revision`."""
    return Open(
        api.openings,
        Opening.WATCHES,
        ask.caller.identity.name,
        StreamingResponse(_watched(api, ask), media_type=NDJSON),
    )


async def _watched(api: GatewayApi, ask: CallerRequest) -> AsyncIterator[bytes]:
    since: int | None = None
    rights, loop = ask.caller.rights, asyncio.get_running_loop()
    told_at = loop.time()
    while not api.feed.closed and (caller := await ask.still()) is not None:
        now = dataclasses.replace(ask, caller=caller)
        revision = api.feed.revision
        if caller.rights != rights or (since is not None and revision < since):
            since = None  # others may be read by now; or etcd was restored, and all may be otherwise
        rights = caller.rights
        changed = api.changes.since(since, caller.rights) if since is not None else None  # None: all
        only = listed_among(changed) if changed is not None else None
        if only is None or only:
            ids = await api.read(partial(_matching_ids, api, now, only), caller)
            left = (only or set()) - {*ids}
            if left and (gone := await api.read(partial(_gone, api, caller, left), caller)):
                yield msgspec.json.encode(documents.Watched(revision=revision, items=[], gone=gone)) + b"\n"
            # a page at a time: who does not read holds no more than that
            for begin in range(0, max(len(ids), 1 if since is None else 0), PAGE):
                page, more = ids[begin : begin + PAGE], begin + PAGE < len(ids)
                yield await api.read(partial(_look, api, now, page, revision, more=more), caller)
                told_at = loop.time()
        since = revision
        silent_until = told_at + ALIVE_SECONDS
        if await api.feed.reached(revision + 1, min(RECHECK_SECONDS, silent_until - loop.time())):
            await asyncio.sleep(PACE_SECONDS)
        if loop.time() >= silent_until:
            yield b"\n"
            told_at = loop.time()


def _look(api: GatewayApi, ask: CallerRequest, ids: Sequence[str], revision: int, *, more: bool) -> bytes:
    """The line that tells these tasks."""
    views = api.service.readable(ask.caller, ids).values()
    items = [_document(api, ask.caller, view) for view in views]
    return msgspec.json.encode(documents.Watched(revision=revision, items=items, more=more)) + b"\n"


async def events(api: GatewayApi, ask: CallerRequest) -> Response:
    """The stream of changes of tasks that the caller may read."""
    after = ask.values["after"]
    # a browser that reconnects sends the last event's id, but keeps its original URL
    if last := ask.request.headers.get("last-event-id", ""):
        after = parse_parameters([AFTER], [("after", last)])["after"]
    try:
        position = api.events.position(after)
        if position.revision > api.feed.revision:
            # a gateway may lag behind the one that told the reader; what etcd lacks is of a lost history
            with api.openings.one(Opening.CALLS, ask.caller.identity.name):
                if not await api.run(partial(api.service.has_come_to, position.revision), ask.caller):
                    raise FellBehind
    except FellBehind:
        raise Problem(HTTPStatus.GONE, FELL_BEHIND, parameter="after") from None
    return Open(
        api.openings,
        Opening.STREAMS,
        ask.caller.identity.name,
        StreamingResponse(
            stream(api.events, api.feed, position, ask.still),
            media_type="text/event-stream",
            headers={"X-Accel-Buffering": "no"},
        ),
    )


async def logs(api: GatewayApi, ask: CallerRequest) -> Response:
    """The output of an attempt, as it is printed."""
    task_id, values = ask.path["id"], ask.values
    view = await api.read(partial(api.service.task, ask.caller, task_id), ask.caller)
    if ask.request.method == "HEAD":
        return Response(media_type=OUTPUT)
    options = LogOptions(
        container=values["container"],
        tail=values["tail"],
        since_seconds=values["since_seconds"],
        previous=values["previous"],
    )
    name = ask.caller.identity.name
    with ExitStack() as held:  # each holds a thread, also while the engine is asked
        held.enter_context(api.openings.one(Opening.LOGS, name))
        number, parts = await api.logs.open(
            view, values["attempt"], options, follow=values["follow"], skip=values["skip"]
        )
        headers = {ATTEMPT_HEADER: str(number)}
        body = StreamingResponse(_while_welcome(parts, ask, view.owner), media_type=OUTPUT, headers=headers)
        return Open(api.openings, Opening.LOGS, name, body, held=held.pop_all())


async def _while_welcome(
    parts: AsyncGenerator[bytes, None], ask: CallerRequest, owner: str
) -> AsyncIterator[bytes]:
    """The parts, as long as the caller may read tasks of this owner; it is asked also while none comes."""
    coming: asyncio.Task[bytes] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(parts))
            await asyncio.wait([coming], timeout=LOOK_SECONDS)
            caller = await ask.still()
            if caller is None or not caller.rights.allows(Right.READ, owner):
                raise BrokenOff  # not whole, as far as its reader knows
            if coming.done():
                yield coming.result()
                coming = None
    except StopAsyncIteration:
        return
    finally:
        if coming is not None and not coming.done():
            coming.cancel()
            await asyncio.wait([coming])
        await parts.aclose()


def metrics(api: GatewayApi, ask: CallerRequest) -> Response:
    """The gateway's metrics, for who may read the tasks of all owners."""
    if not ask.caller.rights.may_read_all:
        what = "the gateway's metrics, which are of all owners"
        raise Forbidden(Right.READ, what, PolicyVerb.READ_ANY)
    return Response(api.metrics.exposition(), media_type=CONTENT_TYPE)


def _gone(api: GatewayApi, caller: Caller, left: set[str]) -> list[str]:
    """Of what has changed, what is not there any more, as far as the caller may know."""
    return sorted(left - api.service.readable(caller, left).keys())


def _matching_ids(api: GatewayApi, ask: CallerRequest, only: set[str] | None = None) -> list[str]:
    return api.service.task_ids(
        ask.caller,
        pool=ask.values["pool"] or "",
        states=ask.values["state"],
        terms=ask.values["label"],
        owner=ask.values["owner"] or "",
        only=only,
    )


def _document(api: GatewayApi, caller: Caller, view: TaskView) -> dict[str, Any]:
    return documents.task_document(view, caller, api.events.owners.of)
