"""The judge of arrays in the simulation, and of their members (I15).

Who submits them: see `array_users`. What is asked of them, and the answers: see `array_requests`.

A block has three members here, so that arrays of a few members have several.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from controller.core.model import array as one_array
from controller.core.model import blocks, codec, paired
from controller.core.model.arrays import MemberName
from controller.core.model.blocks import KIND, WAITS, Block, Fate, MemberOutcome, decode_block
from controller.core.model.requests import RequestKind
from controller.core.model.task import Spec, Status
from controller.core.planning import folding
from controller.core.promise import array_invariants, dependency_invariants
from controller.errors import CorruptValue
from controller.store.base import KeyEvent
from tests.simulation.array_requests import ArrayRequests
from tests.simulation.attestations import is_attested
from tests.simulation.gangs import GangJudge, is_gang
from tests.simulation.pairs import PairJudge

if TYPE_CHECKING:
    from tests.simulation.oracle import Oracle

LENGTH = 3
DAMAGED_SPEC = b"\xff damaged"
FINISHED = ("Succeeded", "Failed", "Cancelled")
ENDS = {"members-succeeded": "Succeeded", "members-failed": "Failed", "members-cancelled": "Cancelled"}


@contextmanager
def small_blocks() -> Iterator[None]:
    """A block has three members, within this."""
    before = blocks.LENGTH, folding.MANY
    modules = blocks, one_array, array_invariants, dependency_invariants, folding, paired
    for module in modules:
        module.LENGTH = LENGTH  # type: ignore[attr-defined]
    folding.MANY = 4
    try:
        yield
    finally:
        for module in modules:
            module.LENGTH = before[0]  # type: ignore[attr-defined]
        folding.MANY = before[1]


class ArrayJudge:
    """It looks at what stands in etcd, block by block, and keeps no index."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self.requests = ArrayRequests(oracle, self)
        self.damaged: dict[str, bytes] = {}  # blocks: what stood there
        self._had: dict[str, tuple[int, int]] = {}  # member → its array's create revision, and its attempts
        self._run: dict[str, int] = {}  # the same of those of which one has run
        self.begun: dict[str, int] = {}  # array → create revision of the spec of which a member has begun
        self.gangs = GangJudge(oracle)
        self.pairs = PairJudge(oracle)
        self.counts: dict[str, int] = {}  # how often each of its things happened
        # called with what happens to members of an array, and its name: users look at it
        self.tell: Callable[[str, str], None] = lambda what, name: None

    # -- what stands in etcd

    def spec_id(self, task_id: str) -> str:
        """The name under which a task's spec is stored."""
        status = self._oracle.statuses.get(task_id) or self._oracle.frozen.get(task_id)
        return status.array if status is not None and status.array else task_id

    def spec(self, name: str) -> Spec | None:
        """The spec of an array, as it stands now; None if there is none that can be read."""
        item = self._oracle.etcd.get(self._oracle.keys.task(name))
        if item is None:
            return None
        try:
            stored = codec.decode_spec(name, item.value)
        except CorruptValue:
            return None
        return stored.spec if not stored.error and stored.spec.array is not None else None

    def has_member(self, status: Status) -> bool:
        """Whether the array has the member, by its spec as it stands now."""
        spec = self.spec(status.array)
        return spec is not None and spec.array is not None and status.index < spec.array.size

    def known(self) -> list[str]:
        """The arrays that there are."""
        return [name for name in self._oracle.accepted if self.spec(name) is not None]

    def members(self, name: str) -> dict[int, Status]:
        """Those that have a status."""
        return {status.index: status for status in self._oracle.statuses.values() if status.array == name}

    def waits(self, name: str) -> bool:
        """Whether a member is still to begin."""
        spec, members = self.spec(name), self.members(name)
        size = spec.array.size if spec is not None and spec.array is not None else 0
        return any(index not in members and not self._fate(name, index).has_ended for index in range(size))

    def has_begun(self, name: str) -> bool:
        """Whether a member of the array has begun, or has ended before it began."""
        if is_gang(self.spec(name)):
            return False  # it waits again before each round
        item = self._oracle.etcd.get(self._oracle.keys.task(name))
        return item is not None and self.begun.get(name) == item.create

    def has_run(self, name: str) -> bool:
        """Whether a member of the array has begun."""
        item = self._oracle.etcd.get(self._oracle.keys.task(name))
        return item is not None and self._run.get(name) == item.create

    def _op(self, name: str) -> str:
        item = self._oracle.etcd.get(self._oracle.keys.task(name))
        try:
            op = str(codec.decode_mapping(item.value).get("op", "")) if item is not None else ""
        except CorruptValue:
            return ""
        return f"{op}/{self.gangs.round(name)}" if is_gang(self.spec(name)) else op

    def block(self, name: str, number: int, *, before: bool = False, of: str = "") -> Block | None:
        """A block of the array's spec as it stands, or stood before this revision; None if it is damaged."""
        of = of or self._op(name)
        key = f"{self._oracle.keys.prefix}{KIND}/{name}/{number}"
        if before and key in self._oracle.before:
            value = self._oracle.before[key]
        else:
            item = self._oracle.etcd.get(key)
            value = item.value if item is not None else None
        if value is None:
            return Block(of, ())
        try:
            found = decode_block(value)
        except CorruptValue:
            return None
        return found if found.of == of else Block(of, ())

    def _fate(self, name: str, index: int) -> Fate:
        """What its block says of a member, or said before somebody damaged it."""
        number, place = divmod(index, LENGTH)
        block = self.block(name, number)
        if block is None:
            told = self.damaged.get(f"{self._oracle.keys.prefix}{KIND}/{name}/{number}")
            block = decode_block(told) if told is not None else None
        return block.fate(place) if block is not None and block.of == self._op(name) else WAITS

    def given_up(self, name: str, index: int) -> int:
        """Up to which number attempts of a member were given up, whose status begins."""
        status = self._oracle.statuses.get(name)  # a gang remembers it for all its members
        return max(self._fate(name, index).abandoned, status.abandoned if status is not None else 0)

    def most_given_up(self, name: str) -> int:
        """The highest number of an attempt that its blocks tell to be given up, as they stand or stood."""
        values = {**self._oracle.values, **self._oracle.before}
        prefix, highest = f"{self._oracle.keys.prefix}{KIND}/{name}/", 0
        for key, value in values.items():
            if value and key.startswith(prefix):
                with contextlib.suppress(CorruptValue):
                    highest = max(highest, *(fate.abandoned for fate in decode_block(value).fates(LENGTH)))
        return highest

    def fates(self, name: str, size: int, of: str = "") -> list[Fate] | None:
        """What the blocks say of its members, of these blocks alone; None if one is damaged."""
        found: list[Fate] = []
        for number in range((size + LENGTH - 1) // LENGTH):
            block = self.block(name, number, of=of)
            if block is None:
                return None
            found += block.fates(min(LENGTH, size - number * LENGTH))
        return found

    def _fails(self, name: str) -> bool:
        spec = self.spec(name)
        if spec is None or spec.array is None or not spec.array.fail_fast or spec.array.gang:
            return False
        fates = [self._fate(name, index) for index in range(spec.array.size)]
        ended = [status.state for status in self.members(name).values()]
        return "Failed" in ended or any(fate.outcome is MemberOutcome.FAILED for fate in fates)

    # -- what is judged: each says what is wrong; "" if nothing is

    def wrong_block(self, event: KeyEvent, rest: str, op: str) -> str:
        """A block that a leader wrote or deleted."""
        name, _, text = rest.partition("/")
        number, spec = int(text), self.spec(name)
        old = self.block(name, number, before=True)
        if old is None:
            return "was written over, and cannot have been read"
        if event.item is None:
            spec_key = self._oracle.keys.task(name)
            if spec_key in self.damaged and spec_key in self._oracle.values:
                said = codec.decode_mapping(self._oracle.values[spec_key])
                return "was deleted, and its array cannot be read" if old.of == said.get("op") else ""
            if spec is None or old.of != self._op(name) or not old.runs:
                return ""
            return "was deleted, and its array is there"
        new = decode_block(event.item.value)
        if spec is None or spec.array is None or new.of != self._op(name):
            return self._wrong_array(name, spec, op)
        length = min(LENGTH, spec.array.size - number * LENGTH)
        known, _ = self._oracle.sent[op]
        item = self._oracle.etcd.get(self._oracle.keys.task(name))
        assert item is not None
        self.begun[name] = item.create
        for place, (before, after) in enumerate(zip(old.fates(length), new.fates(length), strict=True)):
            if before != after:
                wrong = self._wrong_fate(name, number * LENGTH + place, before, after, known)
                if wrong:
                    return f"{wrong}: member {number * LENGTH + place} from {before} to {after}"
        return ""

    def _wrong_array(self, name: str, spec: Spec | None, op: str) -> str:
        """A block of another array than there is: its spec was deleted meanwhile. It is removed again."""
        item, (known, _) = self._oracle.etcd.get(self._oracle.keys.task(name)), self._oracle.sent[op]
        is_known = spec is not None and not is_gang(spec) and item is not None and item.mod <= known
        return "tells of an earlier array of its name" if is_known else ""

    def _wrong_fate(self, name: str, index: int, before: Fate, after: Fate, known: int) -> str:
        member, keys = str(MemberName(name, index)), self._oracle.keys
        key = keys.state(member)
        if after.attempts < before.attempts:
            return "counts attempts back"
        if key in self._oracle.before and self._oracle.etcd.get(key) is None:
            value = self._oracle.before[key]
            status = codec.decode_status(value)[0] if value is not None else Status()
            told = Fate(MemberOutcome(status.state.lower()), status.attempt, status.exit_code)
            self._count("folded", name)
            return "folds another end than there was" if after[:3] != told[:3] else ""
        if before.outcome is MemberOutcome.WAITING and after.outcome is MemberOutcome.CANCELLED:
            self._count("cancelled")
            if self.requests.covering(name, RequestKind.CANCEL, index, known) or self._fails(name):
                shown = self._oracle.statuses.get(member)
                is_one = shown is not None and shown.array == name
                return "cancels a member that is under way" if is_one else ""
            return self.pairs.wrong_never(name, index, after)
        if after.outcome is MemberOutcome.WAITING and before.outcome in (
            MemberOutcome.FAILED,
            MemberOutcome.CANCELLED,
        ):
            self._count("again", name)
            asked = self.requests.covering(name, RequestKind.RETRY, index, known)
            if before.outcome is MemberOutcome.CANCELLED:
                asked = [request for request in asked if not request.only_failed]
            return "" if asked else "lets run again what nobody asked for"
        if (before.outcome, after.reason) == (MemberOutcome.WAITING, "NameTaken"):
            self._count("taken")
            return "" if self._oracle.specs_put.get(member) else "says that a name is taken which is not"
        if (before.outcome, after.reason) == (MemberOutcome.WAITING, "Unattested"):
            self._count("refused", name)
            if any(
                self.requests.asked(name, kind, known) for kind in (RequestKind.CANCEL, RequestKind.RETRY)
            ):
                return "refuses members while something is asked of their array"
            return self._wrong_refusal(name)
        if (before.outcome, after.outcome) == (MemberOutcome.WAITING, MemberOutcome.FAILED):
            return self.pairs.wrong_never(name, index, after)
        return "changes a fate without a reason"

    def _wrong_refusal(self, name: str) -> str:
        etcd, keys, spec = self._oracle.etcd, self._oracle.keys, self.spec(name)
        status = self._oracle.statuses.get(name)
        pool = (status.pool if status is not None else "") or (spec.pool if spec is not None else "")
        definition, item = etcd.get(keys.pool(pool)), etcd.get(keys.task(name))
        requires = definition is not None and codec.decode_pool(pool, definition.value).require_attested
        if not requires:
            return "refuses members, and the pool does not"
        if item is not None and is_attested(item, etcd.get(keys.attested(name))):
            return "refuses members of an array that is attested"
        return ""

    def wrong_removal(self, task_id: str, old: Status, changed: set[str]) -> str:
        """The status of a member that a leader deleted."""
        if old.state not in FINISHED:
            return f"was deleted while {old.state}"
        spec = self.spec(old.array)
        if spec is None or spec.array is None or old.index >= spec.array.size:
            return ""
        if spec.array.gang and not self.gangs.tells_of(old):
            return ""
        if f"{self._oracle.keys.prefix}{KIND}/{old.array}/{old.index // LENGTH}" not in changed:
            return "was deleted, and its end is told by no block"
        return ""

    def wrong_step(self, task_id: str, old: Status | None, new: Status, changed: set[str]) -> str:
        """A step of a member that begins, of an array that ends, or of a gang."""
        steps = codec.decode_history(new)
        if not new.array:
            last = steps[-1]
            if wrong := self.gangs.wrong_step(task_id, old, new):
                return wrong
            return self._wrong_end(task_id, new) if last.event in ENDS else ""
        item = self._oracle.etcd.get(self._oracle.keys.task(new.array))
        wrong = self._wrong_begin(task_id, new, changed) if old is None else ""
        if item is not None:
            self._had[task_id] = item.create, new.attempt
        if wrong:
            return wrong
        if old is None:
            return ""
        if new.state in FINISHED:
            self._count("over", new.array)
        if (old.array, old.index) != (new.array, new.index):
            return "changes its array"
        return self.gangs.wrong_member(old, new)

    def _wrong_begin(self, task_id: str, new: Status, changed: set[str]) -> str:
        spec, keys = self.spec(new.array), self._oracle.keys
        item = self._oracle.etcd.get(keys.task(new.array))
        if spec is None or spec.array is None or item is None:
            return "begins, and its array is gone"
        if task_id != f"{new.array}-i{new.index}" or new.index >= spec.array.size:
            return f"begins as member {new.index} of {new.array}, of size {spec.array.size}"
        if keys.task(task_id) in self._oracle.values:
            return "begins, and another task has its name"
        self._count("begun")
        fate = self._fate(new.array, new.index)
        if spec.array.gang != new.of_gang:
            return "begins as a member of a gang, or not, and its array is otherwise"
        if new.of_gang:
            return self.gangs.wrong_begin(task_id, new, fate, changed)
        self.tell("begun", new.array)
        if fate.has_ended:
            return f"begins again: it has {fate.outcome}"
        _, had = (
            self._had.get(task_id, (0, 0)) if self._had.get(task_id, (0, 0))[0] == item.create else (0, 0)
        )
        if new.attempt <= max(fate.attempts, had):
            return f"begins attempt {new.attempt}, and has had {max(fate.attempts, had)}"
        known, _ = self._oracle.sent[new.op]
        for number in range((spec.array.size + LENGTH - 1) // LENGTH):
            stored = self._oracle.etcd.get(f"{keys.prefix}{KIND}/{new.array}/{number}")
            if stored is not None and stored.mod <= known and self.block(new.array, number) is None:
                return f"begins, and block {number} of its array cannot be read"
        for kind in (RequestKind.CANCEL, RequestKind.RETRY):
            if self.requests.asked(new.array, kind, known):
                return f"begins while a {kind} of its array waits"
        if self._fails(new.array):
            return "begins, and another member has failed"
        under_way = [status for status in self.members(new.array).values() if status.state not in FINISHED]
        most = spec.array.max_running
        if most is not None and len(under_way) > most and self._oracle.specs_put.get(new.array) == 1:
            return f"begins as one of {len(under_way)} under way, and {most} may be"
        if self._oracle.dependents.is_closed(new.array, known):
            return "begins, and its array waits for others"
        if wrong := self.pairs.wrong_begin(new.array, new.index, fate.attempts, known):
            return wrong
        self.begun[new.array] = self._run[new.array] = item.create
        return ""

    def _wrong_end(self, name: str, new: Status) -> str:
        spec = self.spec(name)
        if spec is None or spec.array is None:
            return "" if self._oracle.specs_put.get(name, 0) != 1 else "ends as an array, and is none"
        if left := self.members(name):
            return f"ends while member {min(left)} has a status"
        fates = self.fates(name, spec.array.size)
        if fates is None:
            return ""
        waiting = [index for index, fate in enumerate(fates) if not fate.has_ended]
        if waiting:
            return f"ends while member {waiting[0]} waits"
        self._count("ended", name)
        outcomes = {fate.outcome for fate in fates}
        due = "Failed" if MemberOutcome.FAILED in outcomes else "Succeeded"
        due = "Cancelled" if due == "Succeeded" and MemberOutcome.CANCELLED in outcomes else due
        return "" if new.state == due else f"ends {new.state}, and its members have {outcomes}"

    def left(self) -> list[str]:
        """Blocks of no array, and members that are not folded, once all has settled."""
        oracle, prefix = self._oracle, f"{self._oracle.keys.prefix}{KIND}/"
        names = {
            key.removeprefix(prefix).partition("/")[0] for key in oracle.values if key.startswith(prefix)
        }
        found = [f"blocks of {name} are left" for name in sorted(names) if self.spec(name) is None]
        found += self.gangs.left()
        return found + [
            f"{task_id} is not folded"
            for task_id, status in oracle.statuses.items()
            if status.array and status.state in FINISHED
        ]

    def _count(self, what: str, name: str = "") -> None:
        self.counts[what] = self.counts.get(what, 0) + 1
        if name:
            self.tell(what, name)
