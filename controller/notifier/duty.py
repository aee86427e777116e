"""Duty: which of several notifiers delivers. It holds the key `notifier`, on a lease."""

from __future__ import annotations

import threading

import structlog

from controller.clock import Clock
from controller.core.model import codec
from controller.errors import TallyError
from controller.store.base import (
    Committed,
    Guard,
    LeaseNotFound,
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

log = structlog.get_logger(__name__)


class DutyLost(TallyError):
    """Another notifier may be on duty by now."""


class Duty:
    """A lease, and the key `notifier` on it.

    What is written on duty compares the key's create revision (`term`): nothing is written by a notifier that
    has been replaced.
    """

    def __init__(self, store: Store, keys: Keys, clock: Clock, name: str) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._name = name
        self._lease = 0
        self.term = 0  # 0: not on duty

    def guard(self) -> Guard:
        """What a transaction on duty compares. Raises DutyLost."""
        if not self.term:
            raise DutyLost("this notifier is not on duty")
        return Guard(self._keys.notifier, self.term, on_create=True)

    def take_up(self, ended: threading.Event) -> bool:
        """Wait until it is this notifier's turn; False if `ended` was set before. Raises StoreDenied."""
        told = ""
        while not ended.is_set():
            try:
                other = self._try()
            except (StoreError, LeaseNotFound) as error:
                other = f"etcd: {error}"
            if self.term:
                log.info("on duty", term=self.term)
                return True
            if other != told:
                log.info("waiting for duty", why=other)
                told = other
            ended.wait(RENEW_SECONDS)
        return False

    def keep(self, ended: threading.Event) -> None:
        """Renew the lease until `ended` is set, or the duty is lost."""
        renewed = self._clock.boottime()
        while not ended.wait(RENEW_SECONDS):
            try:
                if self._store.keep_alive(self._lease, deadline=self._clock.boottime() + RENEW_SECONDS) <= 0:
                    break
                renewed = self._clock.boottime()
            except StoreError as error:
                log.warning("duty not renewed", error=str(error))
                if self._clock.boottime() - renewed >= TTL_SECONDS:
                    break
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

    def _try(self) -> str:
        """Why it is not this notifier's turn; "" if it is."""
        deadline = self._clock.boottime() + RENEW_SECONDS
        item, _ = self._store.get(self._keys.notifier, deadline=deadline)
        if item is not None:
            return "another notifier is on duty"
        self.give_up()
        self._lease = new_lease()
        self._store.grant(self._lease, TTL_SECONDS, deadline=deadline)
        op = new_op()
        value = codec.encode({"id": self._name, "op": op})
        key = self._keys.notifier
        creation = Transaction((Guard(key, 0),), (Put(key, value, self._lease),), op)
        answer = self._store.commit(creation, deadline=deadline)
        if isinstance(answer, Committed):
            self.term = answer.revision
            return ""
        return "another notifier was faster"
