"""Notices a leader's death before its lease ends, and lets a successor in.

A follower keeps a TCP connection to the leader's status endpoint. When the kernel of the leader's machine
ends that connection *and* refuses a new one, no process listens there any more. The follower then deletes the
leader key, if it is still that of the same term, and campaigns. So a killed leader is replaced in
milliseconds, not after the time of a lease.

This is safe whether the leader is dead or not, because of the fence. A leader that lives on and has only lost
its endpoint sees that its key is gone, by its next commit or by its watch, and steps down. A silent machine,
a time-out or an unreachable network proves nothing here: the follower waits for the lease to expire.

Against flapping: it acts only after a connection to that very term was established, and at most BURST times
in BURST_SECONDS. An endpoint that only hangs up, such as a proxy without a backend, is soon asked only every
LOOK_SECONDS.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

import structlog

from controller import bulkhead
from controller.clock import Clock
from controller.core.model.op import op_of
from controller.core.model.records import Change, decode_or_empty
from controller.store.base import Committed, Delete, Guard, Purpose, Store, StoreError, Transaction
from controller.store.keys import Keys

CONNECT_SECONDS = 1.0
LOOK_SECONDS = 0.5  # interval of the check whether another replica leads, in case a wake-up is missed
# before a leader that hung up is asked again: a dying process may still accept connections
FIRST_PAUSE_SECONDS = 0.01
BURST, BURST_SECONDS = 5, 60.0

log = structlog.get_logger(__name__)


class Target(NamedTuple):
    """The leader to watch: its term, and where its status endpoint listens."""

    term: int
    host: str
    port: int

    @classmethod
    def of(cls, term: int, status_url: object) -> Target | None:
        """From a leader's record; None if it does not say where it listens."""
        try:
            url = urlsplit(str(status_url))
            return cls(term, url.hostname, url.port) if url.hostname and url.port else None
        except ValueError:
            return None

    @classmethod
    def of_another(cls, leader: Change | None, instance: str) -> Target | None:
        """From the leader's key; None if no replica leads, or this instance does."""
        record = decode_or_empty(leader)
        if leader is None or record.get("instance") == instance:
            return None
        return cls.of(leader.create, record.get("status_url"))


class Sentinel:
    """Runs in a thread of its own until `close`.

    `target` returns the leader to watch; None while no other replica leads.
    """

    def __init__(
        self,
        store: Store,
        keys: Keys,
        clock: Clock,
        replica: str,
        target: Callable[[], Target | None],
        on_deposed: Callable[[], None],
    ) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._replica = replica
        self._target = target
        self._on_deposed = on_deposed
        self._acted_at: deque[float] = deque(maxlen=BURST)
        self._connected_to: Target | None = None
        self._closed = threading.Event()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="sentinel", daemon=True)
        self.deposed = 0

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def wake(self) -> None:
        """Look now: another replica leads, or none does."""
        with contextlib.suppress(OSError):  # full: it will look anyway; closed: it has ended
            self._wake_writer.send(b"w")

    def close(self) -> None:
        """End the connection and the thread."""
        self._closed.set()
        self.wake()
        self._thread.join(2 * CONNECT_SECONDS)
        self._wake_writer.close()
        self._wake_reader.close()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._watch()
            # the lease's end is awaited, as without a sentinel
            except Exception as error:  # noqa: BLE001
                bulkhead.caught("sentinel", error)
                self._closed.wait(LOOK_SECONDS)

    def _watch(self) -> None:
        pause, last = LOOK_SECONDS, None
        while not self._closed.is_set():
            target, began = self._target(), self._clock.boottime()
            was_connected = target is not None and self._stays_connected(target)
            if target != last or (was_connected and self._clock.boottime() - began >= LOOK_SECONDS):
                pause, last = FIRST_PAUSE_SECONDS, target
            if target is not None and was_connected and self._is_refused(target) and self._target() == target:
                self._depose(target)
            elif self._target() == target:
                self._wait_for_wake(seconds=pause)
                pause = min(2 * pause, LOOK_SECONDS)

    def _stays_connected(self, target: Target) -> bool:
        """Connect, and wait until the connection ends.

        False if there was no connection, or another replica leads now.
        """
        try:
            connection = socket.create_connection((target.host, target.port), timeout=CONNECT_SECONDS)
        # a process that is killed accepts connections for a moment after it has lost ours
        except ConnectionRefusedError:
            return self._connected_to == target
        except (OSError, ValueError):  # ValueError: a name that no machine can have
            return False
        self._connected_to = target
        with connection:
            while not self._closed.is_set() and self._target() == target:
                if connection not in self._wait_for_wake(connection):
                    continue
                with contextlib.suppress(OSError):  # a reset is an end, too
                    if connection.recv(4096):
                        continue  # an HTTP server's time-out answer, before it hangs up
                return True
        return False

    def _wait_for_wake(self, *others: socket.socket, seconds: float = LOOK_SECONDS) -> list[socket.socket]:
        """Wait for a wake-up, or until one of `others` is readable. Returns the readable ones."""
        poll = select.poll()  # select() takes no descriptor above 1023
        for waited_for in (self._wake_reader, *others):
            poll.register(waited_for, select.POLLIN)
        readable = {descriptor for descriptor, _ in poll.poll(seconds * 1000)}
        with contextlib.suppress(BlockingIOError):
            while self._wake_reader.recv(4096):
                continue
        return [other for other in others if other.fileno() in readable]

    def _is_refused(self, target: Target) -> bool:
        """Whether the leader's machine answers that no process listens.

        A server that merely hung up accepts a new connection.
        """
        try:
            socket.create_connection((target.host, target.port), timeout=CONNECT_SECONDS).close()
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return False

    def _depose(self, target: Target) -> None:
        self._connected_to = None  # another try needs another connection
        now = self._clock.boottime()
        if len(self._acted_at) == BURST and now - self._acted_at[0] < BURST_SECONDS:
            log.info(
                "the leader's endpoint has gone too often lately: waiting for its lease to end",
                term=target.term,
            )
            self._wait_for_wake()
            return
        self._acted_at.append(now)
        guard = Guard(self._keys.leader, target.term, on_create=True)
        transaction = Transaction(
            (guard,),
            (Delete(self._keys.leader),),
            op_of(self._replica, "depose", target.term),
            Purpose.ELECTION,
        )
        try:
            result = self._store.commit(transaction, deadline=now + CONNECT_SECONDS)
        except StoreError as error:
            log.info("the leader's endpoint is gone, but the store does not answer", error=str(error))
            return
        if isinstance(result, Committed):
            self.deposed += 1
            log.warning("the leader's process is gone: ending its term before its lease", term=target.term)
            self._on_deposed()
