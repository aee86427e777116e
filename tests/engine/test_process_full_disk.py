"""Fault 48: no room, no inodes, or nothing that may be written.

What runs can be stopped, starts are refused with the reason.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.process_cases import run_on_small_disk

SCRIPT = """
import os, subprocess, sys
from pathlib import Path
from controller.clock import SystemClock
from controller.engine.base import EngineUnavailable
from controller.engine.process.engine import ProcessEngine
from tests.engine.process_cases import launch, observation, running_pids, wait_for, wait_stopped

home, trouble = Path(sys.argv[1]), sys.argv[2]
engine = ProcessEngine(home, "test", SystemClock())
polite = launch("sh", "-c", "trap 'sleep 0.1; exit 7' TERM; echo ready; while :; do sleep 0.01; done")
stubborn = launch("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1000; done")
unheard = launch("sh", "-c", "rm ../wake; echo ready; exec sleep 1000")
for given in (polite, stubborn, unheard):
    engine.start(given)
    output = lambda given=given: b"".join(engine.logs(given.attempt, follow=False))
    wait_for(lambda output=output: b"ready" in output(), "the command to be ready")

def use_up(write):
    try:
        while True:
            write()
    except OSError:
        pass

if trouble == "read-only":
    folder = str(home / "test")
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
elif trouble == "no inodes":
    names = iter(range(10**6))
    use_up(lambda: (home / f"ballast-{next(names)}").touch())
else:
    with open(home / "ballast-0", "wb", buffering=0) as ballast:
        use_up(lambda: ballast.write(b"x" * 512))
assert observation(engine, polite.attempt).phase == "Running"
try:
    engine.start(launch("true", task_id="no-room"))
except EngineUnavailable as error:
    words = {"read-only": "read-only", "no inodes": "space", "no room": "space"}[trouble]
    assert words in str(error).lower(), error
else:
    raise AssertionError("started without room for a record")
engine.stop(polite.attempt, grace_seconds=30.0)
engine.stop(stubborn.attempt, grace_seconds=0.2)
engine.stop(unheard.attempt, grace_seconds=0.2)
wait_for(lambda: not running_pids(home), "all to be stopped")
for given in (polite, stubborn, unheard):
    seen = observation(engine, given.attempt)
    assert not seen.stopped, seen  # its end is not recorded yet
if trouble == "read-only":
    subprocess.run(["umount", str(home / "test")], check=True)
for path in home.glob("ballast*"):
    path.unlink()
seen = wait_stopped(engine, polite.attempt)
assert (seen.reason, seen.exit_code, bool(seen.uid)) == ("Stopped", 7, True), seen
seen = wait_stopped(engine, stubborn.attempt)
assert (seen.reason, seen.signal) == ("Stopped", 9), seen
seen = wait_stopped(engine, unheard.attempt)
assert (seen.reason, seen.signal) == ("Interrupted", 15), seen
engine.start(launch("true", task_id="no-room"))
wait_for(lambda: all(seen.stopped for seen in engine.attempts()), "all to end")
engine.close()
print("held")
"""


@pytest.mark.parametrize("trouble", ["no room", "no inodes", "read-only"])
def test_what_runs_can_be_stopped_and_nothing_is_lost(tmp_path: Path, trouble: str) -> None:
    """The request needs no disk, not even where the task took its FIFO away; the result is written when it
    can be.
    """
    run_on_small_disk(tmp_path, "size=256k,nr_inodes=200", SCRIPT, trouble)
