"""Attestations: a gateway's word for who submitted a task, kept as `attested/<task-id>`.

The gateway creates it in the transaction that creates the task, below a prefix that no user of etcd may
write. It holds for the spec that the same transaction wrote: the two have one mod revision. etcd gives no two
transactions the same revision, so nobody else can attest a spec, or put another one in the place of an
attested one. It is removed with the task.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from controller.core.model import codec
from controller.core.model.op import NO_OP, Op
from controller.core.model.scalars import parse_name
from controller.core.model.task import SCHEMA_VERSION, Spec, Word
from controller.errors import CorruptValue, InvalidField

KIND = "attested"


class Attestation(Struct, frozen=True, kw_only=True):
    """Who has submitted a task, and may have it charged to `owner`: `by`, as it signed in at the gateway."""

    owner: str
    by: Word
    version: int = SCHEMA_VERSION
    op: Op = NO_OP

    def holds_for(self, mod: int, spec: Spec, spec_mod: int) -> bool:
        """Whether this attestation, of revision `mod`, is of the spec of revision `spec_mod`."""
        return mod == spec_mod and self.owner == spec.owner


_decoder = msgspec.json.Decoder(Attestation)


def encode(attestation: Attestation, op: Op) -> bytes:
    """The stored form."""
    return codec.encode(msgspec.structs.replace(attestation, op=op))


def decode(data: bytes) -> Attestation:
    """A stored attestation. Raises CorruptValue if it is not one."""
    try:
        found = _decoder.decode(data)
        parse_name(found.owner, "owner", "an owner's name")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InvalidField) as error:
        raise CorruptValue(str(error)) from error
    return found
