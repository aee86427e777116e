"""The values that Tally works on: specs, pools, requests, statuses, observations.

They are frozen: made by parsing or `replace`. Times in stored values are seconds since the Unix epoch
(float). Durations are seconds, and their names end in `_seconds`. `controller.core.model.validation` checks
specs and pools, for the command line, the library and the leader.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta, Struct, field

from controller.core.model.after import Dependency
from controller.core.model.arrays import ArraySpec
from controller.core.model.gangs import Reserved
from controller.core.model.lifecycle import FINISHED, HOLDING, WAITING, State
from controller.core.model.maintenance import Windows
from controller.core.model.nodes import CapacityFrom
from controller.core.model.notify_rules import NotifyRule
from controller.core.model.op import NO_OP, Op
from controller.core.model.requests import Priority
from controller.core.model.resources import ZERO, Vector
from controller.core.model.sharing import Preemption, Sharing

SCHEMA_VERSION = 1
"""Written into every stored value.

A reader keeps fields that it does not know. A higher version is not an error.
"""

# Bounds of a stored status and of an engine's observation. Values beyond cannot be counted with, written back
# or shown.
Count = Annotated[int, Meta(ge=0, le=2**53)]
MAX_ATTEMPT = 2**31 - 1
AttemptNumber = Annotated[int, Meta(ge=0, le=MAX_ATTEMPT)]
ExitCode = Annotated[int, Meta(ge=-(2**31), le=2**32)]
Word = Annotated[str, Meta(max_length=1024)]
Text = Annotated[str, Meta(max_length=2**20)]  # the beginning of it is kept
Time = Annotated[float, Meta(ge=0.0, lt=253_402_300_800.0)]  # until the year 10000

HISTORY_LIMIT = 40
"""Steps kept in a status. The oldest are dropped; `steps` counts them all."""


DEFAULT_OWNER = "default"
"""The owner of tasks that name none."""


class RetryRule(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """A rule for failed attempts: `retry` it, `fail` the task, or `ignore` it (retry, uncounted).

    The first rule that matches decides. A rule matches if the exit code is in `exit_codes` or the reason is
    in `reasons`. A rule with neither matches all.
    """

    action: str
    exit_codes: tuple[int, ...] = ()
    reasons: tuple[str, ...] = ()


class RetryPolicy(
    Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, gc=False
):
    """When a failed attempt is followed by another.

    Back-off n is `backoff_seconds * factor**(n-1)`, at most `max_seconds`.
    """

    max_attempts: int = 1
    backoff_seconds: float = 10.0
    factor: float = 2.0
    max_seconds: float = 300.0
    # failures before the container ran (image, refusal); they use up no attempts
    max_start_failures: int = 5
    rules: tuple[RetryRule, ...] = ()


class Deadlines(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """Limits in seconds, None for none.

    They limit the wait in the queue, the time from admission to running, and the run of each attempt.
    """

    queue_seconds: float | None = None
    start_seconds: float | None = None
    run_seconds: float | None = None


class OnLost(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """What to do with an attempt that is lost without proof of stop.

    None: its resources stay held. Otherwise it is replaced after so many seconds.
    """

    replace_after_seconds: float | None = None


class Spec(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """What a user asks for. It is written once, and never changed.

    `resources` maps names to milli-cpu, bytes or counts.
    """

    id: str
    pool: str = "default"
    owner: str = DEFAULT_OWNER  # whom its resources are charged to
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    working_dir: str = ""
    resources: Vector = ZERO
    priority: int = 0
    labels: dict[str, str] = field(default_factory=dict)
    retry: RetryPolicy = RetryPolicy()
    deadlines: Deadlines = Deadlines()
    grace_seconds: float = 30.0
    on_lost: OnLost = OnLost()
    retention_seconds: float = 86400.0
    pod_template: dict[str, Any] = field(default_factory=dict)
    # its end ends the attempt; "": the end of all containers, unless the pool names one
    main_container: str = ""
    # whether the end of an attempt's output is kept in the store; None: as the pool says
    keep_logs: bool | None = None
    after: tuple[Dependency, ...] = ()  # the tasks that must have ended before
    array: ArraySpec | None = None  # the members that it stands for

    @property
    def reach_seconds(self) -> float:
        """For how long an attempt may go on after its admission (see `maintenance`); infinite: for ever."""
        run = self.deadlines.run_seconds
        start = self.deadlines.start_seconds or 0.0
        return start + run + self.grace_seconds if run is not None else math.inf


class StoredSpec(NamedTuple):
    """A spec from the store. `error` says why the leader must reject it: its writer bypassed the client."""

    spec: Spec
    submitted_at: float
    error: str = ""


class Policy(StrEnum):
    """How a pool chooses among waiting tasks. Both policies order by priority, then by submission."""

    STRICT = "strict"  # the head blocks
    # smaller tasks may pass a head that does not fit, until it has waited `backfill_seconds`
    BACKFILL = "backfill"


class Reserve(StrEnum):
    """Which waiting tasks have resources set aside under `backfill`. Pools with `sharing` use LACKING."""

    ASKED = "asked"  # the first of each priority and request
    LACKING = "lacking"  # the first alone


class Pool(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A named capacity, its policy, and the options that its engine needs (namespace, template, …)."""

    name: str
    capacity: Vector = ZERO
    policy: Policy = Policy.STRICT
    backfill_seconds: float = 300.0
    default_resources: Vector = ZERO  # for submissions that name none of these
    paused: bool = False  # admits nothing while true; what runs goes on
    engine_options: dict[str, Any] = field(default_factory=dict)
    keep_logs: bool = False  # for tasks that do not say
    reserve: Reserve = Reserve.ASKED
    sharing: Sharing | None = None  # None: its tasks are served whoever owns them, and no shares are kept
    preemption: Preemption | None = None  # None: no task is stopped for another one
    require_attested: bool = False  # tasks that no gateway has attested are rejected
    notify: tuple[NotifyRule, ...] = ()  # whom to tell about ended tasks
    maintenance: Windows = ()  # in which nothing runs that was admitted after they were set
    capacity_from: CapacityFrom | None = None  # what the capacity follows: the model fills in `capacity`

    def guarantee_of(self, owner: str) -> Vector:
        """What is guaranteed to an owner. It shrinks in proportion if the pool cannot give all guarantees."""
        if self.sharing is None:
            return ZERO
        return self.sharing.guarantee_of(owner, self.capacity)


class Step(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One entry of a status's history: a row of the lifecycle table, taken in `epoch`."""

    at: float
    source: str
    event: str
    state: str
    attempt: int = 0
    reason: str = ""
    message: str = ""
    epoch: int = field(default=0, name="term")  # as older versions store and read it
    request: str = ""  # the RequestKind that the step answers; "" for none
    outcome: str = ""  # what became of that request: a RequestOutcome
    # of a step that ends a hold: how long its attempt was lost, and was being stopped (see core.model.parts)
    lost_ms: int = 0
    stopping_ms: int = 0


class StopReason(StrEnum):
    """Why an attempt is being stopped."""

    CANCEL = "cancel"
    # of a gang: a member has failed, has not started, or was ended by the platform
    MEMBER_FAILED = "member-failed"
    MEMBER_NOT_STARTED = "member-not-started"
    MEMBER_DISRUPTED = "member-disrupted"
    TORN = "torn"  # of a gang: what it holds is not what its members need
    START_DEADLINE = "deadline-start"
    RUN_DEADLINE = "deadline-run"
    SPEC_DELETED = "spec-deleted"
    MAIN_ENDED = "main-ended"
    MAIN_NOT_STARTED = "main-not-started"
    PREEMPTED = "preempted"  # its resources go to another task; it runs again later
    CANNOT_START = "cannot-start"  # for a fault that the engine names: see Status.start_fault


class Status(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """What the leader knows of a task. `controller.core.planning.transitions` and `decide` make all changes.

    Invariant I1: `hold` is non-zero only while `state` is Pending or Running. It may be zero then, if nothing
    was asked for. Invariant I4: `attempt` counts the attempts, and never goes back.
    """

    version: Count = 0  # SCHEMA_VERSION of the writer
    state: State = State.CREATED
    array: str = ""  # of a member of an array: the array, and the member's index
    index: Count = 0
    of_gang: bool = False  # of a member: its array is a gang
    reserved: tuple[Reserved, ...] = ()  # of a gang that holds, by role: `hold` is the sum of it, or nothing
    pool: str = ""
    owner: str = DEFAULT_OWNER  # whom the hold is charged to, whatever happens to the spec
    on_hold: bool = False  # a user keeps it from being admitted, until it is released
    gated: bool = False  # its next attempt waits for the tasks in `after`, as the first one does
    priority: Priority | None = None  # in place of its spec's, by a user's request
    attempt: AttemptNumber = 0
    hold: Vector = ZERO
    # the mod of the pool whose pod template has a part in `hold`; 0 if `hold` is the spec's resources
    sized_by: Count = 0
    windows_of: Count = 0  # the mod of the pool whose maintenance windows its admission saw; 0: it had none
    uid: str = ""  # the engine's name for the running attempt (pod uid, container id, supervisor id)
    node: str = ""
    # why the attempt is being stopped: a StopReason, with the fault after CANNOT_START; "" if it is not
    stopping: str = ""
    lost_since: Time | None = None  # since when the attempt may have ended without proof; its hold stays
    # for how long the attempt had been lost, and been stopped, by `counted_at` (ms): see core.model.parts
    lost_ms: Count = 0
    stopping_ms: Count = 0
    counted_at: Count = 0
    # attempts up to this number were given up without proof of stop, by the user's `on_lost` or word
    abandoned: AttemptNumber = 0
    failures: Count = 0  # attempts that ran and failed, as the retry policy counts them
    start_failures: Count = 0
    # attempts in a row that the retry policy did not count, such as those that the platform ended
    uncounted: Count = 0
    exit_code: ExitCode | None = None
    reason: str = ""
    message: str = ""
    created_at: Time = 0.0
    queued_at: Time = 0.0  # since when the task has waited for admission, or last did
    admitted_at: Time | None = None
    started_at: Time | None = None
    finished_at: Time | None = None
    retry_at: Time | None = None  # WaitingRetry: not admitted before
    steps: Count = 0
    history: Sequence[msgspec.Raw] = ()  # Step values, encoded once and passed through byte for byte
    epoch: Count = field(default=0, name="term")  # epoch in which it was written; named as in Step
    op: Op = NO_OP

    @property
    def cancelling(self) -> bool:
        """Whether a cancel was accepted, and the attempt has not been observed to have ended."""
        return self.stopping == StopReason.CANCEL

    @property
    def start_fault(self) -> str:
        """The fault for which the attempt is being stopped, if it kept the attempt from running; else ""."""
        reason, _, fault = self.stopping.partition(": ")
        return fault if reason == StopReason.CANNOT_START else ""

    @property
    def is_on_hold(self) -> bool:
        """Whether a user keeps the task from being admitted."""
        return self.on_hold and self.state in WAITING

    @property
    def is_holding(self) -> bool:
        """Whether the task is in a state that holds resources."""
        return self.state in HOLDING

    @property
    def is_one_of_running(self) -> bool:
        """Whether it counts as a running task of its owner. A gang is one, with all its members."""
        return self.state in HOLDING and not self.of_gang

    @property
    def is_finished(self) -> bool:
        """Whether the task has ended. A retry may still undo that."""
        return self.state in FINISHED


def priority_of(spec: Spec | None, status: Status | None) -> int:
    """A task's priority: as a user has set it since, or else as in its spec."""
    if status is not None and status.priority is not None:
        return status.priority
    return spec.priority if spec is not None else 0


class AttemptId(NamedTuple):
    """One try to run a task. Its text form `<task-id>-<n>` is its name in every engine."""

    task_id: str
    number: int

    def __str__(self) -> str:
        return f"{self.task_id}-{self.number}"

    @property
    def is_sound(self) -> bool:
        """Whether it can be an attempt's id: an engine that lists what others made may find anything."""
        named = isinstance(self.task_id, str) and 0 < len(self.task_id) <= 63 and self.task_id.isascii()
        return named and type(self.number) is int and 0 < self.number < 2**31

    @classmethod
    def parse(cls, name: str) -> AttemptId:
        """The inverse of str(). Raises ValueError if `name` does not have that form."""
        task_id, _, number = name.rpartition("-")
        if not task_id or not number.isascii() or not number.isdigit() or number.startswith("0"):
            raise ValueError(f"{name!r} is not the name of an attempt (<task-id>-<n>)")
        return cls(task_id, int(number))


class Phase(StrEnum):
    """What an engine says of an attempt. It is no proof of stop: see Observation.stopped."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


class Observation(Struct, frozen=True, kw_only=True, gc=False):
    """What an engine reports of one attempt, at one moment.

    `stopped` is the proof of stop. It is true only on evidence that no process of the attempt runs, and that
    none will start: a terminated container status, the object gone after a graceful deletion, an exit status
    that was read. `gone` says that the engine has no such object; it is a proof of stop only together with
    `stopped`. `ran` is false if the attempt certainly never ran (image missing, command not found, refused).
    """

    attempt: AttemptId
    phase: Phase
    stopped: bool = False
    gone: bool = False
    ran: bool = True
    uid: Word = ""
    exit_code: ExitCode | None = None
    signal: ExitCode | None = None
    reason: Text = ""
    message: Text = ""
    waiting: Text = ""  # the engine's reason why a Pending attempt does not run yet, one word
    waiting_message: Text = ""  # its message, which may change with every look ("0/5 nodes …")
    node: Word = ""
    started_at: Time | None = None
    finished_at: Time | None = None
    # the main container has ended (see exit_code, ran), and others have not
    main_ended: bool = False
    # ended by the platform (eviction, shutdown), not by the task: uses up no attempt
    disrupted: bool = False
    awaits_start: bool = False  # created, but not released to run: another Start does that
    # ended; the engine keeps the remains until a Settle says that this is committed
    awaits_commit: bool = False


class Launch(Struct, frozen=True, kw_only=True, gc=False):
    """All that an engine needs to start an attempt.

    `environment` holds the user's variables and the fencing token. `hold` is what the attempt holds of its
    pool. `repeated` says that an earlier Start of the attempt may still be under way. Then a refusal of this
    one does not prove that nothing was started.
    """

    attempt: AttemptId
    cluster: str
    term: int
    spec: Spec
    pool: Pool
    environment: dict[str, str]
    hold: Vector | None = None  # None: not known
    repeated: bool = False
    installation: str = ""  # the id that all created objects carry
