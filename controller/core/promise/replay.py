"""Replays the recorded steps of a task through the lifecycle: do they lead to the stored status?"""

from __future__ import annotations

from controller.core.model.codec import decode_history
from controller.core.model.lifecycle import Event, State, successor
from controller.core.model.task import HISTORY_LIMIT, Status, Step
from controller.errors import CorruptValue, IllegalTransition


def replay(status: Status) -> list[str]:
    """Where the steps do not follow from each other, or do not lead to the stored status; empty if they do.

    A bounded history begins wherever its first step says, since the steps before it are not kept.
    """
    try:
        steps = decode_history(status)
    except CorruptValue as error:
        return [f"its history cannot be read: {error}"]
    if not steps:
        return [f"it is {status.state}, but no step is recorded"]
    first = status.steps - len(steps) + 1
    was_cut = first > 1 and len(steps) >= HISTORY_LIMIT
    problems = (
        []
        if first >= 1 and (was_cut or first == 1)
        else [f"{status.steps} steps are counted, {len(steps)} are kept"]
    )
    position = steps[0].source if was_cut else State.CREATED.value
    attempt, epoch = (steps[0].attempt if was_cut else 0), 0
    for number, step in enumerate(steps, max(first, 1)):
        problems += [f"step {number}: {problem}" for problem in _problems(step, position, attempt, epoch)]
        position, attempt, epoch = step.state, step.attempt, max(epoch, step.epoch)
    if position != status.state:
        problems.append(f"the steps lead to {position}, but it is stored as {status.state}")
    if attempt != status.attempt:
        problems.append(f"the steps lead to attempt {attempt}, but {status.attempt} is stored")
    if epoch > status.epoch:
        problems.append(f"epoch {epoch} took a step, but the status was written in epoch {status.epoch}")
    if status.hold and not status.is_holding:
        problems.append(f"it is {status.state}, and still holds {status.hold}")
    return problems


def _problems(step: Step, position: str, attempt: int, epoch: int) -> list[str]:
    """What is wrong with a step from `position`, after `attempt` and a step of `epoch`."""
    found = []
    if step.source != position:
        found.append(f"it begins at {step.source}, but the task was {position}")
    try:
        target = successor(State(step.source), Event(step.event))
        if target != step.state:
            found.append(f"{step.event} leads from {step.source} to {target}, not to {step.state}")
    except (ValueError, IllegalTransition) as error:
        found.append(str(error))
    if step.event == Event.ADMITTED and step.attempt <= attempt and attempt:
        found.append(f"attempt {step.attempt} was admitted after attempt {attempt}")
    elif step.event != Event.ADMITTED and step.attempt != attempt:
        found.append(f"{step.event} is of attempt {step.attempt}, but attempt {attempt} was the current one")
    if step.epoch < epoch:
        found.append(f"epoch {step.epoch} took it after epoch {epoch}")
    return found
