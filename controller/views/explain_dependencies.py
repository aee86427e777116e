"""What `tally explain` says of tasks that wait for others, and of those for which others wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from controller.core.model.after import Dependency, When
from controller.core.model.array import ended_runs
from controller.core.model.array_records import Array
from controller.core.model.blocks import MemberOutcome
from controller.core.model.gates import Gate
from controller.core.model.lifecycle import WAITING, Event, State
from controller.core.model.model import Model
from controller.core.model.paired import DEPENDENCY_FAILED, DEPENDENCY_UNKNOWN, SKIPPED
from controller.core.model.printable import counted
from controller.core.model.records import Task, is_listed
from controller.core.planning.gating import refusal
from controller.views.dependencies import (
    ParentVerdict,
    Sees,
    verdict_of,
)
from controller.views.tasks import UNREADABLE, state_of
from controller.views.words import NAMED, listed

MAX_LOOKS = 1000  # at tasks, to find what failed first
NAMED_TO_RETRY = 5


class Roots(NamedTuple):
    """Why a task's parents have failed: tasks that a retry can mend, and words on those that none can.

    `hidden` are those of which the reader may not know how they ended; `lies_deeper` is a task behind which
    the look ended, or "".
    """

    retryable: list[str]
    stuck: list[str]
    hidden: list[str]
    lies_deeper: str = ""


def roots_of(model: Model, task: Task, sees: Sees | None) -> Roots:
    """Look from the parents that should have succeeded, to theirs, up to those that failed by themselves."""
    found, looks = Roots([], [], []), 0
    seen, rest = {task.id}, deque([task])
    while rest:
        child = rest.popleft()
        for each in _missed(model, child):
            parent = model.tasks.get(each)
            if each in seen or parent is None:
                continue
            if looks == MAX_LOOKS:
                return found._replace(lies_deeper=child.id)
            looks += 1
            seen.add(each)
            reason = parent.status.reason if parent.status is not None else ""
            above = _missed(model, parent)
            is_passed_on = reason == DEPENDENCY_FAILED or (
                parent.array is not None and not _any_ran(parent.array)
            )
            if sees is not None and not sees(parent):
                found.hidden.append(each if child is task else "a task of another owner")
            elif above and is_passed_on:
                rest.append(parent)
            elif reason in (SKIPPED, DEPENDENCY_UNKNOWN):
                found.stuck.append(f"{each} is {parent.state} ({reason})")
            else:
                found.retryable.append(each)
    return found


def _missed(model: Model, task: Task) -> list[str]:
    """The parents that should have succeeded, or ended, and have not."""
    return [
        each.task
        for each in (task.spec.after if task.spec is not None else ())
        if each.when is not When.FAILED and _is_unmet(model, task, each)
    ]


def _is_unmet(model: Model, task: Task, dependency: Dependency) -> bool:
    """Whether a parent has ended otherwise than wanted; of `index: same`, whether any of its members has."""
    verdict, parent = verdict_of(model, task, dependency), model.dependencies.parent(dependency.task)
    if verdict is ParentVerdict.PARTLY:
        return parent is not None and parent.ending is not None
    return verdict is ParentVerdict.UNMET


def _any_ran(array: Array) -> bool:
    """Whether any member has failed that has run."""
    return any(fate.attempts for _, _, fate in ended_runs(array, MemberOutcome.FAILED))


def skipped_of(array: Array) -> int:
    """How many members have ended that were not needed."""
    runs = ended_runs(array, MemberOutcome.CANCELLED)
    return sum(count for _, count, fate in runs if fate.reason == SKIPPED)


def explain_gate(model: Model, task: Task, sees: Sees | None = None) -> str:
    """What keeps the task back until others have ended, as the end of a sentence; "" if nothing does."""
    gate = task.gate
    if gate is None or gate.is_open or task.spec is None:
        return ""
    never = refusal(gate)
    if never is not None:
        return f"never runs, since {never.message}: the leader is about to mark it {_fate(never.event)}"
    of = f" of {len(task.spec.after)}" if len(task.spec.after) > len(gate.unfinished) else ""
    pairs = [each.task for each in task.spec.after if each.is_paired and each.task in gate.unfinished]
    if pairs and len(pairs) == len(gate.unfinished):
        sentence = f"waits for members of {_with_states(model, pairs)} to end, each for that of its own index"
        return f"{sentence}{_unmet(model, task, gate, sees)}" if gate.unmet else sentence
    sentence = (
        f"waits for {len(gate.unfinished)}{of} {_tasks(len(task.spec.after))} to end:"
        f" {_with_states(model, gate.unfinished)}"
    )
    return f"{sentence}{_unmet(model, task, gate, sees)}" if gate.unmet else sentence


def _unmet(model: Model, task: Task, gate: Gate, sees: Sees | None) -> str:
    """What becomes of the task in the end, as those that have ended did so in another way than it wants."""
    after = Gate()
    after.unmet = gate.unmet
    never = refusal(after)
    if never is None:
        return ""
    first, more = never.parents[0], len(never.parents) - 1
    are = f"{first} and {more} more are" if more else f"{first} is"
    parent = model.tasks.get(first)
    is_hidden = sees is not None and (parent is None or not sees(parent))
    state = "of another owner" if is_hidden else gate.unmet[first][1]
    ended = f"{are} not as it wants ({first} is {state})" if more or is_hidden else f"{are} {state}"
    sentence = f"; but {ended}, so it will be {_fate(never.event)} ({never.reason}) once all have ended"
    roots = roots_of(model, task, sees)
    if not roots.retryable or roots.stuck or roots.hidden or roots.lies_deeper:
        return sentence
    names = roots.retryable
    flag = "" if set(names) <= gate.unmet.keys() else " --downstream"
    who = f"{names[0]} is" if len(names) == 1 else "they are" if not flag else "what failed first is"
    return f"{sentence}, unless {who} retried: {_command(names, flag)}"


def _command(names: list[str], flag: str) -> str:
    more = f" (and {len(names) - NAMED_TO_RETRY} more)" if len(names) > NAMED_TO_RETRY else ""
    return f"`tally retry{flag} {' '.join(names[:NAMED_TO_RETRY])}`{more}"


def explain_kept(model: Model, task: Task) -> str:
    """Why the task is kept beyond its retention, as the end of a sentence; "" if nothing keeps it."""
    dependencies = model.dependencies
    if not dependencies.keeps(task.id):
        return ""
    waiting = [
        child
        for child in dependencies.children(task.id)
        if child in model.tasks and _waits(model.tasks[child])
    ]
    if not waiting:
        return "since a task that waits for it is being submitted, or was refused within the last minute"
    return f"since {listed(waiting)} {'waits' if len(waiting) == 1 else 'wait'} for it"


def _all_unknown(array: Array | None) -> bool:
    """Whether all members that have failed did so since those that they waited for are gone."""
    if array is None or array.paired is None or not array.counts[MemberOutcome.FAILED]:
        return False
    failed = ended_runs(array, MemberOutcome.FAILED)
    return all(fate.reason == DEPENDENCY_UNKNOWN for _, _, fate in failed)


def _waits(task: Task) -> bool:
    """Whether it, or a member of it, waits for others."""
    is_paired = task.array is not None and task.array.paired is not None
    return task.gate is not None or (is_paired and task.state in WAITING)


def retry_from(model: Model, task: Task, sees: Sees | None = None) -> str:
    """The command that runs again what has failed before this task, and then it; "" if nothing has."""
    is_array = task.array is not None and task.array.paired is not None
    if task.status is None or not (is_array or task.status.reason == DEPENDENCY_FAILED):
        return ""
    names = roots_of(model, task, sees).retryable
    if not names:
        return ""
    first = model.tasks[names[0]].array
    of = "what did not succeed of " if first is not None and not first.is_gang and first.has_begun else ""
    again = f"{of}{names[0]}" if len(names) == 1 else "them"
    return f"{_command(names, ' --downstream')} runs {again} again, and then it,"


def failed_after(model: Model, task: Task, sees: Sees | None = None) -> str:
    """The command that also runs what never ran because of this task; "" if there is no such task."""
    failed = [
        child
        for child in model.dependencies.children(task.id)
        if (found := model.tasks.get(child)) is not None
        and (sees is None or sees(found))
        and _never_ran(found)
    ]
    if not failed:
        return ""
    return f"`tally retry --downstream {task.id}` also runs what never ran because of it: {listed(failed)}"


def _never_ran(task: Task) -> bool:
    """Whether it has ended, and it or members of it never ran since another one failed."""
    status, array = task.status, task.array
    if status is None or not status.is_finished:
        return False
    if array is None or not array.has_begun:
        return status.reason == DEPENDENCY_FAILED
    return any(fate.reason == DEPENDENCY_FAILED for _, _, fate in ended_runs(array, MemberOutcome.FAILED))


def never_again(model: Model, task: Task, sees: Sees | None = None) -> str:
    """Why a retry of a task that never ran would not help, and what does; "" if a retry can help."""
    status, spec = task.status, task.spec
    if status is None or spec is None:
        return ""
    if status.reason == DEPENDENCY_UNKNOWN or _all_unknown(task.array):
        return "submit it under another name, after tasks that exist"
    if status.reason == SKIPPED:
        wanted = [
            each.task
            for each in spec.after
            if each.when is When.FAILED and verdict_of(model, task, each) is ParentVerdict.UNMET
        ]
        more = f" and {len(wanted) - 1} more fail" if len(wanted) > 1 else " fails"
        if task.array is not None and task.array.has_begun and (skipped := skipped_of(task.array)):
            were, them = ("member was", "it") if skipped == 1 else ("members were", "them")
            return f"{skipped:,} {were} not needed, and a retry would skip {them} again"
        return f"it is not needed unless {wanted[0]}{more}" if wanted else ""
    if status.reason != DEPENDENCY_FAILED:
        return ""
    roots = roots_of(model, task, sees)
    if roots.stuck:
        return f"a retry would not help, since {roots.stuck[0]}"
    if roots.hidden:
        return f"a retry would not help before {roots.hidden[0]} has ended as it wants"
    if roots.lies_deeper and not roots.retryable:
        return f"`tally explain {roots.lies_deeper}` tells what failed first"
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
