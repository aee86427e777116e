"""One replica: the control loop around the model, in one of the phases of `phase`.

Only the loop's thread changes the model and the tenure. Readers hold the model's lock for the time of one
page, and never during a request to the store or the engine. So they cannot put the lease at risk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import structlog

from controller import bulkhead
from controller.clock import Clock
from controller.core.model.model import Model
from controller.core.model.records import RevisionWentBack, decode_or_empty
from controller.core.model.task import Observation
from controller.core.promise.terms import current_epoch
from controller.election.elector import Elector
from controller.election.sentinel import Sentinel, Target
from controller.election.session import ElectorThread, Registration
from controller.election.term import LeadershipLost
from controller.engine.base import Engine
from controller.runtime import checks
from controller.runtime.audits import Audits
from controller.runtime.candidacy import Candidacy
from controller.runtime.follower import Follower
from controller.runtime.inbox import Elected, Inbox, Message, Wake
from controller.runtime.instruments import UNCOUNTED, Instruments
from controller.runtime.office import Office
from controller.runtime.options import ReplicaOptions
from controller.runtime.phase import Phases, ReplicaPhase
from controller.runtime.registrations import Registrations, describe
from controller.runtime.surroundings import Surroundings
from controller.runtime.tenure import TEARDOWN_SECONDS, TermFailed
from controller.store.base import OutcomeUnknown, Store, StoreError
from controller.store.keys import Keys
from controller.store.mirror import Changed, Loaded, Mirror
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
        keys, own = Keys(options.cluster), options.identity["instance"]
        self._clock = clock
        self._options = options
        self._audits = audits
        self._instruments = instruments
        self._stopping = threading.Event()
        self._inbox = Inbox()
        self._registrations = Registrations(clock)
        self._mirror = Mirror(listeners=[self._registrations])
        self._follower = Follower(store, keys, clock, self._inbox, options.silence_seconds)
        self._phases = Phases(instruments)
        self._candidacy = Candidacy(engine, lambda: self._session.wake())  # a leader looks at each turn
        self._surroundings = Surroundings(
            store,
            engine,
            keys,
            clock,
            self._inbox,
            options,
            lambda: self._mirror.readers.lock,
            instruments,
            self._take_in,
        )
        self._office = Office(
            self._mirror,
            self._follower,
            self._candidacy,
            self._phases,
            self._surroundings,
            self._registrations,
            lambda: self._session.wake(),
            fatal,
        )
        self._elector = Elector(
            store, keys, clock, self._office, options.identity, options.timings, new_lease
        )
        self._session = ElectorThread(
            self._elector, lambda error: log.error("election failed", error=str(error))
        )
        self._registration = Registration(
            store,
            keys.replica,
            clock,
            options.identity,
            lambda: describe(self.facts(), self.now()),
            options.heartbeat_seconds,
            new_lease,
        )
        self._sentinel = Sentinel(store, keys, clock, own, self._leader_elsewhere, self._session.wake)
        self._rule = Rule.of(options.heartbeat_seconds, options.silence_seconds, options.relist_seconds)

    # -- life

    def run(self) -> None:
        """Follow, and lead when elected, until `stop`; then hand over and return."""
        self._candidacy.start()
        self._follower.start()
        self._registration.start()
        if self._options.fast_takeover:
            self._sentinel.start()
        closer = threading.Thread(target=self._close_when_stopping, name="closer", daemon=True)
        closer.start()
        while closer.is_alive():
            self._turn()
        self._office.end("the replica stops")
        self._candidacy.close()
        self._follower.close()
        self._registration.close()
        if self._options.fast_takeover:
            self._sentinel.close()
        self._phases.enter(ReplicaPhase.STOPPED)

    def stop(self) -> None:
        """Ask `run` to hand over and end, from any thread or a signal handler."""
        self._stopping.set()

    def _close_when_stopping(self) -> None:
        self._stopping.wait()
        self._phases.enter(ReplicaPhase.STOPPING)
        if not self._session.close(
            "the replica stops", self._options.timings.lease_ttl_seconds + TEARDOWN_SECONDS
        ):
            log.warning("leadership could not be released in time; its lease expires by itself")
        self._inbox.put(Wake())

    def _turn(self) -> None:
        """One turn of the loop: take what has arrived, then plan, commit and act until nothing is left."""
        self._mark_turn()
        self._take(self._idle_seconds())
        self._office.change()
        tenure = self._office.tenure
        if tenure is None:
            with self._mirror.readers.lock:
                self._mirror.model.sight(self.now())
        if tenure is None or not self._mirror.loaded or tenure.has_failed:
            return
        try:
            while tenure.step():
                self._mark_turn()
                if not tenure.goes_on:
                    self._take(0.0)
                # effects alone meet no fence: another leader's admissions are not ours
                self._office.check(tenure.leadership)
        except TermFailed as error:
            self._session.release(str(error), unexpected=True)
            return
        except (LeadershipLost, StoreError, RevisionWentBack) as error:
            if isinstance(error, OutcomeUnknown):
                log.warning(
                    "a commit's outcome is unknown; the next leader finds what was written", error=str(error)
                )
            if isinstance(error, RevisionWentBack):
                self._renounce(error)
            tenure.leadership.end(str(error))
            self._session.wake()
            return
        self._office.acts(tenure)

    def _mark_turn(self) -> None:
        self._office.beat = self._clock.boottime()
        self._instruments.turned()

    def _idle_seconds(self) -> float:
        tenure = self._office.tenure
        if tenure is not None and tenure.leadership.why_ended():
            # the message that woke us for it may have been taken between two commits, and no other may follow
            return 0.0
        wake = tenure.reconciler.next_wake_seconds() if tenure is not None and self._mirror.loaded else None
        return IDLE_SECONDS if wake is None else min(IDLE_SECONDS, wake)

    # -- messages

    def _take(self, timeout_seconds: float) -> None:
        messages = self._inbox.take(timeout_seconds)
        if not messages:
            return
        with self._mirror.readers.lock:
            for message in messages:
                self._handle(message)
            model = self._mirror.model
            caught, model.caught = model.caught, []
            for where, subject, error in caught:
                bulkhead.caught(where, error, subject=subject)

    def _handle(self, message: Message) -> None:
        if isinstance(message, Loaded | Changed):
            self._take_in(message)
        elif isinstance(message, Elected):
            self._office.elected(message.leadership)
        elif not isinstance(message, Wake) and self._office.tenure is not None:
            self._office.tenure.reconciler.handle(message)

    def _take_in(self, message: Loaded | Changed) -> None:
        """Take in what the store has. A follower leaves the decisions to the leader."""
        if isinstance(message, Loaded):
            self._mark_turn()  # a load in progress is not a stuck loop
            if message.fresh:
                self._office.end("the store is not the same as before")
        try:
            news = self._mirror.take(message)
        except RevisionWentBack as error:
            self._renounce(error)
            return
        if self._office.tenure is not None:
            self._office.tenure.note(news.touched)
        model = self._mirror.model
        if news.changes is not None:
            kinds = {change.kind for change in news.changes}
            if "replicas" in kinds:
                self._office.check_clock()
            if not kinds.isdisjoint(("leader", "engine")):
                self._sentinel.wake()
                # campaign now, if no replica leads, or another engine may lead from now on
                self._session.wake()
        elif self._mirror.loaded:
            self._sentinel.wake()
            if model.leader is None:
                self._session.wake()
            if self._phases.now is ReplicaPhase.STARTING:
                self._phases.enter(ReplicaPhase.FOLLOWING, revision=model.revision, tasks=len(model.tasks))
                self._session.start()  # one that has not loaded yet keeps no other from leading

    def _renounce(self, error: RevisionWentBack) -> None:
        """What etcd holds is no continuation of what it held: it was restored, and its revisions go on."""
        self._mirror.refute()
        self._follower.renounce(str(error))

    def _leader_elsewhere(self) -> Target | None:
        """The leader that the sentinel watches; None if it is this replica, or this replica stops."""
        return (
            None
            if self._stopping.is_set()
            else Target.of_another(self._mirror.model.leader, self._options.identity["instance"])
        )

    # -- the endpoint's view

    def facts(self) -> Facts:
        """See ReadableReplica."""
        tenure, model, now = self._office.tenure, self._mirror.model, self._clock.boottime()
        staleness, engine = self._follower.staleness(), self._surroundings.engine.name
        office = tenure if tenure is not None and not tenure.leadership.why_ended() else None
        leader = str(decode_or_empty(model.leader).get("id", ""))
        engine_age = office.engine_age_seconds if office is not None else None
        ready = [
            checks.model(len(model.tasks), model.revision, loaded=self._mirror.loaded),
            checks.store(staleness, self._rule.store, self._follower.last_error),
            checks.leader(leader, staleness, self._rule.store),
            checks.engine_identity(self._candidacy.told, self._candidacy.why_not(model)),
            checks.clock(self._office.why_not()),
        ]
        if office is not None:
            silence = office.engine_silence
            ready.append(checks.engine(engine, engine_age, self._rule.engine, silent=silence))
        limit = self._options.timings.heartbeat_limit_seconds
        return Facts(
            replica=self._options.identity["id"],
            cluster=self._options.cluster,
            role="leader" if office is not None else "follower",
            phase=self._phases.now.value,
            term=office.leadership.revision if office is not None else 0,
            epoch=current_epoch(model) or 0,
            revision=model.revision,
            staleness_seconds=staleness,
            leader=leader,
            engine=engine,
            live=(checks.loop(now - self._office.beat, limit),),
            ready=tuple(ready),
            lease_seconds=office.leadership.remaining() if office is not None else 0.0,
            reloads=dict(self._follower.reloads),
            boottime=now,
            engine_age_seconds=engine_age,
            replica_ages=self._registrations.ages(model.replicas),
            ended=self._registrations.ended(model.replicas),
            rule=self._rule,
            verdict=self._audits.verdict,
        )

    def reading(self) -> AbstractContextManager[Model]:
        """See ReadableReplica."""
        return self._mirror.reading()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """See ReadableReplica."""
        return self._mirror.subscribe(listener)

    def observed(self) -> list[Observation] | None:
        """As Tenure.observations; None while the replica does not lead."""
        tenure = self._office.tenure
        return tenure.observations() if tenure is not None and self._phases.now == "leading" else None

    def audit(self) -> dict[str, Any]:
        """See ReadableReplica."""
        return self._audits.make()

    def now(self) -> float:
        """See ReadableReplica. Only a tenure anchors the clock: who follows goes by the wall clock."""
        return self._clock.now() if self._office.tenure is not None else self._clock.wall()

    def wall(self) -> float:
        """See ReadableReplica."""
        return self._clock.wall()
