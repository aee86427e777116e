"""Arrays whose members each wait for one of another array (`index: same`): who submits them, and the judge.

The judge looks at what stands in etcd, member by member, and keeps no index.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from controller.core.model import blocks, codec
from controller.core.model.blocks import Fate
from controller.core.model.requests import RequestKind
from controller.core.model.task import Spec
from controller.errors import CorruptValue

if TYPE_CHECKING:
    from tests.simulation.oracle import Oracle
    from tests.simulation.users import Users

WANTED = {
    "succeeded": ("Succeeded",),
    "failed": ("Failed",),
    "finished": ("Succeeded", "Failed", "Cancelled"),
}
WISHES = ("succeeded", "succeeded", "failed", "finished")
ABSENT = "absent"


def follow(users: Users, after: list[dict[str, str]], array: dict[str, Any]) -> int:
    """Let a new array follow one or two that there are, mostly of as many members. Returns its size."""
    rng = users.scheduler.rng
    if rng.random() < 0.6 and users._submitted < users._tasks:
        users._submitted += 1
        first, fields = f"t{users._submitted}", users._fields()
        fields |= {"resources": {"cpu": "250m"}, "array": {"size": array["size"]}, "pool": "default"}
        fields.pop("deadlines", None)
        users._write_spec(first, fields)
        after.append({"task": first, "when": rng.choice(WISHES), "index": "same"})
        return int(array["size"])
    known = [name for name in users.oracle.arrays.known() if name not in {each["task"] for each in after}]
    for name in rng.sample(known[-4:], min(len(known), rng.choice((1, 1, 2)))):
        spec = users.oracle.arrays.spec(name)
        if spec is not None and spec.array is not None and rng.random() < 0.95:
            array["size"] = spec.array.size
        after.append({"task": name, "when": rng.choice(WISHES), "index": "same"})
    return int(array["size"])


class PairJudge:
    """See the module's docstring. Each method says what is wrong; "" if nothing is."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self.counts: dict[str, int] = {}  # how often each of its things happened

    def array_of(self, child: Spec, parent: str) -> Spec | None:
        """The array that it can follow, by the specs that stand there; None if it is none."""
        spec = self._oracle.arrays.spec(parent)
        if spec is None or spec.array is None or spec.array.gang or child.array is None:
            return None
        return spec if spec.array.size == child.array.size else None

    def _state(self, child: Spec, parent: str, index: int) -> str | None:
        """How the member of the parent has ended; None if it has not, as far as can be read."""
        oracle = self._oracle
        item = oracle.etcd.get(oracle.keys.task(parent))
        if item is not None and not _is_readable(parent, item.value):
            return None
        if self.array_of(child, parent) is None or oracle.dependents.is_another(parent, child.id):
            return ABSENT
        block = oracle.arrays.block(parent, index // blocks.LENGTH)
        if block is None:
            return None
        fate = block.fate(index % blocks.LENGTH)
        if fate.has_ended:
            return fate.outcome.value.capitalize()
        status = oracle.dependents.status(parent)
        return status.state.value if status is not None and status.state in WANTED["finished"] else None

    def wrong_begin(self, name: str, index: int, attempts: int, known: int) -> str:
        """A member that begins, and has had so many attempts; its writer knew so much."""
        child = self._oracle.arrays.spec(name)
        for each in child.after if child is not None else ():
            if child is None or not each.is_paired:
                continue
            state = self._state(child, each.task, index)
            if state == ABSENT and attempts:
                continue
            if state is None or state not in WANTED[each.when]:
                return f"begins, and member {index} of {each.task} is {state}: {each.when} was asked for"
            if state != "Succeeded" and self._oracle.arrays.requests.asked(
                each.task, RequestKind.RETRY, known
            ):
                return f"begins while a retry of {each.task} waits"
            self._count(f"begun after {state}")
        return ""

    def wrong_never(self, name: str, index: int, after: Fate) -> str:
        """A member that has ended, and never ran, for what it waited for."""
        child, unmet, of_all = self._oracle.arrays.spec(name), list[str](), list[str]()
        if child is None or not child.after:
            return "changes a fate without a reason"
        states: list[str | None] = []
        for each in child.after:
            if each.is_paired:
                states.append(self._state(child, each.task, index))
            elif self._oracle.dependents.is_gone(each.task, name):
                states.append(None if self._oracle.arrays.has_run(name) else ABSENT)
            else:
                status = self._oracle.dependents.status(each.task)
                states.append(status.state.value if status is not None else None)
        if ABSENT in states:
            return ""  # whatever has become of the others
        for each, state in zip(child.after, states, strict=True):
            if not each.is_paired and self._oracle.dependents.is_gone(each.task, name):
                continue  # it was met as the array began
            status = self._oracle.dependents.status(each.task)
            if state is None or status is None or status.state not in WANTED["finished"]:
                what = status.state if status is not None else "not there"
                return f"never runs, and {each.task} is {what}, its member {state}"
            if state not in WANTED[each.when]:
                of_all += [each.when.value] if not each.is_paired else []
                unmet.append(each.when.value)
        unmet = of_all or unmet
        is_skipped = bool(unmet) and all(when == "failed" for when in unmet)
        due = ("cancelled", "Skipped") if is_skipped else ("failed", "DependencyFailed")
        if not unmet or (after.outcome, after.reason) != due:
            return f"never runs, as {after.outcome} {after.reason}; unmet are: {unmet}"
        self._count(f"never, {after.outcome}")
        return ""

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


def _is_readable(name: str, value: bytes) -> bool:
    try:
        codec.decode_spec(name, value)
    except CorruptValue:
        return False
    return True
