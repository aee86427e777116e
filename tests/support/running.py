"""Whole replicas in this process, on any store and engine, with threads as in production; only the process
is shared.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from controller.client import Client
from controller.clock import Clock, SystemClock
from controller.core.model import features
from controller.core.model.task import AttemptId, Launch, Observation, Phase
from controller.election.elector import Timings
from controller.engine.null import NullEngine
from controller.runtime.audits import Audits
from controller.runtime.instruments import UNCOUNTED, Instruments
from controller.runtime.options import ReplicaOptions
from controller.runtime.replica import Replica
from controller.store.base import Store
from tests.support.waiting import wait_until

TIMINGS = Timings(
    lease_ttl_seconds=2,
    keepalive_interval_seconds=0.2,
    deadline_margin_seconds=0.3,
    request_timeout_seconds=1.0,
    heartbeat_limit_seconds=2.0,
    standback_seconds=0.3,
)
POOL = {"name": "default", "capacity": {"cpu": 4}}

_leases = itertools.count(1_000_000)


class RecordingEngine(NullEngine):
    """A null engine that keeps the order in which it was called, and on which a test can make any call
    fail or wait.
    """

    def __init__(self, clock: Clock, run_seconds: float = 0.0) -> None:
        super().__init__(clock, run_seconds)
        self.on: dict[str, Callable[[], None]] = {}
        self.started: list[tuple[AttemptId, float]] = []  # with when, on the clock's boottime
        self.stopped: list[AttemptId] = []

    def start(self, launch: Launch, confirm: Callable[[], None] | None = None) -> Observation:
        self._meddle("start")
        self.started.append((launch.attempt, self._clock.boottime()))
        return super().start(launch, confirm)

    def stop(self, attempt: AttemptId, *, grace_seconds: float, uid: str = "") -> Observation | None:
        self._meddle("stop")
        self.stopped.append(attempt)
        return super().stop(attempt, grace_seconds=grace_seconds, uid=uid)

    def attempts(self) -> list[Observation]:
        self._meddle("attempts")
        return super().attempts()

    def watch(self, sink: Callable[[Observation], None], stop: threading.Event) -> None:
        self._meddle("watch")
        super().watch(sink, stop)

    def end(self, attempt: AttemptId) -> None:
        """The attempt ends now, with success."""
        with self._changed:
            self._end(
                replace(self._attempts[attempt], phase=Phase.SUCCEEDED, exit_code=0, reason="Completed")
            )

    def _meddle(self, call: str) -> None:
        if call in self.on:
            self.on[call]()


class RunningReplica:
    """A replica that runs until `close`. `fatal` has what it would have ended its process for."""

    def __init__(
        self,
        store: Store,
        name: str = "r1",
        *,
        cluster: str,
        engine: NullEngine | None = None,
        clock: Clock | None = None,
        instruments: Instruments = UNCOUNTED,
        **options: Any,
    ) -> None:
        self.name = name
        self.clock = clock or SystemClock()
        self.engine = engine or RecordingEngine(self.clock)
        self.fatal: list[str] = []
        identity = {
            "id": name,
            "instance": f"{name}-{next(_leases)}",
            "status_url": "",
            "features": list(features.KNOWN),
        }
        defaults: dict[str, Any] = {
            "timings": TIMINGS,
            "heartbeat_seconds": 0.2,
            "silence_seconds": 2.0,
            "relist_seconds": 1.0,
        }
        self.replica = Replica(
            store,
            self.engine,
            self.clock,
            ReplicaOptions(cluster=cluster, identity=identity, **{**defaults, **options}),
            audits=Audits(dict, self.clock),
            new_lease=lambda: next(_leases),
            fatal=self.fatal.append,
            instruments=instruments,
        )
        self._thread = threading.Thread(target=self.replica.run, name=f"replica-{name}", daemon=True)
        self._thread.start()

    @property
    def leads(self) -> bool:
        return self.replica.facts().role == "leader"

    @property
    def epoch(self) -> int:
        """The epoch of the term that it leads, 0 when it does not."""
        facts = self.replica.facts()
        return facts.epoch if facts.role == "leader" else 0

    def until_leading(self, after: int = 0) -> int:
        """Wait until it leads in an epoch above `after`; returns that."""
        return wait_until(
            lambda: self.epoch > after and self.replica.facts().phase == "leading" and self.epoch,
            f"{self.name} leads",
        )

    def close(self) -> None:
        """Stop it, and wait for its end."""
        self.replica.stop()
        self._thread.join(20)
        assert not self._thread.is_alive(), "the replica does not end"

    def __enter__(self) -> RunningReplica:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def submit(client: Client, *ids: str, **fields: Any) -> list[str]:
    """Submit tasks of one cpu each; returns their ids."""
    tasks = [{"id": task_id, "command": ["x"], "resources": {"cpu": 1}, **fields} for task_id in ids]
    for result in client.submit_many(tasks):
        assert result.outcome == "created", result
    return list(ids)
