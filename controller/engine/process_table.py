"""The machine's processes as /proc shows them (proc(5)), and how to kill one without ever hitting another of its number."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from typing import NamedTuple

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Process(NamedTuple):
    """One process that has not ended; `started` is in clock ticks since boot, and with the pid names it for good."""

    pid: int
    parent: int
    session: int
    started: int


def read_process(pid: int) -> Process | None:
    """The process of this number, None when there is none or it is a zombie (nothing of it runs any more)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name, in parentheses, may hold anything: fields are counted from the last one.
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X"):
        return None
    return Process(pid, int(fields[1]), int(fields[3]), int(fields[19]))


def processes() -> Iterator[Process]:
    """All processes, in the order of their numbers, so that what they fork meanwhile is met further on."""
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        process = read_process(pid)
        if process is not None:
            yield process


def environment_value(pid: int, name: str) -> str | None:
    """A variable of the environment that the process was started with; None when it has none or is not ours to read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            environment = file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    prefix = f"{name}=".encode()
    return next((os.fsdecode(item[len(prefix) :]) for item in environment.split(b"\0") if item.startswith(prefix)), None)


def private_bytes(pid: int) -> int:
    """Resident memory that the process shares with no file or other segment; 0 when it has ended."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            fields = file.read().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return (int(fields[1]) - int(fields[2])) * PAGE_BYTES


def kill_and_wait(targets: list[Process], timeout_seconds: float) -> None:
    """SIGKILL each and wait until they have ended, or for the next of them at most so long. Raises PermissionError."""
    poll = select.poll()
    handles = []
    try:
        for target in targets:
            try:
                handle = os.pidfd_open(target.pid)
                handles.append(handle)
                current = read_process(target.pid)
                # Read after the handle was opened: when it is the one we mean, the handle stands for no other.
                if current is not None and current.started == target.started:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for handle in handles:
            poll.register(handle, select.POLLIN)
        remaining = len(handles)
        while remaining and (ended := poll.poll(timeout_seconds * 1000)):
            for handle, _ in ended:
                poll.unregister(handle)
            remaining -= len(ended)
    finally:
        for handle in handles:
            os.close(handle)
