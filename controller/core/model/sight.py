"""When a task was seen first: the moment from which its queue deadline and its pool's patience are counted.

Its submitter's clock is believed in nothing. A replica that follows sees a task as it comes. One that comes
late, and loads what others saw before it, takes the start of the first term after the submission instead,
when a leader had it at the latest: so take-overs lengthen a wait by no more than the rest of one term.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable

from controller.core.model.records import Change, decode_or_empty, number_in


def first_sight(terms: Iterable[Change], now: float) -> Callable[[int], float]:
    """Tells when a spec of a given create revision, which is seen `now`, was seen first.

    `terms` are the records of terms.
    """
    told = ((change.create, number_in(decode_or_empty(change), "from")) for change in terms)
    starts = sorted((create, began) for create, began in told if began is not None)

    def seen_at(spec_create: int) -> float:
        later = bisect.bisect(starts, (spec_create, math.inf))
        return min([now, *(began for _, began in starts[later : later + 1])])

    return seen_at
