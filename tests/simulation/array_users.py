"""Users with arrays: they submit them, and ask for parts, often at the worst moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.core.model import codec
from controller.core.model.arrays import MemberName
from controller.core.model.blocks import KIND
from controller.core.model.requests import Request, RequestKind
from tests.simulation.arrays import DAMAGED_SPEC
from tests.simulation.gangs import fields_of_gang
from tests.simulation.pairs import follow

if TYPE_CHECKING:
    from tests.simulation.users import Users


class ArrayUsers:
    """Users with arrays."""

    def __init__(self, users: Users) -> None:
        self._users = users
        self.is_on = False
        self.only_gangs = False
        users.oracle.arrays.tell = self._see

    def submit(self) -> None:
        """A new array, now and then one whose member's name is taken."""
        users, rng = self._users, self._users.scheduler.rng
        if users._submitted >= users._tasks:
            return
        users._submitted += 1
        name, size = f"t{users._submitted}", rng.choice((1, 2, 3, 4, 7))
        gang = fields_of_gang(rng) if self.only_gangs or rng.random() < 0.45 else {}
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
            name, array = rng.choice(names), {"size": rng.choice((2, 4)), "gang": self.only_gangs}
            fields = {**users._fields(), "array": array, "resources": {"cpu": "250m"}}
            if array["gang"]:  # it fits the pools as they are in the end
                fields.pop("pod_template", None)
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
        if found:
            self._damage(rng.choice(found))

    def _damage(self, key: str) -> None:
        users, rng, damaged = self._users, self._users.scheduler.rng, self._users.oracle.arrays.damaged
        value = users.oracle.values.get(key)
        if value is None or key in damaged:
            return
        damaged[key] = value
        is_spec = key.startswith(users.keys.task(""))
        rubbish = (b"{", b"", b'{"members":[[1,"lost"]]}', b"\xff")
        users.put_bytes(key, DAMAGED_SPEC if is_spec else rng.choice(rubbish))
        users.scheduler.after(rng.random() * 3, lambda: self._restore(key))

    def _see(self, what: str, name: str) -> None:
        """Something happens to a member, and somebody steps in before the leader's next transaction."""
        users, rng = self._users, self._users.scheduler.rng
        if what == "over" and users.oracle.arrays.waits(name) and rng.random() < 0.15:
            users.soon(rng.random() ** 2 * 0.02, lambda: users.delete(users.keys.task(name)))
        elif what == "again" and rng.random() < 0.5:  # of a retry that is half carried out
            self._ask_soon(name, RequestKind.RETRY, rng.choice(("0", "7-9")), rng.random() ** 2 * 0.02)
        elif what == "refused" and rng.random() < 0.5:
            self._ask_soon(name, RequestKind.RETRY, rng.choice(("", "0-2")), rng.random())
        elif what == "ended" and rng.random() < 0.3:
            self._ask_soon(name, RequestKind.RETRY, rng.choice(("", "0", "0,2")), rng.random())
        elif what == "begun" and rng.random() < 0.08:  # and others are still to begin
            members = rng.choice(("", "0", "0-1", "1-2"))
            self._ask_soon(name, RequestKind.CANCEL, members, rng.random() ** 2 * 0.5)
        elif what == "folded" and rng.random() < 0.05:  # and others are still to begin
            number = rng.randrange(3)
            key = f"{users.keys.prefix}{KIND}/{name}/{number}"
            users.soon(rng.random() * 0.05, lambda: self._damage(key))

    def _ask_soon(self, name: str, kind: RequestKind, members: str, seconds: float) -> None:
        users = self._users
        request = Request(kind=kind, by=users._op(), at=users.now(), members=members)
        key = users.keys.request(name, kind)
        users.soon(seconds, lambda: users.put_bytes(key, codec.encode(request)))

    def _restore(self, key: str) -> None:
        value = self._users.oracle.arrays.damaged.pop(key, None)
        if value is not None and key in self._users.oracle.values:
            self._users.put_bytes(key, value)
