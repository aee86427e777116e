"""The process engine: runs each attempt as processes of this machine, under a supervisor of its own.

The supervisor is detached, and outlives the controller. All replicas run on one machine, as one user, and
share `state_dir`; each new leader adopts the running attempts. Needs Linux 5.4 or later. An attempt is a
folder (`attempt_folder`) and is run by a supervisor (`attempt_supervisor`). If the supervisor was killed or
the machine rebooted, any replica settles the attempt (`settlement`).

How the name fences: the supervisor itself makes the claim, in the folder with the attempt's name, and holds a
lock that the kernel releases when it ends. So no claim is ever without an owner. A late start finds the
record, the result, or the tombstone of a stop; of two concurrent starts, one runs. The name fences until
`forget`.

The content of an attempt's folder affects that attempt alone: if it cannot be read, the attempt is reported
as Unknown, with the reason. An attempt that is not listed proves nothing, since its folder may have been
removed or moved: `find` searches for its processes.

The spec: `command` and `args` are executed without a shell. `image` is not used, since there is no container;
a spec with an image and no command is refused. The environment is a short list of the controller's variables
(PATH, HOME, LANG, LC_*, TZ, USER, TMPDIR; no secrets), then the spec's, then the fencing token. `working_dir`
is a folder of this machine, by default an empty one of the attempt's own. Both streams go to one file.

Limits: see `limits`. The attempt ends when the command's first process ends, as in a container: processes
that are left are killed. Only processes that another service started for it (a container daemon, systemd, at)
are out of reach. The whole output is kept until `forget`; only the disk limits it.

Cost, as measured on two shared cores: about 8 ms of CPU per attempt from start to end, with the command's own
fork and exec (150 attempts a second), and 2 MB of memory per supervisor. With 10,000 finished attempts, the
first list takes 0.16 s, and a further one 0.06 s.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from controller.clock import Clock
from controller.core.model.installation import EngineIdentity, Installation
from controller.core.model.scalars import parse_name
from controller.core.model.task import AttemptId, Launch, Observation, Phase
from controller.engine.base import ALL_LOGS, AttemptRefused, AttemptUnknown, EngineUnavailable, LogOptions
from controller.engine.process import attempt_folder as files
from controller.engine.process.attempt_origin import Origin
from controller.engine.process.attempt_output import chunks_of, start_of_tail
from controller.engine.process.folder_changes import changes_in
from controller.engine.process.fork_server import ForkServer
from controller.engine.process.search import end_leftovers, end_unlisted
from controller.engine.process.sight import ProcessSight, is_folder, lost
from controller.engine.process.state_folder import StateFolder
from controller.engine.process.stop_requests import enforce_memory, interrupt, request_stop
from controller.errors import InvalidField

_PASSED_ON = ("PATH", "HOME", "LANG", "TZ", "USER", "TMPDIR")
_NEWS_SECONDS = 2.0  # a watch reports the ends of the last seconds before it began, too; see `watch`
_SWEEP_SECONDS = 1.0  # the pause between checks for killed supervisors, which no event announces
# a supervisor ends microseconds after its result, unless it is starved or stopped
_ENDING_SECONDS = 2.0
_FULL_RETRY_SECONDS = 5.0
_TRASH_SECONDS = 60.0  # a removal takes less


class ProcessEngine:
    """See the module's docstring. Safe to use from several threads and by several replicas."""

    name = "process"

    def __init__(self, state_dir: Path, cluster: str, clock: Clock, *, make: bool = True) -> None:
        """`make` the folder if there is none. A reader does not; its calls fail if the folder is gone.

        Raises EngineUnavailable if `state_dir` cannot be used, and InvalidField if `cluster` is no DNS label,
        or the folder is that of a home which is not known.
        """
        self._clock = clock
        try:
            folder = state_dir.expanduser()
        except RuntimeError:
            raise InvalidField(
                "state_dir", f"is {state_dir}, and the home directory is not known: name a folder"
            ) from None
        home = folder.resolve() / parse_name(cluster, "cluster", "a cluster's name")
        with _os_errors_mean_unavailable():
            self._state_folder = StateFolder(home, make=make)
        self._use(home)
        self._fork_server = ForkServer(home / "supervisors.log")

    def _use(self, place: Path) -> None:
        self._place = place
        self._attempts = place / "attempts"
        self._trash = place / "trash"
        self._empties = False
        self._sight = ProcessSight(self._attempts, self._clock)

    def identity(self) -> EngineIdentity:
        """See Engine. The id is made with the state folder: a new folder in its place is another engine."""
        with _os_errors_mean_unavailable():
            places = self._state_folder.places()
        return EngineIdentity(name=self.name, id=places.id, details={"folder": str(self._state_folder.home)})

    def bind(self, installation: Installation, *, claim: bool = False) -> None:
        """See Engine. Each installation with the cluster's name has its own folder of attempts."""
        with _os_errors_mean_unavailable():
            place = self._state_folder.place_of(installation, claim=claim)
        if place != self._place:
            self._use(place)

    def others(self) -> dict[str, list[str]]:
        """See Engine."""
        with _os_errors_mean_unavailable():
            return self._state_folder.others(self._place)

    # `confirm` is not needed: a start is one step
    def start(self, launch: Launch, confirm: Callable[[], None] | None = None) -> Observation:  # noqa: ARG002
        """See Engine. The reasons of AttemptRefused are NoCommand and InvalidName."""
        spec = launch.spec
        if not spec.command:
            raise AttemptRefused("NoCommand", "the process engine runs no images: give the task a command")
        folder = self._folder(launch.attempt)
        with _os_errors_mean_unavailable():
            seen = self._sight.observe_one(folder.name)
            if seen is not None:
                return seen
            if launch.repeated and (unproven := end_leftovers(folder)):
                # An error, not an observation: the attempt may not exist, so the start must be tried again.
                raise EngineUnavailable(f"{launch.attempt} may already run: {unproven.message}")
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
                raise EngineUnavailable(
                    f"{launch.attempt} could not be started: {answer['error']}", _FULL_RETRY_SECONDS
                )
            # a writer of the result NeverStarted may still hold the lock
            seen = self._claimed(folder)
        if seen is None:
            raise EngineUnavailable(f"{launch.attempt} was removed while it was started")
        return seen

    def _claimed(self, folder: Path) -> Observation | None:
        """The attempt, once its folder has a claim; None if there is none in time, or no folder."""
        give_up_at = self._clock.boottime() + _ENDING_SECONDS
        while (seen := self._sight.observe_one(folder.name)) is None and is_folder(folder):
            if self._clock.boottime() > give_up_at:
                return None
            time.sleep(0.002)
        return seen

    def stop(self, attempt: AttemptId, *, grace_seconds: float, uid: str = "") -> Observation | None:
        """See Engine. Returns None if `uid` is not the attempt's."""
        folder = self._folder(attempt)
        with _os_errors_mean_unavailable():
            seen = self._sight.observe_one(folder.name)
            if uid and seen is None:
                return self._stop_unlisted(attempt, uid)
            if uid and seen is not None and seen.uid not in ("", uid):
                return None
            if seen is not None and seen.stopped:
                return seen
            request_stop(folder, "Stopped", grace_seconds)
            return self._sight.observe_one(folder.name)

    def find(
        self,
        attempt: AttemptId,
        *,
        uid: str = "",
        grace_seconds: float = 0.0,  # noqa: ARG002  # it sees what still runs
    ) -> Observation:
        """See Engine. Ends processes of the attempt that have no supervisor."""
        folder = self._folder(attempt)
        with _os_errors_mean_unavailable():
            os.stat(self._attempts)  # without a state folder, nothing may be concluded
            seen = self._sight.observe_one(folder.name)
            if seen is not None:
                return seen
            unproven = end_unlisted(folder, uid)
        if unproven is not None:
            return lost(attempt, unproven, uid)
        message = "its folder was removed from outside; none of its processes is left"
        return Observation(
            attempt=attempt,
            phase=Phase.FAILED,
            stopped=True,
            gone=True,
            uid=uid,
            reason="Gone",
            message=message,
        )

    def settle(self, attempt: AttemptId, *, uid: str = "") -> None:  # its name is enough
        """See Engine. Does nothing: a folder is kept until `forget`."""

    def forget(self, attempt: AttemptId, *, uid: str = "") -> None:  # noqa: ARG002  # it looks
        """See Engine."""
        folder = self._folder(attempt)
        with _os_errors_mean_unavailable():
            give_up_at = self._clock.boottime() + _ENDING_SECONDS
            if not is_folder(folder):
                return
            while (lock := files.Lock.take(folder)) is None:
                if not files.exists(folder, files.RESULT):
                    return
                if self._clock.boottime() > give_up_at:
                    raise EngineUnavailable(
                        f"the supervisor of {attempt} has written its result, but does not end"
                    )
                time.sleep(0.002)
            with lock:
                if lock.is_inherited() or (
                    files.exists(folder, files.RECORD) and not files.exists(folder, files.RESULT)
                ):
                    return
                trash = self._trash / f"{folder.name}.{uuid.uuid4().hex}"
                folder.rename(trash)
                self._sight.forget(folder.name)
            _remove(trash)

    def attempts(self) -> list[Observation]:
        """See Engine. A finished attempt is read once, and costs one stat per list afterwards."""
        if not self._empties:
            self._empties = True
            threading.Thread(target=_empty, args=(self._trash,), name="process-trash", daemon=True).start()
        with _os_errors_mean_unavailable():
            return self._sight.observe_all()

    def watch(self, sink: Callable[[Observation], None], stop: threading.Event) -> None:
        """See Engine. Changes arrive within milliseconds, the loss of a supervisor within two seconds.

        At its start, the watch reports the running attempts, and those that ended just before, which a list
        may have missed.
        """
        known: dict[str, Observation] = {}
        news_since = self._clock.wall() - _NEWS_SECONDS  # files are dated by it
        sweep_at = 0.0
        with _os_errors_mean_unavailable():
            attempts, watched = self._attempts, os.stat(self._attempts)
            for names in changes_in(attempts, stop):
                if self._attempts != attempts or not os.path.samestat(watched, os.stat(attempts)):
                    # A folder that was moved away or mounted over sends no more events.
                    raise EngineUnavailable(f"{attempts} is now another folder: the watch starts again", 0.0)
                is_first = not sweep_at
                if self._clock.boottime() >= sweep_at:
                    live = [name for name, seen in known.items() if not seen.stopped]
                    enforce_memory(attempts / name for name in live)
                    names.update(live)
                    sweep_at = self._clock.boottime() + _SWEEP_SECONDS
                now = {
                    str(seen.attempt): seen
                    for seen in (self._sight.observe_all() if is_first else self._sight.observe(names))
                }
                for name in names - now.keys():
                    known.pop(name, None)
                for name, seen in now.items():
                    if known.get(name) != seen:
                        known[name] = seen
                        if not is_first or not self._sight.ended_before(name, news_since):
                            sink(seen)

    def logs(
        self,
        attempt: AttemptId,
        *,
        follow: bool,
        stop: threading.Event | None = None,
        options: LogOptions = ALL_LOGS,
    ) -> Iterator[bytes]:
        """See Engine. Supports the option `tail`."""
        options.check(self.name, "tail")
        folder = self._folder(attempt)
        with _os_errors_mean_unavailable():
            # a folder alone is no attempt: it is made before the claim, and nothing has ended then
            if self._sight.observe_one(folder.name) is None:
                raise AttemptUnknown(f"the process engine has no attempt {attempt}")
        return self._read_log(folder, follow, stop or threading.Event(), options.tail)

    def close(self) -> None:
        """See Engine."""
        self._fork_server.close()

    def further_installations(self) -> list[Installation]:
        """The installations with places in the state folder, except the first."""
        with _os_errors_mean_unavailable():
            places = self._state_folder.places()
        return [Installation(id=mark) for mark in places.others]

    def interrupt_all(self, grace_seconds: float) -> list[AttemptId]:
        """Stop all attempts of the cluster as a shutdown would (reason Interrupted, disrupted), and wait.

        Returns the attempts that have not ended 5 s after the grace. This is for the end of the whole
        cluster: nothing may start attempts any more.
        """
        give_up_at = self._clock.boottime() + grace_seconds + 5.0
        live = [seen.attempt for seen in self.attempts() if not seen.stopped]
        for attempt in live:
            with suppress(OSError):  # the attempt is then among those that have not ended
                request_stop(self._folder(attempt), "Interrupted", grace_seconds)
        with _os_errors_mean_unavailable():
            for _ in changes_in(self._attempts, threading.Event(), timeout_ms=100):
                live = [seen.attempt for seen in self._sight.observe(map(str, live)) if not seen.stopped]
                if not live or self._clock.boottime() > give_up_at:
                    break
        return live

    def _folder(self, attempt: AttemptId) -> Path:
        try:
            parse_name(attempt.task_id, "id")
        except InvalidField as error:
            raise AttemptRefused("InvalidName", str(error)) from error
        return self._attempts / str(attempt)

    def _stop_unlisted(self, attempt: AttemptId, uid: str) -> Observation | None:
        """Stop an attempt whose folder was removed while it ran; None if there is no such attempt."""
        if Origin.of_uid(uid) is None:
            return None
        unproven = end_unlisted(self._folder(attempt), uid)
        if unproven is None:
            return None
        if unproven.supervisor:
            interrupt(unproven.supervisor)
        return lost(attempt, unproven, uid)

    def _read_log(
        self, folder: Path, follow: bool, stop: threading.Event, tail: int | None
    ) -> Iterator[bytes]:
        with _os_errors_mean_unavailable():
            position = 0 if tail is None else start_of_tail(folder / files.LOG, tail, stop)
            for _ in changes_in(folder, stop, timeout_ms=200, first=True):
                # Checked before reading, so that all output from before the end is read.
                ended = not follow or all(seen.stopped for seen in self._sight.observe([folder.name]))
                for chunk in chunks_of(folder / files.LOG, position):
                    position += len(chunk)
                    yield chunk
                if ended:
                    return


def _empty(trash: Path) -> None:
    """Remove what a replica that ended in the midst has left there."""
    with suppress(OSError):
        for folder in trash.iterdir():
            with suppress(OSError):  # nobody can remove it now: the next process tries again
                if time.time() - folder.stat().st_ctime > _TRASH_SECONDS:  # else it may be being removed
                    _remove(folder)


def _remove(folder: Path) -> None:
    """Remove the folder, even if the task has changed its permissions."""
    try:
        shutil.rmtree(folder)
    except PermissionError:
        for root, folders, _ in os.walk(folder):
            for name in folders:
                os.chmod(os.path.join(root, name), 0o700, follow_symlinks=False)
        shutil.rmtree(folder)


def _base_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith("LC_")}


@contextmanager
def _os_errors_mean_unavailable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EngineUnavailable(f"the process engine's state folder: {error}") from error
