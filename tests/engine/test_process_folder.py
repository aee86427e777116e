"""Fault 44: whatever one attempt's folder holds, of whatever type and mode, concerns that attempt alone."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from controller.core.model.task import AttemptId
from controller.core.model.task import Phase as AttemptPhase
from controller.engine.base import AttemptUnknown, EngineUnavailable
from controller.engine.process import attempt_folder as files
from controller.engine.process.attempt_values import parse_record, parse_result
from controller.engine.process.engine import ProcessEngine
from tests.engine.process_cases import folder_of, launch, observation, record_of, wait_stopped
from tests.support.examples import examples

NAMES = (files.LOCK, files.RECORD, files.STOP, files.RESULT, files.WAKE, files.LOG, files.WORK, "")
FIELDS = (
    "uid",
    "phase",
    "exit_code",
    "signal",
    "started_at",
    "supervisor",
    "session",
    "memory_bytes",
    "boot_id",
    "lock_inode",
    "ran",
)
ODD = [
    b"",
    b'{"uid":5,"phase":"Succeeded","exit_code":"x"}',
    b"[" * 200_000,
    b'{"phase":"Failed","a":' + b"[" * 200_000,
    b"x" * 1_000_000,
    b'{"phase": "Succeeded", "exit_code": 1e999}',
    b'{"phase": "Succeeded", "exit_code": 99999999999999999999999999}',
    b'{"phase": "Succeeded", "reason": "\\ud800"}',
    b"\xff\xfe",
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
CONTENTS = (
    st.sampled_from(ODD)
    | st.binary(max_size=50)
    | VALUES.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, VALUES)).map(
        lambda value: json.dumps(value).encode()
    )
)
KINDS = (
    "content",
    "absent",
    "directory",
    "full directory",
    "fifo",
    "socket",
    "dangling",
    "loop",
    "to zeros",
    "device",
)


def put(path: Path, kind: str, content: bytes, mode: int) -> None:
    """Put this in the path's place, with its mode at once; the old one goes aside, as the task could do.

    From then on whoever watches the folder may put it aside; and in between, make the path anew.
    """
    with tempfile.TemporaryDirectory(dir=path.parents[3]) as beside:
        made = Path(beside) / path.name  # which a loop names
        make(made, kind, content)
        if os.path.lexists(made) and not made.is_symlink():
            made.chmod(mode)
        put_aside(path)
        while os.path.lexists(made):  # else it is to be absent, or a device that only root can make
            try:
                made.rename(path)
            except OSError as error:
                if error.errno not in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY):
                    raise
                put_aside(path)


def put_aside(path: Path) -> None:
    """Move away what is there, if it still is."""
    with suppress(FileNotFoundError):
        path.rename(path.parent / f"{path.name}.was-{uuid.uuid4().hex}")


def make(path: Path, kind: str, content: bytes) -> None:
    if kind == "content":
        path.write_bytes(content)
    elif kind.endswith("directory"):
        path.mkdir()
        (path / "inside").mkdir(parents=True) if kind == "full directory" else None
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            here = os.getcwd()
            os.chdir(path.parent)  # the name of a socket has few letters
            made.bind(path.name)
            os.chdir(here)
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "to zeros":
        path.symlink_to("/dev/zero")
    elif kind == "device":
        with suppress(PermissionError):
            os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero


@contextmanager
def watched(engine: ProcessEngine) -> Iterator[threading.Thread]:
    stop = threading.Event()
    failures: list[BaseException] = []

    def watch() -> None:
        try:
            engine.watch(lambda seen: None, stop)
        except BaseException as error:
            failures.append(error)
            raise

    thread = threading.Thread(target=watch, name="watch")
    thread.start()
    try:
        yield thread
        assert failures == []
    finally:
        stop.set()
        thread.join()


@settings(
    max_examples=examples(25),
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    name=st.sampled_from(NAMES),
    kind=st.sampled_from(KINDS),
    content=CONTENTS,
    mode=st.sampled_from([0o000, 0o444, 0o777]),
    state=st.sampled_from(["running", "lost", "finished"]),
)
def test_one_folder_is_no_others_trouble(
    engine: ProcessEngine, tmp_path: Path, name: str, kind: str, content: bytes, mode: int, state: str
) -> None:
    """Others are listed, watched, started, and finish; of this attempt alone a call may raise
    EngineUnavailable.
    """
    bystander, victim, later = (
        launch("sleep", "1000"),
        launch("sleep", "0" if state == "finished" else "1000"),
        launch("true"),
    )
    engine.start(bystander)
    uid = engine.start(victim).uid
    supervisor = int(str(record_of(tmp_path, victim.attempt)["supervisor"]))
    if state == "finished":
        wait_stopped(engine, victim.attempt)
    with watched(engine) as watch:
        put(
            folder_of(tmp_path, victim.attempt) / name if name else folder_of(tmp_path, victim.attempt),
            kind,
            content,
            mode,
        )
        if state == "lost":
            os.kill(supervisor, signal.SIGKILL)
        for _ in range(2):
            seen = {each.attempt: each for each in engine.attempts()}
            assert seen[bystander.attempt].phase is AttemptPhase.RUNNING
        told = engine.find(victim.attempt, uid=uid)
        assert told.stopped or told.phase in (AttemptPhase.RUNNING, AttemptPhase.PENDING) or told.reason
        for call in (
            lambda: b"".join(engine.logs(victim.attempt, follow=False)),
            lambda: engine.stop(victim.attempt, grace_seconds=0.0, uid=uid),
            lambda: engine.start(victim),
        ):
            with suppress(EngineUnavailable, AttemptUnknown):
                call()
        assert engine.start(later).uid
        assert wait_stopped(engine, later.attempt).phase is AttemptPhase.SUCCEEDED
        assert watch.is_alive()
    engine.stop(bystander.attempt, grace_seconds=0.0)
    assert wait_stopped(engine, bystander.attempt).reason == "Stopped"
    with suppress(ProcessLookupError):
        os.kill(supervisor, signal.SIGTERM)


@pytest.mark.parametrize("follow", [True, False])
def test_output_is_not_over_before_the_attempt_is_claimed(
    engine: ProcessEngine, tmp_path: Path, follow: bool
) -> None:
    """A reader who comes while the attempt is being started is told that there is none, and may ask again;
    an output that ends at once would say that the attempt has ended.
    """
    given = launch("sh", "-c", "echo said")
    folder = folder_of(tmp_path, given.attempt)
    folder.mkdir()
    lock = files.Lock.take(folder)
    assert lock is not None
    with pytest.raises(AttemptUnknown):
        engine.logs(given.attempt, follow=follow)
    lock.release()
    engine.start(given)
    wait_stopped(engine, given.attempt)
    assert b"".join(engine.logs(given.attempt, follow=follow)) == b"said\n"


@settings(max_examples=examples(100), deadline=None)
@given(content=CONTENTS)
def test_any_content_is_a_record_and_a_result_or_none(content: bytes) -> None:
    """What is believed of it can be stored: no number, text or depth of it ends a leader."""
    record, result = parse_record(content), parse_result(content)
    json.dumps(record.uid).encode()
    if result is not None:
        seen = result.observation(AttemptId("x", 1), "node")
        assert seen.stopped
        assert all(field is None or 0 <= field < 256 for field in (seen.exit_code, seen.signal))
        (seen.reason + seen.message + seen.uid).encode()
    assert isinstance(files.parse(content), dict)


def test_stray_entries_are_left_alone(engine: ProcessEngine, tmp_path: Path) -> None:
    """Of any type, and under names that attempts could have."""
    given_ = launch("true")
    engine.start(given_)
    wait_stopped(engine, given_.attempt)
    attempts = tmp_path / "test" / "attempts"
    for number, kind in enumerate(KINDS):
        if kind != "absent":
            put(attempts / f"stray-{number + 1}", kind, b"x", 0o644)
            put(attempts / f"no.{kind}", kind, b"x", 0o644)
    (attempts / "link-1").symlink_to(given_.attempt.__str__())
    before = sorted(path.name for path in attempts.iterdir())
    assert [seen.attempt for seen in engine.attempts()] == [given_.attempt]
    assert sorted(path.name for path in attempts.iterdir()) == before
    for number, _ in enumerate(KINDS):
        engine.forget(AttemptId("stray", number + 1)) if KINDS[number] != "directory" else None


def test_what_stands_in_the_locks_place_is_put_aside_by_one_of_many(tmp_path: Path) -> None:
    """The watch and a caller look at the same time: one has the lock, the others know that they do not."""
    barrier = threading.Barrier(4, timeout=30)

    def take(_: int) -> int:
        held = 0
        for number in range(100):
            folder = tmp_path / str(number)
            if barrier.wait() == 0:
                folder.mkdir()
                os.mkfifo(folder / files.LOCK)
            barrier.wait()
            lock = files.Lock.take(folder)
            held += lock is not None
            barrier.wait()
            if lock is not None:
                lock.release()
        return held

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(take, range(4))) == 100


AS_ANOTHER_USER = """
import os, sys
from pathlib import Path
os.umask(0o022)
from controller.clock import SystemClock
from controller.engine.base import EngineUnavailable
from controller.engine.process.engine import ProcessEngine
from tests.engine.process_cases import (
    folder_of, kill_supervisor, launch, observation, running_pids, wait_for, wait_stopped
)

home, deed = Path(sys.argv[1]), sys.argv[2]
engine = ProcessEngine(home, "test", SystemClock())
bystander = launch("sleep", "1000")
engine.start(bystander)
victim = launch("sh", "-c", f"read line < {home}/gate; {deed}; echo > {home}/done; sleep 1000")
os.mkfifo(home / "gate")
engine.start(victim)
(home / "gate").write_text("go on")
wait_for((home / "done").exists, "the deed")
if "setpriv" in deed:
    kill_supervisor(home, victim.attempt)
    told = lambda: observation(engine, victim.attempt).message
    wait_for(lambda: "changed its user" in told(), "who refuses to be told")
    seen = observation(engine, victim.attempt)
    assert (seen.phase, seen.stopped) == ("Unknown", False), seen
else:
    engine.stop(victim.attempt, grace_seconds=0.0)
    assert wait_stopped(engine, victim.attempt).reason in ("Stopped", "Interrupted")
later = launch("true")
engine.start(later)
assert wait_stopped(engine, later.attempt).phase == "Succeeded"
assert observation(engine, bystander.attempt).phase == "Running"
engine.stop(bystander.attempt, grace_seconds=0.0)
wait_stopped(engine, bystander.attempt)
if "setpriv" not in deed:
    engine.forget(victim.attempt)
    assert observation(engine, victim.attempt) is None
engine.close()
print("held")
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """Not among pytest's folders, which are root's alone."""
    with tempfile.TemporaryDirectory(prefix="tally-") as folder:
        yield Path(folder)


@pytest.fixture
def unprivileged(home: Path) -> list[str]:
    """The beginning of a command, up to the interpreter, that runs as nobody; it may write into `home`."""
    root = Path(__file__).parents[2]
    path = f"PYTHONPATH={root}:{sysconfig.get_path('purelib')}"
    if os.geteuid() != 0:
        return ["env", path, sys.executable]
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("needs setpriv, to leave root's rights")
    os.chown(home, 65534, 65534)
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        command = [setpriv, "--reuid", "65534", "--regid", "65534", "--clear-groups", "env", path, python]
        probe = (
            "import subprocess, sys, controller, msgspec; subprocess.run([sys.executable, '-c', ''],"
            " check=True)"
        )
        if (
            os.path.exists(python)
            and subprocess.run([*command, "-c", probe], check=False, capture_output=True).returncode == 0
        ):
            return command
    pytest.skip("another user can run no Python here that has what this one has")


@pytest.mark.parametrize(
    "deed",
    [
        *(f"chmod 000 ../{name}" for name in ("", files.LOCK, files.RECORD, files.WAKE, files.LOG)),
        "chmod 000 ../..",
        "chmod 555 ..",
        "chmod 555 ..; rm -f ../wake",
        "mkdir -p deep/er; chmod 000 deep",
        "{setpriv} --reuid 0 --regid 0 --clear-groups --inh-caps=-all sleep 1000 & :",
    ],
)
def test_as_an_ordinary_user(home: Path, unprivileged: list[str], deed: str) -> None:
    """Who cannot open what is closed, and cannot kill who changed its user."""
    target = home / "setpriv"
    if "{setpriv}" in deed:
        if os.geteuid() != 0:
            pytest.skip("needs root, for a program that changes its user")
        shutil.copy(shutil.which("setpriv") or "", target)
        target.chmod(0o4755)
    command: list[Any] = [*unprivileged, "-c", AS_ANOTHER_USER, home, deed.format(setpriv=target)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    ) as process:
        output, errors = process.communicate(timeout=120)
    for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:  # what only root may end
        with suppress(OSError):
            if str(home).encode() in Path(f"/proc/{pid}/environ").read_bytes():
                os.kill(pid, signal.SIGKILL)
    assert output == "held\n", errors


def test_what_is_closed_to_us_is_forgotten_too(engine: ProcessEngine, tmp_path: Path) -> None:
    given_ = launch("sh", "-c", "mkdir -p deep/er; chmod 000 deep ../lock ..")
    engine.start(given_)
    wait_stopped(engine, given_.attempt)
    engine.forget(given_.attempt)
    assert observation(engine, given_.attempt) is None
    assert not any((tmp_path / "test" / "trash").iterdir())
