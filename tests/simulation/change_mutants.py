"""The seeded bugs of what users change of waiting tasks, for `mutants`."""

from __future__ import annotations

from tests.simulation.mutants_base import Edit, Mutant

_CHANGED = "core.planning.transitions:changed"

CHANGE_MUTANTS = (
    Mutant(
        "a task on hold is in the queue",
        (
            Edit(
                "core.model.indexes:Indexes._place",
                "elif status is not None and status.is_on_hold:",
                "elif False:",
            ),
            Edit("core.model.indexes:Indexes._enqueue", " or task.on_hold", ""),
        ),
    ),
    Mutant(
        "a task on hold joins the queue after its back-off",
        (
            Edit(
                "core.model.records:Task.first_due",
                "if status is not None and status.on_hold and status.is_on_hold:",
                "if False:",
            ),
            Edit("core.model.indexes:Indexes._enqueue", " or task.on_hold", ""),
        ),
    ),
    Mutant(
        "a released task stays on hold",
        (Edit(_CHANGED, 'fields["on_hold"] = request.on_hold', 'fields["on_hold"] = True'),),
    ),
    Mutant(
        "a priority is not kept",
        (Edit(_CHANGED, 'fields["priority"] = request.priority', "pass"),),
    ),
    Mutant(
        "a task that is cancelled stays on hold",
        (Edit("core.planning.transitions:cancelled_waiting", "on_hold=False,\n", "\n"),),
    ),
    Mutant(
        "a victim that is held meanwhile is not",
        (Edit("core.model.records:Task.is_postponed", "kind is RequestKind.CHANGE and", "False and"),),
        sharing=True,
    ),
    Mutant(
        "a retry is consumed together with a change",
        (
            Edit(
                "core.planning.decide:_waiting",
                "(RequestKind.CHANGE,))",
                "tuple(task.requests))",
            ),
        ),
    ),
)
