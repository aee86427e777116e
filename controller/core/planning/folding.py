"""Writes the blocks of arrays: how members have ended, and what users ask of those that are not under way.

An ended member is folded: one transaction writes its fate into its block, and deletes its status. It compares
both, so whatever a leader did before it was lost, the next one finds the member either ended or folded. Ended
members are folded when many have gathered, or when there is nothing else to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from controller.core.model import attested, blocks, kept_log, quarantine
from controller.core.model.array_records import Array, fate_of
from controller.core.model.arrays import ALL, Ranges
from controller.core.model.blocks import LENGTH, Block, Fate, MemberOutcome
from controller.core.model.gates import Gate
from controller.core.model.lifecycle import FINISHED, Event
from controller.core.model.model import Model
from controller.core.model.paired import places
from controller.core.model.records import Task
from controller.core.model.requests import RequestKind
from controller.core.model.task import Status
from controller.core.planning.arrays import refusal, retried, stop_of
from controller.core.planning.attestation import is_unreadable, unattested
from controller.core.planning.draft import BYTES_PER_OPERATION, Limits
from controller.core.planning.gangs import awaits_gang, holds_as_gang, tells_of
from controller.core.planning.gating import COMPARED, NeverRuns
from controller.core.planning.gating import refusal as refusal_by
from controller.core.planning.members import Members
from controller.core.planning.plan import Plan, RecordChange
from controller.core.planning.transitions import Moment

MANY = 64
NAME_TAKEN = Fate(MemberOutcome.FAILED, reason="NameTaken")
"""The fate of a member whose name another task has."""

UNATTESTED = Fate(MemberOutcome.FAILED, reason="Unattested")
"""The fate of members that are to begin, once their pool has come to refuse their array."""


class _Room:
    """The records of one transaction, as far as there is room for them."""

    def __init__(self, model: Model, limits: Limits) -> None:
        self.records: list[RecordChange] = []
        self.compared: list[tuple[str, tuple[str, ...], int]] = []
        self._mod_of = model.mod_of
        self._operations = limits.operations - 1
        self._bytes = limits.bytes

    @property
    def is_full(self) -> bool:
        """Whether nothing more can be added."""
        return self._operations < 1

    def mark(self) -> tuple[int, int, int, int]:
        """What `reset` needs."""
        return len(self.records), len(self.compared), self._operations, self._bytes

    def reset(self, mark: tuple[int, int, int, int]) -> None:
        """Take back all that was added since the mark."""
        records, compared, self._operations, self._bytes = mark
        del self.records[records:], self.compared[compared:]

    def room_for_members(self) -> int:
        """How many statuses can be deleted, beside one block and what is compared."""
        return self._operations - 2

    def compare(self, kind: str, *names: str) -> None:
        """The transaction compares this record, on which it rests."""
        compared = kind, names, self._mod_of(kind, names)
        if compared not in self.compared:
            self.compared.append(compared)
            self._operations -= 1

    def add(self, kind: str, names: tuple[str, ...], value: bytes | None = None) -> bool:
        """Add the next value of a record. False if there is no room for it."""
        size = len(value or b"") + BYTES_PER_OPERATION
        if self._operations < 1 or (self.records and size > self._bytes):
            return False
        self._operations -= 1
        self._bytes -= size
        self.records.append(RecordChange(kind, names, self._mod_of(kind, names), value))
        return True


class Folding:
    """See the module's docstring."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._arrays = model.arrays
        self._taken: dict[str, dict[int, None]] = {}
        self._refused: dict[str, None] = {}
        self._broken: dict[str, None] = {}  # arrays that have raised an error
        self._at = ""
        for name in [*self._arrays.apart]:
            self._arrays.fold_again(name)

    def take_from(self, members: Members) -> None:
        """Members whose names are taken end as well."""
        self._taken = members.taken

    @property
    def is_due(self) -> bool:
        """Whether this does not wait until there is nothing else to do."""
        asked = self._arrays.busy or self._taken or self._refused or self._model.dependencies.never
        return len(self._arrays.ended) >= MANY or bool(asked)

    def refuse(self, name: str) -> None:
        """The pool of this array refuses it, and members have begun: the others fail."""
        self._refused[name] = None

    def plan(self, moment: Moment, limits: Limits) -> Plan | None:
        """The next of these changes; None if there are none.

        An array that raises an error is set aside; the others are served.
        """
        steps = self._fold, self._change, self._end_taken, self._end_refused, self._end_never, self._clean
        for step in steps:
            room = _Room(self._model, limits)
            try:
                step(room, moment)
            except Exception as error:  # noqa: BLE001  # counted, and shown on the array
                self._broken[self._at] = None
                self._model.set_aside(self._at, "folding", error, moment.now, moment.epoch)
                continue
            if room.records:
                return Plan(moment.op, records=room.records, compared=room.compared)
        return None

    # -- details

    def _of(self, name: str) -> Array | None:
        """The array of this name, which is looked at now; None if there is none that can be changed."""
        self._at = name
        array, task = self._arrays.of(name), self._model.tasks.get(name)
        if array is None or name in self._broken:
            return None
        # whose members they are, and of a gang the round, may be readable again
        hides = {"tasks", quarantine.KIND} | ({"states"} if array.is_gang else set())
        return None if task is not None and task.frozen & hides else array

    def _fold(self, room: _Room, moment: Moment) -> None:
        found: dict[tuple[str, int], list[Task]] = {}
        apart, left = [], 4 * MANY
        for task_id in self._arrays.ended:
            task = self._model.tasks[task_id]
            assert task.status is not None
            if self._can_fold(task, task.status):
                found.setdefault((task.status.array, task.status.index // LENGTH), []).append(task)
                left -= 1
            else:  # it would keep the place of others
                apart.append(task_id)
            if not left:
                break
        for task_id in apart:
            self._arrays.set_apart(task_id)
        for (name, number), tasks in found.items():
            array = self._of(name)
            assert array is not None
            members = tasks[: max(0, room.room_for_members())]
            while members and not self._fold_into(array, number, members, room, moment):
                if room.records:
                    return
                members = members[: len(members) // 2]

    def _can_fold(self, task: Task, status: Status) -> bool:
        array = self._of(status.array)
        return (
            array is not None
            and not (task.frozen or task.requests)
            and status.index // LENGTH not in array.unreadable
            and not awaits_gang(array, status)
        )

    def _fold_into(self, array: Array, number: int, members: list[Task], room: _Room, moment: Moment) -> bool:
        """Write the fates of these members, and delete their statuses; both, or nothing: False."""
        mark = room.mark()
        fates = {
            task.status.index % LENGTH: fate_of(task)
            for task in members
            if task.status is not None and tells_of(array, task.status)
        }
        if len(fates) < len(members):  # they are of no array: one may be submitted meanwhile
            room.compare("tasks", array.name)
        fits = True
        if fates:
            block = array.block(number).changed(fates, array.length(number))
            fits = self._put(room, array, number, block, moment)
        fits = fits and all(room.add("states", (task.id,)) for task in members)
        if not fits:
            room.reset(mark)
        return fits

    def _change(self, room: _Room, moment: Moment) -> None:
        """Carry out what is asked of members that are not under way."""
        for name in list(self._arrays.busy):
            array = self._of(name)
            if array is None or array.task is None or array.task.frozen or array.unreadable:
                continue
            asked = _asked(array, array.task)
            if asked is None:
                continue
            ranges, outcomes, change = asked
            for number, block in _changed(array, ranges, outcomes, change):
                if not self._put(room, array, number, block, moment):
                    return

    def _end_taken(self, room: _Room, moment: Moment) -> None:
        for name in list(self._taken):
            array = self._of(name)
            taken = self._taken.pop(name)
            if array is None or array.task is None:
                continue
            # one may have been cancelled since, or have begun, when its name was free again
            indexes = [
                index
                for index in taken
                if array.is_at_rest(index) and array.fate(index).outcome is MemberOutcome.WAITING
            ]
            for number in dict.fromkeys(index // LENGTH for index in indexes):
                fates = {
                    index % LENGTH: array.fate(index).without(NAME_TAKEN.outcome, NAME_TAKEN.reason)
                    for index in indexes
                    if index // LENGTH == number
                }
                if number not in array.unreadable:
                    block = array.block(number).changed(fates, array.length(number))
                    self._put(room, array, number, block, moment)

    def _end_refused(self, room: _Room, moment: Moment) -> None:
        for name in list(self._refused):
            array = self._of(name)
            found = list[tuple[int, Block]]()
            if array is not None and array.task is not None and self._is_refused(array.task):
                found = list(_changed(array, ALL, (MemberOutcome.WAITING,), _unattested))
            if array is None or array.task is None or not found:
                del self._refused[name]
                continue
            for kind, compared in (("pools", array.task.pool), ("tasks", name), (attested.KIND, name)):
                room.compare(kind, compared)
            for number, block in found:
                if not self._put(room, array, number, block, moment):
                    return

    def _end_never(self, room: _Room, moment: Moment) -> None:
        """End the members that never run, because of those that each of them waits for, or all of them."""
        for name in list(self._model.dependencies.never):
            array = self._of(name)
            gate = array.task.gate if array is not None and array.task is not None else None
            never = refusal_by(gate) if gate is not None else None
            if array is not None and gate is not None and never is not None:
                if not self._end_left(room, array, gate, never, moment):
                    return
                continue
            if array is None or array.paired is None:
                continue
            paired = array.paired
            for number, mask in list(paired.never.items()):
                if room.records and room.room_for_members() < 2 * min(len(paired.formers), COMPARED):
                    return
                for former in paired.formers[:COMPARED]:
                    room.compare("tasks" if former.parent is None else "states", former.name)
                for block in paired.blocks(number * LENGTH)[:COMPARED]:
                    room.compare(blocks.KIND, *block)
                fates = {}
                for place in places(mask):
                    index = number * LENGTH + place
                    fates[place] = paired.end_of(index, array.fate(index))
                ended = array.block(number).changed(fates, array.length(number))
                if not self._put(room, array, number, ended, moment):
                    return

    def _end_left(self, room: _Room, array: Array, gate: Gate, never: NeverRuns, moment: Moment) -> bool:
        """End the members that wait, of an array whose gate never opens. False if the room is too small."""
        if room.records and room.room_for_members() < 2 * COMPARED:
            return False
        for parent in never.parents[:COMPARED]:
            room.compare("states", parent)
            if parent in gate.unknown:
                room.compare("tasks", parent)
        outcome = MemberOutcome.CANCELLED if never.event is Event.SKIPPED else MemberOutcome.FAILED
        found = _changed(
            array,
            ALL,
            (MemberOutcome.WAITING,),
            lambda fate: fate.without(outcome, never.reason),
        )
        return all(self._put(room, array, number, block, moment) for number, block in found)

    def _is_refused(self, task: Task) -> bool:
        """Whether it still is, and what was asked of it before is done: a retry would undo this, for ever."""
        record = self._model.pools.get(task.pool)
        if record is None or task.array is None or task.array.unreadable or task.state in FINISHED:
            return False
        if task.requests or task.frozen:
            return False
        return not is_unreadable(self._model, task) and bool(unattested(self._model, task, record.pool))

    def _clean(self, room: _Room, _: Moment) -> None:
        """Delete what is left of arrays that are gone."""
        for name, number in self._arrays.stale:
            if room.is_full:
                return
            if self._of(name) is not None:
                room.add(blocks.KIND, (name, str(number)))
        for name in list(self._arrays.gone):
            if name not in self._model.tasks:
                for log in self._arrays.logs.get(name, ()):
                    if log not in self._model.tasks and not room.add(kept_log.KIND, (log,)):
                        return
            if not room.records:
                del self._arrays.gone[name]  # until something changes

    @staticmethod
    def _put(room: _Room, array: Array, number: int, block: Block, moment: Moment) -> bool:
        return room.add(blocks.KIND, (array.name, str(number)), block.encode(moment.op))


_Asked = tuple[Ranges, tuple[MemberOutcome, ...], Callable[[Fate], Fate]]
"""Which members are to change, by their fate, and what it becomes."""


def _unattested(fate: Fate) -> Fate:
    return fate.without(UNATTESTED.outcome, UNATTESTED.reason)


def _asked(array: Array, task: Task) -> _Asked | None:
    if array.is_gang or holds_as_gang(task):
        return None  # it is retried and stopped as a whole, by its own status
    stop = stop_of(array)
    if stop is not None:
        ranges = Ranges.parse(stop.members)
        if not array.has_begun and ranges.is_all:
            return None  # the array itself is cancelled
        return ranges, (MemberOutcome.WAITING,), lambda fate: fate.without(MemberOutcome.CANCELLED)
    found = task.requests.get(RequestKind.RETRY)
    if found is None or refusal(task, array, found[0]) or (task.state in FINISHED and not array.has_begun):
        return None
    return Ranges.parse(found[0].members), retried(found[0]), lambda fate: fate.again


def _changed(
    array: Array, ranges: Ranges, outcomes: tuple[MemberOutcome, ...], change: Callable[[Fate], Fate]
) -> Iterator[tuple[int, Block]]:
    """The blocks that change, with what they become. Members that are under way stay as they are."""
    within = ranges.within(array.size)
    numbers = (number for first, last in within for number in range(first // LENGTH, last // LENGTH + 1))
    for number in dict.fromkeys(numbers):
        block, length, start = array.block(number), array.length(number), number * LENGTH
        places = [
            place
            for place in block.places(outcomes, length)
            if start + place in ranges and array.is_at_rest(start + place)
        ]
        if len(places) == length:
            yield number, block.with_all(change, length)
        elif places:
            fates = block.fates(length)
            yield number, block.changed({place: change(fates[place]) for place in places}, length)
