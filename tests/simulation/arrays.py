"""Arrays in the simulation: who submits them and asks for parts, and the judge of their members (I15).

A block has three members here, so that arrays of a few members have several.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from controller.core.model import array as one_array
from controller.core.model import blocks, codec, paired
from controller.core.model.arrays import MemberName, Ranges
from controller.core.model.blocks import KIND, WAITS, Block, Fate, MemberOutcome, decode_block
from controller.core.model.requests import Request, RequestKind
from controller.core.model.task import Spec, Status, Step
from controller.core.planning import folding
from controller.core.promise import array_invariants, dependency_invariants
from controller.errors import CorruptValue
from controller.store.base import KeyEvent
from tests.simulation.attestations import is_attested
from tests.simulation.gangs import GangJudge, fields_of_gang, is_gang
from tests.simulation.pairs import PairJudge, follow

if TYPE_CHECKING:
    from tests.simulation.oracle import Oracle
    from tests.simulation.users import Users

LENGTH = 3
DAMAGED_SPEC = b"\xff damaged"
FINISHED = ("Succeeded", "Failed", "Cancelled")
ENDED = ("succeeded", "failed", "cancelled")
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


class ArrayUsers:
    """Users with arrays."""

    def __init__(self, users: Users) -> None:
        self._users = users
        self.is_on = False

    def submit(self) -> None:
        """A new array, now and then one whose member's name is taken."""
        users, rng = self._users, self._users.scheduler.rng
        if users._submitted >= users._tasks:
            return
        users._submitted += 1
        name, size = f"t{users._submitted}", rng.choice((1, 2, 3, 4, 7))
        gang = fields_of_gang(rng) if users._shares or rng.random() < 0.45 else {}
        array = {"size": size, "fail_fast": rng.random() < 0.25}
        if rng.random() < 0.4:
            array["max_running"] = rng.choice((1, 2))
        fields = {**users._fields(), "array": array}
        fields["resources"] = {"cpu": rng.choice(("250m", "250m", "500m", 1))}
        if gang:  # it fits the pools as they are in the end
            fields |= {**gang, "resources": {"cpu": "250m"}}
            fields.pop("pod_template", None)
        if rng.random() < 0.15:
            users.put_spec(str(MemberName(name, rng.randrange(size))))
        after = users.kin.after()
        if not gang and users.kin.is_on and rng.random() < 0.5:
            size = follow(users, after, array)
            fields.pop("deadlines", None)
        if after:
            users.kin.write(name, {"after": after, **fields})
        else:
            users._write_spec(name, fields)
        taken, chance = str(MemberName(name, rng.randrange(size))), rng.random()
        if chance < 0.05:  # when it may be under way, or has ended
            users.soon(rng.random() * 5, lambda: users.put_spec(taken))
        elif chance < 0.15:  # while it is about to be admitted
            users.soon(rng.random() * 0.05, lambda: users.put_spec(taken))
        elif chance < 0.2:
            users.soon(rng.random() * 0.05, lambda: users.delete(users.keys.task(name)))

    def ask(self) -> None:
        """Somebody cancels or retries a part of one, or the whole."""
        users, rng = self._users, self._users.scheduler.rng
        names = [name for name in users.oracle.arrays.known() if rng.random() < 0.7]
        if not names:
            return
        name = rng.choice(names[-4:])
        kind = rng.choice((RequestKind.RETRY, RequestKind.RETRY, RequestKind.CANCEL))
        first = rng.randrange(5)
        members = rng.choice(("", "", str(first), f"{first}-{first + rng.randrange(3)}", "0,2"))
        request = Request(
            kind=kind,
            by=users._op(),
            at=users.now(),
            members=members,
            only_failed=kind is RequestKind.RETRY and rng.random() < 0.3,
        )
        users.put_bytes(users.keys.request(name, kind), codec.encode(request))

    def make_again(self) -> None:
        """Somebody deletes one around the client, and submits another one of its name."""
        users, rng = self._users, self._users.scheduler.rng
        names = users.oracle.arrays.known()
        if names:
            name, array = rng.choice(names), {"size": rng.choice((2, 4)), "gang": bool(users._shares)}
            fields = {**users._fields(), "array": array, "resources": {"cpu": "250m"}}
            users.delete(users.keys.task(name))
            users.soon(rng.random() ** 2 * 3, lambda: users._write_spec(name, fields))

    def meddle(self) -> None:
        """Somebody damages a block, or now and then the spec of an array, and restores it after a while."""
        users, rng = self._users, self._users.scheduler.rng
        prefix, damaged = f"{users.keys.prefix}{KIND}/", users.oracle.arrays.damaged
        found = [key for key in users.oracle.values if key.startswith(prefix) and key not in damaged]
        if rng.random() < 0.25:
            keys = [users.keys.task(name) for name in users.oracle.arrays.known()[-4:]]
            found = [key for key in keys if key not in damaged]
        if not found:
            return
        key = rng.choice(found)
        value = users.oracle.values[key]
        damaged[key] = value
        is_spec = key.startswith(users.keys.task(""))
        rubbish = (b"{", b"", b'{"members":[[1,"lost"]]}', b"\xff")
        users.put_bytes(key, DAMAGED_SPEC if is_spec else rng.choice(rubbish))
        users.scheduler.after(rng.random() * 3, lambda: self._restore(key))

    def _restore(self, key: str) -> None:
        value = self._users.oracle.arrays.damaged.pop(key, None)
        if value is not None and key in self._users.oracle.values:
            self._users.put_bytes(key, value)


class _Asked(NamedTuple):
    """A request on an array: when it was put, and when it was gone."""

    request: Request
    put: int
    gone: int | None


class ArrayJudge:
    """It looks at what stands in etcd, block by block, and keeps no index."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self._asked: dict[str, list[_Asked]] = {}
        self.damaged: dict[str, bytes] = {}  # blocks: what stood there
        self._had: dict[str, tuple[int, int]] = {}  # member → its array's create revision, and its attempts
        self.begun: dict[str, int] = {}  # array → create revision of the spec of which a member has begun
        self.gangs = GangJudge(oracle)
        self.pairs = PairJudge(oracle)
        self.counts: dict[str, int] = {}  # how often each of its things happened

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

    def has_begun(self, name: str) -> bool:
        """Whether a member of the array has begun, or has ended before it began."""
        if is_gang(self.spec(name)):
            return False  # it waits again before each round
        item = self._oracle.etcd.get(self._oracle.keys.task(name))
        return item is not None and self.begun.get(name) == item.create

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

    def fates(self, name: str, size: int, of: str = "") -> list[Fate] | None:
        """What the blocks say of its members, of these blocks alone; None if one is damaged."""
        found: list[Fate] = []
        for number in range((size + LENGTH - 1) // LENGTH):
            block = self.block(name, number, of=of)
            if block is None:
                return None
            found += block.fates(min(LENGTH, size - number * LENGTH))
        return found

    # -- requests

    def on_request(self, event: KeyEvent) -> None:
        """Note what is asked of arrays."""
        name, kind = event.key.rsplit("/", 2)[1:]
        rows = self._asked.setdefault(name, [])
        if (rows and rows[-1].gone is None) or any(row.gone is None for row in rows):
            rows[:] = [
                row._replace(gone=event.mod) if row.gone is None and row.request.kind == kind else row
                for row in rows
            ]
        if event.item is not None:
            try:
                rows.append(_Asked(codec.decode_request(kind, event.item.value), event.mod, None))
            except CorruptValue:
                return

    def _covering(self, name: str, kind: RequestKind, index: int, known: int) -> list[Request]:
        """What was asked of this member, as a writer may have seen it that knew so much."""
        return [
            row.request
            for row in self._asked.get(name, ())
            if row.request.kind is kind
            and (row.gone is None or row.gone > known)
            and index in Ranges.parse(row.request.members)
        ]

    def asked(self, name: str, kind: RequestKind, known: int) -> bool:
        """Whether such a request on the array waits, and a writer knew of it that knew so much."""
        return any(
            row.gone is None and row.put <= known and row.request.kind is kind
            for row in self._asked.get(name, ())
        )

    def _fails(self, name: str) -> bool:
        spec = self.spec(name)
        if spec is None or spec.array is None or not spec.array.fail_fast or spec.array.gang:
            return False
        fates = self.fates(name, spec.array.size) or []
        ended = [status.state for status in self.members(name).values()]
        return "Failed" in ended or any(fate.outcome is MemberOutcome.FAILED for fate in fates)

    def inherits(self, task_id: str, step: Step) -> bool:
        """Whether this step of a member carries out a cancel of its array."""
        member = MemberName.parse(task_id)
        if member is None:
            return False
        words = step.message.replace(":", "").split()
        if "fail_fast" in words:
            return True
        if "by its gang" in step.message:
            gang = self.gangs.status(member.array)
            return gang is None or bool(gang.stopping) or gang.attempt != step.attempt
        rows = self._asked.get(member.array, ())
        return any(
            row.request.by in words and member.index in Ranges.parse(row.request.members)
            for row in rows
            if row.request.kind is RequestKind.CANCEL
        )

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
            return ""  # the spec was deleted meanwhile; it is removed again
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

    def _wrong_fate(self, name: str, index: int, before: Fate, after: Fate, known: int) -> str:
        member, keys = str(MemberName(name, index)), self._oracle.keys
        key = keys.state(member)
        if after.attempts < before.attempts:
            return "counts attempts back"
        if key in self._oracle.before and self._oracle.etcd.get(key) is None:
            value = self._oracle.before[key]
            status = codec.decode_status(value)[0] if value is not None else Status()
            told = Fate(MemberOutcome(status.state.lower()), status.attempt, status.exit_code)
            self._count("folded")
            return "folds another end than there was" if after[:3] != told[:3] else ""
        if before.outcome is MemberOutcome.WAITING and after.outcome is MemberOutcome.CANCELLED:
            self._count("cancelled")
            if self._covering(name, RequestKind.CANCEL, index, known) or self._fails(name):
                shown = self._oracle.statuses.get(member)
                is_one = shown is not None and shown.array == name
                return "cancels a member that is under way" if is_one else ""
            return self.pairs.wrong_never(name, index, after)
        if after.outcome is MemberOutcome.WAITING and before.outcome in (
            MemberOutcome.FAILED,
            MemberOutcome.CANCELLED,
        ):
            self._count("again")
            asked = self._covering(name, RequestKind.RETRY, index, known)
            if before.outcome is MemberOutcome.CANCELLED:
                asked = [request for request in asked if not request.only_failed]
            return "" if asked else "lets run again what nobody asked for"
        if (before.outcome, after.reason) == (MemberOutcome.WAITING, "NameTaken"):
            self._count("taken")
            return "" if self._oracle.specs_put.get(member) else "says that a name is taken which is not"
        if (before.outcome, after.reason) == (MemberOutcome.WAITING, "Unattested"):
            self._count("refused")
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
        block = self.block(new.array, new.index // LENGTH)
        fate = block.fate(new.index % LENGTH) if block is not None else WAITS
        if spec.array.gang != new.of_gang:
            return "begins as a member of a gang, or not, and its array is otherwise"
        if new.of_gang:
            return self.gangs.wrong_begin(task_id, new, fate, changed)
        if fate.has_ended:
            return f"begins again: it has {fate.outcome}"
        _, had = (
            self._had.get(task_id, (0, 0)) if self._had.get(task_id, (0, 0))[0] == item.create else (0, 0)
        )
        if new.attempt <= max(fate.attempts, had):
            return f"begins attempt {new.attempt}, and has had {max(fate.attempts, had)}"
        known, _ = self._oracle.sent[new.op]
        for row in self._asked.get(new.array, ()):
            if row.gone is None and row.put <= known and row.request.kind in ("cancel", "retry"):
                return f"begins while a {row.request.kind} of its array waits"
        if self._fails(new.array):
            return "begins, and another member has failed"
        under_way = [status for status in self.members(new.array).values() if status.state not in FINISHED]
        most = spec.array.max_running
        if most is not None and len(under_way) > most and self._oracle.specs_put.get(new.array) == 1:
            return f"begins as one of {len(under_way)} under way, and {most} may be"
        if not self.has_begun(new.array) and self._oracle.dependents.is_closed(new.array, known):
            return "begins, and its array waits for others"
        if wrong := self.pairs.wrong_begin(new.array, new.index, fate.attempts, known):
            return wrong
        self.begun[new.array] = item.create
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
        self._count("ended")
        outcomes = {fate.outcome for fate in fates}
        due = "Failed" if MemberOutcome.FAILED in outcomes else "Succeeded"
        due = "Cancelled" if due == "Succeeded" and MemberOutcome.CANCELLED in outcomes else due
        return "" if new.state == due else f"ends {new.state}, and its members have {outcomes}"

    def wrong_answer(self, name: str, step: Step, new: Status, request: Request) -> str:
        """What is wrong with a request on an array that was consumed: it is not carried out yet."""
        spec = self.spec(name)
        if spec is None or spec.array is None or spec.array.gang or self._oracle.specs_put.get(name) != 1:
            return ""
        fates, members = self.fates(name, spec.array.size), self.members(name)
        known, _ = self._oracle.sent[new.op]
        for index, fate in enumerate(fates or ()):
            item = self._oracle.etcd.get(self._oracle.keys.state(f"{name}-i{index}"))
            status = members.get(index)
            is_unsure = item is not None and (status is None or item.mod > known)
            if index not in Ranges.parse(request.members) or is_unsure or self._is_odd(f"{name}-i{index}"):
                continue
            state = status.state.lower() if status is not None else str(fate.outcome)
            is_over = state in ENDED or (
                status is not None and (status.cancelling or bool(status.stopping and status.exit_code == 0))
            )
            is_again = state == "failed" or (state == "cancelled" and not request.only_failed)
            wrong = not is_over if step.event == "noted" and request.kind is RequestKind.CANCEL else False
            if wrong or (request.kind is RequestKind.RETRY and is_again):
                return f"{request.kind} was consumed, and member {index} is {state}"
        return ""

    def _is_odd(self, member: str) -> bool:
        """Whether there may be more to it: it is set aside, or something is asked of it alone."""
        prefix = self._oracle.keys.prefix
        odd = (f"{prefix}quarantined/{member}", f"{prefix}requests/{member}/")
        return any(key.startswith(odd) for key in self._oracle.values)

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

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1
