"""The identity of an installation and of its engine: two records of the store, and how they are compared.

`installation` holds an id, which the first election in an etcd prefix creates. All that the engine creates
carries it. So two installations of the same cluster name, in one namespace, on one daemon or in one state
folder, leave each other alone.

`engine` holds what the engine says of itself. Only a replica with this engine may lead: the list of another
engine lacks all that runs, and what a list lacks counts as gone. The rule (`difference`):

- the names are equal (process, kubernetes, …);
- if both know the engine's `id`, the ids are equal, and that decides;
- if one of them does not know it, the uids of `parts` decide: none may differ, and one must be equal, unless
  the record knows none either;
- each recorded part (a namespace) is among the replica's own. A replica with more parts has the same engine:
  its election adds them to the record. A replica with fewer would miss what runs in the others;
- parts that are features (see `features`) belong to no engine. They are compared with those that this release
  knows.

Pure.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from controller.core.model import codec, features
from controller.core.model.op import Op
from controller.errors import CorruptValue

R = TypeVar("R", bound=Struct)


class Installation(Struct, frozen=True, kw_only=True):
    """The identity of an installation.

    `id` is hexadecimal, and valid as the value of a label. `created_at` is in seconds since the epoch.
    `adopts_unmarked`: attempts under the cluster's name that carry no installation's id are ours. It is true
    if a version of Tally without ids has led here, and never in an installation that began with ids.
    """

    id: str
    created_at: float = 0.0
    version: str = ""
    adopts_unmarked: bool = False

    def owns(self, mark: str) -> bool:
        """Whether an attempt under the cluster's name with this id ("" for none) is this installation's."""
        return mark == self.id if mark else self.adopts_unmarked


class EngineIdentity(Struct, frozen=True, kw_only=True):
    """The identity of an engine, as it states it itself.

    `id` "" is not known. `parts` maps each part that it covers to its uid ("" if not known). `details` say
    where it is, for humans.
    """

    name: str
    id: str = ""
    parts: dict[str, str] = {}
    details: dict[str, Any] = {}

    def __str__(self) -> str:
        parts = ", ".join(self.parts)
        where = ", ".join(f"{name} {value}" for name, value in self.details.items())
        return " ".join(
            filter(None, [self.name, self.id, f"[{parts}]" if parts else "", f"({where})" if where else ""])
        )


class EngineRecord(Struct, frozen=True, kw_only=True):
    """The engine of an installation, as an election or `tally engine adopt` recorded it."""

    engine: EngineIdentity
    installation: str
    recorded_at: float = 0.0
    recorded_by: str = ""


def decode_installation(value: bytes) -> Installation:
    """The stored installation. Raises CorruptValue."""
    installation = _decode(value, Installation)
    if not (installation.id.isalnum() and installation.id.isascii() and len(installation.id) <= 63):
        raise CorruptValue("id: must be 1 to 63 letters and digits")
    return installation


def decode_engine(value: bytes) -> EngineRecord:
    """The stored engine. Raises CorruptValue."""
    return _decode(value, EngineRecord)


def encode(record: Installation | EngineRecord, op: Op) -> bytes:
    """The stored value."""
    return codec.encode({**msgspec.to_builtins(record), "op": op})


def difference(recorded: EngineIdentity, own: EngineIdentity) -> str:
    """Why `own` must not lead: it is not the recorded engine, or this release lacks a recorded feature.

    "" if it may. See the module's docstring.
    """
    known = msgspec.structs.replace(recorded, parts=features.without(recorded.parts))
    return _other_engine(known, own) or features.lacking(recorded.parts)


def _other_engine(recorded: EngineIdentity, own: EngineIdentity) -> str:
    if own.name != recorded.name:
        return f"the engine is {own}, but the recorded engine is {recorded}"
    shared = [part for part, uid in recorded.parts.items() if uid and own.parts.get(part)]
    if own.id and recorded.id:
        if own.id != recorded.id:
            return f"the engine is {own}, but the recorded engine is {recorded}"
    elif other := [part for part in shared if own.parts[part] != recorded.parts[part]]:
        return (
            f"the engine is {own}, but in the recorded engine, {recorded}, {', '.join(other)} had another"
            " uid: it was created anew since, or is another engine's"
        )
    elif not shared and (recorded.id or any(recorded.parts.values())):
        return (
            f"the engine cannot tell whether it is the recorded engine, {recorded}: it may read nothing that"
            " names it. `tally check` names the rule that it needs"
        )
    missing = [part for part in recorded.parts if part not in own.parts]
    return f"the engine lacks {', '.join(missing)}, which the recorded engine covers" if missing else ""


def with_features_of(engine: EngineIdentity, recorded: EngineIdentity | None) -> EngineIdentity:
    """Another engine to record, with the features of the recorded one: data needs them as before."""
    kept = features.only(recorded.parts) if recorded is not None else {}
    return msgspec.structs.replace(engine, parts={**engine.parts, **kept}) if kept else engine


def merged(recorded: EngineIdentity, own: EngineIdentity) -> EngineIdentity:
    """The record, with what the replica's own engine, which is the same, knows in addition.

    Features stay as they are recorded.
    """
    parts = {
        **recorded.parts,
        **{part: uid or recorded.parts.get(part, "") for part, uid in own.parts.items()},
    }
    if (own.id or recorded.id, parts) == (recorded.id, recorded.parts):
        return recorded
    return EngineIdentity(name=own.name, id=own.id or recorded.id, parts=parts, details=own.details)


def _decode(value: bytes, kind: type[R]) -> R:
    mapping = codec.decode_mapping(value)
    try:
        return msgspec.convert(mapping, kind)
    except msgspec.ValidationError as error:
        raise CorruptValue(str(error)) from error


# At import: msgspec prepares a type at its first use, and crashes if two threads do that at once.
msgspec.json.Decoder(Installation)
msgspec.json.Decoder(EngineRecord)
