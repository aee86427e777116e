"""The time at which a task was first seen. Its queue deadline and its pool's patience count from there.

The clocks of submitters are not trusted. A follower sees a task when its watch brings it. A replica that
starts later loads tasks that others saw before it. It takes the start of the first term after the submission
instead, since a leader had the task by then. So a take-over lengthens a wait by no more than the rest of one
term.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable

from controller.core.model.records import Change, decode_or_empty, number_in


def first_sight(terms: Iterable[Change], now: float) -> Callable[[int], float]:
    """A function that tells when a spec of a given create revision, seen `now`, was first seen.

    `terms` are the records of terms.
    """
    told = ((change.create, number_in(decode_or_empty(change), "from")) for change in terms)
    starts = sorted((create, began) for create, began in told if began is not None)

    def seen_at(spec_create: int) -> float:
        later = bisect.bisect(starts, (spec_create, math.inf))
        return min([now, *(began for _, began in starts[later : later + 1])])

    return seen_at
