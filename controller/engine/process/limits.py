"""The limits that the process engine enforces.

- memory: every replica that watches the engine adds up the private resident memory of an attempt's processes,
  about once a second. An attempt that uses more than its spec's `memory` is killed, with the reason
  OOMKilled. A burst of less than a second may pass. RLIMIT_AS and RLIMIT_DATA are no alternative: they count
  memory that programs reserve and never use (Go, Java and node would not even start), and count it per
  process. Cgroups are no alternative, either: an unprivileged user can seldom create them.
- cpu and all other resources: counted by the pool, and not enforced.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from controller.engine.process import attempt_folder as files
from controller.engine.process.attempt_values import parse_record
from controller.engine.process.table import Process, private_bytes, processes


class Excess(NamedTuple):
    """An attempt that uses more memory than it asked for; both numbers are bytes."""

    folder: Path
    used: int
    limit: int


def over_memory(folders: Iterable[Path]) -> Iterator[Excess]:
    """The running attempts that use more memory than their spec allows, found by one pass over all processes.

    Raises OSError.
    """
    limited = {}
    for folder in folders:
        try:
            data = files.read_bytes(folder, files.RECORD)
        except OSError:
            continue  # reported when the attempt itself is observed
        record = parse_record(data or b"")
        if record.memory_bytes and record.supervisor:
            limited[folder] = record.supervisor, record.memory_bytes
    if not limited:
        return
    children = defaultdict[int, list[Process]](list)
    for process in processes():
        children[process.parent].append(process)
    for folder, (supervisor, limit) in limited.items():
        used, family = 0, [*children[supervisor]]
        while family:
            process = family.pop()
            used += private_bytes(process)
            family += children[process.pid]
        if used > limit:
            yield Excess(folder, used, limit)
