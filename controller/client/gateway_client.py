"""A client of a gateway: the same verbs as those of `Client`, for who has no credentials of etcd."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from controller.client.by_gateway import NeedsEtcd
from controller.client.calls import parse_timeout
from controller.client.client import Client
from controller.client.downstream import Downstream
from controller.client.errors import GatewayUnavailable, NotFound, Still, check_same
from controller.client.gateway_bulk import GatewayBulk, seen_as
from controller.client.gateway_calls import PATIENT_SECONDS, PAUSE_SECONDS, GatewayCalls
from controller.client.gateway_parts import (
    Access,
    GatewayAdmission,
    GatewayFeatures,
    GatewayForecasts,
    GatewayMaintenance,
    GatewayMembers,
    GatewayNeighbours,
    GatewayOutputs,
    GatewayOwners,
    GatewayReplicas,
    GatewaySchedules,
)
from controller.client.gateway_paths import pool_part, task_part
from controller.client.ordering import ordered, several
from controller.client.plain_json import encoded, is_plain
from controller.client.prepared import SubmitResult
from controller.client.reading import parse_filter, parse_state
from controller.client.requests import parse_priority, parse_reason
from controller.client.stop_event import StopEvent
from controller.client.views import (
    ApplyResult,
    PoolView,
    RequestResult,
    TasksLook,
    TaskView,
)
from controller.client.wire import pool_of, task_of, view_of
from controller.clock import WallClock
from controller.core.model import codec
from controller.core.model.requests import RequestKind
from controller.core.model.scalars import is_name, parse_name
from controller.core.model.selector import parse_selector
from controller.core.model.submitted import parse_definition
from controller.core.model.task import Pool, Spec
from controller.core.model.validation import parse_labels, parse_spec
from controller.errors import InvalidField, UserError
from controller.views.tasks import HELD_BACK, parse_states

BATCH = 1000  # tasks that are sent in one request
WAIT_SECONDS = 25.0  # of one long poll
WATCH_SECONDS = 5.0  # the same, of a watch of one task
WAITED_FOR = 1000  # tasks that one long poll waits for


class _Changed(msgspec.Struct):
    items: list[Any]
    missing: dict[str, str]  # task → what is said of it
    revision: int


class _Look(msgspec.Struct):
    items: list[Any]
    gone: list[str] = []  # which an older gateway does not tell
    more: bool = False


class GatewayClient(Client):
    """See the module's docstring.

    Raises GatewayUnavailable if the gateway does not answer, and NotSignedIn.
    """

    def __init__(self, calls: GatewayCalls) -> None:
        self._http = calls
        self.access = Access(calls)
        self._owns_store = False
        self.clock = WallClock()
        self.replicas = GatewayReplicas(calls)
        self.outputs = GatewayOutputs(calls)
        self.admission = GatewayAdmission(calls)
        self.maintenance = GatewayMaintenance(calls)
        self.bulk = GatewayBulk(calls)
        self.downstream = Downstream(self.tasks, self.get, self.bulk)
        self.members = GatewayMembers(calls)
        self.owners = GatewayOwners(calls)
        self.usage = self.owners.usage
        self.neighbours = GatewayNeighbours(calls).of
        self.features = GatewayFeatures(calls)
        self.schedules = GatewaySchedules(calls)
        self.forecasts = GatewayForecasts(calls)

    def __getattr__(self, name: str) -> Any:
        """The installation's name is asked for when it is wanted. Raises NeedsEtcd for what needs it."""
        if name == "cluster":
            self.cluster = str(self.access.whoami()["cluster"])
            return self.cluster
        if name in ("store", "keys", "notices"):
            raise NeedsEtcd
        raise AttributeError(name)

    def close(self) -> None:
        """See Client."""
        self._http.close()

    def submit_many(
        self,
        tasks: Iterable[Mapping[str, Any] | Spec],
        *,
        dry_run: bool = False,
        on_result: Callable[[SubmitResult], None] | None = None,
    ) -> list[SubmitResult]:
        """See Client."""
        order = ordered(several(tasks, "tasks"))
        results: list[SubmitResult] = []

        def note(result: SubmitResult) -> None:
            results.append(result)
            if on_result is not None:
                on_result(result)

        for result in order.cyclic:
            note(result)
        rest, begun = iter(order.tasks), 0
        # those that wait for each other are sent together: what became of the first ones counts for the rest
        most = BATCH if order.places is None else max(1, len(order.places))
        while batch := list(islice(rest, most)):
            lines, refused = _lines(batch)
            for document in self._http.upload("/v1/tasks", lines, dry_run="true" if dry_run else "false"):
                result = view_of(SubmitResult, document)
                result = refused.get(result.index, result)
                note(order.placed(msgspec.structs.replace(result, index=begun + result.index)))
            begun += len(batch)
        return results

    def get(self, task_id: str) -> TaskView:
        """See Client."""
        return task_of(self._http.get(f"/v1/tasks/{task_part(task_id)}"))

    def tasks(
        self,
        *,
        pool: str = "",
        state: str = "",
        labels: Mapping[str, str] | None = None,
        selector: str = "",
        owner: str = "",
    ) -> list[TaskView]:
        """See Client."""
        given = _selection(pool, state, labels, selector, owner)
        return [task_of(document) for document in self._http.lines("/v1/tasks", **given)]

    def explain(self, task_id: str) -> str:
        """See Client."""
        return str(self._http.get(f"/v1/tasks/{task_part(task_id)}/explain")["text"])

    def pools(self, *, counts: bool = False) -> list[PoolView]:
        """See Client."""
        views = [pool_of(each) for each in view_of(list[Any], self._http.get("/v1/pools")["items"])]
        unread: dict[str, Any] = {"counts": {}, "on_hold": None, "demand": None}
        return views if counts else [msgspec.structs.replace(view, **unread) for view in views]

    def wait(
        self,
        task_ids: Iterable[str],
        *,
        for_: str = "finished",
        timeout_seconds: float | None = None,
        on_change: Callable[[TaskView], None] | None = None,
    ) -> dict[str, TaskView]:
        """See Client."""
        target = None if for_ == "finished" else parse_state(for_)
        waiting, limit = dict.fromkeys(several(task_ids, "task_ids")), parse_timeout(timeout_seconds)
        for task_id in waiting:
            parse_name(task_id, "id", "a task id")
        views: dict[str, TaskView] = {}
        until = None if limit is None else self.clock.boottime() + limit
        since = dict.fromkeys(range(0, len(waiting), WAITED_FOR), 0)
        groups = [list(waiting)[begin : begin + WAITED_FOR] for begin in since]
        while waiting:
            for begin, group in zip(since, groups, strict=True):
                asked = [task_id for task_id in group if task_id in waiting]
                if not asked:
                    continue
                left = WAIT_SECONDS if until is None else until - self.clock.boottime()
                seconds = max(0.0, min(WAIT_SECONDS, left)) if len(groups) == 1 else 0.5
                changed, missing, since[begin] = _changed(self._http, asked, since[begin], seconds)
                for view in changed:
                    check_same(views.get(view.id), view)
                    if on_change is not None and views.get(view.id) != view:
                        on_change(view)
                    views[view.id] = view
                    asked_again = RequestKind.RETRY in view.requests
                    if (view.finished and not asked_again) or (target is not None and view.state is target):
                        del waiting[view.id]
                for problem in missing.values():
                    raise NotFound(problem)
            if waiting and until is not None and self.clock.boottime() >= until:
                raise Still(list(waiting), views)
        return views

    def watch_tasks(
        self,
        *,
        pool: str = "",
        state: str = "",
        labels: Mapping[str, str] | None = None,
        selector: str = "",
        owner: str = "",
        task_id: str = "",
        stop: StopEvent | None = None,
    ) -> Generator[TasksLook, None, None]:
        """See Client."""
        given = _selection(pool, state, labels, selector, owner)
        if task_id:
            parse_name(task_id, "id", "a task id")
        stop = stop or StopEvent()
        if task_id and not any(given.values()):
            yield from self._watch_one(task_id, stop)
            return
        until = 0.0  # for a gateway that is restarted
        while not stop.is_set():
            views, gone, is_whole = list[TaskView](), list[str](), True
            try:
                for look in self._http.lines("/v1/tasks:watch", stop, **given):
                    until = 0.0
                    told = view_of(_Look, look)
                    views += [view for view in map(task_of, told.items) if task_id in ("", view.id)]
                    gone += told.gone
                    if not told.more:
                        yield TasksLook(views, is_whole=is_whole, gone=gone)
                        views, gone, is_whole = [], [], False
            except GatewayUnavailable:
                until = until or self.clock.boottime() + PATIENT_SECONDS
                if self.clock.boottime() >= until:
                    raise
            stop.wait(PAUSE_SECONDS)  # it ends, or has ended: another one begins with all that match

    def _watch_one(self, task_id: str, stop: StopEvent) -> Generator[TasksLook, None, None]:
        """One task, also a member of an array, which no list has. It hears of `stop` between polls."""
        revision = 0
        while not stop.is_set():
            before = revision
            views, missing, revision = _changed(self._http, [task_id], before, WATCH_SECONDS)
            if views or missing or not before:
                yield TasksLook(views, is_whole=bool(missing) or not before)

    def cancel(
        self, task_id: str, *, members: str = "", reason: str = "", of: TaskView | None = None
    ) -> RequestResult:
        """See Client."""
        return self._ask(task_id, "cancel", reason, of, **({"members": members} if members else {}))

    def retry(
        self,
        task_id: str,
        *,
        members: str = "",
        only_failed: bool = False,
        reason: str = "",
        of: TaskView | None = None,
    ) -> RequestResult:
        """See Client."""
        part: dict[str, Any] = {"members": members} if members else {}  # which an older gateway does not know
        part |= {"only_failed": True} if only_failed else {}
        return self._ask(task_id, "retry", reason, of, **part)

    def hold(self, task_id: str, *, reason: str = "", of: TaskView | None = None) -> RequestResult:
        """As `Client.hold`."""
        return self._ask(task_id, "hold", reason, of)

    def release(self, task_id: str, *, reason: str = "", of: TaskView | None = None) -> RequestResult:
        """As `Client.release`."""
        return self._ask(task_id, "release", reason, of)

    def set_priority(
        self, task_id: str, priority: int, *, reason: str = "", of: TaskView | None = None
    ) -> RequestResult:
        """As `Client.set_priority`."""
        return self._ask(task_id, "priority", reason, of, priority=parse_priority(priority))

    def confirm_stopped(self, task_id: str, *, reason: str = "") -> RequestResult:
        """See Client."""
        return self._ask(task_id, "confirm-stopped", reason, None)

    def apply_pool(self, definition: Mapping[str, Any] | Pool) -> ApplyResult:
        """See Client."""
        plain = codec.to_builtins(definition) if isinstance(definition, Pool) else definition
        name = plain.get("name") if isinstance(plain, Mapping) else None
        if not (isinstance(name, str) and is_name(name) and is_plain(sent := dict(plain))):
            sent = codec.to_builtins(parse_definition(plain))  # most of it is refused here
            name = sent["name"]
        return view_of(ApplyResult, self._http.post(f"/v1/pools/{name}", sent, method="PUT"))

    def delete_pool(self, name: str) -> None:
        """See Client."""
        self._http.post(f"/v1/pools/{pool_part(name)}", method="DELETE")

    # -- details

    def _ask(self, task_id: str, verb: str, reason: str, of: TaskView | None, **more: Any) -> RequestResult:
        body = {
            "reason": parse_reason(reason),
            "create_revision": of.create_revision if of is not None else 0,
            **more,
        }
        again = _again(self.get, task_id, of, is_counted_with_array=verb != "confirm-stopped")
        path = f"/v1/tasks/{task_part(task_id)}/{verb}"
        answer = self._http.post(path, body, again={**body, **again}, once=not again)
        return view_of(RequestResult, answer)


def _lines(tasks: Sequence[Mapping[str, Any] | Spec]) -> tuple[list[bytes], dict[int, SubmitResult]]:
    """The tasks, one a line, and the results of those that JSON cannot hold, or no request.

    In their place the gateway is sent what it refuses, too: so it knows that nothing may wait for them.
    """
    lines, refused = list[bytes](), dict[int, SubmitResult]()
    for index, task in enumerate(tasks):
        try:
            lines.append(encoded(task, parse_spec))
        except InvalidField as error:
            name = task.get("id") if isinstance(task, Mapping) else getattr(task, "id", None)
            task_id = name if isinstance(name, str) else ""
            refused[index] = SubmitResult(
                id=task_id, outcome="invalid", message=str(error), index=index, field=error.field
            )
            lines.append(codec.encode({"id": task_id if is_plain(task_id) else "", "command": 0}))
    return lines, refused


def _again(
    get: Callable[[str], TaskView], task_id: str, of: TaskView | None, *, is_counted_with_array: bool
) -> dict[str, int]:
    """What a copy of a request says that is sent again; nothing, if a copy could not be known as one."""
    try:
        view = of or get(task_id)
        if not view.member_of:
            return seen_as(view, view)
        return seen_as(view, get(view.member_of)) if is_counted_with_array else {}
    except NotFound:  # a gateway may lag behind: the one that is asked decides
        return {}


def _changed(
    http: GatewayCalls, task_ids: list[str], since: int, seconds: float
) -> tuple[list[TaskView], dict[str, str], int]:
    """What changed of these tasks after a revision: views, what is missing, and the revision now."""
    body = {"ids": task_ids, "since": since, "timeout_seconds": seconds}
    answer = view_of(_Changed, http.ask("/v1/tasks:wait", body, timeout_seconds=seconds))
    return [task_of(document) for document in answer.items], answer.missing, answer.revision


def _selection(
    pool: str, state: str, labels: Mapping[str, str] | None, selector: str, owner: str
) -> dict[str, str]:
    """The parameters of a selection. Raises as `Client.tasks`."""
    if state:
        try:
            parse_states(state, HELD_BACK)
        except ValueError as error:
            raise UserError(str(error)) from None
    if selector:
        parse_selector(selector)
    given = parse_labels(labels or {}, "labels")
    terms = [f"{key}={value}" for key, value in given.items()] + ([selector] if selector else [])
    whose = {"pool": parse_filter(pool, "pool"), "owner": parse_filter(owner, "owner")}
    return {**whose, "state": state, "label": ",".join(terms)}
