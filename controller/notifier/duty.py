"""Duty: which of several notifiers delivers. It holds the key `notifier`, on a lease."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

from controller.clock import Clock
from controller.core.model import codec
from controller.core.model.notices import OUTBOX
from controller.core.model.op import Op
from controller.errors import TallyError
from controller.store.base import (
    ClusterChanged,
    Committed,
    Guard,
    Put,
    Store,
    StoreError,
    Transaction,
    new_lease,
    new_op,
)
from controller.store.keys import Keys

TTL_SECONDS = 10
RENEW_SECONDS = 3.0
RETRY_SECONDS = 1.0
MARGIN_SECONDS = 1.0

log = structlog.get_logger(__name__)


class DutyLost(TallyError):
    """Another notifier may be on duty by now."""


class Duty:
    """A lease, and the key `notifier` on it, which has what `describe` tells.

    What is written on duty compares the key's create revision (`term`): nothing is written by a notifier that
    has been replaced.

    Invariant: `_until` is the time (boottime seconds) at which the last good renewal was *sent*, plus the
    TTL, less a margin. The next notifier cannot be on duty before it: etcd counts from when it hears of a
    renewal.
    """

    def __init__(
        self,
        store: Store,
        keys: Keys,
        clock: Clock,
        name: str,
        describe: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self._describe = describe
        self._described: dict[str, Any] = {}
        self._store = store
        self._keys = keys
        self._clock = clock
        self._name = name
        self._lease = 0
        self._until = 0.0
        self.term = 0  # 0: not on duty

    def is_held(self) -> bool:
        """Whether no other notifier can be on duty yet. Ask this before every request to a receiver."""
        return bool(self.term) and self._clock.boottime() < self._until

    def guard(self) -> Guard:
        """What a transaction on duty compares. Raises DutyLost."""
        if not self.is_held():
            raise DutyLost("this notifier is not on duty")
        return Guard(self._keys.notifier, self.term, on_create=True)

    def take_up(self, ended: threading.Event) -> bool:
        """Wait until it is this notifier's turn; False if `ended` was set before.

        What etcd answers meanwhile, also a refusal, is told in the log, and it is asked again.
        """
        told = ""
        while not ended.is_set():
            try:
                other = self._try()
            except StoreError as error:
                other = f"etcd: {error}"
                if isinstance(error, ClusterChanged):
                    self._begin_anew()
            if self.term:
                log.info("on duty", term=self.term)
                return True
            if other != told:
                tell = log.warning if other.startswith("etcd:") else log.info
                tell("waiting for duty", why=other)
                told = other
            ended.wait(RENEW_SECONDS)
        return False

    def keep(self, ended: threading.Event) -> None:
        """Renew the lease until `ended` is set, or the duty is lost: it returns then, whatever etcd does."""
        pause = RENEW_SECONDS
        while not ended.wait(min(pause, max(0.0, self._until - self._clock.boottime()))):
            if not self.is_held():
                break
            pause = RENEW_SECONDS
            try:
                if not self._renew():
                    break
                self._tell()
            except (StoreError, DutyLost) as error:
                log.warning("duty not renewed", error=str(error))
                pause = RETRY_SECONDS
        else:
            return
        log.warning("duty lost", term=self.term)
        self.term = 0

    def give_up(self) -> None:
        """Let the next notifier begin at once."""
        lease, self._lease, self.term = self._lease, 0, 0
        if lease:
            try:
                self._store.revoke(lease, deadline=self._clock.boottime() + RENEW_SECONDS)
            except StoreError as error:
                log.info("duty not given up, it will expire", error=str(error))

    def _renew(self) -> bool:
        """False if the duty is lost. The key may be deleted, or another's, while its lease lives."""
        sent = self._clock.boottime()
        ttl = self._store.keep_alive(self._lease, deadline=self._deadline())
        if ttl <= 0 or not self.is_held():
            return False
        self._until = max(self._until, sent + ttl - MARGIN_SECONDS)
        item, _ = self._store.get(self._keys.notifier, deadline=self._deadline())
        return item is not None and item.create == self.term

    def _deadline(self) -> float:
        """Of a call on duty."""
        return min(self._clock.boottime() + RENEW_SECONDS, self._until)

    def _tell(self) -> None:
        """Write what has changed of what is told, for whoever asks."""
        now = self._describe()
        if now == self._described:
            return
        telling = Transaction((self.guard(),), (self._record(op := new_op(), now),), op)
        if isinstance(self._store.commit(telling, deadline=self._deadline()), Committed):
            self._described = now

    def _record(self, op: Op, told: dict[str, Any]) -> Put:
        return Put(self._keys.notifier, codec.encode({"id": self._name, **told, "op": op}), self._lease)

    def _begin_anew(self) -> None:
        """After a restore, every call fails until something is loaded: off duty, nothing else here is."""
        with suppress(StoreError):  # the next call tells
            deadline = self._clock.boottime() + RENEW_SECONDS
            self._store.load(f"{self._keys.prefix}{OUTBOX}/", deadline=deadline)

    def _try(self) -> str:
        """Why it is not this notifier's turn; "" if it is."""
        deadline = self._clock.boottime() + RENEW_SECONDS
        item, _ = self._store.get(self._keys.notifier, deadline=deadline)
        if item is not None:
            return "another notifier is on duty"
        self.give_up()
        self._lease = new_lease()
        sent = self._clock.boottime()
        until = sent + self._store.grant(self._lease, TTL_SECONDS, deadline=deadline) - MARGIN_SECONDS
        op, self._described = new_op(), {}
        creation = Transaction((Guard(self._keys.notifier, 0),), (self._record(op, {}),), op)
        answer = self._store.commit(creation, deadline=deadline)
        if not isinstance(answer, Committed):
            return "another notifier was faster"
        if self._clock.boottime() >= until:
            self.give_up()
            return "etcd: it answered when the turn was almost over"
        self._until, self.term = until, answer.revision
        return ""
