"""A simulated engine: keeps the seam's contract, and records the truth of what ran, which no replica can see.

Three kinds, by seed: a plain one; one that creates attempts gated and lets them loose in a second step, after
the term was confirmed; and one that keeps what has ended until its end is settled. Its answers are late and
lost as the network wants, its watch misses, repeats and reorders, its nodes are lost and come back, and
people delete attempts behind its back.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

from msgspec.structs import replace

from controller.core.model.demand import demand
from controller.core.model.installation import EngineIdentity, Installation
from controller.core.model.nodes import NodeRoom
from controller.core.model.resources import Vector
from controller.core.model.task import AttemptId, Launch, Observation, Phase
from controller.election.term import Leadership
from controller.engine.base import (
    ALL_LOGS,
    AttemptRefused,
    AttemptUnknown,
    EngineUnavailable,
    LogOptions,
    gone,
)
from controller.runtime.actuator import Actuator
from tests.simulation.concurrency import SimulatedEvent, SimulatedQueue
from tests.simulation.network import Server, Unanswered
from tests.simulation.nodes import Nodes, survey
from tests.simulation.scheduler import Process, Scheduler

_CALL_SECONDS = 2.0

_Names = list[str]


class Attempt:
    """The truth about one attempt."""

    def __init__(self, attempt: AttemptId, uid: str) -> None:
        self.id = attempt
        self.uid = uid
        self.gated = False
        self.live = False  # a process of it runs
        self.ended = False  # and will never run again
        self.result: Observation | None = None  # since it ended
        self.main: Observation | None = None  # how its main container ended, which the others outlive
        self.asked: Vector | None = None  # what it takes of its node
        self.started_at: float | None = None
        self.node_lost = False  # nobody can tell: reported as lost, without proof
        # The platform reports Failed for what its lost node may still run, as Kubernetes does. Here that is
        # taken back when the node is back; kubelets never do, but a status patched by hand, or an API server
        # restored from a backup, can.
        self.declared_dead = False
        self.stop_wanted = False  # asked for while the node was lost
        self.removed = False  # by hand
        self.unlisted_until = 0.0  # lists and watches lack it: its folder was moved, or its label taken off
        self.forged = False  # by hand
        # of another installation, when it is one's; else of ours, or made by hand with our name
        self.mark = ""
        self.settled = False
        self.stubborn = False  # takes its time to die
        self.shown: dict[str, float] = {}  # process → when its term was told, first, that this lives
        self.last_shown: dict[str, float] = {}  # process → when it last read a list that told that this runs
        self.end_shown: dict[str, float] = {}  # process → when a list told it first that this has ended


class Judge(Protocol):
    """Told of what truly happens, before anything else does."""

    def on_effect(self, process: str, leadership: Leadership) -> None:
        """A replica is about to start an attempt, in this term."""

    def on_create(self, attempt: AttemptId) -> None:
        """A request to start an attempt has arrived."""

    def on_run(self, attempt: Attempt) -> None:
        """A process of the attempt begins to run."""

    def on_read(self, attempt: AttemptId) -> None:
        """A replica asked for the output of an attempt, and was answered or has given up."""

    def on_settle(self, attempt: AttemptId) -> None:
        """A replica is about to settle an attempt."""

    def on_touch(self, attempt: Attempt, what: str) -> None:
        """A request to stop, or to remove, an attempt has arrived."""

    def holds(self, attempt: AttemptId) -> bool:
        """Whether its task holds resources for it."""


class SimulatedEngineServer(Server):
    """What all replicas share.

    The judge is told of every request for a start and of every process that begins to run.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        judge: Judge,
        *,
        gates: bool,
        keeps: bool,
        frees_names: bool,
        name: str = "engine",
    ) -> None:
        super().__init__(scheduler, name)
        self.identity = EngineIdentity(name="simulated", id=name)
        self.gates = gates
        self.keeps = keeps  # what has ended, until settled
        self.frees_names = frees_names  # an attempt that was deleted by hand can be created again
        self.attempts: dict[AttemptId, Attempt] = {}
        self.every: dict[str, list[Attempt]] = {}  # task → all its attempts, forgotten and removed ones too
        self.removed: set[AttemptId] = set()  # names whose attempt was deleted by hand; they stay taken
        # process → the engine that its address leads to by now
        self.misled: dict[str, SimulatedEngineServer] = {}
        self.listed: dict[str, float] = {}  # process → when it last had a full list
        self.calm = False  # nothing fails or hangs by itself any more
        self.nodes = Nodes(scheduler)
        self.refusing = False  # a quota: starts are refused for now
        # the next attempt of which another start arrives is removed by hand before that
        self.removes_restarted = False
        self._uids = 0
        self._judge = judge
        self._watches: list[SimulatedQueue] = []

    def now(self) -> float:
        """The wall clock of the engine's nodes."""
        return self.scheduler.wall + self.scheduler.now

    # -- requests
    # --------------------------------------------------------------------------------------------------

    def create(self, launch: Launch) -> Observation:
        """Create an attempt, unless its name is or was taken."""
        self._judge.on_create(launch.attempt)
        found = self.attempts.get(launch.attempt)
        if found is not None and found.mark:
            raise AttemptRefused("NameTaken", "another installation has an attempt of this name")
        if found is not None and self.removes_restarted:
            self.removes_restarted = False
            self.remove(found)
            found = self.attempts.get(launch.attempt)
        if found is not None:
            if found.forged and found.live:  # it is the task's attempt now, and ends as those do
                found.forged = False
                self.scheduler.after(self.scheduler.rng.random() ** 2 * 6, lambda: self._end_by_itself(found))
            return self.look(found)
        if launch.attempt in self.removed:
            return _removed(launch.attempt)
        rng = self.scheduler.rng
        asked = demand(launch.spec, launch.pool)
        attempt = self._new(launch.attempt)
        attempt.asked = asked
        has_changed = asked != launch.hold
        if has_changed or self.refusing or (not self.calm and rng.random() < 0.03):
            if launch.repeated:
                # The refusal has to hold for every copy of the start: the name is kept from ever running.
                self._end(
                    attempt,
                    Observation(attempt=launch.attempt, phase=Phase.FAILED, ran=False, reason="Refused"),
                )
                return self.look(attempt)
            self.attempts.pop(launch.attempt)
            self.every[launch.attempt.task_id].pop()
            reason = "InvalidPool" if has_changed else "QuotaExceeded" if self.refusing else "Refused"
            raise AttemptRefused(reason, "not accepted", transient=has_changed or self.refusing)
        attempt.gated = self.gates
        if not self.gates:
            self._schedule_run(attempt)
        self._news(attempt)
        return self.look(attempt)

    def open(self, attempt_id: AttemptId, uid: str) -> Observation:
        """Let a gated attempt loose."""
        attempt = self.attempts.get(attempt_id)
        if attempt is None or attempt.uid != uid:
            return _removed(attempt_id)
        if attempt.gated:
            attempt.gated = False
            self._schedule_run(attempt)
            self._news(attempt)
        return self.look(attempt)

    def stop(self, attempt_id: AttemptId, grace: float, uid: str, ours: Installation) -> Observation | None:
        """Ask an attempt to end; one that does not exist never will."""
        attempt = self.attempts.get(attempt_id)
        if attempt is not None and not ours.owns(attempt.mark or ours.id):
            taken = Observation(
                attempt=attempt_id, phase=Phase.FAILED, stopped=True, ran=False, reason="NameTaken"
            )
            return None if uid else taken
        if attempt is not None:
            self._judge.on_touch(attempt, "stopped")
        if uid and (attempt is None or attempt.uid != uid):
            return None
        if attempt is None:
            attempt = self._new(attempt_id)
            self._end(
                attempt, Observation(attempt=attempt_id, phase=Phase.FAILED, ran=False, reason="NeverStarted")
            )
        elif attempt.node_lost:
            attempt.stop_wanted = True
        elif not attempt.ended:
            self._stop_soon(attempt, grace)
        return self.look(attempt)

    def find(self, attempt_id: AttemptId, uid: str) -> Observation:
        """What became of an attempt, asked for by its name; one that lists lack cannot always be told from
        a lost one.
        """
        attempt = self.attempts.get(attempt_id)
        if attempt is None:
            return gone(attempt_id, uid)
        if self.is_unlisted(attempt) and attempt.live and self.scheduler.rng.random() < 0.5:
            return Observation(attempt=attempt_id, phase=Phase.UNKNOWN, uid=attempt.uid, reason="Unlisted")
        return self.look(attempt)

    def is_unlisted(self, attempt: Attempt) -> bool:
        """Whether lists lack it for now."""
        return attempt.unlisted_until > self.scheduler.now

    def settle(self, attempt_id: AttemptId) -> None:
        """Its end is committed."""
        attempt = self.attempts.get(attempt_id)
        if attempt is not None and not attempt.mark and attempt.ended and not attempt.node_lost:
            attempt.settled = True
            if attempt.removed:
                self._drop(attempt)
            else:
                self._news(attempt)

    def forget(self, attempt_id: AttemptId, ours: Installation) -> None:
        """Remove a tombstone."""
        attempt = self.attempts.get(attempt_id)
        if attempt is not None and not ours.owns(attempt.mark or ours.id):
            return
        if attempt is not None and attempt.ended and not attempt.node_lost:
            del self.attempts[attempt_id]
        self.removed.discard(attempt_id)

    def look(self, attempt: Attempt) -> Observation:
        """What the engine says of an attempt."""
        if attempt.node_lost:
            phase = Phase.UNKNOWN if attempt.live and not attempt.declared_dead else Phase.FAILED
            return Observation(
                attempt=attempt.id,
                phase=phase,
                uid=attempt.uid,
                reason="NodeLost",
                started_at=attempt.started_at,
            )
        if attempt.result is not None:
            return replace(attempt.result, awaits_commit=self.keeps and not attempt.settled)
        phase = Phase.RUNNING if attempt.live else Phase.PENDING
        if attempt.main is not None and attempt.live:
            return replace(attempt.main, phase=phase, main_ended=True, started_at=attempt.started_at)
        return Observation(
            attempt=attempt.id,
            phase=phase,
            uid=attempt.uid,
            started_at=attempt.started_at,
            awaits_start=attempt.gated,
            waiting="" if attempt.live else "Scheduling",
            waiting_message="" if attempt.live else "no node yet",
        )

    def listing(self, ours: Installation) -> list[Observation]:
        """All there is of an installation, in no order that anybody may rely on."""
        attempts = [
            each
            for each in self.attempts.values()
            if ours.owns(each.mark or ours.id) and not self.is_unlisted(each)
        ]
        seen = [self.look(attempt) for attempt in attempts]
        self.scheduler.rng.shuffle(seen)
        return seen

    # -- what happens by itself, and by hand
    # -----------------------------------------------------------------------

    def lose_node(self, attempt: Attempt, seconds: float) -> None:
        """For a time nobody knows what becomes of an attempt, which may go on, or die with its node."""
        self.scheduler.note(f"node of {attempt.id} lost for {seconds:.1f} s")
        attempt.node_lost, attempt.declared_dead = True, self.scheduler.rng.random() < 0.5
        if self.scheduler.rng.random() < 0.5:
            self._end(attempt, self._failure(attempt, "NodeLost", disrupted=True))
        self._news(attempt)
        self.scheduler.after(seconds, lambda: self.find_node(attempt))

    def find_node(self, attempt: Attempt) -> None:
        """The node is back: what became of the attempt can be seen."""
        if not attempt.node_lost:
            return
        attempt.node_lost = False
        if attempt.stop_wanted and not attempt.ended:
            self._stop_soon(attempt, 1.0)
        self._news(attempt)

    def unlist(self, attempt: Attempt, seconds: float) -> None:
        """For a time lists lack an attempt, which goes on."""
        self.scheduler.note(f"{attempt.id} not listed for {seconds:.1f} s")
        attempt.unlisted_until = self.scheduler.now + seconds

    def remove(self, attempt: Attempt) -> None:
        """Somebody deletes it: it is killed, and gone; or gone when its end has been settled, where ends
        are kept.
        """
        if attempt.node_lost:
            return
        self.scheduler.note(f"{attempt.id} removed by hand")
        if not attempt.ended:
            self._end(attempt, self._failure(attempt, "Deleted", disrupted=True))
        attempt.removed = True
        if not self.keeps or attempt.settled:
            self._drop(attempt)

    def forge(self, attempt_id: AttemptId) -> None:
        """Somebody makes an attempt of ours by hand; nobody has a hold for it."""
        if attempt_id not in self.attempts and attempt_id not in self.removed:
            self.scheduler.note(f"{attempt_id} made by hand")
            attempt = self._new(attempt_id)
            attempt.forged = True
            attempt.stubborn = self.scheduler.rng.random() < 0.5
            self._schedule_run(attempt)
            self._news(attempt)

    def settle_in(self, attempt_id: AttemptId) -> None:
        """Another installation of the same cluster name starts an attempt of this name here."""
        if attempt_id not in self.attempts and attempt_id not in self.removed:
            self.scheduler.note(f"{attempt_id} started by another installation")
            attempt = self._new(attempt_id)
            attempt.mark, attempt.forged, attempt.live = "other", True, True
            self._news(attempt)

    def move_out(self) -> None:
        """The other installation has ended all of its attempts.

        Their names stay taken, as those of ours do (tombstones).
        """
        for attempt in self.attempts.values():
            if attempt.mark:
                attempt.live, attempt.ended = False, True

    def finish_all(self) -> None:
        """Nodes are back, and whatever runs rightly ends by itself within seconds; orphans wait to be
        stopped.
        """
        self.calm = True
        self.refusing = False
        self.move_out()
        for attempt in list(self.attempts.values()):
            attempt.unlisted_until = 0.0
            self.find_node(attempt)
            if attempt.live and self._judge.holds(attempt.id):
                self.scheduler.after(self.scheduler.rng.random() * 5, partial(self._end_by_itself, attempt))

    # -- details
    # ---------------------------------------------------------------------------------------------------

    def _new(self, attempt_id: AttemptId) -> Attempt:
        self._uids += 1
        attempt = self.attempts[attempt_id] = Attempt(attempt_id, f"uid-{self._uids}")
        attempt.stubborn = self.scheduler.rng.random() < 0.1
        self.every.setdefault(attempt_id.task_id, []).append(attempt)
        return attempt

    def _schedule_run(self, attempt: Attempt) -> None:
        rng = self.scheduler.rng
        fate = rng.random()
        if fate < 0.08 and not self.calm:
            failure = Observation(
                attempt=attempt.id, phase=Phase.FAILED, ran=False, uid=attempt.uid, reason="ErrImagePull"
            )
            self.scheduler.after(rng.random() * 2, lambda: self._end(attempt, failure))
        else:
            self.scheduler.after(rng.random() ** 3 * 3, lambda: self._run(attempt))

    def _run(self, attempt: Attempt) -> None:
        if attempt.ended or attempt.live:
            return
        if attempt.node_lost:
            self.scheduler.after(1.0, lambda: self._run(attempt))
            return
        attempt.live = True
        attempt.started_at = self.now()
        self.scheduler.note(f"{attempt.id} runs")
        self._judge.on_run(attempt)
        self._news(attempt)
        rng = self.scheduler.rng
        orphan = not self._judge.holds(attempt.id)
        hangs = (orphan and (self.calm or attempt.forged)) or (not self.calm and rng.random() < 0.05)
        if not hangs:  # else it runs until it is stopped
            self.scheduler.after(rng.random() ** 2 * 6, lambda: self._end_by_itself(attempt))

    def _end_by_itself(self, attempt: Attempt) -> None:
        fate = self.scheduler.rng.random()
        if attempt.ended or attempt.main is not None or (self.calm and not self._judge.holds(attempt.id)):
            return
        if not attempt.forged and self.scheduler.rng.random() < 0.1:
            code = self.scheduler.rng.choice((0, 0, 2))
            phase, reason = (Phase.FAILED, "Error") if code else (Phase.SUCCEEDED, "Completed")
            attempt.main = Observation(
                attempt=attempt.id, phase=phase, uid=attempt.uid, exit_code=code, reason=reason
            )
            self.scheduler.note(f"{attempt.id}: its main container ends with {code}, and others run on")
            self._news(attempt)
            return
        if fate < 0.7 or self.calm:
            self._end(
                attempt,
                Observation(
                    attempt=attempt.id,
                    phase=Phase.SUCCEEDED,
                    uid=attempt.uid,
                    exit_code=0,
                    reason="Completed",
                ),
            )
        elif fate < 0.9:
            self._end(attempt, self._failure(attempt, "Error", exit_code=self.scheduler.rng.choice((1, 2))))
        else:
            self._end(attempt, self._failure(attempt, "Evicted", disrupted=True))

    def _stop_soon(self, attempt: Attempt, grace: float) -> None:
        def end() -> None:
            if attempt.node_lost:
                attempt.stop_wanted = True
            else:
                self._end(attempt, self._failure(attempt, "Stopped", exit_code=143))

        if attempt.live:
            kill = 12.0 if attempt.stubborn else 0.0
            self.scheduler.after(
                self.scheduler.rng.random() * max(grace, 0.1) + self.scheduler.rng.random() * kill, end
            )
        else:
            self._end(
                attempt,
                Observation(
                    attempt=attempt.id, phase=Phase.FAILED, ran=False, uid=attempt.uid, reason="NeverStarted"
                ),
            )

    def _failure(self, attempt: Attempt, reason: str, **fields: Any) -> Observation:
        return Observation(
            attempt=attempt.id,
            phase=Phase.FAILED,
            uid=attempt.uid,
            ran=attempt.started_at is not None,
            reason=reason,
            started_at=attempt.started_at,
            **fields,
        )

    def _end(self, attempt: Attempt, seen: Observation) -> None:
        if attempt.ended:
            return
        attempt.ended, attempt.live, attempt.gated = True, False, False
        attempt.result = replace(seen, stopped=True, started_at=attempt.started_at, finished_at=self.now())
        self.scheduler.note(f"{attempt.id} ends: {seen.reason}")
        self._news(attempt)

    def _drop(self, attempt: Attempt) -> None:
        if self.attempts.get(attempt.id) is attempt:
            del self.attempts[attempt.id]
            if not self.frees_names:
                self.removed.add(attempt.id)

    def _news(self, attempt: Attempt) -> None:
        rng = self.scheduler.rng
        seen = self.look(attempt)
        if self.is_unlisted(attempt):
            return

        def tell(watch: SimulatedQueue) -> None:
            watch.put((attempt.mark, seen))

        for watch in self._watches:
            if rng.random() < 0.1:
                continue  # missed
            for _ in range(2 if rng.random() < 0.1 else 1):
                self.scheduler.after(rng.random() ** 4 * 3, partial(tell, watch))


class SimulatedEngine:
    """controller.engine.base.Engine, as one process has it."""

    name = "simulated"

    def __init__(self, server: SimulatedEngineServer, process: Process) -> None:
        self._server = server
        self._process = process
        self._installation = Installation(id="")
        self._listed: list[tuple[Attempt, Observation]] = []
        self._read_at = 0.0  # when that list was read

    def identity(self) -> EngineIdentity:
        found: EngineIdentity = self._ask("identity", lambda: self._read_from.identity, reads=True)
        return found

    def bind(self, installation: Installation, *, claim: bool = False) -> None:
        self._installation = installation

    def others(self) -> dict[str, _Names]:
        """None. Who asks for them believes the list that it had before, and no other."""
        name, now = self._process.name, self._server.scheduler.now
        for attempt, observation in self._listed:
            if observation.phase is Phase.RUNNING:
                attempt.shown.setdefault(name, now)
                attempt.last_shown[name] = self._read_at  # what the watch told since is newer
            if observation.stopped:
                attempt.end_shown.setdefault(name, now)
        self._listed = []
        return {}

    def start(self, launch: Launch, confirm: Callable[[], None] | None = None) -> Observation:
        if isinstance(actuator := getattr(confirm, "__self__", None), Actuator):
            self._server._judge.on_effect(self._process.name, actuator._leadership)
        seen: Observation = self._ask(f"start {launch.attempt}", lambda: self._server.create(launch))
        if seen.awaits_start:
            if confirm is not None:
                confirm()
            seen = self._ask(f"open {launch.attempt}", lambda: self._server.open(launch.attempt, seen.uid))
        return seen

    def stop(self, attempt: AttemptId, *, grace_seconds: float, uid: str = "") -> Observation | None:
        seen: Observation | None = self._ask(
            f"stop {attempt}", lambda: self._server.stop(attempt, grace_seconds, uid, self._installation)
        )
        return seen

    def find(self, attempt: AttemptId, *, uid: str = "", grace_seconds: float = 0.0) -> Observation:
        seen: Observation = self._ask(
            f"find {attempt}", lambda: self._read_from.find(attempt, uid), reads=True
        )
        return seen

    def settle(self, attempt: AttemptId, *, uid: str = "") -> None:  # its name is enough
        self._server._judge.on_settle(attempt)
        self._ask(f"settle {attempt}", lambda: self._server.settle(attempt))

    def forget(self, attempt: AttemptId, *, uid: str = "") -> None:
        self._ask(f"forget {attempt}", lambda: self._server.forget(attempt, self._installation))

    def attempts(self) -> list[Observation]:
        def read() -> list[Observation]:
            self._read_at = self._server.scheduler.now
            return self._read_from.listing(self._installation)

        seen: list[Observation] = self._ask("list", read, reads=True)
        now, self._listed = self._server.scheduler.now, []
        if self._read_from is self._server:
            self._server.listed[self._process.name] = now
        for observation in seen:
            attempt = self._server.attempts.get(observation.attempt)
            if attempt is not None and attempt.uid == observation.uid:
                self._listed.append((attempt, observation))
        return seen

    def watch(self, sink: Callable[[Observation], None], stop: SimulatedEvent) -> None:
        scheduler = self._server.scheduler
        news = SimulatedQueue(scheduler)
        self._server._watches.append(news)
        try:
            while not stop.is_set():
                if not self._reachable() or self._read_from is not self._server:
                    raise EngineUnavailable("the watch was cut")
                try:
                    mark, seen = news.get(timeout=1.0)
                except queue.Empty:
                    continue
                if self._installation.owns(mark or self._installation.id):
                    sink(seen)
        finally:
            self._server._watches.remove(news)

    def survey(
        self,
        sink: Callable[[tuple[NodeRoom, ...]], None],
        trouble: Callable[[str], None],
        stop: SimulatedEvent,
    ) -> None:
        survey(self, sink, trouble, stop)

    def logs(
        self, attempt: AttemptId, *, follow: bool, stop: object = None, options: LogOptions = ALL_LOGS
    ) -> Iterator[bytes]:
        """It prints its name."""
        try:
            found = self._ask(f"logs of {attempt}", lambda: attempt in self._server.attempts)
        finally:
            self._server._judge.on_read(attempt)
        if not found:
            raise AttemptUnknown(f"there is no {attempt}")
        return iter((str(attempt).encode(),))

    def close(self) -> None:
        """Nothing to close."""

    def _reachable(self) -> bool:
        link = self._server.link(self._process.machine)
        return self._server.up and link.up and not link.silent and not link.deaf

    @property
    def _read_from(self) -> SimulatedEngineServer:
        return self._server.misled.get(self._process.name, self._server)

    def _ask(self, what: str, action: Callable[[], Any], *, reads: bool = False) -> Any:
        if not reads and self._read_from is not self._server:
            raise EngineUnavailable(f"{what}: forbidden")
        try:
            return self._server.call(what, action, _CALL_SECONDS)
        except Unanswered as error:
            raise EngineUnavailable(f"{what}: {error}") from error


def _removed(attempt: AttemptId) -> Observation:
    return Observation(
        attempt=attempt, phase=Phase.FAILED, stopped=True, gone=True, reason="Removed", disrupted=True
    )
