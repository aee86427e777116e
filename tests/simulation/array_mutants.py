"""The seeded bugs of arrays, for `mutants`."""

from __future__ import annotations

from tests.simulation.mutants_base import Edit, Mutant

_ARRAY = "core.model.array:ArrayOf"
_ARRAYS = "core.model.array_records:Arrays"
_BLOCKS = "core.model.blocks"
_DECIDE = "core.planning.arrays"
_FOLDING = "core.planning.folding:Folding"
_MEMBERS = "core.planning.members:Members"


# Blocks change when there is nothing else to do: else they nearly always change before a request is consumed.
_LATE = Edit(f"{_FOLDING}.is_due", "self._arrays.busy or ", "")

# What an earlier array of the name has left stays there: else it goes before a member of the later one ends.
_LEFT = Edit(
    f"{_FOLDING}._clean",
    "if self._of(name) is not None:",
    "if (array := self._of(name)) is not None and array.task is None:",
)

# A cancel waits for the ends of its members: else it is consumed before there is room for others.
_SLOW = Edit(
    f"{_DECIDE}:_cancel",
    "unsettled(array, request.members)",
    "any(index in ranges for index in array.members)",
)


def _late(mutant: Mutant) -> Mutant:
    return _beside(_LATE, mutant)


def _beside(edit: Edit, mutant: Mutant) -> Mutant:
    return mutant._replace(edits=(*mutant.edits, edit))


def _mutant(name: str, where: str, old: str, new: str, harmless: str = "") -> Mutant:
    return Mutant(name, (Edit(where, old, new),), harmless, sharing=False, arrays=True)


ARRAY_MUTANTS = (
    _mutant(
        "a member is folded, and its status is left",
        f"{_FOLDING}._fold_into",
        'all(room.add("states", (task.id,)) for task in members)',
        "True",
    ),
    _mutant(
        "a status is deleted, and no block tells how the member has ended",
        f"{_FOLDING}._fold_into",
        "if fates:",
        "if False:",
    ),
    _mutant(
        "a fold tells the end of another member",
        f"{_FOLDING}._fold_into",
        "task.status.index % LENGTH: fate_of(task)",
        "(task.status.index + 1) % array.length(number): fate_of(task)",
    ),
    _mutant(
        "a member that has ended begins again",
        f"{_ARRAY}.next_index",
        "places((MemberOutcome.WAITING,), self.length(number))",
        "places(tuple(MemberOutcome), self.length(number))",
    ),
    _mutant(
        "a retry counts the attempts of a member anew",
        f"{_BLOCKS}:Fate.again",
        "Fate(MemberOutcome.WAITING, self.attempts, abandoned=self.abandoned)",
        "Fate(MemberOutcome.WAITING)",
    ),
    _mutant(
        "a member begins with the number of its last attempt",
        f"{_MEMBERS}.admitted",
        "max(fate.attempts, self._attempts.highest(member.id)) + 1",
        "max(task.array.fate(index).attempts, self._attempts.highest(member.id), 1)",
    ),
    _mutant(
        "a member begins while a task of its name is created",
        "core.planning.draft:Draft.add",
        "compares_spec = (rests_on_spec and not task.member_of) or task.status_mod == 0",
        "compares_spec = not task.source and (rests_on_spec or not task.status_mod)",
    )._replace(faults=frozenset()),
    _mutant(
        "a member begins while the spec of its array is deleted",
        "core.planning.kin:Kin.compared_by",
        "if task.source is not None and (",
        "if False and (",
    )._replace(faults=frozenset({"etcd-late", "removed-by-hand"})),
    _mutant(
        "more members begin in one plan than may",
        f"{_ARRAY}.room",
        "- self.under_way - beyond",
        "- self.under_way",
    ),
    _mutant(
        "a member that waits for its retry leaves its room to another one",
        f"{_ARRAY}.room",
        "- self.under_way - beyond",
        "- self.running - beyond",
    ),
    _late(
        _mutant(
            "members begin after one has failed (fail_fast)",
            f"{_ARRAY}.may_begin",
            "and not self.fails",
            "",
        )
    ),
    _mutant(
        "a failure does not stop the others (fail_fast)",
        f"{_DECIDE}:stop_of",
        "if array.fails and RequestKind.RETRY not in task.requests:",
        "if False:",
    )._replace(faults=frozenset({"etcd-late"}), density=10.0),
    _mutant(
        "a cancel is consumed before the members under way show it",
        f"{_DECIDE}:_cancel",
        "or unsettled(array, request.members)",
        "",
    )._replace(faults=frozenset({"etcd-late-commit"}), density=3.0, seeds=60),
    _late(
        _mutant(
            "a cancel is consumed before the members that wait are cancelled",
            f"{_DECIDE}:_cancel",
            "array.any_within((MemberOutcome.WAITING,), ranges) or unsettled(array, request.members)",
            "unsettled(array, request.members)",
        )
    ),
    _mutant(
        "a cancel of some members stops others, too",
        f"{_DECIDE}:_member",
        "task.status.index in Ranges.parse(stop.members)",
        "True",
    ),
    _late(
        _mutant(
            "a retry is consumed before its members wait again",
            f"{_DECIDE}:_retry",
            "if _any_ended(array, retried(request), Ranges.parse(request.members)):",
            "if False:",
        )
    ),
    _mutant(
        "a retry of what has failed takes what was cancelled, too",
        f"{_DECIDE}:retried",
        "if request.only_failed else _RETRYABLE",
        "if False else _RETRYABLE",
    ),
    _beside(
        _SLOW,
        _late(
            _mutant(
                "members begin while a request on their array waits",
                "core.planning.admission:Admission._admit",
                "if draft.has_changed(task_id) or task.requests:",
                "if draft.has_changed(task_id) or (task.requests and task.array is None):",
            )
        ),
    )._replace(faults=frozenset(), seeds=60),
    _mutant(
        "an array ends before its members are folded",
        f"{_ARRAY}.is_over",
        "self._folded >= self.size and not self.members",
        "self.ended >= self.size",
    ),
    _mutant(
        "an array ends without a member that is under way",
        f"{_ARRAY}.is_over",
        "self._folded >= self.size and not self.members",
        "self._folded + len(self.members) >= self.size",
    ),
    _mutant(
        "an array of which members were cancelled counts as succeeded",
        f"{_DECIDE}:_end",
        "elif cancelled:",
        "elif False:",
    ),
    _beside(
        _LEFT,
        _mutant(
            "what has become of an array counts for a later one of its name",
            f"{_ARRAY}.block",
            "if found is not None and found.of == self.of",
            "if found is not None",
        )._replace(faults=frozenset(), seeds=60),
    ),
    _mutant(
        "a block that cannot be read counts as one of members that wait",
        f"{_ARRAY}.may_begin",
        "and not self.unreadable",
        "",
    )._replace(faults=frozenset(), seeds=60),
    _mutant(
        "the blocks of an array that is gone are left",
        f"{_FOLDING}._clean",
        "for name, number in self._arrays.stale:",
        "for name, number in ():",
    ),
    _mutant(
        "a retry is refused that replaces one that is half carried out",
        f"{_DECIDE}:refusal",
        "if task.state in FINISHED and array.has_begun and array.waiting:",
        "if False:",
    )._replace(faults=frozenset(), seeds=60),
    _mutant(
        "a retry and the refusal of an array undo each other",
        f"{_FOLDING}._is_refused",
        "if task.requests or task.frozen:",
        "if task.frozen:",
    ),
    _mutant(
        "a new leader does not carry out what was asked of an array",
        f"{_ARRAYS}._place_array",
        "is_asked = bool(task.requests) or",
        "is_asked = False or",
    ),
    _mutant(
        "the end of each member is told about",
        "core.planning.beside:_ends",
        "task.member_of or ",
        "",
    )._replace(seeds=60),
    _mutant(
        "an array that has an entry in a block waits for nobody any more",
        "core.model.records:Task.is_gated",
        "and self.state in WAITING:\n        return True",
        "and self.state in WAITING:\n        return not self.array.has_begun",
    ),
    _mutant(
        "members that are left when the gate of their array never opens are never ended",
        f"{_FOLDING}._end_never",
        "if array is not None and gate is not None and never is not None:",
        "if never is not None:\n            continue\n        if False:",
    ),
    _mutant(
        "the end of a folded member's attempt lets nobody begin",
        "core.planning.driver:Driver.clear",
        "waiting = task if task is not None else self._model.arrays.task_of(attempt_id.task_id)",
        "waiting = task",
        "whatever ends or begins next in the pool puts it on the agenda, and so does each list of the engine",
    ),
    Mutant(
        "an array ends by a spec that was written over",
        (Edit(f"{_DECIDE}:_end", "compares_spec=True", "compares_spec=False"),),
        faults=frozenset({"etcd-late", "etcd-late-commit"}),
        density=2.0,
        sharing=False,
        arrays=True,
    ),
)
