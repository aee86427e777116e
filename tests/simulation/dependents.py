"""The judge of dependencies: who begins after whom, who never does, and what is kept for whom (I13).

It looks at what stands in etcd, spec by spec, and keeps no index.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from controller.core.model import codec, features
from controller.core.model.installation import decode_engine
from controller.core.model.requests import RequestKind
from controller.core.model.task import Spec, Status
from controller.errors import CorruptValue
from controller.store.base import KeyValue

if TYPE_CHECKING:
    from tests.simulation.oracle import Oracle

WAITING = ("Created", "WaitingRetry")
FINISHED = ("Succeeded", "Failed", "Cancelled")
WANTED = {"succeeded": ("Succeeded",), "failed": ("Failed",), "finished": FINISHED}
REFUSALS = ("DependencyFailed", "DependencyUnknown", "Skipped")


class DependencyJudge:
    """See the module's docstring. Each method says what is wrong; "" if nothing is."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self.counts: dict[str, int] = {}  # how often each of its things happened

    # -- what stands in etcd

    def _read(self, task_id: str, item: KeyValue | None) -> tuple[Spec, tuple[int, float, str]] | None:
        """A spec, and what orders it."""
        if item is None:
            return None
        try:
            stored = codec.decode_spec(task_id, item.value)
        except CorruptValue:
            return None
        if stored.error:
            return None
        return stored.spec, (item.create, stored.submitted_at, task_id)

    def spec(self, task_id: str) -> tuple[Spec, tuple[int, float, str]] | None:
        return self._read(task_id, self._oracle.etcd.get(self._oracle.keys.task(task_id)))

    def status(self, task_id: str) -> Status | None:
        """As it stands now; None if there is none, or none that can be read."""
        item = self._oracle.etcd.get(self._oracle.keys.state(task_id))
        try:
            return codec.decode_status(item.value)[0] if item is not None else None
        except CorruptValue:
            return None

    def is_on(self) -> bool:
        """Whether the feature is recorded."""
        item = self._oracle.etcd.get(self._oracle.keys.engine)
        try:
            return item is not None and features.DEPENDENCIES in features.recorded(
                decode_engine(item.value).engine.parts
            )
        except CorruptValue:
            return False

    def waits_for(self, task_id: str) -> tuple[str, ...]:
        """The tasks that it waits for, if it has not begun since it was submitted or retried."""
        found, status = self.spec(task_id), self.status(task_id)
        if found is None or (self._oracle.keys.state(task_id) in self._oracle.values and status is None):
            return ()
        array = found[0].array
        if array is not None and not array.gang:  # each of its members waits for them
            is_over = status is not None and status.state not in WAITING
            return () if is_over else tuple(each.task for each in found[0].after)
        is_gated = status is None or status.state == "Created" or (status.gated and status.state in WAITING)
        return tuple(each.task for each in found[0].after) if is_gated else ()

    # -- what is judged

    def wrong_step(self, task_id: str, old: Status | None, new: Status, changed: set[str]) -> str:
        """An admission, or a refusal for a dependency, that a leader wrote."""
        if not _must_wait(old) or new.state in WAITING:
            return ""
        found = self.spec(task_id)
        if found is None or not found[0].after:
            return ""
        if new.state == "Pending":
            self._count("begun")
            return self._wrong_admission(found[0], old, changed)
        if new.reason == "QueueDeadlineExceeded":
            statuses = [(each, self.status(each.task)) for each in found[0].after]
            late = [
                each.task for each, status in statuses if status is not None and status.state not in FINISHED
            ]
            return f"has waited too long in the queue, and waits for {late}" if late else ""
        if new.reason in REFUSALS and codec.decode_history(new)[-1].event != "members-cancelled":
            self._count(new.reason)
            return self._wrong_refusal(found[0], new)
        return ""

    def _wrong_admission(self, spec: Spec, old: Status | None, changed: set[str]) -> str:
        for dependency in spec.after:
            has_begun = old is not None and old.attempt > 0
            if has_begun and self.is_another(dependency.task, spec.id):
                continue  # its parent was removed since
            if self._oracle.keys.state(dependency.task) in changed:
                return f"was admitted in the transaction that changes {dependency.task}"
            status = self.status(dependency.task)
            if status is None and has_begun:
                continue
            if status is None or status.state not in WANTED[dependency.when]:
                what = status.state if status is not None else "not there"
                return (
                    f"was admitted after {dependency.task}, which is {what}: {dependency.when} was asked for"
                )
        return ""

    def is_another(self, parent: str, child: str) -> bool:
        """Whether a parent is no older task than its child, as far as can be read."""
        keys = self._oracle.keys
        this, that = self._oracle.etcd.get(keys.task(child)), self._oracle.etcd.get(keys.task(parent))
        if this is None or that is None or that.create != this.create:
            return this is not None and that is not None and that.create > this.create
        younger, older = self.spec(child), self.spec(parent)
        return younger is not None and older is not None and not older[1] < younger[1]

    def is_gone(self, parent: str, child: str) -> bool:
        """Whether there is no parent of this name that is older than its child, as far as can be read."""
        keys = self._oracle.keys.task(parent), self._oracle.keys.state(parent)
        is_there = any(self._oracle.etcd.get(key) is not None for key in keys)
        return not is_there or self.is_another(parent, child)

    def is_closed(self, task_id: str, known: int | None = None) -> bool:
        """Whether one that it waits for has not ended as it wants, or is to run again.

        `known`: as far as a writer may have known that knew so much.
        """
        found = self.spec(task_id)
        for dependency in found[0].after if found is not None and self.waits_for(task_id) else ():
            if dependency.is_paired:
                continue  # its members wait, one by one: see `pairs`
            status = self.status(dependency.task)
            is_member = status is not None and status.array  # its own, say: nobody waits for one
            is_gone = is_member or self.is_gone(dependency.task, task_id)
            if is_gone and self._oracle.arrays.has_run(task_id):
                continue  # it had ended when the first member began
            if status is None or status.state not in WANTED[dependency.when]:
                return True
            retry = self._oracle.keys.request(dependency.task, RequestKind.RETRY)
            is_retried = retry in self._oracle.values
            if known is not None:  # and a task whose spec is gone cannot be retried
                is_retried = self._oracle.arrays.requests.asked(dependency.task, RequestKind.RETRY, known)
                is_retried = is_retried and self.spec(dependency.task) is not None
            if is_retried:
                return True
        return False

    def _wrong_refusal(self, spec: Spec, new: Status) -> str:
        if new.reason == "DependencyUnknown":
            for dependency in spec.after:
                keys = self._oracle.keys.task(dependency.task), self._oracle.keys.state(dependency.task)
                is_there = any(self._oracle.etcd.get(key) is not None for key in keys)
                status = self.status(dependency.task)
                is_there = is_there and not (status is not None and status.array)  # nobody waits for a member
                if not is_there or self.is_another(dependency.task, spec.id):
                    return ""
                if dependency.is_paired and self._oracle.arrays.pairs.array_of(spec, dependency.task) is None:
                    return ""
            return "was refused for a task that is not there, and each of them is"
        unmet = []
        for dependency in spec.after:
            status = self.status(dependency.task)
            if status is None or status.state not in FINISHED:
                if dependency.task in {*self._oracle.mended, *self._oracle.rubbish, *self._oracle.frozen}:
                    return ""  # somebody has just written over it, and only what is unmet is compared
                what = status.state if status is not None else "not there"
                return f"was refused while {dependency.task} is {what}"
            if dependency.is_paired and self._oracle.arrays.has_begun(dependency.task):
                continue
            if status.state not in WANTED[dependency.when]:
                unmet.append(dependency.when.value)
        if not unmet:
            return f"was refused as {new.reason}, and all that it waits for have ended as it wants"
        is_skipped = all(when == "failed" for when in unmet)
        if is_skipped != (new.reason == "Skipped"):
            return f"was refused as {new.reason}, and unmet are: {unmet}"
        return ""

    def wrong_removal(self, task_id: str) -> str:
        """A task that a leader removed, while others wait for it that keep it by a record."""
        if not self.is_on():
            return ""
        oracle = self._oracle
        prefix = f"{oracle.keys.awaits}{task_id}/"
        for key in [key for key in oracle.values if key.startswith(prefix)]:
            child = key.removeprefix(prefix)
            if task_id in self.waits_for(child) and not self.is_another(task_id, child):
                return f"was removed while {child} waits for it"
        return ""

    def wrong_end_of_record(self, rest: str, changed: set[str]) -> str:
        """A record that a leader deleted: the child must have begun, or ended, or wait for another."""
        parent, _, child = rest.partition("/")
        if parent in self.waits_for(child) and self._oracle.keys.state(child) not in changed:
            return f"was deleted while {child} waits for {parent}"
        self._count("records")
        return ""

    def waits_on(self, task_id: str, seen: set[str] | None = None) -> Iterator[str]:
        """All that it waits for, directly or not."""
        seen = seen if seen is not None else set()
        for parent in self.waits_for(task_id):
            if parent not in seen:
                seen.add(parent)
                yield parent
                yield from self.waits_on(parent, seen)

    def waiting_for(self, task_id: str) -> list[str]:
        """The tasks that wait for this one."""
        return [name for name in self._oracle.unfinished() if task_id in self.waits_for(name)]

    def left(self) -> list[str]:
        """Records that keep nothing, once all has settled."""
        return [f"{key} is left" for key in self._oracle.values if key.startswith(self._oracle.keys.awaits)]

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


def _must_wait(old: Status | None) -> bool:
    """Whether it waits, and has not begun since it was submitted, or since a user asked for a retry."""
    if old is None or old.state == "Created":
        return True
    events = [step.event for step in codec.decode_history(old)]
    began = max((n for n, event in enumerate(events) if event == "admitted"), default=-1)
    again = max((n for n, event in enumerate(events) if event == "retry-requested"), default=-1)
    return old.state in WAITING and (again > began or (began < 0 and old.steps <= len(events)))
