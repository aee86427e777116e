"""The handler of one act on many tasks: each is authorised and answered as if it were asked for alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Literal

from msgspec import UNSET, Struct, UnsetType
from starlette.responses import Response

from controller.client.bulk import TaskAct, check_priority
from controller.client.views import RequestResult
from controller.endpoint.problems import Problem, ProblemDocument
from controller.gateway.api import GatewayApi, answer
from controller.gateway.bodies import ActsBody, NamedTask
from controller.gateway.error_answers import problem_of
from controller.gateway.openings import Opening
from controller.gateway.operation import CallerRequest
from controller.gateway.writing import Seen, Writing

# for one request, while etcd is slow: the tasks whose turn comes later are left to the next one
ACTING_SECONDS = 20.0

_Verb = Callable[[str, Seen], RequestResult]


class ActResult(Struct, frozen=True, kw_only=True):
    """What became of one task: the result of its request, or the `problem` that it would have alone."""

    id: str
    outcome: Literal["requested", "already requested", "already finished", "unchanged"] | UnsetType = UNSET
    message: str | UnsetType = UNSET
    problem: ProblemDocument | UnsetType = UNSET


class ActResults(Struct, frozen=True, kw_only=True):
    """One for each of the tasks, in their order."""

    results: list[ActResult]


async def act_on_tasks(api: GatewayApi, ask: CallerRequest) -> Response:
    """Ask the leader for the same of many tasks. Raises Problem and InvalidField for a wrong body."""
    body: ActsBody = ask.body
    check_priority(body.act, body.priority)
    _check_once(body.tasks)
    verb, until = _verb(api.writing, ask, body), time.monotonic() + ACTING_SECONDS
    with api.openings.one(Opening.ACTS, ask.caller.identity.name):
        # who acts on many tasks waits for its turn at each, among what else it asks for
        results = await asyncio.gather(
            *(api.write(partial(_result, verb, task, until), ask) for task in body.tasks)
        )
    return answer(ActResults(results=results))


def _check_once(tasks: list[NamedTask]) -> None:
    seen = set[str]()
    for index, task in enumerate(tasks):
        if task.id in seen:
            field = f"tasks[{index}].id"
            detail = f"{field}: {task.id[:80]!r} is given twice: name each task once"
            raise Problem(HTTPStatus.BAD_REQUEST, detail, field=field)
        seen.add(task.id)


def _verb(writing: Writing, ask: CallerRequest, body: ActsBody) -> _Verb:
    if body.priority is not None:
        priority = body.priority
        return lambda name, seen: writing.set_priority(ask.caller, name, priority, body.reason, seen)
    verb = {
        TaskAct.CANCEL: writing.cancel,
        TaskAct.RETRY: writing.retry,
        TaskAct.HOLD: writing.hold,
        TaskAct.RELEASE: writing.release,
    }[body.act]
    return lambda name, seen: verb(ask.caller, name, body.reason, seen)


def _result(verb: _Verb, task: NamedTask, until: float) -> ActResult:
    """The result for one task, in a thread."""
    if time.monotonic() >= until:
        detail = "its turn did not come in time, and nothing was asked for: send it again"
        return ActResult(id=task.id, problem=Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail).document)
    try:
        result = verb(task.id, Seen(task.create_revision, task.steps))
    except Exception as error:  # noqa: BLE001  # one task's error stops no other; `problem_of` counts a bug
        return ActResult(id=task.id, problem=problem_of(error).document)
    return ActResult(id=result.id, outcome=result.outcome, message=result.message)
