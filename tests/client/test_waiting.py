"""Waiting is by watch: it sees every end, outlives etcd's restarts and compaction, and ends by its time
limit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from controller.client import Client, NotFound, Still, TaskView
from controller.core.model import codec
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.core.model.task import Status
from controller.store.base import Guard, Put, Transaction
from tests.client.conftest import PutStatus
from tests.support.etcd import EtcdFactory, compact, in_seconds
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def _tasks(client: Client) -> None:
    client.submit_many({"id": name, "command": ["true"], "labels": {"n": name}} for name in ("a", "b", "ab"))


class Waiter(threading.Thread):
    """A wait in a thread of its own; `seen` is set at its first report."""

    def __init__(self, wait: Callable[[Callable[[TaskView], None]], dict[str, TaskView]]) -> None:
        super().__init__(name="waiter")
        self._wait = wait
        self.seen = threading.Event()
        self.views: dict[str, TaskView] = {}
        self.states: list[tuple[str, State | None]] = []
        self.start()
        assert self.seen.wait(30)

    def run(self) -> None:
        self.views = self._wait(self._note)

    def _note(self, view: TaskView) -> None:
        self.states.append((view.id, view.state))
        self.seen.set()

    def result(self) -> dict[str, TaskView]:
        self.join(60)
        assert not self.is_alive()
        return self.views


def test_it_ends_when_all_have_finished(client: Client, put_status: PutStatus) -> None:
    """Changes are reported as they come; a task whose name begins like another's is not taken for it."""
    waiter = Waiter(lambda note: client.wait(["a", "b"], on_change=note))
    put_status("ab", State.FAILED, finished_at=2.0)
    put_status("a", State.RUNNING)
    wait_until(lambda: ("a", State.RUNNING) in waiter.states, "the change is reported")
    put_status("b", State.CANCELLED, finished_at=2.0)
    wait_until(lambda: ("b", State.CANCELLED) in waiter.states, "the change is reported")
    put_status("a", State.SUCCEEDED, finished_at=3.0)
    assert {name: view.state for name, view in waiter.result().items()} == {
        "a": State.SUCCEEDED,
        "b": State.CANCELLED,
    }
    assert waiter.states == [
        ("a", State.CREATED),
        ("b", State.CREATED),
        ("a", State.RUNNING),
        ("b", State.CANCELLED),
        ("a", State.SUCCEEDED),
    ]


@pytest.mark.parametrize("wanted", ["running", "Running"])
def test_it_ends_at_a_state(client: Client, put_status: PutStatus, wanted: str) -> None:
    """Or when the task has ended without coming to it."""
    waiter = Waiter(lambda note: client.wait(["a"], for_=wanted, on_change=note))
    put_status("a", State.PENDING)
    put_status("a", State.RUNNING)
    assert waiter.result()["a"].state is State.RUNNING
    put_status("a", State.FAILED, finished_at=2.0)
    assert client.wait(["a"], for_=wanted)["a"].state is State.FAILED


@pytest.mark.parametrize("others", [(), tuple(f"other-{n}" for n in range(60))], ids=["few", "many"])
def test_a_retry_that_nobody_took_up_yet_is_waited_for(
    client: Client, put_status: PutStatus, others: tuple[str, ...]
) -> None:
    """`tally retry a; tally wait a` tells of the attempt that was asked for, and not of the one before."""
    client.submit_many({"id": name, "command": ["true"]} for name in others)
    for name in ("a", *others):
        put_status(name, State.FAILED, finished_at=2.0)
    client.retry("a")
    waiter = Waiter(lambda note: client.wait(["a", *others], on_change=note))
    put_status("a", State.WAITING_RETRY)
    wait_until(lambda: ("a", State.WAITING_RETRY) in waiter.states, "the change is reported")
    put_status("a", State.SUCCEEDED, finished_at=3.0)
    assert waiter.result()["a"].state is State.SUCCEEDED


def test_it_ends_at_its_time_limit(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what is still waited for, and what was seen of it; no thread is left behind, be it slow to end."""
    ring = threading.Timer.run
    monkeypatch.setattr(threading.Timer, "run", lambda timer: (ring(timer), threading.Event().wait(0.2)))
    with pytest.raises(Still, match=r"still waiting for a \(Created\), b \(Created\)$") as caught:
        client.wait(["a", "b"], timeout_seconds=0.05)
    assert caught.value.waiting == ("a", "b")
    assert caught.value.views["a"].state is State.CREATED
    assert not [thread for thread in threading.enumerate() if thread.name == "client-wait-timeout"]


def test_what_is_not_there_is_not_waited_for(client: Client) -> None:
    """A typing mistake must not hang a script."""
    with pytest.raises(NotFound, match="there is no task 'nope'"):
        client.wait(["a", "nope"])


def test_many_are_waited_for_at_once(client: Client, put_status: PutStatus) -> None:
    """Above a few, all are read in one go."""
    names = [f"m-{i}" for i in range(30)]
    client.submit_many({"id": name, "command": ["true"]} for name in names)
    waiter = Waiter(lambda note: client.wait(names, on_change=note))
    for name in names:
        put_status(name, State.SUCCEEDED, finished_at=2.0)
    assert set(waiter.result()) == set(names)


def test_a_restart_of_etcd_does_not_end_a_wait(etcd_factory: EtcdFactory) -> None:
    """Fault 13: the watch comes back by itself, and what happened meanwhile is seen, even if it was
    compacted away.
    """
    etcd = etcd_factory.start()
    with Client(etcd.url) as client:
        client.apply_pool({"name": "default", "capacity": {"cpu": 8}})
        client.submit({"id": "a", "command": ["true"]})
        waiter = Waiter(lambda note: client.wait(["a"], on_change=note))
        etcd.kill()
        etcd.start()
        answer = client.cancel("a")  # any write, to know that etcd takes some
        assert answer.outcome == "requested"
        store = etcd_factory.store(etcd.url)
        status = codec.encode_status(Status(state=State.CANCELLED, pool="default", finished_at=2.0), {})
        key = client.keys.state("a")
        store.commit(Transaction((Guard(key, 0),), (Put(key, status),), Op("op")), deadline=in_seconds())
        _, revision = store.get(key, deadline=in_seconds())
        compact(store, revision)
        assert waiter.result()["a"].state is State.CANCELLED


def test_watching_tasks_gives_all_and_then_what_changes(client: Client, put_status: PutStatus) -> None:
    """Filters hold for both."""
    watching = client.watch_tasks(labels={"n": "b"})
    assert [view.id for view in next(watching)] == ["b"]
    put_status("a", State.RUNNING)
    put_status("b", State.RUNNING)
    views: list[TaskView] = []
    while not views:
        views = next(watching)
    assert [(view.id, view.state) for view in views] == [("b", State.RUNNING)]
    watching.close()


def test_listing_is_filtered_and_in_order_of_submission(client: Client, put_status: PutStatus) -> None:
    """By pool, by state, by labels."""
    client.submit({"id": "0-later", "command": ["true"]})
    put_status("b", State.RUNNING)
    assert [view.id for view in client.tasks()] == ["a", "ab", "b", "0-later"]
    assert [view.id for view in client.tasks(state="running")] == ["b"]
    assert [view.id for view in client.tasks(labels={"n": "ab"})] == ["ab"]
    assert client.tasks(pool="other") == []


def test_whether_etcd_has_come_to_a_revision(client: Client) -> None:
    """If it does not answer, it may have."""
    newest = client.store.get(client.keys.leader, deadline=in_seconds())[1]
    assert client._reading.has_come_to(newest)
    assert not client._reading.has_come_to(newest + 10_000)
    with Client("http://127.0.0.1:1", timeout_seconds=0.1) as of_nobody:
        assert of_nobody._reading.has_come_to(newest + 10_000)
