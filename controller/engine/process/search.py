"""Searches for processes of attempts, and proves that none is left.

A process belongs to an attempt if its environment names the attempt's folder, if it is in the command's
session, if it holds the lock that the command inherited, or if its parent belongs to the attempt. What is
known by its session alone, whose leader has ended, is not killed: the number may be of another one. A process
that cleared its environment, left its session *and* closed its descriptors is not found once its parent has
ended; but nothing escapes a supervisor that lives.

One pass over /proc proves nothing: in a chain where each process forks the next one and ends, a list shows
only a process that has ended before it is examined. Passes are therefore repeated, each over the pids that
are new since the last one, until a pass is *certain*: no process was forked from before its list was taken
until all on it were examined, and none on it ended before its turn. A process that lives then was on the
list, or its parent was. A machine that forks without a pause never gives such a moment. There, many passes in
a row must find nothing; each examines the newest pids first, where a chain is, within some ten microseconds.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from controller.engine.process import attempt_folder as files
from controller.engine.process.attempt_origin import Origin, this_boot
from controller.engine.process.table import (
    Process,
    environment,
    kill,
    next_number,
    pid_namespace,
    pids,
    read_process,
    value_in,
    wait_ended,
    why_unseen,
)

SEARCH_SECONDS = 1.0  # for one search; the caller repeats it
_KILL_WAIT_SECONDS = 0.2
_TIMED_PASSES = 20  # so many passes wait for a moment without a fork
_PASSES_IN_VAIN = 50
_DELETED = " (deleted)"


class Unproven(NamedTuple):
    """Why an attempt may still run: a CamelCase word, a sentence, and the pid of a living supervisor."""

    reason: str
    message: str
    supervisor: int = 0


def end_all(wanted: Mapping[Path, Origin | None]) -> dict[Path, Unproven]:
    """End the attempts of these folders, which have no known supervisor; returns those whose end is unproven.

    An attempt that has a supervisor after all is left alone. Raises OSError if /proc cannot be read.
    """
    unproven = {
        folder: why for folder, origin in wanted.items() if (why := _out_of_sight(origin)) is not None
    }
    rest = {
        folder: origin
        for folder, origin in wanted.items()
        # no process outlives its boot
        if folder not in unproven and (origin is None or origin.boot == this_boot())
    }
    return unproven | (_Search(rest).run() if rest else {})


def end_unlisted(folder: Path, uid: str) -> Unproven | None:
    """End the processes of an attempt without a folder; returns why it may still run."""
    origin = Origin.of_uid(uid)
    if origin is None:
        return Unproven(
            "Unlisted",
            "its folder was removed, and with it the record of where its processes are",
        )
    return end_all({folder: origin}).get(folder)


def end_leftovers(folder: Path) -> Unproven | None:
    """End the processes of an earlier start whose folder was removed; returns why they may still run.

    This holds the attempt's lock, so that no supervisor of the earlier start claims the attempt meanwhile.
    """
    lock = files.Lock.take(folder, make=True)
    if lock is None:
        return None  # that supervisor was faster, and is found by this start
    with lock:
        return None if files.exists(folder, files.RECORD) else end_all({folder: None}).get(folder)


def supervisor_of(folder: Path, origin: Origin | None) -> int:
    """The pid of the attempt's supervisor; 0 if none is seen. Raises OSError."""
    return _Search({folder: origin}).supervisor(folder)


def _out_of_sight(origin: Origin | None) -> Unproven | None:
    if origin is None or origin.boot != this_boot() or origin.pid_namespace in (0, pid_namespace()):
        return None
    message = (
        f"it runs in PID namespace {origin.pid_namespace}, and this replica, in {pid_namespace()}, cannot see"
        " its processes: all replicas of a state folder must share a namespace"
    )
    return Unproven("OtherPidNamespace", message)


class _Search:
    def __init__(self, wanted: Mapping[Path, Origin | None]) -> None:
        self._wanted = dict(wanted)
        origins = {folder: origin for folder, origin in wanted.items() if origin is not None}
        self._by_folder = {str(folder): folder for folder in wanted}
        self._by_session = {origin.session: folder for folder, origin in origins.items()}
        self._by_inode = {
            origin.lock_inode: folder for folder, origin in origins.items() if origin.lock_inode
        }
        self._others: set[int] = set()  # looked at in this search: of none of the attempts
        # had just ended, or showed no environment, when it was looked at first
        self._doubtful: set[int] = set()
        self._supervisors: set[int] = set()  # of any attempts
        self._supervised: dict[Path, int] = {}
        self._refused: dict[Path, str] = {}
        # The inode of a removed attempt's lock may have been reused, or exist on another file system, too.
        self._of_others: set[tuple[int, int]] = set()  # devices and inodes
        self._spared: set[int] = set()  # may be an attempt's, or that of another one that is supervised

    def run(self) -> dict[Path, Unproven]:
        """See `end_all`."""
        blind = why_unseen()
        give_up_at = time.monotonic() + SEARCH_SECONDS
        known: set[int] = set()
        in_vain = 0
        for number in itertools.count():
            # Nothing is killed in the first pass, which shows whether there is a supervisor.
            found, is_certain = self._pass(kills=number > 0, is_timed=number < _TIMED_PASSES)
            alive = {pid for group in found.values() for pid in group}
            in_vain = in_vain + 1 if alive <= known else 0
            known |= alive
            is_sure = is_certain or in_vain > _PASSES_IN_VAIN
            if number and (is_sure or blind) and found.keys() <= self._supervised.keys():
                return self._outcome(found, "", blind)
            if number and time.monotonic() > give_up_at:
                return self._outcome(
                    found, "" if is_sure else "processes are forked without any pause", blind
                )
        raise AssertionError("unreachable")

    def supervisor(self, folder: Path) -> int:
        """See `supervisor_of`."""
        # a command is met before the supervisor that it is known by, where its folder was replaced
        for _ in range(2):
            self._pass(kills=False, is_timed=False)
        return self._supervised.get(folder, 0)

    def _pass(self, kills: bool, is_timed: bool) -> tuple[dict[Path, list[int]], bool]:
        """Examine the new processes, and end those of attempts.

        Returns the processes that were found alive, and whether the pass is certain.
        """
        first, is_certain = next_number() if is_timed else 0, is_timed
        found: dict[Path, list[int]] = {}
        members: dict[int, Path] = {}
        handles: list[int] = []
        strangers = []
        listed = pids()
        self._others.intersection_update(listed)  # a free pid may have been assigned again
        for pid in reversed(listed):
            if pid in self._others or pid == os.getpid():
                continue
            process = read_process(pid)
            variables = environment(process) if process is not None else b""
            folder = self._folder_of(process, variables) if process is not None else None
            if process is not None and folder is not None:
                handles += self._meet(process, folder, found, kills)
                members[pid] = folder
            elif variables != b"" or pid in self._doubtful:
                self._others.add(pid)
                strangers += [process] if process is not None else []
            else:
                self._doubtful.add(pid)
                is_certain = False
        for process in reversed(strangers):
            if process.parent in members:
                folder = members[process.pid] = members[process.parent]
                handles += self._meet(process, folder, found, kills)
                self._others.discard(process.pid)
        wait_ended(handles, _KILL_WAIT_SECONDS)
        return found, is_certain and next_number() == first + 1

    def _meet(self, process: Process, folder: Path, found: dict[Path, list[int]], kills: bool) -> list[int]:
        """Handle a process of an attempt: it is to be ended if the attempt has no supervisor."""
        found.setdefault(folder, []).append(process.pid)
        if process.parent in self._supervisors:
            self._supervised[folder] = process.parent
        may_kill = kills and folder not in self._supervised and process.pid not in self._spared
        return self._end(process, folder) if may_kill else []

    def _end(self, process: Process, folder: Path) -> list[int]:
        try:
            handle = kill(process)
        except PermissionError:
            self._refused[folder] = (
                f"its process {process.pid} has changed its user, and this replica cannot kill it"
            )
            return []
        return [handle] if handle is not None else []

    def _folder_of(self, process: Process, variables: bytes | None) -> Path | None:
        """The folder of the process's attempt. Records supervisors, which belong to none."""
        marker = value_in(variables or b"", files.MARKER)
        if marker is not None and (folder := self._by_folder.get(marker)) is not None:
            return folder
        folder = self._of_session(process)
        if folder is not None and (variables is None or self._is_led(process)):
            return folder
        by_lock = self._of_lock(process, marker)
        if folder is not None and by_lock is None:
            # Its number may have come free, and another session may have had it since, whose leader has ended
            # as well: nobody can tell, so it is left alone, and proves nothing.
            self._spared.add(process.pid)
        return folder or by_lock

    def _of_session(self, process: Process) -> Path | None:
        folder = self._by_session.get(process.session)
        origin = self._wanted[folder] if folder is not None else None
        if origin is None:
            return None
        # A session's number comes free when its last process has ended: with another leader, or one from
        # before our time, it is not the session that we mean.
        leader = process if process.pid == process.session else read_process(process.session)
        is_another = leader is not None and leader.started != origin.session_started
        return None if is_another or process.started < origin.session_started else folder

    @staticmethod
    def _is_led(process: Process) -> bool:
        """Whether the leader of its session is there: then it is the session that we mean."""
        return process.pid == process.session or read_process(process.session) is not None

    def _of_lock(self, process: Process, marker: str | None) -> Path | None:
        """The attempt's folder, by the lock that the process holds, even if the lock's file was moved.

        `marker` is the folder that the process's environment names.
        """
        try:
            descriptors = os.listdir(f"{process.path}/fd")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return None
        for descriptor in descriptors:
            with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                path = f"{process.path}/fd/{descriptor}"
                link = os.readlink(path).removesuffix(_DELETED)
                if not link.endswith(f"/{files.LOCK}"):
                    continue
                status = os.stat(path)
                place = status.st_dev, status.st_ino
                by_path, by_inode = (
                    self._by_folder.get(os.path.dirname(link)),
                    self._by_inode.get(status.st_ino),
                )
                held = _held_by(f"{process.path}/fdinfo/{descriptor}")
                if held == files.SUPERVISED and _is_supervisor(process):
                    self._supervisors.add(process.pid)
                    if by_path is None and by_inode is not None and self._is_too_young(process, by_inode):
                        self._of_others.add(place)
                    elif folder := by_path or by_inode:
                        self._supervised[folder] = process.pid
                elif held == files.INHERITED and by_path is not None:
                    return by_path
                elif held == files.INHERITED and by_inode is not None and place not in self._of_others:
                    if marker is not None and _is_lock_of(marker, place):
                        continue  # another attempt's, which need not have a supervisor any more
                    if files.is_supervised(path):
                        self._spared.add(process.pid)
                    return by_inode
        return None

    def _is_too_young(self, supervisor: Process, folder: Path) -> bool:
        """Whether the supervisor began after the attempt's command, and so cannot have forked it."""
        origin = self._wanted[folder]
        return origin is not None and 0 < origin.session_started < supervisor.started

    def _outcome(self, found: dict[Path, list[int]], restless: str, blind: str) -> dict[Path, Unproven]:
        unproven = {}
        for folder, origin in self._wanted.items():
            if folder in self._supervised:
                why = Unproven(
                    "Unrecorded",
                    "its supervisor runs, but its folder does not record it",
                    self._supervised[folder],
                )
            elif folder in found:
                alive = f"its processes still run: {', '.join(map(str, found[folder][:5]))}"
                why = Unproven(
                    "SupervisorLost", f"it has no supervisor, and {self._refused.get(folder, alive)}"
                )
            elif blind or restless:
                why = Unproven(
                    "Unseen", f"there is no proof that its processes have ended: {blind or restless}"
                )
            elif (
                origin is not None and origin.lock_inode and _is_inherited(origin.lock_inode, self._of_others)
            ):
                why = Unproven("SupervisorLost", "a process that cannot be seen holds its lock")
            else:
                continue
            unproven[folder] = why
        return unproven


def _is_supervisor(process: Process) -> bool:
    """Whether the process is a supervisor, of this version or another.

    A replica that settles an attempt holds its lock, too, for a moment; so do its forks, until they execute.
    """
    try:
        with open(f"{process.path}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return any(word.startswith(b"controller.engine.") and word.endswith(b"supervisor") for word in words)


def _held_by(fdinfo: str) -> int | None:
    """The first byte of the lock that this file description holds; None if it holds none."""
    with open(fdinfo, "rb") as file:
        locks = [line.split() for line in file if line.startswith(b"lock:")]
    return next((int(lock[-2]) for lock in locks if b"OFDLCK" in lock), None)


def _is_lock_of(folder: str, place: tuple[int, int]) -> bool:
    """Whether the file with this device and inode is the lock of the folder."""
    try:
        status = os.lstat(f"{folder}/{files.LOCK}")
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == place


def _is_inherited(inode: int, of_others: set[tuple[int, int]]) -> bool:
    """Whether a process of any user and PID namespace has inherited the lock whose file has this inode.

    `of_others` are devices and inodes of locks that are known to be others'.
    """
    others = {
        f"{os.major(device):02x}:{os.minor(device):02x}:{number}".encode() for device, number in of_others
    }
    with open("/proc/locks", "rb") as file:
        locks = [line.split() for line in file]
    end = [str(inode).encode(), str(files.INHERITED).encode()]
    return any(
        b"OFDLCK" in lock and [lock[-3].rpartition(b":")[2], lock[-2]] == end and lock[-3] not in others
        for lock in locks
    )
