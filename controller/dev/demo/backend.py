"""Backends as they are written at first. Each is wrong, or expensive, in a way of its own.

A pool has one balance: the number of its free units. A task holds one unit while it runs. A replica that
hears of a task's end writes that, and gives the unit back (`release`). A replica that has a waiting task
takes a unit for it, if one is free (`acquire`).

Unlike Tally's, most of these transactions have no guard. They may be applied twice if an answer is lost. The
demo's etcd answers.
"""

from __future__ import annotations

from collections.abc import Callable

from controller.clock import Clock
from controller.store.base import Guard, KeyValue, Put, Refused, Store, Transaction, Write, new_op

RUNNING, SUCCEEDED = b"Running", b"Succeeded"
CALL_SECONDS = 10.0


class Backend:
    """One replica of such a backend. `pause` is called between what it reads and what it writes.

    Its methods raise StoreError. `refused` counts the transactions that etcd has refused.
    """

    def __init__(self, store: Store, prefix: str, clock: Clock) -> None:
        self._store = store
        self._prefix = prefix
        self._clock = clock
        self.pause: Callable[[], None] = lambda: None
        self.refused = 0

    def release(self, task: int) -> None:
        """Each replica writes and releases. Nothing is compared."""
        free = self.free()
        self.pause()
        self._write(Put(self._task(task), SUCCEEDED))
        self._write(self._put_free(free + 1))

    def release_by_balance(self, task: int) -> None:
        """The balance is compared with what was read, so that no update is lost."""
        while True:
            balance = self._read(self._balance)
            self.pause()
            writes = Put(self._task(task), SUCCEEDED), self._put_free(_number(balance) + 1)
            if self._write(*writes, guards=(_unchanged(self._balance, balance),)):
                return

    def release_by_both(self, task: int) -> None:
        """The task is compared, too, so that only one replica writes its end. The others try in vain."""
        while True:
            state = self._read(self._task(task))
            if state is not None and state.value == SUCCEEDED:
                return
            balance = self._read(self._balance)
            self.pause()
            writes = Put(self._task(task), SUCCEEDED), self._put_free(_number(balance) + 1)
            guards = _unchanged(self._task(task), state), _unchanged(self._balance, balance)
            if self._write(*writes, guards=guards):
                return

    def release_as_leader(self, task: int, fence: Guard | None) -> bool:
        """The leader writes alone. The fence compares its term. False: the end was written before."""
        state = self._read(self._task(task))
        if state is not None and state.value == SUCCEEDED:
            return False
        free = self.free()
        self.pause()
        writes = Put(self._task(task), SUCCEEDED), self._put_free(free + 1)
        self._write(*writes, guards=() if fence is None else (fence,))
        return True

    def acquire(self, task: int) -> bool:
        """Take a unit, if one is free. Nothing is compared. True: the task runs."""
        free = self.free()
        if free < 1:
            return False
        self.pause()
        self._write(Put(self._task(task), RUNNING))
        self._write(self._put_free(free - 1))
        return True

    def acquire_by_balance(self, task: int) -> bool:
        """As `acquire`, with the balance compared."""
        while (free := _number(balance := self._read(self._balance))) > 0:
            self.pause()
            writes = Put(self._task(task), RUNNING), self._put_free(free - 1)
            if self._write(*writes, guards=(_unchanged(self._balance, balance),)):
                return True
        return False

    def acquire_as_leader(self, task: int, fence: Guard | None) -> bool:
        """The leader takes alone. The fence compares its term. True: the task runs."""
        free = self.free()
        if free < 1:
            return False
        self.pause()
        writes = Put(self._task(task), RUNNING), self._put_free(free - 1)
        return self._write(*writes, guards=() if fence is None else (fence,))

    def free(self) -> int:
        """The balance, in units."""
        return _number(self._read(self._balance))

    def set_free(self, units: int) -> None:
        """Write the balance, as the operator who defines the pool does."""
        self._write(self._put_free(units))

    @property
    def _balance(self) -> str:
        return f"{self._prefix}free"

    def _task(self, number: int) -> str:
        return f"{self._prefix}tasks/{number}"

    def _put_free(self, units: int) -> Put:
        return Put(self._balance, str(units).encode())

    def _read(self, key: str) -> KeyValue | None:
        return self._store.get(key, deadline=self._clock.boottime() + CALL_SECONDS)[0]

    def _write(self, *writes: Write, guards: tuple[Guard, ...] = ()) -> bool:
        transaction = Transaction(guards, writes, new_op())
        outcome = self._store.commit(transaction, deadline=self._clock.boottime() + CALL_SECONDS)
        self.refused += isinstance(outcome, Refused)
        return not isinstance(outcome, Refused)


def _number(item: KeyValue | None) -> int:
    return int(item.value) if item is not None else 0


def _unchanged(key: str, item: KeyValue | None) -> Guard:
    return Guard(key, item.mod if item is not None else 0)
