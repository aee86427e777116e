"""Fault 33: supervisor killed, machine rebooted, result half written.

Told from success, and never two live attempts.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from controller.core.model.task import AttemptId, Launch, Observation, Phase
from controller.engine.base import EngineUnavailable
from controller.engine.process import attempt_folder as files
from controller.engine.process import search as process_search
from controller.engine.process.engine import ProcessEngine
from controller.engine.process.table import processes
from tests.engine.process_cases import (
    folder_of,
    is_running,
    kill_supervisor,
    launch,
    observation,
    record_of,
    running_pids,
    wait_for,
    wait_stopped,
)

STUBBORN_FAMILY = """
trap '' TERM HUP
sleep 1001 &
setsid sh -c "trap '' TERM; sleep 1002" &
env -i sleep 1003 &
echo ready
while :; do sleep 1000; done
"""


def start_family(engine: ProcessEngine) -> AttemptId:
    """An attempt that ignores SIGTERM, with a child in its group, one in a session of its own, and one
    without environment.
    """
    given = launch("sh", "-c", STUBBORN_FAMILY)
    engine.start(given)
    wait_for(lambda: b"ready" in b"".join(engine.logs(given.attempt, follow=False)), "the family to be there")
    return given.attempt


def session_members(session: int) -> list[int]:
    return [process.pid for process in processes() if process.session == session]


def test_a_killed_supervisor_takes_its_whole_attempt_along_before_it_is_reported(
    engine: ProcessEngine, tmp_path: Path
) -> None:
    """Failed is said only when every process is gone: of the group, of another session, and without an
    environment.
    """
    attempt = start_family(engine)
    session = int(record_of(tmp_path, attempt)["session"])
    wait_for(
        lambda: len(session_members(session)) >= 3 and len(running_pids(tmp_path)) >= 4, "all the family"
    )
    kill_supervisor(tmp_path, attempt)
    seen = wait_stopped(engine, attempt)
    assert session_members(session) == []
    assert running_pids(tmp_path) == []
    assert (seen.phase, seen.reason, seen.ran, seen.disrupted) == (
        Phase.FAILED,
        "SupervisorLost",
        True,
        False,
    )
    assert engine.start(launch("true", task_id=attempt.task_id)) == seen


def test_while_something_of_a_lost_attempt_may_run_nothing_is_proven(
    engine: ProcessEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that does not die (as one that hangs in the kernel) keeps the attempt Unknown, and so its
    hold.
    """
    attempt = start_family(engine)
    with monkeypatch.context() as patch:
        patch.setattr(process_search, "kill", lambda target: None)
        kill_supervisor(tmp_path, attempt)
        seen = observation(engine, attempt)
        assert seen is not None
        assert (seen.phase, seen.stopped, seen.reason) == (Phase.UNKNOWN, False, "SupervisorLost")
        assert seen.uid == record_of(tmp_path, attempt)["uid"]
    assert wait_stopped(engine, attempt).phase is Phase.FAILED
    assert running_pids(tmp_path) == []


def test_two_replicas_settle_a_lost_attempt_once(
    replica: Callable[[], ProcessEngine], tmp_path: Path
) -> None:
    replicas = [replica() for _ in range(4)]
    attempts = [start_family(replicas[0]) for _ in range(3)]
    for attempt in attempts:
        kill_supervisor(tmp_path, attempt)
    with ThreadPoolExecutor(4, thread_name_prefix="replica") as pool:
        list(pool.map(lambda engine: [wait_stopped(engine, attempt) for attempt in attempts], replicas))
    for attempt in attempts:
        assert len({observation(engine, attempt) for engine in replicas}) == 1
    assert running_pids(tmp_path) == []


def test_a_watch_finds_a_lost_supervisor_by_itself(engine: ProcessEngine, tmp_path: Path) -> None:
    reported: list[Observation] = []
    stop = threading.Event()
    watch = threading.Thread(target=engine.watch, args=(reported.append, stop), name="watch")
    watch.start()
    try:
        given = launch("sleep", "1000")
        engine.start(given)
        wait_for(lambda: reported, "the start to be reported")
        os.kill(int(record_of(tmp_path, given.attempt)["supervisor"]), signal.SIGKILL)
        wait_for(
            lambda: reported[-1].reason == "SupervisorLost" and reported[-1].stopped,
            "the loss to be reported",
        )
    finally:
        stop.set()
        watch.join()


def test_a_rebooted_machine_ended_what_ran(engine: ProcessEngine, tmp_path: Path) -> None:
    """Another boot id is the proof of stop, and the end is no fault of the task."""
    given = launch("sleep", "1000")
    engine.start(given)
    kill_supervisor(tmp_path, given.attempt)
    path = folder_of(tmp_path, given.attempt) / files.RECORD
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot_id": "an earlier boot"}))
    seen = wait_stopped(engine, given.attempt)
    assert (seen.phase, seen.reason, seen.disrupted) == (Phase.FAILED, "MachineRebooted", True)


@pytest.mark.parametrize("content", [b"", b'{"phase": "Succ', b"[]", b'{"phase": "Running"}', b"\xff\xfe"])
def test_a_broken_result_is_no_result(engine: ProcessEngine, tmp_path: Path, content: bytes) -> None:
    given = launch("sleep", "1000")
    engine.start(given)
    kill_supervisor(tmp_path, given.attempt)
    (folder_of(tmp_path, given.attempt) / files.RESULT).write_bytes(content)
    seen = wait_stopped(engine, given.attempt)
    assert (seen.phase, seen.reason) == (Phase.FAILED, "SupervisorLost")


def test_a_result_that_was_not_put_in_place_is_ignored(engine: ProcessEngine, tmp_path: Path) -> None:
    """Killed between writing the result aside and renaming it: what counts is that nobody says it is over."""
    given = launch("sleep", "1000")
    engine.start(given)
    (folder_of(tmp_path, given.attempt) / f".{files.RESULT}.123").write_text(
        '{"phase": "Succeeded", "uid": "x"}'
    )
    seen = observation(engine, given.attempt)
    assert seen is not None
    assert seen.phase is Phase.RUNNING
    kill_supervisor(tmp_path, given.attempt)
    assert wait_stopped(engine, given.attempt).reason == "SupervisorLost"


@pytest.mark.parametrize("content", [b"", b'{"uid": "'])
def test_a_broken_record_is_settled_by_the_marker_of_its_processes(
    engine: ProcessEngine, tmp_path: Path, content: bytes
) -> None:
    attempt = start_family(engine)
    session = int(record_of(tmp_path, attempt)["session"])
    kill_supervisor(tmp_path, attempt)
    (folder_of(tmp_path, attempt) / files.RECORD).write_bytes(content)
    assert wait_stopped(engine, attempt).reason == "SupervisorLost"
    assert running_pids(tmp_path) == []
    # Without the record, the session is unknown: only what also cleared its environment is out of sight.
    for pid in session_members(session):
        os.kill(pid, signal.SIGKILL)


def test_a_claim_that_died_before_its_record_is_free(engine: ProcessEngine, tmp_path: Path) -> None:
    """The kernel dropped its lock, nothing was executed: the attempt is not known, and the next start runs
    it.
    """
    given = launch("true")
    script = (
        "import os, signal, sys; from pathlib import Path; from controller.engine.process.attempt_folder"
        " import Lock\nlock = Lock.take(Path(sys.argv[1]), make=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(folder_of(tmp_path, given.attempt))], check=False)
    assert (folder_of(tmp_path, given.attempt) / files.LOCK).exists()
    assert engine.attempts() == []
    engine.start(given)
    assert wait_stopped(engine, given.attempt).phase is Phase.SUCCEEDED


def test_supervisors_killed_at_any_moment_of_a_start_leave_no_doubt(
    engine: ProcessEngine, tmp_path: Path
) -> None:
    """Whenever it dies, the attempt runs at most once, ends, and whoever starts it again is told so."""
    engine.start(launch("true"))  # the fork server is up
    server = engine._fork_server._process
    assert server is not None
    ran = tmp_path / "ran"
    chance = random.Random(33)

    def kill_supervisors_soon(stop: threading.Event) -> None:
        while not stop.wait(chance.uniform(0.0, 0.02)):
            for process in processes():
                if process.parent == server.pid:
                    os.kill(process.pid, signal.SIGKILL)

    stop = threading.Event()
    killer = threading.Thread(target=kill_supervisors_soon, args=(stop,), name="killer")
    killer.start()
    attempts = [launch("sh", "-c", f"echo {number} >> {ran}; sleep 1000") for number in range(30)]
    try:
        for given in attempts:

            def is_claimed(given: Launch = given) -> bool:
                try:
                    return bool(engine.start(given).uid)
                except EngineUnavailable:
                    return False  # killed before it could answer: started again, as the leader would

            wait_for(is_claimed, f"{given.attempt} to be claimed")
    finally:
        stop.set()
        killer.join()
    for given in attempts:
        engine.stop(given.attempt, grace_seconds=0.0)
        assert wait_stopped(engine, given.attempt).phase is Phase.FAILED
    lines = ran.read_text().split() if ran.exists() else []
    assert len(lines) == len(set(lines))
    assert running_pids(tmp_path) == []


def test_an_attempt_survives_the_death_of_its_controller_and_is_adopted(
    engine: ProcessEngine, tmp_path: Path
) -> None:
    """SIGKILL to the controller's whole process group, as a terminal or an init system would do it."""
    script = (
        "import sys, time; from pathlib import Path; from controller.clock import SystemClock\nfrom"
        " controller.engine.process.engine import ProcessEngine; from tests.engine.process_cases import"
        " launch\nengine = ProcessEngine(Path(sys.argv[1]), 'test',"
        " SystemClock())\nprint(engine.start(launch('sleep', '1000', task_id='survivor')).uid, flush=True);"
        " time.sleep(1000)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as controller:
        assert controller.stdout is not None
        uid = controller.stdout.readline().strip()
        servers = [process.pid for process in processes() if process.parent == controller.pid]
        os.killpg(controller.pid, signal.SIGKILL)
    wait_for(lambda: not any(is_running(pid) for pid in servers), "the fork server to follow its replica")
    seen = observation(engine, AttemptId("survivor", 1))
    assert seen is not None
    assert (seen.phase, seen.uid) == (Phase.RUNNING, uid)
    engine.stop(AttemptId("survivor", 1), grace_seconds=30.0, uid=uid)
    assert wait_stopped(engine, AttemptId("survivor", 1)).signal == signal.SIGTERM


def test_a_killed_fork_server_is_replaced(engine: ProcessEngine) -> None:
    first, second = launch("sleep", "1000"), launch("sleep", "1000")
    engine.start(first)
    server = engine._fork_server._process
    assert server is not None
    server.kill()
    server.wait()
    engine.start(second)
    assert {seen.phase for seen in engine.attempts()} == {Phase.RUNNING}
