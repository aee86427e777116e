"""Users whose tasks wait for others: some as the client does, some by hand, and in circles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from controller.core.model import codec, features
from controller.core.model.installation import decode_engine, encode
from controller.core.model.requests import RequestKind
from controller.core.model.validation import parse_spec
from controller.store.base import Committed, Guard, Put, Transaction, Write
from tests.simulation.oracle import USER

if TYPE_CHECKING:
    from tests.simulation.users import Users

WISHES = ("succeeded", "succeeded", "failed", "finished")


class Kin:
    """See the module's docstring. `is_on`: whether users of this run do so at all."""

    def __init__(self, users: Users) -> None:
        self._users = users
        self.is_on = False

    def turn_on(self) -> None:
        """Record the feature, as soon as there is a record of the engine."""
        users = self._users
        item = users.etcd.get(users.keys.engine)
        if item is None:
            users.scheduler.after(0.5, self.turn_on)
            return
        record = decode_engine(item.value)
        parts = {**record.engine.parts, features.PREFIX + features.DEPENDENCIES: ""}
        value = encode(replace(record, engine=replace(record.engine, parts=parts)), users._op())
        if not self._commit([Guard(users.keys.engine, item.mod)], [Put(users.keys.engine, value)]):
            users.scheduler.after(0.1, self.turn_on)

    def after(self) -> list[dict[str, str]]:
        """What a new task waits for: mostly recent tasks, whatever has become of them."""
        users, rng = self._users, self._users.scheduler.rng
        known = list(users.oracle.accepted)[-10:]
        if not self.is_on or not known or rng.random() < 0.35:
            return []
        names = rng.sample(known, min(len(known), rng.choice((1, 1, 1, 2, 3))))
        if rng.random() < 0.03:
            names.append("nobody")
        return [{"task": name, "when": rng.choice(WISHES)} for name in names]

    def write(self, task_id: str, fields: dict[str, Any]) -> None:
        """Create the task with the records that keep those that it waits for; now and then without."""
        users, keys = self._users, self._users.keys
        rng = users.scheduler.rng
        spec = parse_spec({"id": task_id, "command": ["true"], **fields})
        guards, records = [Guard(keys.task(task_id), 0), Guard(keys.state(task_id), 0)], list[Write]()
        engine = users.etcd.get(keys.engine)
        guards.append(Guard(keys.engine, engine.mod if engine is not None else 0))
        for dependency in spec.after:
            item = users.etcd.get(keys.task(dependency.task))
            if item is not None and (dependency.task != task_id):
                guards.append(Guard(item.key, item.mod))
                records.append(Put(f"{keys.awaits}{dependency.task}/{task_id}", b"{}"))

        def create() -> None:
            value = codec.encode_spec(spec, users.now(), users._op())
            done = self._commit(guards, [Put(keys.task(task_id), value), *records])
            users.scheduler.note(f"user submits {task_id} after {spec.after}: {done}")

        if rng.random() < 0.1:  # by hand
            guards, records = guards[:1], []
        elif records and rng.random() < 0.1:  # the records come first, as for a task with many parents
            parents = [Guard(guard.key, guard.revision) for guard in guards[3:]]
            if not self._commit(parents, records):
                return
            guards, records = guards[:3], []
        users.soon(rng.random() ** 2 * 0.1, create)

    def circle(self) -> None:
        """Two tasks that wait for each other, in one transaction or one after the other."""
        users, rng = self._users, self._users.scheduler.rng
        if not self.is_on or users._submitted + 2 > users._tasks:
            return
        users._submitted += 2
        one, other = f"t{users._submitted - 1}", f"t{users._submitted}"
        writes = list[Write]()
        for task_id, parent in ((one, other), (other, one)):
            spec = parse_spec({"id": task_id, "command": ["true"], "after": [parent], **users._fields()})
            writes.append(Put(users.keys.task(task_id), codec.encode_spec(spec, users.now(), users._op())))
        if rng.random() < 0.5:
            self._commit([], writes)
        else:
            self._commit([], writes[:1])
            self._commit([], writes[1:])

    def retry_downstream(self) -> None:
        """Somebody retries a task that failed, and all that failed for it, parents first."""
        users = self._users
        failed = [name for name, status in users.oracle.statuses.items() if status.state == "Failed"]
        if not failed:
            return
        names = [users.scheduler.rng.choice(failed)]
        for name in names:
            users.request(name, RequestKind.RETRY)
            for other in failed:
                if other not in names and name in self._named_by(other):
                    names.append(other)

    def _named_by(self, task_id: str) -> list[str]:
        value = self._users.oracle.values.get(self._users.keys.task(task_id))
        after = codec.decode_mapping(value).get("after", []) if value is not None else []
        return [each["task"] for each in after]

    def _commit(self, guards: list[Guard], writes: list[Write]) -> bool:
        transaction = Transaction(tuple(guards), tuple(writes), self._users._op())
        result = self._users.etcd.do(lambda store: store.commit(transaction, deadline=1e18), USER)
        return isinstance(result, Committed)
