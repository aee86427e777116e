"""What the gateway tells of what is to come, and of what would come: of tasks that the caller may read.

Another process looks ahead, at all tasks; see `controller.forecaster`. Of others a caller learns what it may
learn by any other way: what their pools hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from http import HTTPStatus
from typing import TypeVar

import msgspec

from controller.client.errors import NotFound
from controller.core.forecast.ahead import HORIZON_SECONDS
from controller.core.forecast.supposed import Supposed
from controller.core.model.model import Model
from controller.endpoint.problems import Problem
from controller.forecaster.wire import Question, Reply
from controller.gateway.caller import Caller
from controller.gateway.policy import Forbidden, PolicyVerb, Right
from controller.gateway.veil import ANOTHER, veiled
from controller.runtime.standby import Standby
from controller.views.ahead import LookAnswer, compare
from controller.views.forecast import CourseView, ErrorView, ForecastView
from controller.views.supposition import NoSuchTask, Supposition, judge

E = TypeVar("E", ErrorView, ErrorView | None)


class ShownForecasts:
    """See the module's docstring. Its methods block for seconds, and may be called from any thread.

    `find` raises NotFound for a task that the caller may not read.
    """

    def __init__(
        self,
        standby: Standby,
        ask: Callable[[Question], Reply],
        find: Callable[[Caller, str], object],
        now: Callable[[], float],
    ) -> None:
        self._standby = standby
        self._now = now
        self._ask = ask
        self._find = find

    def of(
        self,
        caller: Caller,
        names: Iterable[str] | None,
        horizon_seconds: float = HORIZON_SECONDS,
        at_least: int = 0,
    ) -> ForecastView:
        """What is to come of these tasks; None: of all. See Question. Raises NotFound, NoForecast."""
        asked = None if names is None else [*names]
        for name in asked or ():
            self._find(caller, name)
        question = Question(
            tasks=asked,
            revision=self._standby.revision,
            at_least=at_least,
            horizon_seconds=horizon_seconds,
        )
        return self._shown(caller, self._forecasts(question)[0])

    def suppose(
        self, caller: Caller, supposition: Supposition, horizon_seconds: float, names: Iterable[str] = ()
    ) -> LookAnswer:
        """What would come, also of the tasks of these names.

        Raises NotFound, Forbidden, InvalidField, NoForecast.
        """
        by, asked = caller.identity.name, [*names]
        for name in asked:
            self._find(caller, name)
        if supposition.pools and not caller.rights.may_read_all:
            # what comes of it, and why it cannot be, would tell of guarantees and tasks of others
            raise Forbidden(
                Right.READ, "the tasks of all owners, whom another pool concerns", PolicyVerb.READ_ANY
            )
        with self._standby.reading() as model:
            try:
                judged = judge(model, supposition, self._now(), by, partial(caller.rights.allows, Right.READ))
            except NoSuchTask as error:
                raise NotFound(str(error)) from None
        self._check(caller, judged)
        question = Question(
            tasks=None,
            revision=self._standby.revision,
            horizon_seconds=horizon_seconds,
            supposed=supposition,
            by=by,
        )
        now, then = self._forecasts(question)
        assert then is not None
        own = [spec.id for spec in judged.tasks]
        now, then = self._shown(caller, now), self._shown(caller, then, own)
        compared = compare(now, then, own)
        others = dict.fromkeys(map(then.told_as, asked)).keys() - {"", *own}
        also = [coming for name, coming in then.tasks.items() if name in others]
        return LookAnswer(
            now=msgspec.structs.replace(
                now, tasks={told: now.tasks[told] for told in map(now.told_as, asked) if told}
            ),
            then=msgspec.structs.replace(compared, tasks=[*compared.tasks, *also]),
        )

    def _check(self, caller: Caller, judged: Supposed) -> None:
        for spec in judged.tasks:
            if not caller.rights.allows(Right.SUBMIT, spec.owner, spec.pool):
                raise Forbidden(Right.SUBMIT, f"owner {spec.owner} in pool {spec.pool}")

    def _forecasts(self, question: Question) -> tuple[ForecastView, ForecastView | None]:
        reply = self._ask(question)
        if reply.refused is not None:  # what it was judged by has changed meanwhile
            refused = reply.refused
            raise Problem(HTTPStatus.CONFLICT, f"{refused.field}: {refused.detail}", field=refused.field)
        assert reply.forecast is not None
        return reply.forecast, reply.then

    def _shown(self, caller: Caller, view: ForecastView, own: Iterable[str] = ()) -> ForecastView:
        """The view, as the caller may know it. `own`: tasks that it supposes."""
        if caller.rights.may_read_all:
            return view
        with self._standby.reading() as model:
            sees = partial(_sees, caller, model)
            names = {name for name in view.tasks if sees(name)} | {*own}
            owners = {owner for shares in model.shares.values() for owner in shares}
            # that there are others, and not how many
            endless = {
                pool: [*dict.fromkeys(name if name in names or sees(name) else ANOTHER for name in tasks)]
                for pool, tasks in view.endless.items()
            }
            may = partial(caller.rights.allows, Right.READ)
            tasks = {
                name: msgspec.structs.replace(coming, before={}, why=veiled(coming.why, sees, may, owners))
                for name, coming in view.tasks.items()
                if name in names
            }
        return msgspec.structs.replace(
            view,
            tasks=tasks,
            endless=endless,
            error=_uncounted(view.error),
            errors={basis: _uncounted(error) for basis, error in view.errors.items()},
            starts=_uncounted(view.starts),
            pools={name: _without_numbers(course) for name, course in view.pools.items()},
        )


def _sees(caller: Caller, model: Model, name: str) -> bool:
    task = model.tasks.get(name) or model.arrays.task_of(name)
    return task is not None and caller.sees(task)


def _uncounted(error: E) -> E:
    """How far off times were, and not of how many runs, which are of all owners."""
    return msgspec.structs.replace(error, of=0) if error is not None else error


def _without_numbers(course: CourseView) -> CourseView:
    """How many tasks wait is told to who may read all of them; see Service.pools."""
    return msgspec.structs.replace(course, waiting=[], guaranteed={})
