"""Users: each submits, submits again what another is submitting, cancels, retries and reads, through links of
its own.

What every call was told is kept, for the judgement of the histories; a task whose submission was acknowledged
must finish.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import httpx

from controller.client import Client, NotFound, TaskView
from controller.clock import SystemClock
from controller.core.model import codec
from controller.core.model.lifecycle import State
from controller.errors import UserError
from controller.store.base import StoreError
from tests.chaos.attempts import ENDS, Attempts
from tests.chaos.installation import Installation
from tests.chaos.linearizability import UNKNOWN, Call

PAUSE_SECONDS = 0.15
RECENT = 12  # tasks that users meet at
WEIGHTS = {"submit": 5, "again": 2, "cancel": 4, "retry": 4, "get": 2, "read": 4}


class Users:
    """All users; they call until the block's end."""

    def __init__(
        self, installation: Installation, attempts: Attempts, seed: int, names: Iterable[str]
    ) -> None:
        self._installation = installation
        self._attempts = attempts
        self._clock = SystemClock()
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._recent: list[str] = []
        self._numbers = itertools.count(1)
        self.calls: list[Call] = []
        self._threads = [
            threading.Thread(
                target=self._run, args=(name, random.Random(f"{seed}/{name}")), name=name, daemon=True
            )
            for name in names
        ]

    @property
    def acknowledged(self) -> set[str]:
        """The tasks that some user was told to be there."""
        return {
            call.task
            for call in self.calls
            if call.kind == "submit" and call.outcome in ("created", "unchanged")
        }

    def __enter__(self) -> Users:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), f"{thread.name} waits for an answer without end"
        assert not self._errors, self._errors

    def settle(self, destroyed: set[str]) -> None:
        """With all faults gone: wait until everything has finished, and see that each task ended as it may.

        `destroyed` are tasks of which an attempt was killed from outside.
        """
        with self._installation.client() as client:

            def cancel(task_id: str) -> str:
                return client.cancel(task_id).outcome

            def unfinished() -> list[TaskView]:
                with suppress(StoreError):
                    views = [view for view in client.tasks() if not view.finished or view.requests]
                    for view in views:
                        if view.id.startswith("endless") and not view.finished:
                            self._call(view.id, "cancel", partial(cancel, view.id))
                    return views
                return [TaskView(id="unknown", pool="", state=State.CREATED)]

            self._installation.until(lambda: not unfinished(), "the end of all tasks", timeout=240.0)
            views = client.tasks()
            ends = {view.id: view.state for view in views if view.id.split("-")[0] in ENDS}
        cancelled = {
            call.task
            for call in self.calls
            if call.kind == "cancel" and call.outcome not in ("not found", "already finished")
        }
        wrong = {}
        for task_id, state in ends.items():
            allowed = ENDS[task_id.split("-")[0]] | ({State.CANCELLED} if task_id in cancelled else set())
            allowed |= {State.FAILED} if task_id in destroyed else set()
            if state not in allowed:
                wrong[task_id] = state
        assert not wrong, f"tasks that should not have ended so: {wrong}"

    def _run(self, name: str, rng: random.Random) -> None:
        try:
            with self._installation.client(name) as client:
                while not self._stop.wait(rng.uniform(0, 2 * PAUSE_SECONDS)):
                    (what,) = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))
                    task = (
                        self._new(rng) if what == "submit" or not self._recent else rng.choice(self._recent)
                    )
                    self._do(client, what, task, rng)
        except BaseException as error:  # noqa: BLE001  # told at the end
            self._errors.append(error)

    def _new(self, rng: random.Random) -> str:
        (kind,) = rng.choices(list(ENDS), [4, 3, 2, 3, 2])
        task = f"{kind}-{next(self._numbers)}"
        self._recent.append(task)  # before it is there: others meet it while it is being submitted
        del self._recent[:-RECENT]
        return task

    def _do(self, client: Client, what: str, task: str, rng: random.Random) -> None:
        if what == "read":
            self._read(client, task, rng)
        elif what == "get":
            self._get(client, task)
        elif what == "cancel":
            self._call(task, "cancel", lambda: client.cancel(task).outcome)
        elif what == "retry":
            self._call(task, "retry", lambda: client.retry(task).outcome)
        else:
            self._call(task, "submit", lambda: client.submit_many([self._spec(task)])[0].outcome)

    def _spec(self, task: str) -> dict[str, Any]:
        return {
            "id": task,
            **self._attempts.body(task.split("-")[0]),
            "resources": {"cpu": "500m"},
            "retry": {"max_attempts": 2, "backoff_seconds": 0.3},
            "grace_seconds": 1,
        }

    def _call(self, task: str, kind: str, ask: Callable[[], str]) -> None:
        invoked = self._clock.boottime()
        try:
            outcome = ask()
        except NotFound:
            outcome = "not found"
        except UserError:
            outcome = "refused"
        except StoreError:
            outcome = UNKNOWN
        self.calls.append(Call(task, kind, invoked, self._clock.boottime(), outcome))

    def _get(self, client: Client, task: str) -> int:
        """From etcd, as it is now; returns the revision of what was seen, 0 when there was none, or no
        answer.
        """
        invoked = self._clock.boottime()
        try:
            item, revision = client.store.get(client.keys.state(task), deadline=invoked + 5)
            if item is None:
                spec, _ = client.store.get(client.keys.task(task), deadline=invoked + 5)
                return spec.mod if spec is not None else 0
        except StoreError:
            return 0
        status, _ = codec.decode_status(item.value)
        seen = (str(status.state), status.attempt)
        self.calls.append(Call(task, "get", invoked, self._clock.boottime(), "found", revision, 0, *seen))
        return item.mod

    def _read(self, client: Client, task: str, rng: random.Random) -> None:
        """From any replica, what was just seen in etcd or something newer."""
        written = self._get(client, task)
        replica = rng.choice(self._installation.replicas)
        url = f"http://127.0.0.1:{replica.status_port}/v1/tasks/{task}?min_revision={written}&wait=1"
        invoked = self._clock.boottime()
        try:
            answer = httpx.get(url, timeout=5, trust_env=False)
        except httpx.TransportError:
            return  # it is down
        if answer.status_code not in (200, 404):
            return  # it does not have that revision, or nothing, yet
        shown = answer.json() if answer.status_code == 200 else {}
        outcome, revision = "found" if shown else "not found", int(answer.headers["Tally-Revision"])
        seen = (shown.get("state", ""), shown.get("attempt", 0))
        self.calls.append(
            Call(task, "read", invoked, self._clock.boottime(), outcome, revision, written, *seen)
        )
