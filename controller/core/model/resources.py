"""Resource quantities and vectors: exact integers, parsed strictly from Kubernetes' quantity syntax.

Units: `cpu` is in thousandths of a core, everything else in whole units (bytes for memory and storage, counts
otherwise). The parser is stricter than Kubernetes on purpose. It refuses what Kubernetes would round up
("0.1m" of a cpu, "1.5" bytes), since a quantity that is silently changed cannot be accounted for exactly.

Source of the syntax: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

from __future__ import annotations

import re
from collections.abc import ItemsView, Iterable, Iterator, Mapping
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache

from controller.core.model.scalars import shown
from controller.errors import InvalidField

MAX_AMOUNT = 2**63 - 1  # Kubernetes' own limit for a quantity's integer value
MAX_NAMES = 32  # names in one vector; more are a mistake, and would make every ledger write large
MAX_SUMMED_NAMES = 256  # of all that a pool has ever had, whose capacity may have had other names before

_QUANTITY = re.compile(
    r"(?P<number>[0-9]{1,24}(\.[0-9]{1,24})?|\.[0-9]{1,24})(?P<suffix>[a-zA-Z]*|[eE][+-]?[0-9]{1,2})"
)
_NAME = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[a-zA-Z0-9]([-a-zA-Z0-9_.]{0,61}[a-zA-Z0-9])?")
_SUFFIXES = {
    "": Fraction(1),
    "m": Fraction(1, 1000),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
    "P": Fraction(10**15),
    "E": Fraction(10**18),
    "Ki": Fraction(2**10),
    "Mi": Fraction(2**20),
    "Gi": Fraction(2**30),
    "Ti": Fraction(2**40),
    "Pi": Fraction(2**50),
    "Ei": Fraction(2**60),
}
_BINARY = ("Ei", "Pi", "Ti", "Gi", "Mi", "Ki")


def parse_quantity(name: str, text: object, field: str = "") -> int:
    """The integer amount of resource `name`: milli-cpu for `cpu`, whole units for all others.

    `text` is a string in Kubernetes' syntax, or an int (whole units: `cpu: 2` is two cores). A float is read
    in its shortest decimal form (`cpu: 0.5`). Raises InvalidField, naming `field`, for a value that is
    negative, not finite, not a whole number of units, or above 2^63 - 1.
    """
    field = field or f"resources.{name}"
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise InvalidField(field, f'is {shown(text)}, expected a quantity such as "500m", "64Mi" or 2')
    if isinstance(text, int) and abs(text) > MAX_AMOUNT:  # of which Python may not write the digits
        raise InvalidField(field, f"is {shown(text)}, beyond the largest quantity, 2^63 - 1 units")
    try:
        return _amount(name, str(text))
    except InvalidField as error:
        raise InvalidField(field, error.problem) from None


@lru_cache(maxsize=8192)  # a cluster's specs name few quantities, and every load parses them all again
def _amount(name: str, text: str) -> int:
    """See parse_quantity. Raises InvalidField without a field."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise InvalidField(
            "", f'{text[:60]!r} is not a quantity: give digits and a suffix, such as "500m", "64Mi" or "2"'
        )
    suffix = match["suffix"]
    if suffix in _SUFFIXES:
        scale = _SUFFIXES[suffix]
    elif suffix[0] in "eE" and len(suffix) > 1:
        scale = Fraction(10) ** int(suffix[1:])
    else:
        raise InvalidField("", f"unknown suffix {suffix!r}: use one of m k M G T P E Ki Mi Gi Ti Pi Ei")
    amount = Fraction(match["number"]) * scale * (1000 if name == "cpu" else 1)
    if amount.denominator != 1:
        unit = "a thousandth of a cpu (1m)" if name == "cpu" else "a whole unit (a byte, for memory)"
        raise InvalidField("", f"{text!r} is finer than {unit}, the smallest unit that Tally accounts for")
    if amount > MAX_AMOUNT:
        raise InvalidField("", f"{text[:60]!r} is above the largest quantity, 2^63 - 1 units")
    return int(amount)


@lru_cache(maxsize=8192)
def format_quantity(name: str, amount: int) -> str:
    """The shortest canonical text of `amount` units of `name`; parse_quantity reads it back exactly."""
    if name == "cpu":
        whole, milli = divmod(amount, 1000)
        return f"{amount}m" if milli else str(whole)
    if amount and (name in ("memory", "ephemeral-storage") or name.startswith("hugepages-")):
        for suffix in _BINARY:
            scaled, rest = divmod(amount, int(_SUFFIXES[suffix]))
            if scaled and not rest:
                return f"{scaled}{suffix}"
    return str(amount)


class Vector(Mapping[str, int]):
    """An immutable vector of resources: name → units (milli-cpu, bytes, counts). A missing name is zero.

    Zero amounts are dropped, so that equal vectors compare and hash equal however they were written.
    Subtraction may go below zero: a negative ledger is a finding for the audit, and is never clamped.
    """

    __slots__ = ("_amounts",)

    def __init__(self, amounts: Mapping[str, int] | None = None) -> None:
        self._amounts = {name: amount for name, amount in sorted((amounts or {}).items()) if amount}

    @classmethod
    def parse(cls, raw: object, field: str = "resources", most: int = MAX_NAMES) -> Vector:
        """The vector of a user's mapping of name → quantity, of `most` names.

        Raises InvalidField, naming the resource.
        """
        if type(raw) is dict and all(type(text) is str for text in raw.values()):
            with suppress(InvalidField):  # raised again below, with the field's name
                return _shared(tuple(raw.items()))
        return cls._parse(raw, field, most)

    @classmethod
    def _parse(cls, raw: object, field: str, most: int = MAX_NAMES) -> Vector:
        if not isinstance(raw, Mapping):
            raise InvalidField(
                field, "expected a mapping of resource names to quantities, such as {cpu: 500m, memory: 64Mi}"
            )
        if len(raw) > most:
            raise InvalidField(field, f"has {len(raw)} names, but at most {most} are allowed")
        amounts = {}
        for name, text in raw.items():
            if not isinstance(name, str) or _NAME.fullmatch(name) is None:
                raise InvalidField(
                    field,
                    f"{shown(name)} is not a resource name (such as cpu, memory or nvidia.com/gpu)",
                )
            amounts[name] = parse_quantity(name, text, f"{field}.{name}")
        return cls(amounts)

    def format(self, names: Iterable[str] = ()) -> dict[str, str]:
        """name → canonical quantity, sorted by name; of these names also where it has none."""
        shown = sorted({*self._amounts, *names}) if names else self._amounts
        return {name: format_quantity(name, self.get(name)) for name in shown}

    def fits(self, free: Mapping[str, int]) -> bool:
        """Whether each amount is at most what `free` has of that name."""
        amounts = _amounts_of(free)
        for name, amount in self._amounts.items():  # noqa: SIM110  # a generator takes twice the time
            if amount > amounts.get(name, 0):
                return False
        return True

    def exceeding(self, limit: Mapping[str, int]) -> list[str]:
        """The names of which this vector has more than `limit`, sorted."""
        return [name for name, amount in self._amounts.items() if amount > limit.get(name, 0)]

    def get(self, name: str, default: int = 0) -> int:  # type: ignore[override]  # a missing name is zero, never None
        return self._amounts.get(name, default)

    def __getitem__(self, name: str) -> int:
        return self._amounts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._amounts)

    def __len__(self) -> int:
        return len(self._amounts)

    def __add__(self, other: Mapping[str, int]) -> Vector:
        if other is ZERO:  # what most tasks hold before or after a change
            return self
        amounts = self._amounts.copy()
        for name, amount in _amounts_of(other).items():
            amounts[name] = amounts.get(name, 0) + amount
        return self.like(amounts)

    def __sub__(self, other: Mapping[str, int]) -> Vector:
        if other is ZERO:
            return self
        amounts = self._amounts.copy()
        for name, amount in _amounts_of(other).items():
            amounts[name] = amounts.get(name, 0) - amount
        return self.like(amounts)

    def times(self, count: int) -> Vector:
        """So many times as much."""
        return Vector({name: amount * count for name, amount in self._amounts.items()})

    def like(self, amounts: dict[str, int]) -> Vector:
        """A vector of these amounts, which begin with the names of this one, in their order.

        The caller gives them away.
        """
        if len(amounts) > len(self._amounts) or 0 in amounts.values():
            return Vector(amounts)
        vector = Vector.__new__(Vector)  # each commit adds and subtracts: the names are in order already
        vector._amounts = amounts
        return vector

    def without(self, other: Vector) -> Vector:
        """What is left when `other` is set aside: its amounts are subtracted, down to zero and no further."""
        amounts = self._amounts.copy()
        for name, amount in other.items():
            amounts[name] = min(amounts.get(name, 0), max(0, amounts.get(name, 0) - amount))
        return Vector(amounts)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Vector) and self._amounts == other._amounts)

    def __hash__(self) -> int:
        return hash(tuple(self._amounts.items()))

    def __repr__(self) -> str:
        return f"Vector({self.format()})"

    def __str__(self) -> str:
        return ", ".join(f"{name} {text}" for name, text in self.format().items()) or "nothing"

    def items(self) -> ItemsView[str, int]:
        """Names and amounts, sorted by name."""
        return self._amounts.items()


@lru_cache(maxsize=8192)  # tasks ask for few different things: those that ask for the same share one vector
def _shared(items: tuple[tuple[str, str], ...]) -> Vector:
    """The vector of these quantities. Raises InvalidField."""
    return Vector._parse(dict(items), "")


def _amounts_of(amounts: Mapping[str, int]) -> Mapping[str, int]:
    """The same as a dict, where it is a vector: that is read without a call for each name."""
    return amounts._amounts if type(amounts) is Vector else amounts


ZERO = Vector()
