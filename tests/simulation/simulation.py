"""One simulated cluster: replicas as they run in production, etcd, an engine, users, and everything that can
go wrong.

    Simulation(Scenario(seed=7)).run()

runs seed 7 and raises `Violation` when the promise is broken. See `tests/simulation/README.md`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from controller.core.model.arrays import MemberName
from controller.core.model.model import Model
from controller.core.model.records import Task
from controller.election.elector import Timings
from controller.election.term import Leadership
from controller.runtime.audits import Audits
from controller.runtime.options import ReplicaOptions
from controller.runtime.replica import Replica
from controller.store.keys import Keys
from controller.store.records import changes_of
from tests.simulation.arrays import small_blocks
from tests.simulation.claims import ClaimJudge
from tests.simulation.concurrency import SimulatedClock, errors_found_by, installed, logging_into
from tests.simulation.engine import SimulatedEngine, SimulatedEngineServer
from tests.simulation.etcd import FAR, SimulatedEtcd, SimulatedStore
from tests.simulation.faults import FAULTS, OF_SHARING, Faults
from tests.simulation.nodes import paced
from tests.simulation.oracle import Oracle, Violation
from tests.simulation.poison import Poisons
from tests.simulation.scheduler import Fiber, Machine, Process, Scheduler
from tests.simulation.schedules import fast
from tests.simulation.shares import ShareJudge
from tests.simulation.sockets import PORT, Endpoints
from tests.simulation.users import Users

MARGIN = 0.5
MIDNIGHT = 1_700_006_400.0  # UTC
HEAL_SECONDS = 400.0  # of true time, within which everything must have finished once the faults have stopped
CHECK_EVERY = 500  # steps between full checks
FEATURES = ("sharing", "schedules", "arrays", "windows", "nodes")  # of a scenario: None leaves it to the seed
CALM = 1  # shared seeds that end in this have no faults, so that it can be judged who waits in vain
CALM_WINDOWS = 8  # the same, of each 20 seeds with maintenance windows


@dataclass(frozen=True)
class Scenario:
    """What a run is made of; all that happens in it follows from this.

    `faults` None: the seed chooses. They strike `density` times as often as usual. `sharing`: whether
    pools are shared among owners; None: those of odd seeds. `schedules`: whether there are any; None: every
    third seed. `arrays`: whether there are any; None: every second seed, of those with shares as of others.
    `windows`: whether pools are maintained. `nodes`: whether the capacity of a pool follows nodes. None: some
    seeds, with shares and without.
    """

    seed: int
    steps: int = 5000
    replicas: int = 3
    tasks: int = 60
    faults: frozenset[str] | None = None
    density: float = 1.0
    sharing: bool | None = None
    schedules: bool | None = None
    arrays: bool | None = None
    windows: bool | None = None
    nodes: bool | None = None

    @property
    def has_nodes(self) -> bool:
        """See `nodes`."""
        return (
            self.nodes if self.nodes is not None else self.seed % 12 in ((7,) if self.is_shared else (4, 10))
        )

    @property
    def is_shared(self) -> bool:
        """See `sharing`."""
        return self.sharing if self.sharing is not None else self.seed % 2 == 1

    @property
    def has_schedules(self) -> bool:
        """See `schedules`."""
        return self.schedules if self.schedules is not None else self.seed % 3 == 2

    @property
    def has_arrays(self) -> bool:
        """See `arrays`."""
        return self.arrays if self.arrays is not None else self.seed % 4 in (0, 1)

    @property
    def only_gangs(self) -> bool:
        """Whether all arrays are gangs. The judge of claims knows of no others, and is silent beside them."""
        return self.is_shared and self.seed % 12 != 5

    @property
    def has_windows(self) -> bool:
        """See `windows`."""
        return (
            self.windows
            if self.windows is not None
            else self.seed % 20 in ((13,) if self.is_shared else (8, 18))
        )


@dataclass
class Result:
    """What a run did."""

    digest: int = 0
    steps: int = 0
    seconds: float = 0.0  # of true time
    settled_after: float = 0.0  # seconds after the last fault
    revisions: int = 0
    epochs: int = 0
    runs: int = 0
    crashes: int = 0
    depositions: int = 0  # by sentinels
    transitions: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    sharing: dict[str, int] = field(default_factory=dict)  # how often each of its things happened
    ticks: dict[str, int] = field(default_factory=dict)  # of schedules, by what became of them


class Computer:
    """One machine and the replica on it, which is started again whenever it ended."""

    def __init__(self, simulation: Simulation, number: int) -> None:
        self.simulation = simulation
        self.machine = Machine(simulation.scheduler, f"m{number}")
        self.name = f"r{number}"
        self.process: Process | None = None
        self.replica: Replica | None = None
        self.lives = 0
        self.engine = simulation.engine

    def start(self) -> None:
        """Start the program, unless it runs."""
        if self.process is not None and self.process.alive:
            return
        self.lives += 1
        process = self.process = Process(self.machine, f"{self.name}.{self.lives}")
        self.replica = None
        Fiber(process, "loop", lambda: self._main(process))

    def crash(self) -> None:
        """kill -9, at whatever point each of its threads is."""
        if self.process is not None and self.process.alive:
            self.simulation.scheduler.note(f"{self.process.name} crashes")
            self.simulation.result.crashes += 1
            self.simulation.scheduler.after(0.1 + self.simulation.scheduler.rng.random() * 3, self.start)
            self.process.kill()

    @property
    def is_leading(self) -> bool:
        """Whether its replica has a tenure."""
        return self.replica is not None and self.replica._office.tenure is not None

    def stop(self) -> None:
        """SIGTERM."""
        if self.replica is not None and self.process is not None and self.process.alive:
            self.simulation.scheduler.note(f"{self.process.name} is told to stop")
            self.replica.stop()

    def _main(self, process: Process) -> None:
        simulation = self.simulation
        clock = SimulatedClock(self.machine)
        simulation.endpoints.listen(process)
        options = ReplicaOptions(
            cluster=simulation.keys.cluster,
            identity={
                "id": self.name,
                "instance": process.name,
                "status_url": f"http://{self.machine.name}:{PORT}",
            },
            timings=simulation.timings,
            relist_seconds=simulation.relist_seconds,
            heartbeat_seconds=2.0,
            silence_seconds=6.0,
            workers=2,
            fast_takeover=simulation.fast_takeover,
        )
        self.replica = Replica(
            SimulatedStore(simulation.etcd, process),
            SimulatedEngine(self.engine, process),  # type: ignore[arg-type]  # its stop event is a simulated one
            clock,
            options,
            audits=Audits(dict, clock),
            new_lease=simulation.new_lease,
            fatal=self._fatal,
        )
        self.replica.run()
        simulation.scheduler.note(f"{process.name} has stopped")
        simulation.scheduler.after(simulation.scheduler.rng.random() * 2, self.start)
        process.kill()

    def _fatal(self, why: str) -> None:
        self.simulation.scheduler.note(f"fatal: {why}")
        self.simulation.result.faults["fatal"] = self.simulation.result.faults.get("fatal", 0) + 1
        self.crash()


class Simulation:
    """See the module's docstring."""

    def __init__(self, scenario: Scenario, *, trace: bool = False, rng: Any = None) -> None:
        self.scenario = scenario
        self.scheduler = Scheduler(rng if rng is not None else scenario.seed)
        if trace:
            self.scheduler.trace = []
        rng = self.scheduler.rng
        self.keys = Keys("sim")
        self.result = Result()
        ttl = rng.choice((2, 3, 5))
        self.timings = Timings(
            lease_ttl_seconds=ttl,
            keepalive_interval_seconds=ttl / 4,
            deadline_margin_seconds=MARGIN,
            heartbeat_limit_seconds=ttl,
        )
        self.relist_seconds = rng.choice((1.0, 3.0, 10.0))
        self.oracle = Oracle(self.scheduler, self.keys)
        if scenario.is_shared:
            self.oracle.shares = ShareJudge(self.oracle)
            self.oracle.claims = ClaimJudge(self.oracle, self.oracle.shares)
            self.oracle.claims.judges = scenario.only_gangs or not scenario.has_arrays
            # a day ends while it runs
            self.scheduler.wall = MIDNIGHT - 2 - rng.random() * 20
        self.etcd = SimulatedEtcd(self.scheduler, self._on_revision)
        self.etcd.on_send = self.oracle.on_send
        gates = rng.random() < 0.5
        self.engine = SimulatedEngineServer(
            self.scheduler,
            self.oracle,
            gates=gates,
            keeps=rng.random() < 0.3,
            frees_names=gates and rng.random() < 0.7,
        )
        self.other_engine = SimulatedEngineServer(
            self.scheduler, self.oracle, gates=False, keeps=False, frees_names=False, name="other-engine"
        )
        self.other_engine.every = self.engine.every  # of the same tasks
        self.endpoints = Endpoints(self.scheduler)
        self.fast_takeover = rng.random() < 0.6  # else a dead leader's lease is waited for
        self.oracle.etcd, self.oracle.engine, self.oracle.endpoints = self.etcd, self.engine, self.endpoints
        self.users = Users(
            self.scheduler,
            self.etcd,
            self.oracle,
            self.keys,
            scenario.tasks,
            shares=scenario.is_shared,
            schedules=scenario.has_schedules,
            arrays=scenario.has_arrays,
        )
        self.users.arrays.only_gangs = scenario.only_gangs
        self.users.windows.is_on = scenario.has_windows
        self.users.nodes = self.engine.nodes if scenario.has_nodes else None
        self.computers = [Computer(self, number) for number in range(scenario.replicas)]
        self.oracle.machines = {computer.name: computer.machine for computer in self.computers}
        self.oracle.leaderships = self._leaderships
        self.oracle.revision_of = self._revision_of
        self.poisons = Poisons(self.scheduler, self.oracle)
        self.oracle.ttl = ttl
        self.oracle.relist_seconds = self.relist_seconds
        possible = [name for name in FAULTS if scenario.is_shared or name not in OF_SHARING]
        chosen = [name for name in possible if rng.random() < 0.4]
        if scenario.is_shared and scenario.seed % 10 == CALM:
            chosen = []
        if scenario.has_windows and not scenario.has_schedules and scenario.seed % 20 == CALM_WINDOWS:
            chosen = []
        self.faults = Faults(
            self,
            [name for name in FAULTS if name in scenario.faults] if scenario.faults is not None else chosen,
        )
        self._leases = 0
        self._healing = False

    def run(self) -> Result:
        """Run it all: the steps with faults, then until everything has finished without. Raises Violation."""
        scheduler = self.scheduler
        with (
            installed(scheduler, self.endpoints.modules(), self.poisons.hit),
            logging_into(scheduler),
            errors_found_by(scheduler),
            fast(),
            small_blocks(),
            paced(),
        ):
            try:
                self._run()
            finally:
                for computer in self.computers:
                    if computer.process is not None:
                        computer.process.kill()
        return self.result

    def new_lease(self) -> int:
        """A lease id that nobody has had."""
        self._leases += 1
        return 1000 + self._leases

    def _run(self) -> None:
        scheduler = self.scheduler
        self.users.set_up()
        for computer in self.computers:
            scheduler.after(scheduler.rng.random() * 2, computer.start)
        scheduler.after(0.5, self._users_act)
        self.faults.begin()
        while scheduler.steps < self.scenario.steps:
            scheduler.step()
            if scheduler.steps % 5 == 0:
                self.oracle.check_deadlines()
            if scheduler.steps % 50 == 0 and self.oracle.shares is not None and not self.faults.names:
                self.oracle.claims.check_idle()
            if scheduler.steps % 50 == 0 and not self.oracle.schedules.is_off and not self.faults.names:
                self.oracle.schedules.check_idle()
            if scheduler.steps % 20 == 0 and self.users.windows.is_on and not self.faults.names:
                self.oracle.windows.check_idle()
            is_calm = scheduler.steps % 50 == 0 and not self.faults.names
            if is_calm and (member := self.oracle.arrays.gangs.running_on()):
                raise Violation("I16", f"{member} runs on, and its gang is being stopped", member)
            if scheduler.steps % CHECK_EVERY == 0:
                self.oracle.check_records(settled=False)
                self._check_models()
                self._check_sharing()
        self._heal()
        result = self.result
        result.digest, result.steps, result.seconds = scheduler.digest, scheduler.steps, scheduler.now
        result.revisions, result.epochs, result.runs = (
            self.etcd.revision,
            len(self.oracle.epochs),
            self.oracle.runs,
        )
        result.depositions = self.oracle.depositions
        result.transitions = self.oracle.transitions
        result.sharing = self.oracle.sharing_counts()
        result.ticks = self.oracle.schedules.results

    def _users_act(self) -> None:
        if not self._healing:
            self.users.act()
            self.scheduler.after(self.scheduler.rng.random() * 0.3 * self.users.pace, self._users_act)

    def _heal(self) -> None:
        """I6: all faults stop; then everything must finish, and what is left must be nothing."""
        scheduler = self.scheduler
        self._healing = True
        scheduler.note("all faults stop")
        self.faults.end()
        self.users.heal(self.poisons.most_aside)
        self.engine.finish_all()
        began, shared = scheduler.now, self.oracle.shares is not None
        preempted, waiting = (self.oracle.claims.preemptions if shared else 0), len(self.oracle.unfinished())
        self._settle(lifted=False)
        self._settle(lifted=True)
        self.result.settled_after = scheduler.now - began
        self.oracle.check_records(settled=True)
        if self.oracle.shares is not None:
            self.oracle.shares.check_all()
            self.oracle.claims.check_rest(preempted, waiting)
        for pool, held in self.oracle.ledgers.items():
            if held:
                raise Violation("I1", f"{pool}: {held.format()} is held, and nothing runs")

    def _settle(self, *, lifted: bool) -> None:
        """Until everything has finished but what is set aside for an error; and that, too, once the errors
        are `lifted`.
        """
        scheduler = self.scheduler
        give_up_at = scheduler.now + HEAL_SECONDS
        while True:
            if lifted:
                self.poisons.lift(self)
            self.users.end_schedules()
            left = self._unsettled(lifted=lifted)
            if not left:
                return
            if scheduler.now > give_up_at:
                raise Violation("I6", "not settled: " + "; ".join(left), *self.oracle.unfinished())
            for _ in range(200):
                scheduler.step()

    def _unsettled(self, *, lifted: bool) -> list[str]:
        """What is not yet as it must be in the end."""
        oracle, is_aside = self.oracle, self.poisons.is_aside
        unfinished = (task_id for task_id in oracle.unfinished() if not self._is_aside(task_id))
        left = [f"{task_id} has not finished" for task_id in unfinished]
        left += [*oracle.dependents.left(), *oracle.arrays.left()] if lifted else []
        left += [
            f"{task_id} is kept beyond its retention"
            for task_id in oracle.overdue()
            if not any(map(self._is_aside, (task_id, *oracle.dependents.waiting_for(task_id))))
        ]
        # the end of a gang waits for that of a member that is set aside, and so do requests on it
        asked = (key for key in oracle.requests() if not self._is_aside(key.split("/")[-2]))
        left += [f"{key} is not answered" for key in asked]
        left += [f"{attempt.id} runs" for attempt in oracle.running() if not is_aside(attempt.id.task_id)]
        left += self.poisons.unsettled(lifted=lifted)
        left += oracle.nodes.left()
        if not oracle.schedules.is_off:
            left += oracle.schedules.left()
            left += [f"schedule {schedule.name} goes on" for schedule in oracle.schedules.going()]
        left += [
            f"{key} is left" for key, value in oracle.values.items() if "/delivered/" in key and value != b"{"
        ]
        left += [f"the output of {attempt} was not kept" for attempt in oracle.logs_missing()]
        left += [
            f"{key} is gone" for key in (self.keys.installation, self.keys.engine) if key not in oracle.values
        ]
        if oracle.shares is not None and lifted:
            left += oracle.claims.left()
            left += oracle.shares.left()
        return left or self._models_that_differ()

    def _is_aside(self, task_id: str) -> bool:
        """Whether it is set aside, or waits for a task that is, or is of one array with it."""
        names = [task_id, *self.oracle.dependents.waits_on(task_id)]
        names += [self.oracle.arrays.spec_id(name) for name in names]
        members = [name for name, status in self.oracle.statuses.items() if status.array in names]
        taken = ((name, MemberName.parse(name)) for name in self.oracle.accepted)
        members += [name for name, member in taken if member is not None and member.array in names]
        return any(map(self.poisons.is_aside, (*names, *members)))

    def _check_sharing(self) -> None:
        if self.oracle.shares is not None:
            self.oracle.shares.check_all()

    def _check_models(self) -> None:
        """What a replica says it knows up to a revision is what stood there, or newer."""
        for computer in self.computers:
            replica = computer.replica
            if (
                replica is None
                or not replica._mirror.loaded
                or replica._mirror.model.revision < self.etcd.store._server.compacted
            ):
                continue
            model = replica._mirror.model
            snapshot = self.etcd.store.load(self.keys.prefix, deadline=FAR, revision=model.revision)
            expected = {
                (change.kind, change.names): change.mod for change in changes_of(self.keys, snapshot.items)
            }
            known = {(kind, names): mod for kind, names, mod in model._records()}
            for record in sorted({*expected, *known}):
                mod, seen = expected.get(record, 0), known.get(record, 0)
                if (
                    seen != mod
                    and seen <= model.revision
                    and not (seen == 0 and self._changed_later(record, model.revision))
                ):
                    raise Violation(
                        "model",
                        f"{computer.name} at revision {model.revision} has {record} of {seen}, not {mod}",
                        *record[1][:1],
                    )

    def _changed_later(self, record: tuple[str, tuple[str, ...]], revision: int) -> bool:
        """Whether a record was changed after a revision: a leader knows of its own commits before its
        watch.
        """
        key = "/".join((record[0], *record[1]))
        changes = self.etcd.store._server.changes_by_key.get(self.keys.prefix + key, ())
        return any(event.mod > revision for event in changes)

    def _models_that_differ(self) -> list[str]:
        """Replicas whose model is not what stands in etcd."""
        truth = _facts(self.oracle.model())
        found = []
        for computer in self.computers:
            if computer.replica is None:
                found.append(f"{computer.name} does not run")
            elif (facts := _facts(computer.replica._mirror.model)) != truth:
                different = sorted(str(key) for key in {*facts, *truth} if facts.get(key) != truth.get(key))
                found.append(f"the model of {computer.name} differs in {different[:5]}")
        return found

    def _leaderships(self) -> list[tuple[str, Leadership]]:
        """The terms that replicas take themselves to have."""
        return [
            (computer.process.name, leadership)
            for computer in self.computers
            if computer.process is not None
            and computer.process.alive
            and computer.replica is not None
            and (leadership := computer.replica._elector.leadership) is not None
        ]

    def _revision_of(self, process: str) -> int:
        """Up to which revision a process knows what stands in etcd."""
        replica = next(
            computer.replica
            for computer in self.computers
            if computer.process and computer.process.name == process
        )
        return replica._mirror.model.revision if replica is not None else 0

    def _on_revision(self, batch: Any, writer: str) -> None:
        self.oracle.on_revision(batch, writer)
        self.faults.wrote(writer)


def _has_only_rung(task: Task) -> bool:
    """Whether it is an array whose timer has rung, which only a leader hears, and nothing else."""
    array = task.array
    return array is not None and not (task.requests or array.is_over or array.fails)


def _facts(model: Model) -> dict[tuple[str, str], object]:
    """A model, as far as it is the same in every replica."""
    facts: dict[tuple[str, str], object] = {}
    for task in model.tasks.values():
        facts["task", task.id] = (
            task.spec_mod,
            task.status_mod,
            task.state,
            sorted(task.requests),
            sorted(task.frozen),
        )
        facts["queued", task.id] = task.status is None and task.id in model.queue(task.pool)
        gate = task.gate
        facts["gate", task.id] = gate and [sorted(gate.unfinished), sorted(gate.unmet), sorted(gate.unknown)]
    for name, ledger in model.ledgers.items():
        facts["ledger", name] = (ledger.mod, ledger.held.format(), ledger.account, ledger.shares_are_whole)
    for name, shares in model.shares.items():
        facts["shares", name] = sorted(shares.items())
    facts["capacities", ""] = sorted(item for item in model.capacities.items())
    facts["following", ""] = sorted(model.following)
    for name, claims in model.claims.items():
        facts["claims", name] = sorted(claims.items())
    for name, pool in model.pools.items():
        facts["pool", name] = pool.mod
    for name, record in model.schedules.defined.items():
        facts["schedule", name] = (record.mod, record.create)
    for name, state in model.schedules.states.items():
        facts["schedule-state", name] = state
    for array in model.arrays:
        facts["array", array.name] = (array.size, array.waiting, array.running, array.turn, array.of)
        facts["members", array.name] = (sorted(array.members), +array.counts)
        if (paired := array.paired) is not None:
            facts["paired", array.name] = sorted(paired.ready.items()), sorted(paired.never.items())
    facts["unfolded", ""] = [
        sorted({*model.arrays.ended, *(name for apart in model.arrays.apart.values() for name in apart)}),
        sorted(model.arrays.busy),
        sorted(model.arrays.stale),
    ]
    facts["holding", ""] = sorted(model.holding)
    facts["gated", ""] = sorted(item for item in model.dependencies.closed.items() if item[1])
    facts["awaits", ""] = [sorted(model.dependencies.stale), sorted(model.dependencies.early)]
    facts["never", ""] = sorted(model.dependencies.never)
    # a leader alone hears that the time of those is over that are kept for others
    facts["attention", ""] = sorted(
        name
        for name in model.attention
        if not model.dependencies.keeps(name) and not _has_only_rung(model.tasks[name])
    )
    facts["quarantine", ""] = sorted(model.quarantine)
    facts["counts", ""] = sorted(
        (pool, state, count) for (pool, state), count in model.counts.items() if count
    )
    return facts
