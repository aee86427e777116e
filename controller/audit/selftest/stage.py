"""What a selftest works on: its own pool and tasks, under a unique name, and their removal."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from controller.audit.kept_history import KeyRevision, kept_history
from controller.audit.repairs import ask
from controller.client import Client, NotFound, Still, TaskView
from controller.core.model.op import op_of
from controller.core.model.requests import RepairRequest, Wanted
from controller.core.model.resources import Vector
from controller.engine.base import Engine
from controller.errors import TallyError, UserError
from controller.store.base import Compacted, Delete, Guard, Transaction

CPU = "100m"
CAPACITY = Vector({"cpu": 200})  # two of its tasks at a time
CALLS_AT_ONCE = 6
NAMES = "selftest-"


class Failed(TallyError):
    """An expectation does not hold."""


class Skipped(TallyError):
    """The item cannot be tried here; the message says why."""


def require(holds: bool, otherwise: str) -> None:
    """Raise Failed with the message `otherwise`, unless `holds`."""
    if not holds:
        raise Failed(otherwise)


class Stage:
    """See the module's docstring. `connect` and `engine` as SelfTest has them."""

    def __init__(
        self, connect: Callable[[], Client], engine: Engine | None, image: str, timeout_seconds: float
    ) -> None:
        self._connect = connect
        self.client = connect()
        self.engine = engine
        self._image = image
        self.timeout_seconds = timeout_seconds
        self.name = f"{NAMES}{secrets.token_hex(4)}"
        self.began = 0
        """The revision of its first write."""
        self.tasks: list[str] = []

    def check_engine(self) -> None:
        """Raise UserError if the engine needs an image, and none is given."""
        engines = {str(replica.engine.get("name", "")) for replica in self.client.replicas.all()}
        if engines & {"kubernetes", "docker"} and not self._image:
            raise UserError("the tasks need an image with a shell: give --image, such as --image busybox")

    def spec(self, what: str, body: str, **fields: Any) -> dict[str, Any]:
        """The spec of a task that runs `body` in a shell."""
        name = f"{self.name}-{what}-{len(self.tasks)}"
        self.tasks.append(name)
        image = {"image": self._image} if self._image else {}
        command = ["sh", "-c", body]
        return {
            "id": name,
            "pool": self.name,
            "command": command,
            "resources": {"cpu": CPU},
            **image,
            **fields,
        }

    def submit(self, what: str, body: str, **fields: Any) -> str:
        """Submit such a task, which must be new, and return its id."""
        spec = self.spec(what, body, **fields)
        result = self.client.submit(spec)
        require(result.outcome == "created", f"{spec['id']}: {result.outcome} {result.message}")
        return str(spec["id"])

    def wait(self, names: list[str], for_: str = "finished") -> list[TaskView]:
        """Wait for tasks. When the time is over, raise Failed with the reason why one still waits."""
        try:
            views = self.client.wait(names, for_=for_, timeout_seconds=self.timeout_seconds)
        except Still as error:
            why = self.client.explain(error.waiting[0])
            raise Failed(f"{error} after {self.timeout_seconds:g} s: {why}") from error
        return [views[name] for name in names]

    def at_once(self, call: Callable[[Client], str]) -> list[str]:
        """Make the same call from several clients at once."""
        barrier = threading.Barrier(CALLS_AT_ONCE)

        def one() -> str:
            with self._connect() as client:
                barrier.wait(self.timeout_seconds)
                return call(client)

        with ThreadPoolExecutor(CALLS_AT_ONCE, "selftest") as pool:
            return [future.result() for future in [pool.submit(one) for _ in range(CALLS_AT_ONCE)]]

    def stored(self, kind: str) -> dict[str, int]:
        """The selftest's keys of a kind, with their mod revisions."""
        snapshot = self.client.store.load(f"{self.client.keys.prefix}{kind}{self.name}", deadline=self.soon())
        return {item.key: item.mod for item in snapshot.items}

    def history(self, kind: str, *, cut: bool) -> list[KeyRevision]:
        """All changes of its own keys of a kind. With `cut`, the watch reconnects after each batch."""
        client, prefix = self.client, f"{self.client.keys.prefix}{kind}{self.name}"
        try:
            return kept_history(
                client.store,
                prefix,
                self.began,
                self.stored(kind),
                client.clock,
                self.timeout_seconds,
                cut=cut,
            )
        except Compacted as error:
            raise Skipped(f"etcd's history was compacted meanwhile: {error}") from error

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for the condition. Raise Failed when the time is over."""
        ends, pause = self.client.clock.boottime() + self.timeout_seconds, threading.Event()
        while not condition():
            require(
                self.client.clock.boottime() < ends, f"{what} took longer than {self.timeout_seconds:g} s"
            )
            pause.wait(0.1)

    def revision(self) -> int:
        """etcd's present revision."""
        return self.client.store.get(self.client.keys.leader, deadline=self.soon())[1]

    def soon(self) -> float:
        """The deadline of one call to etcd."""
        return self.client.clock.boottime() + 10.0

    def clean_up(self) -> str:
        """Cancel, remove the specs (the leader removes the rest), then the pool and its empty ledger."""
        client, keys = self.client, self.client.keys
        self.cancel_all(self.tasks)
        for key, mod in self.stored("tasks/").items():
            client.store.commit(
                Transaction((Guard(key, mod),), (Delete(key),), op_of(self.name, "remove")),
                deadline=self.soon(),
            )
        self.until(
            lambda: not self.stored("states/") and not self.stored("tasks/"),
            "removing the records of its tasks",
        )
        try:
            client.delete_pool(self.name)
        except NotFound:
            return "nothing was created"
        item, _ = client.store.get(keys.ledger(self.name), deadline=self.soon())
        if item is not None:
            wanted = Wanted(invariant="layout", subject=f"key/ledgers/{self.name}", mod=item.mod)
            request = RepairRequest(
                findings=(wanted,), by=self.name, reason="clean-up of a selftest", at=client.clock.now()
            )
            (outcome,) = ask(client.store, keys, client.clock, request, self.timeout_seconds)
            require(client.store.get(item.key, deadline=self.soon())[0] is None, outcome.what)
        return f"{len(self.tasks)} tasks, the pool and its ledger"

    def cancel_all(self, names: list[str]) -> None:
        """Cancel these tasks, as far as they exist, and wait for their ends."""
        for name in names:
            try:
                self.cancel_until_finished(name)
            except NotFound:
                continue

    def cancel_until_finished(self, name: str) -> None:
        """Cancel the task repeatedly, since a retry that is under way may follow a cancel."""

        def ended() -> bool:
            view = self.client.get(name)
            if not view.finished and not view.requests:
                self.client.cancel(name, reason="ended by a selftest")
            return view.finished and not view.requests

        self.until(ended, f"cancelling {name}")
