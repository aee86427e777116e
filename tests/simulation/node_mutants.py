"""The seeded bugs of pools that follow nodes, for `mutants`."""

from __future__ import annotations

from functools import partial

from tests.simulation.mutants_base import Edit
from tests.simulation.mutants_base import Mutant as AnyMutant

_CAPACITIES = "core.planning.capacities:Capacities"
_DRAFT = "core.planning.draft:Draft.finish"

Mutant = partial(AnyMutant, nodes=True, sharing=False, schedules=False)

NODE_MUTANTS = (
    Mutant(
        "a capacity grows with the nodes, and does not fall",
        (
            Edit(
                f"{_CAPACITIES}._seen",
                "base.amounts != found.amounts",
                "not found.amounts.fits(base.amounts)",
            ),
            Edit(f"{_CAPACITIES}._seen", "amounts=found.amounts", "amounts=changes[-1].after"),
        ),
    ),
    Mutant(
        "a node that is not ready counts",
        (Edit("core.model.nodes:NodeRoom.unusable", "if not self.is_ready:", "if False:"),),
    ),
    Mutant(
        "a node that is cordoned counts",
        (Edit("core.model.nodes:NodeRoom.unusable", "if self.is_cordoned:", "if False:"),),
    ),
    Mutant(
        "others take of a node what it does not have",
        (Edit("core.model.nodes:NodeRoom.room", "max(0, have - ", "(have - "),),
    ),
    Mutant(
        "nodes that are out of sight are gone",
        (
            Edit(
                "core.planning.intake:Intake.hear",
                "self.nodes_trouble = event.message or",
                "self.nodes, self.nodes_trouble = (), event.message or",
            ),
            Edit(f"{_CAPACITIES}._seen", "if not trouble:", "if True:"),
        ),
    ),
    Mutant(
        "each change of a node is written at once",
        (Edit(f"{_CAPACITIES}._next", "moment.now < due", "False"),),
    ),
    Mutant(
        "a record stays when its pool follows nodes no more",
        (Edit(f"{_CAPACITIES}._change", "if mod:", "if False:"),),
    ),
    Mutant(
        "what is admitted before nodes were seen is what there was in an earlier term",
        (
            Edit(
                "core.model.following_pools:FollowingPools._apply_capacity",
                "self.capacities.pop(pool, None)",
                "pass",
            ),
        ),
    ),
    Mutant(
        "what is recorded is not what admission goes by",
        (
            Edit(
                "core.model.following_pools:FollowingPools._note_capacity",
                "capacity=observed.amounts",
                "capacity=max((each.after for each in observed.changes), default=observed.amounts,"
                " key=lambda each: each.get('cpu'))",
            ),
        ),
    ),
    Mutant(
        "an admission does not compare what was recorded",
        (Edit(_DRAFT, "if observed is not None:", "if False:"),),
        harmless="only a leader writes the record, each in its own term, which is compared; it is for what"
        " another hand writes",
    ),
)
