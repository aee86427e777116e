"""What a kubelet still does after the API server has forgotten a pod, by what the container itself wrote."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.core.model.lifecycle import State
from controller.dev.cluster import LocalCluster
from tests.cluster.test_cluster import PATIENCE, is_running, wait_for
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(900)]

Make = Callable[..., dict[str, Any]]
BEAT = 'trap "" TERM; while :; do cut -d " " -f 1 /proc/uptime >> /beats/$TALLY_TASK_ID; sleep 0.1; done'
STARTING, LATER = 12, 4.0


@pytest.fixture
def beats() -> Iterator[Path]:
    """A folder of this machine, for the containers of a node that is this machine."""
    with tempfile.TemporaryDirectory(prefix="tally-beats-") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def beating(task: Make, beats: Path) -> dict[str, Any]:
    """A task that ignores TERM, and writes each tenth of a second that it lives."""
    volume = {"name": "beats", "hostPath": {"path": str(beats)}}
    mounted = {"name": "task", "volumeMounts": [{"name": "beats", "mountPath": "/beats"}]}
    template = {"spec": {"volumes": [volume], "containers": [mounted]}}
    return task(BEAT, pod_template=template, grace_seconds=3)


def last_beat(beats: Path, task_id: str) -> float:
    """The boottime of the last one; 0 if it never ran."""
    file = beats / task_id
    return float(file.read_text().split()[-1]) if file.exists() else 0.0


def released(tally: LocalCluster, task_id: str, state: State) -> float:
    """The boottime at which the task was seen to have ended."""
    wait_for(tally, task_id, "over", lambda view: view.state is state)
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@pytest.fixture
def on_this_machine(tally: LocalCluster, task: Make, beats: Path) -> Path:
    """Skips where the node is another machine: what its containers write is not to be seen here."""
    spec = beating(task, beats)
    with tally.client() as users:
        users.submit(spec)
        wait_for(tally, spec["id"], "running", is_running)
        try:
            wait_until(lambda: last_beat(beats, spec["id"]), "a beat", timeout=10)
        except AssertionError:
            pytest.skip("the node's file system is not this machine's")
        finally:
            users.cancel(spec["id"])
        users.wait([spec["id"]], timeout_seconds=PATIENCE)
    return beats


def test_a_hold_outlives_a_container_that_begins_after_its_cancel(
    tally: LocalCluster, task: Make, on_this_machine: Path
) -> None:
    """A kubelet of 1.20 confirms the deletion of a pod that is starting, and starts it a second later."""
    specs = [beating(task, on_this_machine) for _ in range(STARTING)]
    with tally.client() as users:
        for number, spec in enumerate(specs):
            users.submit(spec)
            wait_for(tally, spec["id"], "admitted", lambda view: view.state is not State.CREATED)
            time.sleep(0.03 * number)  # at another moment of its start each
            users.cancel(spec["id"])
    ends = {spec["id"]: released(tally, spec["id"], State.CANCELLED) for spec in specs}
    time.sleep(LATER)
    late = {name: last_beat(on_this_machine, name) - at for name, at in ends.items()}
    assert {name: seconds for name, seconds in late.items() if seconds > 0} == {}
