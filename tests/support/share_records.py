"""The stored form of shared pools, read without any code of Tally: what `share_auditor` works on."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

import httpx

HOLDING = ("Pending", "Running")
PER_MINUTE = 60  # the default of a pool's preemption.per_minute
Amounts = Counter[str]
Owner = tuple[str, str]  # pool, owner


class Event(NamedTuple):
    """One key as a revision left it. `value` None: the key was deleted."""

    key: str
    value: bytes | None
    mod: int


class Unreadable(ValueError):
    """A value that is not of its kind's form."""


@dataclass
class Status:
    """What the auditor keeps of a status."""

    state: str = "Created"
    pool: str = ""
    owner: str = "default"
    hold: Amounts = field(default_factory=Counter)
    attempt: int = 0
    stopping: str = ""
    counts: tuple[int, int, int] = (0, 0, 0)
    steps: int = 0
    is_lost: bool = False

    @property
    def holds(self) -> bool:
        return self.state in HOLDING

    @property
    def place(self) -> Owner:
        return self.pool, self.owner


@dataclass
class Account:
    """A share, or a ledger's part of the kind. `running` is None for a ledger."""

    held: Amounts = field(default_factory=Counter)
    used: Amounts = field(default_factory=Counter)
    at: int = 0
    running: int = 0
    is_whole: bool = True  # of a ledger: its shares were written with it
    # of `used`, by holds that have ended
    lost: Amounts = field(default_factory=Counter)
    stopping: Amounts = field(default_factory=Counter)

    @property
    def base(self) -> Amounts:
        """`used` as it would have been at time 0, with what is held."""
        return added(self.used, self.held, -self.at)


@dataclass
class Spent:
    """For how long an attempt was lost, and was being stopped, in ms up to `at`. What is both is lost."""

    lost: int = 0
    stopping: int = 0
    at: int = 0
    is_lost: bool = False
    is_stopping: bool = False

    def take(self, at: int, is_lost: bool, is_stopping: bool) -> None:
        """From `at` on, the attempt is lost or not; and it is being stopped, once it was."""
        elapsed = max(0, at - self.at)
        if self.is_lost:
            self.lost += elapsed
        elif self.is_stopping:
            self.stopping += elapsed
        if self.is_lost or self.is_stopping or is_lost or is_stopping:
            self.at = max(self.at, at)
        self.is_lost, self.is_stopping = is_lost, is_stopping or self.is_stopping


@dataclass
class Pool:
    capacity: Amounts
    is_shared: bool
    per_minute: int


# -- the stored form


def mapping(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise Unreadable(f"is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise Unreadable("is no JSON object")
    return value


def status_of(value: dict[str, Any]) -> Status:
    counts = (value.get("failures", 0), value.get("start_failures", 0), value.get("uncounted", 0))
    return Status(
        value.get("state", "Created"),
        value.get("pool", ""),
        value.get("owner", "default"),
        quantities(value.get("hold", {})),
        value.get("attempt", 0),
        value.get("stopping", ""),
        counts,
        value.get("steps", 0),
        value.get("lost_since") is not None,
    )


def account_of(value: dict[str, Any]) -> Account:
    used, lost, stopping = (
        Counter({name: int(text) for name, text in value.get(part, {}).items()})
        for part in ("used", "lost", "stopping")
    )
    return Account(quantities(value["held"]), used, int(value.get("at", 0)), lost=lost, stopping=stopping)


_QUANTITY = re.compile(r"(-?)([0-9]+(?:\.[0-9]+)?)(m|[kMGTPE]i?|Ki|)")
_POWERS = {"k": 1, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}


def quantities(raw: dict[str, Any]) -> Amounts:
    """Quantities as whole numbers: thousandths of a cpu, units of everything else."""
    amounts: Amounts = Counter()
    for name, text in raw.items():
        match = _QUANTITY.fullmatch(str(text))
        if match is None:
            raise Unreadable(f"{name}: {text!r} is no quantity")
        sign, number, suffix = match.groups()
        scale = Fraction(1, 1000) if suffix == "m" else Fraction(1)
        if suffix and suffix != "m":
            scale = Fraction(1024 if suffix.endswith("i") else 1000) ** _POWERS[suffix[0]]
        amount = Fraction(number) * scale * (1000 if name == "cpu" else 1)
        if amount.denominator != 1:
            raise Unreadable(f"{name}: {text!r} is no whole number of units")
        amounts[name] = -int(amount) if sign else int(amount)
    return amounts


def ms_of(step: dict[str, Any]) -> int:
    return round(float(step.get("at", 0.0)) * 1000)


def added(one: Amounts, other: Amounts, times: int = 1) -> Amounts:
    """Without zeros, as vectors are stored, and with what is below zero."""
    total = Counter(one)
    for name, amount in other.items():
        total[name] += amount * times
    return Counter({name: amount for name, amount in total.items() if amount})


def text_of(amounts: Amounts) -> str:
    return ", ".join(f"{name} {amount}" for name, amount in sorted(amounts.items())) or "nothing"


# -- etcd


def read(url: str) -> Iterator[Event]:
    """All changes of an etcd's keys from its first revision up to now, by its JSON gateway.

    Raises RuntimeError if the beginning has been compacted away.
    """
    every = base64.b64encode(b"\0").decode()  # as key and range_end: all keys, so that each revision shows
    with httpx.Client(base_url=url, trust_env=False, timeout=30.0) as client:
        answer = client.post("/v3/kv/range", json={"key": every, "range_end": every, "count_only": True})
        last = int(answer.raise_for_status().json()["header"]["revision"])
        request = {"create_request": {"key": every, "range_end": every, "start_revision": "1"}}
        with client.stream("POST", "/v3/watch", json=request) as lines:
            lines.raise_for_status()
            for line in lines.iter_lines():
                if last <= 1:
                    return
                result = json.loads(line).get("result", {})
                if result.get("canceled"):
                    compacted = result.get("compact_revision", "?")
                    raise RuntimeError(f"etcd ended the watch: its history begins at revision {compacted}")
                for event in result.get("events", ()):
                    kv = event["kv"]
                    value = None if event.get("type") == "DELETE" else base64.b64decode(kv.get("value", ""))
                    mod = int(kv["mod_revision"])
                    if mod > last:
                        return
                    yield Event(base64.b64decode(kv["key"]).decode(errors="backslashreplace"), value, mod)
                if result.get("events") and mod >= last:
                    return
