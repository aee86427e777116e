"""Users, admins and operators: they submit, cancel and retry, often at the worst moment, and change pools
as they like.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from controller.client.newcomers import Newcomers
from controller.client.prepared import prepare
from controller.client.submission import KnownPools, Submission
from controller.core.model import attested, codec
from controller.core.model.attested import Attestation
from controller.core.model.notices import Delivery, encode_delivery
from controller.core.model.op import Op
from controller.core.model.requests import Request, RequestKind
from controller.core.model.schedules import KIND
from controller.core.model.task import DEFAULT_OWNER
from controller.core.model.validation import parse_pool, parse_spec
from controller.errors import CorruptValue, InvalidField
from controller.store.base import Committed, Delete, Guard, Put, Transaction, Write
from controller.store.keys import Keys
from controller.views.queue_room import QueueRoom
from controller.views.tasks import StoredTasks
from tests.simulation.array_users import ArrayUsers
from tests.simulation.etcd import SimulatedEtcd
from tests.simulation.kin import Kin
from tests.simulation.nodes import FOLLOWS, POOL, Nodes
from tests.simulation.oracle import FINISHED, HOLDING, USER, Oracle
from tests.simulation.scheduler import Scheduler
from tests.simulation.schedules import ScheduleUsers
from tests.simulation.windows import WindowUsers

POOLS = ("default", "spare")
OWNERS = ("blue", "green", "red")


def beside(cpu: str | int) -> dict[str, Any]:
    """A pod template with a sidecar that asks for so much."""
    return {"spec": {"containers": [{"name": "side", "image": "x", "resources": {"requests": {"cpu": cpu}}}]}}


class Users:
    """All of them. They write to etcd directly: when a write arrives is all that matters."""

    def __init__(
        self,
        scheduler: Scheduler,
        etcd: SimulatedEtcd,
        oracle: Oracle,
        keys: Keys,
        tasks: int,
        *,
        shares: bool,
        schedules: bool,
        arrays: bool,
    ) -> None:
        self.scheduler = scheduler
        self.etcd = etcd
        self.oracle = oracle
        self.keys = keys
        self._tasks = tasks
        self._shares = shares  # pools among owners
        self._submitted = 0
        self._ops = 0
        self._calm = False
        self._gateways = self._notifies = False
        self._schedules = ScheduleUsers(self, self._fields) if schedules else None
        oracle.schedules.is_off = not schedules
        self.nodes: Nodes | None = None  # which the capacity of a pool follows
        self._burst = OWNERS[0]  # who submits most just now
        self.kin = Kin(self)
        self.arrays = ArrayUsers(self)
        self.arrays.is_on = arrays
        self.windows = WindowUsers(self)

    def now(self) -> float:
        """The users' wall clock."""
        return self.scheduler.wall + self.scheduler.now

    def set_up(self) -> None:
        """The pools, as they are at first."""
        rng = self.scheduler.rng
        # some submit through one, and pools may ask for it: then fewer compete for shares
        self._gateways = rng.random() < (0.2 if self._shares else 0.7)
        self._notifies = rng.random() < 0.4
        if self.windows.is_on:
            self.windows.one_by_one = rng.random() < 0.5
        self.kin.is_on = rng.random() < 0.5
        if self.kin.is_on:
            self.kin.turn_on()
        self.pool("default", {"cpu": 4, "memory": 8}, **self._sharing())
        self.pool("spare", {"cpu": 2}, policy="backfill", backfill_seconds=5, **self._sharing())
        self._gateways = (
            self.scheduler.rng.random() < 0.4
        )  # some submit through one, and pools may ask for it

    def act(self) -> None:
        """One of them does something."""
        rng = self.scheduler.rng
        deeds = {
            self.submit: 6,
            self.cancel: 6,
            self.retry: 5,
            self.submit_again: 1,
            self.confirm: 2,
            self.change_pool: 1,
            self.delete_spec: 0.3,
            self.replace_spec: 0.5,
            self.ask_nobody: 0.3,
            self.retry_late: 2,
            self.change: 2,
        }
        if self._gateways:
            deeds[self.attest] = 0.3
        if self._notifies:
            deeds[self.deliver] = 3
        if self.kin.is_on:
            deeds[self.kin.circle] = 0.3
            deeds[self.kin.retry_downstream] = 2
        if self.arrays.is_on:
            deeds.update({self.arrays.submit: 4, self.arrays.ask: 5, self.arrays.meddle: 0.3})
            deeds[self.arrays.make_again] = 0.5
        if self.windows.is_on:
            deeds[self.windows.drain] = 6 if self.windows.one_by_one else 3
        if self.nodes is not None:
            deeds[self.nodes.act] = 6
        if self._schedules is not None:
            often = 4 if self.arrays.is_on else 1.5  # so that arrays are replaced, too
            deeds.update({self._schedules.apply: often, self._schedules.meddle: 0.7})
        if self._shares:  # they want more than there is
            deeds.update({self.submit: 10, self.cancel: 1.5, self.retry: 4, self.retry_late: 1})
            self._burst = rng.choice(OWNERS)
        done = rng.choices(list(deeds), list(deeds.values()))[0]
        for _ in range(rng.randint(1, 6) if done == self.submit else 1):
            done()
        if done == self.submit and rng.random() < 0.1:
            self.soon(rng.random() * 0.03, self.change_pool)

    @property
    def pace(self) -> float:
        """How much longer they wait before they act again than usual."""
        return self.windows.pace(self._submitted, self._tasks)

    def submit(self) -> None:
        """A new task; now and then one that cannot be."""
        if self._submitted >= self._tasks:
            return
        self._submitted += 1
        rng = self.scheduler.rng
        task_id = f"t{self._submitted}"
        after = self.kin.after()
        if after:
            self.kin.write(task_id, {"after": after, **self._fields()})
        else:
            self._write_spec(task_id, self._fields())
        if rng.random() < 0.2:
            self.soon(at := rng.random() ** 3, lambda: self.request(task_id, RequestKind.CANCEL))
            if rng.random() < 0.2:  # while that is about to be recorded
                self.soon(at + rng.random() * 0.02, lambda: self.delete(self.keys.task(task_id)))
        elif rng.random() < 0.1:  # while it is about to be admitted
            self.soon(rng.random() * 0.03, lambda: self.delete(self.keys.task(task_id)))

    def submit_again(self) -> None:
        """The same name once more: refused while it is taken, and a new task once it was removed."""
        if self._submitted:
            self._write_spec(f"t{self.scheduler.rng.randint(1, self._submitted)}", self._fields())

    def cancel(self) -> None:
        """Somebody loses patience."""
        self._request_any(RequestKind.CANCEL)

    def retry(self) -> None:
        """Somebody tries again what has ended, or thinks that it has."""
        self._request_any(RequestKind.RETRY)
        if self.scheduler.rng.random() < 0.2:
            self._request_any(RequestKind.CANCEL)

    def change(self) -> None:
        """Somebody puts a task on hold, mostly for a while, or releases one, or thinks another one urgent."""
        task_id, rng = self._any_task(), self.scheduler.rng
        held = [task for task, status in self.oracle.statuses.items() if status.on_hold]
        if held and rng.random() < 0.3:
            self._change(rng.choice(held), on_hold=False)
        elif task_id and rng.random() < 0.4:
            self._change(task_id, priority=rng.choice((-1, 0, 3, self._submitted)))
        elif task_id:
            self._change(task_id, on_hold=True)
            if rng.random() < 0.8:
                self.soon(rng.random() ** 2 * 5, lambda: self._change(task_id, on_hold=False))

    def _change(self, task_id: str, **fields: Any) -> None:
        request = Request(kind=RequestKind.CHANGE, by=self._op(), at=self.now(), **fields)
        self._write(Put(self.keys.request(task_id, RequestKind.CHANGE), codec.encode(request)))

    def confirm(self) -> None:
        """An operator looks at an attempt that is lost, and says that it is dead when it truly is; or
        speaks of another.
        """
        for task_id, status in self.oracle.statuses.items():
            if status.state in HOLDING and (status.lost_since is not None or status.stopping):
                alive = [
                    a
                    for a in self.oracle.engine.every.get(task_id, ())
                    if a.id.number == status.attempt and not a.ended
                ]
                if not alive:
                    self.request(task_id, RequestKind.CONFIRM_STOPPED, status.attempt)
                else:
                    self.request(task_id, RequestKind.CONFIRM_STOPPED, status.attempt + 1)
                return

    def change_pool(self) -> None:
        """An admin shrinks, grows, pauses or removes a pool."""
        rng = self.scheduler.rng
        name = rng.choice(POOLS)
        if rng.random() < 0.15:
            self._write(Delete(self.keys.pool(name)))
            return
        policy = rng.choice(({"policy": "strict"}, {"policy": "backfill", "backfill_seconds": 5}))
        template = (
            {"engine_options": {"pod_template": beside(rng.choice(("250m", 1)))}}
            if rng.random() < 0.4
            else {}
        )
        capacity = {"cpu": rng.choice((0, 1, 2, 3, 4, 6)), "memory": 8}
        options = {"paused": rng.random() < 0.1, "keep_logs": rng.random() < 0.3}
        options["require_attested"] = self._gateways and rng.random() < 0.6
        self.pool(name, capacity, **options, **policy, **template, **self._sharing())

    def _sharing(self, *, limits: bool = True) -> dict[str, Any]:
        """How an admin shares a pool, or not at all, in a run with owners."""
        rng = self.scheduler.rng
        if not self._shares or rng.random() < 0.1:
            return {}
        owners: dict[str, Any] = {}
        for owner in OWNERS:
            if rng.random() < 0.85:
                policy = owners[owner] = {"weight": rng.choice((1, 1, 2))}
                if rng.random() < 0.75:
                    policy["guarantee"] = rng.choice(
                        (
                            {"cpu": rng.choice(("500m", 1, 2, 2))},
                            {"cpu": rng.choice(("500m", 1, 2, 2))},
                            {"memory": rng.choice((1, 2))},
                        )
                    )
                if limits and rng.random() < 0.2:
                    policy["limit"] = {"cpu": rng.choice((2, 3))}
                if limits and rng.random() < 0.2:
                    policy["max_running"] = rng.choice((1, 2, 3))
        sharing: dict[str, Any] = {"owners": owners, "half_life_seconds": rng.choice((0, 0, 5))}
        sharing["priority"] = rng.choice(("within-owner", "across-owners"))
        if rng.random() < 0.1:
            return {"sharing": sharing}
        preemption = {
            "reclaim": rng.random() < 0.85,
            "by_priority": rng.random() < 0.75,
            "min_run_seconds": rng.choice((0, 0, 0, 1)),
            "per_minute": rng.choice((3, 60, 60, 60)),
        }
        return {"sharing": sharing, "preemption": preemption}

    def attest(self) -> None:
        """A gateway that somebody has taken over attests what others have submitted, or no longer does."""
        task_id, rng = self._any_task(), self.scheduler.rng
        if not task_id or not self._gateways:
            return
        if rng.random() < 0.3:
            self._write(Delete(self.keys.attested(task_id)))
        else:
            self._write(self._attestation(task_id, rng.choice((DEFAULT_OWNER, *OWNERS))))

    def deliver(self) -> None:
        """A notifier has told about some ends, or has given up; now and then it says so twice."""
        rng, prefix = self.scheduler.rng, self.keys.prefix
        left = [key for key in self.oracle.values if key.startswith(f"{prefix}outbox/")]
        for key in rng.sample(left, min(len(left), rng.randint(1, 4))):
            urls = codec.decode_mapping(self.oracle.values[key]).get("urls", [])
            dead = {url: "refused" for url in urls if rng.random() < 0.2}
            delivery = Delivery(dead=dead, at=self.now(), by="n")
            end = f"{prefix}delivered/{key.removeprefix(f'{prefix}outbox/')}"
            self._write(Put(end, encode_delivery(delivery, self._op())))
            if rng.random() < 0.1:
                self.soon(rng.random() * 0.1, partial(self._write, Put(end, b"{")))

    def _attestation(self, task_id: str, owner: str) -> Put:
        return Put(
            self.keys.attested(task_id), attested.encode(Attestation(owner=owner, by="somebody"), self._op())
        )

    def delete_spec(self) -> None:
        """Somebody deletes a spec around the client."""
        task_id = self._any_task()
        if task_id:
            self._write(Delete(self.keys.task(task_id)))

    def replace_spec(self) -> None:
        """Somebody puts another spec in the place of one, around the client: another pool, other
        resources.
        """
        task_id = self._any_task()
        if task_id:
            self._write(Delete(self.keys.task(task_id)))
            after = self.scheduler.rng.choice((0.0, self.scheduler.rng.random() * 0.05))
            self.soon(after, lambda: self._write_spec(task_id, self._fields()))

    def retry_late(self) -> None:
        """Somebody retries what is just being removed."""
        for task_id, status in self.oracle.statuses.items():
            spec = self.oracle.values.get(self.keys.task(task_id))
            if spec is None or status.state not in ("Failed", "Cancelled"):
                continue
            try:
                retention = codec.decode_spec(task_id, spec).spec.retention_seconds
            except CorruptValue:
                continue
            due = (status.finished_at or 0.0) + retention - self.now()
            if 0 < due < 30:
                self.soon(
                    due + self.scheduler.rng.random() * 0.02,
                    partial(self.request, task_id, RequestKind.RETRY),
                )
                return

    def ask_nobody(self) -> None:
        """A request for a task that does not exist."""
        self.request("nobody", RequestKind.CANCEL)

    def heal(self, aside: int) -> None:
        """Room for all, and for so many that may be set aside; and who has waited for an answer cancels
        nothing any more.
        """
        self.windows.clear()
        if self.nodes is not None:
            self._calm = True
            self.nodes.heal(4 + 4 * aside)
        for name in POOLS:
            asks = self._gateways and self.scheduler.rng.random() < 0.5
            capacity = {"cpu": 4 + 4 * aside, "memory": 8 + 8 * aside}
            self.pool(name, capacity, require_attested=asks, **self._sharing(limits=False))
        for task_id in list({**self.oracle.accepted, **self.oracle.statuses}):
            status = self.oracle.statuses.get(task_id)
            asked = self.keys.request(task_id, RequestKind.CHANGE) in self.oracle.values
            if asked or (status is not None and status.on_hold):
                self._change(task_id, on_hold=False)
        self._calm = True

    def pool(self, name: str, capacity: dict[str, Any], **fields: Any) -> None:
        """Define a pool."""
        notify = [
            {"url": "https://a.example", "on": ["succeeded", "failed"]},
            {"url": "https://b.example/x", "on": ["failed", "cancelled"], "labels": {"team": "a"}},
        ]
        if self.nodes is not None and name == POOL and self.scheduler.rng.random() < 0.8:
            capacity = FOLLOWS
        fields["notify"] = notify if self._notifies and name == "default" else []
        if self.windows.of(name):
            fields["maintenance"] = self.windows.of(name)
        pool = parse_pool({"name": name, "capacity": capacity, **fields})
        self._write(Put(self.keys.pool(name), codec.encode_pool(pool, self._op())))

    def request(self, task_id: str, kind: RequestKind, attempt: int = 0) -> None:
        """Ask for something."""
        request = Request(kind=kind, by=self._op(), at=self.now(), attempt=attempt)
        self._write(Put(self.keys.request(task_id, kind), codec.encode(request)))
        if self.scheduler.rng.random() < 0.3:  # somebody else wants the same
            self.soon(self.scheduler.rng.random() ** 2 * 0.1, lambda: self.request(task_id, kind, attempt))

    def put_bytes(self, key: str, value: bytes) -> None:
        """Somebody writes around the client."""
        self._write(Put(key, value))

    def delete(self, key: str) -> None:
        """Somebody deletes around the client."""
        self._write(Delete(key))

    def _request_any(self, kind: RequestKind) -> None:
        task_id = self._any_task()
        if task_id:
            self.request(task_id, kind)

    def _any_task(self) -> str:
        """One of them: rather one that was touched last, or one that has not ended."""
        rng = self.scheduler.rng
        tasks = list(self.oracle.accepted)
        open_tasks = [task for task, status in self.oracle.statuses.items() if status.state not in FINISHED]
        if open_tasks and rng.random() < 0.6:
            return rng.choice(open_tasks)
        return rng.choice(tasks[-8:]) if tasks else ""

    def _fields(self) -> dict[str, Any]:
        """What somebody may ask for."""
        rng = self.scheduler.rng
        fields: dict[str, Any] = {
            "pool": rng.choices(POOLS, (4, 1))[0],
            "resources": {"cpu": rng.choice(("250m", "500m", 1, 1, 2, 3))},
            "priority": rng.choice((0, 0, 0, 5)),
            "grace_seconds": rng.choice((0, 1, 3)),
            "retry": {
                "max_attempts": rng.choice((1, 2, 3)),
                "backoff_seconds": rng.choice((0, 0.5, 2)),
                "max_seconds": 4,
            },
            "retention_seconds": rng.choice((0.03, 1, 10, 30, 86400)),
            "labels": {"team": rng.choice("ab")},
            "keep_logs": rng.choices((None, True, False), (4, 3, 1))[0],  # None: as its pool says
        }
        if rng.random() < 0.15:
            fields["pod_template"] = beside(rng.choice(("250m", 1)))
        if rng.random() < 0.2:
            fields["deadlines"] = {
                rng.choice(("queue_seconds", "start_seconds", "run_seconds")): rng.choice((1, 3, 8))
            }
        if self.windows.is_on and rng.random() < 0.7:
            fields["deadlines"] = self.windows.deadlines()
        if rng.random() < 0.3:
            fields["on_lost"] = {"replace_after_seconds": rng.choice((3, 20))}
        if rng.random() < 0.1:
            fields["retry"]["rules"] = [{"exit_codes": [2], "action": rng.choice(("fail", "retry"))}]
        if self._shares and rng.random() < 0.9:
            fields["owner"] = self._burst if rng.random() < 0.7 else rng.choice(OWNERS)
            fields["priority"] = rng.choice(
                (0, self._submitted // 4, self._submitted // 2)
            )  # ever higher ones
            if rng.random() < 0.3:  # which pools have plenty of
                fields["resources"]["memory"] = rng.choice((1, 2, 4))
        return fields

    def _write_spec(self, task_id: str, fields: dict[str, Any]) -> None:
        if self.scheduler.rng.random() < 0.4:
            self._submit_by_client({"id": task_id, "command": ["true"], **fields})
            return
        spec = parse_spec({"id": task_id, "command": ["true"], **fields})
        value = codec.encode_spec(spec, self.now(), self._op())
        if self.scheduler.rng.random() < 0.02:
            value = value.replace(b'"command"', b'"commando"')
        key, writes = self.keys.task(task_id), list[Write]()
        if self._gateways and self.scheduler.rng.random() < 0.7:
            owner = spec.owner if self.scheduler.rng.random() < 0.9 else OWNERS[0]
            writes = [self._attestation(task_id, owner)]
        creation = Transaction((Guard(key, 0),), (Put(key, value), *writes), self._op())
        result = self.etcd.do(lambda store: store.commit(creation, deadline=1e18), USER)
        self.scheduler.note(
            f"user submits {task_id}: {'accepted' if isinstance(result, Committed) else 'taken'}"
        )

    def _submit_by_client(self, raw: dict[str, Any]) -> None:
        """As the client does: checked against the pools as they were read, and created a moment later, if
        all is as it was.
        """
        rng, pools = self.scheduler.rng, self.oracle.model().pools
        try:
            prepared = prepare(raw, pools)
        except InvalidField as error:
            self.scheduler.note(f"the client refuses {raw['id']}: {error}")
            return
        clock: Any = self  # only asked what time it is
        known, room, nobody_new = (
            KnownPools(lambda: pools),
            QueueRoom(StoredTasks),
            Newcomers(lambda *_: True),
        )
        submission = Submission(self.keys, known, clock, lambda _: None, room, nobody_new, attests="somebody")
        engine = self.etcd.get(self.keys.engine)
        if self._gateways and engine is not None and rng.random() < 0.7:
            prepared = prepared._replace(attests=True, engine_mod=engine.mod)
        creation = submission._creation({raw["id"]: prepared})

        def create() -> None:
            self.scheduler.note(f"the client submits {raw['id']}")
            with self.oracle.creating(raw["id"], prepared.spec.pool, prepared.pool_mod):
                self.etcd.do(lambda store: store.commit(creation, deadline=1e18), USER)

        self.soon(rng.random() ** 2 * 0.1, create)
        if rng.random() < 0.1:
            self.soon(rng.random() * 0.05, self.change_pool)

    def soon(self, seconds: float, action: Callable[[], None]) -> None:
        """Let somebody do something in a moment, unless all have calmed down by then."""
        self.scheduler.after(seconds, lambda: None if self._calm else action())

    def _write(self, write: Write) -> None:
        self.scheduler.note(
            f"user writes {write.key}" if isinstance(write, Put) else f"user deletes {write.key}"
        )
        self.etcd.do(lambda store: store.commit(Transaction((), (write,), self._op()), deadline=1e18), USER)

    def put_spec(self, task_id: str) -> None:
        """Somebody submits a task of that name."""
        self._write_spec(task_id, self._fields())

    def end_schedules(self) -> None:
        """Those that have caught up are suspended, or deleted."""
        if self._schedules is None or self.oracle.schedules.left():
            return
        for schedule in self.oracle.schedules.going():
            if self.scheduler.rng.random() < 0.5:
                self.delete(self.keys.of(KIND, (schedule.name,)))
            else:
                self._schedules.suspend(schedule, suspended=True)

    def write(self, write: Write) -> None:
        """Somebody writes as a client does."""
        self._write(write)

    def new_op(self) -> Op:
        """The op of a write."""
        return self._op()

    def _op(self) -> Op:
        self._ops += 1
        return Op(f"user/{self._ops}")
