"""Safe faults against a live installation, so that its users can convince themselves: `tally selftest`.

Everything happens in a pool and to tasks of its own, under a name that nobody else has. What it does to
others: the leadership changes once, and a few hundred small writes. What it leaves: nothing in etcd but the
record that the leader keeps of the last clean-up, and in the engine the ended attempts, which the leader
removes when nothing of their names can come late any more (after an hour).

What it proves, it proves from etcd's own history of its keys and from what the replicas answer, not from one
replica's word.
"""

from __future__ import annotations

import json
import secrets
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Any, NamedTuple

from controller.audit.audit import run_audit
from controller.audit.kept_history import Change, kept_history
from controller.audit.repairs import ask
from controller.client import Client, NotFound, Still, TaskView
from controller.core.model import codec
from controller.core.model.lifecycle import Event, State
from controller.core.model.printable import counted
from controller.core.model.resources import ZERO, Vector
from controller.core.model.task import RepairRequest, Wanted
from controller.core.promise.finding import Severity
from controller.core.promise.replay import replay
from controller.engine.base import Engine
from controller.errors import TallyError, UserError
from controller.store.base import Committed, Compacted, Delete, Guard, Put, StoreDenied, Transaction

CPU = "100m"
CAPACITY = Vector({"cpu": 200})  # two of its tasks at a time
CALLS_AT_ONCE = 6
HTTP_SECONDS = 10.0
NAMES = "selftest-"


class Verdict(StrEnum):
    """How an item ended."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


class Item(NamedTuple):
    """One thing that was tried: what it is called, how it ended, what was seen, and how long it took."""

    name: str
    verdict: Verdict
    seen: str
    seconds: float


class Failed(TallyError):
    """Something is not as it must be."""


class Skipped(TallyError):
    """It cannot be tried here; says why."""


class SelfTest:
    """One run.

    `connect` makes a client; `engine` (None: not readable from here) is only listed; `status` opens status
    URLs.
    """

    def __init__(
        self,
        connect: Callable[[], Client],
        engine: Engine | None,
        *,
        image: str = "",
        timeout_seconds: float = 120.0,
        status: urllib.request.OpenerDirector | None = None,
    ) -> None:
        self._status = status or urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._connect = connect
        self._client = connect()
        self._engine = engine
        self._image = image
        self._timeout_seconds = timeout_seconds
        self.name = f"{NAMES}{secrets.token_hex(4)}"
        self._began = 0  # the revision of its first write
        self._term = 0  # of the leader before the step-down
        self._tasks: list[str] = []

    def run(self) -> Iterator[Item]:
        """Try everything, and remove all that was made, whatever failed.

        Raises UserError when it cannot even begin.
        """
        self._check_engine()
        items: tuple[tuple[str, Callable[[], str]], ...] = (
            ("pool of its own", self._make_pool),
            ("tasks run once, within the capacity", self._run_tasks),
            ("the same submission many times at once", self._submit_twice),
            ("a failing task is retried as its policy says", self._retry_policy),
            ("cancels and retries at once", self._race),
            ("step-down while tasks run", self._step_down),
            ("a stale leader's transaction meets the fence", self._stale_leader),
            ("a watch that is cut misses nothing", self._cut_watch),
            ("ledger equal to holds at every revision", self._balance),
            ("histories lead to what is stored", self._histories),
            ("all replicas tell the same", self._replicas),
            ("audit", self._audit),
        )
        try:
            for name, item in items:
                tried = self._try(name, item)
                yield tried
                if item == self._make_pool and tried.verdict is Verdict.FAILED:
                    break
        finally:
            cleaned = self._try("removes what it made", self._clean_up)
            self._client.close()
        yield cleaned

    def _try(self, name: str, item: Callable[[], str]) -> Item:
        began = self._client.clock.boottime()
        verdict = Verdict.OK
        try:
            seen = item()
        except Skipped as error:
            verdict, seen = Verdict.SKIPPED, str(error)
        except (TallyError, AssertionError) as error:
            verdict, seen = Verdict.FAILED, str(error) or type(error).__name__
        return Item(name, verdict, seen, self._client.clock.boottime() - began)

    # -- the items
    # ---------------------------------------------------------------------------------------------------

    def _make_pool(self) -> str:
        if self._client.leader() is None:
            raise Failed("nobody leads: see `tally get replicas`")
        self._client.apply_pool({"name": self.name, "capacity": CAPACITY.format()})
        self._began = self._revision()
        return f"pool {self.name} of {CAPACITY}"

    def _run_tasks(self) -> str:
        names = [self._submit("run", "sleep 0.3") for _ in range(6)]
        views = self._wait(names)
        _require(
            {view.state for view in views} == {State.SUCCEEDED},
            f"they ended as {sorted({str(v.state) for v in views})}",
        )
        _require({view.attempt for view in views} == {1}, "a task needed more than one attempt")
        return f"{len(names)} tasks of {CPU} each succeeded in one attempt"

    def _submit_twice(self) -> str:
        spec = self._spec("twice", "true")
        outcomes = self._at_once(lambda client: client.submit(spec).outcome)
        _require(
            sorted(outcomes) == ["created", *["unchanged"] * (CALLS_AT_ONCE - 1)],
            f"the answers were {sorted(outcomes)}",
        )
        other = self._client.submit_many([{**spec, "priority": 1}])[0].outcome
        _require(other == "conflict", f"other content under the same name was {other}")
        (view,) = self._wait([spec["id"]])
        _require(view.attempt == 1, f"it took {view.attempt} attempts")
        return f"{CALLS_AT_ONCE} submissions made one task; other content was a conflict"

    def _retry_policy(self) -> str:
        name = self._submit("fails", "exit 3", retry={"max_attempts": 2, "backoff_seconds": 0.1})
        (view,) = self._wait([name])
        _require(
            (view.state, view.attempt) == (State.FAILED, 2),
            f"it is {view.state} after attempt {view.attempt}",
        )
        return "exit code 3 twice, then Failed"

    def _race(self) -> str:
        name = self._submit("race", "sleep 600", grace_seconds=1)
        self._wait([name], "running")
        self._at_once(lambda client: client.cancel(name).outcome)
        self._at_once(lambda client: _outcome(lambda: client.retry(name).outcome))
        self._cancel_until_finished(name)
        before = _retries(self._client.get(name))
        asked = self._at_once(lambda client: _outcome(lambda: client.retry(name).outcome))
        self._wait([name], "running")
        taken = _retries(self._client.get(name)) - before
        _require(
            taken == 1,
            f"{CALLS_AT_ONCE} retries at once ({', '.join(sorted(set(asked)))}) took effect {taken} times",
        )
        self._cancel_until_finished(name)
        view = self._client.get(name)
        _require(
            view.state is State.CANCELLED and not view.requests,
            f"it is {view.state}, with requests {view.requests}",
        )
        return f"{CALLS_AT_ONCE} of each: one order, each request once, {view.attempt} attempts"

    def _step_down(self) -> str:
        names = [self._submit("handover", "sleep 2") for _ in range(2)]
        self._wait(names, "running")
        try:
            before = self._client.step_down()
        except StoreDenied as error:
            self._cancel_all(names)
            raise Skipped(f"this user may not: {error}") from error
        self._term = before.term
        views = self._wait(names)
        _require(
            {(view.state, view.attempt) for view in views} == {(State.SUCCEEDED, 1)},
            "a task did not survive it",
        )
        after = self._client.leader()
        _require(after is not None and after.term > before.term, "nobody leads after it")
        assert after is not None
        return (
            f"epoch {before.epoch} ({before.id}) → {after.epoch} ({after.id}); {len(names)} running tasks"
            " were adopted"
        )

    def _stale_leader(self) -> str:
        if not self._term:
            raise Skipped("no term has ended in this run")
        key = self._client.keys.state(self._tasks[0])
        item, _ = self._client.store.get(key, deadline=self._soon())
        _require(item is not None, f"{key} is missing")
        assert item is not None
        guards = (Guard(self._client.keys.leader, self._term, on_create=True), Guard(key, item.mod))
        # would change nothing but the revision
        stale = Transaction(guards, (Put(key, item.value),), f"{self.name}/stale")
        try:
            result = self._client.store.commit(stale, deadline=self._soon())
        except StoreDenied as error:
            return f"etcd's own rights forbid it: {error}"
        _require(
            not isinstance(result, Committed),
            f"a write in the name of the ended term {self._term} was APPLIED",
        )
        return f"a write in the name of the ended term {self._term} was refused"

    def _cut_watch(self) -> str:
        whole = self._history("states/", cut=False)
        pieces = self._history("states/", cut=True)
        _require(
            whole == pieces,
            f"{len(whole)} changes were seen by one watch, {len(pieces)} by one that was cut after each"
            " batch",
        )
        return f"{len(pieces)} changes, each once, in order"

    def _balance(self) -> str:
        """Invariants I1 and I2, from etcd's history of its own tasks and its own ledger."""
        changes = sorted(
            [*self._history("states/", cut=False), *self._history("ledgers/", cut=False)], key=lambda c: c.mod
        )
        holds: dict[str, Vector] = {}
        ledger, revisions = ZERO, {change.mod for change in changes}
        for number, change in enumerate(changes):
            if "/ledgers/" in change.key:
                ledger = codec.decode_ledger(change.value)[0] if change.value is not None else ZERO
            else:
                holds[change.key] = (
                    codec.decode_status(change.value)[0].hold if change.value is not None else ZERO
                )
            if number + 1 < len(changes) and changes[number + 1].mod == change.mod:
                continue  # of the same transaction
            held = ZERO
            for hold in holds.values():
                held = held + hold
            _require(
                ledger == held, f"at revision {change.mod} the ledger said {ledger}, the tasks held {held}"
            )
            _require(ledger.fits(CAPACITY), f"at revision {change.mod} {ledger} was held of {CAPACITY}")
        _require(not ledger, f"{ledger} is still held")
        return f"at {len(revisions)} revisions, and never above {CAPACITY}"

    def _histories(self) -> str:
        for name in self._tasks:
            view = self._client.get(name)
            problems = replay(view.status) if view.status is not None else ["it has no status"]
            _require(not problems, f"{name}: {'; '.join(problems)}")
        return f"{len(self._tasks)} tasks, step by step"

    def _replicas(self) -> str:
        revision = self._revision()
        answered, silent = 0, []
        for replica in self._client.replicas():
            try:
                self._compare(replica.status_url, revision)
            except urllib.error.HTTPError as error:
                raise Failed(f"{replica.id} answers {error.code} {error.reason}") from error
            except (OSError, ValueError):  # no connection, or no URL
                silent.append(replica.id)
            else:
                answered += 1
        if not answered:
            raise Skipped(
                "no status endpoint can be reached from here"
                f" ({', '.join(silent) or 'no replica is registered'})"
            )
        beside = f"; {', '.join(silent)} cannot be reached from here" if silent else ""
        return f"{counted(answered, 'replica')} at revision {revision} or later{beside}"

    def _audit(self) -> str:
        report = run_audit(self._client.store, self._engine, self._client.keys.cluster, self._client.clock)
        ours = [f for f in report.findings if self.name in f.subject and f.severity is Severity.WRONG]
        _require(
            not ours, "; ".join(f"{finding.invariant} {finding.subject} {finding.what}" for finding in ours)
        )
        others = (
            f"; {counted(report.wrong, 'finding')} about others: see `tally audit`" if report.wrong else ""
        )
        _require(not report.engine_problem, f"the engine cannot be listed: {report.engine_problem}")
        return (
            "nothing is wrong with what is ours, by etcd"
            f" {'alone' if self._engine is None else 'and the engine'}{others}"
        )

    # -- removing
    # ----------------------------------------------------------------------------------------------------

    def _clean_up(self) -> str:
        """Cancel, remove the specs (the leader removes the rest), then the pool and its empty ledger."""
        client, keys = self._client, self._client.keys
        self._cancel_all(self._tasks)
        for key, mod in self._stored("tasks/").items():
            client.store.commit(
                Transaction((Guard(key, mod),), (Delete(key),), f"{self.name}/remove"), deadline=self._soon()
            )
        self._until(
            lambda: not self._stored("states/") and not self._stored("tasks/"),
            "its tasks' records being removed",
        )
        try:
            client.delete_pool(self.name)
        except NotFound:
            return "nothing was made"
        item, _ = client.store.get(keys.ledger(self.name), deadline=self._soon())
        if item is not None:
            wanted = Wanted(invariant="layout", subject=f"key/ledgers/{self.name}", mod=item.mod)
            request = RepairRequest(
                findings=(wanted,), by=self.name, reason="a selftest's own", at=client.clock.now()
            )
            (outcome,) = ask(client.store, keys, client.clock, request, self._timeout_seconds)
            _require(client.store.get(item.key, deadline=self._soon())[0] is None, outcome.what)
        return f"{len(self._tasks)} tasks, the pool and its ledger"

    def _cancel_all(self, names: list[str]) -> None:
        for name in names:
            try:
                self._cancel_until_finished(name)
            except NotFound:
                continue

    def _cancel_until_finished(self, name: str) -> None:
        """A retry that is under way may follow a cancel, so that it is asked for until it holds."""

        def ended() -> bool:
            view = self._client.get(name)
            if not view.finished and not view.requests:
                self._client.cancel(name, reason="a selftest ends it")
            return view.finished and not view.requests

        self._until(ended, f"{name} being cancelled")

    # -- means
    # -------------------------------------------------------------------------------------------------------

    def _check_engine(self) -> None:
        engines = {str(replica.engine.get("name", "")) for replica in self._client.replicas()}
        if engines & {"kubernetes", "docker"} and not self._image:
            raise UserError("the tasks need an image with a shell: give --image, such as --image busybox")

    def _spec(self, what: str, body: str, **fields: Any) -> dict[str, Any]:
        name = f"{self.name}-{what}-{len(self._tasks)}"
        self._tasks.append(name)
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

    def _submit(self, what: str, body: str, **fields: Any) -> str:
        spec = self._spec(what, body, **fields)
        result = self._client.submit(spec)
        _require(result.outcome == "created", f"{spec['id']}: {result.outcome} {result.message}")
        return str(spec["id"])

    def _wait(self, names: list[str], for_: str = "finished") -> list[TaskView]:
        try:
            views = self._client.wait(names, for_=for_, timeout_seconds=self._timeout_seconds)
        except Still as error:
            why = self._client.explain(error.waiting[0])
            raise Failed(f"{error} after {self._timeout_seconds:g} s: {why}") from error
        return [views[name] for name in names]

    def _at_once(self, call: Callable[[Client], str]) -> list[str]:
        """The same call from as many clients, at the same moment."""
        barrier = threading.Barrier(CALLS_AT_ONCE)

        def one() -> str:
            with self._connect() as client:
                barrier.wait(self._timeout_seconds)
                return call(client)

        with ThreadPoolExecutor(CALLS_AT_ONCE, "selftest") as pool:
            return [future.result() for future in [pool.submit(one) for _ in range(CALLS_AT_ONCE)]]

    def _stored(self, kind: str) -> dict[str, int]:
        """Its own keys of a kind, with their mod revisions."""
        snapshot = self._client.store.load(
            f"{self._client.keys.prefix}{kind}{self.name}", deadline=self._soon()
        )
        return {item.key: item.mod for item in snapshot.items}

    def _history(self, kind: str, *, cut: bool) -> list[Change]:
        """Every change of its own keys of a kind; with `cut` by a watch that is connected anew after each
        batch.
        """
        client, prefix = self._client, f"{self._client.keys.prefix}{kind}{self.name}"
        try:
            return kept_history(
                client.store,
                prefix,
                self._began,
                self._stored(kind),
                client.clock,
                self._timeout_seconds,
                cut=cut,
            )
        except Compacted as error:
            raise Skipped(f"etcd's history was compacted meanwhile: {error}") from error

    def _compare(self, url: str, revision: int) -> None:
        """What a replica tells of each task against what is stored.

        Raises OSError when it cannot be asked.
        """
        for name in self._tasks:
            query = f"{url}/v1/tasks/{name}?min_revision={revision}&wait=5"
            with self._status.open(query, timeout=HTTP_SECONDS) as answer:
                told = json.load(answer)
            view = self._client.get(name)
            _require(
                told["state"] == view.state,
                f"{url} says that {name} is {told['state']}, etcd says {view.state}",
            )

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        ends, pause = self._client.clock.boottime() + self._timeout_seconds, threading.Event()
        while not condition():
            _require(self._client.clock.boottime() < ends, f"{what}: not within {self._timeout_seconds:g} s")
            pause.wait(0.1)

    def _revision(self) -> int:
        return self._client.store.get(self._client.keys.leader, deadline=self._soon())[1]

    def _soon(self) -> float:
        return self._client.clock.boottime() + 10.0


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Failed(otherwise)


def _outcome(call: Callable[[], str]) -> str:
    """What was answered; a refusal is an answer too."""
    try:
        return call()
    except UserError:
        return "refused"


def _retries(view: TaskView) -> int:
    return sum(step.event == Event.RETRY_REQUESTED for step in view.history())
