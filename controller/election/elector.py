"""Campaigns for the leader key, keeps it, and lets it go: one step at a time.

`Elector.step` makes at most a few store calls, and says how long to wait until the next step. Its driver (a
thread in production, a scheduler in the simulator) does the waiting. The keep-alive is a step of its own, so
that only the store can delay it. It is withheld while the control loop's heartbeat is stale, so that a stuck
leader is replaced.

Order of a loss: `on_lost` is called first, and returns when the leader's state is torn down. Only then is the
lease revoked, which lets a successor in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import structlog

from controller.clock import Clock
from controller.core.model import codec
from controller.core.model.installation import EngineIdentity
from controller.core.model.op import Op, op_of
from controller.core.promise.terms import is_number
from controller.election.foundation import Candidate, Foundation, OtherEngine, Records, lay
from controller.election.term import Leadership
from controller.election.term_records import MAX_EPOCH, epoch_of, fields_of, with_end
from controller.errors import CorruptValue
from controller.store.base import (
    Committed,
    Delete,
    Guard,
    KeyValue,
    LeaseNotFound,
    OutcomeUnknown,
    Purpose,
    Put,
    Store,
    StoreUnavailable,
    Transaction,
    Write,
)
from controller.store.keys import Keys

TERMS_KEPT = 100
LEASES_WAITED_FOR = 3  # by a leader key that names no replica

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds. They are checked against each other at start (`config.check_timings`)."""

    lease_ttl_seconds: int = 5
    keepalive_interval_seconds: float = 1.0
    deadline_margin_seconds: float = 0.5
    request_timeout_seconds: float = 5.0
    heartbeat_limit_seconds: float = 5.0  # a control loop that is silent for longer loses its office
    standback_seconds: float = 1.0  # a replica that has just lost lets the others go first


class Ballot(Protocol):
    """What the elector tells and asks the replica, from the elector's own thread."""

    def on_elected(self, leadership: Leadership) -> None:
        """A term has begun. Must return at once."""
        ...

    def on_lost(self, leadership: Leadership, why: str) -> None:
        """The term has ended. Returns when all of the leader's state is torn down."""
        ...

    def loop_is_alive(self, within_seconds: float) -> bool:
        """Whether the control loop has shown a heartbeat within that time."""
        ...

    def engine(self) -> EngineIdentity | None:
        """The identity of this replica's engine; None while it is not known: then it does not campaign.

        Must return at once.
        """
        ...

    def why_not(self) -> str:
        """Why this replica must not campaign now, whatever its engine is; "" if it may.

        Must return at once.
        """
        ...


class _Release(NamedTuple):
    """A request to release leadership."""

    why: str
    unexpected: bool


class Elector:
    """See the module's docstring.

    `identity` describes this replica: in the leader key, and in the records of terms.
    """

    def __init__(
        self,
        store: Store,
        keys: Keys,
        clock: Clock,
        ballot: Ballot,
        identity: dict[str, Any],
        timings: Timings,
        new_lease: Callable[[], int],
    ) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._ballot = ballot
        self._identity = identity
        self._timings = timings
        self._new_lease = new_lease
        self._leadership: Leadership | None = None
        self._not_before = 0.0  # boottime
        self._release: _Release | None = None
        self._stopped = False
        self._why_not = ""  # the last reason that was logged
        # the leader key that names no replica: its mod, and when it was first seen (boottime)
        self._nameless: tuple[int, float] | None = None

    @property
    def leadership(self) -> Leadership | None:
        """The current term; None while following."""
        return self._leadership

    def release(self, why: str, *, campaign_again: bool, unexpected: bool = False) -> None:
        """Release leadership at the next step (SIGTERM, step-down); without `campaign_again`, for good.

        `unexpected`: an unexpected error is the cause. It stands in the record of the term.
        """
        self._release = _Release(why, unexpected)
        self._stopped = self._stopped or not campaign_again

    def step(self) -> float:
        """Do what is due. Returns seconds until the next step. An earlier wake-up is harmless.

        Raises StoreDenied and ClusterChanged at once (a term then ends by its deadline). Transient errors are
        handled here.
        """
        try:
            if self._leadership is not None:
                return self._lead(self._leadership)
            if self._stopped:
                return self._timings.lease_ttl_seconds
            return self._follow()
        # LeaseNotFound: it expired before the election arrived
        except (StoreUnavailable, OutcomeUnknown, LeaseNotFound) as error:
            log.warning(
                "election step failed",
                error=str(error),
                leading=self._leadership is not None,
                next="it is tried again",
            )
            return min(1.0, self._timings.keepalive_interval_seconds)

    # -- following

    def _follow(self) -> float:
        now = self._clock.boottime()
        if now < self._not_before:
            return self._not_before - now
        deadline = now + self._timings.request_timeout_seconds
        leader, _ = self._store.get(self._keys.leader, deadline=deadline)
        if leader is not None and self._is_waited_for(leader, now):
            return float(self._timings.lease_ttl_seconds)  # woken earlier when our watch shows the key gone
        if leader is not None:
            self._remove_foreign(leader, deadline)
        engine = self._ballot.engine()
        if why := self._ballot.why_not():
            self._say_why_not(why)
            return self._timings.keepalive_interval_seconds
        if engine is None:
            return self._timings.keepalive_interval_seconds  # woken earlier when the engine has answered
        lease = self._new_lease()
        sent = self._clock.boottime()
        ttl = self._store.grant(lease, self._timings.lease_ttl_seconds, deadline=deadline)
        elected = False
        try:
            elected = self._campaign(
                lease, engine, sent + ttl - self._timings.deadline_margin_seconds, deadline
            )
        except OtherEngine as error:
            self._say_why_not(str(error))
            # woken earlier when the record or the engine changes
            return float(self._timings.lease_ttl_seconds)
        finally:
            if not elected:
                self._revoke(lease)
        return (
            self._timings.keepalive_interval_seconds
            if elected
            else self._timings.request_timeout_seconds / 10
        )

    def _is_waited_for(self, leader: KeyValue, now: float) -> bool:
        """Whether the key will go by itself: a replica wrote it, or its lease may soon end."""
        if not leader.lease or "instance" in fields_of(leader):
            return bool(leader.lease)
        if self._nameless is None or self._nameless[0] != leader.mod:
            self._nameless = leader.mod, now
        return now - self._nameless[1] < LEASES_WAITED_FOR * self._timings.lease_ttl_seconds

    def _remove_foreign(self, leader: KeyValue, deadline: float) -> None:
        """Remove a leader key that no replica wrote: it may never expire, and blocks elections."""
        log.warning(
            "removing a leader key that has no lease, or names no replica: it was written by hand",
            key=leader.key,
            revision=leader.mod,
        )
        op = op_of(self._identity["instance"], "foreign-leader", leader.mod)
        self._store.commit(
            Transaction((Guard(leader.key, leader.mod),), (Delete(leader.key),), op, Purpose.ELECTION),
            deadline=deadline,
        )

    def _say_why_not(self, why: str) -> None:
        if why != self._why_not:
            log.warning("not a candidate", why=why)
            self._why_not = why

    def _campaign(
        self, lease: int, engine: EngineIdentity, leadership_deadline: float, deadline: float
    ) -> bool:
        """Take the key and raise the epoch, in one transaction on the recorded engine. True if elected.

        The transaction also closes the record of the term before. Raises OtherEngine.
        """
        seen_epoch, _ = self._store.get(self._keys.epoch, deadline=deadline)
        last = self._last_epoch(seen_epoch, deadline)
        epoch = last + 1
        previous, _ = self._store.get(self._keys.term(last), deadline=deadline)
        now = self._clock.wall()  # as the tenure will read it
        op = op_of(self._identity["instance"], "election", lease)
        foundation = self._lay_foundation(previous, engine, now, op, last, deadline)
        self._why_not = ""
        record = {
            "epoch": epoch,
            "id": self._identity["id"],
            "instance": self._identity["instance"],
            "from": now,
            "op": op,
        }
        record |= foundation.of_term()
        leader = {**self._identity, "epoch": epoch, "since": now, "op": op}
        guards = [
            Guard(self._keys.leader, 0, on_create=True),
            Guard(self._keys.epoch, seen_epoch.mod if seen_epoch else 0),
        ]
        guards += foundation.guards
        writes: list[Write] = [
            Put(self._keys.leader, codec.encode(leader), lease),
            Put(self._keys.epoch, codec.encode({"epoch": epoch, "op": op})),
            Put(self._keys.term(epoch), codec.encode(record)),
            Delete(self._keys.term(max(0, epoch - TERMS_KEPT))),
            *foundation.writes,
        ]
        closed = with_end(previous, now, "its lease ended without a release (closed by its successor)")
        if previous is not None and closed is not None:
            guards.append(Guard(previous.key, previous.mod))
            writes.append(Put(previous.key, closed))
        transaction = Transaction(tuple(guards), tuple(writes), op, Purpose.ELECTION)
        result = self._store.commit(transaction, deadline=deadline)
        if not isinstance(result, Committed):
            return False
        if self._clock.boottime() >= leadership_deadline:
            log.warning("elected too late to lead", epoch=epoch)
            return False
        leadership = Leadership(result.revision, epoch, lease, leadership_deadline, self._clock)
        self._leadership = leadership
        if not self._stopped:  # a stop that came during the election holds for this term too
            self._release = None
        log.info("elected", epoch=epoch, term=leadership.revision)
        self._ballot.on_elected(leadership)
        return True

    def _last_epoch(self, seen: KeyValue | None, deadline: float) -> int:
        """The last epoch: the highest that has a record, if its key is damaged, was deleted, or was set back.

        Raises CorruptValue if the key is damaged and there is no record: no replica could tell that a later
        term is later.
        """
        error = None
        try:
            last = epoch_of(seen)
            if seen is not None and self._store.get(self._keys.term(last + 1), deadline=deadline)[0] is None:
                return last
        except CorruptValue as found:
            error, last = found, 0
        records = self._store.load(self._keys.terms, deadline=deadline).items
        names = [item.key.removeprefix(self._keys.terms) for item in records]
        numbers = [int(name) for name in names if is_number(name) and int(name) + 1 < MAX_EPOCH]
        if error is not None and not numbers:
            raise error
        highest = max(numbers, default=0)
        # else another replica was elected since: the transaction will find that
        if highest > last and self._store.get(self._keys.epoch, deadline=deadline)[0] == seen:
            why = error or ("it is missing" if seen is None else f"it says {last}")
            log.warning("the epoch is wrong: using the records of terms", last=highest, why=str(why))
        return max(highest, last)

    def _lay_foundation(
        self,
        previous: KeyValue | None,
        engine: EngineIdentity,
        now: float,
        op: Op,
        last: int,
        deadline: float,
    ) -> Foundation:
        """The foundation of the election. Raises OtherEngine, CorruptValue."""
        keys = self._keys.installation, self._keys.engine
        installation, recorded = (self._store.get(key, deadline=deadline)[0] for key in keys)
        candidate = Candidate(self._identity["id"], str(self._identity.get("version", "")), engine, now, op)
        return lay(keys, Records(installation, recorded, fields_of(previous)), candidate, is_first=last == 0)

    # -- leading

    def _lead(self, leadership: Leadership) -> float:
        if self._release is not None and not leadership.why_ended():
            return self._let_go(leadership, self._release)
        if why := leadership.why_ended():
            return self._lose(leadership, why)
        sent = self._clock.boottime()
        if not self._ballot.loop_is_alive(self._timings.heartbeat_limit_seconds):
            log.error("the control loop is stuck: its lease is not renewed", epoch=leadership.epoch)
        else:
            try:
                deadline = min(leadership.deadline, sent + self._timings.request_timeout_seconds)
                ttl = self._store.keep_alive(leadership.lease, deadline=deadline)
            except StoreUnavailable as error:
                log.warning(
                    "keep-alive failed", error=str(error), seconds_left=round(leadership.remaining(), 3)
                )
            else:
                if ttl <= 0:
                    return self._lose(leadership, "its lease no longer exists")
                leadership.extend(sent + ttl - self._timings.deadline_margin_seconds)
        if why := leadership.why_ended():
            return self._lose(leadership, why)
        interval = self._timings.keepalive_interval_seconds
        return max(0.0, min(sent + interval - self._clock.boottime(), leadership.remaining()))

    def _lose(self, leadership: Leadership, why: str) -> float:
        log.warning(
            "leadership lost",
            epoch=leadership.epoch,
            why=why,
            next="attempts continue; the next leader adopts them",
        )
        self._end(leadership, why)
        self._not_before = self._clock.boottime() + self._timings.standback_seconds
        self._revoke(leadership.lease)
        return self._timings.standback_seconds

    def _let_go(self, leadership: Leadership, release: _Release) -> float:
        """Hand over in milliseconds: the key is deleted as soon as what was in flight has ended."""
        self._end(leadership, release.why)
        self._release = None
        self._not_before = self._clock.boottime() + self._timings.standback_seconds
        deadline = self._clock.boottime() + self._timings.request_timeout_seconds
        op = op_of(self._identity["instance"], "release", leadership.revision)
        guards = [Guard(self._keys.leader, leadership.revision, on_create=True)]
        writes: list[Write] = [Delete(self._keys.leader)]
        try:
            record, _ = self._store.get(self._keys.term(leadership.epoch), deadline=deadline)
            closed = with_end(record, self._clock.now(), release.why, op, unexpected=release.unexpected)
            if record is not None and closed is not None:
                guards.append(Guard(record.key, record.mod))
                writes.append(Put(record.key, closed))
            transaction = Transaction(tuple(guards), tuple(writes), op, Purpose.ELECTION)
            self._store.commit(transaction, deadline=deadline)
            log.info("leadership released", epoch=leadership.epoch, why=release.why)
        finally:
            # deletes the key, too, even if its term's record could not be read or closed
            self._revoke(leadership.lease)
        return self._timings.standback_seconds

    def _end(self, leadership: Leadership, why: str) -> None:
        leadership.end(why)
        self._ballot.on_lost(leadership, why)
        self._leadership = None

    def _revoke(self, lease: int) -> None:
        """End our own lease early, so that no replica waits for it. If this fails, it expires by itself."""
        try:
            self._store.revoke(lease, deadline=self._clock.boottime() + 1.0)
        except StoreUnavailable as error:
            log.info("lease not revoked, it will expire", error=str(error))
