"""Words for numbers, times and lists, as readers print them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal

from controller.core.model.printable import counted
from controller.core.model.resources import Vector, format_quantity

LEAST_SHARE = 1e-6  # a smaller one is written with an exponent
HOUR_MS = 3_600_000
_HOURS = {
    "cpu": (1000, "cpu·h"),
    "memory": (2**30, "memory GiB·h"),
    "ephemeral-storage": (2**30, "ephemeral-storage GiB·h"),
}
NAMED = 3  # of a list, those that are named; the others are counted


LONG_SECONDS = 60.0
"""Who has waited for longer, and could begin, may be kept by what no record tells."""


def at(when: float) -> str:
    """A stored time as text, in UTC. A time beyond the calendar is shown as its number."""
    try:
        return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{when:g}"


def span(seconds: float) -> str:
    """A duration with its two largest units, as kubectl shows ages: 42s, 5m3s, 3h12m, 4d7h."""
    rest = max(0, int(seconds))
    if rest < 60:
        return f"{rest}s"
    for unit, size, small, small_size in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if rest >= size:
            low = rest % size // small_size
            return f"{rest // size}{unit}{low}{small}" if low else f"{rest // size}{unit}"
    raise AssertionError("unreachable")


def words_of(text: str) -> str:
    """The words of others, to be used in a sentence: without a full stop at their end."""
    return text.strip().rstrip(".")


def share_text(share: float | None) -> str:
    """A dominant share, with three significant digits."""
    if share is None or not math.isfinite(share):
        return "beyond all"
    return format(Decimal(f"{share:.2e}"), "f" if share >= LEAST_SHARE else "e") if share else "0"


def hours_unit(resource: str) -> tuple[int, str]:
    """In what use of this resource is shown: how many of its own units, times hours, and its name."""
    sizes = (2**30, f"{resource} GiB·h") if resource.startswith("hugepages-") else (1, f"{resource}·h")
    return _HOURS.get(resource, sizes)


def hours(resource: str, amount: int) -> str:
    """Use of a resource, given in its units times milliseconds, in its `hours_unit`."""
    return f"{amount / (hours_unit(resource)[0] * HOUR_MS):,.3f}"


def in_hours(used: Vector) -> dict[str, str]:
    """What was used, in units times milliseconds, by the names of the units in which it is shown."""
    return {hours_unit(resource)[1]: hours(resource, amount) for resource, amount in used.items()}


def lacking(asked: Vector, limit: Vector, what: str) -> str:
    """The resources that are short, each as asked against what there is: `cpu 4 (1500m free)`."""
    short = asked.exceeding(limit)
    return ", ".join(
        f"{Vector({name: asked[name]})} ({format_quantity(name, limit.get(name))} {what})" for name in short
    )


def listed(names: Sequence[str], noun: str = "task", count: int | None = None) -> str:
    """How many there are, with the first ones by name: `4 tasks (a, b, c and 1 more)`.

    `count`: how many there are, if `names` has only some of them.
    """
    number = len(names) if count is None else count
    rest = number - min(NAMED, len(names))
    return f"{counted(number, noun)} ({', '.join(names[:NAMED])}{f' and {rest} more' if rest > 0 else ''})"


def admitted_next(waited: float) -> str:
    """That nothing keeps a task, which has waited for so many seconds, but for what only the leader knows."""
    if waited < LONG_SECONDS:
        return "it is admitted in the leader's next pass"
    return (
        "it is admitted in the leader's next pass, unless an attempt of an earlier task of its name may still"
        " run, which `tally audit` names"
    )
