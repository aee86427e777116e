"""A mix of all that users can ask for, beside their plain tasks: arrays and parts of them, gangs with roles,
chains, diamonds, arrays that follow others member by member, and schedules, of several owners in a pool that
they share.

What is submitted at once is a piece; its tasks are named after it. How each of them ends is known unless
somebody has cancelled or retried a part of the piece, or a fault has destroyed an attempt of it: then it may
end in any way, and the auditor alone says whether it was right.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from controller.client import Client, NotFound
from controller.core.model.features import KNOWN
from controller.errors import UserError
from controller.store.base import KeyEvent, StoreError
from tests.chaos.attempts import Processes
from tests.chaos.installation import Installation
from tests.chaos.pools import shared_pool
from tests.support.mix_auditor import MixAuditor, Ran
from tests.support.mix_records import ENDED
from tests.support.share_records import Event

PAUSE_SECONDS = (0.3, 2.5)
RECENT = 14  # pieces of which parts are cancelled and retried
OWNERS = ("vision", "speech", "search", "maps")
POOL = shared_pool(cpu=6, limit=4)
SCHEDULES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "each-latest": ("latest", "allow", "true", {}),
    "each-all": ("all", "allow", "true", {}),
    "each-forbid": ("latest", "forbid", "sleep 70", {}),
    "each-replace": ("latest", "replace", "sleep 75", {}),
    "each-array": ("latest", "replace", "sleep 40", {"array": {"size": 5, "max_running": 2}}),
    "each-gang": ("latest", "replace", "sleep 75", {"array": {"size": 2, "gang": True}}),
}
"""Each is due each minute: `catch_up`, `concurrency`, what its tasks do, and further fields of them."""

SUCCEEDED, FAILED, CANCELLED = ENDED

Task = dict[str, Any]


class Piece(NamedTuple):
    """Tasks that are submitted together, parents first, each with how it ends if nobody interferes."""

    name: str
    tasks: list[Task]
    ends: dict[str, str]
    parts: dict[str, int]  # its arrays, with their sizes; 0: a gang, or a task


class LockedProcesses(Processes):
    """Tasks that also hold a lock of their name while any process of theirs lives: who does not get it has
    begun beside another one, and writes that down."""

    def command(self, body: str) -> list[str]:
        """See Journal."""
        locks = self.path.with_name("locks")
        locks.mkdir(exist_ok=True)
        note = f'echo "$TALLY_TASK_ID $TALLY_ATTEMPT overlap $(date +%s.%N)" >> {self.path}'
        lock = f"exec 9> {locks}/$TALLY_TASK_ID; flock -n 9 || {note}; "
        *shell, script = super().command(body)
        return [*shell, lock + script]


class Mix:
    """A user who submits pieces until the block's end, and the auditor of all."""

    def __init__(self, installation: Installation, attempts: Processes, seed: int, user: str) -> None:
        self._installation = installation
        self._attempts = attempts
        self._user = user
        self._rng = random.Random(f"{seed}/mix")
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._numbers = itertools.count(1)
        self._recent: list[Piece] = []
        self._touched: set[str] = set()  # pieces of which somebody has asked for something
        self.acknowledged: dict[str, Piece] = {}  # by task
        self.asked = 0
        self.auditor = MixAuditor()
        self._thread = threading.Thread(target=self._run, name="mix", daemon=True)

    def take(self, revision: int, changes: list[KeyEvent]) -> None:
        """What the recorder hears of etcd."""
        self.auditor.apply(
            revision, [Event(each.key, each.item.value if each.item else None, revision) for each in changes]
        )

    def set_up(self) -> None:
        """All features on, the pool shared, and schedules that are due each minute."""
        self._installation.leader()
        with self._installation.client() as client:
            client.features.enable(*KNOWN)
            client.apply_pool(POOL)
            for name, (catch_up, concurrency, body, more) in SCHEDULES.items():
                task = {**self._task(body), "retention_seconds": 300, **more}
                del task["id"]
                client.schedules.apply(
                    {
                        "name": name,
                        "cron": "* * * * *",
                        "catch_up": catch_up,
                        "concurrency": concurrency,
                        "task": task,
                    }
                )

    def __enter__(self) -> Mix:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(90)
        assert not self._thread.is_alive(), "the user of the mix waits for an answer without end"
        assert not self._errors, self._errors

    def end_schedules(self) -> None:
        """With all faults gone: all ticks that are due are decided, and no further one is made."""
        now = time.time()
        self._installation.until(lambda: not self.auditor.behind(now), f"all ticks before {now:.0f}")
        with self._installation.client() as client:
            for name in SCHEDULES:
                client.schedules.suspend(name)
            for view in client.tasks():
                if view.id.rpartition("-")[0] in SCHEDULES and not view.finished:
                    client.cancel(view.id)

    def judge(self, destroyed: set[str]) -> None:
        """Once all has finished, and the recorder has heard of it."""
        left = self.auditor.left
        with suppress(AssertionError):
            self._installation.until(lambda: not left(), "the end of all that is to go", timeout=30.0)
        assert not left(), "\n".join(left())
        auditor, told = self.auditor, self._attempts.lines()
        assert not auditor.findings, "\n".join(auditor.findings[:50])
        wrong = auditor.judge_attempts(Ran(*line) for line in told)
        assert not wrong, "what attempts wrote is not what was committed:\n" + "\n".join(wrong)
        spoiled = self._touched | {piece_of(task) for task in destroyed}
        ends = {task: auditor.ends.get(task, "nothing") for task in self.acknowledged}
        unexpected = {
            task: f"{ends[task]}, not {piece.ends[task]}"
            for task, piece in self.acknowledged.items()
            if ends[task] not in (ENDED if piece.name in spoiled else (piece.ends[task],))
        }
        assert not unexpected, f"tasks that should not have ended so: {unexpected}"

    def summary(self) -> str:
        """How much there was."""
        pieces = {piece.name: piece.name.split("-")[1] for piece in self.acknowledged.values()}
        kinds = ", ".join(
            f"{list(pieces.values()).count(kind)} {kind}" for kind in sorted(set(pieces.values()))
        )
        return f"mix: {kinds}; {self.asked} requests; {self.auditor.summary()}"

    # -- what the user does

    def _run(self) -> None:
        try:
            with self._installation.client(self._user) as client:
                while not self._stop.wait(self._rng.uniform(*PAUSE_SECONDS)):
                    self._submit(client)
                    if self._rng.random() < 0.8:
                        self._ask(client)
        except BaseException as error:  # noqa: BLE001  # told at the end
            self._errors.append(error)

    def _submit(self, client: Client) -> None:
        makers = self._array, self._array, self._array, self._gang, self._gang, self._chain, self._diamond
        piece = self._rng.choice((*makers, self._stages, self._stages))()
        while not self._stop.is_set():
            with suppress(StoreError):
                outcomes = {result.outcome for result in client.submit_many(piece.tasks)}
                assert outcomes <= {"created", "unchanged"}, f"{piece.name}: {outcomes}"
                self.acknowledged |= {task["id"]: piece for task in piece.tasks}
                break
        self._recent = [*self._recent, piece][-RECENT:]

    def _ask(self, client: Client) -> None:
        piece = self._rng.choice(self._recent)
        task, size = self._rng.choice(list(piece.parts.items()))
        ways: list[Callable[[], object]] = [lambda: client.cancel(task), lambda: client.retry(task)]
        ways.append(lambda: client.downstream.retry(task))
        if size:
            first = self._rng.randrange(size)
            some = f"{first}-{self._rng.randrange(first, size)}"
            ways += [
                lambda: client.cancel(task, members=some),
                lambda: client.cancel(task, members=some),
                lambda: client.retry(task, members=some),
                *[lambda: client.retry(task, only_failed=True)] * 3,
                lambda: client.retry(task, members=some),
            ]
        self._touched.add(piece.name)
        self.asked += 1
        with suppress(StoreError, NotFound, UserError):  # it has ended meanwhile, or nothing is to be retried
            self._rng.choice(ways)()

    # -- pieces

    def _array(self) -> Piece:
        name, size = self._name("array"), self._rng.randint(3, 12)
        array: Task = {"size": size}
        if self._rng.random() < 0.6:
            array["max_running"] = self._rng.randint(1, 3)
        bad = self._rng.random() < 0.4
        array["fail_fast"] = bad and self._rng.random() < 0.6
        body = self._body(*(f'"$TALLY_ARRAY_INDEX" != {self._rng.randrange(size)}' for _ in range(bad)))
        return self._piece(name, [self._task(body, name, array=array)], {name: FAILED if bad else SUCCEEDED})

    def _gang(self) -> Piece:
        """One of which a member fails at the first attempt, whichever number that has."""
        name, many = self._name("gang"), self._rng.randint(2, 5)
        array: Task = {"gang": True, "size": many + 1}
        if self._rng.random() < 0.6:
            launcher = {"name": "launcher", "size": 1, "resources": {"cpu": "100m"}}
            array = {"gang": True, "roles": [launcher, {"name": "worker", "size": many}]}
        body = f"sleep {self._rng.uniform(0.05, 0.6):.2f}"
        if self._rng.random() < 0.5:
            seen = f"{self._attempts.path}.failed-{name}"
            fails = f'[ "$TALLY_ARRAY_INDEX" = {many} ] && [ ! -e {seen} ]'
            body += f"; if {fails}; then touch {seen}; exit 3; fi"
        return self._piece(name, [self._task(body, name, array=array)], {name: SUCCEEDED})

    def _chain(self) -> Piece:
        """Of three, and one for the case of a failure."""
        name, fails = self._name("chain"), self._rng.random() < 0.4
        a, b, c, alarm, after = (f"{name}-{part}" for part in ("a", "b", "c", "alarm", "after"))
        tasks = [
            self._task(self._body(), a),
            self._task("exit 7" if fails else self._body(), b, after=[a]),
            self._task(self._body(), c, after=[b]),
            self._task("true", alarm, after=[{"task": b, "when": "failed"}]),
            self._task("true", after, after=[c, {"task": alarm, "when": "finished"}]),
        ]
        last = FAILED if fails else SUCCEEDED
        ends = {a: SUCCEEDED, b: last, c: last, alarm: SUCCEEDED if fails else CANCELLED, after: last}
        return self._piece(name, tasks, ends)

    def _diamond(self) -> Piece:
        """One of its sides is an array or a gang."""
        name, kind = self._name("diamond"), self._rng.choice(("array", "gang", "task"))
        top, left, right, end = (f"{name}-{part}" for part in ("top", "left", "right", "end"))
        array = {"array": {"array": {"size": 4}}, "gang": {"array": {"size": 3, "gang": True}}}.get(kind, {})
        tasks = [
            self._task(self._body(), top),
            self._task(self._body(), left, after=[top], **array),
            self._task(self._body(), right, after=[top]),
            self._task("true", end, after=[left, {"task": right, "when": "finished"}]),
        ]
        return self._piece(name, tasks, dict.fromkeys((top, left, right, end), SUCCEEDED))

    def _stages(self) -> Piece:
        """Three arrays in a row, member by member, and what waits for the last as a whole."""
        name, size = self._name("stages"), self._rng.randint(3, 8)
        cut, draw, check, film = (f"{name}-{part}" for part in ("cut", "draw", "check", "film"))
        bad = self._rng.random() < 0.4
        body = self._body(*(f'"$TALLY_ARRAY_INDEX" != {self._rng.randrange(size)}' for _ in range(bad)))
        array: Task = {"size": size}
        same = [{"task": cut, "index": "same"}]
        tasks = [
            self._task(body, cut, array={**array, "max_running": self._rng.randint(1, 4)}),
            self._task(self._body(), draw, array=array, after=same),
            self._task("true", check, array=array, after=[{**same[0], "when": "finished"}]),
            self._task("true", film, after=[draw, check]),
        ]
        last = FAILED if bad else SUCCEEDED
        return self._piece(name, tasks, {cut: last, draw: last, check: SUCCEEDED, film: last})

    def _piece(self, name: str, tasks: list[Task], ends: dict[str, str]) -> Piece:
        sizes = {task["id"]: task.get("array", {}) for task in tasks}
        return Piece(
            name, tasks, ends, {k: 0 if v.get("gang") else v.get("size", 0) for k, v in sizes.items()}
        )

    def _name(self, kind: str) -> str:
        return f"mix-{kind}-{next(self._numbers)}"

    def _body(self, *conditions: str) -> str:
        """A shell's lines that take a moment, sometimes fail once, and fail unless these hold."""
        lines = [f"sleep {self._rng.uniform(0.02, 0.5):.2f}"]
        if self._rng.random() < 0.3:
            seen = f"{self._attempts.path}.once-$TALLY_TASK_ID"
            lines.append(f"[ -e {seen} ] || {{ touch {seen}; exit 4; }}")
        return "; ".join([*lines, *(f"[ {each} ]" for each in conditions)])

    def _task(self, body: str, name: str = "", **more: Any) -> Task:
        return {
            "id": name,
            "owner": self._rng.choice(OWNERS),
            "command": self._attempts.command(body),
            "resources": {"cpu": "250m"},
            "priority": self._rng.choice((0, 0, 1, 2)),
            "retry": {"max_attempts": 3, "backoff_seconds": 0.3},
            "grace_seconds": 1,
            "retention_seconds": self._rng.choice((20, 3600, 3600)),
            **more,
        }


def piece_of(task: str) -> str:
    """The piece of a task or member: `mix-array-7` of `mix-array-7-i3`."""
    return "-".join(task.split("-")[:3])
