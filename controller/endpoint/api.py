"""The handlers of the status endpoint.

Handlers that read the model run in a thread pool, so that a wait for the model delays no other answer.
Handlers that need only the replica's facts, or that wait asynchronously, are coroutines of the server's loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from controller.endpoint import documents, openapi, query, stream
from controller.endpoint.connections import CONNECTION
from controller.endpoint.last_audit import LastAudit
from controller.endpoint.page import INDEX, PAGE_CSP, load_assets
from controller.endpoint.pages import TaskPages
from controller.endpoint.problems import Problem
from controller.endpoint.route import Ask, Route
from controller.endpoint.sharing_documents import OwnerList, owner_document
from controller.endpoint.store_reads import StoreReads
from controller.endpoint.summary import Waits, summarize
from controller.errors import CorruptValue, InvalidField, TallyError
from controller.views.absent import why_absent
from controller.views.dependencies import neighbours, parents_of
from controller.views.forecast import ForecastView
from controller.views.freshness import Freshness
from controller.views.history import LastHour
from controller.views.pools import (
    all_owners,
    all_pools,
    owners_of,
    pool_facts,
    pool_names,
    sharing_facts,
)
from controller.views.replica import Check, ReadableReplica
from controller.views.replicas import all_replicas, leader_of
from controller.views.tasks import find_task, task_facts

MAX_STREAMS = 256
LOOKERS = 4  # threads that wait for a forecast
READERS = 4  # threads that read the model
METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


Look = Callable[[Sequence[str], int, int], ForecastView]
"""What is to come of these tasks: see the revisions of `forecaster.wire.Question`. It takes seconds.

Raises TallyError.
"""


def look_nowhere(_: Sequence[str], __: int, ___: int) -> ForecastView:
    """Of an endpoint that has nobody who looks ahead."""
    raise TallyError("this endpoint does not look ahead: run `tally explain --eta`")


class ReadApi:
    """What the handlers share: the replica's view, the feed of changes, and the last audit."""

    def __init__(
        self,
        view: ReadableReplica,
        feed: stream.Feed,
        routes: Sequence[Route],
        exposition: Callable[[], bytes],
        store: StoreReads,
        look: Look = look_nowhere,
    ) -> None:
        self.view = view
        self.feed = feed
        self.hour = LastHour(view.reading, view.now)
        self._pages = TaskPages(view.reading)
        self.indexes = self._pages.indexes
        self.routes = routes
        self._exposition = exposition
        self.store = store
        self.look = look
        self._assets = load_assets()
        self._waits = Waits()
        self.readers = ThreadPoolExecutor(READERS, "tally-status-read")
        self.lookers = ThreadPoolExecutor(LOOKERS, "tally-status-look")
        self.streams = 0  # open streams of changes
        self._last_audit = LastAudit(view)

    def close(self) -> None:
        """Shut down the threads, without waiting for their current work."""
        for executor in (self.readers, self.lookers):
            executor.shutdown(wait=False, cancel_futures=True)
        self.store.close()
        self._last_audit.close()

    # -- health

    async def page(self, ask: Ask) -> Response:
        """The live page and its files."""
        name = ask.path.get("name", INDEX)
        asset = self._assets.get(name)
        if asset is None:
            raise Problem(HTTPStatus.NOT_FOUND, f"the live page has no file {name[:80]!r}; see /")
        content, content_type = asset
        return Response(content, headers={"Content-Type": content_type, "Content-Security-Policy": PAGE_CSP})

    async def livez(self, ask: Ask) -> Response:
        """Liveness: whether the process should keep running."""
        return _checked(ask, ask.facts.live)

    async def readyz(self, ask: Ask) -> Response:
        """Readiness: whether clients should send requests here."""
        return _checked(ask, ask.facts.ready)

    async def is_leader(self, ask: Ask) -> Response:
        """A check for load balancers: 200 on the leader, else 503."""
        facts = ask.facts
        if facts.role != "leader" and not ask.trusted:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "this replica does not lead")
        if facts.role != "leader":
            heard = facts.rule.store.judge(facts.staleness_seconds) is Freshness.FRESH
            verb = "leads" if heard else "led when etcd last answered"
            leads = f"{facts.leader!r} {verb}" if facts.leader else "no replica leads, as far as it knows"
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE, f"replica {facts.replica!r} is a {facts.role}; {leads}"
            )
        return PlainTextResponse("leader\n")

    async def openapi(self, _: Ask) -> Response:
        """The OpenAPI document."""
        return _json(openapi.document(self.routes))

    def exposition(self, _: Ask) -> Response:
        """Metrics for Prometheus."""
        return Response(self._exposition(), headers={"Content-Type": METRICS_CONTENT_TYPE})

    # -- the model

    def summary(self, ask: Ask) -> Response:
        """The summary, for the live page."""
        times = self.view.now(), self.view.wall()
        with self.view.reading() as model:
            document = summarize(model, ask.facts, self._last_audit.problem(), self._waits, *times)
        return _json(document)

    def tasks(self, ask: Ask) -> Response:
        """A page of tasks."""
        items, token = self._pages.page(
            ask.values, lambda model, task: documents.summary(task_facts(model, task))
        )
        return _json(documents.TaskList(items=items, continue_=token))

    def task(self, ask: Ask) -> Response:
        """One task."""
        name = ask.path["id"]
        with self.view.reading() as model:
            task = find_task(model, name)
            after, why = parents_of(model, name), why_absent(model, name)
        if task is None:
            raise no_task(name, why)
        return _json(documents.document(task, after))

    def neighbours(self, ask: Ask) -> Response:
        """What a task waits for, and what waits for it."""
        name, wanted = ask.path["id"], ask.values
        with self.view.reading() as model:
            found = neighbours(
                model, name, direction=wanted["direction"], depth=wanted["depth"], limit=wanted["limit"]
            )
            why = why_absent(model, name)
        if found is None:
            raise no_task(name, why)
        return _json(found)

    def pools(self, _: Ask) -> Response:
        """All pools."""
        with self.view.reading() as model:
            pools = all_pools(model, self.view.now())
        return _json(documents.PoolList(items=[documents.pool_document(pool) for pool in pools]))

    def pool(self, ask: Ask) -> Response:
        """One pool."""
        name, now = ask.path["name"], self.view.now()
        with self.view.reading() as model:
            names = pool_names(model)
            found = pool_facts(model, name, now=now) if name in names else None
            sharing = sharing_facts(model, name, now)
        if found is None:
            raise Problem(
                HTTPStatus.NOT_FOUND,
                f"there is no pool {name[:80]!r}; existing pools: {', '.join(names[:20]) or 'none'}",
            )
        return _json(documents.pool_detail(found, sharing))

    def owners(self, ask: Ask) -> Response:
        """The owners of one pool, or of all pools with `sharing`."""
        pool, now = ask.values["pool"], self.view.now()
        with self.view.reading() as model:
            owners = owners_of(model, pool, now) if pool is not None else all_owners(model, now)
        return _json(OwnerList(items=[owner_document(owner) for owner in owners]))

    def replicas(self, ask: Ask) -> Response:
        """All replicas."""
        with self.view.reading() as model:
            replicas = all_replicas(model)
        items = [documents.replica_document(replica, ask.facts) for replica in replicas]
        return _json(documents.ReplicaList(items=items))

    def leader(self, ask: Ask) -> Response:
        """The leader."""
        with self.view.reading() as model:
            leader = leader_of(model)
        return _json(documents.leader_document(leader, ask.facts.epoch))

    # -- what takes longer

    async def audit(self, _: Ask) -> Response:
        """An audit, made now or a few seconds ago; one runs at a time."""
        return _json(await self._last_audit.report())

    async def task_log(self, ask: Ask) -> Response:
        """A task's kept log, read from the store: the model does not have it."""
        name = ask.path["id"]
        try:
            kept = await self.store.kept_log(name)
        except InvalidField:
            kept = None  # no task can have this name
        except CorruptValue as error:
            raise Problem(
                HTTPStatus.NOT_FOUND, f"the kept output of {name[:80]!r} cannot be read: {error}"
            ) from None
        except TallyError as error:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, f"the log could not be read: {error}") from None
        if kept is None:
            detail = (
                f"no output of task {name[:80]!r} is kept: set `keep_logs` to keep it, or run `tally logs`"
                " for what the engine still has"
            )
            raise Problem(HTTPStatus.NOT_FOUND, detail)
        return _json(documents.log_document(name, kept))

    async def events(self, ask: Ask) -> Response:
        """The stream of changes."""
        if self.streams >= MAX_STREAMS:
            raise _too_many_streams()
        after = ask.values["after"]
        # A browser that reconnects sends the last event's id, but keeps its original URL.
        if ask.last_event_id:
            after = query.parse_parameters([query.AFTER], [("after", ask.last_event_id)])["after"]
        try:
            position = self.feed.position(after)
            # a replica may lag behind the one that told the reader; what etcd lacks is of a lost history
            if position.revision > self.feed.revision and not await self.store.has_come_to(position.revision):
                raise stream.FellBehind
        except stream.FellBehind:
            raise Problem(HTTPStatus.GONE, stream.FELL_BEHIND, parameter="after") from None
        headers = {"X-Accel-Buffering": "no"}
        if ask.head_only:
            return Response(media_type="text/event-stream", headers=headers)
        return _Stream(self, position, headers)


class _Stream(StreamingResponse):
    """A stream of changes. It is counted before its first byte, so that the limit holds for a rush, too."""

    def __init__(self, api: ReadApi, position: stream.Position, headers: Mapping[str, str]) -> None:
        super().__init__((), media_type="text/event-stream", headers=headers)
        self._api = api
        self._position = position

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._api.streams >= MAX_STREAMS:
            await _too_many_streams().response()(scope, receive, send)
            return
        self._api.streams += 1
        self.body_iterator = stream.events(
            self._api.feed, self._position, scope["state"][CONNECTION].write_page
        )
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._api.streams -= 1


def _too_many_streams() -> Problem:
    detail = f"{MAX_STREAMS} streams are already open: ask another replica, or try again later"
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "5"})


def no_task(name: str, why: str = "") -> Problem:
    """There is no such task, and why, if that is known."""
    why = why or "it may have been removed after its retention"
    detail = f"there is no task {name[:80]!r}; {why}"
    return Problem(HTTPStatus.NOT_FOUND, detail)


def _json(document: object) -> Response:
    return Response(documents.encode(document), media_type="application/json")


def _checked(ask: Ask, checks: tuple[Check, ...]) -> Response:
    failed = tuple(f"{check.name}: {check.detail}" for check in checks if not check.ok)
    if failed:
        told = failed if ask.trusted else ()
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE, f"{len(failed)} of {len(checks)} checks failed", checks=told
        )
    is_told = ask.trusted and ask.values["verbose"]
    lines = [f"[+]{check.name} ok: {check.detail}" for check in checks] if is_told else []
    return PlainTextResponse("\n".join([*lines, "ok", ""]))
