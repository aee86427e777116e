"""What is supposed to be otherwise before one looks ahead: other pools, more tasks, requests on tasks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from controller.core.model import attested, codec
from controller.core.model.attested import Attestation
from controller.core.model.model import Model
from controller.core.model.op import Op
from controller.core.model.records import Change
from controller.core.model.requests import Request, RequestKind
from controller.core.model.task import Pool, Spec

_OP = Op("supposed")


class Supposed(Struct, frozen=True, kw_only=True):
    """Changes that nobody makes.

    `pools` are whole definitions, in place of those of their names. `tasks` are submitted now, in this order;
    each has the resources that its pool fills in; `by`: a gateway attests that this one has submitted them,
    "" for none. `requests` are what users may ask of tasks that there are.
    """

    pools: tuple[Pool, ...] = ()
    tasks: tuple[Spec, ...] = ()
    requests: tuple[tuple[str, Request], ...] = ()
    by: str = ""

    def changes(self, revision: int, now: float) -> Iterable[Change]:
        """The records of all that, each at the revision after the one before."""
        at = revision
        for pool in self.pools:
            yield _put("pools", (pool.name,), codec.encode_pool(pool, _OP), at := at + 1)
        for spec in self.tasks:
            yield _put("tasks", (spec.id,), codec.encode_spec(spec, now, _OP), at := at + 1)
            if self.by:  # in the transaction of the task, or it would not be of that
                word = Attestation(owner=spec.owner, by=self.by)
                yield _put(attested.KIND, (spec.id,), attested.encode(word, _OP), at)
        for task_id, request in self.requests:
            yield _put("requests", (task_id, request.kind.value), codec.encode(request), at := at + 1)

    def apply(self, model: Model, now: float) -> None:
        """Make it so in this model, which must be one's own."""
        last = model.revision
        for change in self.changes(last, now):
            model.apply(change)
            last = change.mod
        model.advance_revision(last)


def _put(kind: str, names: tuple[str, ...], value: bytes, at: int) -> Change:
    return Change(kind, names, value, at, at)


def cancel(task_id: str, now: float, members: str = "") -> tuple[str, Request]:
    """Suppose that somebody cancels a task, or these members of an array."""
    return task_id, Request(kind=RequestKind.CANCEL, by="supposed", at=now, members=members)


def change(task_id: str, now: float, **fields: Any) -> tuple[str, Request]:
    """Suppose that somebody changes a task: its `priority`, or whether it is `on_hold`."""
    return task_id, Request(kind=RequestKind.CHANGE, by="supposed", at=now, **fields)
