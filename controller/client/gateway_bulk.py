"""One act on many tasks, by a gateway: a request for each MAX_ACTS of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from controller.client.bulk import MAX_ACTS, Bulk, TaskAct
from controller.client.by_gateway import ByGateway
from controller.client.gateway_calls import (
    FOR_NOW,
    PATIENT_SECONDS,
    PAUSE_SECONDS,
    GatewayProblem,
    error_of,
)
from controller.client.requests import parse_priority, parse_reason
from controller.client.views import RequestResult, TaskView
from controller.client.wire import view_of
from controller.errors import CorruptValue, TallyError, UserError


class _Told(msgspec.Struct):
    id: str
    problem: GatewayProblem | None = None


class GatewayBulk(ByGateway, Bulk):
    def _results(
        self, act: TaskAct, views: Iterable[TaskView], reason: str, priority: int | None
    ) -> Iterator[RequestResult | UserError]:
        same = {"act": act, "reason": reason, **({} if priority is None else {"priority": priority})}
        some: dict[str, TaskView] = {}
        for view in views:
            if len(some) == MAX_ACTS or view.id in some:  # a request names each task once
                yield from self._in_order(same, some)
                some = {}
            some[view.id] = view
        if some:
            yield from self._in_order(same, some)

    def _in_order(
        self, same: dict[str, Any], views: dict[str, TaskView]
    ) -> Iterator[RequestResult | UserError]:
        found = self._found(same, views)
        for name in views:
            result = found[name]
            if not isinstance(result, RequestResult | UserError):
                raise result
            yield result

    def _found(
        self, same: dict[str, Any], views: dict[str, TaskView]
    ) -> dict[str, RequestResult | TallyError]:
        """What became of each. What is so for now only is asked for again, for PATIENT_SECONDS."""
        found: dict[str, RequestResult | TallyError] = {}
        asked, until = list(views), 0.0
        while True:
            begun = time.monotonic()
            tasks = [{"id": name, "create_revision": views[name].create_revision} for name in asked]
            copies = [{"id": name, **seen_as(views[name])} for name in asked]
            first, copy = ({**same, "tasks": some} for some in (tasks, copies))
            try:
                parse_reason(same["reason"])
                if "priority" in same:
                    parse_priority(same["priority"])
                answer = self._http.post(
                    "/v1/tasks:act",
                    copy if until else first,
                    again=copy,
                    timeout_seconds=PATIENT_SECONDS,
                )
            except UserError as error:  # as each call alone would be told
                return {**dict.fromkeys(views, error), **{n: f for n, f in found.items() if n not in asked}}
            again: list[str] = []
            for document in view_of(list[Any], answer["results"]):
                told = view_of(_Told, document)
                found[told.id] = error_of(told.problem) if told.problem else view_of(RequestResult, document)
                if told.problem and told.problem.status in FOR_NOW:
                    again.append(told.id)
            if untold := [name for name in asked if name not in found]:
                raise CorruptValue(f"the gateway's answer does not tell what became of {untold[0]}")
            if not until or len(again) < len(asked):  # patience begins anew with each that is answered
                until = begun + PATIENT_SECONDS
            if not again or time.monotonic() + PAUSE_SECONDS >= until:
                return found
            asked = again
            time.sleep(PAUSE_SECONDS)


def seen_as(view: TaskView, array: TaskView | None = None) -> dict[str, int]:
    """What a copy of a request that is sent again says of a task: as it was seen before the first one.

    Of a member, `array` has the steps that the leader counts.
    """
    counted = array or (None if view.member_of else view)
    steps = counted.status.steps if counted is not None and counted.status is not None else 0
    return {"create_revision": view.create_revision, **({"steps": steps} if counted is not None else {})}
