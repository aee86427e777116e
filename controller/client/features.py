"""Turns features of an installation on and off (see `controller.core.model.features`).

A feature is turned on in one transaction. Its guards show that no replica is registered, and none leads,
whose release does not know the feature. It ends the current term: the record of the next one repeats the
features, so that they survive the loss of the engine's record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from controller.client.calls import Calls
from controller.client.reading import Reading
from controller.core.model import codec, features
from controller.core.model.feature_uses import uses
from controller.core.model.model import Model
from controller.core.model.op import Op
from controller.core.model.records import Change, decode_or_empty
from controller.errors import InvalidField, UserError
from controller.store.base import Committed, Delete, Guard, KeyValue, Put, Transaction, Write, new_op

TRIES = 20  # a registration is renewed every few seconds, and a refusal takes milliseconds
SHOWN = 5


class FeatureView(msgspec.Struct, frozen=True, kw_only=True):
    """A feature. `unknown_to` are the registered replicas, of `replicas`, whose release does not know it."""

    name: str
    state: Literal["on", "off", "dropping"]
    replicas: int = 0
    unknown_to: tuple[str, ...] = ()


class Features:
    """The features of one installation."""

    def __init__(self, calls: Calls, reading: Reading) -> None:
        self._calls = calls
        self._reading = reading
        self._keys = calls.keys

    def all(self) -> list[FeatureView]:
        """The features that are on, or that this release knows, sorted by name."""
        model = self._fence()
        recorded = _recorded(model)
        return [
            FeatureView(
                name=name,
                state=_state(recorded, name),
                replicas=len(model.replicas),
                unknown_to=tuple(_unknown_to(model, name)),
            )
            for name in sorted({*recorded, *features.KNOWN})
        ]

    def check(self, needed: Mapping[str, str]) -> int:
        """The mod of the record that has all of these features on. Raises InvalidField for one that is off.

        `needed` maps each feature to the field that needs it. A transaction that uses the fields guards the
        engine's key at this mod.
        """
        model = self._reading.model("engine")
        recorded = _recorded(model)
        for name, field in needed.items():
            if (state := _state(recorded, name)) != "on":
                raise InvalidField(
                    field,
                    f"needs the feature {name}, which is {state}: an admin turns it on with"
                    f" `tally features enable {name}`",
                )
        return model.mod_of("engine", ())

    def ensure(self, needed: Mapping[str, str]) -> tuple[int, list[str]]:
        """As `check`, but turns on what is off. Returns also the features that it turned on."""
        recorded = _recorded(self._reading.model("engine"))
        off = [name for name in needed if _state(recorded, name) == "off"]
        if off:
            self._turn_on(off)
        return self.check(needed), off

    def enable(self, name: str) -> bool:
        """Turn the feature on. False if it was on.

        Raises UserError if a registered replica or the leader does not know it, or no replica has led yet.
        """
        _check_known(name)
        return self._turn_on([name])

    def drop(self, name: str) -> bool:
        """Turn the feature off, once no stored data uses it. False if it was off.

        Raises UserError that names what uses it; the feature is then on, as before.
        """
        _check_known(name)
        model = self._fence()
        if _state(_recorded(model), name) == "off":
            return False
        for _ in range(TRIES):
            if self._write(model, {name: features.DROPPING}):
                break
            model = self._fence()
        else:
            raise UserError(_BUSY)
        # From here on, no new use is stored: a client guards the record. What is loaded now is all there is.
        for _ in range(TRIES):
            model = self._reading.model("")
            if (state := _state(_recorded(model), name)) != "dropping":
                raise UserError(f"the feature {name} is {state}: somebody else changed it meanwhile")
            used = uses(model, name)
            if self._write(model, {name: "" if used else None}):
                if used:
                    raise UserError(_in_use(name, used))
                return True
        raise UserError(f"{_BUSY}. The feature {name} is still being dropped")

    def _fence(self) -> Model:
        return self._reading.model("engine", "leader", "replicas/")

    def _turn_on(self, names: Sequence[str]) -> bool:
        for _ in range(TRIES):
            model = self._fence()
            recorded = _recorded(model)
            off = [name for name in names if _state(recorded, name) != "on"]
            if not off:
                return False
            _check_all_know(model, off)
            guards: list[Guard] = [
                Guard(self._keys.replica(name), change.mod) for name, change in sorted(model.replicas.items())
            ]
            leader = model.leader
            guards.append(Guard(self._keys.leader, leader.mod if leader is not None else 0))
            ends = [Delete(self._keys.leader)] if leader is not None else []
            if self._write(model, dict.fromkeys(off, ""), guards, ends):
                return True
        raise UserError(_BUSY)

    def _write(
        self,
        model: Model,
        values: Mapping[str, str | None],
        guards: Iterable[Guard] = (),
        writes: Iterable[Write] = (),
    ) -> bool:
        """Set these features in the engine's record (None: off), if it is as in the model."""
        item, mod = self._calls.stored(self._keys.engine), model.mod_of("engine", ())
        if item is None or item.mod != mod:
            return False
        op = new_op()
        transaction = Transaction(
            (Guard(self._keys.engine, mod), *guards),
            (Put(self._keys.engine, _with(item, values, op)), *writes),
            op,
        )
        return isinstance(self._calls.commit(transaction), Committed)


_BUSY = "the replicas kept changing their registrations or the engine's record: try again"


def _with(item: KeyValue, values: Mapping[str, str | None], op: Op) -> bytes:
    """The stored record with these features; what other versions have added is kept."""
    record = codec.decode_mapping(item.value)
    engine: dict[str, Any] = record["engine"]
    parts = {**engine.get("parts", {})}
    for name, value in values.items():
        parts.pop(features.PREFIX + name, None)
        if value is not None:
            parts[features.PREFIX + name] = value
    return codec.encode({**record, "engine": {**engine, "parts": parts}, "op": op})


def _recorded(model: Model) -> dict[str, str]:
    """The recorded features; {} before the first election. Raises UserError for a damaged record."""
    if ("engine", ()) in model.quarantine:
        raise UserError(
            "the record of the engine cannot be read, so the features are not known: a leader writes it back"
            " (`tally get replicas`)"
        )
    return features.recorded(model.engine.engine.parts) if model.engine is not None else {}


def _state(recorded: Mapping[str, str], name: str) -> Literal["on", "off", "dropping"]:
    if name not in recorded:
        return "off"
    return "dropping" if recorded[name] == features.DROPPING else "on"


def _unknown_to(model: Model, name: str) -> list[str]:
    return [replica for replica, change in sorted(model.replicas.items()) if not _knows(change, name)]


def _knows(change: Change, name: str) -> bool:
    known = decode_or_empty(change).get("features")
    return isinstance(known, list) and name in known


def _check_known(name: str) -> None:
    if name not in features.KNOWN:
        raise UserError(f"this release knows no feature {name!r}; it knows {', '.join(features.KNOWN)}")


def _check_all_know(model: Model, names: Iterable[str]) -> None:
    if model.engine is None:
        raise UserError(
            "features are recorded with the engine, and no replica has led yet: start a replica first"
        )
    for name in names:
        lacking = [f"replica {replica}" for replica in _unknown_to(model, name)]
        if not lacking and model.leader is not None and not _knows(model.leader, name):
            lacking = [f"the leader, {decode_or_empty(model.leader).get('id', 'unnamed')}"]
        if lacking:
            raise UserError(
                f"the feature {name} cannot be turned on, since it is not known to the release of"
                f" {_some(lacking)}: upgrade it first, or stop it and wait until its registration expires"
            )


def _in_use(name: str, used: Sequence[str]) -> str:
    return (
        f"the feature {name} stays on, since data uses it: {_some(used)}. Change these pools, and wait until"
        " these tasks are removed"
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
