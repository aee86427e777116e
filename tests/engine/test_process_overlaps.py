"""Fault 43, by measurement: no attempt of a task begins while a process of the one before runs, whoever is
killed when.

The tasks themselves tell: every process that an attempt leaves behind shares a lock of its task's own, and an
attempt that finds it taken by an earlier one has overlapped it. OVERLAP_ATTEMPTS sets how many attempts the
large test makes.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from controller.core.model.fencing import fencing_environment
from controller.core.model.task import AttemptId, Launch, Pool, Spec
from controller.engine.base import EngineUnavailable
from controller.engine.process import attempt_folder as files
from controller.engine.process.attempt_values import parse_record
from controller.engine.process.engine import ProcessEngine
from tests.engine.process_cases import running_pids

LANES = 4  # tasks that run beside each other

PROGRAM = """
import ctypes, fcntl, os, sys, threading, time

place, kind = sys.argv[1], sys.argv[2]
task, attempt = os.environ["TALLY_TASK_ID"], os.environ["TALLY_ATTEMPT"]
taken = os.open(f"{place}/{task}.taken", os.O_RDWR | os.O_CREAT, 0o600)
try:
    fcntl.flock(taken, fcntl.LOCK_EX | fcntl.LOCK_NB)  # shared with all that is forked from here on
except BlockingIOError:
    told = os.open(f"{place}/overlaps", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(told, f"{task}-{attempt} {kind}\\n".encode())
os.write(os.open(f"{place}/runs", os.O_WRONLY | os.O_CREAT | os.O_APPEND), b".")
os.open(f"{place}/{task}-{attempt}.begun", os.O_WRONLY | os.O_CREAT)

def closes_what_it_inherited():
    os.dup2(taken, 3)
    os.closerange(4, 256)

def chain():
    if os.fork():
        return
    closes_what_it_inherited()
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if os.fork():
            os._exit(0)
        time.sleep(0.001)

def chain_of_execs():
    if os.fork():
        return
    closes_what_it_inherited()
    step = 'i=0; while [ $i -lt 20 ]; do i=$((i+1)); done; sh -c "$0" "$0" &'
    os.execv("/bin/sh", ["sh", "-c", step, step])

def daemon():
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    closes_what_it_inherited()
    time.sleep(60)

def hidden_daemon():
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    os.set_inheritable(taken, True)
    os.execve("/bin/sleep", ["sleep", "60"], {})

def dead_main_thread():
    if os.fork():
        return
    threading.Thread(target=time.sleep, args=(60,)).start()
    ctypes.CDLL(None).pthread_exit(None)

kinds = {"chain": chain, "execs": chain_of_execs, "daemon": daemon, "hidden": hidden_daemon}
(kinds | {"thread": dead_main_thread})[kind]()
time.sleep(0.02)
if kind == "thread":
    threading.Thread(target=time.sleep, args=(0.1,)).start()
    ctypes.CDLL(None).pthread_exit(None)
"""
KINDS = ("chain", "execs", "daemon", "hidden", "thread")


def launch_of(task_id: str, number: int, kind: str, place: Path) -> Launch:
    attempt = AttemptId(task_id, number)
    spec = Spec(id=task_id, command=(sys.executable, "-S", "-E", "-c", PROGRAM, str(place), kind))
    environment = fencing_environment(attempt, 1, {})
    return Launch(
        attempt=attempt, cluster="test", term=1, spec=spec, pool=Pool(name="default"), environment=environment
    )


@contextmanager
def supervisors_killed(
    attempts: Path, place: Path, chance: random.Random, killed: list[int]
) -> Iterator[None]:
    """SIGKILL to most of them, each at some moment after its command has begun, and to some before."""
    stop = threading.Event()
    due: dict[str, float] = {}

    def kill() -> None:
        while not stop.wait(0.01):
            for name in os.listdir(attempts):
                if name not in due and (chance.random() < 0.01 or (place / f"{name}.begun").exists()):
                    due[name] = (
                        time.monotonic() + chance.uniform(0.0, 0.1) if chance.random() < 0.7 else float("inf")
                    )
                if due.get(name, float("inf")) > time.monotonic():
                    continue
                folder = attempts / name
                supervisor = parse_record(files.read_bytes(folder, files.RECORD) or b"").supervisor
                if supervisor and files.held(folder)[0] is files.Held.SUPERVISED:
                    with suppress(ProcessLookupError):
                        os.kill(supervisor, signal.SIGKILL)
                        killed.append(supervisor)
                        due[name] = float("inf")

    killer = threading.Thread(target=kill, name="killer")
    killer.start()
    try:
        yield
    finally:
        stop.set()
        killer.join()


def run_lane(engine: ProcessEngine, lane: int, count: int, place: Path) -> None:
    """One task's attempts, each started as soon as the one before is proven to have stopped, as a leader
    would.
    """
    for number in range(1, count + 1):
        given = launch_of(f"lane-{lane}", number, KINDS[(lane + number) % len(KINDS)], place)
        give_up_at = time.monotonic() + 300
        is_stopped = False
        while not is_stopped:
            assert time.monotonic() < give_up_at, f"{given.attempt} does not end"
            try:
                is_stopped = engine.start(given).stopped
            except EngineUnavailable:
                is_stopped = False  # its supervisor was killed before it answered: started again
            time.sleep(0.01)
        engine.forget(given.attempt)


@pytest.mark.timeout(0)
@pytest.mark.parametrize(
    "attempts", [40, pytest.param(int(os.environ.get("OVERLAP_ATTEMPTS", "1000")), marks=pytest.mark.slow)]
)
def test_no_attempt_overlaps_the_one_before(engine: ProcessEngine, tmp_path: Path, attempts: int) -> None:
    """Chains, daemons that close what they inherit or hide, dead main threads, under supervisors that are
    killed at random.
    """
    chance, killed, place = random.Random(43), list[int](), tmp_path / "place"
    place.mkdir()
    errors: list[BaseException] = []

    def run(lane: int) -> None:
        try:
            run_lane(engine, lane, attempts // LANES, place)
        except BaseException as error:  # noqa: BLE001  # shown below
            errors.append(error)

    with supervisors_killed(tmp_path / "test" / "attempts", place, chance, killed):
        lanes = [threading.Thread(target=run, args=(lane,), name=f"lane-{lane}") for lane in range(LANES)]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()
    assert errors == []
    overlaps = (place / "overlaps").read_text().splitlines() if (place / "overlaps").exists() else []
    runs = (place / "runs").stat().st_size
    print(
        f"{attempts} attempts, {runs} of them ran, {len(killed)} supervisors killed, {len(overlaps)} overlaps"
    )
    assert overlaps == []
    assert runs >= attempts // 2
    assert killed
    assert running_pids(tmp_path) == []
