"""The facts of the registered replicas and of the leader, as all readers show them.

Each replica wrote its own record, and one of another version may have written anything. A field that this
version does not understand is left out.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import msgspec

from controller.core.model.model import Model
from controller.core.model.records import Change, decode_or_empty
from controller.views.freshness import HEARTBEAT_SECONDS

BEYOND = 2**63  # no revision, process id or time is so large

T = TypeVar("T", bound=msgspec.Struct)


class RegisteredAudit(msgspec.Struct, frozen=True):
    """What a replica wrote about its last audit. `age_seconds` was its age at that time."""

    at: float
    age_seconds: float
    revision: int
    wrong: int
    notices: int


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica wrote about itself. None, "" or 0: it did not say."""

    instance: str = ""
    phase: str = ""
    host: str = ""
    pid: int = 0
    status_url: str = ""
    version: str = ""
    engine: dict[str, Any] = {}
    started_at: float | None = None
    applied_revision: int | None = None
    at: float = 0.0  # when it wrote this, by its own clock
    heartbeat_seconds: float = HEARTBEAT_SECONDS
    behind_seconds: float | None = None  # since it heard from the store
    engine_answers: bool | None = None  # None: it does not lead, and so does not ask
    engine_age_seconds: float | None = None  # since the engine answered it
    engine_silence: str = ""  # why the engine does not answer it
    engine_problem: str = ""  # why it does not campaign
    audit: RegisteredAudit | None = None


class ReplicaFacts(NamedTuple):
    """A registered replica."""

    id: str
    leads: bool
    lag_revisions: int  # revisions that it had not applied when it registered, without its own write
    told: Registered
    record: dict[str, Any]  # as stored


class LeaderRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the leader wrote when it was elected."""

    id: str = ""
    instance: str = ""
    status_url: str = ""
    version: str = ""
    epoch: int = 0
    since: float | None = None


class LeaderFacts(NamedTuple):
    """The leader's key. `told` is empty if it cannot be read: then no replica is known to lead."""

    term: int  # the key's create revision: it fences the leader's writes
    told: LeaderRecord
    record: dict[str, Any]  # as stored


def leader_facts(key: Change | None) -> LeaderFacts | None:
    """The facts of the leader's key; None if there is no key, and so no leader."""
    if key is None or key.value is None:
        return None
    record = decode_or_empty(key)
    return LeaderFacts(key.create, lenient(LeaderRecord, record), record)


def leader_of(model: Model) -> LeaderFacts | None:
    """The facts of the leader; None if there is none."""
    return leader_facts(model.leader)


def all_replicas(model: Model) -> list[ReplicaFacts]:
    """The facts of all registered replicas, by id."""
    leader = leader_of(model)
    return [_replica_facts(change, leader) for _, change in sorted(model.replicas.items())]


def _replica_facts(registered: Change, leader: LeaderFacts | None) -> ReplicaFacts:
    record = decode_or_empty(registered)
    told, name = lenient(Registered, record), registered.names[0]
    applied = told.applied_revision
    return ReplicaFacts(
        id=name,
        leads=_leads(name, told, leader),
        lag_revisions=max(0, registered.mod - 1 - applied) if applied is not None else 0,
        told=told,
        record=record,
    )


def _leads(name: str, told: Registered, leader: LeaderFacts | None) -> bool:
    """Whether this is the registration of the process that leads: another process may have the same name."""
    process = (leader.told.instance or leader.told.id) if leader is not None else ""
    return bool(process) and (told.instance or name) == process


def lenient(kind: type[T], record: dict[str, Any]) -> T:
    """The fields of the record that have the types of `kind`."""
    fields = {}
    for info in msgspec.structs.fields(kind):
        if info.encode_name not in record:
            continue
        try:
            value = msgspec.convert(record[info.encode_name], info.type)
        except (msgspec.ValidationError, OverflowError):
            continue
        if not isinstance(value, int | float) or abs(value) < BEYOND:  # excludes infinity and NaN, too
            fields[info.name] = value
    return kind(**fields)
