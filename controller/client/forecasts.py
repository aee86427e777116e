"""Looks ahead: when tasks are expected to begin and to end, as things stand, or if they were otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from controller.client.prepared import prepare
from controller.client.reading import Reading
from controller.clock import Clock
from controller.core.forecast.ahead import HORIZON_SECONDS, Ahead, Forecast
from controller.core.forecast.durations import Durations
from controller.core.forecast.supposed import Supposed, cancel, change
from controller.core.model import codec
from controller.core.model.model import Model
from controller.core.model.requests import Request
from controller.core.model.task import Pool, Spec
from controller.core.model.validation import parse_pool
from controller.errors import InvalidField
from controller.store.mirror import Loaded, Mirror
from controller.views.forecast import ForecastView, forecast_view

LOOK_SECONDS = 10.0  # of computing; a look that is not done by then ends where it is


class Compared(NamedTuple):
    """What is to come as things stand, and if they were as supposed."""

    now: ForecastView
    then: ForecastView


class Forecasts:
    """Each look reads all of the installation, and computes here: 20,000 waiting tasks take some seconds."""

    def __init__(self, reading: Reading, clock: Clock) -> None:
        self._reading = reading
        self._clock = clock

    def of(self, *task_ids: str, horizon_seconds: float = HORIZON_SECONDS) -> ForecastView:
        """What is to come of these tasks, or of all.

        Raises NotFound if one does not exist.
        """
        loaded, now = self._reading.everything(), self._clock.now()
        model = _model(loaded)
        for task_id in task_ids:
            self._check(model, task_id)
        return self._look(model, now, task_ids, horizon_seconds)

    def suppose(
        self,
        *,
        tasks: Iterable[Mapping[str, Any] | Spec] = (),
        pools: Iterable[Mapping[str, Any]] = (),
        cancelled: Iterable[str] = (),
        priorities: Mapping[str, int] | None = None,
        horizon_seconds: float = HORIZON_SECONDS,
    ) -> Compared:
        """What would come if all this were done now: nothing is written.

        `tasks` are submitted, in this order. `pools` have a `name`, and the fields that differ. `cancelled`
        tasks are cancelled, and others get these `priorities`. Raises InvalidField for what could not be
        submitted or applied, and NotFound for tasks that do not exist.
        """
        loaded, now = self._reading.everything(), self._clock.now()
        model, other = _model(loaded), _model(loaded)
        redefined = tuple(_redefined(model, definition) for definition in pools)
        Supposed(pools=redefined).apply(other, now)
        specs = tuple(prepare(task, other.pools, number).spec for number, task in enumerate(tasks))
        asked: list[tuple[str, Request]] = []
        for task_id in cancelled:
            self._check(model, task_id)
            asked.append(cancel(task_id, now))
        for task_id, priority in (priorities or {}).items():
            self._check(model, task_id)
            asked.append(change(task_id, now, priority=priority))
        for spec in specs:
            if spec.id in model.tasks:
                raise InvalidField(
                    "id", f"there is a task {spec.id!r} already: suppose it under another name"
                )
        Supposed(tasks=specs, requests=tuple(asked)).apply(other, now)
        return Compared(
            self._look(model, now, (), horizon_seconds), self._look(other, now, (), horizon_seconds)
        )

    def _check(self, model: Model, task_id: str) -> None:
        if task_id not in model.tasks:
            raise self._reading.no_task(task_id)

    def _look(self, model: Model, now: float, names: tuple[str, ...], horizon_seconds: float) -> ForecastView:
        durations, ends_at = Durations.of_model(model), self._clock.boottime() + LOOK_SECONDS
        epoch = max((int(each) for each in model.terms if each.isdecimal()), default=0) + 1
        told: Forecast = Ahead(model, durations, now, epoch).run(
            horizon_seconds=horizon_seconds,
            wanted=frozenset(names),
            goes_on=lambda: self._clock.boottime() < ends_at,
        )
        return forecast_view(told, durations.error, model.pools, dict.fromkeys(names) if names else None)


def _model(loaded: Loaded) -> Model:
    mirror = Mirror()
    mirror.take(loaded)
    return mirror.model


def _redefined(model: Model, definition: Mapping[str, Any]) -> Pool:
    """The pool with these fields in place of its own; a pool of a new name as it is given."""
    name = definition.get("name")
    record = model.pools.get(name) if isinstance(name, str) else None
    if record is None:
        return parse_pool(dict(definition))
    return parse_pool({**codec.to_builtins(record.pool), **definition})
