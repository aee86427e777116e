"""Naive replicas as processes of this machine, directed order by order."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import msgspec

from controller.dev.demo.course import REPLICAS
from controller.dev.demo.orders import Order, Told, Word
from controller.dev.etcd import end_with
from controller.errors import TallyError
from controller.signals import unbroken
from controller.store.etcd.gateway import GatewayOptions

ANSWER_SECONDS = 30.0


class DemoFailed(TallyError):
    """The demo could not run to its end. The message says why."""


class NaiveReplicas:
    """Three replicas. They end with the context, and with the thread that entered it."""

    def __init__(self, options: GatewayOptions, log: Path) -> None:
        self._options = options
        self._log = log
        self._processes: list[subprocess.Popen[bytes]] = []
        self._told: queue.SimpleQueue[tuple[int, Told]] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        try:
            for number in range(REPLICAS):
                with unbroken():
                    self._processes.append(self._start(number))
            self.expect(Word.READY, REPLICAS)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @unbroken()
    def close(self) -> None:
        """End the replicas, and wait for that. Idempotent."""
        for process in self._processes:
            process.kill()  # a suspended one, too
        for process in self._processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):  # an order that it had not taken
                        pipe.close()
        self._processes.clear()

    def tell(self, order: Order, *numbers: int) -> None:
        """Give an order to these replicas, or to all."""
        line = msgspec.json.encode(order) + b"\n"
        for number in numbers or range(REPLICAS):
            with suppress(BrokenPipeError):  # it has ended: `expect` says so
                _stdin(self._processes[number]).write(line)
                _stdin(self._processes[number]).flush()

    def expect(self, event: Word, count: int = 1) -> list[tuple[int, Told]]:
        """Wait for so many such events, with the numbers of their replicas. Raises DemoFailed."""
        found = []
        for _ in range(count):
            try:
                number, told = self._told.get(timeout=ANSWER_SECONDS)
            except queue.Empty:
                raise DemoFailed(
                    self._explain(f"no naive replica told {event.value!r} in {ANSWER_SECONDS:g} s")
                ) from None
            if told.event is not event:
                raise DemoFailed(self._why(number, told.event, event))
            found.append((number, told))
        return found

    def wait_suspended(self, number: int) -> None:
        """Wait until the replica has suspended itself. Raises DemoFailed if it has ended."""
        pid = self._processes[number].pid
        seen = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if seen is None or seen.si_code != os.CLD_STOPPED:
            raise DemoFailed(self._explain(f"naive replica {number + 1} has ended"))

    def resume(self, number: int) -> None:
        """Let a suspended replica go on where it was."""
        self._processes[number].send_signal(signal.SIGCONT)

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        with open(self._log, "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "controller.dev.demo.replica"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us
                preexec_fn=partial(end_with, os.getpid()),
            )
        _stdin(process).write(msgspec.json.encode(self._options) + b"\n")
        _stdin(process).flush()
        assert process.stdout is not None
        listener = partial(self._listen, number, process.stdout)
        threading.Thread(target=listener, name=f"replica-{number + 1}", daemon=True).start()
        return process

    def _listen(self, number: int, lines: IO[bytes]) -> None:
        for line in lines:
            self._told.put((number, msgspec.json.decode(line, type=Told)))
        self._told.put((number, Told(Word.ENDED)))

    def _why(self, number: int, told: Word, expected: Word) -> str:
        if told is Word.ENDED:
            code = self._processes[number].wait()
            return self._explain(f"naive replica {number + 1} has ended (exit code {code})")
        if told is Word.LEADS:
            return (
                "the lease of a naive leader has expired although nobody suspended it, so replica"
                f" {number + 1} leads: this machine was too slow, or stood still. Run the demo again"
            )
        return self._explain(f"naive replica {number + 1} told {told.value!r}, not {expected.value!r}")

    def _explain(self, what: str) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return f"{what}; its log ends with: {lines[-1] if lines else '(nothing)'}"


def _stdin(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None
    return process.stdin
