"""Which endpoint of etcd is asked next, and for how long."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence

from controller.clock import Clock
from controller.errors import TallyError
from controller.store.base import StoreClosed, StoreUnavailable
from controller.store.etcd.faults import ErrorClass, RpcError

MIN_TRY_SECONDS = 0.5  # below this, every try would give up a slow but healthy etcd (a late fsync)
# doubled each time all endpoints have failed: one may be silent, all of them may be slow
FIRST_TRY_SECONDS = 2.0
_FIRST_PAUSE_SECONDS = 0.05
_MAX_PAUSE_SECONDS = 1.0


class Unanswered(TallyError):
    """The deadline passed without an answer, or the store was `closed` before.

    `in_doubt`: what was sent may have been applied.
    """

    def __init__(self, message: str, *, in_doubt: bool, closed: bool = False) -> None:
        super().__init__(message)
        self.in_doubt = in_doubt
        self.closed = closed

    def translated(self) -> StoreUnavailable:
        """The error of a call that may be repeated freely."""
        return StoreClosed() if self.closed else StoreUnavailable(f"etcd cannot be reached: {self}")


class Endpoints:
    """The endpoints of one etcd, in the order in which they are asked. For any thread."""

    def __init__(self, names: Sequence[str], clock: Clock) -> None:
        self.names = tuple(names)
        self._clock = clock
        self._lock = threading.Lock()
        self._order = list(names)
        self._closed = threading.Event()
        self.failures: dict[str, int] = defaultdict(int)
        """Failed tries by endpoint, for the metrics."""

    def order(self) -> list[str]:
        """The endpoints, the preferred one first."""
        with self._lock:
            return list(self._order)

    def demote(self, endpoint: str) -> None:
        """Ask this endpoint last from now on."""
        with self._lock:
            self.failures[endpoint] += 1
            self._order.remove(endpoint)
            self._order.append(endpoint)

    def pause(self, seconds: float) -> bool:
        """Wait. Returns True as soon as `close` is called."""
        return self._closed.wait(seconds)

    def now(self) -> float:
        """Seconds of the clock by which deadlines are counted."""
        return self._clock.boottime()

    def close(self) -> None:
        """Stop asking endpoints. Idempotent."""
        self._closed.set()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed.is_set()


class Tries:
    """The order, time-outs and pauses of the tries of one call, and their failures."""

    def __init__(self, endpoints: Endpoints, deadline: float) -> None:
        self._endpoints = endpoints
        self._deadline = deadline
        self._round = endpoints.order()
        self._untrusted = 0
        self._pause = _FIRST_PAUSE_SECONDS
        self._limit = FIRST_TRY_SECONDS
        self._last_endpoint = ""
        self._errors: dict[str, str] = {}
        self.in_doubt = False

    def next(self) -> tuple[str, float]:
        """The endpoint to try, and the seconds for it.

        Raises Unanswered if time is up, RpcError if TLS fails everywhere.
        """
        if not self._round:
            if self._untrusted == len(self._endpoints.names):
                raise self._denied()
            self._untrusted = 0
            left = self._deadline - self._endpoints.now()
            if left > 0 and not self._endpoints.pause(min(self._pause, left)):
                self._pause = min(2 * self._pause, _MAX_PAUSE_SECONDS)
            self._limit *= 2
            self._round = self._endpoints.order()
        left = self._deadline - self._endpoints.now()
        if left <= 0 or self._endpoints.closed:
            raise Unanswered(self._describe(), in_doubt=self.in_doubt, closed=self._endpoints.closed)
        share = left / (len(self._round) + 1)
        self._last_endpoint = self._round.pop(0)
        return self._last_endpoint, min(left, max(MIN_TRY_SECONDS, min(share, self._limit)))

    def failed(self, endpoint: str, error: Exception, *, in_doubt: bool, untrusted: bool = False) -> None:
        """Note a failed try, and ask this endpoint last."""
        self.in_doubt |= in_doubt
        self._untrusted += untrusted
        self._errors[endpoint] = str(error)
        self._endpoints.demote(endpoint)

    def repeat(self) -> None:
        """Try the same endpoint once more, at once."""
        self._round.insert(0, self._last_endpoint)

    def _denied(self) -> RpcError:
        error = RpcError(ErrorClass.DENIED, f"no TLS connection to etcd: {self._describe()}")
        error.in_doubt = self.in_doubt
        return error

    def _describe(self) -> str:
        if self._endpoints.closed:
            return "the store has been closed"
        return "; ".join(self._errors.values()) or f"no time left to ask {', '.join(self._endpoints.names)}"
