"""The foundation of an election: the installation's id and the record of its engine.

The first election makes the id. Both are compared and written in the election's own transaction: no replica
is elected on a record that was replaced meanwhile. Each term's record repeats them. So a key that was deleted
or damaged by hand is restored as it was, and neither the installation nor its engine becomes another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec
import structlog

from controller.core.model import codec, features
from controller.core.model.installation import (
    EngineIdentity,
    EngineRecord,
    Installation,
    decode_engine,
    decode_installation,
    difference,
    merged,
)
from controller.core.model.op import Op
from controller.election.term_records import fields_of
from controller.errors import CorruptValue, TallyError
from controller.store.base import Guard, KeyValue, Put, Write

ID_DIGITS = 16

T = TypeVar("T")
log = structlog.get_logger(__name__)


class OtherEngine(TallyError):
    """The replica must not lead: its engine is not the recorded one, or its release lacks a feature."""


class Foundation(NamedTuple):
    """What the winner will rely on: the records, the compares that protect them, and the writes."""

    installation: Installation
    engine: EngineRecord
    guards: tuple[Guard, ...]
    writes: tuple[Write, ...]

    def of_term(self) -> dict[str, Any]:
        """The copy in the term's record."""
        return {"installation": self.installation.id, "engine": msgspec.to_builtins(self.engine.engine)}


class Records(NamedTuple):
    """The present keys (None: absent), and the record of the term before.

    The record is {} if there is none, or it does not parse.
    """

    installation: KeyValue | None
    engine: KeyValue | None
    previous: Mapping[str, Any]


class Candidate(NamedTuple):
    """A replica that wants to be elected, and its engine.

    `op` is unique to the election. `now` is in seconds since the epoch.
    """

    replica: str
    version: str
    engine: EngineIdentity
    now: float
    op: Op


def lay(keys: tuple[str, str], records: Records, candidate: Candidate, *, is_first: bool) -> Foundation:
    """The foundation of the next term.

    `keys` are those of the installation and of the engine. `is_first`: no replica has led yet. Raises
    OtherEngine if the candidate's engine is not the recorded one, or its release lacks a feature that is on;
    and CorruptValue if a record cannot be read and the term before has no copy.
    """
    installation = _installation(records, candidate, is_first=is_first)
    engine = _engine(records, candidate, installation)
    guards: list[Guard] = []
    writes: list[Write] = []
    for key, item, record in zip(keys, records[:2], (installation, engine), strict=True):
        guards.append(Guard(key, item.mod if item is not None else 0))
        stored = fields_of(item)
        value = {**stored, **msgspec.to_builtins(record)}  # additions of a newer version are kept
        if value != stored:
            writes.append(Put(key, codec.encode({**value, "op": candidate.op})))
    return Foundation(installation, engine, tuple(guards), tuple(writes))


def _installation(records: Records, candidate: Candidate, *, is_first: bool) -> Installation:
    """The recorded one, or else that of the term before, or else a new one."""
    told = records.previous.get("installation")
    # A version that gave no ids has led: what it left without an id is ours.
    unmarked = not is_first and not told
    found = _read(records.installation, decode_installation, may_fail=bool(told))
    if found is None:
        identifier = (
            told
            if isinstance(told, str) and told
            else hashlib.sha256(candidate.op.encode()).hexdigest()[:ID_DIGITS]
        )
        found = Installation(id=identifier, created_at=candidate.now, version=candidate.version)
    return (
        found
        if found.adopts_unmarked or not unmarked
        else msgspec.structs.replace(found, adopts_unmarked=True)
    )


def _engine(records: Records, candidate: Candidate, installation: Installation) -> EngineRecord:
    """The recorded one, or else that of the term before, or else the candidate's own.

    It is merged with what the candidate's engine knows in addition.
    """
    known = records.previous.get("engine")
    record = _read(records.engine, decode_engine, may_fail=bool(known))
    own = candidate.engine
    if record is None:
        try:
            engine = msgspec.convert(known, EngineIdentity) if known else own
        except msgspec.ValidationError as error:
            raise CorruptValue(
                f"the engine's record is gone, and the previous term does not name the engine: {error}"
            ) from error
        record = EngineRecord(
            engine=engine,
            installation=installation.id,
            recorded_at=candidate.now,
            recorded_by=candidate.replica,
        )
    if why := features.lacking(record.engine.parts):
        raise OtherEngine(why)
    if why := difference(record.engine, own):
        raise OtherEngine(f"{why}; see `tally engine show`, or change the record with `tally engine adopt`")
    if record.installation != installation.id:
        raise OtherEngine(
            f"the engine is recorded for installation {record.installation}, and this one is"
            f" {installation.id}: one of the two keys was changed by hand. Restore it, or give up the running"
            " attempts with `tally engine adopt`"
        )
    return msgspec.structs.replace(record, engine=merged(record.engine, own))


def _read(item: KeyValue | None, decode: Callable[[bytes], T], *, may_fail: bool) -> T | None:
    """The record; None if it is absent, or cannot be read and `may_fail`. Raises CorruptValue."""
    if item is None:
        return None
    try:
        return decode(item.value)
    except CorruptValue as error:
        if not may_fail:
            raise CorruptValue(
                f"{item.key}: {error}; no replica can be elected until it is restored"
            ) from error
        log.warning(
            "a record was damaged by hand: restoring it from the last term",
            key=item.key,
            error=str(error),
        )
        return None
