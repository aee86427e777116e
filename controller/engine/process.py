"""The process engine: attempts as processes of this machine, each under a detached supervisor that outlives the controller.

All replicas run on one machine, as one user, and share `state_dir`; whichever leads adopts what runs. Linux 5.4 or later.
An attempt is a folder (`attempt_folder`), run by a supervisor (`supervisor`), settled by any replica when its supervisor
was killed or the machine rebooted (`settlement`).

How the name fences: the supervisor makes the claim itself, in the folder of the attempt's name, holding a lock that the
kernel drops with it. So a claim is never left without an owner, a late start finds the record, the result or the
tombstone of a stop, and two starts at once make one run. The name fences until `forget`.

What it does with a spec: `command` and `args` are executed without a shell; `image` is not used (there is no container),
and a spec with an image alone is refused. The environment is a short list of the controller's own variables (PATH, HOME,
LANG, LC_*, TZ, USER, TMPDIR; no secrets), then the spec's and the fencing token. `working_dir` is a folder of this machine, by
default an empty one of the attempt's own. Both streams go to one file.

Limits: see `process_limits`. The end of the command's first process ends the attempt, as in a container: what it left running
is killed. Only what another service was asked to run (a container daemon, systemd, at) is beyond its reach.
Output is kept whole until `forget`: nothing bounds what a task writes but the disk.

Cost, as measured on two shared cores: about 8 ms of CPU for an attempt from start to end, the command's own fork and exec
included (150 attempts a second), 2 MB of memory for a supervisor; of 10,000 finished attempts, 0.16 s for a first list and 0.06 s
for another.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import watchfiles
from msgspec import convert, json
from msgspec.structs import replace

from controller.clock import Clock
from controller.core.errors import InvalidField
from controller.core.installation import EngineIdentity, Installation
from controller.core.task import AttemptId, Launch, Observation, Phase
from controller.core.validation import parse_name
from controller.engine import attempt_folder as files
from controller.engine.base import ALL_LOGS, AttemptRefused, AttemptUnknown, EngineUnavailable, LogOptions
from controller.engine.fork_server import ForkServer
from controller.engine.process_limits import over_memory
from controller.engine.settlement import settle
from controller.engine.state_folder import StateFolder

json.Decoder(Observation)  # at import: msgspec prepares a type when it is first used, and two threads at once crash it

_PASSED_ON = ("PATH", "HOME", "LANG", "TZ", "USER", "TMPDIR")
_Observations = list[Observation]  # these are named before a method is called `list`
_AttemptIds = list[AttemptId]
_Installations = list[Installation]
_Others = dict[str, list[str]]
_NEWS_SECONDS = 2.0  # before a watch began: longer than lies between its begin and that of the list beside it
_SWEEP_SECONDS = 1.0  # how soon a watch sees that a supervisor was killed, which no event announces
_WATCH_STEP_MS = 5
_ENDING_SECONDS = 2.0  # between a supervisor's result and its end lie microseconds, unless it is starved or stopped
_CHUNK_BYTES = 64 * 1024
_NODE = os.uname().nodename


class ProcessEngine:
    """See the module's docstring. Safe to use from several threads and by several replicas."""

    name = "process"

    def __init__(self, state_dir: Path, cluster: str, clock: Clock) -> None:
        """Raises EngineUnavailable when `state_dir` cannot be used, InvalidField when `cluster` is no DNS label."""
        self._clock = clock
        home = state_dir.resolve() / parse_name(cluster, "cluster", "a cluster's name")
        with _os_errors_mean_unavailable():
            self._state_folder = StateFolder(home)
        self._use(home)
        self._fork_server = ForkServer(home / "supervisors.log")
        self._listing = threading.Lock()
        self._finished: dict[str, tuple[tuple[int, int], Observation]] = {}  # by name; with its result's inode and time

    def _use(self, place: Path) -> None:
        self._place = place
        self._attempts = place / "attempts"
        self._trash = place / "trash"

    def identity(self) -> EngineIdentity:
        """See Engine: the id that was made with the state folder, so that one made anew in its place is another engine."""
        with _os_errors_mean_unavailable():
            places = self._state_folder.places()
        return EngineIdentity(name=self.name, id=places.id, details={"folder": str(self._state_folder.home)})

    def bind(self, installation: Installation, *, claim: bool = False) -> None:
        """See Engine: each installation of the cluster's name has a folder of attempts of its own."""
        with _os_errors_mean_unavailable():
            place = self._state_folder.place_of(installation, claim=claim)
        if place != self._place:
            self._finished = {}
            self._use(place)

    def others(self) -> _Others:
        """See Engine."""
        with _os_errors_mean_unavailable():
            return self._state_folder.others(self._place)

    def start(self, launch: Launch, confirm: Callable[[], None] | None = None) -> Observation:  # noqa: ARG002  # one step
        """See Engine. AttemptRefused: NoCommand, InvalidName."""
        spec = launch.spec
        if not spec.command:
            raise AttemptRefused("NoCommand", "the process engine runs no images: give the task a command")
        folder = self._folder(launch.attempt)
        with _os_errors_mean_unavailable():
            seen = self._observe_one(folder)
            if seen is not None:
                return seen
            request = {
                "folder": str(folder),
                "argv": [*spec.command, *spec.args],
                "env": {**_base_environment(), **launch.environment, files.MARKER: str(folder)},
                "working_dir": spec.working_dir,
                "term": launch.term,
                "memory_bytes": spec.resources.get("memory"),
            }
            answer = self._fork_server.ask(request)
            if "error" in answer:
                raise EngineUnavailable(f"{launch.attempt} could not be started: {answer['error']}")
            seen = self._observe_one(folder)
        if seen is None:
            raise EngineUnavailable(f"{launch.attempt} was started and forgotten at the same time")
        return seen

    def stop(self, attempt: AttemptId, *, grace_seconds: float, uid: str = "") -> Observation | None:
        """See Engine. None when `uid` is not the attempt's."""
        folder = self._folder(attempt)
        with _os_errors_mean_unavailable():
            seen = self._observe_one(folder)
            if uid and (seen is None or seen.uid != uid):
                return None
            if seen is not None and seen.stopped:
                return seen
            self._request_stop(folder, "Stopped", grace_seconds)
            return self._observe_one(folder)

    def settle(self, attempt: AttemptId) -> None:
        """See Engine; all that is kept is kept until `forget`."""

    def forget(self, attempt: AttemptId) -> None:
        """See Engine."""
        folder = self._folder(attempt)
        with _os_errors_mean_unavailable():
            give_up_at = self._clock.boottime() + _ENDING_SECONDS
            while (lock := files.Lock.take(folder)) is None:
                if not (folder / files.RESULT).exists():
                    return
                if self._clock.boottime() > give_up_at:
                    raise EngineUnavailable(f"the supervisor of {attempt} has written its result, and does not end")
                time.sleep(0.002)
            with lock:
                if (folder / files.RECORD).exists() and not (folder / files.RESULT).exists():
                    return
                trash = self._trash / f"{folder.name}.{uuid.uuid4().hex}"
                folder.rename(trash)
                self._finished.pop(folder.name, None)
            shutil.rmtree(trash)

    def list(self) -> _Observations:
        """See Engine. Finished attempts are read once, and then cost a stat each."""
        with _os_errors_mean_unavailable():
            return self._observe_all()

    def watch(self, sink: Callable[[Observation], None], stop: threading.Event) -> None:
        """See Engine. Changes arrive within some milliseconds, the loss of a supervisor within two seconds.

        What runs when it begins is reported too; of what has ended, only what ended as it began, which a list may have missed.
        """
        known: dict[str, Observation] = {}
        news_since = self._clock.now() - _NEWS_SECONDS
        sweep_at = 0.0
        with _os_errors_mean_unavailable():
            for changes in _changes(self._attempts, stop):
                is_first = not sweep_at
                names = {os.path.basename(path) for _, path in changes}
                if self._clock.boottime() >= sweep_at:
                    live = [name for name, seen in known.items() if not seen.stopped]
                    self._enforce_memory(live)
                    names.update(live)
                    sweep_at = self._clock.boottime() + _SWEEP_SECONDS
                now = {str(seen.attempt): seen for seen in (self._observe_all() if is_first else self._observe(names))}
                for name in names - now.keys():
                    known.pop(name, None)
                for name, seen in now.items():
                    if known.get(name) != seen:
                        known[name] = seen
                        if not is_first or not self._ended_before(name, news_since):
                            sink(seen)

    def logs(
        self, attempt: AttemptId, *, follow: bool, stop: threading.Event | None = None, options: LogOptions = ALL_LOGS
    ) -> Iterator[bytes]:
        """See Engine; of the options, `tail`."""
        options.check(self.name, "tail")
        folder = self._folder(attempt)
        if not folder.exists():
            raise AttemptUnknown(f"the process engine has no attempt {attempt}")
        return self._read_log(folder, follow, stop or threading.Event(), options.tail)

    def close(self) -> None:
        """See Engine."""
        self._fork_server.close()

    def further_installations(self) -> _Installations:
        """Those that have places of their own in the state folder, beside the first."""
        with _os_errors_mean_unavailable():
            places = self._state_folder.places()
        return [Installation(id=mark) for mark in places.others]

    def interrupt_all(self, grace_seconds: float) -> _AttemptIds:
        """Stop every attempt of the cluster as a shutdown of the machine would (reason Interrupted, disrupted), and wait.

        Returns those that have not ended 5 s after the grace. For when the whole cluster ends: nobody may start any more.
        """
        give_up_at = self._clock.boottime() + grace_seconds + 5.0
        live = [seen.attempt for seen in self.list() if not seen.stopped]
        with _os_errors_mean_unavailable():
            for attempt in live:
                self._request_stop(self._folder(attempt), "Interrupted", grace_seconds)
            for _ in _changes(self._attempts, threading.Event(), timeout_ms=100):
                live = [seen.attempt for seen in self._observe(map(str, live)) if not seen.stopped]
                if not live or self._clock.boottime() > give_up_at:
                    break
        return live

    def _folder(self, attempt: AttemptId) -> Path:
        try:
            parse_name(attempt.task_id, "id")
        except InvalidField as error:
            raise AttemptRefused("InvalidName", str(error)) from error
        return self._attempts / str(attempt)

    def _enforce_memory(self, names: Iterable[str]) -> None:
        for excess in over_memory(self._attempts / name for name in names):
            message = f"used {excess.used // 2**20} MiB of memory, more than the {excess.limit // 2**20} MiB it asked for"
            self._request_stop(excess.folder, "OOMKilled", 0.0, message)

    def _request_stop(self, folder: Path, reason: str, grace_seconds: float, message: str = "") -> None:
        folder.mkdir(exist_ok=True)
        files.write(folder, files.STOP, {"reason": reason, "grace_seconds": grace_seconds, "message": message})
        # Nobody listens: there is no supervisor (the next observation settles that), or it has not come so far; then it
        # reads the request before it starts anything.
        files.wake(folder)

    def _observe_all(self) -> _Observations:
        with self._listing:  # one at a time: the second finds what the first has read
            return self._observe(os.listdir(self._attempts))

    def _observe(self, names: Iterable[str]) -> _Observations:
        """The attempts of these names, those without a supervisor settled first. Raises OSError."""
        attempts = dict(_parsed(names))
        found = {name: self._look(name, attempt) for name, attempt in attempts.items()}
        unsupervised = [name for name, seen in found.items() if seen is None or seen.phase is Phase.UNKNOWN]
        failures = settle((self._attempts / name for name in unsupervised), self._clock.now())
        found.update((name, self._look(name, attempts[name])) for name in unsupervised)
        for folder, error in failures.items():
            seen = found[folder.name]
            if seen is not None:  # else nothing was claimed, and the request to stop forbids that by itself
                found[folder.name] = replace(seen, message=f"nobody supervises it, and its end cannot be recorded: {error}")
        return [seen for seen in found.values() if seen is not None]

    def _observe_one(self, folder: Path) -> Observation | None:
        return next(iter(self._observe([folder.name])), None)

    def _look(self, name: str, attempt: AttemptId) -> Observation | None:
        """What the folder says: None when nothing was claimed, phase Unknown when nobody supervises what was."""
        result = self._result(name, attempt)
        if result is not None:
            return result
        folder = self._attempts / name
        locked = files.is_locked(folder)
        record = files.read(folder, files.RECORD)
        if record is None:
            return None
        seen = Observation(
            attempt=attempt,
            phase=Phase.RUNNING if record.get("started_at") else Phase.PENDING,
            uid=record.get("uid", ""),
            node=_NODE,
            started_at=record.get("started_at"),
        )
        if locked:
            return seen
        return replace(seen, phase=Phase.UNKNOWN, reason="SupervisorLost", message="processes of it may still run")

    def _result(self, name: str, attempt: AttemptId) -> Observation | None:
        """How it ended, if it has. A take-over waits until all were read: pathlib would cost half as much again."""
        path = f"{self._attempts}/{name}/{files.RESULT}"
        known = self._finished.get(name)
        try:
            if known is not None and known[0] == _version(os.stat(path)):
                return known[1]
            with open(path, "rb", buffering=0) as file:
                version, result = _version(os.fstat(file.fileno())), files.parse_result(file.read())
        except (FileNotFoundError, NotADirectoryError):
            return None
        if result is None:
            return None
        seen = convert({**result, "attempt": attempt, "stopped": True, "node": _NODE}, Observation)
        self._finished[name] = (version, seen)
        return seen

    def _ended_before(self, name: str, time_seconds: float) -> bool:
        finished = self._finished.get(name)
        return finished is not None and finished[0][1] < time_seconds * 1e9

    def _read_log(self, folder: Path, follow: bool, stop: threading.Event, tail: int | None) -> Iterator[bytes]:
        with _os_errors_mean_unavailable():
            position = 0 if tail is None else _start_of_tail(folder / files.LOG, tail)
            for _ in _changes(folder, stop, timeout_ms=200, first=True):
                # Asked before reading: what was written before the end is then read for certain.
                ended = not follow or all(seen.stopped for seen in self._observe([folder.name]))
                for chunk in _chunks(folder / files.LOG, position):
                    position += len(chunk)
                    yield chunk
                if ended:
                    return


def _version(status: os.stat_result) -> tuple[int, int]:
    return status.st_ino, status.st_mtime_ns


def _base_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith("LC_")}


def _parsed(names: Iterable[str]) -> Iterator[tuple[str, AttemptId]]:
    for name in names:
        try:
            yield name, AttemptId.parse(name)
        except ValueError:
            continue  # not ours: left alone


def _start_of_tail(path: Path, lines: int) -> int:
    """Where the last so many lines begin; one without its end is a line, too."""
    if not path.exists():
        return 0
    with open(path, "rb") as file:
        position = file.seek(0, os.SEEK_END)
        if lines == 0 or position == 0:
            return position
        file.seek(position - 1)
        ends = lines + (file.read(1) == b"\n")  # so many line ends from the back: after that one they begin
        while position:
            begin = max(0, position - _CHUNK_BYTES)
            file.seek(begin)
            block = file.read(position - begin)
            at = len(block)
            while ends and (at := block.rfind(b"\n", 0, at)) >= 0:
                ends -= 1
            if not ends:
                return begin + at + 1
            position = begin
    return 0


def _chunks(path: Path, position: int) -> Iterator[bytes]:
    if not path.exists():
        return
    with open(path, "rb") as file:
        file.seek(position)
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _changes(folder: Path, stop: threading.Event, *, timeout_ms: int = 1000, first: bool = False) -> Iterator[set[Any]]:
    """Changes in the folder as they come, an empty set after each time-out without any, and `first` of all."""
    if first:
        yield set()
    yield from watchfiles.watch(
        folder,
        watch_filter=None,
        debounce=4 * _WATCH_STEP_MS,
        step=_WATCH_STEP_MS,
        stop_event=stop,
        rust_timeout=timeout_ms,
        yield_on_timeout=True,
        recursive=False,
        raise_interrupt=False,
    )


@contextmanager
def _os_errors_mean_unavailable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EngineUnavailable(f"the process engine's state folder: {error}") from error
