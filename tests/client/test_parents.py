"""Submitting tasks that wait for others: parents are there, older, and kept, whatever happens meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from controller.client import Client, parents
from controller.client.ordering import ordered
from controller.client.prepared import SubmitResult
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.errors import InvalidField, UserError
from controller.store.base import (
    MAX_OPERATIONS,
    Committed,
    Delete,
    Guard,
    Put,
    Transaction,
)
from tests.client.conftest import PutRaw, PutStatus
from tests.client.test_features import release
from tests.support.etcd import in_seconds
from tests.support.meddling import MeddledStore


def task(task_id: str, *after: Any, **fields: Any) -> dict[str, Any]:
    return {"id": task_id, "command": ["true"], **({"after": list(after)} if after else {}), **fields}


def outcomes(results: list[SubmitResult]) -> list[tuple[str, str]]:
    return [(result.id, result.outcome) for result in sorted(results, key=lambda result: result.index)]


@pytest.fixture(autouse=True)
def _features(client: Client, put_raw: PutRaw) -> None:
    put_raw("engine", b'{"engine":{"name":"null","id":"e"},"installation":"abc"}')
    put_raw("leader", release("r1", knows=["dependencies"]))
    client.features.enable("dependencies")


class Meddled:
    """A client that `sent` tells of, and that does `before` its next transaction, once."""

    def __init__(self, client: Client) -> None:
        store: Any = MeddledStore(client.store)
        store.on["commit"] = self._commit
        self.client = Client.of_store(store, cluster=client.cluster)
        self.sent: list[Transaction] = []
        self.before: Callable[[], object] | None = None

    def _commit(self, real: Callable[..., Any], transaction: Transaction, **more: Any) -> Any:
        self.sent.append(transaction)
        if (before := self.before) is not None:
            self.before = None
            before()
        return real(transaction, **more)


@pytest.fixture
def meddled(client: Client) -> Meddled:
    return Meddled(client)


def awaits(client: Client) -> set[str]:
    items = client.store.load(client.keys.awaits, deadline=in_seconds()).items
    assert all(json.loads(item.value).keys() == {"version", "op"} for item in items)
    return {item.key.removeprefix(client.keys.awaits) for item in items}


def ages(client: Client) -> dict[str, tuple[int, float, str]]:
    """What the order of tasks goes by."""
    found = client.store.load(client.keys.task(""), deadline=in_seconds()).items
    names = [item.key.rpartition("/")[2] for item in found]
    return {
        name: (item.create, json.loads(item.value)["submitted_at"], name)
        for name, item in zip(names, found, strict=True)
    }


def remove(client: Client, name: str) -> None:
    """As the leader does when its retention has ended."""
    writes = (Delete(client.keys.task(name)), Delete(client.keys.state(name)))
    client.store.commit(Transaction((), writes, Op("remove")), deadline=in_seconds())


def test_without_the_feature_nothing_is_stored(client: Client, put_raw: PutRaw) -> None:
    client.submit(task("a"))
    client.features.drop("dependencies")
    with pytest.raises(InvalidField, match=r"after: needs the feature dependencies"):
        client.submit(task("b", "a"))
    assert awaits(client) == set()
    client.features.enable("dependencies")
    client.submit(task("b", "a"))
    put_raw("awaits/a/c", b"{}")
    with pytest.raises(UserError, match=r"awaits/a/c, task/b\. Wait until these tasks are removed"):
        client.features.drop("dependencies")


def test_a_parent_that_is_stored_is_compared_and_kept(meddled: Meddled) -> None:
    """Of a task that waits for nothing, nothing is read or put besides."""
    client = meddled.client
    client.submit(task("a"))
    client.submit(task("b", {"task": "a", "when": "finished"}))
    plain, creation = meddled.sent
    assert Guard(client.keys.task("a"), ages(client)["a"][0]) in creation.guards
    assert len(creation.guards) == len(plain.guards) + 2  # and the feature
    assert awaits(client) == {"a/b"}
    spec = client.get("b").spec
    assert spec is not None
    assert [(each.task, each.when) for each in spec.after] == [("a", "finished")]


def test_a_list_may_be_in_any_order(client: Client) -> None:
    """Each is behind what it waits for, over many transactions; results tell places of the input."""
    names = [f"t{n:03}" for n in range(200)]
    tasks = [task(name, *names[max(0, n - 3) : n]) for n, name in enumerate(names)][::-1]
    results = client.submit_many(tasks)
    assert outcomes(results) == [(name, "created") for name in names[::-1]]
    found = ages(client)
    assert sorted(found, key=lambda name: found[name]) == names
    assert len(awaits(client)) == 199 + 198 + 197
    assert {result.outcome for result in client.submit_many(tasks)} == {"unchanged"}


def test_a_stream_is_taken_as_it_comes(client: Client) -> None:
    """What comes too early is refused, also if its parent is in the same transaction."""

    def stream() -> Iterator[dict[str, Any]]:
        yield task("c", "p")
        yield task("p")
        yield task("d", "p")
        yield task("e", "c")

    results = client.submit_many(stream())
    assert outcomes(results) == [("c", "invalid"), ("p", "created"), ("d", "created"), ("e", "invalid")]
    by_id = {result.id: result for result in results}
    assert by_id["c"].field == "after[0].task"
    assert "there is no task p: submit what it waits for first" in by_id["c"].message
    assert "c was refused" in by_id["e"].message
    assert awaits(client) == {"p/d"}


def test_those_that_wait_for_each_other_are_named(client: Client) -> None:
    results = client.submit_many([task("a", "c"), task("b", "a"), task("c", "b"), task("d", "a"), task("e")])
    assert outcomes(results) == [(n, "invalid") for n in "abcd"] + [("e", "created")]
    by_id = {result.id: result for result in results}
    assert by_id["a"].message.endswith("a → c → b → a")
    assert by_id["b"].message.endswith("b → a → c → b")
    assert "a was refused" in by_id["d"].message
    assert list(ages(client)) == ["e"]


def test_orders_of_odd_input() -> None:
    """Input that is wrong is left where it is; what is right keeps its order."""
    odd = [1, {"id": 2, "after": "x"}, {"id": "a", "after": [3, {"task": 4}, {"task": "b"}]}, {"id": "b"}]
    assert ordered(odd).places == [0, 1, 3, 2]
    plain = [task("b"), task("a")]
    assert ordered(plain).tasks is plain
    assert ordered(iter([task("b", "a")])).places is None
    deep = [task(f"t{n}", f"t{n + 1}") for n in range(5000)]
    assert ordered(deep).places == list(reversed(range(5000)))
    two = ordered([task("a", "b"), task("b", "a", "c"), task("c", "b")])
    assert {result.id for result in two.cyclic} == {"a", "b", "c"}
    assert list(two.tasks) == []


def test_a_parent_that_is_refused_takes_its_children_along(client: Client, put_raw: PutRaw) -> None:
    """Invalid, in conflict, or left behind: nothing waits for a task that is another one."""
    client.submit(task("taken"))
    put_raw("states/left", b'{"state":"Queued"}')
    tasks = [
        task("taken", priority=1),
        task("on-taken", "taken"),
        task("left"),
        task("on-left", "left"),
        task("wrong", pool="nope"),
        task("on-wrong", "wrong"),
        task("on-both", "on-left", "on-wrong"),
        task("fine"),
        task("on-fine", "fine"),
    ]
    assert [outcome for _, outcome in outcomes(client.submit_many(tasks))] == [
        *("conflict", "invalid", "conflict", "invalid", "invalid", "invalid", "invalid"),
        *("created", "created"),
    ]
    assert awaits(client) == {"fine/on-fine"}


def test_a_parent_that_is_unchanged_is_a_parent(client: Client) -> None:
    client.submit(task("a"))
    assert outcomes(client.submit_many([task("a"), task("b", "a")])) == [("a", "unchanged"), ("b", "created")]
    assert awaits(client) == {"a/b"}


def test_a_child_whose_parents_are_gone_is_unchanged(client: Client) -> None:
    """And one that is not stored is refused, with all that are missing."""
    many = [f"p{n}" for n in range(parents.AT_ONCE + 5)]
    client.submit_many([task(name) for name in ("a", "b", *many)])
    client.submit_many([task("child", "a", "b"), task("many", *many)])
    for name in ("a", "b", *many[:3]):
        remove(client, name)
    for dry_run in (True, False):
        assert client.submit(task("child", "a", "b"), dry_run=dry_run).outcome == "unchanged"
        assert client.submit(task("many", *many), dry_run=dry_run).outcome == "unchanged"
        with pytest.raises(InvalidField) as raised:
            client.submit(task("new", "p9", "a", "b"), dry_run=dry_run)
        assert (raised.value.field, str(raised.value)) == (
            "after[1].task",
            "after[1].task: there is no task a, nor b: submit what it waits for first, or correct the name",
        )
        other = client.submit_many([task("child", "a")], dry_run=dry_run)[0]
        assert other.outcome == "conflict"


def test_a_dry_run_knows_those_before(client: Client) -> None:
    client.submit(task("stored"))
    tasks = [task("b", "a", "stored"), task("a"), task("c", "b", "nope"), task("d", "c")]
    results = client.submit_many(tasks, dry_run=True)
    assert outcomes(results) == [("b", "created"), ("a", "created"), ("c", "invalid"), ("d", "invalid")]
    assert list(ages(client)) == ["stored"]
    assert awaits(client) == set()


def test_a_spec_that_cannot_be_read_is_no_parent(client: Client, put_raw: PutRaw) -> None:
    for value in (b"\xff", b'{"command":5}'):
        put_raw("tasks/odd", value)
        with pytest.raises(InvalidField, match=r"after\[0\].task: the spec of odd cannot be read"):
            client.submit(task("a", "odd"))


def test_as_many_parents_as_there_may_be(meddled: Meddled) -> None:
    """Those that do not fit are kept by transactions before, and each fits what etcd takes."""
    names = [f"p{n:04}" for n in range(1000)]
    client, sent = meddled.client, meddled.sent
    results = client.submit_many([*map(task, names), task("child", *names), task("next", "child")])
    assert {result.outcome for result in results} == {"created"}
    assert awaits(client) == {f"{name}/child" for name in names} | {"child/next"}
    assert max(each.operations() for each in sent) <= MAX_OPERATIONS
    before = len(sent)
    assert client.submit(task("child", *names)).outcome == "unchanged"
    assert len(sent) == before  # nothing is put for a child that is there


def test_one_parent_too_many_for_one_transaction(client: Client) -> None:
    """Those that are compared before have to be stored before."""
    names = [f"p{n:02}" for n in range(parents.AT_ONCE + 1)]
    results = client.submit_many([*map(task, names), task("child", *names)])
    assert {result.outcome for result in results} == {"created"}
    assert len(awaits(client)) == len(names)


def test_many_with_some_parents_each_fit(meddled: Meddled) -> None:
    names = [f"p{n:02}" for n in range(parents.AT_ONCE)]
    client, sent = meddled.client, meddled.sent
    client.submit_many(map(task, names))
    results = client.submit_many([task(f"c{n:02}", *names[: n + 1]) for n in range(parents.AT_ONCE)])
    assert {result.outcome for result in results} == {"created"}
    assert len(awaits(client)) == sum(range(1, parents.AT_ONCE + 1))
    assert max(each.operations() for each in sent) <= MAX_OPERATIONS


@pytest.mark.parametrize("count", [2, parents.AT_ONCE + 2])
def test_a_parent_that_is_removed_meanwhile(client: Client, meddled: Meddled, count: int) -> None:
    names = [f"p{n:02}" for n in range(count)]
    client.submit_many(map(task, names))

    def meddle() -> None:
        remove(client, names[-1])

    meddled.before = meddle
    [result] = meddled.client.submit_many([task("child", *names)])
    assert (result.outcome, result.field) == ("invalid", f"after[{count - 1}].task")
    assert "child" not in ages(client)


@pytest.mark.parametrize("count", [2, parents.AT_ONCE + 2])
def test_a_parent_that_is_another_one_meanwhile(client: Client, meddled: Meddled, count: int) -> None:
    """It is older than the child all the same."""
    names = [f"p{n:02}" for n in range(count)]
    client.submit_many(map(task, names))

    def meddle() -> None:
        remove(client, names[-1])
        client.submit(task(names[-1], priority=1))

    meddled.before = meddle
    assert meddled.client.submit(task("child", *names)).outcome == "created"
    found = ages(client)
    assert all(found[name] < found["child"] for name in names)
    assert len(awaits(client)) == count


def test_the_feature_is_dropped_while_parents_are_kept(client: Client, meddled: Meddled) -> None:
    names = [f"p{n:02}" for n in range(parents.AT_ONCE + 2)]
    client.submit_many(map(task, names))

    def meddle() -> None:
        client.features.drop("dependencies")

    meddled.before = meddle
    [result] = meddled.client.submit_many([task("child", *names)])
    assert (result.outcome, result.field) == ("invalid", "after")
    assert awaits(client) == set()


def test_records_of_an_earlier_try_do_not_matter(client: Client, put_raw: PutRaw) -> None:
    names = [f"p{n:02}" for n in range(parents.AT_ONCE + 2)]
    client.submit_many(map(task, names))
    for name in names:
        put_raw(f"awaits/{name}/child", b'{"version":1,"op":"earlier"}')
    assert client.submit(task("child", *names)).outcome == "created"
    assert len(awaits(client)) == len(names)


def test_a_parent_whose_creation_was_answered_late(client: Client) -> None:
    """It may be another one by then: it is read."""
    store: Any = MeddledStore(client.store)

    def late(real: Callable[..., Any], transaction: Transaction, **more: Any) -> Any:
        first = real(transaction, **more)
        item, _ = client.store.get(client.keys.task("a"), deadline=in_seconds())
        assert item is not None
        by_hand = Transaction((), (Put(item.key, item.value),), Op("hand"))
        client.store.commit(by_hand, deadline=in_seconds())
        del store.on["commit"]
        again = real(transaction, **more)
        assert isinstance(first, Committed)
        assert again.recovered
        return again

    store.on["commit"] = late
    other = Client.of_store(store, cluster=client.cluster)
    results = other.submit_many([task("a"), *(task(f"x{n:02}") for n in range(70)), task("b", "a")])
    assert {result.outcome for result in results} == {"created"}
    assert awaits(client) == {"a/b"}


def test_ended_parents_are_parents(client: Client, put_status: PutStatus) -> None:
    client.submit(task("a"))
    put_status("a", State.SUCCEEDED)
    assert client.submit(task("b", "a")).outcome == "created"
