"""Odd circumstances of the process engine: none hangs a replica, hides an end, or leaves anything behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from controller.core.model.task import Phase
from controller.engine.process import attempt_output
from controller.engine.process import engine as process_engine
from controller.engine.process.engine import ProcessEngine
from controller.engine.process.stop_requests import enforce_memory
from tests.engine.process_cases import folder_of, launch, wait_for, wait_stopped

HUNGRY_THREAD = """
import ctypes, os, sys, threading, time
def eat():
    kept = b"x" * (200 * 2**20)
    with open(sys.argv[1] + ".new", "w") as file: file.write(str(os.getpid()))
    os.rename(sys.argv[1] + ".new", sys.argv[1])
    time.sleep(1000)
threading.Thread(target=eat).start()
ctypes.CDLL(None).syscall(60, 0)
"""
"""Its main thread ends; 60 is exit, of one thread."""


def test_memory_counts_also_once_the_main_thread_has_ended(engine: ProcessEngine, tmp_path: Path) -> None:
    given = launch(sys.executable, "-c", HUNGRY_THREAD, str(tmp_path / "pid"), memory="100Mi")
    engine.start(given)
    wait_for((tmp_path / "pid").exists, "what it takes")
    enforce_memory([folder_of(tmp_path, given.attempt)])
    seen = wait_stopped(engine, given.attempt)
    assert (seen.phase, seen.reason) == (Phase.FAILED, "OOMKilled")


def test_arguments_that_no_program_can_have_are_told(engine: ProcessEngine) -> None:
    """A lone surrogate is valid in JSON."""
    given = launch("sh", "-c", "exit 3", "\ud83d")
    engine.start(given)
    seen = wait_stopped(engine, given.attempt)
    assert seen.reason == "StartError"
    assert "surrogates not allowed" in seen.message


def test_a_search_for_the_last_lines_ends_when_it_is_told_to(tmp_path: Path) -> None:
    """A leader that steps down does not wait for it, however large the output is."""
    output, stop = tmp_path / "output.log", threading.Event()
    with output.open("wb") as file:
        file.truncate(2**40)
    stop.set()
    assert attempt_output.start_of_tail(output, 10, stop) == 2**40


def test_a_fork_server_that_is_stopped_keeps_nobody(
    engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the end of the replica, nor the next start."""
    monkeypatch.setattr("controller.engine.process.fork_server._END_SECONDS", 0.2)
    given = launch("true")
    engine.start(given)
    wait_stopped(engine, given.attempt)
    server = engine._fork_server._process
    assert server is not None
    os.kill(server.pid, signal.SIGSTOP)
    engine._fork_server.close()
    assert server.returncode == -signal.SIGKILL
    again = launch("true", task_id="again")
    engine.start(again)
    assert wait_stopped(engine, again.attempt).phase is Phase.SUCCEEDED


def test_what_a_replica_left_of_a_removal_is_removed(
    replica: Callable[[], ProcessEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed after the folder was renamed, and nobody knows of the attempt any more."""
    first = replica()
    given = launch("echo", "secret")
    first.start(given)
    wait_stopped(first, given.attempt)
    with monkeypatch.context() as patched:
        patched.setattr(process_engine, "_remove", lambda _: None)
        first.forget(given.attempt)
    trash = tmp_path / "test" / "trash"
    assert [*trash.iterdir()]
    monkeypatch.setattr(process_engine, "_TRASH_SECONDS", 0.0)
    replica().attempts()
    wait_for(lambda: not [*trash.iterdir()], "an empty trash")
