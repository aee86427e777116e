"""A stage for the core without threads: one store, in memory unless told otherwise, and any number of
replicas' planners that act upon it.

Everything on it is the real part: model, planner, reconciler, transactions. Only time and the engine are the
test's own: `clock` moves by hand, and what the engine would say is told with `seen`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from controller.core.model import codec
from controller.core.model.features import KNOWN
from controller.core.model.model import Model
from controller.core.model.op import Op
from controller.core.model.requests import Request, RequestKind
from controller.core.model.task import AttemptId, Observation, Phase, Status
from controller.core.model.validation import parse_pool, parse_spec
from controller.core.planning.events import Found, Listed, Observed, Started, StopSent
from controller.core.planning.plan import Effect, Plan, Prove, Start, Stop, Term
from controller.core.planning.planner import Planner
from controller.core.promise.finding import FindingSeverity
from controller.core.promise.invariants import check_model
from controller.election.elector import Timings
from controller.election.term import Leadership
from controller.engine.base import gone
from controller.engine.null import NullEngine
from controller.runtime.inbox import Inbox
from controller.runtime.options import ReplicaOptions
from controller.runtime.reconciler import Reconciler
from controller.runtime.surroundings import Surroundings
from controller.store.base import Committed, Delete, Guard, Put, Store, Transaction
from controller.store.keys import Keys
from controller.store.memory import MemoryStore
from controller.store.records import DEFAULT_LIMITS, changes_of, to_transaction


class HandClock:
    """A clock that moves when the test says so. Its wall clock can be set `ahead`."""

    def __init__(self, seconds: float = 1_000_000.0) -> None:
        self.seconds = seconds
        self.ahead = 0.0

    def boottime(self) -> float:
        return self.seconds

    def now(self) -> float:
        return self.seconds

    def wall(self) -> float:
        return self.seconds + self.ahead

    def anchor(self) -> None:
        """Nothing to read."""

    def move(self, seconds: float) -> None:
        self.seconds += seconds


class Stage:
    """A store, its keys, and the users. `store` counts its deadlines by `clock`."""

    def __init__(
        self, store: Store | None = None, clock: HandClock | None = None, cluster: str = "stage"
    ) -> None:
        self.clock = clock or HandClock()
        self.store = store or MemoryStore(self.clock)
        self.keys = Keys(cluster)
        self.epoch = 0
        self._replicas = 0
        self._ops = 0
        self.elect()

    def put(self, key: str, value: bytes, lease: int = 0) -> int:
        """Write a key, whatever it was; returns the revision."""
        self._ops += 1
        current, _ = self.store.get(key, deadline=self.clock.boottime() + 5)
        guard = Guard(key, current.mod if current is not None else 0)
        result = self.store.commit(
            Transaction((guard,), (Put(key, value, lease),), Op(f"u{self._ops}")),
            deadline=self.clock.boottime() + 5,
        )
        assert isinstance(result, Committed)
        return result.revision

    def value(self, key: str) -> bytes:
        """What a key that exists has."""
        current, _ = self.store.get(key, deadline=self.clock.boottime() + 5)
        assert current is not None
        return current.value

    def delete(self, key: str) -> None:
        """Remove a key, whatever it was."""
        current, _ = self.store.get(key, deadline=self.clock.boottime() + 5)
        if current is not None:
            self.store.commit(
                Transaction((Guard(key, current.mod),), (Delete(key),), Op("x")),
                deadline=self.clock.boottime() + 5,
            )

    def elect(self) -> int:
        """A new term: the leader key is created anew; returns its create revision."""
        self.delete(self.keys.leader)
        self.epoch += 1
        self.put(self.keys.epoch, codec.encode({"epoch": self.epoch}))
        return self.put(self.keys.leader, b"{}")

    def turn_on_all(self) -> None:
        """All features are on."""
        parts = {f"feature/{name}": "" for name in KNOWN}
        engine = {"engine": {"name": "null", "id": "e", "parts": parts}, "installation": "abc"}
        self.put(self.keys.engine, codec.encode(engine))

    def pool(self, name: str = "default", **fields: Any) -> None:
        """Define a pool."""
        self.put(
            self.keys.pool(name),
            codec.encode_pool(parse_pool({"name": name, "capacity": {"cpu": 4}, **fields}), Op("x")),
        )

    def submit(self, task_id: str, **fields: Any) -> None:
        """Submit a task."""
        spec = parse_spec({"id": task_id, "command": ["true"], "resources": {"cpu": 1}, **fields})
        self.put(self.keys.task(task_id), codec.encode_spec(spec, self.clock.now(), Op(f"s/{task_id}")))

    def request(
        self, task_id: str, kind: RequestKind, attempt: int = 0, by: str = "user", **fields: Any
    ) -> None:
        """Cancel, retry, or confirm."""
        request = Request(kind=kind, by=by, at=self.clock.now(), attempt=attempt, **fields)
        self.put(self.keys.request(task_id, kind), codec.encode(request))

    def change(
        self, task_id: str, *, on_hold: bool | None = None, priority: int | None = None, by: str = "user"
    ) -> None:
        """Put a task on hold, release it, or set its priority."""
        request = Request(kind=RequestKind.CHANGE, by=by, on_hold=on_hold, priority=priority)
        self.put(self.keys.request(task_id, RequestKind.CHANGE), codec.encode(request))

    def replica(self, model: Model | None = None) -> StagedReplica:
        """A replica that takes itself to be the leader of the current term; `model` is its model, if it
        has one already.
        """
        leader, _ = self.store.get(self.keys.leader, deadline=self.clock.boottime() + 5)
        assert leader is not None
        self._replicas += 1
        # its name is its own, or another one of the same term would take this one's commits for its own
        return StagedReplica(self, f"r{self._replicas}", leader.create, self.epoch, model)

    def leader(self, *listed: Observation) -> StagedReplica:
        """The same, once it has listed the engine, which has these attempts."""
        leader = self.replica()
        leader.list_engine(*listed)
        return leader

    def model(self) -> Model:
        """The store as it stands."""
        snapshot = self.store.load(self.keys.prefix, deadline=self.clock.boottime() + 5)
        model = Model()
        model.load(changes_of(self.keys, snapshot.items), snapshot.revision)
        return model

    def status(self, task_id: str) -> Status:
        """A task's status as it is stored; it has one."""
        status = self.model().tasks[task_id].status
        assert status is not None
        return status

    def state(self, task_id: str) -> str:
        """A task's state as it is stored."""
        return self.model().tasks[task_id].state.value

    def held(self, pool: str = "default") -> dict[str, str]:
        """What the ledger says is held."""
        return self.model().ledger(pool).held.format()

    def check(self) -> None:
        """The invariants hold in the store."""
        wrong = [
            finding for finding in check_model(self.model()) if finding.severity is not FindingSeverity.NOTICE
        ]
        assert not wrong, wrong


class StagedReplica:
    """One replica's model, planner and reconciler; its effects are collected in `effects`."""

    def __init__(self, stage: Stage, name: str, term: int, epoch: int, model: Model | None) -> None:
        self.stage = stage
        self.model = model or Model()
        self.effects: list[Effect] = []
        self._proofs: list[Prove] = []
        # What the engine says of what it does not list; None: it has not answered yet.
        self.finds: Callable[[AttemptId, str], Observation | None] = gone
        self.leadership = Leadership(term, epoch, 0, float("inf"), stage.clock)
        self._planner: Planner | None = None
        self.sync()
        self.planner = self._planner = Planner(
            self.model, Term(term, epoch, name, stage.keys.cluster), DEFAULT_LIMITS
        )
        lock = threading.RLock()
        inside = Surroundings(
            stage.store,
            NullEngine(stage.clock),
            stage.keys,
            stage.clock,
            Inbox(),
            ReplicaOptions(stage.keys.cluster, {}, Timings()),
            lambda: lock,
        )
        self.reconciler = Reconciler(self.model, self.planner, self.leadership, inside, perform=self._perform)

    def _perform(self, effect: Effect) -> None:
        self.effects.append(effect)
        self._proofs += [effect] if isinstance(effect, Prove) else []

    def sync(self) -> None:
        """What its watch would bring: all there is, up to now."""
        snapshot = self.stage.store.load(self.stage.keys.prefix, deadline=self.stage.clock.boottime() + 5)
        touched = self.model.load(changes_of(self.stage.keys, snapshot.items), snapshot.revision)
        if self._planner is not None:
            self._planner.note(touched)

    def run(self) -> list[Effect]:
        """Step until nothing is left to do, the engine's proofs included; returns the effects of these
        steps.
        """
        before = len(self.effects)
        for _ in range(1000):
            is_done = not self.reconciler.step()
            proofs, self._proofs = self._proofs, []
            for effect in proofs:
                seen = self.finds(effect.attempt, effect.uid)
                if seen is not None:
                    self.reconciler.handle(Found(self.leadership.epoch, effect, seen))
            if is_done and not proofs:
                return self.effects[before:]
        raise AssertionError("the reconciler does not come to rest")

    def commit(self, plan: Plan, *, answered: bool = True) -> None:
        """Commit the plan, as the reconciler does. `answered` False: nobody hears at which revision."""
        transaction = to_transaction(plan, self.stage.keys, self.leadership.revision)
        result = self.stage.store.commit(transaction, deadline=float("inf"))
        assert isinstance(result, Committed)
        self.planner.committed(plan, result.revision if answered else None)

    def list_engine(self, *seen: Observation, began: float | None = None) -> None:
        """A full list of the engine arrives."""
        self.reconciler.handle(
            Listed(self.leadership.epoch, list(seen), self.stage.clock.now() if began is None else began)
        )

    def see(self, *seen: Observation) -> None:
        """Observations arrive."""
        for observation in seen:
            self.reconciler.handle(Observed(self.leadership.epoch, observation))

    def run_to(self, task_id: str, phase: Phase, attempt: int = 1) -> None:
        """The engine takes what is asked of it, and shows the attempt in this phase."""
        self.sync()
        self.acknowledge(self.run())
        self.see(observation((task_id, attempt), phase))
        self.run()

    def acknowledge(self, effects: Iterable[Effect]) -> None:
        """The engine took these effects: starts are pending, stops are under way."""
        for effect in effects:
            if isinstance(effect, Start):
                self.reconciler.handle(
                    Started(self.leadership.epoch, effect, observation(effect.attempt, Phase.PENDING))
                )
            elif isinstance(effect, Stop):
                self.reconciler.handle(StopSent(self.leadership.epoch, effect, None))


def observation(attempt: AttemptId | tuple[str, int], phase: Phase, **fields: Any) -> Observation:
    """What the engine says of an attempt; the phases that end it prove its stop, unless told otherwise."""
    fields.setdefault("stopped", phase in (Phase.SUCCEEDED, Phase.FAILED))
    return Observation(attempt=AttemptId(*attempt), phase=phase, **fields)


def starts(effects: Iterable[Effect]) -> list[str]:
    """The attempts that are started by these effects."""
    return [str(effect.attempt) for effect in effects if isinstance(effect, Start)]


def stops(effects: Iterable[Effect]) -> list[str]:
    """The attempts that are stopped by these effects."""
    return [str(effect.attempt) for effect in effects if isinstance(effect, Stop)]
