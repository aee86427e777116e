"""The end of the output of a task's last ended attempt, kept as `logs/<task-id>` (`keep_logs`).

It outlives the attempt, and is removed with the task's records. No decision depends on it: a model has
only its mod, not its bytes.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from controller.core.model import codec
from controller.core.model.op import Op
from controller.core.model.task import SCHEMA_VERSION, Count, Pool, Spec, Time
from controller.errors import CorruptValue

KIND = "logs"
LIMIT_BYTES = 64 * 1024
"""Of output, as it was printed.

The stored value is up to six times as long where the output is not UTF-8, or has control characters.
"""


class KeptLog(Struct, frozen=True, kw_only=True):
    """The last LIMIT_BYTES that attempt number `attempt` printed; `truncated` if it had printed more.

    `at`: when it was kept.
    """

    attempt: Count
    text: str
    truncated: bool = False
    at: Time = 0.0


def is_wanted(spec: Spec, pool: Pool | None) -> bool:
    """Whether the output of the task's attempts is kept: as its spec says, or else its pool."""
    return spec.keep_logs if spec.keep_logs is not None else pool is not None and pool.keep_logs


def encode(kept: KeptLog, op: Op) -> bytes:
    """The stored form."""
    return codec.encode({**msgspec.to_builtins(kept), "version": SCHEMA_VERSION, "op": op})


def decode(data: bytes) -> KeptLog:
    """The inverse of `encode`. Raises CorruptValue."""
    try:
        return msgspec.convert(codec.decode_mapping(data), KeptLog)
    except msgspec.ValidationError as error:
        raise CorruptValue(str(error)) from error
