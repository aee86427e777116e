"""Tasks that are set aside after an error of Tally's own on them: nothing more is done with them.

All other tasks go on. The leader freezes the task at once and writes `quarantined/<id>`: every replica and
every user sees why, and the next leader does not fail on it again. Tally tries the task again when its
records or its pool change, when a user makes a request (a cancel, a retry), or when an operator has the
record deleted (`tally audit --repair --delete`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec
from msgspec import Struct

from controller.core.model import codec
from controller.core.model.op import Op
from controller.core.model.records import Task
from controller.core.model.task import SCHEMA_VERSION
from controller.errors import CorruptValue

KIND = "quarantined"
REASON_LIMIT = 500  # characters


class Caught(NamedTuple):
    """An error that was kept from harming others.

    `subject` is the task, pool, request or key that it belongs to.
    """

    where: str
    subject: str
    error: Exception


class Aside(Struct, frozen=True, kw_only=True):
    """Why a task is set aside. `seen` are the mods of its spec, its status and its newest request then, and
    `pool_mod` is that of its pool's definition; -1 if it is not known.
    """

    reason: str
    seen: tuple[int, int, int]
    pool_mod: int = -1
    at: float = 0.0
    epoch: int = msgspec.field(default=0, name="term")  # as older versions stored it

    @classmethod
    def of(cls, task: Task, pool_mod: int, where: str, error: Exception, at: float, epoch: int) -> Aside:
        """The aside of a task that raised `error`, as the task and its pool are now."""
        reason = describe(where, error)
        return cls(reason=reason, seen=seen_of(task), pool_mod=pool_mod, at=at, epoch=epoch)

    def holds_for(self, task: Task | None) -> bool:
        """Whether the task has not changed since."""
        return task is not None and self.seen == seen_of(task)

    def was_of(self, pool_mod: int) -> bool:
        """Whether its pool has not changed since, as far as is known."""
        return self.pool_mod in (-1, pool_mod)


def seen_of(task: Task) -> tuple[int, int, int]:
    """The mods of a task's records on which a decision rests."""
    return task.spec_mod, task.status_mod, max((mod for _, mod in task.requests.values()), default=0)


def unreadable_shares(records: Iterable[tuple[str, tuple[str, ...]]], pool: str) -> list[str]:
    """The owners whose shares of the pool are among these quarantined records (kind and names)."""
    return [names[1] for kind, names in records if kind == "shares" and names[0] == pool]


def describe(where: str, error: Exception) -> str:
    """An error in one line, for people."""
    return f"{where}: {type(error).__name__}: {error}"[:REASON_LIMIT]


def encode(aside: Aside, op: Op) -> bytes:
    """The stored form."""
    return codec.encode({**msgspec.to_builtins(aside), "version": SCHEMA_VERSION, "op": op})


def decode(data: bytes) -> Aside:
    """The inverse of `encode`. Raises CorruptValue."""
    try:
        return msgspec.convert(codec.decode_mapping(data), Aside)
    except msgspec.ValidationError as error:
        raise CorruptValue(str(error)) from error
