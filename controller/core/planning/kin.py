"""What a plan owes to the tasks for which others wait: how they end with it, and what it compares of them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from controller.core.model import blocks, features
from controller.core.model.dependencies import gate_after, parent_with
from controller.core.model.gates import Gate, Parent
from controller.core.model.lifecycle import WAITING
from controller.core.model.model import Model
from controller.core.model.records import Task
from controller.core.model.requests import RequestKind
from controller.core.planning.decide import Decision
from controller.core.planning.gating import COMPARED
from controller.core.planning.plan import TaskChange

Compared = dict[tuple[str, tuple[str, ...]], int]
"""Records by kind and names, with the mod that each must have."""


class Kin:
    """See the module's docstring. `before` has the changes of the plan that is being persisted."""

    def __init__(self, model: Model, before: Mapping[str, TaskChange]) -> None:
        self._model = model
        self._before = before
        self._changed: dict[str, Parent | None] = {}  # what the plan makes of tasks for which others wait
        # for how many parents a child still waits, of which some have ended in the plan
        self._undecided: dict[str, int] = {}
        self._relied_on: dict[str, None] = {}  # tasks on whose ends the plan rests, or the one before
        for task_id, change in before.items():
            task = model.tasks.get(task_id)
            if change.status is None or task is None or task.spec is None:
                continue
            if change.status.gated:
                self._relied_on |= dict.fromkeys(each.task for each in task.spec.after)
            elif change.status.state in WAITING:
                self._relied_on |= dict.fromkeys(task.follows)
        self.compared: Compared = {}

    def follows(self) -> None:
        """The plan before was committed, and the model shows it."""
        self._before = {}

    def gate(self, task: Task) -> Gate | None:
        """The task's gate once the plan is persisted."""
        if task.gate is None or task.spec is None or not self._changed:
            return task.gate
        named = self._model.dependencies.named_by(task.id, self._changed)
        if not named:
            return task.gate
        return gate_after(task, task.gate, ((each, self._changed[each.task]) for each in named))

    def decided_by(self, task_id: str) -> list[str]:
        """Of the tasks that wait for this one, which has ended in this plan, those of which it is certain by
        now what becomes of them.

        Each parent counts once: whoever has many that all end at once is looked at when the last one has.
        """
        decided = []
        for name in self._model.dependencies.children(task_id):
            child = self._model.tasks.get(name)
            gate = child.gate if child is not None else None
            if gate is None or gate.is_decided:
                decided.append(name)
                continue
            left = self._undecided.get(name, len(gate.unfinished) + len(gate.partly))
            left -= task_id in gate.unfinished or task_id in gate.partly
            self._undecided[name] = left
            if left <= 0 or self._changed.get(task_id) is None:
                decided.append(name)
        return decided

    def is_relied_on(self, task_id: str) -> bool:
        """Whether the plan must not change the task: it rests on how the task has ended.

        The same holds for tasks that the plan before makes others wait for, since they must not be removed.
        """
        return task_id in self._relied_on

    def is_known(self, task: Task) -> bool:
        """Whether the model shows all tasks that this one waits for as they will be before this plan."""
        after = task.spec.after if task.spec is not None and self._before else ()
        return not any(dependency.task in self._before for dependency in after)

    def is_known_for(self, task: Task, decision: Decision) -> bool:
        """Whether the decision can rest on what is known of the tasks that this one waits for.

        The plan may end them, or retry them, but not remove them: what follows from that is decided later.
        """
        removed = any(name in self._changed and self._changed[name] is None for name in decision.parents)
        return not decision.parents or (self.is_known(task) and not removed)

    def has_changed(self, task: Task) -> bool:
        """Whether the plan changes a task that this one waits for, or the plan before it does."""
        return any(name in self._changed for name in task.follows) or not self.is_known(task)

    def compared_by(self, task: Task, decision: Decision) -> Compared:
        """What the decision adds to `compared`."""
        rests_on_others = decision.parents or decision.blocks or decision.removes
        if not rests_on_others and task.source is None and not task.member_of:
            return {}  # nearly all
        wanted: list[tuple[str, tuple[str, ...]]] = [
            ("states", (name,)) for name in decision.parents[:COMPARED] if name not in self._changed
        ]
        unknown = task.gate.unknown if decision.parents and task.gate is not None else {}
        wanted += [("tasks", (name,)) for name in islice(unknown, COMPARED)]
        wanted += [(blocks.KIND, names) for names in decision.blocks[:COMPARED]]
        if task.source is not None and (decision.compares_spec or not task.status_mod):
            wanted.append(("tasks", (task.source.id,)))  # a member's spec is its array's
        elif task.member_of and task.source is None:
            wanted.append(("tasks", (task.member_of,)))
        if decision.removes and not has_dependencies(self._model):
            wanted.append(("engine", ()))  # no task can wait for it before the feature is on
        return {record: self._model.mod_of(*record) for record in wanted if record not in self.compared}

    def add(self, task: Task, decision: Decision, compared: Compared) -> None:
        """The plan contains this decision, and compares this for it."""
        if compared or decision.parents:
            self.compared |= compared
            self._relied_on |= dict.fromkeys(decision.parents)
        status = decision.status
        if task.member_of or not self._model.dependencies.has_children(task.id):
            return  # nobody waits for it: no member of an array is a parent
        if status is None and not decision.removes:
            return
        if status is None:
            self._changed[task.id] = None
            return
        runs_again = RequestKind.RETRY in task.requests and RequestKind.RETRY not in decision.consumed
        ending = status.state if status.is_finished and not runs_again else None
        self._changed[task.id] = parent_with(task, ending, status.finished_at or 0.0)


def is_on(model: Model, feature: str) -> bool:
    """Whether the installation has turned the feature on, as far as the model knows."""
    return feature in features.recorded(model.engine.engine.parts if model.engine is not None else {})


def has_dependencies(model: Model) -> bool:
    """Whether tasks may wait for others in this installation, as far as the model knows."""
    return is_on(model, features.DEPENDENCIES)
