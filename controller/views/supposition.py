"""What is supposed before one looks ahead, as people say it, and what that means for a model.

Each part is judged as if it were done: a task as a submission, a pool as its definition, the others as
requests. What could not be done is refused by its field, in the same words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from controller.core.forecast.supposed import Supposed, cancel, change
from controller.core.model import codec
from controller.core.model.arrays import MemberName, Ranges
from controller.core.model.awaited import in_order, no_tasks, one_member, size_of, unequal
from controller.core.model.capacity_fields import FOLLOWING
from controller.core.model.features import CHANGES, needed_by_pool, needed_by_spec
from controller.core.model.fields import mapping, read_fields
from controller.core.model.lifecycle import FINISHED
from controller.core.model.model import Model
from controller.core.model.records import PoolRecord, Task
from controller.core.model.requests import MOST_PRIORITY, Request, RequestKind
from controller.core.model.scalars import parse_integer, parse_name
from controller.core.model.submitted import ONLY_ATTESTED, fill_in, of_array, parse_definition
from controller.core.model.task import Pool, Reserve, Spec
from controller.errors import InvalidField
from controller.views.absent import why_absent
from controller.views.features import FeatureState, check_on, fence
from controller.views.queue_room import QueueRoom
from controller.views.tasks import (
    TaskFacts,
    can_be_changed,
    find_task,
    owner_of,
    stored_tasks,
    why_unchangeable,
)

MOST = 10_000  # of each: tasks, pools, names

T = TypeVar("T")
SeesOwner = Callable[[str], bool]
"""Whether one may know of the tasks of this owner."""


class NoSuchTask(InvalidField):
    """There is no task of that name."""


class Supposition(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is supposed to be done now.

    `pools` have a `name`, and the fields that differ from those of the stored pool; a pool of a new name is
    given whole. `tasks` are submitted, as a file has them; each may wait for others, in any order.
    `cancelled` tasks are cancelled, `held` ones put on hold, `released` ones released, and `priorities` are
    given to tasks by their names.
    """

    pools: list[dict[str, Any]] = []
    tasks: list[dict[str, Any]] = []
    cancelled: list[str] = []
    held: list[str] = []
    released: list[str] = []
    priorities: dict[str, int] = {}


def parse_supposition(raw: object, prefix: str = "") -> Supposition:
    """The supposition of a mapping, such as a JSON object. Raises InvalidField, naming the field.

    `prefix` stands before the names of fields. Whether it can be done is judged by `judge`.
    """
    problem = f"expected a mapping with {', '.join(Supposition.__struct_fields__)}"
    return Supposition(**read_fields(mapping(raw, prefix.rstrip("."), problem), _FIELDS, prefix))


def judge(
    model: Model, supposition: Supposition, now: float, by: str = "", sees: SeesOwner = lambda _: True
) -> Supposed:
    """What is supposed, as changes of this model. `by`: who has signed in, if a gateway would submit.

    `sees`: whether tasks of an owner may be known; others are not there. Raises InvalidField, and NoSuchTask.
    """
    pools = tuple(_redefined(model, number, each) for number, each in enumerate(supposition.pools))
    _check_once((pool.name for pool in pools), "pools", "name")
    records = {**model.pools, **{pool.name: PoolRecord(pool, 0) for pool in pools}}
    state = _features(model, pools)
    known = _Known(model, sees)
    tasks = tuple(_Submission(known, records, state, by).judge(supposition.tasks))
    return Supposed(
        pools=pools, tasks=tasks, requests=tuple(_requests(known, supposition, state, now)), by=by
    )


def _features(model: Model, pools: Iterable[Pool]) -> Callable[[str], FeatureState]:
    """The features that are on, or would be turned on by who applies these pools."""
    turned_on = {name for pool in pools for name in needed_by_pool(pool)}
    known = fence(model).state
    return lambda name: "on" if name in turned_on else known(name)


def _redefined(model: Model, number: int, definition: Mapping[str, Any]) -> Pool:
    """The pool with these fields in place of its own; a pool of a new name as it is given."""
    with _within(f"pools[{number}]"):
        record = model.pools.get(parse_name(definition.get("name"), "name", "a pool's name"))
        if record is not None:
            own = codec.to_builtins(record.definition)
            if "capacity" in definition:
                own.pop(FOLLOWING, None)  # amounts, or another source, take the place of its own
            return parse_definition({**own, **definition})
        pool = parse_definition(definition)
        if "reserve" in definition:
            return pool
        return msgspec.structs.replace(pool, reserve=Reserve.LACKING)  # the default of new pools


class _Known(NamedTuple):
    """A model, and of whose tasks one may know."""

    model: Model
    sees: SeesOwner

    def find(self, name: str) -> TaskFacts | None:
        """The task of that name, if there is one, as far as one may know."""
        found = find_task(self.model, name)
        return found if found is not None and self.sees(found.owner) else None

    def sees_task(self, task: Task) -> bool:
        """Whether one may know of the task."""
        return self.sees(owner_of(task))


class _Submission:
    """Judges tasks as those who submit them are told."""

    def __init__(
        self,
        known: _Known,
        pools: Mapping[str, PoolRecord],
        state: Callable[[str], FeatureState],
        by: str,
    ) -> None:
        self._known = known
        self._pools = pools
        self._state = state
        self._by = by
        self._room = QueueRoom(lambda: stored_tasks(known.model))
        self._specs: dict[str, Spec] = {}

    def judge(self, tasks: Sequence[Mapping[str, Any]]) -> Iterator[Spec]:
        """Each behind what it waits for."""
        order = in_order(tasks)
        for left_out in order.left_out:
            raise _below(f"tasks[{left_out.place}]", left_out.problem)
        for place in order.places:
            with _within(f"tasks[{place}]"):
                spec = self._judge(tasks[place])
            self._specs[spec.id] = spec
            yield spec

    def _judge(self, raw: Mapping[str, Any]) -> Spec:
        spec = fill_in(raw, self._pools).spec
        pool = self._pools[spec.pool].pool
        self._check_name(spec)
        self._room.check(spec, pool)
        if pool.require_attested and not self._by:
            raise InvalidField("pool", ONLY_ATTESTED.format(pool.name))
        check_on(self._state, needed_by_spec(spec))
        self._check_parents(spec)
        return spec

    def _check_name(self, spec: Spec) -> None:
        if spec.id in self._specs:
            raise InvalidField("id", f"{spec.id} is named twice: give each task a name of its own")
        found, member = find_task(self._known.model, spec.id), MemberName.parse(spec.id)
        if found is not None and not (found.member_of and self._known.sees(found.owner)):
            raise InvalidField("id", f"there is a task {spec.id} already: suppose it under another name")
        if member is not None and (found is not None or self._is_member(member)):
            raise InvalidField("id", of_array(member))

    def _check_parents(self, spec: Spec) -> None:
        names = [each.task for each in spec.after]
        absent = [index for index, name in enumerate(names) if self._parent(name) is None]
        for index in absent[:1]:
            member = MemberName.parse(names[index])
            if member is not None and self._is_member(member):
                raise one_member(index, member)
        if absent:
            raise no_tasks(names, absent)
        problem = unequal(spec, self._size)
        if problem is not None:
            raise problem

    def _parent(self, name: str) -> Spec | TaskFacts | None:
        """A task that can be waited for."""
        if name in self._specs:
            return self._specs[name]
        found = self._known.find(name)
        return found if found is not None and found.create_revision and not found.member_of else None

    def _size(self, name: str) -> int | None:
        parent = self._parent(name)
        spec = parent.spec if isinstance(parent, TaskFacts) else parent
        return size_of(spec) if spec is not None else None

    def _is_member(self, member: MemberName) -> bool:
        array = self._specs.get(member.array)
        if array is not None:
            return array.array is not None and member.index < array.array.size
        found = self._known.find(str(member))
        return found is not None and found.member_of == member.array


def _requests(
    known: _Known, supposition: Supposition, state: Callable[[str], FeatureState], now: float
) -> Iterator[tuple[str, Request]]:
    _check_once(supposition.cancelled, "cancelled")
    members = dict[str, list[int]]()  # that have not begun, by array
    for number, name in enumerate(supposition.cancelled):
        facts = _found(known, name, f"cancelled[{number}]")
        if facts.state in FINISHED:
            raise InvalidField(f"cancelled[{number}]", f"{name} is already {facts.state}")
        member = MemberName.parse(name) if facts.member_of else None
        if member is not None and facts.status is None:
            members.setdefault(member.array, []).append(member.index)
        else:
            yield cancel(name, now)
    for array, indexes in members.items():
        if array not in supposition.cancelled:
            yield cancel(array, now, _ranges(indexes))
    yield from _changed(known, supposition, state, now)


def _changed(
    known: _Known, supposition: Supposition, state: Callable[[str], FeatureState], now: float
) -> Iterator[tuple[str, Request]]:
    changes: dict[str, dict[str, Any]] = {}
    cancelled = frozenset(supposition.cancelled)
    for field, name, fields in _changes(supposition):
        check_on(state, {CHANGES: field})
        facts = _found(known, name, field)
        can_be = can_be_changed(facts.state, facts.spec, facts.status, facts.progress)
        if why := why_unchangeable(name, facts.state, facts.member_of, can_be=can_be):
            raise InvalidField(field, why)
        if name in cancelled:
            raise InvalidField(field, f"{name} is cancelled, too: suppose one of both")
        if changes.get(name, {}).keys() & fields.keys():
            raise InvalidField(field, f"{name} is named twice: leave one out")
        is_asked = any(each.kind is RequestKind.CHANGE for each in facts.requests)
        if fields.get("on_hold") == facts.on_hold and not is_asked:
            so = "already" if facts.on_hold else "not"
            raise InvalidField(field, f"{name} is {so} on hold, so this changes nothing: leave it out")
        changes[name] = {**changes.get(name, {}), **fields}
    for name, fields in changes.items():
        facts = _found(known, name, name)
        is_asked = any(each.kind is RequestKind.CHANGE for each in facts.requests)
        if is_asked or any(getattr(facts, field) != value for field, value in fields.items()):
            yield change(name, now, **fields)  # who asks for what is so already asks for nothing


def _changes(supposition: Supposition) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for number, name in enumerate(supposition.held):
        yield f"held[{number}]", name, {"on_hold": True}
    for number, name in enumerate(supposition.released):
        yield f"released[{number}]", name, {"on_hold": False}
    for name, priority in supposition.priorities.items():
        yield f"priorities.{name}", name, {"priority": priority}


def _ranges(indexes: list[int]) -> str:
    """As one request has them. Raises InvalidField for too many ranges."""
    found: list[tuple[int, int]] = []
    for index in sorted(indexes):
        if found and found[-1][1] == index - 1:
            found[-1] = found[-1][0], index
        else:
            found.append((index, index))
    return str(Ranges.parse(",".join(f"{first}-{last}" for first, last in found), "cancelled"))


def _found(known: _Known, name: str, field: str) -> TaskFacts:
    found = known.find(name)
    if found is None:
        why = why_absent(known.model, name, known.sees_task) or "see `tally get tasks`"
        raise NoSuchTask(field, f"there is no task {name!r}: {why}")
    return found


def _check_once(names: Iterable[str], field: str, inner: str = "") -> None:
    seen = set[str]()
    for number, name in enumerate(names):
        if name in seen:
            at = f"{field}[{number}]{f'.{inner}' if inner else ''}"
            raise InvalidField(at, f"{name} is named twice: leave one out")
        seen.add(name)


@contextmanager
def _within(path: str) -> Iterator[None]:
    """An error of what is within also says where that is."""
    try:
        yield
    except InvalidField as error:
        raise _below(path, error) from None


def _below(path: str, error: InvalidField) -> InvalidField:
    return InvalidField(f"{path}.{error.field}" if error.field else path, error.problem)


def _list_of(parse: Callable[[object, str], T]) -> Callable[[object, str], list[T]]:
    def read(raw: object, field: str) -> list[T]:
        if not isinstance(raw, list | tuple):
            raise InvalidField(field, "expected a list")
        if len(raw) > MOST:
            raise InvalidField(field, f"has {len(raw):,} entries, but at most {MOST:,} are allowed")
        return [parse(each, f"{field}[{number}]") for number, each in enumerate(raw)]

    return read


def _definition(raw: object, field: str) -> dict[str, Any]:
    return dict(mapping(raw, field, "expected a mapping, as in a file that is submitted or applied"))


def _named(raw: object, field: str) -> str:
    return parse_name(raw, field, "a task id")


def _priorities(raw: object, field: str) -> dict[str, int]:
    given = mapping(raw, field, "expected a mapping of names to priorities, such as {train-1: 9}")
    if len(given) > MOST:
        raise InvalidField(field, f"has {len(given):,} entries, but at most {MOST:,} are allowed")
    return {
        _named(name, f"{field}.{name}"[:100]): parse_integer(
            value, f"{field}.{name}"[:100], -MOST_PRIORITY, MOST_PRIORITY
        )
        for name, value in given.items()
    }


parse_names = _list_of(_named)
"""The names of tasks in a list. Raises InvalidField."""
_FIELDS = {
    "pools": _list_of(_definition),
    "tasks": _list_of(_definition),
    "cancelled": parse_names,
    "held": parse_names,
    "released": parse_names,
    "priorities": _priorities,
}
