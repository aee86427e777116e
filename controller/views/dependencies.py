"""What tasks wait for, as all readers show it: parents with verdicts, and the neighbourhood of a task.

A look at a neighbourhood costs what it returns, however many tasks are stored: it follows the index of
dependencies from task to task, and ends at its limits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from itertools import chain, zip_longest

from msgspec import Struct, field

from controller.core.model.after import Dependency, Index, When
from controller.core.model.arrays import MemberName
from controller.core.model.blocks import STATES
from controller.core.model.dependencies import gate_for
from controller.core.model.gates import Gate, meets
from controller.core.model.lifecycle import WAITING, State
from controller.core.model.model import Model
from controller.core.model.paired import REFUSALS, Former
from controller.core.model.records import Task, is_listed
from controller.views import pairs
from controller.views.pairs import Around
from controller.views.tasks import find_task, state_of

DEPTH = 2
MAX_DEPTH = 10
NODES = 200
MAX_NODES = 2000
EDGES_PER_NODE = 10  # of the limit: so many edges are returned at most
MAX_HIDDEN = 2000  # tasks that a reader may not see, after which a look ends

Sees = Callable[[Task], bool]
"""Whether the reader may see a task."""


class ParentVerdict(StrEnum):
    """What has become of a parent, as its child wants it."""

    MET = "met"
    PARTLY = "partly"  # `index: same`: some of its members have ended as wanted, and not all have, so far
    UNFINISHED = "unfinished"
    UNMET = "unmet"  # it has ended in another way
    UNKNOWN = "unknown"  # there is no such task that is older
    PAST = ""  # it was met when the child began, and is so no longer


class Direction(StrEnum):
    """Which neighbours: up are those that a task waits for, and down those that wait for it."""

    UP = "up"
    DOWN = "down"
    BOTH = "both"


class ParentView(Struct, frozen=True, kw_only=True):
    """A task that another one waits for. `state` is null if there is none, or if it cannot be read.

    `index` same: each member of the one waits for the member of its own index of the other.
    """

    task: str
    when: When
    verdict: ParentVerdict
    state: State | None = None
    index: Index = Index.ALL

    @property
    def wish(self) -> str:
        """How it must end, as it is shown."""
        return wish(self.when, self.index)


class NodeView(Struct, frozen=True, kw_only=True):
    """A task in a neighbourhood. `exists` is false for one that is only named: nothing is known of it."""

    id: str
    exists: bool = True
    state: State | None = None  # null: it cannot be read, or there is none
    pool: str = ""
    owner: str = ""
    reason: str = ""
    waits_for: int = 0  # of the tasks that it runs after, those that have not ended


class EdgeView(Struct, frozen=True, kw_only=True):
    """The task `to` waits for the task `from`."""

    from_: str = field(name="from")
    to: str
    when: When
    verdict: ParentVerdict
    index: Index = Index.ALL

    @property
    def wish(self) -> str:
        """How `from` must end, as it is shown."""
        return wish(self.when, self.index)


def wish(when: When, index: Index) -> str:
    """How a task must end for another one to run, as it is shown."""
    return f"{when} (same index)" if index is Index.SAME else str(when)


class NeighboursView(Struct, frozen=True, kw_only=True):
    """A task, what it waits for and what waits for it, over so many steps; the nearest nodes come first.

    Of a member of an array, it is that of its array, whose name is then `id`, and `member` is its own name.
    `truncated`: the limit was reached, and there is more. `deeper`: there is more beyond the last step.
    `hidden` is how many tasks the reader may not see; from these the look went no further.
    """

    id: str
    nodes: list[NodeView]
    edges: list[EdgeView]
    truncated: bool = False
    deeper: bool = False
    hidden: int = 0
    member: str = ""


def parents_of(model: Model, task_id: str, sees: Sees | None = None) -> tuple[ParentView, ...]:
    """What the task waits for, in the order of its spec. Parents that cannot be seen have no state.

    A member of an array waits for what its array does; with `index: same`, for the member of its index.
    """
    if (member := pairs.around(model, task_id)) is not None:
        return tuple(_of_member(model, member, each, former, sees) for each, former in member.pairs())
    task = model.tasks.get(task_id)
    if task is None or task.spec is None or "tasks" in task.frozen:
        return ()
    return tuple(
        ParentView(
            task=each.task,
            when=each.when,
            verdict=verdict_of(model, task, each),
            state=_state(model.tasks.get(each.task), sees),
            index=each.index,
        )
        for each in task.spec.after
    )


def _of_member(
    model: Model, member: Around, dependency: Dependency, former: Former | None, sees: Sees | None
) -> ParentView:
    """What a member waits for: a task, or the member of its index of an array."""
    name, index = dependency.task, member.index
    other = model.tasks.get(name)
    if former is None:
        verdict, state = verdict_of(model, member.array, dependency), _state(other, sees)
    else:
        verdict, state = _of_index(former, index), None
        if other is not None and (sees is None or sees(other)):
            state = pairs.state_of_pair(model, name, index)
        name = str(MemberName(name, index))
    if member.has_begun and verdict is not ParentVerdict.MET:
        verdict = ParentVerdict.PAST
    return ParentView(task=name, when=dependency.when, verdict=verdict, state=state, index=dependency.index)


def _of_index(former: Former, index: int) -> ParentVerdict:
    if former.parent is None:
        return ParentVerdict.UNKNOWN
    if former.is_met(index):
        return ParentVerdict.MET
    return ParentVerdict.UNFINISHED if pairs.is_unfinished(former, index) else ParentVerdict.UNMET


def waits_for(parents: Iterable[ParentView], state: State | None) -> int:
    """For how many of its parents a task in this state waits: those that have not ended."""
    return sum(each.verdict is ParentVerdict.UNFINISHED for each in parents) if state in WAITING else 0


def fate_of(parents: Iterable[ParentView]) -> str:
    """What becomes of a waiting task once all have ended, as some ended otherwise than it wants; "" if none.

    Of a parent whose state is null, because the reader may not know it, none is told.
    """
    unmet = [each for each in parents if each.verdict is ParentVerdict.UNMET]
    missed = [each for each in unmet if each.when is not When.FAILED]
    fate = State.FAILED if missed else State.CANCELLED
    for first in (missed or unmet)[:1]:
        more = len(missed or unmet) - 1
        are = f"{first.task} and {more} more are" if more else f"{first.task} is"
        ended = "not as it wants" if more or first.state is None else first.state
        return f"{are} {ended}, so it will be {fate} once the others have ended"
    return ""


def verdict_of(model: Model, task: Task, dependency: Dependency) -> ParentVerdict:
    """What has become of one of the task's parents; of a task that has begun, MET or PAST.

    A task that ended before it began has the verdicts that its parents would have now.
    """
    name, gate, status = dependency.task, task.gate, task.status
    if gate is not None:
        verdict = _in_gate(gate, name)
        is_told = verdict is not ParentVerdict.MET or not dependency.is_paired
        return verdict if is_told else _of_pair(model, task, dependency, verdict)
    verdict = _in_gate(gate_for(task, dependency, model.dependencies.parent(name)), name)
    if dependency.is_paired and verdict is not ParentVerdict.UNKNOWN:
        return _of_pair(model, task, dependency, verdict)
    begun = bool(task.attempt) or (task.array is not None and task.array.has_begun)
    was_refused = status is not None and status.is_finished and status.reason in REFUSALS
    has_begun = begun and not was_refused and not (status is not None and status.gated)
    if has_begun or (begun and verdict is ParentVerdict.UNKNOWN):  # it had begun once, with that one
        return verdict if verdict is ParentVerdict.MET else ParentVerdict.PAST
    return verdict


def _of_pair(model: Model, task: Task, dependency: Dependency, whole: ParentVerdict) -> ParentVerdict:
    """The verdict of an array for whose members others wait, each for one. `whole`: as of a task."""
    parent, other = model.dependencies.parent(dependency.task), model.tasks.get(dependency.task)
    array = other.array if other is not None else None
    if parent is None or array is None or (parent.ending is not None and not parent.has_begun):
        return whole
    met = sum(count for one, count in array.counts.items() if meets(STATES[one], dependency.when))
    if parent.ending is None:
        is_begun = met or (task.array is not None and task.array.has_begun)
        return ParentVerdict.PARTLY if is_begun else ParentVerdict.UNFINISHED
    if met == array.size:
        return ParentVerdict.MET
    return ParentVerdict.PARTLY if met else ParentVerdict.UNMET


def _in_gate(gate: Gate, name: str) -> ParentVerdict:
    if name in gate.unfinished:
        return ParentVerdict.UNFINISHED
    if name in gate.partly:
        return ParentVerdict.PARTLY
    if name in gate.unmet:
        return ParentVerdict.UNMET
    return ParentVerdict.UNKNOWN if name in gate.unknown else ParentVerdict.MET


def _state(task: Task | None, sees: Sees | None) -> State | None:
    """None also of a member of an array: it has the name of a parent that is gone."""
    if task is None or task.member_of or not is_listed(task) or (sees is not None and not sees(task)):
        return None
    return state_of(task)


def neighbours(
    model: Model,
    task_id: str,
    *,
    direction: Direction = Direction.BOTH,
    depth: int = DEPTH,
    limit: int = NODES,
    sees: Sees | None = None,
) -> NeighboursView | None:
    """The neighbourhood of a task; None if there is no such task, as far as the reader may see.

    Of a member, it is that of its array: others name the array alone.
    """
    around = pairs.around(model, task_id)
    member, task_id = (task_id, around.array.id) if around is not None else ("", task_id)
    task = model.tasks.get(task_id)
    if task is None or not is_listed(task) or (sees is not None and not sees(task)):
        return None
    look = _Look(model, limit, sees)
    look.walk(task_id, direction, depth)
    edges = look.edges()
    return NeighboursView(
        id=task_id,
        nodes=[look.node(name) for name in look.found],
        edges=edges,
        truncated=look.is_cut,
        deeper=look.is_deeper,
        hidden=len(look.hidden),
        member=member,
    )


class _Look:
    """One walk from task to task. `found` are the tasks in the order of their distance."""

    def __init__(self, model: Model, limit: int, sees: Sees | None) -> None:
        self._model = model
        self._limit = limit
        self._sees = sees
        self.found: dict[str, None] = {}
        self.hidden: dict[str, None] = {}
        self.is_cut = False
        self.is_deeper = False

    def walk(self, task_id: str, direction: Direction, depth: int) -> None:
        """Find the tasks up to this distance. From what is above it goes up, and from what is below, down."""
        self.found[task_id] = None
        ways = [way for way in (Direction.UP, Direction.DOWN) if direction in (way, Direction.BOTH)]
        seen = {(task_id, way) for way in ways}
        level: deque[tuple[str, Direction]] = deque((task_id, way) for way in ways)
        for _ in range(depth):
            after: deque[tuple[str, Direction]] = deque()
            for name, way in _in_turns([self._steps(name, way) for name, way in level]):
                if (name, way) in seen:
                    continue
                if self.is_full(name):
                    self.is_cut = True
                    return
                seen.add((name, way))
                if self._admit(name):
                    after.append((name, way))
            level = after
        self.is_deeper = any(step not in seen for name, way in level for step in self._steps(name, way))

    def is_full(self, name: str) -> bool:
        """Whether there is no more room for this task."""
        if name in self.found or name in self.hidden:
            return False
        return len(self.found) >= self._limit or len(self.hidden) >= MAX_HIDDEN

    def _admit(self, name: str) -> bool:
        task = self._model.tasks.get(name)
        if task is not None and is_listed(task) and self._sees is not None and not self._sees(task):
            self.hidden[name] = None
            return False
        self.found[name] = None
        return True

    def _steps(self, name: str, way: Direction) -> Iterator[tuple[str, Direction]]:
        if way is Direction.DOWN:
            return ((child, way) for child in self._model.dependencies.children(name))
        return ((each.task, way) for each in self._after(name))

    def _after(self, name: str) -> tuple[Dependency, ...]:
        task = self._model.tasks.get(name)
        return task.spec.after if task is not None and task.spec is not None and not task.frozen else ()

    def edges(self) -> list[EdgeView]:
        """What the tasks that were found wait for, among each other."""
        edges: list[EdgeView] = []
        for name in self.found:
            for each in self._after(name):
                if each.task not in self.found:
                    continue
                if len(edges) >= self._limit * EDGES_PER_NODE:
                    self.is_cut = True
                    return edges
                verdict = verdict_of(self._model, self._model.tasks[name], each)
                edges.append(
                    EdgeView(from_=each.task, to=name, when=each.when, verdict=verdict, index=each.index)
                )
        return edges

    def node(self, name: str) -> NodeView:
        """What is told of a task that was found."""
        facts = find_task(self._model, name)
        if facts is None:
            return NodeView(id=name, exists=False)
        return NodeView(
            id=name,
            state=facts.state,
            pool=facts.pool,
            owner=facts.owner,
            reason=facts.reason,
            waits_for=facts.waits_for,
        )


def _in_turns(
    many: list[Iterator[tuple[str, Direction]]],
) -> Iterator[tuple[str, Direction]]:
    """One of each, then the next of each, so that none takes all the room."""
    return (each for each in chain.from_iterable(zip_longest(*many)) if each is not None)
