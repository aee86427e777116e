"""I13: a task begins after those that it waits for have ended as it wants, and waits for older ones alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from controller.core.model.after import Dependency, When
from controller.core.model.array_records import Array
from controller.core.model.blocks import LENGTH
from controller.core.model.codec import decode_history
from controller.core.model.gates import meets
from controller.core.model.lifecycle import Event, State
from controller.core.model.model import Model
from controller.core.model.records import Task
from controller.core.model.requests import RequestKind
from controller.core.model.task import Step
from controller.core.promise.finding import Finding, Mender
from controller.errors import CorruptValue


def check_dependencies(model: Model, tasks: Iterable[Task]) -> Iterator[Finding]:
    """I13 for these tasks, as far as their histories and those of their parents tell."""
    for task in tasks:
        if task.source is not None and task.source.array is not None and not task.frozen:
            yield from _early_member(model, task, task.source.array)
            if task.source.spec is not None and task.spec_is_original and not task.source.array.is_gang:
                yield from _early(
                    model, task, [each for each in task.source.spec.after if not each.is_paired]
                )
        if task.spec is None or not task.spec.after or task.frozen:
            continue
        if task.gate is not None and task.gate.unknown:
            yield _unknown(task, list(task.gate.unknown))
        if task.spec_is_original:
            yield from _early(model, task, task.spec.after)


def _unknown(task: Task, names: Sequence[str]) -> Finding:
    return Finding(
        invariant="I13",
        subject=f"task/{task.id}",
        what=f"waits for {', '.join(names[:5])}, which is not there, or no older task: it can never run",
        since_revision=max(task.spec_mod, task.status_mod),
        likely_cause="no client of Tally wrote its spec, or what it waits for was deleted by hand",
        repair="the leader marks it Failed",
        mender=Mender.LEADER,
        transient=True,
    )


def _early(model: Model, task: Task, after: Iterable[Dependency]) -> Iterator[Finding]:
    """A finding for each parent that had not ended as wanted when the task began for the first time.

    Of a member, while it is under way: nothing else tells when it began.
    """
    began = _began(task)
    if began is None:
        return
    for dependency in after:
        parent = model.tasks.get(dependency.task)
        if parent is None or parent.frozen or not 0 < parent.spec_create < task.spec_create:
            continue  # it is gone, or made again, or the order within a transaction decides
        if parent.member_of:
            continue  # no task waits for a member: it has the name of one that is gone
        steps = _whole_history(parent)
        if steps and not any(meets(state, dependency.when) for state in _states_at(steps, began)):
            yield Finding(
                invariant="I13",
                subject=f"task/{task.id}",
                what=f"began before {parent.id} had {dependency.when}",
                since_revision=task.status_mod,
                likely_cause="something other than Tally wrote a status of one of them",
                repair="none: cancel the task if it must not run",
            )


def _early_member(model: Model, task: Task, array: Array) -> Iterator[Finding]:
    """A finding for each array of which the member of this index had not ended as wanted when this one began.

    Of one that is under way, since nothing else tells when a member began.
    """
    if array.paired is None or task.status is None or not task.spec_is_original:
        return
    index, began = task.status.index, _began(task)
    for former in array.paired.formers:
        other = former.array
        if other is None or index // LENGTH in other.unreadable or former.is_met(index):
            continue
        fate = other.block(index // LENGTH).fate(index % LENGTH)
        whole = model.tasks.get(former.name)
        was_retried = former.when is not When.SUCCEEDED and (
            fate.attempts or fate.has_ended or _was_retried_since(whole, began)
        )
        if not was_retried and not _had_ended(whole, former.when, began):
            yield Finding(
                invariant="I13",
                subject=f"task/{task.id}",
                what=f"began before member {index} of {former.name} had {former.when}",
                since_revision=task.status_mod,
                likely_cause="something other than Tally wrote a status, or a block",
                repair="none: cancel the task if it must not run",
            )


def _had_ended(task: Task | None, wanted: When, began: tuple[int, float] | None) -> bool:
    """Whether the whole array may have ended so at that time: members of it that had not begun had, too."""
    if task is None or task.status is None:
        return False
    steps = _whole_history(task)
    return not steps or began is None or any(meets(state, wanted) for state in _states_at(steps, began))


def _was_retried_since(task: Task | None, began: tuple[int, float] | None) -> bool:
    """Whether members of the array may have been retried since then.

    Of one that was cancelled before it had begun, and retried since, nothing else is left.
    """
    if task is None or began is None:
        return False
    steps = _whole_history(task)
    return not steps or any(step.request == RequestKind.RETRY and _when(step) >= began for step in steps)


def _began(task: Task) -> tuple[int, float] | None:
    """When the task began for the first time; None if it has not, or that is no longer told."""
    return next((_when(step) for step in _whole_history(task) if step.event == Event.ADMITTED), None)


def _whole_history(task: Task) -> list[Step]:
    """All steps of a task; none if the oldest are no longer kept, or some cannot be read."""
    if task.status is None or task.status.steps != len(task.status.history):
        return []
    try:
        return decode_history(task.status)
    except CorruptValue:
        return []


def _when(step: Step) -> tuple[int, float]:
    """When a step was taken: by its epoch first, since the clock of the next leader may be behind."""
    return step.epoch, step.at


def _states_at(steps: Sequence[Step], when: tuple[int, float]) -> Iterator[State]:
    """The states of a task then: several, if it changed in that very millisecond."""
    for step, following in pairwise(steps):
        if _when(step) <= when <= _when(following):
            yield State(step.state)
    if _when(steps[-1]) <= when:
        yield State(steps[-1].state)
