"""Reads the store into a model: whole parts of it, or single tasks, and then their changes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence

from controller.client.calls import FEW, closed_at, parse_timeout
from controller.client.errors import NotFound, another, check_same
from controller.client.stop_event import StopEvent
from controller.client.views import TasksLook, TaskView, task_view
from controller.clock import Clock
from controller.core.model import blocks, kept_log
from controller.core.model.arrays import MemberName
from controller.core.model.kept_log import KeptLog
from controller.core.model.lifecycle import State
from controller.core.model.model import Model
from controller.core.model.records import Change, Task
from controller.core.model.scalars import parse_name, parse_text
from controller.core.model.selector import Requirement, parse_selector
from controller.core.model.validation import parse_labels
from controller.errors import InvalidField, UserError
from controller.store.base import ClusterChanged, Compacted, KeyValue, Store, StoreClosed, StoreError
from controller.store.keys import Keys
from controller.store.mirror import Changed, Loaded, Mirror
from controller.store.records import changes_of, to_change
from controller.views.absent import why_absent
from controller.views.array_changes import is_array_or_member, listed_among, named_among, names_of
from controller.views.pairs import around
from controller.views.tasks import HELD_BACK, matching, parse_states

WATCH_SILENCE_SECONDS = 30.0
MAX_FILTER = 253  # characters of a name that tasks are chosen by
Selection = tuple[str, frozenset[str] | None, Sequence[Requirement], str]
"""A pool, states, requirements of labels, and an owner; "" and None: any."""

OF_TASKS = (
    "tasks/",
    "states/",
    "requests/",
    "attested/",
    "quarantined/",
    "arrays/",
)  # the records of which a task's view is made
OF_POOLS = ("pools/", "ledgers/", "capacities/")
OF_SHARES = (*OF_POOLS, "shares/")
OF_OWNERS = (*OF_SHARES, *OF_TASKS)  # those of which an owner's view is made


class Reading:
    """Reads the records of one cluster; each call to the store ends within `timeout_seconds`."""

    def __init__(self, store: Store, keys: Keys, clock: Clock, timeout_seconds: float) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._timeout_seconds = timeout_seconds

    def deadline(self) -> float:
        """The deadline of a call that begins now, on the boottime clock."""
        return self._clock.boottime() + self._timeout_seconds

    def has_come_to(self, revision: int) -> bool:
        """Whether the store has this revision, linearizable; it may, if the store does not answer."""
        try:
            return self._store.get(self._keys.leader, deadline=self.deadline())[1] >= revision
        except StoreError:
            return True

    def everything(self) -> Loaded:
        """All records of the cluster, at one revision, for models that are used up."""
        snapshot = self._store.load(self._keys.prefix, deadline=self.deadline())
        return Loaded(list(changes_of(self._keys, snapshot.items)), snapshot.revision)

    def model(self, *parts: str) -> Model:
        """The records under these parts of the cluster's prefix, at one revision."""
        while True:
            items: list[KeyValue] = []
            revision = 0
            try:
                for part in parts:
                    snapshot = self._store.load(
                        self._keys.prefix + part, deadline=self.deadline(), revision=revision
                    )
                    revision = snapshot.revision
                    items += snapshot.items
            except Compacted:
                continue  # compacted between two parts: read all again, at a newer revision
            mirror = Mirror()
            mirror.take(Loaded(list(changes_of(self._keys, items)), revision))
            mirror.model.advance(self._clock.now())
            return mirror.model

    def tasks(self, *task_ids: str) -> Model:
        """The records of these tasks alone; none of them is older than the model's `revision`.

        Those of an array come with its members; those of a member, with its array's.
        """
        found, revision = list[Change](), 0
        for task_id in task_ids:
            parse_name(task_id, "id", "a task id")
            records, read_at = self._records(task_id)
            revision = revision or read_at
            member = MemberName.parse(task_id)
            if member is not None and not any(record.kind == "tasks" for record in records):
                records += self._records(member.array)[0] + self._blocks(member.array)
            elif any(record.kind == "tasks" and b'"array"' in (record.value or b"") for record in records):
                records += self._members(task_id)
            found += records
        mirror = Mirror()
        mirror.take(Changed(list(dict.fromkeys(found)), revision))
        return mirror.model

    def _records(self, task_id: str) -> tuple[list[Change], int]:
        """The task's own records, and a revision that none of them is older than."""
        # The order matters: a task that is removed meanwhile is seen as it was, or not at all, but never
        # as Created.
        snapshot = self._store.load(self._keys.request(task_id, ""), deadline=self.deadline())
        found = list(changes_of(self._keys, snapshot.items))
        for key in (
            self._keys.state(task_id),
            self._keys.task(task_id),
            self._keys.attested(task_id),
            self._keys.quarantined(task_id),
        ):
            item, _ = self._store.get(key, deadline=self.deadline())
            if item is not None:
                found.append(to_change(self._keys, key, item, item.mod))
        return found, snapshot.revision

    def _members(self, array: str) -> list[Change]:
        """The blocks and the statuses of its members, at one revision: each member is in one of them."""
        while True:
            states = self._store.load(self._keys.state(f"{array}-i"), deadline=self.deadline())
            try:
                return [*changes_of(self._keys, states.items), *self._blocks(array, states.revision)]
            except Compacted:
                continue

    def _blocks(self, array: str, revision: int = 0) -> list[Change]:
        prefix = self._keys.of(blocks.KIND, (array, ""))
        snapshot = self._store.load(prefix, deadline=self.deadline(), revision=revision)
        return list(changes_of(self._keys, snapshot.items))

    def task(self, task_id: str) -> TaskView:
        """One task, without what it waits for. Raises NotFound."""
        return self.found(self.tasks(task_id), task_id, alone=True)

    def task_with_parents(self, task_id: str) -> TaskView:
        """One task, with what it waits for. Raises NotFound."""
        model = self.tasks(task_id)
        view = self.found(model, task_id, alone=True)
        member = around(model, task_id)
        spec = member.array.spec if member is not None else view.spec
        parents = [each.task for each in spec.after] if spec is not None else []
        if not parents:
            return view
        model = self.tasks(task_id, *parents) if len(parents) < FEW else self.model(*OF_TASKS)
        return self.found(model, task_id)

    def found(self, model: Model, task_id: str, *, alone: bool = False) -> TaskView:
        """The task in this model, which has no other tasks if it is `alone`. Raises NotFound."""
        view = task_view(model, task_id, alone=alone)
        if view is None:
            raise self.no_task(task_id, why_absent(model, task_id))
        return view

    def still(self, model: Model, task_id: str, before: TaskView | None) -> TaskView:
        """As `found`, of a task that is waited for. Raises NotFound also if it is not that from `before`."""
        view = self.found(model, task_id, alone=True)
        if before is not None and view.status is None:
            view = self.task(task_id)  # removed with its spec, which is not watched?
        check_same(before, view)
        return view

    def no_task(self, task_id: str, why: str = "") -> NotFound:
        """The error for a task that does not exist, and why, if that is known."""
        cluster = self._keys.cluster
        why = why or "see `tally get tasks`"
        return NotFound(f"there is no task {task_id!r} in cluster {cluster!r}: {why}")

    def another(self, task_id: str) -> NotFound:
        """The error for a task whose name another one has by now."""
        return another(task_id)

    def kept_log(self, task_id: str) -> KeptLog | None:
        """As `Outputs.kept_log`."""
        item, _ = self._store.get(
            self._keys.log(parse_name(task_id, "id", "a task id")), deadline=self.deadline()
        )
        return kept_log.decode(item.value) if item is not None else None

    def prefix_of(self, model: Model, task_ids: Collection[str]) -> str:
        """The prefix under which all is that can change these tasks, as far as the model knows them."""
        if any(is_array_or_member(model, task_id) for task_id in task_ids):
            return self._keys.prefix  # its members and blocks, too
        return self._keys.state(next(iter(task_ids))) if len(task_ids) == 1 else self._keys.state("")

    def follow(
        self,
        load: Callable[[], Model],
        prefix: Callable[[Model], str],
        timeout_seconds: float | None,
        stop: StopEvent | None = None,
    ) -> Iterator[tuple[Model, set[str] | None]]:
        """The model that `load` returns, kept current by a watch on the `prefix` that follows from it.

        Each step yields the model, and what changed by the names of `array_changes` (None: all). It ends
        when the time is over, or `stop` is set. Raises StoreClosed if the store is closed meanwhile, and
        InvalidField.
        """
        stop, seconds = stop or StopEvent(), parse_timeout(timeout_seconds)
        until = None if seconds is None else self._clock.boottime() + seconds
        while True:
            mirror = Mirror(load())
            yield mirror.model, None
            watch = self._store.watch(
                prefix(mirror.model), after=mirror.model.revision, silence_seconds=WATCH_SILENCE_SECONDS
            )
            try:
                with closed_at(watch, self._clock, until) as is_over, stop.closing(watch.close):
                    for batch in watch:
                        news = mirror.take(Changed.of(self._keys, batch)).changes or ()
                        shown = (change for change in news if change.kind in ("tasks", "states", blocks.KIND))
                        if names := {name for change in shown for name in names_of(change)}:
                            yield mirror.model, names
                    if not is_over.is_set() and not stop.is_set():
                        raise StoreClosed
                return
            except (Compacted, ClusterChanged):
                continue  # the model is loaded again

    def looks(
        self, selection: Selection, task_id: str, stop: StopEvent | None
    ) -> Generator[TasksLook, None, None]:
        """As `Client.watch_tasks`; `task_id`: of this one alone, also a member of an array; "": of all."""
        load = (lambda: self.tasks(task_id)) if task_id else (lambda: self.model(*OF_TASKS))
        ids = (task_id,) if task_id else ()
        prefix = lambda model: self.prefix_of(model, ids) if ids else self._keys.prefix  # noqa: E731
        for model, changed in self.follow(load, prefix, None, stop):
            only = None if changed is None else listed_among(changed) if not task_id else {task_id}
            if not task_id or not is_array_or_member(model, task_id):
                if task_id and changed and ((view := task_view(model, task_id)) is None or not view.status):
                    model = self.tasks(task_id)  # removed with its spec, which is not watched?
                views = sorted_views(model, *selection[:3], only, selection[3], alone=bool(task_id))
                gone = {name for name in only or () if task_view(model, name) is None}
                whole = changed is None or (bool(task_id) and not views)
                yield TasksLook(views, is_whole=whole, gone=gone)
            elif changed is None or named_among(changed, ids):
                view = task_view(model, task_id, alone=True)
                yield TasksLook([view] if view is not None else [], is_whole=changed is None or view is None)


def parse_state(text: str) -> State:
    """The state that the user's word names, in any case and with or without hyphens.

    Raises UserError that lists the states.
    """
    wanted = text.replace("-", "").replace("_", "").lower()
    for state in State:
        if state.lower() == wanted:
            return state
    raise UserError(f"{text!r} is not a state of a task: use one of {', '.join(State)}")


def requirements(labels: Mapping[str, str] | None, selector: str) -> tuple[Requirement, ...]:
    """The requirements of both the labels and the selector. Raises InvalidField, InvalidSelector."""
    given = parse_labels(labels or {}, "labels")
    equal = (Requirement(key, frozenset([value]), negated=False) for key, value in given.items())
    return (*equal, *(parse_selector(selector) if selector else ()))


def wanted_states(text: str) -> frozenset[str] | None:
    """The states that the user's words name; None for "": all. Raises UserError that lists them."""
    try:
        return parse_states(text, HELD_BACK) if text else None
    except ValueError as error:
        raise UserError(str(error)) from None


def parse_filter(raw: object, field: str) -> str:
    """Whose tasks are meant, such as those of a pool; "": all. Raises InvalidField."""
    if not raw:
        return ""
    if len(text := parse_text(raw, field)) > MAX_FILTER:
        raise InvalidField(field, f"has {len(text)} characters, but at most {MAX_FILTER} are allowed")
    return text


def sorted_tasks(
    model: Model,
    pool: str,
    states: frozenset[str] | None,
    terms: Sequence[Requirement],
    only: set[str] | None = None,
    owner: str = "",
) -> list[Task]:
    """The tasks that match, in the order in which they were submitted; `only` limits them to these ids.

    Raises InvalidField.
    """
    wanted = parse_filter(pool, "pool") or None, states, terms, parse_filter(owner, "owner") or None
    return sorted(matching(model, only, *wanted), key=_submission)


def sorted_views(
    model: Model,
    pool: str,
    states: frozenset[str] | None,
    terms: Sequence[Requirement],
    only: set[str] | None = None,
    owner: str = "",
    *,
    alone: bool = False,
) -> list[TaskView]:
    """The views of `sorted_tasks`; `alone` as for `task_view`."""
    found = sorted_tasks(model, pool, states, terms, only, owner)
    return [view for task in found if (view := task_view(model, task.id, alone=alone)) is not None]


def _submission(task: Task) -> tuple[int, str]:
    return task.spec_create, task.id
