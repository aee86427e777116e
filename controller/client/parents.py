"""The tasks that submitted ones wait for (`Spec.after`), as a submission knows them.

Whoever creates a child compares that its parents' specs are as they were read, and puts
`awaits/<parent>/<child>` for each, in the same transaction: so no parent is removed meanwhile. A parent that
is created in that transaction, before the child, is compared by nothing. Where the parents are more than
AT_ONCE, the records of the others are put in transactions before. If the child is not created after all, the
leader deletes them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from controller.client.prepared import Prepared, SubmitResult, compare, has_member
from controller.core.model import codec
from controller.core.model.arrays import MemberName
from controller.core.model.awaited import behind_refused, no_tasks, one_member, size_of, unequal
from controller.core.model.op import Op
from controller.core.model.task import SCHEMA_VERSION, Spec
from controller.errors import CorruptValue, InvalidField
from controller.store.base import Committed, Guard, KeyValue, Put, Refused, Transaction, new_op
from controller.store.keys import Keys

AT_ONCE = 40
"""Parents of one task that are compared in the transaction that creates it."""

AHEAD = 60
"""Parents in each transaction before it: two compares each, and one for the feature."""

MOST_KNOWN = 10_000
MOST_IMAGINED = 100_000

Read = Callable[[Collection[str]], Mapping[str, KeyValue]]
"""The stored values by key, of these keys of tasks."""

Commit = Callable[[Transaction], Committed | Refused]


class Sight(NamedTuple):
    """What the submitter may know of: the tasks of an owner, and a stored task at this mod of its spec."""

    owner: Callable[[str], bool] = lambda _: True
    task: Callable[[str, int], bool] = lambda *_: True


class Parents:
    """The parents of the tasks of one submission, or of several that belong together.

    A task that the submitter may not know of is, for it, no task.
    """

    def __init__(self, keys: Keys, read: Read, sight: Sight = Sight()) -> None:  # noqa: B008  # never changed
        self._keys = keys
        self._read = read
        self._sight = sight
        self._mods: dict[
            str, int
        ] = {}  # tasks that are stored, and may be known of → the mods of their specs
        self._refused: set[str] = set()  # tasks that were to be created, and were not
        # tasks that a dry run would have created, with their owners; not more than MOST_IMAGINED
        self.imagined: dict[str, str] = {}
        # of those that are known: how many members they have; 0: no array; or GANG
        self._sizes: dict[str, int] = {}
        self._kept: set[str] = set()  # children whose parents are kept by transactions before

    def refuse(self, result: SubmitResult) -> SubmitResult:
        """Note that the task was not stored as submitted, so that none that waits for it is."""
        if not result.accepted and result.id:
            self._refused.add(result.id)
        return result

    def sift(self, batch: dict[str, Prepared], commit: Commit) -> Iterator[SubmitResult]:
        """Take those out of the batch that cannot be created, with what is to be said of each.

        What it has of parents that are neither in the batch, before the child, nor known is read.
        """
        earlier: dict[str, str] = {}
        for task_id, prepared in list(batch.items()):
            if prepared.spec.after and (result := self._judge(prepared, earlier, commit)) is not None:
                del batch[task_id]
                yield self.refuse(result)
            else:
                earlier[task_id] = prepared.spec.owner
                self._note_size(prepared.spec)

    def keys(self, prepared: Prepared, batch: Mapping[str, Prepared]) -> set[str]:
        """The keys of parents that are compared when the task is created with the batch."""
        return {self._keys.task(name) for name in _first(prepared) if name not in batch}

    def mods(self, prepared: Prepared, batch: Mapping[str, Prepared]) -> dict[str, int]:
        """The same keys, with the mods that they must have. The batch has been sifted."""
        return {self._keys.task(name): self._mods[name] for name in _first(prepared) if name not in batch}

    def awaits(self, prepared: Prepared, op: Op) -> list[Put]:
        """The records that are put when the task is created."""
        return [self._await(name, prepared.spec.id, op) for name in _first(prepared)]

    def created(self, batch: Mapping[str, Prepared], answer: Committed) -> None:
        """Note that these tasks are stored. After a lost answer, they may have been changed since."""
        if answer.recovered:
            return
        if len(self._mods) > MOST_KNOWN:
            self._mods.clear()
        for task_id, prepared in batch.items():
            if self._sight.owner(prepared.spec.owner):
                self._mods[task_id] = answer.revision

    def imagine(self, prepared: Prepared) -> None:
        """Note what a dry run would have created."""
        if len(self.imagined) < MOST_IMAGINED:
            self.imagined[prepared.spec.id] = prepared.spec.owner
            self._note_size(prepared.spec)

    def learn(self, batch: Mapping[str, Prepared], answer: Refused) -> None:
        """Forget what a refusal shows to be otherwise: it is read again."""
        for prepared in batch.values():
            self._learn(_first(prepared), answer)

    def missing(
        self, prepared: Prepared, earlier: Mapping[str, str], read: Read | None = None
    ) -> InvalidField | None:
        """Why the task cannot wait for what it names; None if it can.

        `earlier` are those that come before it and are not stored yet, with their owners. `read` takes the
        place of the usual one.
        """
        names = [dependency.task for dependency in prepared.spec.after]
        asked = {
            name: self._keys.task(name)
            for name in names
            if name not in self._refused and name not in earlier and name not in self._mods
        }
        found = (read or self._read)(frozenset(asked.values())) if asked else {}
        absent: list[int] = []
        for index, name in enumerate(names):
            if name in self._refused:
                return behind_refused(index, name)
            if name in earlier:
                if not self._sight.owner(earlier[name]):
                    absent.append(index)
            elif name in asked:
                item = found.get(asked[name])
                if item is None or not self._sight.task(name, item.mod):
                    absent.append(index)
                elif isinstance(known := _read(name, item), str):
                    text = f"the spec of {name} cannot be read ({known}): replace it"
                    return InvalidField(f"after[{index}].task", text)
                else:
                    self._mods[name] = item.mod
                    self._note_size(known)
        if absent and (problem := self._member(absent[0], names[absent[0]], read or self._read)):
            return problem
        return no_tasks(names, absent) if absent else unequal(prepared.spec, self._sizes.get)

    # -- details

    def _member(self, index: int, name: str, read: Read) -> InvalidField | None:
        """Why the task cannot wait for a member of an array by its name; None if no array has such a one."""
        member = MemberName.parse(name)
        if member is None:
            return None
        if member.array in self._sizes:
            is_one = member.index < self._sizes[member.array]
        else:
            key = self._keys.task(member.array)
            item = read(frozenset([key])).get(key)
            is_one = has_member(item, member)
            is_one = is_one and item is not None and self._sight.task(member.array, item.mod)
        if not is_one:
            return None
        return one_member(index, member)

    def _note_size(self, spec: Spec) -> None:
        if len(self._sizes) > MOST_IMAGINED:
            self._sizes.clear()  # what is not known is not checked here: the leader does
        self._sizes[spec.id] = size_of(spec)

    def _judge(self, prepared: Prepared, earlier: Mapping[str, str], commit: Commit) -> SubmitResult | None:
        task_id, has_many = prepared.spec.id, len(prepared.spec.after) > AT_ONCE
        if has_many and task_id not in self._kept and (stored := self._stored(task_id)) is not None:
            return compare(prepared, stored)
        problem = self.missing(prepared, earlier)
        if problem is None and has_many and task_id not in self._kept:
            problem = self._keep(prepared, commit)
        if problem is None:
            return None
        # of a child that is stored, parents may have been removed since
        if (stored := self._stored(task_id)) is not None:
            return compare(prepared, stored)
        return prepared.invalid(problem)

    def _keep(self, prepared: Prepared, commit: Commit) -> InvalidField | None:
        """Put the records that keep the parents which the creation does not compare.

        Returns what `missing` does, if a parent vanishes meanwhile.
        """
        names = [dependency.task for dependency in prepared.spec.after][AT_ONCE:]
        for begin in range(0, len(names), AHEAD):
            some, op, there = names[begin : begin + AHEAD], new_op(), dict[str, int]()
            puts = [self._await(name, prepared.spec.id, op) for name in some]
            while True:
                guards = (
                    Guard(self._keys.engine, prepared.engine_mod),
                    *(Guard(self._keys.task(name), self._mods[name]) for name in some),
                    *(Guard(put.key, there.get(put.key, 0)) for put in puts),
                )
                answer = commit(Transaction(guards, tuple(puts), op))
                if isinstance(answer, Committed):
                    break
                engine = answer.current.get(self._keys.engine)
                if engine is None or engine.mod != prepared.engine_mod:
                    return None  # the creation will be refused for it, and checked again
                there = {put.key: item.mod for put in puts if (item := answer.current.get(put.key))}
                self._learn(some, answer)
                if problem := self.missing(prepared, {}):
                    return problem
        self._kept.add(prepared.spec.id)
        return None

    def _learn(self, names: Collection[str], answer: Refused) -> None:
        for name in names:
            key = self._keys.task(name)
            item = answer.current.get(key)
            if key in answer.current and (item.mod if item is not None else 0) != self._mods.get(name):
                self._mods.pop(name, None)

    def _await(self, parent: str, child: str, op: Op) -> Put:
        value = codec.encode({"version": SCHEMA_VERSION, "op": op})
        return Put(f"{self._keys.awaits}{parent}/{child}", value)

    def _stored(self, task_id: str) -> KeyValue | None:
        key = self._keys.task(task_id)
        return self._read({key}).get(key)


def _first(prepared: Prepared) -> list[str]:
    return [dependency.task for dependency in prepared.spec.after[:AT_ONCE]]


def _read(name: str, item: KeyValue) -> Spec | str:
    """The stored spec; if it cannot be read, why."""
    try:
        stored = codec.decode_spec(name, item.value)
    except CorruptValue as error:
        return str(error)
    return stored.error or stored.spec
