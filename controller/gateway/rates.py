"""How often each caller may ask: a bucket of tokens that fills again at a steady rate."""

from __future__ import annotations

import math
from collections import OrderedDict

from controller.clock import Clock

MOST_CALLERS = 10_000  # that are remembered; the one that was heard longest ago is forgotten first


class Rates:
    """`per_second` requests of each caller, and up to `burst` at once. For one thread, the server's loop."""

    def __init__(self, clock: Clock, per_second: float, burst: int) -> None:
        self._clock = clock
        self._per_second = per_second
        self._burst = float(burst)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # name → tokens, and when

    def take(self, name: str) -> int:
        """0 if the caller may ask now, which then counts; else the seconds after which it may."""
        now = self._clock.boottime()
        tokens, at = self._buckets.pop(name, (self._burst, now))
        tokens = min(self._burst, tokens + (now - at) * self._per_second)
        allowed = tokens >= 1.0
        self._buckets[name] = (tokens - 1.0 if allowed else tokens, now)
        if len(self._buckets) > MOST_CALLERS:
            self._buckets.popitem(last=False)
        return 0 if allowed else max(1, math.ceil((1.0 - tokens) / self._per_second))
