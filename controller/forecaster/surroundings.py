"""What a process that looks ahead takes of its machine: what others leave.

Whoever asks may lead. So the process comes last where processors are scarce, and goes before memory runs out:
in a container, all processes can be ended with one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import structlog

MORE_PROCESSES = "if that is a limit of processes or files (pids, TasksMax, ulimit), raise it"
NICENESS = 10  # beside whoever asks
_LAST = "1000"  # of oom_score_adj: ended before all others
RESERVE_BYTES = 64 << 20  # of memory, which is left to others
EXIT_MEMORY = os.EX_TEMPFAIL  # of a process that has gone before memory ran out
END_FORKS = signal.SIGUSR1  # ends the forks of a process, and not the process
LOOK_SECONDS = 0.2  # between two looks at what is left: a load takes some MiB in that time
_TICKS = os.sysconf("SC_CLK_TCK")
log = structlog.get_logger(__name__)


def step_back() -> None:
    """Let others come first, as far as this process may: what is refused, the log says."""
    try:
        os.nice(NICENESS)
    except OSError as error:  # a seccomp filter, such as systemd's ~@resources
        log.warning("looks ahead are as important as the replica: setpriority(2) is refused", why=str(error))
    try:
        Path("/proc/self/oom_score_adj").write_text(_LAST)
    except OSError as error:
        log.warning("looks ahead are not ended first when memory runs out", why=str(error))


def yield_cores() -> None:
    """Compute only on processors that nobody else wants, from now on. It needs a privilege to take that back.

    Source: sched(7), SCHED_IDLE. Where it is refused, niceness is all.
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def cpu_seconds(pid: int) -> float:
    """The processor time of a process. Raises OSError if it is not there."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def own_bytes(proc: Path = Path("/proc")) -> int:
    """What this process takes of memory for itself alone; 0 if that cannot be read."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        fields = (line.split() for line in (proc / "self" / "status").read_text().splitlines())
        return int({name: rest for name, *rest in fields if rest}["RssAnon:"][0]) * 1024
    return 0


def left_bytes(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What may be taken of memory: the least of what the machine has left, and each group of this process.

    None if nothing can be read.
    """
    return min(_left(proc, groups), default=None)


def lacking_memory() -> str:
    """Why there is no room for a process with a model as large as this one's; "" if there is.

    Where nothing can be read, there is.
    """
    left, needed = left_bytes(), own_bytes() + RESERVE_BYTES
    if left is None or left >= needed:
        return ""
    return f"it would need {needed >> 20} MiB of memory, and {left >> 20} MiB are left"


def leave_before_memory_ends() -> None:
    """End this process and its forks, which are a process group, once memory is scarce, whoever took it.

    Call it in the main thread.
    """
    signal.signal(END_FORKS, signal.SIG_IGN)
    threading.Thread(target=_leave, name="forecaster-memory", daemon=True).start()


def _leave() -> None:
    while (left := left_bytes()) is None or left >= RESERVE_BYTES:
        time.sleep(LOOK_SECONDS)
    log.warning("no look ahead: memory is left to others", left_bytes=left, reserve_bytes=RESERVE_BYTES)
    os.killpg(0, END_FORKS)
    os._exit(EXIT_MEMORY)


def _left(proc: Path, groups: Path) -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError, KeyError):
        fields = (line.split() for line in (proc / "meminfo").read_text().splitlines())
        yield {name: int(value) for name, value, *_ in fields}["MemAvailable:"] * 1024
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, kinds, path = [*line.split(":", 2), "", ""][:3]
        if not kinds:
            yield from _left_above(groups, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in kinds.split(","):
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
            yield from _left_above(groups / "memory", path, *names)


def _left_above(root: Path, path: str, limit: str, usage: str, cache: str) -> Iterator[int]:
    """What each group from there to the root has left. In a container, the root is its own group."""
    group = root / path.strip("/")
    for each in (group, *group.parents):
        if not each.is_relative_to(root):
            return
        with contextlib.suppress(OSError, ValueError, KeyError):  # "max"; not there; the root has no limit
            most, used = int((each / limit).read_text()), int((each / usage).read_text())
            stat = dict(line.split() for line in (each / "memory.stat").read_text().splitlines())
            yield max(0, most - used + int(stat[cache]))
