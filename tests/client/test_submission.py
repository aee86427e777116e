"""Submitting: once each, many at a time, whatever is invalid, exists already, or happens to etcd
meanwhile.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest

from controller.client import Client, Conflict
from controller.client.prepared import SubmitResult
from controller.core.model.op import Op
from controller.core.model.resources import Vector
from controller.core.model.task import Spec
from controller.errors import InvalidField
from controller.store.base import (
    MAX_OPERATIONS,
    MAX_REQUEST_BYTES,
    Committed,
    Delete,
    Put,
    Refused,
    StoreUnavailable,
    Transaction,
)
from tests.client.conftest import PutRaw
from tests.support.etcd import EtcdFactory
from tests.support.waiting import wait_until


def task(task_id: str, **fields: object) -> dict[str, object]:
    return {"id": task_id, "command": ["true"], **fields}


def outcomes(results: list[SubmitResult]) -> dict[str, str]:
    return {result.id: result.outcome for result in results}


def test_the_same_again_is_unchanged_and_other_content_a_conflict(client: Client) -> None:
    """Submitting is idempotent; a conflict names what differs and changes nothing."""
    assert client.submit(task("a", env={"B": "1", "A": "2"})).outcome == "created"
    assert client.submit(task("a", env={"A": "2", "B": "1"}, resources={"cpu": "0.1"})).outcome == "unchanged"
    refused = client.submit_many([task("a", env={"A": "3"}, priority=1)])[0]
    assert refused.outcome == "conflict"
    assert "it differs in env, priority" in refused.message
    spec = client.get("a").spec
    assert spec is not None
    assert spec.env == {"A": "2", "B": "1"}


def test_a_spec_object_is_taken_like_a_mapping(client: Client) -> None:
    """What was read can be submitted again."""
    client.submit(
        task(
            "a",
            retry={"max_attempts": 3, "backoff_seconds": "1m"},
            pod_template={"spec": {"x": [1, 2.5, None]}},
        )
    )
    spec = client.get("a").spec
    assert isinstance(spec, Spec)
    assert client.submit(spec).outcome == "unchanged"


def test_resources_are_filled_in_from_the_pool(client: Client) -> None:
    """Names that the spec does not give come from the pool; without any, a small share of what the pool
    has.
    """
    client.apply_pool(
        {"name": "d", "capacity": {"cpu": 4, "gpu": 1}, "default_resources": {"cpu": 2, "gpu": 1}}
    )
    client.apply_pool({"name": "e", "capacity": {"cpu": 4, "gpu": 1}})
    client.submit_many(
        [
            task("a", pool="d"),
            task("b", pool="d", resources={"cpu": 1}),
            task("c", pool="e"),
            task("d", pool="e", resources={}),
        ]
    )
    held = {view.id: view.spec.resources for view in client.tasks() if view.spec is not None}
    assert held == {
        "a": Vector({"cpu": 2000, "gpu": 1}),
        "b": Vector({"cpu": 1000, "gpu": 1}),
        "c": Vector({"cpu": 100}),
        "d": Vector({"cpu": 100}),
    }


def test_a_resource_that_is_no_longer_named_makes_another_spec(client: Client) -> None:
    """Whether the pool would fill in another amount, or none."""
    client.apply_pool(
        {
            "name": "d",
            "capacity": {"cpu": 4, "gpu": 1, "memory": "1Gi"},
            "default_resources": {"memory": "64Mi"},
        }
    )
    client.submit(task("a", pool="d", resources={"cpu": 1, "gpu": 1, "memory": "128Mi"}))
    assert (
        client.submit_many([task("a", pool="d", resources={"cpu": 1, "memory": "128Mi"})])[0].outcome
        == "conflict"
    )
    assert client.submit_many([task("a", pool="d", resources={"cpu": 1, "gpu": 1})])[0].outcome == "conflict"
    assert (
        client.submit(task("a", pool="d", resources={"memory": "128Mi", "gpu": 1, "cpu": 1})).outcome
        == "unchanged"
    )
    client.submit(task("b", pool="d", resources={"cpu": 1, "memory": "64Mi"}))
    # it asks for the same
    assert client.submit(task("b", pool="d", resources={"cpu": 1})).outcome == "unchanged"


def test_a_dry_run_compares_those_of_one_file_too(client: Client) -> None:
    tasks = [task("a"), task("a"), task("a", priority=1)]
    expected = ["created", "unchanged", "conflict"]
    for dry_run in (True, False):
        assert [result.outcome for result in client.submit_many(tasks, dry_run=dry_run)] == expected


def test_a_pools_new_defaults_make_no_conflict(client: Client) -> None:
    """Only the resources that the user named are compared."""
    client.apply_pool({"name": "d", "capacity": {"cpu": 4, "gpu": 1}, "default_resources": {"gpu": 1}})
    client.submit(task("a", pool="d", resources={"cpu": 1}))
    client.apply_pool({"name": "d", "capacity": {"cpu": 4, "gpu": 1}, "default_resources": {}})
    assert client.submit(task("a", pool="d", resources={"cpu": 1})).outcome == "unchanged"
    assert client.submit_many([task("a", pool="d", resources={"cpu": 2})])[0].outcome == "conflict"
    assert client.submit_many([task("a", pool="d", resources={"cpu": 1, "gpu": 0})])[0].outcome == "conflict"


def test_unknown_pools_and_impossible_requests_are_refused_with_names_and_numbers(client: Client) -> None:
    """Nothing that could never run is stored."""
    assert (
        client.submit_many([task("a", pool="nope")])[0].message
        == "pool: there is no pool 'nope'; the pools are default"
    )
    assert (
        "asks for 9, but pool 'default' has 8 in all"
        in client.submit_many([task("a", resources={"cpu": 9})])[0].message
    )
    assert client.tasks() == []


def test_an_amount_that_is_a_default_says_so(client: Client, put_raw: PutRaw) -> None:
    """Whoever has named no memory looks for it in vain."""
    put_raw("engine", b'{"engine":{"name":"null","id":"e"},"installation":"abc"}')
    small = {"name": "small", "capacity": {"cpu": 100, "memory": "16Gi"}}
    gang = task("a", pool="small", array={"gang": True, "size": 1000}, resources={"cpu": "1m"})

    def told(**more: Any) -> str:
        return client.submit_many([gang | more], dry_run=True)[0].message

    client.apply_pool(small | {"default_resources": {"memory": "64Mi"}})
    of_pool = (
        "resources.memory: asks for 64000Mi for its 1,000 members together, which run at once, but pool"
        " 'small' has 16Gi in all: the task could never run. The task does not name memory: 64Mi for each of"
        " 1,000 members comes from `default_resources` of the pool; name less, or 0 for none"
    )
    assert told() == of_pool
    own = [
        {"name": "a", "size": 1, "resources": {"memory": "17Gi"}},
        {"name": "b", "size": 500, "resources": {"cpu": "1m"}},
    ]
    assert told(array={"gang": True, "roles": own}).endswith("the task could never run")
    part = [{"name": "a", "size": 1}, {"name": "b", "size": 1, "resources": {"memory": "17Gi"}}]
    assert "64Mi for 1 member comes from" in told(array={"gang": True, "roles": part})
    assert told(resources={"cpu": "1m", "memory": "65Mi"}).endswith("the task could never run")
    client.apply_pool(small)
    assert "64Mi for each of 1,000 members comes from Tally's own default" in told(resources={})
    tiny = {"name": "tiny", "capacity": {"cpu": "50m"}}
    client.apply_pool(tiny)
    [alone] = client.submit_many([task("a", pool="tiny")], dry_run=True)
    assert alone.message.endswith(
        "The task does not name cpu: 100m comes from Tally's own default; name less, or 0 for none"
    )
    client.apply_pool(
        tiny | {"capacity": {"cpu": 1}, "sharing": {"owners": {"default": {"limit": {"cpu": "50m"}}}}}
    )
    [alone] = client.submit_many([task("a", pool="tiny")], dry_run=True)
    assert "owner 'default' may hold at most 50m" in alone.message
    assert "100m comes from Tally's own default" in alone.message


def test_one_batch_with_everything_in_it(client: Client) -> None:
    """Conflicts, invalid ones, doubles and what exists never keep the others from being submitted."""
    client.submit_many([task("same"), task("other")])
    batch: list[Any] = [
        task("n1"),
        task("same"),
        task("other", priority=5),
        task("BAD"),
        7,
        task("n2"),
        task("n1"),
        task("n1", priority=1),
        task("n3"),
    ]
    results = client.submit_many(batch)
    by_index = {result.index: (result.id, result.outcome) for result in results}
    assert by_index == {
        0: ("n1", "created"),
        1: ("same", "unchanged"),
        2: ("other", "conflict"),
        3: ("BAD", "invalid"),
        4: ("", "invalid"),
        5: ("n2", "created"),
        6: ("n1", "unchanged"),
        7: ("n1", "conflict"),
        8: ("n3", "created"),
    }
    assert {view.id for view in client.tasks()} == {"n1", "n2", "n3", "same", "other"}


class Counting:
    """A store that passes everything on, and keeps the transactions."""

    def __init__(self, client: Client) -> None:
        self._store = client.store
        self.transactions: list[Transaction] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def commit(self, transaction: Transaction, *, deadline: float) -> Committed | Refused:
        self.transactions.append(transaction)
        return self._store.commit(transaction, deadline=deadline)


def test_batches_stay_within_etcds_limits(client: Client) -> None:
    """By number (two guards for each task, one for its pool) and by bytes, and no more of them than
    needed.
    """
    store: Any = Counting(client)
    counting = Client.of_store(store, cluster=client.keys.cluster)
    most = (MAX_OPERATIONS - 1) // 2
    counting.submit_many(task(f"small-{i}") for i in range(3 * most))
    assert [transaction.operations() for transaction in store.transactions] == [2 * most + 1] * 3
    store.transactions.clear()
    counting.submit_many(task(f"large-{i}", env={"A": "x" * 100_000}) for i in range(40))
    assert all(transaction.size() <= MAX_REQUEST_BYTES for transaction in store.transactions)
    assert len(store.transactions) <= 5
    assert len(client.tasks()) == 3 * most + 40


def test_two_clients_submitting_the_same_make_each_task_once(client: Client) -> None:
    """Fault 35: every task is created by exactly one of them, and is unchanged for the other."""
    found: list[list[SubmitResult]] = []

    def submit() -> None:
        found.append(client.submit_many(task(f"t-{i}", args=[str(i)]) for i in range(600)))

    threads = [threading.Thread(target=submit, name=f"submitter-{n}") for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = Counter((result.id, result.outcome) for results in found for result in results)
    assert {counts[f"t-{i}", "created"] for i in range(600)} == {1}
    assert {counts[f"t-{i}", "unchanged"] for i in range(600)} == {2}


def test_a_submission_survives_a_restart_of_etcd(etcd_factory: EtcdFactory) -> None:
    """Fault 13: etcd goes away in the middle and comes back; all are stored once, without the caller's
    doing.
    """
    etcd = etcd_factory.start()
    with Client(etcd.url) as client:
        client.apply_pool({"name": "default", "capacity": {"cpu": 8}})
        results: list[SubmitResult] = []
        under_way = threading.Event()

        def on_result(result: SubmitResult) -> None:
            results.append(result)
            if len(results) == 400:
                under_way.set()

        tasks = [task(f"t-{i}", env={"A": "x" * 20_000}) for i in range(1000)]
        submitter = threading.Thread(
            target=lambda: client.submit_many(tasks, on_result=on_result), name="submitter"
        )
        submitter.start()
        assert under_way.wait(30)
        etcd.kill()
        etcd.start()
        submitter.join()
        assert Counter(result.outcome for result in results) == {"created": 1000}
        assert len(client.tasks()) == 1000


def test_a_dead_etcd_is_an_error_within_the_time_limit(etcd_factory: EtcdFactory) -> None:
    """No hang, and a message that names the endpoint."""
    etcd = etcd_factory.configure()
    with Client(etcd.url, timeout_seconds=0.3) as client, pytest.raises(StoreUnavailable, match=etcd.url):
        client.submit(task("a"))


def test_dry_run_tells_what_would_be_and_writes_nothing(client: Client) -> None:
    """Created, unchanged, conflict and invalid as a real run would say, few or many."""
    client.submit_many([task("same"), task("other")])
    tasks = [task("same"), task("other", priority=1), task("new"), task("bad", pool="nope")]
    expected = {"same": "unchanged", "other": "conflict", "new": "created", "bad": "invalid"}
    assert outcomes(client.submit_many(tasks, dry_run=True)) == expected
    many = [*tasks, *(task(f"m-{i}") for i in range(50))]
    assert outcomes(client.submit_many(many, dry_run=True)) == expected | {
        f"m-{i}": "created" for i in range(50)
    }
    assert [view.id for view in client.tasks()] == ["other", "same"]


def test_an_unreadable_task_of_that_name_is_a_conflict(client: Client, put_raw: PutRaw) -> None:
    """Fault 23: someone else's value under the key is not overwritten."""
    put_raw("tasks/a", b"\xff not ours")
    assert "exists, but is not valid" in client.submit_many([task("a")])[0].message
    wait_until(lambda: client.get("a").problem, "the problem is shown")


def test_a_client_follows_its_pools(client: Client) -> None:
    """What it knows of pools may be old: a task is neither refused for it nor stored by it."""
    client.apply_pool({"name": "p", "capacity": {"cpu": 4}, "default_resources": {"cpu": 1}})
    other = Client.of_store(client.store, cluster=client.keys.cluster)
    assert other.submit(task("first", pool="p")).outcome == "created"
    client.apply_pool({"name": "p", "capacity": {"cpu": 8}, "default_resources": {"cpu": 2}})
    assert other.submit(task("default", pool="p")).outcome == "created"
    assert other.submit(task("larger", pool="p", resources={"cpu": 6})).outcome == "created"
    client.apply_pool({"name": "new", "capacity": {"cpu": 1}})
    assert other.submit(task("elsewhere", pool="new")).outcome == "created"
    client.apply_pool({"name": "p", "capacity": {"cpu": 2}, "default_resources": {"cpu": 1}})
    mixed = other.submit_many(
        [task("small", pool="p"), task("large", pool="p", resources={"cpu": 6}), task("first", pool="p")]
    )
    assert outcomes(mixed) == {"small": "created", "large": "invalid", "first": "unchanged"}
    assert [result.index for result in mixed if result.outcome == "invalid"] == [1]
    held = {view.id: view.spec.resources["cpu"] for view in client.tasks() if view.spec is not None}
    assert held == {"first": 1000, "default": 2000, "larger": 6000, "elsewhere": 100, "small": 1000}


def test_the_pool_of_a_batch_is_asked_for_once(client: Client) -> None:
    """One transaction and nothing else, once the client knows the pools."""
    store: Any = Counting(client)
    counting = Client.of_store(store, cluster=client.keys.cluster)
    counting.submit(task("first"))
    store.load = store.get = None  # whoever reads fails
    assert counting.submit(task("second")).outcome == "created"
    assert len(store.transactions) == 2


def test_what_is_left_of_an_earlier_task_is_not_taken_for_the_end_of_a_new_one(client: Client) -> None:
    """A status without a spec: the submission is refused until the leader has removed it."""
    key = client.keys.state("a")
    value = b'{"version":1,"state":"Failed","finished_at":1.0}'
    put = Transaction((), (Put(key, value),), Op("by-hand"))
    client.store.commit(put, deadline=client.clock.boottime() + 5)
    refused, created = client.submit_many([task("a"), task("b")])
    assert (refused.id, refused.outcome) == ("a", "conflict")
    assert "its status is still there" in refused.message
    assert (created.id, created.outcome) == ("b", "created")
    client.store.commit(
        Transaction((), (Delete(key),), Op("by-hand-2")), deadline=client.clock.boottime() + 5
    )
    assert client.submit(task("a")).outcome == "created"


def test_nobody_submits_what_passes_for_the_task_of_a_schedule(client: Client) -> None:
    """It would be waited for, or cancelled, in the place of a tick's."""
    with pytest.raises(InvalidField, match="is set by Tally on the tasks of schedules: leave it out"):
        client.submit(task("nightly-202611300200", labels={"tally.dev/schedule": "nightly"}))


def test_a_single_submission_that_is_refused_raises(client: Client) -> None:
    """Who submits one task need not look at a result to see that there is none."""
    with pytest.raises(InvalidField) as invalid:
        client.submit(task("a", retry={"max_attempts": 0}))
    assert (invalid.value.field, str(invalid.value)) == (
        "retry.max_attempts",
        "retry.max_attempts: is 0, expected 1 to 1000",
    )
    assert client.submit(task("a")).outcome == "created"
    assert client.submit(task("a")).outcome == "unchanged"
    with pytest.raises(Conflict, match="another spec"):
        client.submit(task("a", priority=3))
    with pytest.raises(Conflict):
        client.submit(task("a", priority=3), dry_run=True)
