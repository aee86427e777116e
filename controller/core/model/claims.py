"""Claims: what is being freed for a waiting task by stopping other attempts (invariant I11)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum

import msgspec
from msgspec import Struct

from controller.core.model import codec
from controller.core.model.op import NO_OP, Op
from controller.core.model.resources import ZERO, Vector
from controller.core.model.task import SCHEMA_VERSION
from controller.errors import CorruptValue, InvalidField

KIND = "claims"
MAX_CLAIM_BYTES = 256 * 1024
MAX_VICTIMS = 1000  # so that a claim with the longest names can be read, and others written beside it


class ClaimKind(StrEnum):
    """By which right attempts are stopped for the task."""

    # its owner stays within its guarantee, and those of the attempts are above theirs; those of its own owner
    # have a lower priority
    RECLAIM = "reclaim"
    PRIORITY = "priority"  # the attempts have a lower priority


class Claim(Struct, frozen=True, kw_only=True):
    """What a waiting task asks for, what it was short of, and the attempts that are stopped for it.

    The shortage is set aside for the task as it comes free. `victims` are the newest MAX_VICTIMS, and `at` is
    in ms since the Unix epoch.
    """

    kind: ClaimKind
    asked: Vector
    short: Vector = ZERO
    victims: tuple[str, ...] = ()
    at: int = 0
    version: int = SCHEMA_VERSION
    op: Op = NO_OP


def reclaimed(claims: Mapping[str, Claim], owner_of: Callable[[str], str | None]) -> dict[str, Vector]:
    """What is short of what is being reclaimed: by owner, of all its tasks together.

    `claims` is by task. `owner_of` is the owner of a task that waits; None for one that does not.
    """
    found: dict[str, Vector] = {}
    for task_id, claim in claims.items():
        owner = owner_of(task_id) if claim.kind is ClaimKind.RECLAIM and claim.short else None
        if owner is not None:
            found[owner] = found.get(owner, ZERO) + claim.short
    return found


def _decode_vector(kind: type, value: object) -> object:
    if kind is Vector:
        return Vector.parse(value)
    raise TypeError(f"cannot decode {kind}")


_decoder = msgspec.json.Decoder(Claim, dec_hook=_decode_vector)


def encode_claim(claim: Claim, op: Op) -> bytes:
    """The stored form."""
    return codec.encode(msgspec.structs.replace(claim, op=op))


def decode_claim(data: bytes) -> Claim:
    """A stored claim. Raises CorruptValue if it is not one."""
    if len(data) > MAX_CLAIM_BYTES:
        raise CorruptValue(f"has {len(data):,} bytes, but at most {MAX_CLAIM_BYTES:,} are allowed")
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InvalidField) as error:
        raise CorruptValue(str(error)) from error
