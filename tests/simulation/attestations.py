"""The judge of attestations: what a pool with `require_attested` admits and refuses (I12)."""

from __future__ import annotations

from controller.core.model import attested, codec
from controller.core.model.task import Status
from controller.errors import CorruptValue
from controller.store.base import KeyValue

WAITING = ("Created", "WaitingRetry")


def is_attested(spec: KeyValue, attestation: KeyValue | None) -> bool:
    """Whether the two were written in one revision, and name one owner."""
    if attestation is None or attestation.mod != spec.mod:
        return False
    try:
        owner = attested.decode(attestation.value).owner
        return owner == codec.decode_spec(spec.key.rpartition("/")[2], spec.value).spec.owner
    except CorruptValue:
        return False


def _is_readable(attestation: KeyValue) -> bool:
    try:
        attested.decode(attestation.value)
    except CorruptValue:
        return False
    return True


def wrong_step(
    old: Status | None,
    new: Status,
    pool: str,
    definition: bytes | None,
    spec: KeyValue | None,
    attestation: KeyValue | None,
) -> str:
    """What is wrong with an admission or a refusal that a leader wrote; "" if nothing is.

    `pool` is the task's pool, and `definition` its value; None if there is none.
    """
    # a member of a gang is admitted with that, and takes over its part later
    admits = new.state == "Pending" and (old is None or old.state in WAITING) and not new.of_gang
    refuses = new.reason == "Unattested" and new.state == "Failed" and (old is None or old.state in WAITING)
    if not admits and not refuses:
        return ""
    if refuses and attestation is not None and not _is_readable(attestation):
        return "was refused as unattested, and its attestation cannot be read"
    requires = definition is not None and codec.decode_pool(pool, definition).require_attested
    proven = spec is not None and is_attested(spec, attestation)
    if admits and requires and not proven:
        return "was admitted, and nobody has attested it"
    if refuses and (not requires or proven):
        return f"was refused as unattested: the pool asks for it: {requires}, it is attested: {proven}"
    return ""
