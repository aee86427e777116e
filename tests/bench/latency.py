"""B8: one task at a time on an idle system: from the submission to running and to finished, beyond what the
engine takes.

The engine's own time is measured in between, with no controller: from `start` to the observations of its
watch. What is shown is each latency less the engine's median, so that the engine's own spread counts against
Tally. Both run `sleep 0.05`.
"""

from __future__ import annotations

import statistics
import threading
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from controller.core.model import codec
from controller.core.model.fencing import fencing_environment
from controller.core.model.lifecycle import State
from controller.core.model.task import AttemptId, Launch, Observation, Phase
from controller.core.model.validation import parse_pool, parse_spec
from controller.engine.process.engine import ProcessEngine
from controller.store.base import StoreError
from controller.store.etcd.store import EtcdStore
from tests.bench.measure import MEMORY, Aim, Figure
from tests.bench.sizes import Sizes
from tests.bench.stage import CLOCK, KEYS, cluster, disk, store_on

COMMAND = ["sleep", "0.05"]
IDLE_SECONDS = 0.05
"""Between two tasks, so that each finds the system at rest."""

_P50_MS, _P99_MS = 7.0, 50.0
_RUNNING, _ENDED = (State.RUNNING, State.SUCCEEDED), (State.SUCCEEDED,)


class Latency(NamedTuple):
    """Milliseconds from the submission (or the start) until it was seen to run and to have ended."""

    running: float
    finished: float


def latency(sizes: Sizes) -> list[Figure]:
    """Idle system, one task at a time: submit to running and to finished; process engine, three replicas."""
    engine, tasks = _by_turns(sizes.latencies)
    figures = []
    for index, what in enumerate(Latency._fields):
        own = [each[index] for each in engine]
        through = [each[index] for each in tasks]
        base = statistics.median(own)
        figures += [
            Figure("B8", f"engine alone: start to {what}", "ms", own, MEMORY, tail=True),
            Figure("B8", f"submit to {what}", "ms", through, tail=True),
            Figure(
                "B8",
                f"submit to {what}, beyond the engine's median",
                "ms",
                [each - base for each in through],
                aims=(Aim("median", most=_P50_MS), Aim("p99", most=_P99_MS)),
                tail=True,
            ),
        ]
    return figures


def _by_turns(count: int) -> tuple[list[Latency], list[Latency]]:
    """The engine alone and the whole way, in turns, so that both meet the same machine; the first turn is
    not counted.
    """
    alone, through, pause = [], [], threading.Event()
    with (
        disk() as folder,
        cluster(replicas=3, engine="process") as running,
        running.client() as client,
        store_on(running.endpoint) as store,
        closing(StateWatch(store)) as states,
        closing(EngineAlone(folder)) as engine,
    ):
        client.apply_pool({"name": "default", "capacity": {"cpu": 1000}})
        for number in range(count + 1):
            alone.append(engine.run(f"alone-{number}"))
            pause.wait(IDLE_SECONDS)
            began = CLOCK.boottime()
            client.submit({"id": f"latency-{number}", "command": COMMAND, "resources": {"cpu": 1}})
            through.append(states.seen.wait(f"latency-{number}", _RUNNING, _ENDED, began))
            pause.wait(IDLE_SECONDS)
    return alone[1:], through[1:]


class EngineAlone:
    """An engine with its watch, called as an actuator does; until `close`."""

    def __init__(self, folder: Path) -> None:
        self._engine = ProcessEngine(folder, KEYS.cluster, CLOCK)
        self._pool = parse_pool({"name": "default", "capacity": {"cpu": 1000}})
        self._seen = Seen()
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._engine.watch, args=(self._sink, self._stop), name="bench-engine", daemon=True
        )
        self._thread.start()

    def _sink(self, observation: Observation) -> None:
        self._seen.note(observation.attempt.task_id, observation.phase, CLOCK.boottime())

    def run(self, name: str) -> Latency:
        """Start an attempt and wait for its end."""
        attempt = AttemptId(name, 1)
        spec = parse_spec({"id": name, "command": COMMAND, "resources": {"cpu": 1}})
        environment = fencing_environment(attempt, 1, spec.env)
        began = CLOCK.boottime()
        launch = Launch(
            attempt=attempt, cluster=KEYS.cluster, term=1, spec=spec, pool=self._pool, environment=environment
        )
        self._sink(self._engine.start(launch))
        return self._seen.wait(name, (Phase.RUNNING, Phase.SUCCEEDED), (Phase.SUCCEEDED,), began)

    def close(self) -> None:
        """End the watch, and whatever runs."""
        self._stop.set()
        self._thread.join(30)
        self._engine.interrupt_all(0.0)
        self._engine.close()


class Seen:
    """When each task was first seen in each state, by whatever watches."""

    def __init__(self) -> None:
        self._at: dict[tuple[str, object], float] = {}
        self._changed = threading.Condition()

    def note(self, task_id: str, state: object, at: float) -> None:
        """It was seen in this state."""
        with self._changed:
            self._at.setdefault((task_id, state), at)
            self._changed.notify_all()

    def wait(
        self, task_id: str, running: tuple[object, ...], ended: tuple[object, ...], began: float
    ) -> Latency:
        """Wait until it has ended; milliseconds since `began` until each."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._first(task_id, ended), timeout=60.0), (
                f"{task_id} does not end"
            )
            return Latency(*(1000 * (self._first(task_id, states) - began) for states in (running, ended)))

    def _first(self, task_id: str, states: tuple[object, ...]) -> float:
        return min(
            (self._at[task_id, state] for state in states if (task_id, state) in self._at), default=0.0
        )


class StateWatch:
    """Watches the statuses in etcd, in a thread of its own, until `close`."""

    def __init__(self, store: EtcdStore) -> None:
        self.seen = Seen()
        _, revision = store.get(KEYS.leader, deadline=CLOCK.boottime() + 30)
        self._watch = store.watch(KEYS.state(""), after=revision)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bench-state-watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for batch in self._watch:
                at = CLOCK.boottime()
                for event in batch.events:
                    if event.item is not None:
                        status, _ = codec.decode_status(event.item.value)
                        self.seen.note(event.key.rsplit("/", 1)[1], status.state, at)
        except StoreError:
            if not self._closed.is_set():
                raise

    def close(self) -> None:
        """End the watch."""
        self._closed.set()
        self._watch.close()
        self._thread.join(30)
