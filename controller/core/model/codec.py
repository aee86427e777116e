"""Converts stored values to and from JSON. Each has its schema version.

A leader decodes a record together with the fields that this version does not know (`Extras`), and writes them
back. So the fields of a newer replica survive an older leader (rolling upgrades, fault 7).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from controller.core.model import known_specs
from controller.core.model.arrays import Ranges
from controller.core.model.lifecycle import FINISHED, Event, State
from controller.core.model.op import Op
from controller.core.model.packed_history import PackedHistory, pack
from controller.core.model.requests import RepairRequest, Request, RequestKind, RequestOutcome
from controller.core.model.resources import MAX_SUMMED_NAMES, Vector
from controller.core.model.scalars import parse_name
from controller.core.model.task import SCHEMA_VERSION, Pool, Spec, Status, Step, StoredSpec
from controller.core.model.validation import MAX_SPEC_BYTES, parse_pool, parse_spec, parse_stored_spec
from controller.errors import CorruptValue, InvalidField

S = TypeVar("S", bound=msgspec.Struct)

Extras = Mapping[str, Any]
"""Fields of a stored value that this version does not know."""

NO_EXTRAS: Extras = MappingProxyType({})


def _encode_custom(value: object) -> object:
    if isinstance(value, Vector):
        return value.format()
    if isinstance(value, PackedHistory):
        return tuple(value)
    raise TypeError(f"cannot encode {type(value)}")


def _decode_custom(kind: type, value: object) -> object:
    if kind is Vector:
        return Vector.parse(value, "") if value else Vector()
    raise TypeError(f"cannot decode {kind}")


_encoder = msgspec.json.Encoder(enc_hook=_encode_custom)
_status_decoder = msgspec.json.Decoder(Status, dec_hook=_decode_custom)
_mapping_decoder = msgspec.json.Decoder(dict[str, Any])
_raw_mapping_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_request_decoder = msgspec.json.Decoder(Request)
_repair_decoder = msgspec.json.Decoder(RepairRequest)
_step_decoder = msgspec.json.Decoder(Step)
_STATUS_FIELDS = frozenset(Status.__struct_encode_fields__)

# RecursionError: JSON that is nested deeper than our stack
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
# twice the size to which Tally's own steps can grow a status; one transaction writes it whole
MAX_STATUS_BYTES = 512 * 1024
MAX_LEDGER_BYTES = 64 * 1024
# the answer names each finding again, with its outcome, in one transaction
_MAX_REPAIR_BYTES = 64 * 1024
_YEAR_10000 = 253_402_300_800.0  # later times cannot be shown, and very large integers are not floats


def encode(value: object) -> bytes:
    """Any value of the core as JSON. Vectors become canonical quantities."""
    return _encoder.encode(value)


def to_builtins(value: object) -> Any:
    """Any value of the core as dicts, lists and strings, for printing."""
    return msgspec.to_builtins(value, enc_hook=_encode_custom)


def spelled_out(value: msgspec.Struct) -> dict[str, Any]:
    """As `to_builtins`, with the defaults written out: a reader need not know those of this version."""
    fields = ((name, getattr(value, name)) for name in value.__struct_fields__)
    return {
        name: spelled_out(one) if isinstance(one, msgspec.Struct) else to_builtins(one)
        for name, one in fields
    }


def decode_mapping(data: bytes) -> dict[str, Any]:
    """A stored JSON object. Raises CorruptValue for anything else."""
    try:
        return _mapping_decoder.decode(data)
    except _UNREADABLE as error:
        raise CorruptValue(f"not a JSON object: {error}") from error


_known = known_specs.KnownSpecs()
_SUBMISSION = ("version", "submitted_at", "op", "filled_in")  # stored beside the fields of a spec


def op_of_spec(data: bytes) -> str:
    """The `op` of a stored spec; "" if it has none. Raises CorruptValue."""
    op = decode_mapping(data).get("op")
    return op if isinstance(op, str) else ""


def encode_spec(spec: Spec, submitted_at: float, op: Op, filled_in: Iterable[str] | None = None) -> bytes:
    """The stored form of a spec: its fields, the schema version, the time of its submission, and `op`.

    `filled_in` are the resources that the user did not name; None if that is not known.
    """
    told = {} if filled_in is None else {"filled_in": sorted(filled_in)}
    return encode(
        {**to_builtins(spec), "version": SCHEMA_VERSION, "submitted_at": submitted_at, "op": op, **told}
    )


def filled_in(data: bytes) -> frozenset[str] | None:
    """The `filled_in` that `encode_spec` was given. Raises CorruptValue."""
    told = decode_mapping(data).get("filled_in")
    return frozenset(map(str, told)) if isinstance(told, list) else None


def decode_spec(task_id: str, data: bytes) -> StoredSpec:
    """A stored spec.

    A spec that is not valid comes back with its `error`, so that the leader can reject it by name. Raises
    CorruptValue if `data` is not a JSON object, or if `task_id` is not a valid id: no engine could name it.
    """
    stored = decode_shared_spec(task_id, data)
    return stored._replace(spec=known_specs.named(stored.spec, task_id))


def decode_shared_spec(task_id: str, data: bytes) -> StoredSpec:
    """As `decode_spec`, but the spec has no name (its `id` is ""): tasks that say the same share one."""
    text = known_specs.split(task_id, data)
    if text is None or not 0 <= text.submitted_at < _YEAR_10000:
        return _without_name(decode_whole_spec(task_id, data))
    spec = _known.get(text.content)
    if spec is not None:
        return StoredSpec(spec, text.submitted_at)
    stored = _without_name(decode_whole_spec(task_id, data))
    if not stored.error:
        _known.note(text.content, stored.spec)
    return stored


def _without_name(stored: StoredSpec) -> StoredSpec:
    return stored._replace(spec=known_specs.named(stored.spec, ""))


def decode_whole_spec(task_id: str, data: bytes) -> StoredSpec:
    """As `decode_spec`, whatever was decoded before."""
    raw = decode_mapping(data)
    try:
        parse_name(task_id, "id")
    except InvalidField as error:
        raise CorruptValue(str(error)) from error
    submitted_at = raw.get("submitted_at", 0.0)
    if (
        isinstance(submitted_at, bool)
        or not isinstance(submitted_at, int | float)
        or not 0 <= submitted_at < _YEAR_10000
    ):
        submitted_at = 0.0
    try:
        if raw.get("id") != task_id:
            raise InvalidField("id", f"is {str(raw.get('id'))[:80]!r}, but the key says {task_id!r}")
        if raw.get("version", 1) == SCHEMA_VERSION:
            # A newer version may add fields, and they are ignored. At our own version, an unknown field is a
            # mistake.
            fields = {name: value for name, value in raw.items() if name not in _SUBMISSION}
        else:
            fields = {name: value for name, value in raw.items() if name in Spec.__struct_fields__}
        fields["id"] = task_id  # one text for the task's name, not two
        spec = parse_spec(fields) if len(data) > MAX_SPEC_BYTES else parse_stored_spec(fields)
        return StoredSpec(spec, float(submitted_at))
    except InvalidField as error:
        return StoredSpec(
            Spec(id=task_id, pool=_name_or_empty(raw.get("pool"))), float(submitted_at), str(error)
        )


# Many records share these names.
_parse_known_name = lru_cache(maxsize=4096)(parse_name)


def _name_or_empty(raw: object) -> str:
    try:
        return parse_name(raw, "", "a name")
    except InvalidField:
        return ""


def encode_pool(pool: Pool, op: Op) -> bytes:
    """The stored form of a pool."""
    return encode({**to_builtins(pool), "version": SCHEMA_VERSION, "op": op})


def decode_pool(name: str, data: bytes) -> Pool:
    """A stored pool. Raises CorruptValue if it is not one, or names another pool."""
    raw = decode_mapping(data)
    known = {key: value for key, value in raw.items() if key in Pool.__struct_fields__}
    try:
        pool = parse_pool(known)
    except InvalidField as error:
        raise CorruptValue(str(error)) from error
    if pool.name != name:
        raise CorruptValue(f"name: is {pool.name!r}, but the key says {name!r}")
    return pool


def decode_request(kind: str, data: bytes) -> Request:
    """A stored request. Raises CorruptValue if it is not one, or its kind is not that of its key."""
    try:
        request = _request_decoder.decode(data)
    except _UNREADABLE as error:
        raise CorruptValue(str(error)) from error
    if request.kind != kind:
        raise CorruptValue(f"kind: is {request.kind.value!r}, but the key says {kind!r}")
    try:
        Ranges.parse(request.members)
    except InvalidField as error:
        raise CorruptValue(str(error)) from error
    return request


def decode_repair(data: bytes) -> RepairRequest:
    """A stored request for repairs.

    Raises CorruptValue if it is not one, or asks for more than one answer can hold.
    """
    if len(data) > _MAX_REPAIR_BYTES:
        raise CorruptValue(
            f"has {len(data)} bytes, but at most {_MAX_REPAIR_BYTES} are allowed: request fewer findings at"
            " once"
        )
    try:
        return _repair_decoder.decode(data)
    except _UNREADABLE as error:
        raise CorruptValue(str(error)) from error


def encode_status(status: Status, extras: Extras) -> bytes:
    """The stored form of a status, with the fields that this version does not know."""
    if not extras:
        return _encoder.encode(status)
    return _encoder.encode(
        {**msgspec.to_builtins(status, enc_hook=_encode_custom, builtin_types=(msgspec.Raw,)), **extras}
    )


def decode_status(data: bytes) -> tuple[Status, Extras]:
    """A stored status and its unknown fields, to be kept.

    Raises CorruptValue if it is not a status, or one that no leader can have written.
    """
    status, extras = read_status(data)
    return msgspec.structs.replace(
        status,
        # A Raw is a view into the whole message. A copy does not keep the message alive.
        history=(
            pack(status.history) if status.is_finished else tuple(step.copy() for step in status.history)
        ),
        # Many statuses share these strings: keep one of each.
        pool=sys.intern(status.pool),
        owner=sys.intern(status.owner),
        reason=sys.intern(status.reason),
        op=sys.intern(status.op),
    ), extras


def read_status(data: bytes) -> tuple[Status, Extras]:
    """As `decode_status`, to be looked at: its history keeps `data`."""
    _check_size(data, MAX_STATUS_BYTES)
    try:
        status, extras = _status_decoder.decode(data), NO_EXTRAS
    except msgspec.ValidationError:
        status, extras = _decode_with_extras(data)
    except (*_UNREADABLE, InvalidField) as error:
        raise CorruptValue(str(error)) from error
    _check_status(status)
    return status, extras


def _check_status(status: Status) -> None:
    """Raises CorruptValue for a status that no transition leads to: none would lead out of it."""
    if status.state is State.CREATED and status.attempt:
        raise CorruptValue(f"attempt: is {status.attempt}, but a Created task has had none")
    if status.state is State.CREATED and not status.steps:
        raise CorruptValue("state: is Created, and no step led there: a task without a status is Created")
    if status.is_holding and status.attempt < 1:
        raise CorruptValue(f"attempt: is {status.attempt}, but a {status.state} task has had at least one")
    if status.state in FINISHED and status.finished_at is None:
        # its retention would have ended long ago
        raise CorruptValue(f"finished_at: is missing, but a {status.state} task has ended")
    if status.state not in FINISHED and status.pool:
        try:  # they become parts of keys
            _parse_known_name(status.pool, "pool", "a pool's name")
            _parse_known_name(status.owner, "owner", "an owner's name")
        except InvalidField as error:
            raise CorruptValue(str(error)) from error


def _check_size(data: bytes, limit: int) -> None:
    if len(data) > limit:
        raise CorruptValue(f"has {len(data):,} bytes, but at most {limit:,} can be written back")


def _decode_with_extras(data: bytes) -> tuple[Status, Extras]:
    """As decode_status, for a value that has fields which this version does not know, or is not a status."""
    try:
        raw = _raw_mapping_decoder.decode(data)
        known = {name: value for name, value in raw.items() if name in _STATUS_FIELDS}
        status = _status_decoder.decode(_encoder.encode(known))
    except (*_UNREADABLE, InvalidField) as error:
        raise CorruptValue(str(error)) from error
    return status, {name: value.copy() for name, value in raw.items() if name not in _STATUS_FIELDS}


def encode_step(step: Step) -> msgspec.Raw:
    """A history entry, encoded once."""
    return msgspec.Raw(_encoder.encode(step))


def decode_history(status: Status) -> list[Step]:
    """The steps of a status, oldest first. Raises CorruptValue if one does not parse."""
    return decode_steps(status.history)


def decode_steps(history: Sequence[msgspec.Raw]) -> list[Step]:
    """The same of some entries of a history."""
    return [_answered(step) for step in decode_new_steps(history)]


def decode_new_steps(history: Sequence[msgspec.Raw]) -> list[Step]:
    """The same of entries that this version has written. Raises CorruptValue."""
    try:
        return [_step_decoder.decode(raw) for raw in history]
    except _UNREADABLE as error:
        raise CorruptValue(f"history: {error}") from error


def _answered(step: Step) -> Step:
    """The step; if an older version wrote it, with the request that its words say it answers."""
    if step.request:
        return step
    kind, outcome = "", RequestOutcome.DONE
    if step.reason == "RequestIgnored":
        kind, outcome = step.message.partition(":")[0], RequestOutcome.IGNORED
    elif step.reason == "ConfirmedStopped":
        kind = RequestKind.CONFIRM_STOPPED
    elif step.event == Event.CANCEL_REQUESTED or (step.event, step.reason) == (
        Event.STOP_REQUESTED,
        "cancel",
    ):
        kind = RequestKind.CANCEL
    elif step.event == Event.RETRY_REQUESTED:
        kind = RequestKind.RETRY
    return msgspec.structs.replace(step, request=kind, outcome=outcome) if kind else step


def encode_ledger(held: Vector, op: Op, extras: Extras) -> bytes:
    """The stored form of a pool's ledger. `extras` include its account (`shares.encode_account`), if any."""
    return _encoder.encode({"version": SCHEMA_VERSION, "held": held, "op": op, **extras})


def parse_balance(raw: object) -> Vector:
    """A vector whose amounts may be below zero: a ledger was lowered by hand, and a hold has ended since.

    Raises InvalidField.
    """
    if not isinstance(raw, Mapping):
        return Vector.parse(raw, "held", MAX_SUMMED_NAMES)
    below = {name: text[1:] for name, text in raw.items() if isinstance(text, str) and text.startswith("-")}
    above = {name: text for name, text in raw.items() if name not in below}
    return Vector.parse(above, "held", MAX_SUMMED_NAMES) - Vector.parse(below, "held", MAX_SUMMED_NAMES)


def decode_ledger(data: bytes) -> tuple[Vector, Extras]:
    """What a pool's ledger says is held, and its unknown fields.

    Raises CorruptValue if it is not a ledger.
    """
    _check_size(data, MAX_LEDGER_BYTES)
    raw = decode_mapping(data)
    try:
        held = parse_balance(raw["held"])
    except KeyError:
        raise CorruptValue("held: is missing") from None
    except InvalidField as error:
        raise CorruptValue(str(error)) from error
    return held, {name: value for name, value in raw.items() if name not in ("version", "held", "op")}
