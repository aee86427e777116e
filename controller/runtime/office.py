"""The office of a leader: the term that this replica has won, and its tenure in it.

The elector's thread reports elections and losses. The control loop's thread begins and ends tenures.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from controller.core.model.installation import EngineIdentity
from controller.core.model.records import decode_or_empty
from controller.election.term import Leadership
from controller.runtime.candidacy import Candidacy
from controller.runtime.follower import Follower
from controller.runtime.inbox import Elected, Wake
from controller.runtime.phase import Phases, ReplicaPhase
from controller.runtime.registrations import APART_SECONDS, Registrations
from controller.runtime.standing import Standing
from controller.runtime.surroundings import Surroundings
from controller.runtime.tenure import TEARDOWN_SECONDS, Tenure
from controller.store.mirror import Mirror


class Office:
    """See the module's docstring. It is the elector's Ballot.

    `wake` makes the elector look again. `fatal` is called when the process must end, since state could not be
    torn down in time.
    """

    def __init__(
        self,
        mirror: Mirror,
        follower: Follower,
        candidacy: Candidacy,
        phases: Phases,
        surroundings: Surroundings,
        registrations: Registrations,
        wake: Callable[[], None],
        fatal: Callable[[str], None],
    ) -> None:
        self._mirror = mirror
        self._follower = follower
        self._candidacy = candidacy
        self._phases = phases
        self._surroundings = surroundings
        self._registrations = registrations
        self._clock = surroundings.clock
        self._wake = wake
        self._fatal = fatal
        self._elected: Leadership | None = None
        self._elected_at = 0.0  # boottime
        self._torn_down = threading.Event()
        self._deaf_seconds = 3 * surroundings.options.silence_seconds
        self.tenure: Tenure | None = None
        self.beat = self._clock.boottime()  # when the control loop last turned

    # -- the control loop's

    def elected(self, leadership: Leadership) -> None:
        """A term of this replica has begun, and waits for its tenure."""
        self._elected = leadership

    def change(self) -> None:
        """Begin a tenure once the model has applied its term; tear it down once the term has ended."""
        model, tenure = self._mirror.model, self.tenure
        if tenure is not None:
            self.check(tenure.leadership)
            if why := self._candidacy.why_not(model, tenure.installation):
                self._leave(tenure.leadership, why)
            if why := tenure.leadership.why_ended():
                self.end(why)
        elected = self._elected
        if elected is None:
            return
        caught_up = self._mirror.loaded and model.revision >= elected.revision
        if caught_up:
            self.check(elected)
            if model.installation is None or model.engine is None:  # the election wrote both
                self._leave(elected, "the records of the installation and its engine were removed")
            elif self.tenure is None and (why := self.why_not()):
                self._leave(elected, why)
        if elected.why_ended():
            self._elected = None
            self._torn_down.set()
        elif self.tenure is None and caught_up:
            self._elected = None
            facts = {"epoch": elected.epoch, "term": elected.revision, "revision": model.revision}
            self._phases.enter(ReplicaPhase.TAKING_OVER, **facts)
            self.tenure = Tenure(model, elected, Standing.of(model), self._surroundings)
        elif self._follower.staleness() > self._deaf_seconds:
            elected.end("the model does not reach the term's revision: the watch is dead")
            self._wake()

    def check(self, leadership: Leadership) -> None:
        """End the term if the leader key is not ours, whatever our lease says, or if the watch is dead."""
        leader = self._mirror.model.leader
        own = self._surroundings.options.identity["instance"]
        if leader is None:
            self._leave(leadership, "the leader key was deleted")
        elif leader.create != leadership.revision or decode_or_empty(leader).get("instance") != own:
            self._leave(leadership, "the leader key was overwritten")
        elif self._follower.staleness() > self._deaf_seconds:
            self._leave(leadership, "the watch is dead, and a leader must see new submissions")
        elif abs(self._clock.wall() - self._clock.now()) > APART_SECONDS:
            self.check_clock()  # it was set in this term: the others are asked before it decides any tick

    def check_clock(self) -> None:
        """End the term if the replicas that have registered show that this one's clock is wrong."""
        if self.tenure is not None and (why := self.why_not()):
            self._leave(self.tenure.leadership, why)

    def acts(self, tenure: Tenure) -> None:
        """The tenure has planned until nothing was left. It leads from its first list of the engine on."""
        if self._phases.now is ReplicaPhase.TAKING_OVER and tenure.engine_listed:
            self._phases.enter(ReplicaPhase.LEADING)
            self._surroundings.instruments.took_over(self._clock.boottime() - self._elected_at)

    def end(self, why: str) -> None:
        """Tear the tenure down, if there is one."""
        tenure = self.tenure
        if tenure is None:
            return
        self._phases.enter(ReplicaPhase.STEPPING_DOWN, epoch=tenure.leadership.epoch, why=why)
        tenure.leadership.end(why)
        self.tenure = None
        if not tenure.close():
            self._fatal("an effect did not end within a second of the loss of leadership")
        self._torn_down.set()
        self._phases.enter(ReplicaPhase.FOLLOWING)

    # -- the elector's (see Ballot)

    def on_elected(self, leadership: Leadership) -> None:
        """See Ballot."""
        self._torn_down.clear()
        self._elected_at = self._clock.boottime()
        self._surroundings.inbox.put(Elected(leadership))

    def on_lost(self, leadership: Leadership, why: str) -> None:
        """See Ballot. A commit in flight ends by the term's deadline, which bounds the wait."""
        self._surroundings.inbox.put(Wake())
        limit = max(0.0, leadership.deadline - self._clock.boottime()) + 2 * TEARDOWN_SECONDS
        if not self._torn_down.wait(limit):
            self._fatal(f"the leader's state was not torn down in time ({why})")

    def engine(self) -> EngineIdentity | None:
        """See Ballot."""
        return self._candidacy.told

    def why_not(self) -> str:
        """See Ballot, and `Registrations.clock_problem`. For any thread."""
        own = self._surroundings.options.identity["instance"]
        return self._registrations.clock_problem(self._mirror.model, own, leads=self.tenure is not None)

    def loop_is_alive(self, within_seconds: float) -> bool:
        """See Ballot."""
        return self._clock.boottime() - self.beat <= within_seconds

    def _leave(self, leadership: Leadership, why: str) -> None:
        leadership.end(why)
        self._wake()
