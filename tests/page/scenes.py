"""Models to look at: an empty installation, a busy one, one where much fails, and one with very many
tasks.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from controller.core.model import codec
from controller.core.model.lifecycle import Event, State
from controller.core.model.op import Op
from controller.core.model.records import Change, Ledger
from controller.core.model.resources import Vector
from controller.core.model.shares import Account, Share, encode_share
from controller.core.model.sharing import Ceiling, OwnerPolicy, Sharing
from controller.core.model.task import Pool, Spec, Status, Step
from controller.errors import TallyError
from controller.runtime import checks
from controller.views.forecast import ComingView, CourseView, ErrorView, ForecastView
from controller.views.freshness import RULE
from controller.views.replica import Check
from tests.endpoint.model_view import ModelView

NOW = 1_760_000_000.0
GIB = 2**30
LEADER = "tally-0"

_PATHS: dict[State, list[tuple[Event, State]]] = {
    State.PENDING: [(Event.ADMITTED, State.PENDING)],
    State.RUNNING: [(Event.ADMITTED, State.PENDING), (Event.RUNNING_OBSERVED, State.RUNNING)],
    State.SUCCEEDED: [
        (Event.ADMITTED, State.PENDING),
        (Event.RUNNING_OBSERVED, State.RUNNING),
        (Event.SUCCEEDED_OBSERVED, State.SUCCEEDED),
    ],
    State.FAILED: [
        (Event.ADMITTED, State.PENDING),
        (Event.RUNNING_OBSERVED, State.RUNNING),
        (Event.FAILED_OBSERVED, State.FAILED),
    ],
    State.WAITING_RETRY: [
        (Event.ADMITTED, State.PENDING),
        (Event.RUNNING_OBSERVED, State.RUNNING),
        (Event.FAILED_OBSERVED, State.FAILED),
        (Event.RETRY_DUE, State.WAITING_RETRY),
    ],
    State.CANCELLED: [(Event.CANCEL_REQUESTED, State.CANCELLED)],
}


def status_of(state: State, at: float, **fields: Any) -> bytes:
    """A stored status with the whole history that leads to `state`, beginning at `at`."""
    position, steps = State.CREATED, []
    for index, (event, target) in enumerate(_PATHS[state]):
        last = index + 1 == len(_PATHS[state])
        steps.append(
            Step(
                at=at + 3.4 * index,
                source=position,
                event=event,
                state=target,
                attempt=int(state is not State.CANCELLED),
                epoch=3,
                reason=fields.get("reason", "") if last else "",
                message=fields.get("message", "") if last else "",
            )
        )
        position = target
    started = at + 3.4 if state not in (State.PENDING, State.CANCELLED) else None
    ended = (
        at + 6.8 if state in (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.WAITING_RETRY) else None
    )
    values: dict[str, Any] = {
        "pool": "default",
        "attempt": int(state is not State.CANCELLED),
        "epoch": 3,
        "steps": len(steps),
        "created_at": at - 60,
        "admitted_at": at,
        "started_at": started,
        "finished_at": ended,
        "history": tuple(map(codec.encode_step, steps)),
        "op": "r/1/1",
        "version": 1,
    } | fields
    return codec.encode_status(Status(state=state, **values), {})


class Scene(ModelView):
    """A replica's view of three replicas at a time that stands still."""

    def __init__(self) -> None:
        super().__init__()
        self.time = NOW
        self.leader = LEADER
        self.foreseen: ForecastView | TallyError = TallyError("nobody looks ahead for a scene")
        self.may_look = threading.Event()  # until then, a look ahead takes its time
        self.may_look.set()
        self.looks: list[tuple[str, ...]] = []
        self.report = {"verdict": "ok", "findings": [], "at": NOW - 20, "revision": 1}

    def look(self, tasks: Sequence[str], _: int, __: int) -> ForecastView:
        """What is told of these tasks, as `controller.forecaster` would."""
        self.looks.append(tuple(tasks))
        self.may_look.wait(30.0)
        if isinstance(self.foreseen, TallyError):
            raise self.foreseen
        known = {name: self.foreseen.tasks[name] for name in tasks if name in self.foreseen.tasks}
        return msgspec.structs.replace(self.foreseen, tasks=known)

    def register(self, leader: str | None = LEADER, **of_leader: Any) -> None:
        """Three replicas, of which `leader` (None: nobody) leads."""
        self.leader = leader or ""
        for n in range(3):
            name = f"tally-{n}"
            record: dict[str, Any] = {
                "id": name,
                "version": "0.1.0",
                "host": f"node-{n + 1}",
                "status_url": f"http://127.0.0.1:{9180 + n}",
                "phase": "leading" if name == leader else "following",
                "behind_seconds": 0.4 + n / 10,
                "started_at": NOW - 86400,
                "applied_revision": self.model.revision - n,
            }
            self.write(
                ("replicas", (name,), json.dumps(record | (of_leader if name == leader else {})).encode())
            )
        record = {"id": leader, "since": NOW - 5025, "status_url": "http://127.0.0.1:9180"}
        self.write(("leader", (), json.dumps(record).encode() if leader else None))

    def pool(self, name: str, held: dict[str, int], **capacity: int) -> None:
        """A pool and its ledger."""
        self.define_pool(name, **capacity)
        self.write(("ledgers", (name,), codec.encode_ledger(Vector(held), Op("r/1/1"), {})))

    def load(self, changes: Iterator[Change]) -> None:
        """Many records at once, as a replica loads them when it starts."""
        with self.lock:
            revision = self.model.revision + 1
            self.model.load(changes, revision)
            for listener in self.listeners:
                listener.reloaded(revision)


def spec_of(task_id: str, at: float, **fields: Any) -> bytes:
    """A stored spec that asks for a core and a gibibyte unless told otherwise."""
    fields = {
        "command": ("python", "-m", "train"),
        "resources": Vector({"cpu": 1000, "memory": GIB}),
    } | fields
    return codec.encode_spec(Spec(id=task_id, **fields), at, Op("op"))


def empty() -> Scene:
    """Just installed."""
    scene = Scene()
    scene.register()
    return scene


def busy() -> Scene:
    """All is well, and there is work."""
    scene = Scene()
    scene.register(engine_answers=True)
    scene.pool("default", {"cpu": 18_000, "memory": 18 * GIB}, cpu=24_000, memory=64 * GIB)
    scene.pool(
        "gpu",
        {"cpu": 4_000, "memory": 4 * GIB, "nvidia.com/gpu": 4},
        cpu=8_000,
        memory=32 * GIB,
        **{"nvidia.com/gpu": 4},
    )
    scene.define_pool("nightly", cpu=16_000, memory=32 * GIB)
    hold = Vector({"cpu": 1000, "memory": GIB})
    for n in range(18):
        scene.write(
            (
                "tasks",
                (f"render-{n:03}",),
                spec_of(f"render-{n:03}", NOW - 900 - 60 * n, labels={"team": "film"}),
            )
        )
        state = State.PENDING if n > 15 else State.RUNNING
        scene.write(
            (
                "states",
                (f"render-{n:03}",),
                status_of(state, NOW - 800 - 60 * n, hold=hold, node=f"node-{n % 3 + 1}"),
            )
        )
    with_gpu = Vector({"cpu": 1000, "memory": GIB, "nvidia.com/gpu": 1})
    for n in range(4):
        scene.write(
            (
                "tasks",
                (f"train-{n}",),
                spec_of(f"train-{n}", NOW - 4000, pool="gpu", resources=with_gpu, priority=10),
            )
        )
        scene.write(
            (
                "states",
                (f"train-{n}",),
                status_of(State.RUNNING, NOW - 3900, pool="gpu", hold=with_gpu, node="node-gpu"),
            )
        )
    for n in range(7):
        scene.write(
            (
                "tasks",
                (f"train-{n + 4}",),
                spec_of(f"train-{n + 4}", NOW - 3000 + n, pool="gpu", resources=with_gpu),
            )
        )
    for n in range(120):
        name = f"ingest-{n:04}"
        scene.write(("tasks", (name,), spec_of(name, NOW - 7200 - n, labels={"team": "data"})))
        scene.write(
            ("states", (name,), status_of(State.SUCCEEDED, NOW - 7000 - n, reason="Completed", exit_code=0))
        )
    scene.write(("tasks", ("report-weekly",), spec_of("report-weekly", NOW - 5000)))
    failed = status_of(State.FAILED, NOW - 4900, reason="Error", message="exit code 2", exit_code=2)
    scene.write(("states", ("report-weekly",), failed))
    scene.write(("tasks", ("sync-mirror",), spec_of("sync-mirror", NOW - 300)))
    again = status_of(
        State.WAITING_RETRY, NOW - 90, reason="Error", message="exit code 1", exit_code=1, retry_at=NOW + 31
    )
    scene.write(("states", ("sync-mirror",), again))
    scene.write(("tasks", ("old-batch",), spec_of("old-batch", NOW - 9000)))
    scene.write(
        (
            "states",
            ("old-batch",),
            status_of(State.CANCELLED, NOW - 8900, reason="Cancelled", message="requested by ana"),
        )
    )
    scene.register(engine_answers=True)
    return scene


def shared(owners: int = 3) -> Scene:
    """A pool that so many owners share: the first has a guarantee and a limit, and holds half of the cpus."""
    scene = Scene()
    scene.register(engine_answers=True)
    policy = OwnerPolicy(weight=2, guarantee=Vector({"cpu": 8000}), limit=Ceiling({"cpu": 12_000}))
    names = [f"team-{n:02}" for n in range(owners)]
    policies = {name: policy if name == names[0] else OwnerPolicy() for name in names}
    pool = Pool(name="common", capacity=Vector({"cpu": 16_000}), sharing=Sharing(owners=policies))
    scene.write(("pools", ("common",), codec.encode_pool(pool, Op("op"))))
    held, op, core_hours = Vector({"cpu": 8000}), Op("share"), 1000 * 3_600_000
    used, lost = Vector({"cpu": 90 * core_hours}), Vector({"cpu": 3 * core_hours // 2})
    share = Share(held, 8, used, at=round(NOW * 1000), lost=lost)
    scene.write(("shares", ("common", names[0]), encode_share(share, op)))
    for n in range(8):
        name = f"deep-{n}"
        scene.write(("tasks", (name,), spec_of(name, NOW - 900, pool="common", owner=names[0])))
        fields = {"pool": "common", "owner": names[0], "hold": Vector({"cpu": 1000})}
        scene.write(("states", (name,), status_of(State.RUNNING, NOW - 800, **fields)))
    ledger = Ledger(held, account=Account(at=round(NOW * 1000), shares_op=op)).encode(op)
    scene.write(("ledgers", ("common",), ledger))
    for n in range(3):
        name = f"wide-{n}"
        asks = Vector({"cpu": 12_000})
        scene.write(
            ("tasks", (name,), spec_of(name, NOW - 60, pool="common", owner=names[1], resources=asks))
        )
    on_hold = status_of(State.WAITING_RETRY, NOW - 60, pool="common", owner=names[1], on_hold=True)
    scene.write(("states", ("wide-2",), on_hold))
    scene.register(engine_answers=True)
    return scene


def ahead() -> Scene:
    """The pool `gpu` of `busy` is full for two hours, then for three with what waits; half is guaranteed."""
    scene = busy()
    hours = [NOW + 3600 * n for n in range(7)]
    gpu = "nvidia.com/gpu"
    course = CourseView(
        at=hours,
        running={gpu: [4, 4, 0, 0, 0, 0, 0], "cpu": [4000, 4000, 0, 0, 0, 0, 0]},
        planned={gpu: [0, 0, 4, 4, 3, 0, 0], "cpu": [0, 0, 4000, 4000, 3000, 0, 0]},
        waiting=[7, 7, 3, 3, 0, 0, 0],
        capacity={gpu: 4, "cpu": 8000},
        guaranteed={gpu: 2},
    )
    coming = {
        "train-4": ComingView(
            id="train-4",
            pool="gpu",
            has_begun=False,
            begins_at=NOW + 7200,
            ends_at=NOW + 10_800,
            before={"command": 4},
            by="command",
            runs=3,
        ),
        "train-5": ComingView(id="train-5", pool="gpu", has_begun=False),
    }
    scene.foreseen = ForecastView(
        revision=scene.model.revision,
        now=NOW,
        until=NOW + 7 * 86400,
        is_whole=True,
        tasks=coming,
        endless={"default": ["render-000", "render-001"]},
        error=ErrorView(median=0.08, p90=0.5, of=40),
        pools={"gpu": course},
    )
    return scene


def failing() -> Scene:
    """Nobody leads, attempts are lost, a ledger is wrong, records are damaged, a pool is gone, and etcd is
    silent.
    """
    scene = busy()
    scene.register(leader=None)
    scene.staleness = 47.0
    scene.checks = (
        Check("model", True, "loaded"),
        checks.store(47.0, RULE.store, "http://10.0.0.7:2379: connection refused"),
    )
    hold = Vector({"cpu": 1000, "memory": GIB})
    lost = status_of(
        State.RUNNING,
        NOW - 3000,
        hold=hold,
        reason="NodeLost",
        message="node-2 is not ready for 12 minutes",
        lost_since=NOW - 700,
        node="node-2",
    )
    scene.write(("states", ("render-001",), lost))
    scene.write(("states", ("render-002",), lost))
    scene.write(("states", ("render-005",), b"{not json"))
    scene.write(("tasks", ("orphaned-pool",), spec_of("orphaned-pool", NOW - 50, pool="retired")))
    scene.write(
        (
            "ledgers",
            ("gpu",),
            codec.encode_ledger(Vector({"cpu": 9_000, "memory": 4 * GIB, "nvidia.com/gpu": 5}), Op("x"), {}),
        )
    )
    for n in range(14):
        name = f"import-{n:02}"
        scene.write(("tasks", (name,), spec_of(name, NOW - 600 - n)))
        words = 'Back-off pulling image "registry.example.com/import:2.41": not found'
        scene.write(
            (
                "states",
                (name,),
                status_of(State.FAILED, NOW - 500 - n, reason="ImagePullBackOff", message=words),
            )
        )
    scene.report = {
        "verdict": "wrong",
        "findings": [{"invariant": "I1", "severity": "wrong"}],
        "at": NOW - 20,
        "revision": 9,
    }
    return scene


def large(tasks: int = 100_000) -> Scene:
    """Very many tasks, most of them finished; a long queue."""
    scene = Scene()
    hold = Vector({"cpu": 1000, "memory": GIB})
    running, waiting = min(400, tasks // 10), tasks // 5

    def changes() -> Iterator[Change]:
        for n in range(tasks):
            name, mod = f"job-{n:06}", 100 + 2 * n
            yield Change("tasks", (name,), spec_of(name, NOW - 86400 + n / 2), mod, mod)
            if n < tasks - waiting - running:
                state = State.FAILED if n % 97 == 0 else State.CANCELLED if n % 331 == 0 else State.SUCCEEDED
                value = status_of(
                    state, NOW - 80000 + n / 2, reason="Error" if state is State.FAILED else "Completed"
                )
                yield Change("states", (name,), value, mod + 1, mod + 1)
            elif n < tasks - waiting:
                yield Change(
                    "states", (name,), status_of(State.RUNNING, NOW - 500, hold=hold), mod + 1, mod + 1
                )

    scene.load(changes())
    scene.model.advance_revision(2 * tasks + 200)
    scene.pool(
        "default",
        {"cpu": 1000 * running, "memory": running * GIB},
        cpu=1000 * running,
        memory=2 * running * GIB,
    )
    scene.register(engine_answers=True)
    return scene


SCENES = {"empty": empty, "busy": busy, "failing": failing, "large": large, "ahead": ahead}
