"""What an attempt is given, what it leaves, and what the engine does when its folder fails it."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from controller.clock import SystemClock
from controller.core.model.installation import Installation
from controller.core.model.task import AttemptId, Launch, Phase, Pool, Spec
from controller.engine.base import AttemptRefused, EngineUnavailable
from controller.engine.process import attempt_folder as files
from controller.engine.process.engine import ProcessEngine
from tests.engine.process_cases import (
    folder_of,
    launch,
    observation,
    run_on_small_disk,
    wait_for,
    wait_stopped,
)


def output(engine: ProcessEngine, given: Launch) -> str:
    engine.start(given)
    return b"".join(engine.logs(given.attempt, follow=True)).decode()


def test_the_controllers_secrets_stay_with_it(engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLY_ETCD_PASSWORD", "secret")
    monkeypatch.setenv("LC_ALL", "C")
    environment = dict(
        line.split("=", 1)
        for line in output(engine, launch("env", env={"MINE": "x", "LANG": "y"})).splitlines()
    )
    known = {
        "PATH",
        "HOME",
        "LANG",
        "TZ",
        "USER",
        "TMPDIR",
        "LC_ALL",
        "MINE",
        "TALLY_TASK_ID",
        "TALLY_ATTEMPT",
        "TALLY_TERM",
    }
    assert {name for name in environment if not name.startswith("LC_")} - known == {"TALLY_ATTEMPT_FOLDER"}
    assert (environment["MINE"], environment["LANG"], environment["LC_ALL"]) == ("x", "y", "C")


def test_an_attempt_inherits_its_lock_and_no_other_descriptor_signal_mask_or_terminal(
    engine: ProcessEngine,
) -> None:
    script = (
        "import os, signal\nprint(sorted(int(fd) for fd in os.listdir('/proc/self/fd') if"
        " os.path.exists('/proc/self/fd/' + fd)))\nprint(signal.pthread_sigmask(signal.SIG_BLOCK, []),"
        " os.getsid(0) == os.getpid())\nstatus = open('/proc/self/status').read();"
        " print(status.split('SigIgn:')[1].split()[0])"
    )
    # Python itself ignores SIGPIPE and SIGXFSZ: sh shows what was inherited.
    given = launch("sh", "-c", 'grep SigIgn /proc/$$/status; exec "$0" -c "$1"', sys.executable, script)
    lines = output(engine, given).splitlines()
    kept_by_libc = 0b11 << 31  # signals 32 and 33, which no program can set through the C library
    assert int(lines[0].split()[1], 16) & ~kept_by_libc == 0
    assert lines[1] == "[0, 1, 2, 90]"  # the last is its lock
    assert lines[2] == "set() True"


def test_the_default_working_directory_is_the_attempts_own(engine: ProcessEngine, tmp_path: Path) -> None:
    given = launch("sh", "-c", "pwd; ls -A")
    assert output(engine, given) == f"{folder_of(tmp_path, given.attempt) / 'work'}\n"
    assert output(engine, launch("pwd", working_dir="/")) == "/\n"


@pytest.mark.parametrize(
    ("command", "working_dir", "reason"),
    [
        (("no-such-command",), "", "CommandNotFound"),
        (("/no/such/command",), "", "CommandNotFound"),
        (("{folder}/not-executable",), "", "PermissionDenied"),
        (("/etc",), "", "PermissionDenied"),
        (("{folder}/no-program",), "", "NotExecutable"),
        (("true",), "/no/such/folder", "BadWorkingDirectory"),
        (("true",), "/etc/hostname", "BadWorkingDirectory"),
        (("true", "x" * 200_000), "", "ArgumentsTooLong"),
    ],
)
def test_why_a_command_cannot_be_started(
    engine: ProcessEngine, tmp_path: Path, command: tuple[str, ...], working_dir: str, reason: str
) -> None:
    """It failed without having run, which does not use up an attempt; the message names what is missing."""
    (tmp_path / "no-program").write_text("not a program\n")
    (tmp_path / "not-executable").write_text("")
    (tmp_path / "no-program").chmod(0o755)
    given = launch(*(word.replace("{folder}", str(tmp_path)) for word in command), working_dir=working_dir)
    seen = engine.start(given)
    assert (seen.phase, seen.reason, seen.ran, seen.stopped) == (Phase.FAILED, reason, False, True)
    assert given.spec.working_dir in seen.message
    assert working_dir or given.spec.command[0] in seen.message


def test_an_image_alone_is_refused(engine: ProcessEngine) -> None:
    attempt = AttemptId("only-image", 1)
    given = Launch(
        attempt=attempt,
        cluster="test",
        term=1,
        spec=Spec(id="only-image", image="x"),
        pool=Pool(name="p"),
        environment={},
    )
    with pytest.raises(AttemptRefused, match="command") as refused:
        engine.start(given)
    assert refused.value.reason == "NoCommand"


@pytest.mark.parametrize("task_id", ["../escape", "a/b", "", "UP"])
def test_names_that_could_leave_the_folder_are_refused(engine: ProcessEngine, task_id: str) -> None:
    with pytest.raises(AttemptRefused):
        engine.stop(AttemptId(task_id, 1), grace_seconds=1.0)


def test_followed_logs_arrive_while_the_attempt_runs(engine: ProcessEngine, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    given = launch("sh", "-c", f"echo first; read line < {gate}; echo $line")
    engine.start(given)
    chunks = engine.logs(given.attempt, follow=True)
    assert next(chunks) == b"first\n"
    gate.write_text("second\n")
    assert b"".join(chunks) == b"second\n"


def test_a_follower_can_be_told_to_stop(engine: ProcessEngine) -> None:
    given = launch("sh", "-c", "echo first; sleep 1000")
    engine.start(given)
    stop = threading.Event()
    chunks = engine.logs(given.attempt, follow=True, stop=stop)
    assert next(chunks) == b"first\n"
    stop.set()
    assert list(chunks) == []


def test_memory_above_what_was_asked_for_is_killed(engine: ProcessEngine) -> None:
    """What all processes of the attempt use counts, not what they reserve."""
    # 0x4000 is MAP_NORESERVE, which the module has no name for.
    reserve = "mmap.mmap(-1, 2**36, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)"
    hungry = (
        f"import mmap, sys, time; reserved = {reserve}; kept = b'x' * (int(sys.argv[1]) * 2**20);"
        " time.sleep(1000)"
    )
    python = shlex.quote(sys.executable)
    pair = f'{python} -c "{hungry}" 60 & exec {python} -c "{hungry}" 60'
    modest = launch(sys.executable, "-c", hungry, "1", memory="100Mi")
    greedy = launch("sh", "-c", pair, memory="100Mi")
    stop = threading.Event()
    watch = threading.Thread(target=engine.watch, args=(lambda seen: None, stop), name="watch")
    watch.start()
    try:
        engine.start(modest)
        engine.start(greedy)
        seen = wait_stopped(engine, greedy.attempt)
    finally:
        stop.set()
        watch.join()
    assert (seen.phase, seen.reason, seen.signal) == (Phase.FAILED, "OOMKilled", 9)
    assert "100 MiB" in seen.message
    left = observation(engine, modest.attempt)
    assert left is not None
    assert left.phase is Phase.RUNNING


def test_foreign_files_in_the_folder_are_left_alone(engine: ProcessEngine, tmp_path: Path) -> None:
    attempts = tmp_path / "test" / "attempts"
    (attempts / "lost+found").mkdir()
    (attempts / "note.txt").write_text("mine")
    (attempts / "task-x").mkdir()
    assert engine.attempts() == []
    assert sorted(path.name for path in attempts.iterdir()) == ["lost+found", "note.txt", "task-x"]


def test_a_state_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineUnavailable, match="file"):
        ProcessEngine(tmp_path / "file", "test", SystemClock())


def test_another_installations_folder_that_cannot_be_listed_stops_nobody(
    replica: Callable[[], ProcessEngine], tmp_path: Path
) -> None:
    """Its tasks may have done so; a link in a circle is what root cannot list."""
    ours, theirs = replica(), replica()
    ours.bind(Installation(id="a" * 16), claim=True)
    theirs.bind(Installation(id="b" * 16), claim=True)
    given = launch("true")
    ours.start(given)
    wait_stopped(ours, given.attempt)
    folder = tmp_path / "test" / "others" / ("b" * 16) / "attempts"
    folder.rmdir()
    folder.symlink_to(folder)
    assert [seen.attempt for seen in ours.attempts()] == [given.attempt]
    [(mark, [told])] = ours.others().items()
    assert (mark, told) == ("b" * 16, "(cannot be listed: Too many levels of symbolic links)")


def test_a_vanished_state_folder_is_an_outage_and_no_evidence(
    replica: Callable[[], ProcessEngine], tmp_path: Path
) -> None:
    """Nothing is concluded from a folder that is not there (a file system that is not mounted): every call
    says so.
    """
    engine = replica()
    given = launch("true")
    engine.start(given)
    wait_stopped(engine, given.attempt)
    (tmp_path / "test").rename(tmp_path / "away")
    with pytest.raises(EngineUnavailable):
        engine.attempts()
    with pytest.raises(EngineUnavailable):
        engine.start(launch("true"))
    with pytest.raises(EngineUnavailable):
        engine.stop(AttemptId("other", 1), grace_seconds=0.0)
    with pytest.raises(EngineUnavailable):
        engine.watch(lambda seen: None, threading.Event())
    (tmp_path / "away").rename(tmp_path / "test")
    assert engine.attempts()


FULL_DISK = """
import os, sys
from pathlib import Path
from controller.clock import SystemClock
from controller.engine.base import EngineUnavailable
from controller.engine.process.engine import ProcessEngine
from controller.engine.process.attempt_folder import MARKER
from controller.engine.process.table import environment_value
from tests.engine.process_cases import (
    folder_of, kill_supervisor, launch, observation, running_pids, wait_for, wait_stopped
)

home = Path(sys.argv[1])
engine = ProcessEngine(home, "test", SystemClock())
given, orphaned = launch("sleep", "1000"), launch("sleep", "1000")
engine.start(given)
engine.start(orphaned)
ballast = open(home / "ballast", "wb", buffering=0)
try:
    while ballast.write(b"x" * 512):
        pass
except OSError:
    pass
for pid in running_pids(home):
    if environment_value(pid, MARKER) == str(folder_of(home, given.attempt)):
        os.kill(pid, 15)
kill_supervisor(home, orphaned.attempt)
wait_for(
    lambda: observation(engine, orphaned.attempt).phase == "Unknown" and not running_pids(home),
    "the commands to end",
)
seen = observation(engine, given.attempt)
assert seen.phase == "Running" and not seen.stopped, seen
seen = observation(engine, orphaned.attempt)
assert seen.phase == "Unknown" and not seen.stopped and "No space" in seen.message, seen
try:
    engine.start(launch("true", task_id="no-space"))
except EngineUnavailable as error:
    assert "space" in str(error).lower(), error
else:
    raise AssertionError("started without room for a record")
os.unlink(home / "ballast")
ballast.close()
seen = wait_stopped(engine, given.attempt)
assert (seen.phase, seen.reason, seen.signal) == ("Failed", "Error", 15), seen
assert wait_stopped(engine, orphaned.attempt).reason == "SupervisorLost"
engine.start(launch("true", task_id="no-space"))
engine.close()
print("held")
"""


def test_a_full_disk_delays_results_and_starts_and_loses_none(tmp_path: Path) -> None:
    """The end of an attempt is reported once there is room for its result; until then it counts as running,
    or as lost.

    One whose end cannot be recorded keeps nobody from seeing the others.
    """
    run_on_small_disk(tmp_path, "size=256k", FULL_DISK)


def test_a_watch_ends_with_its_stop_event(engine: ProcessEngine) -> None:
    stop = threading.Event()
    watch = threading.Thread(target=engine.watch, args=(lambda seen: None, stop), name="watch")
    watch.start()
    stop.set()
    wait_for(lambda: not watch.is_alive(), "the watch to end")


def test_a_watch_begins_with_what_runs_and_what_has_just_ended(engine: ProcessEngine, tmp_path: Path) -> None:
    """Not with all that ever ended: the list beside it tells that, and a take-over waits for both."""
    runs, ended, just_ended = launch("sleep", "1000"), launch("true"), launch("true")
    for given in (runs, ended, just_ended):
        engine.start(given)
    for given in (ended, just_ended):
        wait_stopped(engine, given.attempt)
    # later than now: as if it had ended meanwhile, however slow the machine
    for given, hours in ((ended, -1), (just_ended, 1)):
        os.utime(folder_of(tmp_path, given.attempt) / files.RESULT, times=(time.time() + 3600 * hours,) * 2)
    reported: list[AttemptId] = []
    stop = threading.Event()
    watch = threading.Thread(
        target=engine.watch, args=(lambda seen: reported.append(seen.attempt), stop), name="watch"
    )
    watch.start()
    try:
        wait_for(
            lambda: {runs.attempt, just_ended.attempt} <= set(reported),
            "what runs and what has just ended to be reported",
        )
        later = launch("sleep", "1000")
        engine.start(later)
        wait_for(lambda: later.attempt in reported, "the next round")
    finally:
        stop.set()
        watch.join()
    assert ended.attempt not in reported


class SetBack(SystemClock):
    """A wall clock that was set back by an hour since the process began."""

    def now(self) -> float:
        return super().now() + 3600.0


def test_what_has_just_ended_is_told_by_the_clock_that_dates_files(
    engine: ProcessEngine, tmp_path: Path
) -> None:
    """An end that falls between a list and the watch is not lost when the wall clock is set back."""
    just_ended = launch("true")
    engine.start(just_ended)
    wait_stopped(engine, just_ended.attempt)
    # as if it had ended meanwhile, however slow the machine
    os.utime(folder_of(tmp_path, just_ended.attempt) / files.RESULT, times=(time.time() + 600,) * 2)
    reported: list[AttemptId] = []
    stop = threading.Event()
    other = ProcessEngine(tmp_path, "test", SetBack())
    watch = threading.Thread(
        target=other.watch, args=(lambda seen: reported.append(seen.attempt), stop), name="watch"
    )
    watch.start()
    try:
        wait_for(lambda: just_ended.attempt in reported, "what has just ended to be reported")
    finally:
        stop.set()
        watch.join()
        other.close()


def test_a_watch_does_not_stay_with_a_folder_that_was_replaced(engine: ProcessEngine, tmp_path: Path) -> None:
    """It ends with an error, so that it is begun anew: nobody would hear of what ends in the new folder."""
    begun, ended = threading.Event(), threading.Event()
    said: list[str] = []

    def watch() -> None:
        try:
            engine.watch(lambda seen: begun.set(), threading.Event())
        except EngineUnavailable as error:
            said.append(str(error))
        ended.set()

    engine.start(launch("sleep", "1000"))
    thread = threading.Thread(target=watch, name="watch")
    thread.start()
    assert begun.wait(20)
    attempts = tmp_path / "test" / "attempts"
    attempts.rename(tmp_path / "test" / "old")
    shutil.copytree(
        tmp_path / "test" / "old", tmp_path / "test" / "new", ignore=shutil.ignore_patterns("wake")
    )
    (tmp_path / "test" / "new").rename(attempts)
    assert ended.wait(20)
    thread.join()
    assert said == [f"{attempts} is now another folder: the watch starts again"] or "No such file" in said[0]
    shutil.rmtree(attempts)
    (tmp_path / "test" / "old").rename(attempts)
