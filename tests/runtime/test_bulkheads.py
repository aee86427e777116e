"""One poisoned task, three replicas: nobody dies of it, the others' tasks finish, and terms go on (faults
44 and 47).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from controller import bulkhead
from controller.audit.audit import run_audit
from controller.client import Client, NotFound
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.core.model.task import AttemptId, Observation, Phase
from controller.endpoint.documents import encode
from controller.endpoint.summary import Waits, summarize
from controller.engine.base import all_checked
from controller.runtime import failpoints
from controller.store.base import Put, Transaction
from controller.store.memory import MemoryStore
from controller.telemetry.metrics import Metrics
from tests.runtime.conftest import CLOCK, CLUSTER, Start
from tests.support.running import RecordingEngine, submit
from tests.support.waiting import wait_until


@pytest.fixture
def armed() -> Iterator[Callable[[str], None]]:
    """Arms failpoints until the test ends."""
    yield failpoints.arm
    failpoints.arm("")


def terms(client: Client) -> int:
    """How many elections there were."""
    return len(client.store.load(client.keys.terms, deadline=CLOCK.boottime() + 5).items)


def put(client: Client, key: str, value: bytes) -> None:
    """By hand."""
    client.store.commit(Transaction((), (Put(key, value),), Op(f"hand-{key}")), deadline=CLOCK.boottime() + 5)


@pytest.mark.parametrize(("point", "most_terms"), [("plan-task", 1), ("before-commit", 3)])
def test_no_poison_walks_through_the_replicas(
    start: Start, client: Client, armed: Callable[[str], None], point: str, most_terms: int
) -> None:
    """Where the error can be told to be one task's, no term is lost; else two are, and the third leader is
    spared.
    """
    replicas = [start(name=f"r{n}", engine=RecordingEngine(CLOCK, run_seconds=0.05)) for n in range(3)]
    wait_until(lambda: any(replica.leads for replica in replicas), "a leader")
    began = terms(client)
    armed(f"{point}:raise:poison")
    submit(client, "poison", "a", "b", "c")
    for round_number in range(3):
        ids = submit(client, *(f"t{round_number}-{n}" for n in range(4)))
        views = client.wait(ids, timeout_seconds=60)
        assert {view.state for view in views.values()} == {State.SUCCEEDED}
    client.wait(["a", "b", "c"], timeout_seconds=60)
    assert terms(client) - began <= most_terms - 1
    assert client.store.get(client.keys.quarantined("poison"), deadline=CLOCK.boottime() + 5)[0] is not None
    assert "quarantined" in client.explain("poison")
    assert "Raised" in client.get("poison").problem
    report = run_audit(client.store, None, CLUSTER, CLOCK).to_json()
    assert "key/quarantined/poison" in {finding["subject"] for finding in report["findings"]}
    assert not any(replica.fatal for replica in replicas)
    assert all(replica._thread.is_alive() for replica in replicas)
    armed("")
    client.cancel("poison")
    assert client.wait(["poison"], timeout_seconds=60)["poison"].state is State.CANCELLED
    wait_until(
        lambda: client.store.get(client.keys.quarantined("poison"), deadline=CLOCK.boottime() + 5)[0] is None,
        "its record to go",
    )


@pytest.mark.parametrize(
    ("end", "is_cautious"),
    [
        ({"why": "KeyError: 5", "unexpected": True}, True),
        ({"why": "an unexpected error: KeyError: 5", "unexpected": False}, False),
        ({"why": "an unexpected error: KeyError: 5"}, True),  # of a version that stored no field
        ({"why": "the replica stops"}, False),
        ({"why": {}}, False),
        *(({"unexpected": odd}, False) for odd in ("true", 1, 10**400, [True], {"a": True}, None)),
    ],
    ids=lambda value: str(value)[:60],
)
def test_the_leader_after_an_unexpected_error_changes_one_task_at_a_time(
    start: Start, client: Client, end: dict[str, Any], is_cautious: bool
) -> None:
    """The record of the term before says so; whatever stands there, the tasks run."""
    put(client, client.keys.epoch, b'{"epoch":5}')
    put(client, client.keys.term(5), json.dumps({"epoch": 5, "to": 1.0, **end}).encode())
    ids = submit(client, "a", "b", "c")
    replica = start(engine=RecordingEngine(CLOCK, run_seconds=0.0))
    assert {view.state for view in client.wait(ids, timeout_seconds=60).values()} == {State.SUCCEEDED}
    states = client.store.load(f"{client.keys.prefix}states/", deadline=CLOCK.boottime() + 5).items
    assert len({state.create for state in states}) == (3 if is_cautious else 1)
    assert replica.epoch == 6
    assert not replica.fatal


ODD: dict[str, dict[str, Any]] = {
    "words": {"exit_code": "x", "uid": 5, "message": None},
    "numbers": {"started_at": 1e300, "finished_at": float("nan"), "exit_code": 10**30, "signal": -(2**40)},
    "texts": {"message": "\ud800", "reason": "x" * 2**21, "uid": "u" * 5000},
    "phase": {"phase": "Succeeded?", "stopped": "yes"},
}


class OddEngine(RecordingEngine):
    """What it says of one attempt is odd."""

    odd: dict[str, Any] = {}  # noqa: RUF012  # set once by the test

    def attempts(self) -> list[Observation]:
        found = super().attempts()
        return [self._twisted(seen) if seen.attempt.task_id == "odd" else seen for seen in found]

    def _twisted(self, seen: Observation) -> Observation:
        fields = {name: getattr(seen, name) for name in seen.__struct_fields__}
        return Observation(**{**fields, "stopped": True, **self.odd})


@pytest.mark.parametrize("odd", ODD)
def test_what_an_engine_says_oddly_of_one_attempt_is_lost_with_the_reason(
    start: Start, client: Client, odd: str
) -> None:
    """It proves nothing: its resources stay held, it is shown, and the others are heard."""
    engine = OddEngine(CLOCK, run_seconds=600)
    engine.odd = ODD[odd]
    replica = start(engine=engine)
    replica.until_leading()
    submit(client, "odd", "other")
    wait_until(lambda: client.get("odd").lost, "it is shown as lost")
    view = client.get("odd")
    assert "the engine's answer about it cannot be used" in view.message
    assert view.status is not None
    assert view.status.is_holding
    engine.end(AttemptId("other", 1))
    assert client.wait(["other"], timeout_seconds=30)["other"].state is State.SUCCEEDED
    assert not replica.fatal


def test_what_names_no_attempt_is_counted_and_left_out() -> None:
    """There is nothing that it could belong to."""
    before = bulkhead.counts["observation", "EngineError"]
    seen: list[Any] = [None, 5, Observation(attempt=AttemptId("", 0), phase=Phase.RUNNING)]
    assert all_checked(seen) == []
    assert bulkhead.counts["observation", "EngineError"] == before + 3


@pytest.mark.parametrize("call", ["attempts", "watch", "start"])
def test_an_engine_that_raises_what_it_may_not_ends_no_thread(
    start: Start, client: Client, call: str
) -> None:
    """Nothing is concluded; when it is well again, all goes on."""
    engine = RecordingEngine(CLOCK, run_seconds=0.05)

    def fail() -> None:
        with contextlib.suppress(KeyError):
            del engine.on[call]
        raise AttributeError("'NoneType' object has no attribute 'items'")

    engine.on[call] = fail
    replica = start(engine=engine)
    replica.until_leading()
    (task,) = submit(client, "task")
    if call == "start":
        wait_until(lambda: "start" not in engine.on, "the start")
        client.cancel(task)  # it is tried again only after a while
    view = client.wait([task], timeout_seconds=60)[task]
    assert view.state is (State.CANCELLED if call == "start" else State.SUCCEEDED)
    assert not replica.fatal


DEEP = b"[" * 200_000
VALUES = [
    DEEP,
    b"",
    b"null",
    b"5",
    b"\xff\xfe",
    b'{"a":1,"a":2}',
    b'{"epoch":1' + b"0" * 400 + b"}",
    b'{"x":"' + b"x" * 900_000 + b'"}',
]
SHOWN = (
    b'{"id":5,"instance":{},"status_url":7,"since":1'
    + b"0" * 400
    + b',"applied_revision":1'
    + b"0" * 60
    + b',"engine":[],"phase":{}}'
)


@pytest.mark.parametrize("value", [*VALUES, SHOWN], ids=lambda value: repr(value[:12]))
def test_any_value_under_any_key_keeps_nobody_from_being_served(
    start: Start, client: Client, memory: MemoryStore, value: bytes
) -> None:
    """While a leader works: every kind of key, and keys of no kind; other tasks finish, and nothing
    unexpected is caught.
    """
    replica = start(engine=RecordingEngine(CLOCK, run_seconds=0.0))
    replica.until_leading()
    before = dict(bulkhead.counts)
    keys = client.keys
    for key in (
        keys.task("bad"),
        keys.state("bad"),
        keys.request("bad", "cancel"),
        keys.request("bad", "odd"),
        keys.pool("bad"),
        keys.ledger("bad"),
        keys.repair("bad"),
        keys.repaired("bad"),
        keys.quarantined("bad"),
        keys.term(999_999),
        f"{keys.terms}x",
        keys.replica("bad"),
        f"{keys.prefix}junk",
        f"{keys.prefix}a/b/c/d",
        f"{keys.prefix}tasks/",
        f"{keys.prefix}states/A B",
    ):
        put(client, key, value)
    ids = submit(client, *(f"t{n}" for n in range(5)))
    assert {view.state for view in client.wait(ids, timeout_seconds=60).values()} == {State.SUCCEEDED}
    run_audit(client.store, None, CLUSTER, CLOCK)
    client.replicas.all()
    client.replicas.leader()
    client.tasks()
    metrics = Metrics(CLOCK)
    metrics.observe(replica.replica)
    assert b"tally_quarantined_records{" in metrics.exposition()
    with replica.replica.reading() as model:
        encode(summarize(model, replica.replica.facts(), "", Waits(), CLOCK.now(), CLOCK.wall()))
    put(client, keys.epoch, value)
    epoch = replica.epoch
    with contextlib.suppress(NotFound):  # on a busy machine it may have lost its term by itself
        client.replicas.step_down()
    replica.until_leading(after=epoch)
    assert {view.state for view in client.wait(submit(client, "last"), timeout_seconds=60).values()} == {
        State.SUCCEEDED
    }
    put(client, keys.leader, value)
    replica.until_leading(after=epoch + 1)
    assert bulkhead.counts == before
    assert not replica.fatal
