"""Where an attempt began, which its uid says: so the proof of its end needs no folder.

Only the standard library is imported,
since every supervisor carries this module with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

BOOT_LETTERS = 8
"""Of a boot's id, as an origin has them."""


class Origin(NamedTuple):
    """What a search for an attempt's processes goes by, beside their environment."""

    # the command's own, by the number and the start (in clock ticks since boot) of its first process
    session: int
    session_started: int
    pid_namespace: int
    lock_inode: int
    boot: str  # the first letters of the boot's id

    @classmethod
    def of_uid(cls, uid: str) -> Origin | None:
        """What the attempt's uid says; None for one that another version made."""
        parts = uid.split(".")
        if len(parts) != len(cls._fields) + 1 or not all(
            part.isascii() and part.isdigit() for part in parts[:4]
        ):
            return None
        session, started, namespace, inode = map(int, parts[:4])
        return cls(session, started, namespace, inode, parts[4])

    def to_uid(self, random: str) -> str:
        """A uid that says this; `random` makes it unique."""
        return ".".join(map(str, (*self, random)))


def boot_id() -> str:
    """Names this boot of the machine: another one means that no process of then is left."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def this_boot() -> str:
    """The same as an origin has it."""
    return boot_id()[:BOOT_LETTERS]
