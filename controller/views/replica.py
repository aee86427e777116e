"""A read-only view of a replica, for the status endpoint, which knows neither the runtime nor the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from controller.core.model.model import Model
from controller.core.model.records import Change
from controller.views.freshness import RULE, Rule


@dataclass(frozen=True, slots=True)
class Check:
    """One readiness or liveness check: its name, whether it holds, and what was seen.

    `error` is the error in `detail`; "" if there was none.
    """

    name: str
    ok: bool
    detail: str
    error: str = ""


class AuditResult(NamedTuple):
    """What an audit found: `wrong` counts contradictions, `notices` what is only worth a look."""

    at: float  # seconds since the epoch, by the clock of its maker
    made: float  # the same moment in the maker's boottime
    revision: int
    wrong: int
    notices: int

    @classmethod
    def of(cls, report: Mapping[str, Any], made: float) -> AuditResult:
        """From an audit's report."""
        wrong = sum(finding["severity"] == "wrong" for finding in report["findings"])
        return cls(report["at"], made, report["revision"], wrong, len(report["findings"]) - wrong)


class EndedRegistration(NamedTuple):
    """A replica whose registration has ended: its lease has expired, or it has left.

    `record` is what it wrote last, `heard_at` when that came, and `ended_at` when its end was seen: by our
    boottime.
    """

    name: str
    record: Mapping[str, Any]
    heard_at: float
    ended_at: float


@dataclass(frozen=True, slots=True)
class Facts:
    """What a replica says of itself at one moment. Times are seconds; revisions are the store's."""

    replica: str
    cluster: str
    role: str  # "leader" or "follower"
    # starting, following, taking-over, leading, stepping-down, stopping or stopped
    phase: str
    term: int  # the leader key's create revision while leading, else 0
    epoch: int
    revision: int  # every change up to here is in the model
    staleness_seconds: float  # since the model was last known to be current
    leader: str  # id of the leader, as far as this replica knows; "" if there is none
    engine: str
    live: tuple[Check, ...]
    ready: tuple[Check, ...]
    lease_seconds: float = 0.0  # for which effects may still start while leading, else 0
    # cause → how often the model had to be loaded again
    reloads: Mapping[str, int] = field(default_factory=dict)
    boottime: float = 0.0  # of this moment: ages are differences of it
    # since the engine answered this leader; None: not in this term, or not leading
    engine_age_seconds: float | None = None
    # name → since its registration was renewed
    replica_ages: Mapping[str, float] = field(default_factory=dict)
    ended: tuple[EndedRegistration, ...] = ()  # the last ones, the newest first
    rule: Rule = RULE  # how old shown data may be
    verdict: AuditResult | None = None  # of the last audit that this replica made


class Listener(Protocol):
    """Hears what the model takes in.

    It is called by one thread at a time. Its methods return at once and never raise.
    """

    def reloaded(self, revision: int) -> None:
        """The model is at `revision`, and the changes that led there are not known.

        This begins a subscription, or follows a reload.
        """
        ...

    def changed(self, changes: Sequence[Change], revision: int) -> None:
        """The watch delivered these changes (perhaps none), in revision order.

        The model has applied all changes up to `revision`. Some it knew already, since a leader applies its
        own commits before its watch brings them.
        """
        ...


class ReadableReplica(Protocol):
    """The view of a replica. Safe to call from any thread."""

    def facts(self) -> Facts:
        """The replica's state now.

        It never waits for the model: health checks must be answered while the model is busy.
        """
        ...

    def reading(self) -> AbstractContextManager[Model]:
        """The model, held still until the context ends. Keep it short, and change nothing."""
        ...

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell `listener` of all that the model takes in, `reloaded` first. The returned call ends that."""
        ...

    def audit(self) -> dict[str, Any]:
        """The report of `tally audit`, made now, as JSON.

        Raises TallyError if the store does not answer.
        """
        ...

    def now(self) -> float:
        """Seconds since the Unix epoch, by the replica's clock."""
        ...

    def wall(self) -> float:
        """The same, as the machine tells them now: for times of a calendar."""
        ...
