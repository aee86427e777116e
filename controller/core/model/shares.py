"""Shares: what each owner holds of a pool with `sharing`, and has used of it.

A share is charged whenever it changes: `used` grows by what was held times the milliseconds since the last
charge. All amounts are exact integers, and both the share and the pool's account are charged at the same
moment, so that no millisecond of a resource is counted twice or lost (invariant I10).

`lost` and `stopping` are parts of `used`, charged when a hold ends: see controller.core.model.parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from controller.core.model import codec
from controller.core.model.op import NO_OP, Op
from controller.core.model.parts import NO_PARTS, Parts, times
from controller.core.model.resources import MAX_SUMMED_NAMES, ZERO, Vector
from controller.core.model.task import SCHEMA_VERSION
from controller.errors import CorruptValue, InvalidField

FRACTION = 1024
"""`Share.recent` counts in this part of a resource's unit."""

DAY_MS = 86_400_000
AHEAD_MS = 7 * DAY_MS
"""A charge that is later than now by more than this is of no clock that a leader had: it is damaged."""

APART_MS = 3_600_000
"""In ms. A replica whose clock is further from the others' does not lead, and so charges nothing."""

MINUTE_MS = 60_000
MAX_SHARE_BYTES = 64 * 1024
_MAX_AT = 253_402_300_800_000  # the year 10000, in ms
_MAX_DIGITS = 40
_FIELDS = frozenset({"version", "held", "running", "used", "recent", "at", "op", "lost", "stopping"})


class Share(NamedTuple):
    """What one owner holds of a pool, and has used of it.

    `running` is the number of its Pending and Running tasks. `used` is in resource units times milliseconds,
    up to `at` (ms since the Unix epoch). `recent` is what it held, averaged with the pool's half-life. `lost`
    and `stopping` are of holds that have ended; below zero, as long as attempts run of which a part was from
    before the pool was shared.
    """

    held: Vector = ZERO
    running: int = 0
    used: Vector = ZERO
    recent: Vector = ZERO
    at: int = 0
    mod: int = 0
    extras: codec.Extras = codec.NO_EXTRAS
    lost: Vector = ZERO
    stopping: Vector = ZERO

    def used_at(self, at: int) -> Vector:
        """What it has used by then, if nothing changes before."""
        return _charged(self.used, self.held, at - self.at)

    def parts_at(self, more: Parts, at: int) -> Parts:
        """The parts of what it has used by then, with `more`: together never more than was used."""
        if more is NO_PARTS or more == NO_PARTS:
            return Parts(self.lost, self.stopping)
        used, lost, stopping = self.used_at(at), dict[str, int](), dict[str, int]()
        for name in sorted({*more.lost, *more.stopping}):
            room = max(0, used.get(name) - self.lost.get(name) - self.stopping.get(name))
            lost[name] = min(more.lost.get(name), room)
            stopping[name] = min(more.stopping.get(name), room - lost[name])
        return Parts(self.lost + lost, self.stopping + stopping)

    def cut(self) -> Share:
        """The share without amounts below zero, and with parts that are no more than was used."""
        used, recent = _at_least_zero(self.used), _at_least_zero(self.recent)
        stopping = _at_most(self.stopping, used)
        return self._replace(
            used=used, recent=recent, lost=_at_most(self.lost, used - stopping), stopping=stopping
        )

    def changed(
        self, more: Vector, tasks: int, at: int, half_life_seconds: float, parts: Parts = NO_PARTS
    ) -> Share:
        """The share when what it holds changes by `more`, and its number of tasks by `tasks`.

        `parts` are those of a hold that ends.
        """
        at = max(at, self.at)
        lost, stopping = self.parts_at(parts, at)
        recent = averaged(self, at, half_life_seconds)
        held, running, used = self.held + more, self.running + tasks, self.used_at(at)
        return Share(held, running, used, recent, at, self.mod, self.extras, lost, stopping)


class Account(NamedTuple):
    """The part of a ledger that pools with `sharing` have: see Share.

    `shares_op` is the op of the transaction that last wrote shares with the ledger. If it is not the ledger's
    own op, something else wrote the ledger, and the shares are to be rebuilt. `day` (since the Unix epoch, in
    UTC) is the one that has not been closed. `stopped` counts the attempts that were preempted in `minute`.
    `unread` is a digest of the statuses and shares of the pool that could not be read when shares were
    rebuilt last; 0 if all could. (Older versions counted them: the shares are then rebuilt once more.)
    """

    used: Vector = ZERO
    at: int = 0
    shares_op: Op = NO_OP
    day: int = 0
    minute: int = 0
    stopped: int = 0
    unread: int = 0

    @property
    def charged_until(self) -> int:
        """No charge may be earlier (ms): not than the last one, nor within a day that is closed."""
        return max(self.at, self.day * DAY_MS)

    def used_at(self, held: Vector, at: int) -> Vector:
        """What all owners have used by then, if nothing changes before."""
        return _charged(self.used, held, at - self.at)

    def changed(self, held: Vector, at: int) -> Account:
        """The account when what is held, `held` so far, changes at that moment."""
        at = max(at, self.at)
        used = self.used_at(held, at)  # by place: each plan that admits something asks for it for each task
        return Account(used, at, self.shares_op, self.day, self.minute, self.stopped, self.unread)


NO_SHARE = Share()
NO_ACCOUNT = Account()


def time_after(charged: int, clock: int) -> int:
    """The time (ms) to record when a clock says `clock`, and the last charge was at `charged` (ms).

    It never goes back: if the clock is behind, it is that of the last charge.
    """
    return charged if clock < charged <= clock + AHEAD_MS else clock


def averaged(share: Share, at: int, half_life_seconds: float) -> Vector:
    """What the share held until `at`, averaged with the half-life (0: what it holds), in units / FRACTION."""
    now = {name: amount * FRACTION for name, amount in share.held.items()}
    if not half_life_seconds:
        return share.held.like(now)
    left = 2.0 ** (-max(0, at - share.at) / 1000 / half_life_seconds)
    then = dict(share.recent.items())
    averages = {name: amount + round((then.pop(name, 0) - amount) * left) for name, amount in now.items()}
    averages |= {name: round(amount * left) for name, amount in then.items()}
    return share.held.like(averages)


def used_by(shares: Iterable[Share], at: int) -> Vector:
    """What these have used together by then, if nothing changes before."""
    return sum((share.used_at(at) for share in shares), ZERO)


def _charged(used: Vector, held: Vector, elapsed: int) -> Vector:
    if elapsed <= 0 or not held:
        return used
    return used + times(held, elapsed)


def _at_least_zero(amounts: Vector) -> Vector:
    return Vector({name: amount for name, amount in amounts.items() if amount > 0})


def _at_most(amounts: Vector, limit: Vector) -> Vector:
    return Vector({name: min(amount, max(0, limit.get(name))) for name, amount in amounts.items()})


def encode_share(share: Share, op: Op) -> bytes:
    """The stored form of a share."""
    return codec.encode(
        {
            "version": SCHEMA_VERSION,
            "held": share.held,
            "running": share.running,
            "used": digits(share.used),
            "recent": digits(share.recent),
            "at": share.at,
            "op": op,
            **({"lost": digits(share.lost)} if share.lost else {}),
            **({"stopping": digits(share.stopping)} if share.stopping else {}),
            **share.extras,
        }
    )


def decode_share(data: bytes, mod: int = 0) -> Share:
    """A stored share. Raises CorruptValue if it is not one."""
    if len(data) > MAX_SHARE_BYTES:
        raise CorruptValue(f"has {len(data):,} bytes, but at most {MAX_SHARE_BYTES:,} can be written back")
    raw = codec.decode_mapping(data)
    try:
        held = codec.parse_balance(raw["held"])
    except KeyError:
        raise CorruptValue("held: is missing") from None
    except InvalidField as error:
        raise CorruptValue(str(error)) from error
    return Share(
        held,
        _integer(raw, "running", -(2**53), 2**53),
        decode_amounts(raw, "used"),
        decode_amounts(raw, "recent"),
        _integer(raw, "at", 0, _MAX_AT),
        mod,
        {name: value for name, value in raw.items() if name not in _FIELDS} or codec.NO_EXTRAS,
        decode_amounts(raw, "lost"),
        decode_amounts(raw, "stopping"),
    )


def encode_account(account: Account) -> dict[str, Any]:
    """The fields of a ledger that hold its account; none for a pool that never had shares."""
    if account is NO_ACCOUNT or account == NO_ACCOUNT:
        return {}
    return {**account._asdict(), "used": digits(account.used)}


def take_account(fields: dict[str, Any]) -> Account:
    """The account, whose fields are taken out of a ledger's `fields`. Raises CorruptValue."""
    raw = {name: fields.pop(name) for name in Account._fields if name in fields}
    if not raw:
        return NO_ACCOUNT
    shares_op = raw.get("shares_op", NO_OP)
    if not isinstance(shares_op, str):
        raise CorruptValue("shares_op: is not a string")
    return Account(
        decode_amounts(raw, "used"),
        _integer(raw, "at", 0, _MAX_AT),
        Op(shares_op),
        _integer(raw, "day", 0, _MAX_AT // DAY_MS),
        _integer(raw, "minute", 0, _MAX_AT // 60_000),
        _integer(raw, "stopped", 0, 2**53),
        _integer(raw, "unread", 0, 2**53),
    )


def digits(amounts: Vector) -> dict[str, str]:
    """Integers as text: they exceed what other readers of JSON can count."""
    return {name: str(amount) for name, amount in amounts.items()}


def decode_amounts(raw: Mapping[str, Any], field: str) -> Vector:
    """A field of exact integers by resource, as `digits` writes them. Raises CorruptValue."""
    given = raw.get(field, {})
    if not isinstance(given, dict) or len(given) > MAX_SUMMED_NAMES:
        raise CorruptValue(f"{field}: is not a mapping of at most {MAX_SUMMED_NAMES} resources to integers")
    amounts = {}
    for name, text in given.items():
        number = text.removeprefix("-") if isinstance(text, str) else ""
        if not (number.isascii() and number.isdigit() and len(number) <= _MAX_DIGITS):
            raise CorruptValue(f"{field}.{name}: is not an integer in quotes")
        amounts[name] = int(text)
    return Vector(amounts)


def _integer(raw: Mapping[str, Any], field: str, low: int, high: int) -> int:
    value = raw.get(field, 0)
    if type(value) is not int or not low <= value <= high:
        raise CorruptValue(f"{field}: is not an integer from {low} to {high}")
    return value
