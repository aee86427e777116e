"""Looks ahead: when tasks are expected to begin and to end, as things stand, or if they were otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from controller.client.errors import NotFound
from controller.client.reading import Reading
from controller.clock import Clock
from controller.core.forecast.ahead import HORIZON_SECONDS
from controller.core.model import codec
from controller.core.model.model import Model
from controller.core.model.scalars import parse_name
from controller.core.model.task import Pool, Spec
from controller.store.mirror import Loaded, Mirror
from controller.views.ahead import LOOK_SECONDS, ComparedView, compare, look, look_as_supposed, parse_horizon
from controller.views.forecast import ForecastView
from controller.views.supposition import NoSuchTask, Supposition, judge, parse_supposition


class Forecasts:
    """Each look reads all of the installation, and computes here: 20,000 waiting tasks take some seconds.

    Nothing is ever written.
    """

    def __init__(self, reading: Reading, clock: Clock) -> None:
        self._reading = reading
        self._clock = clock

    def of(self, *task_ids: str, horizon_seconds: float = HORIZON_SECONDS) -> ForecastView:
        """What is to come of these tasks, or of all.

        Raises NotFound if one does not exist, and InvalidField.
        """
        horizon_seconds = parse_horizon(horizon_seconds, "horizon_seconds")
        for task_id in task_ids:
            parse_name(task_id, "id", "a task id")
        loaded, now = self._reading.everything(), self._clock.now()
        model = _model(loaded)
        for task_id in task_ids:
            self._reading.found(model, task_id, alone=True)
        return look(model, now, self._budget(), names=task_ids, horizon_seconds=horizon_seconds)

    def suppose(
        self,
        *,
        tasks: Iterable[Mapping[str, Any] | Spec] = (),
        pools: Iterable[Mapping[str, Any] | Pool] = (),
        cancelled: Iterable[str] = (),
        held: Iterable[str] = (),
        released: Iterable[str] = (),
        priorities: Mapping[str, int] | None = None,
        horizon_seconds: float = HORIZON_SECONDS,
    ) -> ComparedView:
        """What would come if all this were done now: nothing is written.

        `tasks` are submitted. `pools` have a `name`, and the fields that differ. `cancelled` tasks are
        cancelled, `held` and `released` ones put on hold and released, and others get these `priorities`.
        Raises InvalidField for what could not be submitted, applied or asked for, such as
        `tasks[0].resources.cpu`, and NotFound for tasks that do not exist.
        """
        given = {
            "tasks": [*map(_plain, tasks)],
            "pools": [*map(_plain, pools)],
            "cancelled": [*cancelled],
            "held": [*held],
            "released": [*released],
            "priorities": dict(priorities or {}),
        }
        horizon_seconds = parse_horizon(horizon_seconds, "horizon_seconds")
        return self._suppose(parse_supposition(given), horizon_seconds)

    def _suppose(self, supposition: Supposition, horizon_seconds: float) -> ComparedView:
        loaded, now = self._reading.everything(), self._clock.now()
        other = _model(loaded)
        try:
            supposed = judge(other, supposition, now)
        except NoSuchTask as error:
            raise NotFound(str(error)) from None
        names = [spec.id for spec in supposed.tasks]
        before = look(_model(loaded), now, self._budget(), horizon_seconds=horizon_seconds)
        after = look_as_supposed(other, supposed, now, self._budget(), horizon_seconds=horizon_seconds)
        return compare(before, after, names)

    def _budget(self) -> Callable[[], bool]:
        ends_at = self._clock.boottime() + LOOK_SECONDS
        return lambda: self._clock.boottime() < ends_at


def _plain(value: Mapping[str, Any] | Spec | Pool) -> Any:
    return codec.to_builtins(value) if isinstance(value, Spec | Pool) else value


def _model(loaded: Loaded) -> Model:
    mirror = Mirror()
    mirror.take(loaded)
    return mirror.model
