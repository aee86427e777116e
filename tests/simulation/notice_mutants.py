"""The seeded bugs of notices, for `mutants`."""

from __future__ import annotations

from tests.simulation.mutants_base import Edit, Mutant

_DELIVERIES = "core.planning.mending:Mending._plan_deliveries"

NOTICE_MUTANTS = (
    Mutant(
        "an end is not told",
        (Edit("core.planning.beside:Beside.add_to", "self.notice is not None", "False"),),
    ),
    Mutant(
        "each step of a task that has ended is told",
        (Edit("core.planning.beside:_ends", "was_finished or ", ""),),
    ),
    Mutant(
        "two ends of one task have one notice",
        (Edit("core.planning.beside:beside", "notices.sequence_of(moment.epoch, moment.op)", '"1"'),),
    ),
    Mutant(
        "labels of a rule are not looked at",
        (Edit("core.model.notices:asks", "ending in rule.on and all(", "ending in rule.on or all("),),
    ),
    Mutant(
        "a notice that was given up is deleted",
        (Edit(_DELIVERIES, "notices.kept_after(notice, delivery) if notice is not None else None", "None"),),
    ),
    Mutant(
        "the word of a delivery stays",
        (Edit(_DELIVERIES, "self._change(notices.DELIVERED, names), ", ""),),
    ),
    Mutant(
        "a delivered notice stays",
        (Edit(_DELIVERIES, ", self._change(notices.OUTBOX, names, value)]", "]"),),
    ),
)
