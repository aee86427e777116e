"""The seeded bugs of attestations, for `mutants`."""

from __future__ import annotations

from tests.simulation.mutants_base import Edit, Mutant

_HOLDS = "core.model.attested:Attestation.holds_for"
_DECIDE = "core.planning.decide:_waiting"

ATTESTATION_MUTANTS = (
    Mutant(
        "an attestation holds for whatever spec has the name",
        (Edit(_HOLDS, "mod == spec_mod and ", ""),),
    ),
    Mutant(
        "an attestation holds for whatever owner the spec names",
        (Edit(_HOLDS, " and self.owner == spec.owner", ""),),
        sharing=True,
    ),
    Mutant(
        "an unattested task is admitted before it is refused",
        (Edit("core.planning.admission:Admission._admit", "if unattested(", "if False and unattested("),),
        density=2.0,
    ),
    Mutant(
        "an unattested task waits for ever",
        (Edit(_DECIDE, "if others.refused:", "if False:"),),
    ),
    Mutant(
        "a task is refused by a pool that has changed meanwhile",
        (
            Edit(
                _DECIDE,
                "rejected, compares_spec=True, compares_pool=True, compares_attested=True",
                "rejected, compares_spec=True, compares_attested=True",
            ),
        ),
    ),
    Mutant(
        "an attestation stays when its task is removed",
        (
            Edit(
                "core.planning.beside:beside",
                "for kind in (attested.KIND, kept_log.KIND)",
                "for kind in (kept_log.KIND,)",
            ),
        ),
    ),
    Mutant(
        "a refusal does not ask for an attestation that the watch has yet to bring",
        (Edit(_DECIDE, "compares_pool=True, compares_attested=True", "compares_pool=True"),),
        faults=frozenset({"watch-stalled"}),
        density=3.0,
    ),
    Mutant(
        "a damaged attestation counts as none",
        (
            Edit(
                "core.planning.planner:Planner._plan_task",
                "and not is_unreadable(self._model, task)",
                "",
            ),
        ),
        faults=frozenset({"damage"}),
        density=3.0,
    ),
    Mutant(
        "a new leader does not look for whom to refuse",
        (
            Edit(
                "core.planning.planner:Planner.__init__",
                "queue if record.pool.require_attested else ",
                "",
            ),
        ),
        harmless="admission puts such a task on the agenda when its turn comes; until then it only waits",
    ),
)
