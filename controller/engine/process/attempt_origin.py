"""The origin of an attempt. Its uid has it, so that the proof of its end needs no folder.

Only the standard library is imported, since every supervisor carries this module.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

BOOT_LETTERS = 8
"""The number of letters of a boot's id in an origin."""


class Origin(NamedTuple):
    """What a search for an attempt's processes uses, apart from their environment."""

    # the command's session: the pid and the start (in clock ticks since boot) of its first process
    session: int
    session_started: int
    pid_namespace: int
    lock_inode: int
    boot: str  # the first letters of the boot's id

    @classmethod
    def of_uid(cls, uid: str) -> Origin | None:
        """The origin in an attempt's uid; None if another version made the uid."""
        parts = uid.split(".")
        if len(parts) != len(cls._fields) + 1 or not all(
            part.isascii() and part.isdigit() for part in parts[:4]
        ):
            return None
        session, started, namespace, inode = map(int, parts[:4])
        return cls(session, started, namespace, inode, parts[4])

    def to_uid(self, random: str) -> str:
        """A uid with this origin; `random` makes it unique."""
        return ".".join(map(str, (*self, random)))


def boot_id() -> str:
    """The id of this boot of the machine. No process outlives its boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def this_boot() -> str:
    """The id of this boot, shortened as in an origin."""
    return boot_id()[:BOOT_LETTERS]
