"""The threads of the elector and of the replica's registration.

They are separate, so that neither can delay the keep-alive of the leader's lease.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import structlog

from controller import bulkhead
from controller.clock import Clock
from controller.core.model import codec
from controller.core.model.op import op_of
from controller.election.elector import Elector
from controller.errors import TallyError
from controller.store.base import (
    Delete,
    Guard,
    KeyValue,
    Purpose,
    Put,
    Refused,
    Store,
    StoreError,
    Transaction,
    Write,
)

CLOSE_SECONDS = 3.0
MISSED_HEARTBEATS = 5  # after so many, a replica's registration expires

log = structlog.get_logger(__name__)


class ElectorThread:
    """Drives an elector in its own thread until `close`.

    `on_error` is called with errors that the elector cannot handle by itself.
    """

    def __init__(self, elector: Elector, on_error: Callable[[TallyError], None]) -> None:
        self._elector = elector
        self._on_error = on_error
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="election", daemon=True)

    def start(self) -> None:
        """Begin to campaign."""
        self._thread.start()

    def wake(self) -> None:
        """Make the elector look now: the leader key is gone, or a release was requested."""
        self._wake.set()

    def release(self, why: str, *, unexpected: bool = False) -> None:
        """Release leadership, if held, and let the others campaign first. For `unexpected`, see Elector."""
        self._elector.release(why, campaign_again=True, unexpected=unexpected)
        self.wake()

    def close(self, why: str, timeout_seconds: float) -> bool:
        """Release leadership, if held, and end the thread, if started. True if it ended within the time."""
        self._closing = True
        self._elector.release(why, campaign_again=False)
        self.wake()
        if self._thread.is_alive():  # else it is not started, or is just starting and ends at once
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not (self._closing and self._elector.leadership is None):
            try:
                delay = self._elector.step()
            except TallyError as error:
                self._on_error(error)
                delay = 1.0
            # a term that is not renewed because of it ends by its deadline
            except Exception as error:  # noqa: BLE001
                bulkhead.caught("election", error)
                delay = 1.0
            self._wake.wait(delay)
            self._wake.clear()


class Registration:
    """Keeps what a process says of itself current under its key, `key_of(id)`, with a lease of its own.

    Every refresh is a write under the cluster's prefix, so every healthy watch of the prefix delivers
    something at least that often. A watch that is silent for longer is dead, not idle. (etcd's own progress
    notices come only every ten minutes.)

    Two processes of the same name are told apart (fault 8): the second registers as `<name>-<instance>` until
    the name is free.
    """

    def __init__(
        self,
        store: Store,
        key_of: Callable[[str], str],
        clock: Clock,
        identity: dict[str, Any],
        describe: Callable[[], dict[str, Any]],
        heartbeat_seconds: float,
        new_lease: Callable[[], int],
    ) -> None:
        self._store = store
        self._key_of = key_of
        self._clock = clock
        self._identity = identity
        self._describe = describe
        self._interval = heartbeat_seconds
        self._new_lease = new_lease
        self._lease = 0
        self._beats = 0
        self._registered_as = ""
        self._told = ""  # the last error, once in the log
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="registration", daemon=True)

    def start(self) -> None:
        """Register, and stay registered."""
        self._thread.start()

    def close(self) -> None:
        """Remove the registration at once, if the store answers."""
        self._closed.set()
        self._thread.join(self._interval + 5.0)
        if self._lease:
            try:
                self._store.revoke(self._lease, deadline=self._clock.boottime() + CLOSE_SECONDS)
            except StoreError as error:
                log.info("registration not removed, it will expire", error=str(error))

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._refresh(self._clock.boottime() + max(1.0, self._interval))
                self._told = ""
            except StoreError as error:
                if str(error) != self._told:
                    log.warning("registration not refreshed", error=str(error))
                self._told = str(error)
            except Exception as error:  # noqa: BLE001  # it expires, and is made again
                bulkhead.caught("registration", error)
            self._closed.wait(self._interval)

    def _refresh(self, deadline: float) -> None:
        if self._lease and self._store.keep_alive(self._lease, deadline=deadline) <= 0:
            self._lease = 0
        if not self._lease:
            lease = self._new_lease()
            self._store.grant(lease, max(2, int(self._interval * MISSED_HEARTBEATS)), deadline=deadline)
            self._lease = lease
        name, instance = self._identity["id"], self._identity["instance"]
        if not self._put(name, deadline):
            other = f"{name}-{instance[:8]}"
            if self._registered_as != other:
                log.warning(
                    "another process has this name, or its registration has not expired yet",
                    name=name,
                    registered_as=other,
                )
            self._put(other, deadline)

    def _put(self, name: str, deadline: float) -> bool:
        """Write the registration under `name`, unless another instance has it."""
        key = self._key_of(name)
        current, _ = self._store.get(key, deadline=deadline)
        if current is not None and self._instance_of(current) != self._identity["instance"]:
            return False
        self._beats += 1
        op = op_of(self._identity["instance"], "beat", self._beats)
        value = codec.encode({**self._identity, **self._describe(), "id": name, "op": op})
        guards = [Guard(key, current.mod if current is not None else 0)]
        writes: list[Write] = [Put(key, value, self._lease)]
        if self._registered_as not in ("", name):
            before, _ = self._store.get(self._key_of(self._registered_as), deadline=deadline)
            # otherwise another instance has it now
            if before is not None and self._instance_of(before) == self._identity["instance"]:
                guards.append(Guard(before.key, before.mod))
                writes.append(Delete(before.key))
        transaction = Transaction(tuple(guards), tuple(writes), op, Purpose.REGISTRATION)
        if isinstance(self._store.commit(transaction, deadline=deadline), Refused):
            return False
        self._registered_as = name
        return True

    @staticmethod
    def _instance_of(item: KeyValue) -> str:
        try:
            return str(codec.decode_mapping(item.value).get("instance", ""))
        except TallyError:
            return ""
