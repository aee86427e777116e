"""The seeded bugs of gangs, for `mutants`."""

from __future__ import annotations

from tests.simulation.mutants_base import Edit, Mutant

_GANGS = "core.planning.gangs"
_OPENING = f"{_GANGS}:GangOpening"
_ARRAYS = "core.model.array_records"


def _mutant(name: str, where: str, old: str, new: str, harmless: str = "") -> Mutant:
    return Mutant(name, (Edit(where, old, new),), harmless, sharing=False, arrays=True)


GANG_MUTANTS = (
    _mutant(
        "a gang is admitted short",
        f"{_GANGS}:admitted",
        "parts = reserved(task.spec, lambda spec: demand(spec, pool.pool))",
        "parts = tuple(msgspec.structs.replace(one, left=max(1, one.left - 1)) for one in plain)",
    ),
    _mutant(
        "a member's hold is taken twice: its gang keeps it, too",
        f"{_OPENING}._open",
        "left[number], begun = Reserved(part.left - 1, part.hold), True",
        "begun = True",
    ),
    _mutant(
        "a gang gives away more than its members take over",
        f"{_OPENING}._open",
        "Reserved(part.left - 1, part.hold)",
        "Reserved(max(0, part.left - 2), part.hold)",
    ),
    _mutant(
        "members take over the hold of the first role",
        f"{_OPENING}._open",
        "part = left[number]",
        "number = 0; part = left[number]",
    ),
    _mutant(
        "what members have not taken over stays held while the gang is stopped",
        "core.planning.transitions:stop_requested",
        "hold = ZERO if status.reserved else status.hold",
        "hold = status.hold",
    ),
    _mutant(
        "a gang ends before its members",
        f"{_GANGS}:_seen",
        "if not is_left and (has_all or status.stopping):",
        "if has_all or status.stopping:",
    ),
    _mutant(
        "a gang succeeds when one member has",
        f"{_GANGS}:_seen",
        "has_all = bool(size) and succeeded == size",
        "has_all = bool(size) and succeeded > 0",
    ),
    _mutant(
        "a gang runs when one member does",
        f"{_GANGS}:_seen",
        "array.started + succeeded == size",
        "array.started + succeeded > 0",
    ),
    _mutant(
        "a gang goes on although a member has failed",
        f"{_GANGS}:_broken",
        "ended = array.counts[MemberOutcome.FAILED] + array.counts[MemberOutcome.CANCELLED]",
        "ended = 0",
    ),
    _mutant(
        "members run on when their gang is stopped",
        f"{_GANGS}:stop_of_member",
        "if not gang.status.stopping:",
        "if gang.status:",
    )._replace(faults=frozenset()),
    _mutant(
        "what was told of an earlier round counts in the next one",
        f"{_ARRAYS}:_of",
        'return f"{task.spec_op}/{task.attempt + (task.state in WAITING)}"',
        "return task.spec_op",
    ),
    _mutant(
        "a member of a gang is retried alone",
        "core.planning.decide:end",
        "if status.of_gang:",
        "if False:",
    ),
    _mutant(
        "a member of a gang begins under the name of another task",
        "core.planning.members:Members.is_free",
        "if known is not None:",
        "if known is not None and known.member_of:",
    ),
    _mutant(
        "a round has the number of the one before",
        f"{_GANGS}:round_of",
        "return max(task.attempt, attempts.highest(task.id), highest) + 1",
        "return max(task.attempt, 1)",
    ),
    _mutant(
        "members begin while their gang is asked to end",
        f"{_OPENING}.plan",
        "or task.requests",
        "",
        harmless="what is asked is planned before they begin; put off by a plan, the next one stops them",
    ),
    _mutant(
        "a gang that is admitted is forgotten before its members begin",
        f"{_ARRAYS}:Arrays._place_array",
        "self.opening[array.name] = None",
        "pass",
    )._replace(sharing=True),
    _mutant(
        "a gang that has failed waits for no back-off",
        "core.model.records:Task.waits_at_once",
        "(self.array is not None and not self.array.is_gang)",
        "self.array is not None",
    ),
    _mutant(
        "a gang is admitted while members of the last round are not folded",
        "core.model.array:ArrayOf.may_begin",
        "if self.is_gang and (self.members or self.hidden):",
        "if False:",
        harmless="a round ends when its last member is folded; by hand alone can a member be left",
    ),
    _mutant(
        "a part of a gang can be cancelled",
        f"{_GANGS}:refused_part",
        "return _ignored(task, narrow, _WHOLE, moment) if narrow else None",
        "return None",
    ),
    _mutant(
        "a member of a gang can be cancelled alone",
        f"{_GANGS}:refused_of_member",
        "if not kinds or task.status is None:",
        "if True:",
    ),
    _mutant(
        "members begin, and the status of their gang is not compared",
        f"{_OPENING}._open",
        "draft.add(task, Decision(taken))",
        "draft.add(task, Decision(None))",
    ),
)
