"""The seeded bugs of the reasons that are told, for `mutants`."""

from __future__ import annotations

from tests.simulation.mutants_base import Edit, Mutant

_DECIDE = "core.planning.decide"
_TRANSITIONS = "core.planning.transitions"

REASON_MUTANTS = (
    Mutant(
        "a deadline passes while the engine is not heard",
        (Edit(f"{_DECIDE}:_overdue", "if not moment.hears:", "if False:"),),
    ),
    Mutant(
        "who is lost is given up while the engine is not heard",
        (Edit(f"{_DECIDE}:_holding", "and may_end and moment.hears", "and may_end"),),
        faults=frozenset({"crash", "engine-outage", "node-lost"}),
        density=2.0,
    ),
    Mutant(
        "an engine that has fallen silent counts as heard",
        (Edit("core.planning.intake:Intake.hear", "self.engine_answers = False", "pass"),),
        faults=frozenset({"engine-outage"}),
        density=3.0,
    ),
    Mutant(
        "a leader's term begins with the engine heard",
        (
            Edit(
                "core.planning.intake:Intake.hears",
                "self.engine_listed and self.engine_answers",
                "self.engine_answers or not self.engine_listed",
            ),
        ),
    ),
    Mutant(
        "what was stopped for a deadline is told as stopped",
        (Edit(f"{_TRANSITIONS}:failed", "reason = stop_reason(status) or (", "reason = ("),),
    ),
    Mutant(
        "what is lost while it is stopped ends with the words of its loss",
        (
            Edit(f"{_TRANSITIONS}:lost", "if status.stopping:", "if False:"),
            # no fault by itself: stops are not overdue within a run otherwise
            Edit(f"{_DECIDE}:_stop_is_overdue", "LOST_AFTER_STOP_SECONDS", "1.0"),
        ),
        faults=frozenset({"node-lost"}),
        density=2.0,
    ),
    Mutant(
        "what is found again while it is stopped ends without words",
        (Edit(f"{_TRANSITIONS}:found", "{} if status.stopping else", ""),),
    ),
    Mutant(
        "one deadline is told as the other",
        (
            Edit(
                f"{_TRANSITIONS}:stop_reason",
                "_DEADLINES.get(status.stopping,",
                "_DEADLINES.get(status.stopping and StopReason.RUN_DEADLINE,",
            ),
        ),
    ),
    Mutant(
        "a failure is told in words of its own",
        (Edit(f"{_TRANSITIONS}:failed", 'else seen.reason or "Failed"', 'else "Failed"'),),
    ),
    Mutant(
        "a deadline counts from the admission, also of what runs",
        (Edit(f"{_DECIDE}:_overdue", "status.started_at or 0.0", "status.admitted_at or 0.0"),),
    ),
)
