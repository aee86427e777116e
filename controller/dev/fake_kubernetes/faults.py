"""Faults on command: what goes wrong with the next requests, or with some of them.

A fault is chosen by the request's verb and resource, and strikes `times` times, or with probability `rate`
(drawn from a seeded source). Each that struck is counted in `struck`, so that a test can prove that its fault
happened.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from controller.dev.fake_kubernetes.access import ResourceAttributes
from controller.dev.fake_kubernetes.apierrors import ApiError, unauthorized

Kind = Literal["drop-answer", "drop-request", "delay", "status", "hold"]

_REASONS = {
    401: "Unauthorized",
    403: "Forbidden",
    409: "Conflict",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class Dropped(Exception):
    """The connection is to be closed without an answer."""


@dataclass(slots=True)
class InjectedFault:
    """One fault; `left` None: no limit in number."""

    kind: Kind
    verb: str
    resource: str
    left: int | None
    rate: float
    seconds: float = 0.0
    status: int = 0
    retry_after: int | None = None
    hold: Hold | None = None


class Hold:
    """Requests parked before they take effect.

    They are applied on `release`, whether or not their clients still wait.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._released = False
        self._held = 0

    @property
    def held(self) -> int:
        """How many requests are parked, or were until the release."""
        return self._held

    def wait_held(self, count: int = 1, *, timeout: float = 30.0) -> bool:
        """Wait until `count` requests are parked; False when `timeout` seconds passed before."""
        with self._condition:
            return self._condition.wait_for(lambda: self._held >= count, timeout)

    def release(self) -> None:
        """Let the parked requests take effect, and later ones pass."""
        with self._condition:
            self._released = True
            self._condition.notify_all()

    def park(self) -> None:
        """Wait for the release."""
        with self._condition:
            if not self._released:
                self._held += 1
                self._condition.notify_all()
                self._condition.wait_for(lambda: self._released)


class Faults:
    """All active faults.

    Verbs are those of access rights (get, list, watch, create, update, patch, delete) and "*".
    """

    def __init__(self, *, seed: int = 0) -> None:
        self._lock = threading.Lock()
        self._faults: list[InjectedFault] = []
        self._random = random.Random(seed)
        self._stopping = threading.Event()
        self.struck: Counter[str] = Counter()
        """How often each kind struck, by "kind verb"."""

    def drop_answers(
        self, verb: str = "*", *, resource: str = "*", times: int | None = None, rate: float = 1.0
    ) -> InjectedFault:
        """Close the connection without an answer, after the request took effect."""
        return self._add(InjectedFault("drop-answer", verb, resource, times, rate))

    def drop_requests(
        self, verb: str = "*", *, resource: str = "*", times: int | None = None, rate: float = 1.0
    ) -> InjectedFault:
        """Close the connection before the request takes effect, which looks like an outage."""
        return self._add(InjectedFault("drop-request", verb, resource, times, rate))

    def delay(
        self,
        seconds: float,
        verb: str = "*",
        *,
        resource: str = "*",
        times: int | None = None,
        rate: float = 1.0,
    ) -> InjectedFault:
        """Delay the request by real seconds before it takes effect."""
        return self._add(InjectedFault("delay", verb, resource, times, rate, seconds=seconds))

    def fail(
        self,
        status: int,
        verb: str = "*",
        *,
        resource: str = "*",
        times: int | None = None,
        rate: float = 1.0,
        retry_after: int | None = None,
    ) -> InjectedFault:
        """Answer with this HTTP status, without an effect; 429 and 503 may have Retry-After (seconds)."""
        return self._add(
            InjectedFault("status", verb, resource, times, rate, status=status, retry_after=retry_after)
        )

    def hold(self, verb: str = "create", *, resource: str = "*", times: int | None = None) -> Hold:
        """Park requests before they take effect; see Hold."""
        hold = Hold()
        self._add(InjectedFault("hold", verb, resource, times, 1.0, hold=hold))
        return hold

    def remove(self, fault: InjectedFault) -> None:
        """End one fault."""
        with self._lock:
            if fault in self._faults:
                self._faults.remove(fault)

    def clear(self) -> None:
        """End all faults; parked requests take effect."""
        with self._lock:
            faults, self._faults = self._faults, []
        for fault in faults:
            if fault.hold is not None:
                fault.hold.release()

    def close(self) -> None:
        """End all faults for good: no request waits after that."""
        self._stopping.set()
        self.clear()

    def active(self) -> list[InjectedFault]:
        """A copy of the list."""
        with self._lock:
            return list(self._faults)

    def before(self, access: ResourceAttributes) -> None:
        """Called before a request takes effect. Raises Dropped or ApiError; may wait."""
        for fault in self._strike(access, {"delay", "hold", "drop-request", "status"}):
            if fault.kind == "delay":
                self._stopping.wait(fault.seconds)
            elif fault.hold is not None:
                fault.hold.park()
            elif fault.kind == "drop-request":
                raise Dropped
            else:
                raise _status_error(fault)

    def after(self, access: ResourceAttributes) -> None:
        """Called when a request has taken effect. Raises Dropped."""
        if self._strike(access, {"drop-answer"}):
            raise Dropped

    def _add(self, fault: InjectedFault) -> InjectedFault:
        with self._lock:
            self._faults.append(fault)
        return fault

    def _strike(self, access: ResourceAttributes, kinds: set[Kind]) -> list[InjectedFault]:
        if not self._faults:
            return []
        with self._lock:
            striking = [
                fault for fault in self._faults if fault.kind in kinds and self._strikes(fault, access)
            ]
            for fault in striking:
                self.struck[f"{fault.kind} {access.verb}"] += 1
                if fault.left is not None:
                    fault.left -= 1
                    if not fault.left:
                        self._faults.remove(fault)
            return striking

    def _strikes(self, fault: InjectedFault, access: ResourceAttributes) -> bool:
        if fault.verb not in ("*", access.verb) or fault.resource not in ("*", access.resource):
            return False
        return fault.rate >= 1.0 or self._random.random() < fault.rate


def _status_error(fault: InjectedFault) -> ApiError:
    if fault.status == 401:
        return unauthorized()
    headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after is not None else {}
    if fault.status == 429:
        return ApiError(
            429, "TooManyRequests", "Too many requests, please try again later.", headers=headers, plain=True
        )
    reason = _REASONS.get(fault.status, "InternalError")
    words = {
        500: "Internal error occurred: etcdserver: request timed out",
        503: "the server is currently unable to handle the request",
        504: "Timeout: request did not complete within the allotted timeout",
    }
    return ApiError(
        fault.status, reason, words.get(fault.status, "injected by the fake server"), headers=headers
    )
