"""The facts of a task, as all readers show them: which tasks exist, what each is, and which match.

An unreadable record contributes nothing: its earlier value is not shown as if it still held.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from controller.core.model import kept_log
from controller.core.model.known_specs import named
from controller.core.model.lifecycle import FINISHED, HOLDING, WAITING, State
from controller.core.model.model import Model
from controller.core.model.records import Task, is_listed
from controller.core.model.requests import ON_HOLD, Request, RequestKind
from controller.core.model.selector import Requirement, selects
from controller.core.model.task import DEFAULT_OWNER, Spec, Status, StopReason, priority_of
from controller.views import arrays
from controller.views.arrays import ArrayProgress, MemberFacts
from controller.views.gangs import is_gang
from controller.views.pairs import Around, around, unfinished

UNREADABLE = arrays.UNREADABLE
"""Shown as the state of a task whose status cannot be read."""


HELD_BACK = "on-hold"
"""Of a selection by state: those that wait, and are on hold."""

WAITS_FOR_TASKS = "WaitsForTasks"
"""The reason of a task that waits for others to end."""

STATE_GROUPS = {"waiting": WAITING, "holding": HOLDING, "finished": FINISHED}


class TaskFacts(NamedTuple):
    """A task at one moment: references to frozen values, so that taking them holds the model only briefly."""

    id: str
    pool: str
    owner: str  # whom its resources are charged to
    state: State | None  # None: its status cannot be read
    spec: Spec | None  # None: it is gone, or cannot be read
    status: Status | None  # None: there is none yet, or it cannot be read
    requests: tuple[Request, ...]  # that wait for the leader
    submitted_at: float
    revision: int  # of the last write of its spec or status
    create_revision: int  # of its spec; 0 if it is gone
    spec_error: str  # why its spec is invalid
    broken: tuple[tuple[str, str], ...]  # the kinds of its unusable records, and why
    kept_log_revision: int  # revision of its kept log; 0 if there is none
    attested_by: str  # who has submitted it, as a gateway attests; "" if none does
    waits_for: int  # of the tasks that it names in `after`, those that have not ended
    progress: ArrayProgress | None = None  # of an array: how far it has come
    member_of: str = ""  # of a member: its array

    @property
    def attempt(self) -> int:
        """The number of the last attempt; 0 if there was none."""
        return self.status.attempt if self.status is not None else 0

    @property
    def on_hold(self) -> bool:
        """Whether a user keeps it from being admitted."""
        return self.status is not None and self.status.is_on_hold

    @property
    def priority(self) -> int:
        """See `priority_of`."""
        return priority_of(self.spec, self.status)

    @property
    def reason(self) -> str:
        """Why it is in its state, in one word."""
        if self.on_hold:
            return ON_HOLD
        if self.waits_for:
            return WAITS_FOR_TASKS
        return self.status.reason if self.status is not None else ""

    @property
    def message(self) -> str:
        """The same in a sentence."""
        return self.status.message if self.status is not None else ""


def state_of(task: Task) -> State | None:
    """The task's state, as all readers show it; None if its status cannot be read.

    An array is Running from its first attempt to its end.
    """
    return None if "states" in task.frozen else arrays.shown_state(task)


def pool_of(task: Task) -> str:
    """The pool that it draws on, by its readable records: that of its status, or else of its spec."""
    spec, status = _spec(task), _status(task)
    if status is not None and status.pool:
        return status.pool
    return spec.pool if spec is not None else ""


def owner_of(task: Task) -> str:
    """Whom its resources are charged to, by its readable records: the owner in its status, or its spec."""
    record = _status(task) or _spec(task)
    return record.owner if record is not None else DEFAULT_OWNER


def attempt_of(task: Task) -> int:
    """The number of its last attempt; 0 if there was none, or its status cannot be read."""
    status = _status(task)
    return status.attempt if status is not None else 0


def reason_of(task: Task) -> str:
    """As `TaskFacts.reason`, of a task that is listed."""
    status = _status(task)
    if status is not None and status.is_on_hold:
        return ON_HOLD
    gate = task.gate if not task.frozen & {"tasks", "states"} else None
    if gate is not None and gate.unfinished:
        return WAITS_FOR_TASKS
    return status.reason if status is not None else ""


def submitted_at(task: Task) -> float:
    """When it was submitted, by its readable records; 0 if they do not say."""
    status = _status(task)
    at = task.submitted_at if "tasks" not in task.frozen else 0.0
    return at or (status.created_at if status is not None else 0.0)


def _spec(task: Task) -> Spec | None:
    return None if "tasks" in task.frozen else task.spec


def _status(task: Task) -> Status | None:
    return None if "states" in task.frozen else task.status


def task_facts(model: Model, task: Task) -> TaskFacts:
    """The facts of a task that the model has."""
    attestation, spec = model.attestation_of(task), _spec(task)
    return TaskFacts(
        id=task.id,
        pool=pool_of(task),
        owner=owner_of(task),
        state=state_of(task),
        spec=named(spec, task.id) if spec is not None else None,
        status=_status(task),
        requests=tuple(request for request, _ in task.requests.values()),
        submitted_at=submitted_at(task),
        revision=max(task.spec_mod, task.status_mod),
        create_revision=task.spec_create,
        spec_error=task.spec_error if "tasks" not in task.frozen else "",
        broken=tuple(
            (kind, model.quarantine.get((kind, (task.id,)), "does not parse")) for kind in sorted(task.frozen)
        ),
        kept_log_revision=model.mod_of(kept_log.KIND, (task.id,)),
        attested_by=attestation.by if attestation is not None else "",
        waits_for=_unfinished(model, task),
        progress=arrays.progress_of(task) if "tasks" not in task.frozen else None,
        member_of=task.member_of if "states" not in task.frozen else "",
    )


def _member_facts(model: Model, found: MemberFacts) -> TaskFacts:
    """The facts of a member that has no status: as its block has it, and otherwise as its array."""
    attestation = model.attestation_of(found.array)
    status, name = found.status, str(found.member)
    return TaskFacts(
        id=name,
        pool=found.spec.pool,
        owner=owner_of(found.array),
        state=found.state,
        spec=found.spec,
        status=status,
        requests=(),
        submitted_at=submitted_at(found.array),
        revision=found.revision,
        create_revision=found.array.spec_create,
        spec_error="",
        broken=(),
        kept_log_revision=model.mod_of(kept_log.KIND, (name,)),
        attested_by=attestation.by if attestation is not None else "",
        waits_for=_for_member(Around(found.array, found.member.index, status), found.state),
        member_of=found.member.array,
    )


def _for_member(member: Around, state: State | None) -> int:
    return unfinished(member) if state in WAITING else 0


def _unfinished(model: Model, task: Task) -> int:
    if task.member_of and task.state in WAITING and (member := around(model, task.id)) is not None:
        return unfinished(member)
    gate = task.gate if not task.frozen & {"tasks", "states"} else None
    return len(gate.unfinished) if gate is not None else 0


def can_be_changed(
    state: State | None, spec: Spec | None, status: Status | None, progress: ArrayProgress | None
) -> bool:
    """Whether the task waits, or is about to wait again since its attempt is being preempted.

    An array waits until its last member has ended, and a gang until all of them begin.
    """
    is_victim = status is not None and status.stopping == StopReason.PREEMPTED
    is_array = progress is not None and not is_gang(spec)
    is_finished = status is not None and status.is_finished
    return state in WAITING or (is_array and not is_finished) or is_victim


def why_unchangeable(task_id: str, state: State | None, member_of: str, *, can_be: bool) -> str:
    """Why a task cannot be put on hold, released, or given another priority; "" if it can."""
    if member_of:
        return (
            f"{task_id} is a member of the array {member_of}: only the whole array can be put on"
            " hold, released, or given another priority"
        )
    if can_be:
        return ""
    return (
        f"{task_id} is {state or UNREADABLE}: only a task that waits can be put on hold,"
        f" released, or given another priority; see `tally explain {task_id}`"
    )


def find_task(model: Model, task_id: str) -> TaskFacts | None:
    """The facts of this task, or member of an array; None if there is neither."""
    task = model.tasks.get(task_id)
    if task is not None and is_listed(task):
        return task_facts(model, task)
    member = arrays.member_without_status(model, task_id)
    return _member_facts(model, member) if member is not None else None


def matching(
    model: Model,
    ids: Iterable[str] | None,
    pool: str | None,
    states: Collection[str] | None,
    terms: Sequence[Requirement],
    owner: str | None = None,
) -> Iterator[Task]:
    """The listed tasks among `ids` (None: all) that match. None for `pool`, `states` or `owner`: any.

    An array stands for its members, which are left out. `states` may also have HELD_BACK.

    `terms` must all hold. A task whose spec is gone or cannot be read has unknown labels: no selector selects
    it.
    """
    for task_id in model.tasks if ids is None else ids:
        task = model.tasks.get(task_id)
        if task is not None and _matches(task, pool, states, terms, owner):
            yield task


def _matches(
    task: Task,
    pool: str | None,
    states: Collection[str] | None,
    terms: Sequence[Requirement],
    owner: str | None,
) -> bool:
    if not is_listed(task) or arrays.is_hidden(task) or (pool is not None and pool_of(task) != pool):
        return False
    if (states is not None and not _is_in(task, states)) or owner not in (None, owner_of(task)):
        return False
    spec = _spec(task)
    return not terms or (spec is not None and selects(terms, spec.labels))


def _is_in(task: Task, states: Collection[str]) -> bool:
    state = state_of(task)
    return state in states or (HELD_BACK in states and state is not None and task.on_hold)


def parse_states(text: str, *also: str) -> frozenset[str]:
    """States and groups of them, in any case, separated by commas; and the words `also`, as they are.

    Raises ValueError that lists what there is.
    """
    known: dict[str, frozenset[str]] = {state.lower(): frozenset([state]) for state in State}
    known |= STATE_GROUPS | {word: frozenset([word]) for word in also}
    found: frozenset[str] = frozenset()
    for word in text.split(","):
        name = word.strip().lower()
        states = known.get(name) or known.get(name.replace("-", "").replace("_", ""))
        if states is None:
            words = ", ".join([*State, *STATE_GROUPS, *also])
            raise ValueError(
                f"{word!r} is not a state of a task: use one or more of {words}, separated by commas"
            )
        found |= states
    return found


def is_asked_again(model: Model, task_id: str) -> bool:
    """Whether a retry was requested after the task's last step, and the leader has not yet taken it up."""
    task = model.tasks.get(task_id)
    asked = task.requests.get(RequestKind.RETRY) if task is not None else None
    return task is not None and asked is not None and asked[1] > task.status_mod


def tasks_by_pool(model: Model) -> dict[tuple[str, State], int]:
    """How many tasks of each pool are in each state; 0 if there were some before.

    An array is one task. A task whose status cannot be read is not counted.
    """
    return arrays.shown_counts(model)


def tasks_by_state(model: Model) -> dict[State, int]:
    """The same for all pools together."""
    totals = dict.fromkeys(State, 0)
    for (_, state), number in arrays.shown_counts(model).items():
        totals[state] += number
    return totals


class StoredTasks(NamedTuple):
    """All tasks that are stored, and those that wait; see QueueRoom."""

    ids: frozenset[str] = frozenset()
    by_owner: Mapping[tuple[str, str], Mapping[str, bool]] = MappingProxyType({})

    def has(self, task_id: str) -> bool:
        """Whether the task is stored."""
        return task_id in self.ids

    def waiting(self, pool: str, owner: str) -> dict[str, bool]:
        """The owner's tasks that wait in the pool, and whether each is on hold."""
        return dict(self.by_owner.get((pool, owner), {}))


def waits_in(task: Task) -> tuple[str, str] | None:
    """The pool and the owner for which it waits; None if it does not.

    An array is one task, and waits until its first member begins.
    """
    waits = state_of(task) in WAITING and not arrays.is_hidden(task)
    return (task.pool, task.owner) if waits else None


def stored_tasks(model: Model) -> StoredTasks:
    """The tasks of this model."""
    waiting: dict[tuple[str, str], dict[str, bool]] = {}
    for task in model.tasks.values():
        if (place := waits_in(task)) is not None:
            waiting.setdefault(place, {})[task.id] = task.on_hold
    return StoredTasks(frozenset(model.tasks), waiting)
