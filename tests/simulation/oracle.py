"""The judge: I1 to I8 after each revision of etcd and each start of a process, against what really happened.

It keeps books of its own from the bytes that stand in etcd, and knows what no replica can know: which process
ran when, and who wrote. It is slower of mind than the core on purpose: sums, lists and the design's table of
the lifecycle.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from controller.core.model import codec, kept_log
from controller.core.model.arrays import MemberName
from controller.core.model.demand import check_satisfiable, demand
from controller.core.model.installation import decode_engine, decode_installation
from controller.core.model.model import Model
from controller.core.model.requests import Request, RequestKind
from controller.core.model.resources import ZERO, Vector
from controller.core.model.task import AttemptId, Status, Step
from controller.core.promise.finding import FindingSeverity
from controller.core.promise.invariants import check_model
from controller.election.term import Leadership
from controller.errors import CorruptValue, InvalidField
from controller.store.base import Batch, KeyEvent
from controller.store.keys import Keys
from controller.store.records import changes_of
from tests.simulation.arrays import DAMAGED_SPEC, ArrayJudge
from tests.simulation.attestations import wrong_step
from tests.simulation.changes import asked_for, contradiction, steps_since
from tests.simulation.dependents import DependencyJudge
from tests.simulation.engine import Attempt, SimulatedEngineServer
from tests.simulation.etcd import SimulatedEtcd
from tests.simulation.nodes import NodeJudge
from tests.simulation.notices import is_due, wrong_end, wrong_notice
from tests.simulation.reasons import ReasonJudge
from tests.simulation.scheduler import Machine, Scheduler
from tests.simulation.schedules import ScheduleJudge
from tests.simulation.sockets import Endpoints
from tests.simulation.windows import WindowJudge

if TYPE_CHECKING:
    from tests.simulation.claims import ClaimJudge
    from tests.simulation.shares import ShareJudge

LIFECYCLE = {
    "Created": {"Pending", "Cancelled", "Failed", "Created", "Succeeded"},
    "WaitingRetry": {"Pending", "Cancelled", "Failed", "WaitingRetry", "Succeeded"},
    "Pending": {"Running", "Succeeded", "Failed", "Cancelled", "Pending", "WaitingRetry"},
    "Running": {"Succeeded", "Failed", "Cancelled", "Running", "WaitingRetry"},
    "Failed": {"WaitingRetry", "Failed"},
    "Cancelled": {"WaitingRetry", "Cancelled"},
    "Succeeded": {"Succeeded"},
}
"""Section 7 of the design, written down a second time."""

HOLDING = ("Pending", "Running")
BURST, BURST_SECONDS = 5, 60.0
"""So many leaders may be deposed by one replica within so many seconds of its clock."""

FINISHED = ("Succeeded", "Failed", "Cancelled")


class LogDue(NamedTuple):
    """An attempt's output is to be kept, by the leader of this epoch.

    `is_calm`: nothing goes wrong, so that nothing excuses it.
    """

    epoch: int
    is_calm: bool


class Move(NamedTuple):
    """A status that a leader wrote: what stood there, and what stands there now."""

    task_id: str
    old: Status | None
    new: Status
    at: int  # ms, of its last step


USER = "user"


class Violation(Exception):
    """The promise was broken. `tasks` are those to show the history of."""

    is_finding = True

    def __init__(self, invariant: str, what: str, *tasks: str) -> None:
        super().__init__(f"{invariant}: {what}")
        self.invariant = invariant
        self.tasks = tasks


class Oracle:
    """See the module's docstring.

    `wall_spread` says by how much the machines' wall clocks may differ, in seconds.
    """

    def __init__(self, scheduler: Scheduler, keys: Keys) -> None:
        self.scheduler = scheduler
        self.keys = keys
        self.etcd: SimulatedEtcd
        self.engine: SimulatedEngineServer
        self.endpoints: Endpoints
        self.wall_spread = 0.0
        self.values: dict[str, bytes] = {}
        self.before: dict[str, bytes | None] = {}  # of the keys that change in this revision
        self.creates: dict[str, int] = {}
        self.statuses: dict[str, Status] = {}
        self.rubbish: dict[str, None] = {}  # tasks whose first status was put by hand, and cannot be read
        self.frozen: dict[str, Status] = {}  # damaged by hand: what stood there
        # written by hand, and by no leader since: task → the term that it names
        self.mended: dict[str, int] = {}
        self._mended_at: dict[str, int] = {}  # task → the revision at which somebody wrote it last
        self.ledgers: dict[str, Vector] = {}
        self.frozen_ledgers: dict[str, None] = {}
        self.held: dict[str, Vector] = {}  # pool → Σ hold
        self.amiss: dict[str, Vector] = {}  # pool → how far somebody has written its ledger off that
        self.capacities: dict[str, Vector] = {}
        self.windows = WindowJudge(self)
        self.reasons = ReasonJudge(self)
        self.accepted: dict[str, int] = {}  # task → create revision of its spec
        self.epochs: dict[int, int] = {}  # epoch → term
        self.installation = ""
        # task → whether its attestation is there, as it was created with the spec: a leader may not know a
        # later one yet
        self.attested: dict[str, bool] = {}
        self._attested_at: dict[str, int] = {}  # task → when its attestation was written or deleted last
        self.transitions: dict[str, int] = {}  # how often each state was entered
        self.logs_kept = 0
        self.notices = 0
        self.log_due: dict[AttemptId, LogDue] = {}  # whose output is to be kept: its end was committed
        self.log_read: dict[AttemptId, None] = {}  # whose output was asked for, and the answer was there
        self.specs_put: dict[str, int] = {}  # task → how often a spec of this name was put
        self.admitted: dict[str, int] = {}  # task → the highest attempt that was ever admitted
        # task → attempts up to this number were given up by their `on_lost`: they may run
        self.abandoned: dict[str, int] = {}
        self.machines: dict[str, Machine] = {}
        self.leaderships: Callable[[], list[tuple[str, Leadership]]] = list
        self.check_aside: Callable[[str], None] = lambda task_id: None
        # up to which its model knows what stands in etcd
        self.revision_of: Callable[[str], int] = lambda process: 0
        self.elected_at = 0.0
        # process → when it deposed leaders, by its machine's clock
        self.deposed_at: dict[str, list[float]] = {}
        self.ttl = 0.0  # of the leader's lease, in seconds
        self.relist_seconds = 0.0
        self.wrote_at: dict[str, float] = {}  # process → when it changed a status last
        self.lease_gone: dict[int, float] = {}  # lease → when it was first seen to be gone
        self.expired: dict[int, None] = {}  # terms whose lease has run out
        self.runs = 0
        self.depositions = 0
        self.schedules = ScheduleJudge(self)
        self.nodes = NodeJudge(self)
        # of pools with `sharing`; None: there are none
        self.shares: ShareJudge | None = None
        self.dependents = DependencyJudge(self)
        self.arrays = ArrayJudge(self)
        self.claims: ClaimJudge
        self.sent: dict[str, tuple[int, int]] = {}  # op → revisions that the plan's writer knew, from and to
        self._last_sent: dict[str, int] = {}
        self._moves: list[Move] = []

    def mended_at(self, task_id: str) -> int:
        """The revision at which somebody wrote the task's status by hand last; 0 if nobody has."""
        return self._mended_at.get(task_id, 0)

    def now(self) -> float:
        """What a right wall clock shows."""
        return self.scheduler.wall + self.scheduler.now

    def on_send(self, process: str, op: str) -> None:
        """A process begins to send a plan: what it knew when it made it lies between its last one and now."""
        if not op.startswith("log/"):
            # what refused a plan is read, before the watch brings it
            self.sent[op] = self._last_sent.get(process, 0), self.etcd.revision
            self._last_sent[process] = self.revision_of(process)

    def sharing_counts(self) -> dict[str, int]:
        """How often each thing of sharing happened."""
        if self.shares is None:
            return {}
        judge = self.claims
        return {
            "rebuilds": self.shares.rebuilds,
            "days": self.shares.days,
            "parts": self.shares.parts,
            "preemptions": judge.preemptions,
            "preempted": judge.ended,
            "reservations": judge.reservations,
            "turns": judge.turns,
            "heads": judge.heads,
        }

    # -- what runs
    # -------------------------------------------------------------------------------------------------

    def on_run(self, attempt: Attempt) -> None:
        """I4: nobody else of the task runs, and its hold has not ended. I1: it runs with what it holds."""
        self.runs += 1
        task_id = attempt.id.task_id
        if attempt.forged:
            return
        abandoned = self.abandoned.get(task_id, 0)
        if attempt.id.number <= abandoned:
            return
        for other in self.engine.every[task_id]:
            if other is not attempt and other.live and not other.forged and other.id.number > abandoned:
                raise Violation(
                    "I4",
                    f"{attempt.id} ({attempt.uid}) begins to run while {other.id} ({other.uid}) runs",
                    task_id,
                )
        if not self.holds(attempt.id):
            raise Violation("I4", f"{attempt.id} begins to run after its hold has ended", task_id)
        status = self.statuses.get(task_id)
        if status is not None and attempt.asked is not None and status.hold != attempt.asked:
            raise Violation(
                "I1", f"{attempt.id} runs with {attempt.asked}, but its task holds {status.hold}", task_id
            )

    def on_touch(self, attempt: Attempt, what: str) -> None:
        """What another installation runs is not ours to touch."""
        if attempt.mark:
            raise Violation("I5", f"{attempt.id} of another installation is {what}", attempt.id.task_id)

    def on_create(self, attempt: AttemptId) -> None:
        """Persist before act: what is to be started has been admitted, and that stands in etcd."""
        if attempt.number > self.admitted.get(attempt.task_id, 0):
            raise Violation("I5", f"a start of {attempt} arrives, which was never admitted", attempt.task_id)

    def on_effect(self, process: str, leadership: Leadership) -> None:
        """A start leaves a replica only before its own deadline."""
        machine = self._machine(process)
        if leadership._ended or machine.local() >= leadership.deadline:
            raise Violation(
                "I7", f"{process} starts an attempt although its term of epoch {leadership.epoch} has ended"
            )
        if leadership.revision in self.expired:
            raise Violation(
                "I7",
                f"{process} starts an attempt in the term {leadership.revision}, whose lease has run out",
            )

    def on_read(self, attempt: AttemptId) -> None:
        """A leader has asked for the output of an attempt, and was answered, or not."""
        self.log_read[attempt] = None

    def on_settle(self, attempt: AttemptId) -> None:
        """A leader lets the engine go of an attempt: what is to be kept of it was read before."""
        due = self.log_due.get(attempt)
        if due is not None and due.epoch == max(self.epochs) and attempt not in self.log_read:
            raise Violation("layout", f"{attempt} was settled before its output was read", attempt.task_id)

    def holds(self, attempt: AttemptId) -> bool:
        """Whether its task holds resources for it."""
        status = self.statuses.get(attempt.task_id) or self.frozen.get(attempt.task_id)
        return status is not None and status.state in HOLDING and status.attempt == attempt.number

    def on_expiry(self, term: int) -> None:
        """The leader key's lease has expired: whoever led must have known before, by its own clock."""
        for name, leadership in self.leaderships():
            if leadership.revision == term and not leadership.why_ended():
                raise Violation("I7", f"the lease of {name} has run out, and it still takes itself to lead")

    def check_deadlines(self) -> None:
        """No leader's own deadline is later than the end of its lease, wherever etcd counts it."""
        leases = self.etcd.store._server.leases
        for name, leadership in self.leaderships():
            deadline = self._machine(name).true_time(leadership.deadline)
            if leadership.lease in leases:
                ends = leases[leadership.lease].expires
            else:  # revoked by somebody: the leader cannot know before its next keep-alive
                ends = self.lease_gone.setdefault(leadership.lease, self.scheduler.now) + self.ttl
            if deadline > ends:
                raise Violation(
                    "I7", f"{name} would act for {deadline - ends:.3f} s after the end of its lease"
                )

    # -- what is written
    # -------------------------------------------------------------------------------------------

    def on_revision(self, batch: Batch, writer: str) -> None:
        """One revision of etcd: check it as a whole, then take it over."""
        before = self.before = {event.key: self.values.get(event.key) for event in batch.events}
        changed = {event.key for event in batch.events}
        for event in batch.events:
            kind, _, rest = event.key.removeprefix(self.keys.prefix).partition("/")
            handler = getattr(self, f"_on_{kind}", None)
            if handler is not None:
                handler(event, rest, changed, writer)
            if event.item is None:
                self.values.pop(event.key, None)
                self.creates.pop(event.key, None)
            else:
                if event.item.value != DAMAGED_SPEC:  # what it said before is what counts
                    self.values[event.key] = event.item.value
                self.creates[event.key] = event.item.create
        if not self.schedules.is_off:
            self.schedules.on_revision(batch.events, writer)
        if self.shares is not None:
            moves, self._moves = self._moves, []
            latest = max(
                (move.at for move in moves if not self.arrays.gangs.is_silent(*move[1:3])), default=0
            )
            # members tell of what their gang gives to them
            moves = [
                move._replace(at=latest) if self.arrays.gangs.is_silent(*move[1:3]) else move
                for move in moves
            ]
            op = self._op_of(batch) if writer != USER else ""
            self.shares.on_revision(batch.events, writer, moves, op)
            self.claims.on_revision(batch.events, writer, moves, op)
        if writer not in ("", USER):
            if self.keys.epoch in changed:
                self._check_foundation(writer)
            self._check_requests(batch, before)
            for pool in sorted({*self.held, *self.ledgers}):
                self._check_balance(pool)
            if any(event.key.startswith(self.keys.state("")) for event in batch.events):
                self.wrote_at[writer] = self.scheduler.now
                self.reasons.on_write(writer)

    def _op_of_record(self, event: KeyEvent) -> str:
        return str(codec.decode_mapping(event.item.value).get("op", "")) if event.item is not None else ""

    def _op_of(self, batch: Batch) -> str:
        for event in batch.events:
            if event.item is not None and event.key.startswith((self.keys.state(""), self.keys.ledger(""))):
                return str(codec.decode_mapping(event.item.value).get("op", ""))
        return ""

    def _on_shares(self, event: KeyEvent, rest: str, changed: set[str], writer: str) -> None:
        self._check_shared(event, f"share {rest}", writer)

    def _on_claims(self, event: KeyEvent, rest: str, changed: set[str], writer: str) -> None:
        self._check_shared(event, f"claim {rest}", writer)

    def _on_usage(self, event: KeyEvent, rest: str, changed: set[str], writer: str) -> None:
        self._check_shared(event, f"usage {rest}", writer)

    def _check_shared(self, event: KeyEvent, what: str, writer: str) -> None:
        if writer != USER and self.shares is None:
            raise Violation("I9", f"{what} was written, and no pool is shared")
        if writer != USER and event.item is not None:
            self._check_writer(event.item.value, what, writer)

    def _on_leader(self, event: KeyEvent, rest: str, changed: set[str], writer: str) -> None:
        if event.item is None and not writer:
            self.on_expiry(self.creates[event.key])
            self.expired[self.creates[event.key]] = None
        elif event.item is None and writer != USER:
            self._check_deposition(codec.decode_mapping(self.values[event.key]).get("instance"), writer)

    def _check_deposition(self, leader: str | None, writer: str) -> None:
        """A leader key is deleted by its leader; or by whom that very leader's endpoint refused after it
        was connected to it.
        """
        if leader in (None, writer):  # the former: written by hand, of no lease, and removed for that
            return
        way = (writer, self._machine(leader).name)
        if self.endpoints.connected_at.get(way, -1.0) < self.elected_at:
            raise Violation(
                "I7",
                f"{writer} deposed {leader}, to whose endpoint it was not connected since it was elected",
            )
        if self.endpoints.refused_at.get(way, -1.0) < self.elected_at:
            raise Violation("I7", f"{writer} deposed {leader}, which has not refused it since it was elected")
        now = self._machine(writer).local()
        times = self.deposed_at[writer] = [*self.deposed_at.get(writer, ()), now][-BURST - 1 :]
        self.depositions += 1
        if len(times) > BURST and now - times[0] < BURST_SECONDS:
            raise Violation("I7", f"{writer} deposed {len(times)} leaders within {now - times[0]:.0f} s")

    def _machine(self, process: str) -> Machine:
        return self.machines[process.partition(".")[0]]

    def _on_installation(self, event: KeyEvent, rest: str, changed: set[str], writer: str) -> None:
        """Made once, and never another one, also when its key was deleted meanwhile."""
        if event.item is not None:
            new = codec.decode_mapping(event.item.value)["id"]
            old, self.installation = self.installation or new, new
            if old != new:
                raise Violation("I7", f"{writer} made installation {old} another one, {new}")

    def _on_epoch(self, event: KeyEvent, rest: str, changed: set[str], writer: str) -> None:
        if event.item is not None and writer != USER:
            epoch = codec.decode_mapping(event.item.value)["epoch"]
            if epoch in self.epochs:
                raise Violation("I7", f"epoch {epoch} was won twice")
            self.epochs[epoch] = event.mod
            self.elected_at = self.scheduler.now
            self._forget_shown(writer)

    def _forget_shown(self, writer: str) -> None:
        """A term begins with the engine's list, and does not know what an earlier one of its process saw."""
        for attempts in self.engine.every.values():
            for attempt in attempts:
                attempt.shown.pop(writer, None)
                attempt.last_shown.pop(writer, None)
                attempt.end_shown.pop(writer, None)

    def _check_foundation(self, writer: str) -> None:
        """What a term says that it stands on is what stands in etcd as it begins."""
        record = codec.decode_mapping(self.values[self.keys.term(max(self.epochs))])
        installation = decode_installation(self.values[self.keys.installation]).id
        engine = codec.to_builtins(decode_engine(self.values[self.keys.engine]).engine)
        if (record["installation"], record["engine"]) != (installation, engine):
            raise Violation(
                "I7", f"{writer} was elected on {record['engine']}, and the record is of {engine}"
            )

    def _on_tasks(self, event: KeyEvent, task_id: str, changed: set[str], writer: str) -> None:
        if event.item is not None:
            if writer != USER and self.schedules.is_off:
                raise Violation("I7", f"the spec of {task_id} was written by {writer}", task_id)
            self.accepted.setdefault(task_id, event.mod)
            self.specs_put[task_id] = self.specs_put.get(task_id, 0) + 1
        elif (
            writer != USER
            and self.keys.state(task_id) not in changed
            and self.keys.state(task_id) in self.values
        ):
            raise Violation("I6", f"the spec of {task_id} was removed, and its status was not", task_id)

    def _on_attested(self, event: KeyEvent, task_id: str, changed: set[str], writer: str) -> None:
        self.attested[task_id] = event.item is not None and self.keys.task(task_id) in changed
        self._attested_at[task_id] = event.mod

    def _on_quarantined(self, event: KeyEvent, task_id: str, changed: set[str], writer: str) -> None:
        if event.item is not None:
            self._check_writer(event.item.value, f"what sets {task_id} aside", writer)
            self.check_aside(task_id)

    @contextlib.contextmanager
    def creating(self, task_id: str, pool: str, pool_mod: int) -> Iterator[None]:
        """The client creates a task, within this: one that is not there, nor what is left of it; in the
        pool that it has seen.
        """
        there = [key for key in (self.keys.task(task_id), self.keys.state(task_id)) if key in self.values]
        item, accepted = self.etcd.get(self.keys.pool(pool)), self.specs_put.get(task_id, 0)
        yield
        if self.specs_put.get(task_id, 0) == accepted:
            return  # refused
        if there:
            raise Violation("I6", f"{task_id} was submitted, although there is {there[-1]}", task_id)
        if item is None or item.mod != pool_mod:
            raise Violation(
                "I6", f"{task_id} was submitted to another pool {pool} than it was checked against", task_id
            )

    def _on_pools(self, event: KeyEvent, pool: str, changed: set[str], writer: str) -> None:
        self.capacities[pool] = ZERO
        if event.item is not None:
            try:
                found = codec.decode_pool(pool, event.item.value)
            except CorruptValue:
                return
            follows = found.capacity_from is not None
            self.capacities[pool] = self.nodes.capacity(pool) if follows else found.capacity

    def _on_capacities(self, event: KeyEvent, pool: str, changed: set[str], writer: str) -> None:
        if wrong := self.nodes.on_record(event, pool):
            raise Violation("I18", wrong)
        if self.nodes.follows(pool):
            self.capacities[pool] = self.nodes.capacity(pool)

    def _on_ledgers(self, event: KeyEvent, pool: str, changed: set[str], writer: str) -> None:
        if event.item is None:
            raise Violation("I1", f"the ledger of {pool} was deleted by {writer}")
        try:
            held, _ = codec.decode_ledger(event.item.value)
        except CorruptValue:
            if writer != USER:
                raise Violation("I1", f"the ledger of {pool} was damaged by {writer}") from None
            self.frozen_ledgers[pool] = None
            return
        if writer == USER:
            self.frozen_ledgers.pop(pool, None)
            self.amiss[pool] = held - self.held.get(pool, ZERO)
        else:
            if pool in self.frozen_ledgers:
                raise Violation(
                    "layout", f"{writer} wrote over the ledger of {pool}, which it cannot have read"
                )
            self._check_writer(event.item.value, f"ledger {pool}", writer)
            before, capacity = self.ledgers.get(pool, ZERO), self.capacities.get(pool, ZERO)
            # Where the ledger was lowered, by what can be read of the holds.
            known, _ = self.sent[codec.decode_mapping(event.item.value)["op"]]
            holds = held - self.amiss.get(pool, ZERO) - self._unreadable(pool, known)
            for name in sorted({*held, *holds}):
                taken = max(held.get(name), holds.get(name))
                if held.get(name) > before.get(name) and taken > capacity.get(name):
                    raise Violation(
                        "I2", f"{pool}: {name} rises to {taken}, above its capacity of {capacity.get(name)}"
                    )
        self.ledgers[pool] = held

    def _unreadable(self, pool: str, known: int) -> Vector:
        """What the statuses of a pool hold that were damaged as they stood at that revision."""
        later = (self.statuses.get(name) for name, revision in self._mended_at.items() if revision > known)
        damaged = (*self.frozen.values(), *(status for status in later if status is not None))
        return sum((status.hold for status in damaged if status.pool == pool), start=ZERO)

    def _on_states(self, event: KeyEvent, task_id: str, changed: set[str], writer: str) -> None:
        old = self.statuses.pop(task_id, None)
        if writer == USER:
            self.rubbish.pop(task_id, None)
        elif task_id in self.rubbish:
            raise Violation(
                "layout", f"{writer} wrote over a status that it cannot have read: {task_id}", task_id
            )
        if event.item is None:
            if writer == USER:  # foreign ones, which held nothing
                self.frozen.pop(task_id, None)
                return
            self._check_removal(task_id, old, changed)
            if old is None or not old.array:
                self.accepted.pop(task_id, None)
            return
        try:
            new, _ = codec.decode_status(event.item.value)
        except CorruptValue:
            if writer != USER:
                raise Violation("I3", f"the status of {task_id} was damaged by {writer}", task_id) from None
            if old is not None:
                self.frozen[task_id] = old
            elif task_id not in self.frozen:
                self.rubbish[task_id] = None
            return
        self.statuses[task_id] = new
        if writer == USER:
            self.frozen.pop(task_id, None)
            self.mended[task_id] = new.epoch
            self._mended_at[task_id] = self.etcd.revision
            return
        self.mended.pop(task_id, None)
        if task_id in self.frozen:
            raise Violation(
                "layout", f"{writer} wrote over a status that it cannot have read: {task_id}", task_id
            )
        self._check_writer(event.item.value, f"status of {task_id}", writer)
        if new.epoch != max(self.epochs, default=0):
            raise Violation(
                "I7",
                f"{task_id} was written in epoch {new.epoch}, but {max(self.epochs, default=0)} has begun",
                task_id,
            )
        if not self.arrays.gangs.is_silent(old, new):
            self._check_path(task_id, old, new)
        self._check_grounds(task_id, old, new)
        key = self.keys.request(task_id, RequestKind.CHANGE)
        wrong = not (new.array and old is None) and contradiction(
            old, new, asked_for(self.values.get(key)) if key in changed else None
        )
        if wrong:
            raise Violation("hold", f"{task_id} {wrong}", task_id)
        spec_id = new.array or task_id
        spec, proof = map(self.etcd.get, (self.keys.task(spec_id), self.keys.attested(spec_id)))
        value = self.values.get(self.keys.task(spec_id)) if spec is not None else None
        pool = new.pool or self._pool_of(spec_id)
        wrong = wrong_step(old, new, pool, self.values.get(self.keys.pool(pool)), spec, proof)
        if wrong and (new.state == "Failed" or self._attested_at.get(task_id, 0) <= self.sent[new.op][0]):
            raise Violation("I12", f"{task_id} {wrong}", task_id)
        wrong = self.windows.wrong_step(old, new, spec_id, self.values.get(self.keys.pool(pool)), value)
        if wrong:
            raise Violation("I17", f"{task_id} {wrong}", task_id)
        wrong = self.reasons.wrong_step(task_id, old, new, writer)
        if wrong:
            raise Violation("reason", f"{task_id} {wrong}", task_id)
        wrong = self.dependents.wrong_step(task_id, old, new, changed)
        if wrong:
            raise Violation("I13", f"{task_id} {wrong}", task_id)
        wrong = self.arrays.wrong_step(task_id, old, new, changed)
        if wrong:
            raise Violation("I15", f"{task_id} {wrong}", task_id, new.array or task_id)
        self._check_notices(task_id, old, new, changed)
        self._check_attempts(task_id, old, new, changed, writer)
        self._move_hold(task_id, old, new)
        if self.shares is not None:
            at = round(codec.decode_history(new)[-1].at * 1000)
            self._moves.append(Move(task_id, old, new, at))
        self.transitions[new.state] = self.transitions.get(new.state, 0) + 1

    def _pool_of(self, spec_id: str) -> str:
        """What its spec says; "" if that is gone, or damaged by hand."""
        value = self.values.get(self.keys.task(spec_id))
        try:
            return codec.decode_spec(spec_id, value).spec.pool if value is not None else ""
        except CorruptValue:
            return ""

    def _check_notices(self, task_id: str, old: Status | None, new: Status, changed: set[str]) -> None:
        """The notices that come with a step are those that its pool asks for, as the writer knows it."""
        known, _ = self.sent[new.op]
        spec_id = new.array or task_id
        pool, spec = map(self.etcd.get, (self.keys.pool(new.pool), self.keys.task(spec_id)))
        if pool is None or pool.mod > known or spec is None or spec.mod > known:
            return
        wanted = not new.array and is_due(task_id, spec.value, old, new, pool.value)
        told = [key for key in changed if key.startswith(self.keys.notice(task_id, ""))]
        if len(told) != wanted:
            raise Violation("notices", f"{task_id}: a notice was due: {wanted}, and are {told}", task_id)

    def _on_outbox(self, event: KeyEvent, rest: str, changed: set[str], writer: str) -> None:
        task_id, before = rest.partition("/")[0], self.values.get(event.key)
        if writer == USER:
            return
        if event.item is not None:
            self._check_writer(event.item.value, f"notice {rest}", writer)
        if before is not None:
            end = self.keys.prefix + f"delivered/{rest}"
            after = event.item.value if event.item is not None else None
            wrong = wrong_end(before, after, self.before.get(end))
        else:
            item = self.etcd.get(self.keys.state(task_id)) if self.keys.state(task_id) in changed else None
            new = codec.decode_status(item.value)[0] if item is not None else None
            wrong = wrong_notice(event.item.value, new) if event.item is not None else ""
            self.notices += 1
        if wrong:
            raise Violation("notices", f"the notice {rest} {wrong}", task_id)

    def _on_arrays(self, event: KeyEvent, rest: str, changed: set[str], writer: str) -> None:
        if writer == USER:
            return
        op = self._op_of_record(event)
        if event.item is not None:
            self._check_writer(event.item.value, f"block {rest}", writer)
        wrong = self.arrays.wrong_block(event, rest, op)
        if wrong:
            raise Violation("I15", f"block {rest} {wrong}", rest.partition("/")[0])

    def _on_requests(self, event: KeyEvent, rest: str, changed: set[str], writer: str) -> None:
        self.arrays.requests.on_request(event)

    def _on_awaits(self, event: KeyEvent, rest: str, changed: set[str], writer: str) -> None:
        if event.item is None and writer != USER:
            wrong = self.dependents.wrong_end_of_record(rest, changed)
            if wrong:
                raise Violation("I13", f"awaits/{rest} {wrong}", *rest.split("/"))

    def _on_delivered(self, event: KeyEvent, rest: str, changed: set[str], writer: str) -> None:
        notice = f"{self.keys.prefix}outbox/{rest}"
        if writer != USER and notice in {*self.values, *self.before} and notice not in changed:
            raise Violation("notices", f"{rest} was delivered, and is left", rest.partition("/")[0])

    def _on_logs(self, event: KeyEvent, task_id: str, changed: set[str], writer: str) -> None:
        if event.item is None:
            return
        self._check_writer(event.item.value, f"log of {task_id}", writer)
        kept, status = kept_log.decode(event.item.value), self.statuses.get(task_id)
        before = self.values.get(event.key)
        member = MemberName.parse(task_id)
        names = (task_id, member.array) if member is not None else (task_id,)
        if all(self.keys.task(name) not in self.values for name in names):
            raise Violation("layout", f"a log was kept of {task_id}, which is gone", task_id)
        if kept.text != f"{task_id}-{kept.attempt}" or (
            before is not None and kept_log.decode(before).attempt > kept.attempt
        ):
            raise Violation(
                "layout", f"the log {kept} of {task_id} is another attempt's, or an earlier one's", task_id
            )
        if status is not None and status.is_holding and status.attempt <= kept.attempt:
            raise Violation(
                "layout",
                f"the log of {task_id}-{kept.attempt} was kept before its end was committed",
                task_id,
            )
        if self._keeps_logs(task_id) is False:
            raise Violation(
                "layout",
                f"the log of {task_id}-{kept.attempt} was kept, and its task says that it is not",
                task_id,
            )
        self.logs_kept += 1

    def _keeps_logs(self, task_id: str) -> bool | None:
        """What its spec says; None: nothing, or it is not certain: another one stood there before, which a
        leader may still see.
        """
        member = MemberName.parse(task_id)
        if member is not None and {task_id, member.array} <= self.specs_put.keys():
            return None  # whose log it is cannot be told from its name
        spec_id = self.arrays.spec_id(task_id)
        spec = self.values.get(self.keys.task(spec_id))
        if spec is None or self.specs_put[spec_id] != 1:
            return None
        stored = codec.decode_spec(spec_id, spec)
        return None if stored.error else stored.spec.keep_logs

    def _check_writer(self, value: bytes, what: str, writer: str) -> None:
        """I7: whoever writes has the leader key that stands in this revision."""
        leader = self.values.get(self.keys.leader)
        term = self.creates.get(self.keys.leader)
        op = str(codec.decode_mapping(value).get("op", ""))
        if leader is None or f"/{term}/" not in op:
            raise Violation("I7", f"{what} was written by {op}, while the term is {term}")

    def _check_path(self, task_id: str, old: Status | None, new: Status) -> None:
        """I3: the history goes on from where it was, by rows of the lifecycle."""
        steps = codec.decode_history(new)
        before = codec.decode_history(old) if old is not None else []
        added = new.steps - (old.steps if old is not None else 0)
        if added < 1:
            raise Violation("I3", f"{task_id} was written without a step", task_id)
        kept = steps[: len(steps) - added]
        if kept != before[len(before) - len(kept) :]:
            raise Violation("I3", f"the history of {task_id} was rewritten", task_id)
        position = old.state if old is not None else "Created"
        for step in steps[len(steps) - added :]:
            is_row = step.source == position and step.state in LIFECYCLE[position]
            if position in HOLDING and step.state == "WaitingRetry":
                is_row = is_row and step.event == "preempted"
            if position in ("Created", "WaitingRetry") and step.state == "Succeeded":
                is_row = is_row and step.event == "members-succeeded"
            if not is_row:
                raise Violation(
                    "I3", f"{task_id} went from {position} by {step.source} to {step.state}", task_id
                )
            position = step.state
        if position != new.state:
            raise Violation("I3", f"{task_id} is {new.state}, but its last step led to {position}", task_id)

    def _check_grounds(self, task_id: str, old: Status | None, new: Status) -> None:
        """What a step gives as its reason is so in the very revision that records it."""
        spec_id = new.array or task_id
        spec = self.values.get(self.keys.task(spec_id))
        if old is None and spec is None:
            raise Violation("I6", f"{task_id} got its first status after its spec was deleted", task_id)
        if spec is None or (new.array and not self.arrays.has_member(new)):
            return
        for step in steps_since(old, new):
            if step.event in ("rejected", "stop-requested") and step.reason in (
                "SpecDeleted",
                "spec-deleted",
            ):
                raise Violation("I6", f"{task_id}: {step.reason}, but its spec is there", task_id)
            if step.reason == "Unsatisfiable":
                stored = codec.decode_spec(spec_id, spec).spec
                # a status keeps its pool, whatever spec somebody has put in the place of the first one
                name = old.pool if old is not None else stored.pool
                value = self.values.get(self.keys.pool(name))
                with contextlib.suppress(InvalidField):
                    if value is not None:
                        pool = codec.decode_pool(name, value)
                        check_satisfiable(stored, pool, demand(stored, pool))
                    raise Violation(
                        "I6", f"{task_id} was refused as unsatisfiable, but its pool has enough", task_id
                    )

    def _check_attempts(
        self, task_id: str, old: Status | None, new: Status, changed: set[str], writer: str
    ) -> None:
        """I4 as the records show it, and the truth behind them."""
        before = old.attempt if old is not None else 0
        was_holding = old is not None and old.state in HOLDING
        if new.attempt < before:
            raise Violation(
                "I4", f"the attempts of {task_id} go back from {before} to {new.attempt}", task_id
            )
        if new.state in HOLDING and not was_holding:
            if self.keys.task(new.array or task_id) not in self.values:
                raise Violation("I4", f"{task_id} was admitted after its spec was deleted", task_id)
            self.admitted[task_id] = max(self.admitted.get(task_id, 0), new.attempt)
            if new.attempt == before:
                raise Violation("I4", f"attempt {before} of {task_id} was used again", task_id)
            if self.engine.listed.get(writer, -1.0) < self.elected_at:
                raise Violation("I4", f"{writer} admitted {task_id} before it had listed the engine", task_id)
            for other in self.engine.every.get(task_id, ()):
                # What somebody made by hand can only be respected once it is known.
                # What reached the writer before its last commit was answered is known to the plan of this
                # one.
                known = not other.forged or other.shown.get(writer, self.scheduler.now) < self.wrote_at.get(
                    writer, 0.0
                )
                if other.live and known and other.id.number > self.abandoned.get(task_id, 0):
                    raise Violation("I4", f"{task_id} was admitted while {other.id} runs", task_id)
        if was_holding and (new.state not in HOLDING or new.attempt != before):
            assert old is not None
            self._check_end(task_id, old, new, changed, writer)
            self._note_log(task_id, old, new)

    def _note_log(self, task_id: str, old: Status, new: Status) -> None:
        """An end was committed: whether its output is to be kept, as far as that is certain."""
        mine = [a for a in self.engine.every.get(task_id, ()) if a.id.number == old.attempt and not a.mark]
        has_run = (
            len(mine) == 1
            and mine[0].result is not None
            and mine[0].result.ran
            and mine[0].started_at is not None
        )
        if has_run and not mine[0].removed and new.abandoned < old.attempt and self._keeps_logs(task_id):
            self.log_due[mine[0].id] = LogDue(new.epoch, self.engine.calm)

    def _check_end(self, task_id: str, old: Status, new: Status, changed: set[str], writer: str) -> None:
        """A hold ends only when the attempt has truly stopped (or was given up by word), and with its true
        result.
        """
        mine = [a for a in self.engine.every.get(task_id, ()) if a.id.number == old.attempt and not a.mark]
        if old.reserved:
            return  # a gang: see GangJudge. Whatever has the name of its attempt was made by hand
        given_up = new.abandoned >= old.attempt
        key = self.keys.request(task_id, "confirm-stopped")
        confirmed = key in changed and codec.decode_request("confirm-stopped", self.values[key]).attempt in (
            0,
            old.attempt,
        )
        if given_up and not confirmed:
            # by the user's own policy: it may run, even while its successor does
            self.abandoned[task_id] = new.abandoned
            limit = self._replaces_lost_after(task_id)
            lost_for = (new.finished_at or 0.0) - (
                old.lost_since if old.lost_since is not None else float("inf")
            )
            if limit is None or lost_for < limit - 0.001 - self.wall_spread:
                raise Violation(
                    "I4", f"{task_id}-{old.attempt} was given up, and nobody had said so", task_id
                )
            if wrong := self.reasons.wrong_give_up(task_id, old, writer):
                raise Violation("reason", f"{task_id}-{old.attempt} was given up, and {wrong}", task_id)
            return
        for attempt in mine:
            if attempt.live:
                raise Violation("I4", f"the hold of {attempt.id} ended while it runs", task_id)
        if given_up:
            return  # an operator said that it had stopped, and it had; what became of it nobody knows
        results = {
            attempt.result.phase for attempt in mine if attempt.result is not None and not attempt.removed
        }
        # recorded before the others were stopped: whatever became of them, that is the result
        if old.stopping == "main-ended":
            results = {attempt.main.phase for attempt in mine if attempt.main is not None}
        elif results:
            results |= {attempt.main.phase for attempt in mine if attempt.main is not None}
        steps = steps_since(old, new)
        told = "Succeeded" if steps[0].state == "Succeeded" else "Failed"
        # Or how one ended that was removed by hand, which the leader may have heard of before: the mark that
        # a late stop left under its name came afterwards.
        removed = {attempt.result.phase for attempt in mine if attempt.result is not None and attempt.removed}
        if results and told not in results | removed:
            raise Violation(
                "I6", f"{task_id}-{old.attempt} is recorded as {told}, but it {sorted(results)[0]}", task_id
            )

    def _check_removal(self, task_id: str, old: Status | None, changed: set[str]) -> None:
        """I6: nothing disappears before its retention has passed, unless its spec was deleted by hand."""
        if old is None:
            raise Violation("I6", f"the status of {task_id}, which could not be read, was removed", task_id)
        if old.array:
            if wrong := self.arrays.wrong_removal(task_id, old, changed):
                raise Violation("I15", f"{task_id} {wrong}", task_id, old.array)
            return
        if old.state not in FINISHED:
            raise Violation("I6", f"{task_id} was removed while {old.state}", task_id)
        if wrong := self.dependents.wrong_removal(task_id):
            raise Violation("I13", f"{task_id} {wrong}", task_id)
        if (log := self.keys.log(task_id)) in self.values and log not in changed:
            raise Violation("layout", f"{task_id} was removed, and its log was not", task_id)
        if self.attested.get(task_id) and self.keys.attested(task_id) not in changed:
            raise Violation("layout", f"{task_id} was removed, and its attestation was not", task_id)
        for kind in RequestKind:
            key = self.keys.request(task_id, kind)
            if key in self.values and key not in changed:
                raise Violation("I8", f"{task_id} was removed, although somebody asks for {kind}", task_id)
        spec = self.values.get(self.keys.task(task_id))
        if spec is None:
            return
        retention = codec.decode_spec(task_id, spec).spec.retention_seconds
        now = self.now()
        if (old.finished_at or 0.0) + retention > now + self.wall_spread + 1.0:
            raise Violation(
                "I6",
                f"{task_id} was removed {(old.finished_at or 0) + retention - now:.0f} s before its time",
                task_id,
            )

    def _move_hold(self, task_id: str, old: Status | None, new: Status) -> None:
        if new.hold and new.state not in HOLDING:
            raise Violation("I1", f"{task_id} is {new.state}, and holds {new.hold}", task_id)
        if old is not None and old.hold:
            self.held[old.pool] = self.held[old.pool] - old.hold
        if new.hold:
            self.held[new.pool] = self.held.get(new.pool, ZERO) + new.hold

    def _check_balance(self, pool: str) -> None:
        """I1."""
        ledger, held = self.ledgers.get(pool, ZERO), self.held.get(pool, ZERO)
        if ledger - held - self.amiss.get(pool, ZERO):
            raise Violation(
                "I1",
                f"{pool}: the ledger says {ledger.format()}, the holds are {held.format()}",
                *self.statuses,
            )

    def _check_requests(self, batch: Batch, before: dict[str, bytes | None]) -> None:
        """I8: a request takes effect once, in the transaction that deletes it, and it is that request that
        does.
        """
        deleted: dict[str, list[str]] = {}
        askers: dict[tuple[str, str], str] = {}
        requests: dict[tuple[str, str], Request] = {}
        kind: str | None
        for event in batch.events:
            if event.key.startswith(f"{self.keys.prefix}requests/") and event.item is None:
                task_id, kind = event.key.rsplit("/", 2)[1:]
                deleted.setdefault(task_id, []).append(kind)
                value = before[event.key]
                assert value is not None
                requests[task_id, kind] = codec.decode_request(kind, value)
                askers[task_id, kind] = requests[task_id, kind].by
        for event in batch.events:
            if not event.key.startswith(f"{self.keys.prefix}states/") or event.item is None:
                continue
            task_id = event.key.rsplit("/", 1)[1]
            new, _ = codec.decode_status(event.item.value)
            value = before[event.key]
            old = codec.decode_status(value)[0] if value is not None else Status()
            steps = steps_since(old, new)
            asked = [kind for step in steps if (kind := _request_of(step)) is not None]
            inherited = [
                step
                for step in steps
                if new.array
                and _request_of(step) == "cancel"
                and self.arrays.requests.inherits(task_id, step)
                and askers.get((task_id, "cancel"), "") not in step.message.replace(":", "").split()
            ]
            for _ in inherited:
                asked.remove("cancel")
            for step in steps:
                kind = _request_of(step)
                if step.reason == "RequestIgnored" and (
                    wrong := self.arrays.requests.wrong_refusal(task_id, old, step)
                ):
                    raise Violation("I15", f"{task_id}: {wrong}", task_id)
                if kind is None or step in inherited or step.reason == "RequestIgnored":
                    continue
                if askers.get((task_id, kind), "") not in step.message.replace(":", "").split():
                    raise Violation(
                        "I8",
                        f"{task_id}: {step.message!r} took effect, that of {askers.get((task_id, kind))} was"
                        " consumed",
                        task_id,
                    )
                wrong = self.arrays.gangs.wrong_answer(task_id, old, new, requests[task_id, kind])
                if wrong:
                    raise Violation("I16", f"{task_id} {wrong}", task_id)
                wrong = self.arrays.requests.wrong_answer(task_id, step, new, requests[task_id, kind])
                if wrong:
                    raise Violation("I15", f"{task_id}: {wrong}", task_id)
            begins = new.array and value is None
            known = self.arrays.given_up(new.array, new.index) if begins else old.abandoned
            if old.reserved:  # a gang that ends remembers what its members' fates tell
                known = max(known, self.arrays.most_given_up(task_id))
            if new.abandoned > known:
                by_policy = old.lost_since is not None and self._replaces_lost_after(task_id) is not None
                if not by_policy or "confirm-stopped" in deleted.get(task_id, []):
                    asked.append("confirm-stopped")
            if sorted(asked) != sorted(deleted.get(task_id, [])):
                raise Violation(
                    "I8", f"{task_id}: {asked} took effect, {deleted.get(task_id, [])} were consumed", task_id
                )

    def _replaces_lost_after(self, task_id: str) -> float | None:
        spec_id = self.arrays.spec_id(task_id)
        spec = self.values.get(self.keys.task(spec_id))
        return (
            codec.decode_spec(spec_id, spec).spec.on_lost.replace_after_seconds if spec is not None else None
        )

    # -- now and then
    # ----------------------------------------------------------------------------------------------

    def model(self) -> Model:
        """What stands in etcd, as the core reads it."""
        snapshot = self.etcd.load(self.keys.prefix)
        model = Model()
        model.load(changes_of(self.keys, snapshot.items), snapshot.revision)
        return model

    def check_records(self, *, settled: bool) -> None:
        """What `tally audit` checks of the records, at this revision; what is a matter of timing only once
        all is settled.
        """
        for finding in check_model(self.model()):
            if finding.severity is FindingSeverity.NOTICE or (finding.transient and not settled):
                continue
            pool = finding.subject.removeprefix("pool/")
            if finding.invariant in ("I9", "I10") and self.shares is not None and self.shares.excuses(pool):
                continue
            if finding.invariant == "I13" and self._mended_at:
                continue  # what somebody wrote over may have ended otherwise
            if finding.invariant == "I1" and (self.frozen or self.amiss.get(pool)):
                # what cannot be read holds in a pool that its spec, replaced by hand, need not name; see
                # _check_balance
                continue
            if finding.subject.rpartition("/")[2] not in self.mended:
                raise Violation(
                    finding.invariant, f"{finding.subject} {finding.what}", finding.subject.rpartition("/")[2]
                )

    def unfinished(self) -> list[str]:
        """Accepted tasks that have not come to an end."""
        waiting = [
            task_id
            for task_id in self.accepted
            if self.keys.task(task_id) in self.values and task_id not in self.statuses
        ]
        return waiting + [
            task_id for task_id, status in self.statuses.items() if status.state not in FINISHED
        ]

    def overdue(self) -> list[str]:
        """Finished tasks that should have been removed a while ago, by any machine's clock."""
        found, now = [], self.now()
        for task_id, status in self.statuses.items():
            spec = self.values.get(self.keys.task(task_id))
            if spec is None or status.state not in FINISHED:
                continue
            stored = codec.decode_spec(task_id, spec)
            due = (status.finished_at or 0.0) + stored.spec.retention_seconds
            if not stored.error and due + self.wall_spread + 5.0 < now:
                found.append(task_id)
        return found

    def requests(self) -> list[str]:
        """Requests that nobody has answered."""
        return [key for key in self.values if key.startswith(f"{self.keys.prefix}requests/")]

    def logs_missing(self) -> list[str]:
        """Attempts that ended when nothing went wrong any more, and whose output was not kept."""
        missing = []
        for attempt, due in self.log_due.items():
            if not due.is_calm or due.epoch != max(self.epochs) or attempt.task_id not in self.statuses:
                continue
            log = self.values.get(self.keys.log(attempt.task_id))
            if self._keeps_logs(attempt.task_id) and (
                log is None or kept_log.decode(log).attempt < attempt.number
            ):
                missing.append(str(attempt))
        return missing

    def running(self) -> list[Attempt]:
        """What truly runs."""
        return [
            attempt
            for attempts in self.engine.every.values()
            for attempt in attempts
            if attempt.live and not attempt.mark
        ]

    def history(self, task_id: str) -> list[str]:
        """A task's recorded steps, and the truth about its attempts, for a report."""
        status = self.statuses.get(task_id) or self.frozen.get(task_id)
        lines = [f"{task_id}: {status.state if status else 'no status'}"]
        lines += [
            f"  {step.at - self.scheduler.wall:10.3f} epoch {step.epoch} attempt {step.attempt}: "
            f"{step.source} --{step.event}--> {step.state} {step.reason} {step.message}"
            for step in (codec.decode_history(status) if status else [])
        ]
        for attempt in self.engine.every.get(task_id, ()):
            state = "runs" if attempt.live else "has ended" if attempt.ended else "waits"
            lost = ", node lost" if attempt.node_lost else ""
            lines.append(
                f"  truth: {attempt.id} {attempt.uid}"
                f" {state}{lost}{', removed by hand' if attempt.removed else ''}"
            )
        return lines


def _request_of(step: Step) -> str | None:
    """The kind of the request that a step answers."""
    if step.reason == "RequestIgnored":
        return step.message.partition(":")[0]
    if step.event == "noted" and step.reason in ("Cancelled", "RetryRequested"):  # of an array
        return step.request
    return {"cancel-requested": "cancel", "retry-requested": "retry"}.get(step.event) or (
        "cancel"
        if step.event == "stop-requested" and step.reason == "cancel"
        else "change"
        if step.event == "noted" and step.reason in ("OnHold", "Released", "PriorityChanged")
        else None
    )
