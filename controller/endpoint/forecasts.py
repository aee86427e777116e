"""What is to come, by the status endpoint's API. Another process looks ahead; see `controller.forecaster`.

A replica that leads sends its askers to a follower, whose machine has time, if there is one within reach.
"""

from __future__ import annotations

import asyncio
from functools import partial
from http import HTTPStatus
from urllib.parse import quote, urlencode, urlsplit

from starlette.responses import RedirectResponse, Response

from controller.config.values import is_loopback
from controller.core.model.model import Model
from controller.endpoint.api import ReadApi, no_task
from controller.endpoint.documents import encode
from controller.endpoint.problems import Problem
from controller.endpoint.route import Ask
from controller.errors import TallyError
from controller.views.absent import why_absent
from controller.views.explain_forecast import explain_coming
from controller.views.forecast import ForecastView
from controller.views.freshness import Freshness
from controller.views.replica import Facts
from controller.views.replicas import all_replicas
from controller.views.tasks import find_task


class TaskForecast(ForecastView, frozen=True, kw_only=True):
    """The same as of all, of one task, and `text`: in words."""

    text: str

    @classmethod
    def of(cls, view: ForecastView, task_id: str) -> TaskForecast:
        """From a look at this task."""
        fields = {field: getattr(view, field) for field in view.__struct_fields__}
        return cls(**fields, text=explain_coming(view, task_id))


async def forecast(api: ReadApi, ask: Ask) -> Response:
    """What is to come of pools, and of some tasks."""
    return await _in_thread(api, partial(_forecast, api, ask, ask.values["tasks"]))


async def task_forecast(api: ReadApi, ask: Ask) -> Response:
    """What is to come of a task."""
    return await _in_thread(api, partial(_task_forecast, api, ask, ask.path["id"]))


async def _in_thread(api: ReadApi, answer: partial[Response]) -> Response:
    return await asyncio.get_running_loop().run_in_executor(api.lookers, answer)


def _forecast(api: ReadApi, ask: Ask, names: tuple[str, ...]) -> Response:
    return _elsewhere(api, ask, "/v1/forecast", names) or _json(_look(api, ask, names))


def _task_forecast(api: ReadApi, ask: Ask, name: str) -> Response:
    with api.view.reading() as model:
        is_known, why = find_task(model, name) is not None, why_absent(model, name)
    if not is_known:
        raise no_task(name, why)
    if elsewhere := _elsewhere(api, ask, f"/v1/tasks/{quote(name)}/forecast"):
        return elsewhere
    return _json(TaskForecast.of(_look(api, ask, (name,)), name))


def _look(api: ReadApi, ask: Ask, names: tuple[str, ...]) -> ForecastView:
    try:
        return api.look(names, ask.facts.revision, ask.values["min_revision"])
    except TallyError as error:
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error), headers={"Retry-After": "5"}) from None


def _elsewhere(api: ReadApi, ask: Ask, path: str, names: tuple[str, ...] = ()) -> Response | None:
    """Where a leader sends the asker, with all that it has asked for; None: it answers itself."""
    if ask.facts.role != "leader" or ask.values["here"]:
        return None
    with api.view.reading() as model:
        url = follower_of(model, ask.facts)
    asked = {"tasks": ",".join(names)} if names else {}
    asked |= {name: str(ask.values[name]) for name in ("min_revision", "wait") if ask.values.get(name)}
    there = f"{url.rstrip('/')}{path}{'?' if asked else ''}{urlencode(asked)}"
    return RedirectResponse(there) if url else None


def follower_of(model: Model, facts: Facts) -> str:
    """The status URL of a follower that is up to date and can be reached from where the leader can be; or "".

    An address of the loopback is one of the follower's own machine.
    """
    replicas = all_replicas(model)
    own = next((replica.told.host for replica in replicas if replica.id == facts.replica), "")
    for replica in replicas:
        url, age = replica.told.status_url, facts.replica_ages.get(replica.id)
        if replica.leads or not url or age is None or replica.id == facts.replica:
            continue
        if facts.rule.replica.judge(age) is not Freshness.FRESH:
            continue
        try:
            host = urlsplit(url).hostname or ""
        except ValueError:
            continue
        if host and (not is_loopback(host) or (own and replica.told.host == own)):
            return url
    return ""


def _json(document: object) -> Response:
    return Response(encode(document), media_type="application/json", headers={"Cache-Control": "no-store"})
