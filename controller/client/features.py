"""Turns features of an installation on and off (see `controller.core.model.features`).

A feature is turned on in one transaction. Its guards show that no replica is registered, and none leads,
whose release does not know the feature. It ends the current term: the record of the next one repeats the
features, so that they survive the loss of the engine's record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from controller.client.calls import Calls
from controller.client.reading import Reading
from controller.core.model import codec, features
from controller.core.model.op import Op
from controller.errors import UserError
from controller.store.base import Committed, Delete, Guard, KeyValue, Put, Transaction, Write
from controller.views.features import FeatureState, Fence, check_on, fence, uses

TRIES = 20  # a registration is renewed every few seconds, and a refusal takes milliseconds
SHOWN = 5


class FeatureView(msgspec.Struct, frozen=True, kw_only=True):
    """A feature.

    `unknown_to` are the registered replicas, of `replicas`, whose release does not know it.
    """

    name: str
    state: FeatureState
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
        now = self._look()
        return [
            FeatureView(
                name=name,
                state=now.state(name),
                replicas=len(now.replicas),
                unknown_to=tuple(each.name for each in now.replicas if name not in each.features),
            )
            for name in sorted({*now.recorded, *features.KNOWN})
        ]

    def check(self, needed: Mapping[str, str]) -> int:
        """The mod of the record that has all of these features on. Raises InvalidField for one that is off.

        `needed` maps each feature to the field that needs it. A transaction that uses the fields guards the
        engine's key at this mod.
        """
        now = self._look("engine")
        check_on(now.state, needed)
        return now.engine_mod

    def ensure(self, needed: Mapping[str, str]) -> tuple[int, list[str]]:
        """As `check`, but turns on what is off. Returns also the features that it turned on."""
        now = self._look("engine")
        off = [name for name in needed if now.state(name) == "off"]
        if off:
            self._turn_on(off)
        return self.check(needed), off

    def enable(self, *names: str) -> tuple[str, ...]:
        """Turn these features on, and what they require, in one new term: all or none.

        Returns those that were not on, a required one before what requires it. Raises UserError if a
        registered replica or the leader does not know one of them, or no replica has led yet.
        """
        for name in names:
            _check_known(name)
        required = ((features.REQUIRES.get(name), name) for name in names)
        wanted = list(dict.fromkeys(each for pair in required for each in pair if each))
        return self._turned_on(wanted) or self._turn_on(wanted)

    def drop(self, name: str) -> bool:
        """Turn the feature off, once no stored data uses it. False if it was off.

        New uses are refused meanwhile. Raises UserError that names what uses it, or the feature that requires
        it; the feature is then on, as before.
        """
        _check_known(name)
        earlier = self._earlier()
        for _ in range(TRIES):
            now = self._look("engine")
            if now.state(name) == "off":
                return earlier is not None
            _check_not_required(now, name)
            if self._write(now, {name: features.DROPPING}):
                break
        else:
            raise UserError(_BUSY)
        # From here on, no new use is stored: a client guards the record. What is loaded now is all there is.
        for _ in range(TRIES):
            model = self._reading.model("")
            now = fence(model)
            if (state := now.state(name)) != "dropping":
                raise UserError(f"the feature {name} is {state}: somebody else changed it meanwhile")
            used = uses(model, name)
            if self._write(now, {name: "" if used else None}):
                if used:
                    raise UserError(_in_use(name, used))
                return True
        raise UserError(f"{_BUSY}. The feature {name} is still being dropped")

    def _look(self, *parts: str) -> Fence:
        """The fence, of these parts of the store. Raises UserError if its record cannot be read."""
        now = fence(self._reading.model(*(parts or ("engine", "leader", "replicas/"))))
        if now.problem:
            raise UserError(
                f"the record of the engine cannot be read ({now.problem}), so the features are not known: a"
                " leader writes it back (`tally get replicas`)"
            )
        return now

    def _earlier(self) -> KeyValue | None:
        """The engine's record, if a copy of this call that was sent before wrote it."""
        item = self._calls.stored(self._keys.engine)
        return item if item is not None and self._calls.has_written(item) else None

    def _turned_on(self, names: Sequence[str]) -> tuple[str, ...]:
        """Those of these that a copy of this call has turned on that was sent before."""
        item = self._earlier()
        before = self._calls.before(item) if item is not None else None
        if item is None or before is None:
            return ()
        now, then = _recorded(item), _recorded(before)
        return tuple(name for name in names if now.get(name) == "" and then.get(name) != "")

    def _turn_on(self, names: Sequence[str]) -> tuple[str, ...]:
        """Turn on those that are not on, and return them."""
        for _ in range(TRIES):
            now = self._look()
            off = tuple(name for name in names if now.state(name) != "on")
            if not off:
                return ()
            _check_all_know(now, off)
            guards = [Guard(self._keys.replica(each.name), each.mod) for each in now.replicas]
            guards.append(Guard(self._keys.leader, now.leader.mod if now.leader is not None else 0))
            ends = [Delete(self._keys.leader)] if now.leader is not None else []
            if self._write(now, dict.fromkeys(off, ""), guards, ends):
                return off
        raise UserError(_BUSY)

    def _write(
        self,
        now: Fence,
        values: Mapping[str, str | None],
        guards: Iterable[Guard] = (),
        writes: Iterable[Write] = (),
    ) -> bool:
        """Set these features in the engine's record (None: off), if it has not changed since."""
        item = self._calls.stored(self._keys.engine)
        if item is None or item.mod != now.engine_mod:
            return False
        op = self._calls.new_op()
        transaction = Transaction(
            (Guard(self._keys.engine, item.mod), *guards),
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


def _recorded(item: KeyValue) -> dict[str, str]:
    """The features of the engine's record, as they are stored."""
    parts: dict[str, str] = codec.decode_mapping(item.value)["engine"].get("parts", {})
    return {name.removeprefix(features.PREFIX): value for name, value in parts.items()}


def _check_known(name: str) -> None:
    if name not in features.KNOWN:
        raise UserError(f"this release knows no feature {name!r}; it knows {', '.join(features.KNOWN)}")


def _check_not_required(now: Fence, name: str) -> None:
    for other, required in features.REQUIRES.items():
        if required == name and now.state(other) != "off":
            raise UserError(
                f"the feature {name} stays on, since the feature {other} requires it, which is"
                f" {now.state(other)}: run `tally features drop {other}` first"
            )


def _check_all_know(now: Fence, names: Iterable[str]) -> None:
    if not now.engine_mod:
        raise UserError(
            "features are recorded with the engine, and no replica has led yet: start a replica first"
        )
    for name in names:
        if lacking := now.unknown_to(name):
            raise UserError(
                f"the feature {name} cannot be turned on: it is not known to the release of replica"
                f" {_some(lacking)}. Upgrade it first, or stop it and wait until its registration expires"
            )


def _in_use(name: str, used: Sequence[str]) -> str:
    of_tasks = (features.DEPENDENCIES, features.ARRAYS, features.GANGS)
    remedies = {
        **dict.fromkeys(of_tasks, "Wait until these tasks are removed, when their retention has ended"),
        features.NOTIFY: "Change these pools, and wait until a notifier has told these notices, or drop them"
        " (`tally notifier drop --waiting`)",
        features.SCHEDULES: "Delete these schedules (`tally delete schedule NAME`)",
    }
    remedy = remedies.get(
        name,
        "Change these pools, release or cancel what was changed, and wait until these tasks have ended or are"
        " removed",
    )
    return f"the feature {name} stays on, since data uses it: {_some(used)}. {remedy}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
