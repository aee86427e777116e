"""The faults of a selftest: races, repetitions, a step-down, a stale leader."""

from __future__ import annotations

from collections.abc import Callable

from controller.audit.selftest.stage import CALLS_AT_ONCE, CAPACITY, CPU, Failed, Skipped, Stage, require
from controller.client import TaskView
from controller.core.model.lifecycle import Event, State
from controller.core.model.op import op_of
from controller.errors import UserError
from controller.store.base import Committed, Guard, Put, StoreDenied, Transaction


class Acts:
    """Each method is one item. It returns what was seen, or raises Failed or Skipped."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._term = 0  # of the leader before the step-down

    def make_pool(self) -> str:
        """Create a pool, which needs a leader."""
        if self._stage.client.replicas.leader() is None:
            raise Failed("no replica leads: see `tally get replicas`")
        self._stage.client.apply_pool({"name": self._stage.name, "capacity": CAPACITY.format()})
        self._stage.began = self._stage.revision()
        return f"pool {self._stage.name} of {CAPACITY}"

    def run_tasks(self) -> str:
        """Run more tasks at once than the capacity allows."""
        names = [self._stage.submit("run", "sleep 0.3") for _ in range(6)]
        views = self._stage.wait(names)
        require(
            {view.state for view in views} == {State.SUCCEEDED},
            f"they ended as {sorted({str(v.state) for v in views})}",
        )
        require({view.attempt for view in views} == {1}, "a task needed more than one attempt")
        return f"{len(names)} tasks of {CPU} each succeeded in one attempt"

    def submit_twice(self) -> str:
        """Submit a task from many clients at once, and different content under its name."""
        spec = self._stage.spec("twice", "true")
        outcomes = self._stage.at_once(lambda client: client.submit(spec).outcome)
        require(
            sorted(outcomes) == ["created", *["unchanged"] * (CALLS_AT_ONCE - 1)],
            f"the answers were {sorted(outcomes)}",
        )
        other = self._stage.client.submit_many([{**spec, "priority": 1}])[0].outcome
        require(other == "conflict", f"other content under the same name was {other}")
        (view,) = self._stage.wait([spec["id"]])
        require(view.attempt == 1, f"it took {view.attempt} attempts")
        return f"{CALLS_AT_ONCE} submissions made one task; other content was a conflict"

    def retry_policy(self) -> str:
        """Run a task that fails as often as its retry policy allows."""
        name = self._stage.submit("fails", "exit 3", retry={"max_attempts": 2, "backoff_seconds": 0.1})
        (view,) = self._stage.wait([name])
        require(
            (view.state, view.attempt) == (State.FAILED, 2),
            f"it is {view.state} after attempt {view.attempt}",
        )
        return "exit code 3 twice, then Failed"

    def race(self) -> str:
        """Cancel and retry a task from many clients at once."""
        name = self._stage.submit("race", "sleep 600", grace_seconds=1)
        self._stage.wait([name], "running")
        self._stage.at_once(lambda client: client.cancel(name).outcome)
        self._stage.at_once(lambda client: _outcome(lambda: client.retry(name).outcome))
        self._stage.cancel_until_finished(name)
        before = _retries(self._stage.client.get(name))
        asked = self._stage.at_once(lambda client: _outcome(lambda: client.retry(name).outcome))
        self._stage.wait([name], "running")
        taken = _retries(self._stage.client.get(name)) - before
        require(
            taken == 1,
            f"{CALLS_AT_ONCE} retries at once ({', '.join(sorted(set(asked)))}) took effect {taken} times",
        )
        self._stage.cancel_until_finished(name)
        view = self._stage.client.get(name)
        require(
            view.state is State.CANCELLED and not view.requests,
            f"it is {view.state}, with requests {view.requests}",
        )
        return f"{CALLS_AT_ONCE} of each: one order, each request once, {view.attempt} attempts"

    def step_down(self) -> str:
        """Change the leader while tasks run."""
        names = [self._stage.submit("handover", "sleep 2") for _ in range(2)]
        self._stage.wait(names, "running")
        try:
            before = self._stage.client.replicas.step_down()
        except StoreDenied as error:
            self._stage.cancel_all(names)
            raise Skipped(f"this user may not do this: {error}") from error
        self._term = before.term
        views = self._stage.wait(names)
        require(
            {(view.state, view.attempt) for view in views} == {(State.SUCCEEDED, 1)},
            "a task did not survive the step-down",
        )
        after = self._stage.client.replicas.leader()
        require(after is not None and after.term > before.term, "no replica leads after the step-down")
        assert after is not None
        return (
            f"epoch {before.epoch} ({before.id}) → {after.epoch} ({after.id}); {len(names)} running tasks"
            " were adopted"
        )

    def stale_leader(self) -> str:
        """Try a write with the term of a former leader."""
        if not self._term:
            raise Skipped("no term has ended in this run")
        key = self._stage.client.keys.state(self._stage.tasks[0])
        item, _ = self._stage.client.store.get(key, deadline=self._stage.soon())
        require(item is not None, f"{key} is missing")
        assert item is not None
        guards = (Guard(self._stage.client.keys.leader, self._term, on_create=True), Guard(key, item.mod))
        # if it were not fenced, it would change nothing but the revision
        stale = Transaction(guards, (Put(key, item.value),), op_of(self._stage.name, "stale"))
        try:
            result = self._stage.client.store.commit(stale, deadline=self._stage.soon())
        except StoreDenied as error:
            return f"etcd's access control refused the write: {error}"
        require(
            not isinstance(result, Committed),
            f"a write under the ended term {self._term} was APPLIED",
        )
        return f"a write under the ended term {self._term} was refused"


def _outcome(call: Callable[[], str]) -> str:
    """The answer of the call; a refusal is an answer, too."""
    try:
        return call()
    except UserError:
        return "refused"


def _retries(view: TaskView) -> int:
    return sum(step.event == Event.RETRY_REQUESTED for step in view.history())
