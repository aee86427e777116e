"""One naive replica, as a process: `python -m controller.dev.demo.replica`, with orders on its stdin."""

from __future__ import annotations

import os
import queue
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable

import msgspec

from controller.clock import SystemClock
from controller.dev.demo.backend import CALL_SECONDS, Backend
from controller.dev.demo.course import Design
from controller.dev.demo.orders import Act, Order, Pause, Told, Word
from controller.store.base import Committed, Guard, Put, StoreError, Transaction, new_op
from controller.store.etcd.gateway import GatewayOptions
from controller.store.etcd.store import EtcdStore
from controller.store.etcd.watch import EtcdWatch

TTL_SECONDS = 2  # the least that an etcd with default settings grants


class Campaign:
    """Campaigns for a lease as clients of etcd usually do, and writes ends while it leads.

    It knows that it leads until a keep-alive fails. A suspended process sends none, and asks nobody.
    """

    def __init__(self, replica: NaiveReplica, order: Order) -> None:
        self._replica = replica
        self._prefix = order.prefix
        self._key = f"{order.prefix}leader"
        self._is_fenced = order.design is Design.FENCED
        self.heard: queue.Queue[Order | None] = queue.Queue()
        self._lease = 0
        self._ended = threading.Event()
        self._deposed = threading.Event()
        self._watch: EtcdWatch | None = None
        self._thread = threading.Thread(target=self._run, name="candidate", daemon=True)
        self._thread.start()

    def resign(self) -> None:
        """End, and delete the key."""
        self._ended.set()
        self.heard.put(None)
        if (watch := self._watch) is not None:
            watch.close()
        self._thread.join(CALL_SECONDS)
        self._replica.store.revoke(self._lease, deadline=self._replica.in_time())

    def _run(self) -> None:
        try:
            self._lead()
        # the process ends with it, so that the demo is told
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
            os._exit(1)

    def _lead(self) -> None:
        term = self._win()
        if not term:
            return
        threading.Thread(target=self._stay, name="keep-alive", daemon=True).start()
        self._replica.tell(Told(Word.LEADS))
        fence = Guard(self._key, term, on_create=True) if self._is_fenced else None
        while (order := self.heard.get()) is not None and not self._deposed.is_set():
            backend = self._replica.backend(order)
            if backend.release_as_leader(order.task, fence):
                self._replica.tell(Told(Word.DONE, order.task, backend.refused))

    def _win(self) -> int:
        """The term, once there is no other leader; 0 if this ends before."""
        store, in_time = self._replica.store, self._replica.in_time
        while not self._ended.is_set():
            self._lease = random.SystemRandom().randrange(1, 2**62)
            store.grant(self._lease, TTL_SECONDS, deadline=in_time())
            _, revision = store.get(self._key, deadline=in_time())
            write = Put(self._key, b"a naive replica", self._lease)
            outcome = store.commit(
                Transaction((Guard(self._key, 0),), (write,), new_op()), deadline=in_time()
            )
            if isinstance(outcome, Committed):
                return outcome.revision
            self._watch = store.watch(self._key, after=revision)
            if self._ended.is_set():
                return 0
            if not any(event.item is None for batch in self._watch for event in batch.events):
                return 0
        return 0

    def _stay(self) -> None:
        while not self._ended.wait(TTL_SECONDS / 4):
            try:
                lives = self._replica.store.keep_alive(self._lease, deadline=self._replica.in_time())
            except StoreError:
                continue  # its next write tells
            if not lives:
                self._deposed.set()
                return


class NaiveReplica:
    """Carries out orders, and tells what it did."""

    def __init__(self, options: GatewayOptions) -> None:
        self._clock = SystemClock()
        self.store = EtcdStore(options, self._clock)
        self._candidate: Campaign | None = None
        self._printing = threading.Lock()
        self._lines = sys.stdin.buffer

    def run(self) -> None:
        """Until the demo closes the pipe."""
        self.store.get("/", deadline=self.in_time())  # connected, before it counts
        self.tell(Told(Word.READY))
        while (order := self._next()) is not None:
            self._carry_out(order)

    def in_time(self) -> float:
        """A deadline."""
        return self._clock.boottime() + CALL_SECONDS

    def tell(self, told: Told) -> None:
        """Write a line to the demo."""
        with self._printing:
            sys.stdout.buffer.write(msgspec.json.encode(told) + b"\n")
            sys.stdout.buffer.flush()

    def backend(self, order: Order) -> Backend:
        """The backend that an order is for."""
        backend = Backend(self.store, order.prefix, self._clock)

        def pause() -> None:
            backend.pause = lambda: None  # once for each order
            if order.pause is Pause.SUSPEND:
                # to this thread: another one might take a signal to the process while this one goes on
                signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
            elif order.pause is Pause.MEET:
                self.tell(Told(Word.MEETS, order.task))
                self._next()

        backend.pause = pause
        return backend

    def _next(self) -> Order | None:
        line = self._lines.readline()
        return msgspec.json.decode(line, type=Order) if line else None

    def _carry_out(self, order: Order) -> None:
        match order.act:
            case Act.CAMPAIGN:
                self._candidate = Campaign(self, order)
            case Act.RESIGN if self._candidate is not None:
                self._candidate.resign()
                self._candidate = None
                self.tell(Told(Word.RESIGNED))
            case Act.HEAR if self._candidate is not None:
                self._candidate.heard.put(order)
            case Act.HEAR | Act.ADMIT:
                backend = self.backend(order)
                took = _METHODS[order.design](backend, order.task)
                self.tell(Told(Word.DONE, order.task, backend.refused, bool(took)))


_METHODS: dict[Design, Callable[[Backend, int], bool | None]] = {
    Design.IN_TURN: Backend.release,
    Design.AT_ONCE: Backend.release,
    Design.BALANCE: Backend.release_by_balance,
    Design.BOTH: Backend.release_by_both,
    Design.ACQUIRE: Backend.acquire,
    Design.ACQUIRE_BALANCE: Backend.acquire_by_balance,
}


if __name__ == "__main__":
    NaiveReplica(msgspec.json.decode(sys.stdin.buffer.readline(), type=GatewayOptions)).run()
