"""What the tests of the process engine share: launches, bounded waiting, and a sight of what really runs."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from controller.core.model.fencing import fencing_environment
from controller.core.model.resources import Vector
from controller.core.model.task import AttemptId, Launch, Observation, Pool, Spec
from controller.engine.base import Engine
from controller.engine.process import attempt_folder as files
from controller.engine.process.table import environment_value, processes

T = TypeVar("T")
_numbers = itertools.count(1)


def wait_for(probe: Callable[[], T | None], what: str, seconds: float = 60.0) -> T:
    """The first true answer of `probe`; fails the test when there is none in time (generous: slow machines
    are no failure).
    """
    give_up_at = time.monotonic() + seconds
    while not (answer := probe()):
        assert time.monotonic() < give_up_at, f"waited {seconds:g} s in vain for: {what}"
        time.sleep(0.005)
    return answer


def launch(
    *command: str, task_id: str = "", cluster: str = "test", memory: str = "", cpu: str = "", **spec: Any
) -> Launch:
    """A launch of `command`, by default as the first attempt of a task of its own."""
    attempt = AttemptId(task_id or f"task-{next(_numbers)}", 1)
    asked = {"memory": memory, "cpu": cpu}
    resources = Vector.parse({name: amount for name, amount in asked.items() if amount})
    values = Spec(id=attempt.task_id, command=command, resources=resources, **spec)
    environment = fencing_environment(attempt, 7, values.env)
    return Launch(
        attempt=attempt,
        cluster=cluster,
        term=7,
        spec=values,
        pool=Pool(name="default"),
        environment=environment,
    )


def observation(engine: Engine, attempt: AttemptId) -> Observation | None:
    """What a full list says of the attempt."""
    return next((seen for seen in engine.attempts() if seen.attempt == attempt), None)


def wait_stopped(engine: Engine, attempt: AttemptId) -> Observation:
    """The attempt's observation once its stop is proven."""

    def probe() -> Observation | None:
        seen = observation(engine, attempt)
        return seen if seen is not None and seen.stopped else None

    return wait_for(probe, f"the end of {attempt}")


def folder_of(state_dir: Path, attempt: AttemptId, cluster: str = "test") -> Path:
    return state_dir.resolve() / cluster / "attempts" / str(attempt)


def record_of(state_dir: Path, attempt: AttemptId) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder_of(state_dir, attempt) / files.RECORD).read_text())
    return record


def kill_supervisor(state_dir: Path, attempt: AttemptId) -> None:
    """SIGKILL, and wait until the kernel has dropped its lock."""
    os.kill(int(record_of(state_dir, attempt)["supervisor"]), signal.SIGKILL)
    wait_for(
        lambda: files.held(folder_of(state_dir, attempt))[0] is not files.Held.SUPERVISED,
        "the dead supervisor's lock to come free",
    )


def check_death_without_supervisor(engine: Engine, state_dir: Path, attempt: AttemptId, pid: int) -> None:
    """Once its supervisor was killed, its end is told only after this process of it has ended, too."""
    kill_supervisor(state_dir, attempt)
    assert wait_stopped(engine, attempt).reason == "SupervisorLost"
    assert not is_running(pid)


def running_pids(state_dir: Path) -> list[int]:
    """Processes that run as part of an attempt under `state_dir`, by the marker in their environment."""
    prefix = str(state_dir.resolve())
    return [p.pid for p in processes() if (environment_value(p.pid, files.MARKER) or "").startswith(prefix)]


def is_running(pid: int) -> bool:
    return any(process.pid == pid for process in processes())


def run_on_small_disk(folder: Path, options: str, script: str, *arguments: str) -> None:
    """Run a Python script with the folder on a small tmpfs of its own; it must print `held`.

    Skips the test where that cannot be mounted.
    """
    unshare = shutil.which("unshare")
    mount = f"mount -t tmpfs -o {options} tally {folder}"
    if (
        unshare is None
        or subprocess.run([unshare, "-rm", "sh", "-c", mount], capture_output=True, check=False).returncode
        != 0
    ):
        pytest.skip("needs user namespaces, to mount a small file system of its own")
    inside = [unshare, "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh"]
    command = [*inside, sys.executable, "-c", script, str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "held\n", done.stderr
