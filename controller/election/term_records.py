"""The store's records of elections: the epoch, and the records of terms. Each may be damaged."""

from __future__ import annotations

from typing import Any

from controller.core.model import codec
from controller.core.model.op import Op
from controller.errors import CorruptValue
from controller.store.base import KeyValue

MAX_EPOCH = 10**12  # fits a term's key, and a number of any JSON reader
MAX_RECORD_BYTES = 64 * 1024  # of a term's record that is rewritten


def epoch_of(item: KeyValue | None) -> int:
    """The last epoch; 0 if there was none.

    Raises CorruptValue if the key holds something else.
    """
    if item is None:
        return 0
    try:
        value = codec.decode_mapping(item.value).get("epoch")
    except CorruptValue:
        value = None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_EPOCH:
        raise CorruptValue(
            f"{item.key}: does not hold an epoch; restore it, or delete it if this is a new installation"
        )
    return value


def fields_of(item: KeyValue | None) -> dict[str, Any]:
    """The fields of a record that may be damaged; {} if it is absent or cannot be read."""
    try:
        return codec.decode_mapping(item.value) if item is not None else {}
    except CorruptValue:
        return {}


def with_end(
    item: KeyValue | None, now: float, why: str, op: Op | None = None, *, unexpected: bool = False
) -> bytes | None:
    """The record of a term, with its end; None if it already has one, or cannot be read."""
    if item is None or len(item.value) > MAX_RECORD_BYTES:
        return None
    record = fields_of(item)
    if not record or "to" in record:
        return None
    end = {"to": now, "why": why, "unexpected": unexpected, "op": op or record.get("op", "")}
    return codec.encode({**record, **end})
