"""The machine's processes by /proc (proc(5)), and a kill that never hits a later process of the same pid."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterator
from typing import NamedTuple

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_ENDED = (b"Z", b"X")
_STOPPED = (b"T", b"t")


class Process(NamedTuple):
    """A process with a running thread. Its pid and `started`, in clock ticks since boot, identify it."""

    pid: int
    parent: int
    session: int
    started: int
    # under /proc: of a thread that has not ended, since only there memory and descriptors are still to be
    # seen
    path: str
    is_stopped: bool = False  # by SIGSTOP, or by a debugger


def read_process(pid: int) -> Process | None:
    """The process with this pid; None if there is none, or none of its threads runs.

    A process whose main thread has ended is a zombie, but its other threads may still run.
    """
    path = f"/proc/{pid}"
    fields = _stat(path)
    if fields is None:
        return None
    state = fields[0]
    if state in _ENDED:
        living = next(_living_threads(path), None)
        if living is None:
            return None
        path, state = living
    return Process(pid, int(fields[1]), int(fields[3]), int(fields[19]), path, state in _STOPPED)


def pids() -> list[int]:
    """The pids of all processes, in order."""
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def processes() -> Iterator[Process]:
    """All processes in the order of their pids, so that most of their new forks are met later on."""
    for pid in pids():
        process = read_process(pid)
        if process is not None:
            yield process


def environment(process: Process) -> bytes | None:
    """The environment at its start, each variable ended by a zero byte; None if we may not read it.

    It is empty for an instant while the process executes another program: look twice.
    """
    try:
        return _read(f"{process.path}/environ")
    except PermissionError:
        return None


def value_in(environment: bytes, name: str) -> str | None:
    """A variable of such an environment."""
    prefix = f"{name}=".encode()
    return next(
        (os.fsdecode(item[len(prefix) :]) for item in environment.split(b"\0") if item.startswith(prefix)),
        None,
    )


def environment_value(pid: int, name: str) -> str | None:
    """A variable of the process's environment at its start; None if not set, or if we may not read it."""
    process = read_process(pid)
    return value_in(environment(process) or b"", name) if process is not None else None


def private_bytes(process: Process) -> int:
    """The private resident memory of the process, in bytes; 0 if it has ended."""
    try:
        fields = _read(f"{process.path}/statm").split()
    except PermissionError:
        return 0  # hidden from us: see `why_unseen`
    return (int(fields[1]) - int(fields[2])) * PAGE_BYTES if fields else 0


def next_number() -> int:
    """The pid that the kernel assigns next; the call uses it up.

    Pids are assigned in order: if two calls return successive ones, nothing was forked in between.
    """
    number: list[int] = []
    thread = threading.Thread(target=lambda: number.append(threading.get_native_id()), name="next-number")
    thread.start()
    thread.join()
    return number[0]


def why_unseen() -> str:
    """Why /proc does not show all processes of our PID namespace to us; "" when it does."""
    if os.readlink("/proc/self") != str(os.getpid()):
        return "/proc is that of another PID namespace"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        mounts = [line.split() for line in file]
    # The last one that is mounted on /proc is the one that is seen.
    options = next((mount[-1].split(",") for mount in reversed(mounts) if mount[4] == "/proc"), [])
    hidden = next(
        (
            option
            for option in options
            if option.startswith("hidepid=") and option not in ("hidepid=0", "hidepid=off")
        ),
        "",
    )
    if hidden and os.geteuid() != 0:
        return f"/proc is mounted with {hidden}, which hides the processes of other users"
    if _stat("/proc/1") is None:
        return "/proc does not show process 1"
    return ""


def pid_namespace() -> int:
    """The id of our PID namespace, which is unique while the namespace exists."""
    return os.stat("/proc/self/ns/pid").st_ino


def kill(target: Process) -> int | None:
    """Send SIGKILL, and return a handle for `wait_ended`; None if the process has ended.

    Raises PermissionError.
    """
    try:
        handle = os.pidfd_open(target.pid)
    except ProcessLookupError:
        return None
    try:
        current = read_process(target.pid)
        # Read after the handle was opened: if this is the process that we mean, so is the handle's.
        if current is not None and current.started == target.started:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            return handle
    except ProcessLookupError:
        pass
    except PermissionError:
        os.close(handle)
        raise
    os.close(handle)
    return None


def wait_ended(handles: list[int], timeout_seconds: float) -> None:
    """Wait until these processes have ended, or the time passes without an end; closes the handles."""
    poll = select.poll()
    try:
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


def _stat(path: str) -> list[bytes] | None:
    """The fields from the state on; None if there is no such process, or it is hidden from us."""
    try:
        stat = _read(f"{path}/stat")
    except PermissionError:
        return None
    # The command's name, in parentheses, may hold anything: fields are counted from the last one.
    return stat[stat.rindex(b")") + 2 :].split() if stat else None


def _living_threads(path: str) -> Iterator[tuple[str, bytes]]:
    """The path and state of each thread of a process that has not ended."""
    try:
        threads = os.listdir(f"{path}/task")
    except (FileNotFoundError, ProcessLookupError):
        return
    for thread in threads:
        fields = _stat(f"{path}/task/{thread}")
        if fields is not None and fields[0] not in _ENDED:
            yield f"{path}/task/{thread}", fields[0]


def _read(path: str) -> bytes:
    """The content of the file; b"" if the process has ended. Raises PermissionError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return b""
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
        return b"".join(parts)
    except ProcessLookupError:
        return b""
    finally:
        os.close(fd)
