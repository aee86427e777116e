"""What the process engine enforces of a task's resources, and how.

- memory: the private resident memory of all processes of an attempt, added up about once a second by every
  replica that watches the engine; above the spec's `memory` the attempt is killed, with the reason OOMKilled.
  So a burst of less than a second passes. Not by RLIMIT_AS or RLIMIT_DATA, which count what programs reserve
  and never use (Go, Java and node would not even start), each process for itself; and not by cgroups, which
  an unprivileged user seldom may make.
- cpu, and all other names: accounted for by the pool, not enforced.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from controller.engine.process import attempt_folder as files
from controller.engine.process.attempt_values import parse_record
from controller.engine.process.table import private_bytes, processes


class Excess(NamedTuple):
    """An attempt that uses more memory than it asked for; both in bytes."""

    folder: Path
    used: int
    limit: int


def over_memory(folders: Iterable[Path]) -> Iterator[Excess]:
    """Those of the running attempts that use more memory than their spec says; one pass over all processes.

    Raises OSError.
    """
    limited = {}
    for folder in folders:
        try:
            data = files.read_bytes(folder, files.RECORD)
        except OSError:
            continue  # shown where the attempt is looked at
        record = parse_record(data or b"")
        if record.memory_bytes and record.supervisor:
            limited[folder] = record.supervisor, record.memory_bytes
    if not limited:
        return
    children = defaultdict(list)
    for process in processes():
        children[process.parent].append(process.pid)
    for folder, (supervisor, limit) in limited.items():
        used, family = 0, [*children[supervisor]]
        while family:
            pid = family.pop()
            used += private_bytes(pid)
            family += children[pid]
        if used > limit:
            yield Excess(folder, used, limit)
