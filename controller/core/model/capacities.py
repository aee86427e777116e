"""What nodes give to a pool whose capacity follows them: the records `capacities/<pool>`.

The leader writes them, by what its engine has seen of the nodes. A pool has what is recorded, or what is held
of it, if that is more: a node may go while tasks run. Nothing is admitted then, so the capacity falls as they
end, and no record has to be written for that.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from controller.core.model import codec
from controller.core.model.op import NO_OP, Op
from controller.core.model.resources import ZERO, Vector
from controller.core.model.task import SCHEMA_VERSION, Count, Time, Word
from controller.errors import CorruptValue, InvalidField

KIND = "capacities"
CHANGES_KEPT = 20
WHY_LIMIT = 500  # characters of a cause
MAX_BYTES = 256 * 1024


class CapacityChange(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change, in words (`why`), and the amounts before and after it. `at`: seconds since the epoch."""

    at: Time
    epoch: Count
    why: Word
    before: Vector = ZERO
    after: Vector = ZERO


class ObservedCapacity(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What nodes give to a pool.

    `usable` of the `nodes` that match are in `amounts`. `changes` are the last CHANGES_KEPT, the oldest
    first. `unseen_since`: since when the nodes could not be seen, and `unseen_why`; the amounts are then the
    last that were seen, or nothing, if none were.
    """

    amounts: Vector = ZERO
    nodes: Count = 0
    usable: Count = 0
    changes: tuple[CapacityChange, ...] = ()
    unseen_since: Time | None = None
    unseen_why: Word = ""
    version: int = SCHEMA_VERSION
    op: Op = NO_OP

    @property
    def last(self) -> CapacityChange | None:
        """The last change; None if there was none."""
        return self.changes[-1] if self.changes else None


def at_least(observed: Vector, held: Vector) -> Vector:
    """The capacity: what was observed, and never less than what is held."""
    if held.fits(observed):
        return observed
    return Vector({name: max(observed.get(name), held.get(name)) for name in (*observed, *held)})


def _decode_vector(kind: type, value: Any) -> object:
    if kind is Vector:
        return Vector.parse(value) if value else ZERO
    raise TypeError(f"cannot decode {kind}")


_decoder = msgspec.json.Decoder(ObservedCapacity, dec_hook=_decode_vector)


def encode_capacity(capacity: ObservedCapacity, op: Op) -> bytes:
    """The stored form."""
    return codec.encode(msgspec.structs.replace(capacity, version=SCHEMA_VERSION, op=op))


def decode_capacity(data: bytes) -> ObservedCapacity:
    """A stored capacity. Raises CorruptValue if it is not one."""
    if len(data) > MAX_BYTES:
        raise CorruptValue(f"has {len(data):,} bytes, but at most {MAX_BYTES:,} are allowed")
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InvalidField) as error:
        raise CorruptValue(str(error)) from error
