"""Changes of waiting tasks: each is asked for once, and for each field the last word counts."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from controller.client import Client, NotFound
from controller.core.model import codec
from controller.core.model.lifecycle import State
from controller.core.model.requests import MOST_PRIORITY, Request, RequestKind
from controller.core.planning.transitions import Moment, changed
from controller.errors import InvalidField, UserError
from controller.store.base import Delete, Guard, Put, Transaction, new_op
from tests.client.conftest import PutRaw, PutStatus
from tests.client.test_features import release
from tests.support.etcd import in_seconds
from tests.support.meddling import MeddledStore


@pytest.fixture
def led(client: Client, put_raw: PutRaw) -> Client:
    """A client of an installation that a replica of this release leads, with the feature on, and a task."""
    put_raw("engine", b'{"engine":{"name":"null","id":"e"},"installation":"abc"}')
    put_raw("leader", release("r1", knows=["changes"]))
    client.features.enable("changes")
    client.submit({"id": "a", "command": ["true"], "priority": 3})
    return client


def stored(client: Client) -> Request:
    item, _ = client.store.get(client.keys.request("a", "change"), deadline=in_seconds())
    assert item is not None
    return codec.decode_request("change", item.value)


def act(client: Client) -> None:
    """What a leader does with the stored request, in one transaction."""
    model = client._reading.model("tasks/", "states/", "requests/")
    task = model.tasks["a"]
    request, mod = task.requests[RequestKind.CHANGE]
    status = changed(task, request, Moment(1000.0, 1, new_op()))
    key, state = client.keys.request("a", "change"), client.keys.state("a")
    guards = (Guard(key, mod), Guard(state, task.status_mod))
    writes = (Delete(key), Put(state, codec.encode_status(status, {})))
    client.store.commit(Transaction(guards, writes, new_op()), deadline=in_seconds())


def test_the_feature_must_be_on(client: Client) -> None:
    client.submit({"id": "a", "command": ["true"]})
    with pytest.raises(InvalidField, match="needs the feature changes, which is off: an admin turns it on"):
        client.hold("a")
    assert client.get("a").requests == ()


def test_the_later_one_has_the_last_word(led: Client) -> None:
    assert led.hold("a", reason="not yet").outcome == "requested"
    assert led.hold("a").outcome == "already requested"
    assert led.set_priority("a", 7).outcome == "requested"
    assert (stored(led).on_hold, stored(led).priority) == (True, 7)
    assert led.release("a").outcome == "requested"
    assert (stored(led).on_hold, stored(led).priority) == (False, 7)
    assert led.hold("a").outcome == "requested"
    assert stored(led).on_hold is True


def test_what_is_so_already_is_not_asked_for(led: Client) -> None:
    assert (led.release("a").outcome, led.release("a").message) == ("unchanged", "a is not on hold")
    assert led.set_priority("a", 3).message == "a has priority 3 already"
    assert led.get("a").requests == ()
    led.hold("a")
    act(led)
    assert (led.get("a").on_hold, led.get("a").state) == (True, State.CREATED)
    assert (led.hold("a").outcome, led.hold("a").message) == ("unchanged", "a is already on hold")
    assert led.release("a").outcome == "requested"


@pytest.mark.parametrize("state", [State.RUNNING, State.PENDING, State.SUCCEEDED, State.FAILED])
def test_only_what_waits_is_changed(led: Client, put_status: PutStatus, state: State) -> None:
    put_status("a", state)
    for ask in (led.hold, led.release, lambda name: led.set_priority(name, 1)):
        with pytest.raises(UserError, match=f"a is {state}: only a task that waits"):
            ask("a")
    assert led.get("a").requests == ()


def test_a_victim_of_preemption_is_about_to_wait(led: Client, put_status: PutStatus) -> None:
    put_status("a", State.RUNNING, stopping="preempted")
    assert led.hold("a").outcome == "requested"


@pytest.mark.parametrize("priority", [MOST_PRIORITY + 1, -MOST_PRIORITY - 1, 1.5, "7", True, None])
def test_a_priority_is_an_integer_in_range(led: Client, priority: Any) -> None:
    with pytest.raises(InvalidField, match="priority: must be an integer from"):
        led.set_priority("a", priority)


def test_a_lost_answer_and_a_leader_that_was_faster(led: Client) -> None:
    """What the leader has done is not asked for again, though somebody has undone it since."""
    store = MeddledStore(led.store)

    def lose(real: Any, transaction: Transaction, **options: Any) -> Any:
        del store.on["commit"]
        real(transaction, **options)
        act(led)
        led.release("a")
        act(led)
        return real(transaction, **options)  # as a late copy: refused

    other = Client.of_store(store, cluster=led.keys.cluster)
    store.on["commit"] = lose
    assert other.hold("a").outcome == "already requested"
    assert not led.get("a").on_hold
    assert led.get("a").requests == ()


@pytest.mark.parametrize("reason", ["", "so (was 5)", "x" * 2000])
def test_a_lost_answer_to_a_priority(led: Client, reason: str) -> None:
    """The leader's step also says which priority the task had before: it is known as the same request."""
    store = MeddledStore(led.store)

    def lose(real: Any, transaction: Transaction, **options: Any) -> Any:
        del store.on["commit"]
        real(transaction, **options)
        act(led)
        return real(transaction, **options)

    other = Client.of_store(store, cluster=led.keys.cluster)
    store.on["commit"] = lose
    assert other.set_priority("a", 7, reason=reason).outcome == "already requested"
    assert led.get("a").history()[-1].message.startswith("priority 7 (was 3), requested by ")
    assert led.get("a").requests == ()


def test_another_change_meanwhile_is_not_taken_for_ours(led: Client) -> None:
    store = MeddledStore(led.store)

    def be_late(real: Any, transaction: Transaction, **options: Any) -> Any:
        del store.on["commit"]
        led.set_priority("a", 9)
        act(led)
        return real(transaction, **options)

    other = Client.of_store(store, cluster=led.keys.cluster)
    store.on["commit"] = be_late
    assert other.set_priority("a", 5).outcome == "requested"
    assert stored(led).priority == 5


def test_the_feature_is_dropped_meanwhile(led: Client) -> None:
    """No request is stored that no release is bound to know."""
    store = MeddledStore(led.store)

    def drop_first(real: Any, transaction: Transaction, **options: Any) -> Any:
        del store.on["commit"]
        led.features.drop("changes")
        return real(transaction, **options)

    store.on["commit"] = drop_first
    with pytest.raises(InvalidField, match="needs the feature changes, which is off"):
        Client.of_store(store, cluster=led.keys.cluster).hold("a")
    assert led.get("a").requests == ()


def test_what_uses_the_feature_keeps_it_on(led: Client, put_status: PutStatus) -> None:
    led.hold("a")
    with pytest.raises(UserError, match="data uses it: task/a"):
        led.features.drop("changes")
    act(led)
    with pytest.raises(UserError, match="data uses it: task/a"):
        led.features.drop("changes")
    put_status("a", State.FAILED, priority=5)
    assert led.features.drop("changes")


def test_a_request_is_for_the_task_that_was_shown(led: Client) -> None:
    shown = led.get("a")
    led.store.commit(Transaction((), (Delete(led.keys.task("a")),), new_op()), deadline=in_seconds())
    led.submit({"id": "a", "command": ["false"]})
    for ask in (led.hold, led.cancel):
        with pytest.raises(NotFound):
            ask("a", of=shown)
    assert led.get("a").requests == ()
    assert led.cancel("a", of=led.get("a")).outcome == "requested"


def test_racing_changes_make_one_request(led: Client) -> None:
    """Each field ends as one of those who asked wanted it, and nothing is lost."""
    asks = [lambda n=n: led.set_priority("a", n) for n in range(10, 14)] + [lambda: led.hold("a")] * 3
    threads = [threading.Thread(target=ask, name=f"user-{n}") for n, ask in enumerate(asks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stored(led).on_hold is True
    assert stored(led).priority in range(10, 14)
