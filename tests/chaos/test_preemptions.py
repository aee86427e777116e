"""Many preemptions on real parts, with leaders killed meanwhile: nothing is held twice at any revision.

PREEMPTIONS=1000 makes as many; without it, few are made.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from pathlib import Path

import psutil
import pytest

from controller.audit.audit import run_audit
from controller.clock import SystemClock
from controller.core.model.lifecycle import Event, State
from controller.engine.process.engine import ProcessEngine
from tests.support.history import replay
from tests.support.local import QUICK, Tending, local_cluster
from tests.support.preemptions import preempt

pytestmark = pytest.mark.xdist_group("chaos")
SIZE = 10
PREEMPTIONS = int(os.environ.get("PREEMPTIONS", "20"))


def live(prefix: str) -> set[tuple[str, str]]:
    """The attempts of these tasks that have a process which sleeps."""
    found = set()
    for process in psutil.process_iter(["name"]):
        try:
            environment = process.environ() if process.info["name"] == "sleep" else {}
        except psutil.Error:
            continue  # it has just ended
        if environment.get("TALLY_TASK_ID", "").startswith(prefix):
            found.add((environment["TALLY_TASK_ID"], environment["TALLY_ATTEMPT"]))
    return found


@pytest.mark.timeout(60 + 3 * PREEMPTIONS)
def test_preempted_attempts_hold_until_they_have_stopped(tmp_path: Path) -> None:
    """At no revision, and at no look at the machine's processes, is more in use than there is."""
    numbers, prefix = itertools.count(), f"p{os.getpid()}-"
    most = 0

    def looks() -> None:
        nonlocal most
        alive = live(prefix)
        assert max(Counter(task for task, _ in alive).values(), default=0) <= 1, alive
        most = max(most, len(alive))

    with (
        local_cluster(tmp_path, settings=QUICK) as cluster,
        Tending(cluster),
        cluster.client() as users,
    ):
        ids = preempt(
            cluster,
            users,
            {"name": "shared"},
            lambda shell: {
                "id": f"{prefix}{next(numbers)}",
                "command": shell.split(),
                "grace_seconds": 2,
                "retention_seconds": 86400,
            },
            rounds=-(-PREEMPTIONS // SIZE),
            size=SIZE,
            kills=True,
            looks=looks,
        )
        assert 0 < most <= SIZE
        views = {view.id: view for view in users.tasks(pool="shared")}
        preempted = sum(
            step.event == Event.PREEMPTED for name in ids["borrower"] for step in views[name].history()
        )
        assert preempted >= PREEMPTIONS or PREEMPTIONS > 100  # a history is cut after 40 steps
        assert {views[name].state for name in ids["owner"]} == {State.SUCCEEDED}
        assert {views[name].attempt for name in ids["owner"]} == {1}
        statuses = [views[name].status for name in ids["borrower"]]
        assert {(status.state, status.failures) for status in statuses if status} == {(State.CANCELLED, 0)}
        history = replay(cluster.endpoint)
        assert not history.findings, "\n".join(history.findings)
        clock = SystemClock()
        engine = ProcessEngine(cluster.state_dir, "default", clock)
        report = run_audit(users.store, engine, "default", clock)
        engine.close()
        assert report.verdict == "ok", report.to_text()
