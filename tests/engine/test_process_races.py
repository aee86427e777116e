"""Two replicas, or a stale and a new leader, at the same moment: one live attempt at most, and none that
is stuck.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec

from controller.core.model.task import Launch, Phase
from controller.engine.base import EngineUnavailable
from controller.engine.process import attempt_folder as files
from controller.engine.process import search as process_search
from controller.engine.process.engine import ProcessEngine
from tests.engine.process_cases import folder_of, launch, running_pids, wait_for, wait_stopped


def once_at_a_time(folder: Path) -> Launch:
    """Notes each run, and each run that met another alive: a folder cannot be made twice."""
    note = (
        f"mkdir {folder}/live-$TALLY_TASK_ID || echo $TALLY_TASK_ID >> {folder}/overlaps; echo $TALLY_TASK_ID"
        f" >> {folder}/runs"
    )
    return launch("sh", "-c", f"{note}; sleep 0.02; rmdir {folder}/live-$TALLY_TASK_ID")


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def start_until_told(engine: ProcessEngine, given: Launch) -> None:
    """As a leader does: the machine may fork all the time, and then it cannot be told whether the attempt
    runs already.
    """

    def is_told() -> bool:
        try:
            engine.start(given)
        except EngineUnavailable:
            return False
        return True

    wait_for(is_told, f"the start of {given.attempt}")


def test_starts_from_several_threads_and_replicas_make_one_run(
    replica: Callable[[], ProcessEngine], tmp_path: Path
) -> None:
    replicas = [replica() for _ in range(3)]
    attempts = [once_at_a_time(tmp_path) for _ in range(20)]
    with ThreadPoolExecutor(9, thread_name_prefix="starter") as pool:
        for given in attempts:
            seen = list(pool.map(lambda engine, given=given: engine.start(given), replicas * 3))
            assert len({s.uid for s in seen}) == 1
    for given in attempts:
        wait_stopped(replicas[0], given.attempt)
    assert sorted(lines(tmp_path / "runs")) == sorted(given.attempt.task_id for given in attempts)


def test_starts_from_several_processes_make_one_run(engine: ProcessEngine, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from controller.clock import SystemClock\nfrom"
        " controller.engine.process.engine import ProcessEngine; from tests.engine.process_cases import"
        " launch\nhome = Path(sys.argv[1]); engine = ProcessEngine(home, 'test', SystemClock()); input()\nfor"
        " n in range(20):\n    print(engine.start(launch('sh', '-c', f'echo {n} >> {home}/runs',"
        " task_id=f'contested-{n}')).uid)\nengine.close()"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    starters = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for starter in starters:
        assert starter.stdin is not None
        starter.stdin.write("go\n")
        starter.stdin.flush()
    uids = [starter.communicate(timeout=60)[0].split() for starter in starters]
    assert len(uids[0]) == 20
    assert uids[0] == uids[1] == uids[2]
    wait_for(lambda: all(seen.stopped for seen in engine.attempts()), "all to end")
    assert sorted(lines(tmp_path / "runs"), key=int) == [str(n) for n in range(20)]


def test_a_start_that_races_a_stop_ends_either_way(
    replica: Callable[[], ProcessEngine], tmp_path: Path
) -> None:
    """Whichever comes first, nothing runs on: the attempt never ran, or it was stopped."""
    starter, stopper = replica(), replica()
    attempts = [launch("sh", "-c", f"echo $TALLY_TASK_ID >> {tmp_path}/runs; sleep 1000") for _ in range(40)]
    with ThreadPoolExecutor(2, thread_name_prefix="racer") as pool:
        for given in attempts:
            start = pool.submit(starter.start, given)
            stop = pool.submit(stopper.stop, given.attempt, grace_seconds=0.0)
            start.result()
            stop.result()
    ran = set()
    for given in attempts:
        seen = wait_stopped(starter, given.attempt)
        assert seen.reason in ("Stopped", "NeverStarted")
        if seen.ran:
            ran.add(given.attempt.task_id)
    assert set(lines(tmp_path / "runs")) <= ran
    assert running_pids(tmp_path) == []


def test_a_start_that_races_a_forget_never_overlaps_another_run(
    replica: Callable[[], ProcessEngine], tmp_path: Path
) -> None:
    """Until it is forgotten the attempt is adopted, after it may run anew; at no time do two of it run."""
    replicas = [replica() for _ in range(3)]
    given = once_at_a_time(tmp_path)

    def act(number: int) -> None:
        engine = replicas[number % 3]
        try:
            if number % 2:
                engine.forget(given.attempt)
            else:
                engine.start(given)
        except EngineUnavailable:
            return  # forgotten while it was started, or just ending: the caller would try again

    with ThreadPoolExecutor(6, thread_name_prefix="racer") as pool:
        list(pool.map(act, range(300)))
    replicas[0].start(given)
    wait_stopped(replicas[0], given.attempt)
    assert lines(tmp_path / "overlaps") == []
    assert len(lines(tmp_path / "runs")) >= 1
    replicas[0].forget(given.attempt)
    assert replicas[1].attempts() == []


def test_a_result_that_was_read_once_is_not_that_of_the_next_run_under_its_name(
    replica: Callable[[], ProcessEngine], tmp_path: Path
) -> None:
    """A replica keeps what it has read of an attempt's end. Another one forgets the attempt, and starts it
    anew.
    """
    first, second = replica(), replica()
    given = launch("sh", "-c", f"mkdir {tmp_path}/ran || exit 7")
    first.start(given)
    assert [wait_stopped(engine, given.attempt).exit_code for engine in (first, second)] == [0, 0]
    first.forget(given.attempt)
    start_until_told(first, given)
    assert [wait_stopped(engine, given.attempt).exit_code for engine in (first, second)] == [7, 7]


def test_a_repeated_start_harms_no_start_under_way(replica: Callable[[], ProcessEngine]) -> None:
    """A leader repeats the start that its predecessor had just asked for: what runs is none of what was
    left behind.
    """
    before, after = replica(), replica()
    with ThreadPoolExecutor(2) as pool:
        for number in range(60):
            given = launch("true", task_id=f"twice-{number}")
            again = msgspec.structs.replace(given, repeated=True)
            for call in (pool.submit(before.start, given), pool.submit(start_until_told, after, again)):
                call.result()
            assert wait_stopped(after, given.attempt).phase is Phase.SUCCEEDED, given.attempt


@contextmanager
def forked_copy() -> Iterator[None]:
    """A child that has all that we have open, as any child has until it executes its program."""
    ends, ours = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        os.read(ends, 1)
        os._exit(0)
    os.close(ends)
    try:
        yield
    finally:
        os.close(ours)
        os.waitpid(child, 0)


def test_what_is_forked_under_a_lock_supervises_nothing(engine: ProcessEngine, tmp_path: Path) -> None:
    """A replica forks whenever it likes, and whoever settles an attempt holds its lock: neither is taken
    for a supervisor.
    """
    given = launch("true")
    folder = folder_of(tmp_path, given.attempt)
    lock = files.Lock.take(folder, make=True)
    assert lock is not None
    with lock, forked_copy():
        # others may fork all the time
        wait_for(lambda: not process_search.end_all({folder: None}), "a proof that nothing runs")
        assert process_search.supervisor_of(folder, None) == 0
    engine.start(msgspec.structs.replace(given, repeated=True))
    assert wait_stopped(engine, given.attempt).phase is Phase.SUCCEEDED


def test_starts_that_are_repeated_as_a_leader_begins_are_all_made(
    replica: Callable[[], ProcessEngine],
) -> None:
    """Its fork server begins with the first, while others look for what their predecessor left behind."""
    for _ in range(8):
        engine = replica()
        attempts = [msgspec.structs.replace(launch("true"), repeated=True) for _ in range(16)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(partial(start_until_told, engine), attempts))
        for given in attempts:
            assert wait_stopped(engine, given.attempt).phase is Phase.SUCCEEDED


def test_a_stop_harms_nobody_who_settles_the_attempt(engine: ProcessEngine, tmp_path: Path) -> None:
    """Another replica, or an audit, holds the lock of an attempt without a supervisor: it is not what has
    to end.
    """
    given = launch("sleep", "1000")
    uid = engine.start(given).uid
    script = (
        "import sys; from pathlib import Path; from controller.engine.process.attempt_folder import Lock\n"
        "lock = None\n"
        "while lock is None:\n"
        "    lock = Lock.take(Path(sys.argv[1]))\n"
        "print('held', flush=True); input(); lock.release(); print('released')"
    )
    command = [sys.executable, "-c", script, str(folder_of(tmp_path, given.attempt))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as settler:
        assert settler.stdin is not None
        assert settler.stdout is not None
        supervisor = process_search.supervisor_of(folder_of(tmp_path, given.attempt), None)
        assert supervisor
        os.kill(supervisor, signal.SIGKILL)
        assert settler.stdout.readline() == "held\n"
        engine.stop(given.attempt, grace_seconds=0.0, uid=uid)
        assert settler.communicate("go on\n", timeout=60)[0] == "released\n"
        assert settler.returncode == 0
    assert wait_stopped(engine, given.attempt).reason == "SupervisorLost"
