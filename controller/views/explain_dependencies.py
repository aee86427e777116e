"""What `tally explain` says of tasks that wait for others, and of those for which others wait."""

from __future__ import annotations

from collections.abc import Iterable

from controller.core.model.gates import Gate
from controller.core.model.lifecycle import Event, State
from controller.core.model.model import Model
from controller.core.model.printable import counted
from controller.core.model.records import Task
from controller.core.planning.gating import refusal
from controller.views.tasks import UNREADABLE, is_listed, state_of
from controller.views.words import NAMED, listed

DEPENDENCY_FAILED = "DependencyFailed"


def explain_gate(model: Model, task: Task) -> str:
    """What keeps the task back until others have ended, as the end of a sentence; "" if nothing does."""
    gate = task.gate
    if gate is None or gate.is_open or task.spec is None:
        return ""
    never = refusal(gate)
    if never is not None:
        return f"never runs, since {never.message}: the leader is about to mark it {_fate(never.event)}"
    of = f" of {len(task.spec.after)}" if len(task.spec.after) > len(gate.unfinished) else ""
    sentence = (
        f"waits for {len(gate.unfinished)}{of} {_tasks(len(task.spec.after))} to end:"
        f" {_with_states(model, gate.unfinished)}"
    )
    return f"{sentence}{_unmet(gate)}" if gate.unmet else sentence


def _unmet(gate: Gate) -> str:
    """What becomes of the task in the end, as those that have ended did so in another way than it wants."""
    after = Gate()
    after.unmet = gate.unmet
    never = refusal(after)
    if never is None:
        return ""
    first, more = never.parents[0], len(never.parents) - 1
    are = f"{first} and {more} more are" if more else f"{first} is"
    state = gate.unmet[first][1]
    ended = f"{are} not as it wants ({first} is {state})" if more else f"{are} {state}"
    sentence = f"; but {ended}, so it will be {_fate(never.event)} ({never.reason}) once all have ended"
    if state is State.SUCCEEDED:
        return sentence
    return f"{sentence}, unless {first} is retried: `tally retry {first}`"


def explain_kept(model: Model, task: Task) -> str:
    """Why the task is kept beyond its retention, as the end of a sentence; "" if nothing keeps it."""
    dependencies = model.dependencies
    if not dependencies.keeps(task.id):
        return ""
    waiting = [
        child
        for child in dependencies.children(task.id)
        if child in model.tasks and model.tasks[child].gate is not None
    ]
    if not waiting:
        return "since a task is being submitted that waits for it"
    return f"since {listed(waiting)} {'waits' if len(waiting) == 1 else 'wait'} for it"


def retry_from(model: Model, task: Task) -> str:
    """The command that runs again what has failed before this task, and then it; "" if nothing has."""
    status, spec = task.status, task.spec
    if status is None or spec is None or status.reason != DEPENDENCY_FAILED:
        return ""
    for each in spec.after:
        parent = model.tasks.get(each.task)
        if parent is not None and parent.state in (State.FAILED, State.CANCELLED):
            return f"`tally retry --downstream {each.task}` runs {each.task} again, and then it,"
    return ""


def _with_states(model: Model, names: Iterable[str]) -> str:
    """The first of them, each with its state, and how many more there are."""
    told = [f"{name} ({_state(model, name)})" for name in names]
    more = len(told) - NAMED
    return ", ".join(told[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _state(model: Model, name: str) -> str:
    task = model.tasks.get(name)
    if task is None or not is_listed(task):
        return "unknown"
    return state_of(task) or UNREADABLE


def _fate(event: Event) -> str:
    return State.CANCELLED if event is Event.SKIPPED else State.FAILED


def _tasks(number: int) -> str:
    return counted(number, "task").partition(" ")[2]
