"""Carries out effects, a few at a time, while the term may act. Outcomes come back through the inbox."""

from __future__ import annotations

import queue
import threading
from collections import deque

import structlog

from controller import bulkhead
from controller.clock import Clock
from controller.core.model.task import Observation
from controller.core.planning.events import EffectFailed, Found, Started, StartRefused, StopSent
from controller.core.planning.plan import Effect, Forget, Prove, Settle, Start, Stop
from controller.election.term import Leadership, LeadershipLost
from controller.engine.base import (
    AttemptDelayed,
    AttemptRefused,
    Engine,
    EngineError,
    EngineUnavailable,
    checked,
)
from controller.runtime import failpoints
from controller.runtime.inbox import Inbox
from controller.runtime.standing import Standing
from controller.store.base import Store, StoreError
from controller.store.keys import Keys

MOST_FORGETS = 10_000  # further ones are dropped: a later list finds what is left behind

log = structlog.get_logger(__name__)


class Actuator:
    """The hands of one tenure. An effect that has not begun when the term ends never begins."""

    def __init__(
        self,
        engine: Engine,
        leadership: Leadership,
        standing: Standing,
        store: Store,
        keys: Keys,
        inbox: Inbox,
        clock: Clock,
        workers: int,
    ) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._engine = engine
        self._leadership = leadership
        self._standing = standing
        self._inbox = inbox
        self._effects: deque[Effect] = deque()
        # an hour after many attempts have ended, there are many at once: they delay no other effect
        self._forgets: deque[Forget] = deque()
        self._tickets: queue.SimpleQueue[bool] = queue.SimpleQueue()  # one for each effect; False: end
        self._threads = [
            threading.Thread(target=self._run, name=f"actuator-{leadership.epoch}-{n}", daemon=True)
            for n in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def perform(self, effect: Effect) -> None:
        """Carry out the effect soon. Its hold is committed. A Forget waits for all others."""
        if not isinstance(effect, Forget):
            self._effects.append(effect)
        elif len(self._forgets) < MOST_FORGETS:
            self._forgets.append(effect)
        else:
            return
        self._tickets.put(True)

    def close(self, timeout_seconds: float) -> bool:
        """Let effects under way end, and drop the others. True if all threads ended within the time.

        The term must have ended: then a worker drops the next effect that it takes.
        """
        for _ in self._threads:
            self._tickets.put(False)
        give_up_at = self._clock.boottime() + timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, give_up_at - self._clock.boottime()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        while self._tickets.get():
            try:
                effect = self._effects.popleft()
            except IndexError:
                effect = self._forgets.popleft()
            if self._leadership.why_ended():
                continue  # the next leader derives it again from what is committed
            self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        epoch = self._leadership.epoch
        try:
            failpoints.hit("before-effect")
            outcome: Started | StopSent | Found | None = None
            if isinstance(effect, Start):
                outcome = Started(
                    epoch, effect, checked(self._engine.start(effect.launch, self._confirm), effect.attempt)
                )
            elif isinstance(effect, Stop):
                seen = self._engine.stop(effect.attempt, grace_seconds=effect.grace_seconds, uid=effect.uid)
                outcome = StopSent(epoch, effect, checked(seen, effect.attempt) if seen is not None else None)
            elif isinstance(effect, Prove):
                outcome = Found(epoch, effect, checked(self._find(effect), effect.attempt))
            elif isinstance(effect, Settle):
                self._engine.settle(effect.attempt, uid=effect.uid)
            elif isinstance(effect, Forget):
                self._engine.forget(effect.attempt, uid=effect.uid)
            failpoints.hit("after-effect")
            if outcome is not None:
                self._inbox.put(outcome)
        except LeadershipLost as error:
            log.warning("left to the next leader", attempt=str(effect.attempt), error=str(error))
        except AttemptRefused as error:
            log.warning("attempt refused", attempt=str(effect.attempt), reason=error.reason, error=str(error))
            self._inbox.put(StartRefused(epoch, effect, error.reason, str(error), error.transient))
        except EngineUnavailable as error:
            log.warning(
                "engine does not answer",
                attempt=str(effect.attempt),
                effect=type(effect).__name__,
                error=str(error),
            )
            if not isinstance(effect, Forget | Settle):  # the next list finds what is left behind
                delay = isinstance(error, AttemptDelayed)
                self._inbox.put(EffectFailed(epoch, effect, str(error), error.retry_after, delay))
        # confined to this attempt: it must not end the thread that serves all others
        except Exception as error:  # noqa: BLE001
            if not isinstance(error, EngineError):
                bulkhead.caught("effect", error, attempt=str(effect.attempt), effect=type(effect).__name__)
            log.warning(
                "effect failed", attempt=str(effect.attempt), effect=type(effect).__name__, error=str(error)
            )
            if not isinstance(effect, Forget | Settle):
                self._inbox.put(EffectFailed(epoch, effect, f"{type(error).__name__}: {error}", 5.0))

    def _confirm(self) -> None:
        """Check that the term still holds, by our clock and in the store.

        It is called between the creation of an attempt and its release to run: while this process was
        stopped, another replica may have deposed us. Raises LeadershipLost, EngineUnavailable.
        """
        self._leadership.check()
        try:
            leader, _ = self._store.get(self._keys.leader, deadline=self._leadership.deadline)
        except StoreError as error:
            raise EngineUnavailable(
                f"not released to run: the store does not say which replica leads: {error}"
            ) from error
        if leader is None or leader.create != self._leadership.revision:
            self._leadership.end("the leader key is gone" if leader is None else "another replica leads")
        self._leadership.check()

    def _find(self, effect: Prove) -> Observation:
        """What the recorded engine says of an attempt.

        Raises EngineUnavailable if it is another engine now.
        """
        self._standing.check_engine(self._engine, self._leadership)
        seen = self._engine.find(effect.attempt, uid=effect.uid, grace_seconds=effect.grace_seconds)
        self._standing.check_engine(self._engine, self._leadership)
        return seen
