"""One replica: the control loop around the model, in one of six explicit phases.

    starting ──► following ──► taking-over ──► leading
                     ▲              │             │
                     └──── stepping-down ◄────────┘        any ──► stopping

The loop's thread alone changes the model and the tenure. Readers hold the model's lock for a page's worth of
time, and never during a request to the store or the engine, so that they cannot put the lease at risk.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import structlog

from controller import bulkhead
from controller.clock import Clock
from controller.core.model.installation import EngineIdentity
from controller.core.model.model import Model
from controller.core.model.records import RevisionWentBack, decode_or_empty
from controller.core.model.task import Observation
from controller.core.model.touched import Touched
from controller.core.promise.terms import current_epoch
from controller.election.elector import Elector
from controller.election.sentinel import Sentinel, Target
from controller.election.session import ElectorThread, Registration
from controller.election.term import Leadership, LeadershipLost
from controller.engine.base import Engine
from controller.runtime import checks
from controller.runtime.audits import Audits
from controller.runtime.candidacy import Candidacy
from controller.runtime.follower import Follower
from controller.runtime.inbox import Changed, Elected, Inbox, Loaded, Message, Wake
from controller.runtime.instruments import UNCOUNTED, Instruments
from controller.runtime.options import ReplicaOptions
from controller.runtime.readers import Readers
from controller.runtime.registrations import Registrations, describe
from controller.runtime.standing import Standing
from controller.runtime.tenure import TEARDOWN_SECONDS, Tenure, TermFailed
from controller.store.base import OutcomeUnknown, Store, StoreError
from controller.store.keys import Keys
from controller.views.freshness import Rule
from controller.views.replica import Facts, Listener

IDLE_SECONDS = 0.5  # the longest wait of the loop: its heartbeat

log = structlog.get_logger(__name__)


class Replica:
    """See the module's docstring.

    `fatal` is called when the process must end: state could not be torn down in time.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        clock: Clock,
        options: ReplicaOptions,
        *,
        audits: Audits,
        new_lease: Callable[[], int],
        fatal: Callable[[str], None],
        instruments: Instruments = UNCOUNTED,
    ) -> None:
        self._store = store
        self._engine = engine
        self._clock = clock
        self._options = options
        self._audits = audits
        self._fatal = fatal
        self._instruments = instruments
        self._keys = Keys(options.cluster)
        self._inbox = Inbox()
        self._registrations = Registrations(clock)
        self._readers = Readers(self._registrations)
        self._lock = self._readers.lock
        self._model = Model()
        self._loaded = False
        self._phase = ""
        self._started = self._beat = clock.boottime()
        self._stopping = threading.Event()
        self._elected: Leadership | None = None
        self._elected_at = 0.0  # boottime
        self._tenure: Tenure | None = None
        self._torn_down = threading.Event()
        self._follower = Follower(store, self._keys, clock, self._inbox, options.silence_seconds)
        timings = options.timings
        self._candidacy = Candidacy(engine, lambda: self._session.wake())  # a leader looks at each turn
        self._elector = Elector(store, self._keys, clock, self, options.identity, timings, new_lease)
        self._session = ElectorThread(
            self._elector, lambda error: log.error("election failed", error=str(error))
        )
        self._registration = Registration(
            store,
            self._keys,
            clock,
            options.identity,
            lambda: describe(self.facts(), clock.now()),
            options.heartbeat_seconds,
            new_lease,
        )
        own = options.identity["instance"]
        self._sentinel = Sentinel(store, self._keys, clock, own, self._leader_elsewhere, self._session.wake)
        self._rule = Rule.of(options.heartbeat_seconds, options.silence_seconds, options.relist_seconds)
        self._enter("starting")

    # -- life
    # --------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Follow, lead when elected, until `stop`; then hand over and return."""
        self._candidacy.start()
        self._follower.start()
        self._registration.start()
        if self._options.fast_takeover:
            self._sentinel.start()
        closer = threading.Thread(target=self._close_when_stopping, name="closer", daemon=True)
        closer.start()
        while closer.is_alive():
            self._turn()
        self._end_tenure("the replica stops")
        self._candidacy.close()
        self._follower.close()
        self._registration.close()
        if self._options.fast_takeover:
            self._sentinel.close()
        self._enter("stopped")

    def stop(self) -> None:
        """Ask `run` to hand over and end; from any thread or a signal handler."""
        self._stopping.set()

    def _close_when_stopping(self) -> None:
        self._stopping.wait()
        self._enter("stopping")
        if not self._session.close(
            "the replica stops", self._options.timings.lease_ttl_seconds + TEARDOWN_SECONDS
        ):
            log.warning("leadership could not be released in time; its lease expires by itself")
        self._inbox.put(Wake())

    def _turn(self) -> None:
        """One turn of the loop: take what has arrived, then plan, commit and act until nothing is left to
        do.
        """
        self._mark_turn()
        self._take(self._idle_seconds())
        self._change_office()
        tenure = self._tenure
        if tenure is None:
            with self._lock:
                self._model.sight(self._clock.now())
        if tenure is None or not self._loaded or tenure.has_failed:
            return
        try:
            while tenure.step():
                self._mark_turn()
                self._take(0.0)
                # effects alone meet no fence: another's admissions are not ours
                self._check_leader_key(tenure.leadership)
        except TermFailed as error:
            self._session.release(str(error))
            return
        except (LeadershipLost, StoreError, RevisionWentBack) as error:
            if isinstance(error, OutcomeUnknown):
                log.warning(
                    "a commit's outcome is unknown; the next leader finds what was written", error=str(error)
                )
            tenure.leadership.end(str(error))
            self._session.wake()
            return
        if self._phase == "taking-over" and tenure.engine_listed:
            self._enter("leading")
            self._instruments.took_over(self._clock.boottime() - self._elected_at)

    def _mark_turn(self) -> None:
        self._beat = self._clock.boottime()
        self._instruments.turned()

    def _idle_seconds(self) -> float:
        tenure = self._tenure
        if tenure is not None and tenure.leadership.why_ended():
            # what woke us for it may have been taken between two commits, and nothing else need follow
            return 0.0
        wake = tenure.reconciler.next_wake_seconds() if tenure is not None and self._loaded else None
        return IDLE_SECONDS if wake is None else min(IDLE_SECONDS, wake)

    # -- messages
    # ----------------------------------------------------------------------------------------------------

    def _take(self, timeout_seconds: float) -> None:
        messages = self._inbox.take(timeout_seconds)
        if not messages:
            return
        with self._lock:
            for message in messages:
                self._handle(message)
            for where, subject, error in self._model.caught:
                bulkhead.caught(where, error, subject=subject)
            self._model.caught = []

    def _handle(self, message: Message) -> None:
        if isinstance(message, Loaded):
            self._load(message)
        elif isinstance(message, Changed):
            for change in message.changes:
                touched = self._model.apply(change)
                if touched is not None:
                    self._note(touched)
                    if change.kind in ("leader", "engine"):
                        self._sentinel.wake()
                        # if nobody leads, or another engine may lead from now on: campaign now
                        self._session.wake()
            self._model.advance_revision(message.revision)
            self._readers.changed(message.changes, message.revision)
        elif isinstance(message, Elected):
            self._elected = message.leadership
        elif not isinstance(message, Wake) and self._tenure is not None:
            self._tenure.reconciler.handle(message)

    def _load(self, message: Loaded) -> None:
        if message.fresh:
            if self._tenure is not None:
                self._end_tenure("the store is another one than before")
            self._model = Model()
        self._mark_turn()  # a load that goes on is no loop that is stuck
        # a page is tens of thousands of objects without a cycle: looking for some took a tenth of a load
        gc.disable()
        try:
            touched = self._model.load(
                message.changes, message.revision, is_first=message.is_first, is_last=message.is_last
            )
        finally:
            gc.enable()
        self._note(touched)
        self._loaded = message.is_last  # nothing is planned from half a snapshot
        if not message.is_last:
            return
        self._sentinel.wake()
        if self._model.leader is None:
            self._session.wake()
        if self._phase == "starting":
            self._enter("following", revision=message.revision, tasks=len(self._model.tasks))
            self._session.start()  # who has not loaded yet keeps nobody from leading who has
        self._readers.reloaded(message.revision)

    def _note(self, touched: Touched) -> None:
        """A follower leaves what is to be done to the leader, and to this replica should it become one."""
        if self._tenure is not None:
            self._tenure.note(touched)

    # -- office
    # ------------------------------------------------------------------------------------------------------

    def _change_office(self) -> None:
        """Begin a tenure once the model has applied its term; tear it down once the term has ended."""
        if self._tenure is not None:
            self._check_leader_key(self._tenure.leadership)
            if why := self._candidacy.why_not(self._model, self._tenure.installation):
                self._end_office(self._tenure.leadership, why)
            if why := self._tenure.leadership.why_ended():
                self._end_tenure(why)
        elected = self._elected
        if elected is None:
            return
        caught_up = self._loaded and self._model.revision >= elected.revision
        if caught_up:
            self._check_leader_key(elected)
            if self._model.installation is None or self._model.engine is None:  # the election wrote both
                self._end_office(elected, "the records of the installation and its engine were removed")
        if elected.why_ended():
            self._elected = None
            self._torn_down.set()
        elif self._tenure is None and caught_up:
            self._elected = None
            self._enter(
                "taking-over", epoch=elected.epoch, term=elected.revision, revision=self._model.revision
            )
            self._tenure = self._begin_tenure(elected)
        elif self._staleness() > self._deaf_seconds:
            elected.end("the model does not reach the term: the watch is dead")
            self._session.wake()

    def _begin_tenure(self, elected: Leadership) -> Tenure:
        return Tenure(
            self._model,
            elected,
            Standing.of(self._model),
            self._store,
            self._engine,
            self._keys,
            self._clock,
            self._inbox,
            self._options,
            lambda: self._lock,
            self._instruments,
        )

    def _check_leader_key(self, leadership: Leadership) -> None:
        """End a term whose key is no longer ours, whatever our lease says, and one whose model hears
        nothing any more.
        """
        leader = self._model.leader
        if leader is None:
            self._end_office(leadership, "the leader key was deleted")
        elif (
            leader.create != leadership.revision
            or decode_or_empty(leader).get("instance") != self._options.identity["instance"]
        ):
            self._end_office(leadership, "the leader key was overwritten")
        elif self._staleness() > self._deaf_seconds:
            self._end_office(
                leadership, "the watch is dead: a leader that hears of no submission must not stay"
            )

    def _end_office(self, leadership: Leadership, why: str) -> None:
        leadership.end(why)
        self._session.wake()

    @property
    def _deaf_seconds(self) -> float:
        return 3 * self._options.silence_seconds

    def _staleness(self) -> float:
        """Seconds since the store was last heard of."""
        contact = self._follower.last_contact
        return self._clock.boottime() - (contact if contact is not None else self._started)

    def _end_tenure(self, why: str) -> None:
        tenure = self._tenure
        if tenure is None:
            return
        self._enter("stepping-down", epoch=tenure.leadership.epoch, why=why)
        tenure.leadership.end(why)
        self._tenure = None
        if not tenure.close():
            self._fatal("an effect did not end within a second of the loss of leadership")
        self._torn_down.set()
        if not self._stopping.is_set():
            self._enter("following")

    def on_elected(self, leadership: Leadership) -> None:
        """See Ballot."""
        self._torn_down.clear()
        self._elected_at = self._clock.boottime()
        self._inbox.put(Elected(leadership))

    def on_lost(self, leadership: Leadership, why: str) -> None:
        """See Ballot. A commit in flight ends by the term's deadline, so that much is waited for at most."""
        self._inbox.put(Wake())
        limit = max(0.0, leadership.deadline - self._clock.boottime()) + 2 * TEARDOWN_SECONDS
        if not self._torn_down.wait(limit):
            self._fatal(f"the leader's state was not torn down in time ({why})")

    def engine(self) -> EngineIdentity | None:
        """See Ballot."""
        return self._candidacy.told

    def loop_is_alive(self, within_seconds: float) -> bool:
        """See Ballot."""
        return self._clock.boottime() - self._beat <= within_seconds

    def _leader_elsewhere(self) -> Target | None:
        """Whom the sentinel watches: the leader, unless it is this replica."""
        return (
            None
            if self._stopping.is_set()
            else Target.of_another(self._model.leader, self._options.identity["instance"])
        )

    def _enter(self, phase: str, **facts: Any) -> None:
        if phase != self._phase:
            log.info("phase", phase=phase, before=self._phase, **facts)
            self._phase = phase
            self._instruments.entered(phase)

    # -- the status endpoint's view
    # ----------------------------------------------------------------------------------

    def facts(self) -> Facts:
        """See ReplicaView."""
        tenure, model, now, staleness = self._tenure, self._model, self._clock.boottime(), self._staleness()
        office = tenure if tenure is not None and not tenure.leadership.why_ended() else None
        leader = str(decode_or_empty(model.leader).get("id", ""))
        engine_age = office.engine_age_seconds if office is not None else None
        ready = [
            checks.model(len(model.tasks), model.revision, loaded=self._loaded),
            checks.store(staleness, self._rule.store, self._follower.last_error),
            checks.leader(leader, staleness, self._rule.store),
            checks.engine_identity(self._candidacy.told, self._candidacy.why_not(model)),
        ]
        if office is not None:
            ready.append(
                checks.engine(self._engine.name, engine_age, self._rule.engine, silent=office.engine_silence)
            )
        return Facts(
            replica=self._options.identity["id"],
            cluster=self._options.cluster,
            role="leader" if office is not None else "follower",
            phase=self._phase,
            term=office.leadership.revision if office is not None else 0,
            epoch=current_epoch(model) or 0,
            revision=model.revision,
            staleness_seconds=staleness,
            leader=leader,
            engine=self._engine.name,
            live=(checks.loop(now - self._beat, self._options.timings.heartbeat_limit_seconds),),
            ready=tuple(ready),
            lease_seconds=office.leadership.remaining() if office is not None else 0.0,
            reloads=dict(self._follower.reloads),
            boottime=now,
            engine_age_seconds=engine_age,
            replica_ages=self._registrations.ages(model.replicas),
            rule=self._rule,
            verdict=self._audits.verdict,
        )

    def reading(self) -> AbstractContextManager[Model]:
        """See ReplicaView."""
        return self._readers.reading(lambda: self._model)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """See ReplicaView."""
        return self._readers.subscribe(listener, lambda: self._model.revision)

    def observed(self) -> list[Observation] | None:
        """As Tenure.observations; None while the replica does not lead."""
        tenure = self._tenure
        return tenure.observations() if tenure is not None and self._phase == "leading" else None

    def audit(self) -> dict[str, Any]:
        """See ReplicaView."""
        return self._audits.make()

    def now(self) -> float:
        """See ReplicaView."""
        return self._clock.now()
