"""The seeded bugs of dependencies, for `mutants`."""

from __future__ import annotations

from tests.simulation.mutants_base import Edit, Mutant

_INDEXES = "core.model.indexes:Indexes"
_DEPENDENCIES = "core.model.dependencies:Dependencies"
_PLANNER = "core.planning.planner:Planner"
_KIN = "core.planning.kin:Kin"


def _pair(name: str, where: str, old: str, new: str, harmless: str = "") -> Mutant:
    return Mutant(name, (Edit(where, old, new),), harmless, sharing=False, arrays=True)


DEPENDENCY_MUTANTS = (
    Mutant(
        "a task begins whatever has become of those that it waits for",
        (Edit(f"{_INDEXES}._enqueue", "if task.gate is not None and not task.gate.is_open:", "if False:"),),
    ),
    Mutant(
        "a retry in between does not close the gate again",
        (
            Edit(
                f"{_DEPENDENCIES}._pass_on",
                "has_turned = has_turned or gated != (child.gate.is_open, child.gate.is_decided)",
                "has_turned = has_turned or child.gate.is_decided",
            ),
        ),
    ),
    Mutant(
        "a requested retry is overlooked while it waits for the leader",
        (Edit("core.model.dependencies:parent_of", "None if runs_again else status.state", "status.state"),),
    ),
    Mutant(
        "a cancelled parent counts as failed",
        (
            Edit(
                "core.model.gates:Gate.note",
                "elif meets(parent.ending, when):",
                "elif meets(parent.ending, when) or (when == 'failed' and parent.ending == 'Cancelled'):",
            ),
        ),
    ),
    Mutant(
        "a task is refused before all that it waits for have ended",
        (
            Edit(
                "core.planning.gating:refusal",
                "if not gate.never_opens:",
                "if not (gate.unmet or gate.unknown):",
            ),
        ),
    ),
    Mutant(
        "a task is admitted in the transaction that changes its parent",
        (
            Edit(
                "core.planning.admission:Admission._admit",
                "if task.follows and draft.kin.has_changed(task):",
                "if False:",
            ),
        ),
    ),
    Mutant(
        "a plan changes a parent on whose end it rests",
        (Edit(f"{_PLANNER}._plan_tasks", " or draft.kin.is_relied_on(task_id)", ""),),
        density=2.0,
    ),
    Mutant(
        "a refusal rests on a parent that the plan before changes",
        (Edit(f"{_KIN}.is_known_for", "self.is_known(task)", "True"),),
        harmless="what it rests on is compared as it was before that plan, so the store refuses it; and an"
        " end is undone by a request alone, which is seen until that plan is committed",
    ),
    Mutant(
        "a younger task is waited for, or one that was made again",
        (
            Edit(
                "core.model.gates:Parent.is_before",
                "(self.create, self.told, name) < child if self.create else name != child[2]",
                "name != child[2]",
            ),
        ),
    ),
    Mutant(
        "a parent is removed while a task waits for it",
        (Edit(f"{_PLANNER}._plan_task", "self._model.dependencies.keeps(task_id)", "False"),),
    ),
    Mutant(
        "a parent is removed while a task is created that waits for it",
        (Edit("core.planning.beside:beside", "has_dependencies(model)", "False"),),
        density=2.0,
    ),
    Mutant(
        "a parent is removed while the plan before makes another task wait for it",
        (
            Edit(
                f"{_KIN}.__init__",
                "if change.status.gated:",
                "if False:",
            ),
        ),
        density=2.0,
    ),
    Mutant(
        "the record that keeps a parent is deleted while the child waits",
        (
            Edit(
                f"{_DEPENDENCIES}._sort",
                "parent not in self._waiting.get(child, ())",
                "True",
            ),
        ),
    ),
    Mutant(
        "the records that keep parents are never deleted",
        (Edit(f"{_PLANNER}.plan", "if not plan and self._model.dependencies:", "if False:"),),
    ),
    Mutant(
        "a retried task does not wait again",
        (Edit("core.planning.decide:_finished", "gated=bool(task.spec.after)", "gated=False"),),
    ),
    Mutant(
        "a new leader does not look at those that will never run",
        (
            Edit(
                f"{_INDEXES}._place",
                "if task.gate is not None and task.gate.never_opens:",
                "if False:",
            ),
        ),
        faults=frozenset({"crash", "crash-leader-on-write"}),
    ),
    Mutant(
        "a task hears nothing of what has become of its parents",
        (Edit(f"{_DEPENDENCIES}._pass_on", "parent == self._parents.get(task.id)", "True"),),
    ),
    Mutant(
        "the time in which a task waits for others counts as its wait in the queue",
        (
            Edit(
                "core.planning.decide:_waiting",
                "limit is not None and queued",
                "limit is not None and not task.on_hold",
            ),
        ),
    ),
    Mutant(
        "a parent is removed in the transaction that retries its child",
        (Edit(f"{_KIN}.is_known_for", "and not removed", ""),),
        harmless="the child is then refused, as it is if its parent was removed a moment before",
    ),
    _pair(
        "a member begins whatever has become of the one for which it waits",
        "core.model.paired:Paired.refresh",
        "met &= former.met(number, length)",
        "pass",
    ),
    _pair(
        "a member waits for the one of another index",
        "core.model.paired:Former.met",
        "array.block(number).mask(is_met, length)",
        "array.block(number).mask(is_met, length) >> 1",
    ),
    _pair(
        "a member's beginning does not compare the block on which it rests",
        "core.planning.kin:Kin.compared_by",
        "for names in decision.blocks[:COMPARED]",
        "for names in ()",
        "one leader alone writes blocks, and has seen what it wrote before; a hand that damages one in that"
        " moment changes nothing of how the member has ended",
    ),
    _pair(
        "a member never runs, and the other array has not ended",
        "core.model.paired:Former.is_known",
        "return self.parent.ending is not None",
        "return True",
    ),
    _pair(
        "a member that is skipped counts as failed",
        "core.model.paired:Paired.end_of",
        "return before.without(MemberOutcome.CANCELLED, SKIPPED)",
        "return before.without(MemberOutcome.FAILED, DEPENDENCY_FAILED)",
    ),
    _pair(
        "members that never run are never ended",
        "core.planning.folding:Folding._end_never",
        "list(self._model.dependencies.never)",
        "()",
    ),
    _pair(
        "an array hears nothing of the blocks of the one that it follows",
        "core.model.array:ArrayOf.put",
        "follower.refresh(number)",
        "pass",
    ),
    _pair(
        "an array follows one of another size",
        "core.model.dependencies:Dependencies._former",
        "parent.size not in (size, UNREADABLE)",
        "False",
    ),
    _pair(
        "an array is removed while members of another one wait for its own",
        f"{_DEPENDENCIES}._set_gate",
        "if task.gate is not None:",
        "if task.gate is not None and task.id not in self._pairs:",
    ),
    _pair(
        "an array is refused while members of one that it follows run",
        "core.model.gates:Gate.is_decided",
        "(self.unfinished or self.partly)",
        "self.unfinished",
    ),
)
