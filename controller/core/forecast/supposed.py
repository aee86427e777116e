"""What is supposed to be otherwise before one looks ahead: other pools, more tasks, requests on tasks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from controller.core.model import codec
from controller.core.model.model import Model
from controller.core.model.op import Op
from controller.core.model.records import Change
from controller.core.model.requests import Request, RequestKind
from controller.core.model.task import Pool, Spec

_OP = Op("supposed")


class Supposed(Struct, frozen=True, kw_only=True):
    """Changes that nobody makes.

    `pools` are whole definitions, in place of those of their names. `tasks` are submitted now, in this order;
    each has the resources that its pool fills in. `requests` are what users may ask of tasks that there are.
    """

    pools: tuple[Pool, ...] = ()
    tasks: tuple[Spec, ...] = ()
    requests: tuple[tuple[str, Request], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.pools or self.tasks or self.requests)

    def changes(self, revision: int, now: float) -> Iterable[Change]:
        """The records of all that, each at the revision after the one before."""
        records: list[tuple[str, tuple[str, ...], bytes]] = [
            *(("pools", (pool.name,), codec.encode_pool(pool, _OP)) for pool in self.pools),
            *(("tasks", (spec.id,), codec.encode_spec(spec, now, _OP)) for spec in self.tasks),
            *(
                ("requests", (task_id, request.kind.value), codec.encode(request))
                for task_id, request in self.requests
            ),
        ]
        for at, (kind, names, value) in enumerate(records, revision + 1):
            yield Change(kind, names, value, at, at)

    def apply(self, model: Model, now: float) -> None:
        """Make it so in this model, which must be one's own."""
        for change in self.changes(model.revision, now):
            model.apply(change)
            model.advance_revision(change.mod)


def cancel(task_id: str, now: float) -> tuple[str, Request]:
    """Suppose that somebody cancels a task."""
    return task_id, Request(kind=RequestKind.CANCEL, by="supposed", at=now)


def change(task_id: str, now: float, **fields: Any) -> tuple[str, Request]:
    """Suppose that somebody changes a task: its `priority`, or whether it is `on_hold`."""
    return task_id, Request(kind=RequestKind.CHANGE, by="supposed", at=now, **fields)
