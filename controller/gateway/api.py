"""The handlers of the gateway. Each is within the rights of the caller; see `service`."""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from controller.client.parents import Parents
from controller.client.prepared import SubmitResult
from controller.client.views import RequestResult
from controller.endpoint.problems import Problem
from controller.endpoint.stream import Feed
from controller.gateway import bodies, documents
from controller.gateway.attempt_logs import AttemptLogs
from controller.gateway.caller import Caller
from controller.gateway.changes import Changes
from controller.gateway.error_answers import problem_of
from controller.gateway.events import OwnedEvents
from controller.gateway.metrics import GatewayMetrics
from controller.gateway.openings import Open, Opening, Openings
from controller.gateway.operation import CallerRequest
from controller.gateway.policy import Right, needed
from controller.gateway.service import Service
from controller.gateway.sessions import Sessions
from controller.gateway.threads import Threads
from controller.gateway.writing import Seen, Writing
from controller.store.base import StoreError

WORKERS, WORKERS_OF_ONE = 16, 8  # threads that ask etcd, and those that one caller may keep busy
READERS, READERS_OF_ONE = 8, 4  # the same, of those that read the model
WRITTEN = "tally.written"  # key in a request's scope: the revision at which it wrote
SPOOL_BYTES = 2**20  # of results that the caller has not read yet, which are kept in memory; more are on disk

_CREATED = {"created": HTTPStatus.CREATED, "unchanged": HTTPStatus.OK}
_REFUSED = {
    "conflict": HTTPStatus.CONFLICT,
    "invalid": HTTPStatus.BAD_REQUEST,
    "denied": HTTPStatus.FORBIDDEN,
}


class GatewayApi:
    """See the module's docstring."""

    def __init__(
        self,
        service: Service,
        writing: Writing,
        feed: Feed,
        changes: Changes,
        events: OwnedEvents,
        logs: AttemptLogs,
        metrics: GatewayMetrics,
        sessions: Sessions,
    ) -> None:
        self.service = service
        self.writing = writing
        self.feed = feed
        self.changes = changes
        self.events = events
        self.logs = logs
        self.metrics = metrics
        self.sessions = sessions
        self.openings = Openings()
        self.workers = Threads("tally-gateway", WORKERS, WORKERS_OF_ONE)
        # of their own: while etcd is silent, who writes must not keep those waiting who read what is known
        self.readers = Threads("tally-gateway-reads", READERS, READERS_OF_ONE)

    def close(self) -> None:
        """Shut down the threads, without waiting for their current work."""
        self.logs.close()
        self.workers.close()
        self.readers.close()

    # -- who

    def whoami(self, ask: CallerRequest) -> Response:
        """Who the caller is."""
        return answer(documents.whoami(ask.caller, self.service.cluster))

    def may_i(self, ask: CallerRequest) -> Response:
        """Whether the caller may do something."""
        act: Right = ask.values["act"]
        task_id, owner, pool = (ask.values[name] for name in ("task", "owner", "pool"))
        if task_id:
            for name in ("owner", "pool"):
                if ask.values[name]:
                    detail = f"{name}: is the task's own: leave it out, or leave out the task"
                    raise Problem(HTTPStatus.BAD_REQUEST, detail, parameter=name)
            allowed = self.service.may(ask.caller, act, task_id)
        elif owner:
            allowed = ask.caller.rights.reaches(act, owner, pool)
        else:
            allowed = ask.caller.rights.may_ever(act, pool)
        return answer(documents.MayI(allowed=allowed, verb=needed(act)))

    # -- writing

    async def submit(self, ask: CallerRequest) -> Response:
        """One task, or many."""
        kind = ask.request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == bodies.NDJSON:
            return Open(self.openings, Opening.UPLOADS, ask.caller.identity.name, _Upload(self, ask))
        if kind not in ("", "application/json"):
            detail = f"send a task as application/json, or many as {bodies.NDJSON}, one a line"
            raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail)
        with self.openings.one(Opening.BODIES, ask.caller.identity.name):
            body = await bodies.whole(ask.request)
        ask = dataclasses.replace(ask, caller=await ask.still_there())
        parents = self.writing.parents(ask.caller)
        with self.openings.one(Opening.CALLS, ask.caller.identity.name):
            [result] = await self.write(partial(self.submit_lines, ask, [body], parents), ask)
        if result.outcome in _REFUSED:
            verb = needed(Right.SUBMIT) if result.outcome == "denied" else ""
            raise Problem(_REFUSED[result.outcome], result.message, field=result.field, verb=verb)
        return answer(result, _CREATED[result.outcome])

    def submit_lines(
        self, ask: CallerRequest, lines: Sequence[bytes], parents: Parents
    ) -> list[SubmitResult]:
        """The results of these tasks, in their order."""
        results: list[SubmitResult] = []
        tasks, places = list[object](), list[int]()
        for index, line in enumerate(lines):
            try:
                tasks.append(bodies.parse_json(line))
                places.append(index)
            except ValueError as error:
                results.append(
                    SubmitResult(id="", outcome="invalid", message=f"not JSON: {error}", index=index)
                )
        results.extend(
            msgspec.structs.replace(result, index=places[result.index])
            for result in self.writing.submit(ask.caller, tasks, parents, dry_run=ask.values["dry_run"])
        )
        if not ask.values["dry_run"]:
            for result in results:
                self.metrics.submitted(result.outcome)
        return sorted(results, key=lambda result: result.index)

    def cancel(self, ask: CallerRequest) -> Response:
        """Ask for a cancel."""
        body: bodies.CancelBody = ask.body
        return self._asked(ask, partial(self.writing.cancel, members=body.members))

    def retry(self, ask: CallerRequest) -> Response:
        """Ask for a retry."""
        body: bodies.RetryBody = ask.body
        verb = partial(self.writing.retry, members=body.members, only_failed=body.only_failed)
        return self._asked(ask, verb)

    def hold(self, ask: CallerRequest) -> Response:
        """Ask for a hold."""
        return self._asked(ask, self.writing.hold)

    def release(self, ask: CallerRequest) -> Response:
        """Ask for a release."""
        return self._asked(ask, self.writing.release)

    def confirm_stopped(self, ask: CallerRequest) -> Response:
        """Confirm that an attempt no longer runs."""
        return self._asked(ask, self.writing.confirm_stopped)

    def set_priority(self, ask: CallerRequest) -> Response:
        """Ask for another priority."""
        body: bodies.PriorityBody = ask.body
        return answer(
            self.writing.set_priority(ask.caller, ask.path["id"], body.priority, body.reason, _seen(body))
        )

    # -- details

    async def write(self, what: Callable[[], Any], ask: CallerRequest) -> Any:
        """As `run`, and note in the request's scope at which revision it wrote."""
        result, revision = await self.run(partial(self.writing.noting, what, ask.call()), ask.caller)
        ask.request.scope[WRITTEN] = max(revision, ask.request.scope.get(WRITTEN, 0))
        return result

    async def run(self, what: Callable[[], Any], caller: Caller) -> Any:
        """Run it in a thread, when it is the caller's turn: it may wait for etcd."""
        return await self.workers.run(what, caller)

    async def read(self, what: Callable[[], Any], caller: Caller) -> Any:
        """The same for what asks nobody, and so never waits for etcd."""
        return await self.readers.run(what, caller)

    def _asked(self, ask: CallerRequest, verb: Callable[[Caller, str, str, Seen], RequestResult]) -> Response:
        body: bodies.ActionBody = ask.body
        return answer(verb(ask.caller, ask.path["id"], body.reason, _seen(body)))


class _Upload(Response):
    """Many tasks, one a line; the answer has a line for each, as soon as its outcome is known.

    A caller may send all before it reads, or read as it sends: what it has not read is spooled, to a file if
    it is much, so that no caller can fill the memory, and none is blocked by its own unread answer. The last
    line has the number of lines that were taken in, as `done`; without it, the answer is not whole.
    """

    def __init__(self, api: GatewayApi, ask: CallerRequest) -> None:
        super().__init__(media_type=bodies.NDJSON)
        self._api = api
        self._ask = ask
        self._parents = api.writing.parents(ask.caller)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # of Response
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as spool:
            await self._serve(spool, send)

    async def _serve(self, spool: Any, send: Send) -> None:
        headers = [(b"content-type", bodies.NDJSON.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        more, ended = asyncio.Event(), False

        async def take_in() -> None:
            nonlocal ended
            begun = 0
            try:
                async for lines in bodies.lines(self._ask.request):
                    caller = await self._ask.still_there(": what came before is submitted")
                    if caller.rights != self._ask.caller.rights:
                        self._parents = self._api.writing.parents(caller)
                    self._ask = dataclasses.replace(self._ask, caller=caller)
                    results = await self._api.write(partial(self._results, lines, begun), self._ask)
                    begun += len(lines)
                    spool.seek(0, 2)
                    spool.write(results)
                    more.set()
            except Problem as problem:
                spool.seek(0, 2)
                spool.write(msgspec.json.encode({"problem": problem.document}) + b"\n")
            except Exception as error:  # noqa: BLE001  # the answer has begun: it can only be told in a line
                spool.seek(0, 2)
                spool.write(msgspec.json.encode({"problem": _broken_off(error).document}) + b"\n")
            else:
                revision = self._ask.request.scope.get(WRITTEN, 0)
                spool.seek(0, 2)
                spool.write(msgspec.json.encode({"done": begun, "revision": revision}) + b"\n")
            finally:
                ended = True
                more.set()

        taking, sent = asyncio.create_task(take_in()), 0
        try:
            while True:
                await more.wait()
                more.clear()
                is_last = ended
                spool.seek(sent)
                while part := spool.read(64 * 1024):
                    sent += len(part)
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                    spool.seek(sent)
                if is_last:
                    break
            await taking
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (OSError, ClientDisconnect):
            pass  # the caller has gone; what it sent whole is submitted
        finally:
            taking.cancel()

    def _results(self, lines: Sequence[bytes], begun: int) -> bytes:
        results = self._api.submit_lines(self._ask, lines, self._parents)
        return b"".join(
            msgspec.json.encode(msgspec.structs.replace(result, index=begun + result.index)) + b"\n"
            for result in results
        )


def _seen(body: bodies.ActionBody) -> Seen:
    return Seen(body.create_revision, body.steps)


def _broken_off(error: Exception) -> Problem:
    """Why an upload ends before its end."""
    problem = problem_of(error)
    if isinstance(error, StoreError) and problem.document.status == HTTPStatus.SERVICE_UNAVAILABLE:
        detail = "etcd does not answer: send again what has no line here; what is stored already is unchanged"
        return Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail)
    return problem


def answer(document: object, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """The document as JSON."""
    return Response(msgspec.json.encode(document), status, media_type="application/json")
