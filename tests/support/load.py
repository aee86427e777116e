"""Steady load for tests that treat a local cluster badly: somebody submits and cancels the whole time, and
then looks.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from controller.core.model.lifecycle import State
from controller.dev.cluster import LocalCluster
from tests.support.local import QUICK, Journal, leader_of, local_cluster

POOL = {"name": "default", "capacity": {"cpu": 4}, "policy": "backfill"}


class Load:
    """Submits a few tasks, again and again, until `finish`; some of them fail once, some are cancelled."""

    def __init__(self, cluster: LocalCluster, journal: Journal, pause_seconds: float = 0.2) -> None:
        self._cluster = cluster
        self._journal = journal
        self._pause = pause_seconds
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self.acknowledged: list[str] = []

    def _tasks(self, round_number: int) -> Iterator[dict[str, Any]]:
        bodies = {
            "quick": "true",
            "slow": "sleep 0.4",
            "flaky": '[ "$TALLY_ATTEMPT" != 1 ]',
            "endless": "sleep 600",
        }
        retry = {"max_attempts": 2, "backoff_seconds": 0.5}
        for kind, body in bodies.items():
            command = self._journal.command(body)
            fields = {"command": command, "resources": {"cpu": "500m"}, "retry": retry, "grace_seconds": 1}
            yield {"id": f"{kind}-{round_number}", **fields}

    def _run(self) -> None:
        try:
            with self._cluster.client() as client:
                for round_number in itertools.count():
                    self.acknowledged += [
                        r.id for r in client.submit_many(self._tasks(round_number)) if r.outcome == "created"
                    ]
                    client.cancel(f"endless-{round_number}")
                    if self._stop.wait(self._pause):
                        return
        except BaseException as error:  # noqa: BLE001  # handed to the test
            self._error = error

    def finish(self) -> None:
        """Submit no more, wait for what was submitted, and see that each task ended as it must."""
        self._stop.set()
        self._thread.join(30)
        assert self._error is None, self._error
        with self._cluster.client() as client:
            views = client.wait(self.acknowledged, timeout_seconds=60)
        expected = {
            "quick": State.SUCCEEDED,
            "slow": State.SUCCEEDED,
            "flaky": State.SUCCEEDED,
            "endless": State.CANCELLED,
        }
        wrong = {
            task_id: view.state
            for task_id, view in views.items()
            if view.state is not expected[task_id.split("-")[0]]
        }
        assert not wrong

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)


@contextmanager
def loaded(path: Path, replicas: int) -> Iterator[tuple[LocalCluster, Journal, Load]]:
    """A cluster under steady load."""
    journal = Journal(path / "journal")
    with local_cluster(path / "data", replicas=replicas, settings=QUICK) as cluster:
        with cluster.client() as client:
            client.apply_pool(POOL)
        leader_of(cluster)
        with Load(cluster, journal) as load:
            yield cluster, journal, load
