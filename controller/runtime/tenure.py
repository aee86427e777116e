"""One term of this replica as leader: built when it begins, and torn down as a whole when it ends.

No part of a tenure outlives it, and nothing of an earlier one enters it: regained leadership is a new start.
"""

from __future__ import annotations

from functools import partial

import structlog

from controller import bulkhead
from controller.core.model import quarantine
from controller.core.model.model import Model
from controller.core.model.records import Change, RevisionWentBack, decode_or_empty
from controller.core.model.task import Observation
from controller.core.model.touched import Touched
from controller.core.planning.plan import Effect, KeepLog, Term
from controller.core.planning.planner import Planner
from controller.election.term import Leadership, LeadershipLost
from controller.engine.base import EngineUnavailable
from controller.errors import TallyError
from controller.runtime import failpoints
from controller.runtime.actuator import Actuator
from controller.runtime.log_keeper import LogKeeper
from controller.runtime.observer import Observer
from controller.runtime.reconciler import Reconciler
from controller.runtime.standing import Standing
from controller.runtime.surroundings import Surroundings
from controller.runtime.surveyor import Surveyor
from controller.store.base import StoreError
from controller.store.mirror import Changed
from controller.store.records import DEFAULT_LIMITS

TEARDOWN_SECONDS = 1.0

log = structlog.get_logger(__name__)


UNEXPECTED = "an unexpected error: "


class TermFailed(TallyError):
    """The term ends by an unexpected error; the replica lives on."""


def _ended_unexpectedly(record: Change | None) -> bool:
    """Whether the record of a term says so. This makes the next leader cautious (see Planner)."""
    told = decode_or_empty(record)
    by_words = str(told.get("why", "")).startswith(UNEXPECTED)  # older versions stored no field for it
    return told.get("unexpected", by_words) is True


class Tenure:
    """See the module's docstring. Built only once the model has applied the term's own revision."""

    def __init__(
        self, model: Model, leadership: Leadership, standing: Standing, surroundings: Surroundings
    ) -> None:
        inside, options = surroundings, surroundings.options
        inside.clock.anchor()
        self._surroundings = surroundings
        self._model = model
        self.leadership = leadership
        # an unexpected error: nothing more is done in this term, which is being released
        self.has_failed = False
        self.installation = standing.installation.id
        term = Term(
            leadership.revision,
            leadership.epoch,
            options.identity["instance"],
            inside.keys.cluster,
            standing.installation.id,
        )
        self._planner = Planner(
            model,
            term,
            DEFAULT_LIMITS,
            cautious=_ended_unexpectedly(model.terms.get(f"{leadership.epoch - 1:012d}")),
            looks_at=partial(failpoints.hit, "plan-task"),
        )
        engine, inbox, clock = inside.engine, inside.inbox, inside.clock
        self._actuator = Actuator(
            engine, leadership, standing, inside.store, inside.keys, inbox, clock, options.workers
        )
        self._log_keeper = LogKeeper(engine, leadership, inside.store, inside.keys, inbox, clock)
        self._observer = Observer(engine, leadership, standing, inbox, clock, options.relist_seconds)
        self._surveyor = Surveyor(engine, leadership, standing, inbox)
        self.reconciler = Reconciler(
            model,
            self._planner,
            leadership,
            surroundings,
            perform=self._perform,
            relist=self._observer.relist,
            receive=self._receive,
        )

    @property
    def engine_silence(self) -> str | None:
        """Why the engine's last list failed ("" if that is not known); None if the engine answered it."""
        return None if self._planner.intake.engine_answers else self.reconciler.engine_error

    @property
    def engine_age_seconds(self) -> float | None:
        """Seconds since the engine last said anything; None if it has not in this term."""
        heard_at = self.reconciler.engine_heard_at
        return None if heard_at is None else max(0.0, self._surroundings.clock.boottime() - heard_at)

    @property
    def engine_listed(self) -> bool:
        """Whether the engine was listed once. This leader acts from then on."""
        return self._planner.intake.engine_listed

    def step(self) -> bool:
        """As Reconciler.step.

        Raises TermFailed for an unexpected error: it ends the term, and nothing else.
        """
        try:
            if self._model.following:
                self._surveyor.want()
            return self.reconciler.step()
        except (LeadershipLost, StoreError, RevisionWentBack):
            raise
        except Exception as error:
            self.has_failed = True
            task_id = self.reconciler.blame(error)
            bulkhead.caught("control-loop", error, task=task_id)
            raise TermFailed(
                f"{UNEXPECTED}{type(error).__name__}: {error}"[: quarantine.REASON_LIMIT]
            ) from error

    @property
    def goes_on(self) -> bool:
        """Whether the next `step` sends a plan that is there already, and looks at nothing before."""
        return self.reconciler.following is not None

    def note(self, touched: Touched) -> None:
        """The model took in what the watch brought."""
        self._planner.note(touched)

    def observations(self) -> list[Observation]:
        """What this leader knows of attempts. The caller holds the model.

        Raises EngineUnavailable while the engine is silent.
        """
        if self.engine_silence is not None:
            raise EngineUnavailable(f"it does not answer: {self.engine_silence}")
        return self._planner.intake.observations()

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, KeepLog):
            self._log_keeper.keep(effect)
        else:
            self._actuator.perform(effect)

    def _receive(self, revision: int) -> bool:
        """While a commit is in flight, take in what the engine has said, and the store up to this revision.

        Later messages of the store wait until the model shows the commit. Returns whether others wait.
        """
        inbox = self._surroundings.inbox
        with self._surroundings.changing():
            for message in inbox.take_ahead(revision):
                if isinstance(message, Changed):
                    self._surroundings.take_in(message)
                    self.reconciler.count_caught()
                else:
                    self.reconciler.handle(message)
        return inbox.has_more()

    def close(self) -> bool:
        """Tear everything down. True if that was done within TEARDOWN_SECONDS for each part.

        The term must have ended.
        """
        self.reconciler.close()
        with self._surroundings.changing():
            self._model.forget_unstored()
        self._observer.end()
        self._surveyor.end()
        acted = self._actuator.close(TEARDOWN_SECONDS)
        acted = self._log_keeper.close(TEARDOWN_SECONDS) and acted
        if not self._observer.ended():
            log.info(
                "the engine's watch has not ended yet; its further events belong to a past term",
                epoch=self.leadership.epoch,
            )
        return acted
