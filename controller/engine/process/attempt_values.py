"""Validates an attempt's record and result: any process of the same user may have written these files."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from controller.core.model.task import AttemptId, Observation, Phase
from controller.engine.process.attempt_origin import BOOT_LETTERS, Origin

_Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Seconds = Annotated[float, Meta(ge=0, lt=1e11)]
_Uid = Annotated[str, Meta(max_length=200)]


class Record(Struct, frozen=True, kw_only=True):
    """The claim: what runs as this attempt."""

    uid: _Uid = ""
    supervisor: _Count = 0
    memory_bytes: _Count | None = None
    started_at: _Seconds | None = None
    boot_id: Annotated[str, Meta(max_length=100)] = ""
    session: _Count = 0  # for records of versions whose uid had no origin
    session_started: _Count = 0

    @property
    def origin(self) -> Origin | None:
        """The origin of its processes; None if the record has none."""
        boot = self.boot_id[:BOOT_LETTERS]
        found = Origin.of_uid(self.uid)
        if found is None and self.session and self.session_started:
            found = Origin(self.session, self.session_started, 0, 0, boot)
        return found._replace(boot=boot) if found is not None and boot else None


class Result(Struct, frozen=True, kw_only=True):
    """How an attempt ended."""

    phase: Literal["Succeeded", "Failed"]
    uid: _Uid = ""
    ran: bool = True
    exit_code: Annotated[int, Meta(ge=0, le=255)] | None = None
    signal: Annotated[int, Meta(ge=1, le=64)] | None = None
    reason: str = ""
    message: str = ""
    started_at: _Seconds | None = None
    finished_at: _Seconds | None = None
    disrupted: bool = False
    lock_inode: _Count = 0  # the inode of the lock under which this was written

    def observation(self, attempt: AttemptId, node: str) -> Observation:
        """The observation that the engine reports."""
        fields: dict[str, Any] = {
            name: getattr(self, name) for name in self.__struct_fields__ if name != "lock_inode"
        }
        return Observation(**{**fields, "phase": Phase(self.phase)}, attempt=attempt, stopped=True, node=node)


# Made at import: msgspec prepares a type on first use, and crashes if two threads do that at once.
_RECORDS = msgspec.json.Decoder(Record)
_RESULTS = msgspec.json.Decoder(Result)


def parse_record(data: bytes) -> Record:
    """The record; an empty one if it is invalid, since the claim stands all the same."""
    try:
        return _RECORDS.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return Record()


def parse_result(data: bytes) -> Result | None:
    """The result; None if it is invalid."""
    try:
        return _RESULTS.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return None
