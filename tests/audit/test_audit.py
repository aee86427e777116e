"""The audit over a store and an engine: what counts at once, what only when a second look finds it again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from controller.audit.audit import Report, run_audit
from controller.clock import SystemClock
from controller.core.model import codec
from controller.core.model.lifecycle import FINISHED, Event, State
from controller.core.model.op import Op
from controller.core.model.resources import Vector
from controller.core.model.task import AttemptId, Launch, Pool, Spec, Status, Step
from controller.core.promise.finding import FindingSeverity
from controller.engine.base import EngineUnavailable
from controller.engine.null import NullEngine
from controller.store.base import Delete, Put, StoreUnavailable, Transaction
from controller.store.keys import Keys
from controller.store.memory import MemoryStore

CPU = Vector({"cpu": 500})
CLOCK = SystemClock()


class Cluster:
    """A store and an engine as a leader would have written them, step by step."""

    def __init__(self) -> None:
        self.store = MemoryStore(CLOCK)
        self.engine = NullEngine(CLOCK, run_seconds=3600.0)
        self.keys = Keys("test")
        self.writes = 0
        self.put(self.keys.epoch, b'{"epoch":1,"op":"e"}')
        self.put(
            self.keys.pool("default"),
            codec.encode_pool(Pool(name="default", capacity=Vector({"cpu": 1000})), Op("op")),
        )

    def put(self, key: str, value: bytes | None) -> None:
        self.writes += 1
        write = Put(key, value) if value is not None else Delete(key)
        self.store.commit(Transaction((), (write,), Op(f"op{self.writes}")), deadline=CLOCK.boottime() + 5)

    def ledger(self, cpu: int) -> None:
        self.put(self.keys.ledger("default"), codec.encode_ledger(Vector({"cpu": cpu}), Op("op"), {}))

    def submit(self, task_id: str) -> None:
        self.put(
            self.keys.task(task_id),
            codec.encode_spec(Spec(id=task_id, command=("true",), resources=CPU), 1.0, Op("op")),
        )

    def running(self, task_id: str) -> None:
        steps = (
            (State.CREATED, Event.ADMITTED, State.PENDING),
            (State.PENDING, Event.RUNNING_OBSERVED, State.RUNNING),
        )
        self._status(task_id, State.RUNNING, steps, CPU)

    def succeeded(self, task_id: str) -> None:
        steps = (
            (State.CREATED, Event.ADMITTED, State.PENDING),
            (State.PENDING, Event.SUCCEEDED_OBSERVED, State.SUCCEEDED),
        )
        self._status(task_id, State.SUCCEEDED, steps, Vector())

    def start(self, task_id: str) -> None:
        attempt = AttemptId(task_id, 1)
        self.engine.start(
            Launch(
                attempt=attempt,
                cluster="test",
                term=1,
                spec=Spec(id=task_id),
                pool=Pool(name="default"),
                environment={},
            )
        )

    def audit(self, meanwhile: Callable[[], None] = lambda: None) -> Report:
        """`meanwhile` happens between the two looks, if there is a second one."""
        return run_audit(self.store, self.engine, "test", CLOCK, sleep=lambda _: meanwhile())

    def _status(
        self, task_id: str, state: State, path: tuple[tuple[State, Event, State], ...], hold: Vector
    ) -> None:
        history = tuple(
            codec.encode_step(Step(at=1.0, source=source, event=event, state=target, attempt=1, epoch=1))
            for source, event, target in path
        )
        fields: dict[str, Any] = {
            "pool": "default",
            "attempt": 1,
            "epoch": 1,
            "steps": len(history),
            "history": history,
            "finished_at": 1.0 if state in FINISHED else None,
        }
        self.put(self.keys.state(task_id), codec.encode_status(Status(state=state, hold=hold, **fields), {}))


@pytest.fixture
def cluster() -> Cluster:
    """One task runs, one is done, and all is in order."""
    cluster = Cluster()
    cluster.submit("runs")
    cluster.running("runs")
    cluster.ledger(500)
    cluster.start("runs")
    cluster.submit("done")
    cluster.succeeded("done")
    return cluster


def test_a_sound_cluster_is_said_to_be_sound(cluster: Cluster) -> None:
    report = cluster.audit()
    assert report.findings == ()
    assert (report.tasks, report.pools, report.attempts, report.wrong) == (2, 1, 1, 0)
    assert report.to_text().endswith("Nothing is wrong.")
    assert report.to_json()["verdict"] == "ok"
    assert report.revision == cluster.store.get("x", deadline=0)[1]


def test_without_an_engine_the_report_says_what_was_not_checked(cluster: Cluster) -> None:
    report = run_audit(cluster.store, None, "test", CLOCK)
    assert "engine was not checked" in report.to_text()
    assert report.to_json()["checked"]["attempts"] is None


def test_a_wrong_ledger_is_told_in_words_and_as_json(cluster: Cluster) -> None:
    cluster.ledger(700)
    report = cluster.audit()
    assert report.wrong == 1
    assert "WRONG I1 pool/default cpu: the ledger says 700m" in report.to_text()
    assert report.to_text().endswith("The promise is broken: 1 finding.")
    document = json.loads(json.dumps(report.to_json()))
    assert document["verdict"] == "wrong"
    assert document["findings"][0]["invariant"] == "I1"


def test_notices_fail_no_audit(cluster: Cluster) -> None:
    cluster.put(f"{cluster.keys.prefix}foreign", b"\xff")
    report = cluster.audit()
    assert [finding.severity for finding in report.findings] == [FindingSeverity.NOTICE]
    assert report.verdict == "ok"
    assert report.to_text().endswith("Nothing is wrong, 1 notice.")


def test_another_clusters_keys_are_none_of_our_business(cluster: Cluster) -> None:
    cluster.put("/tally/other/states/x", b"junk")
    assert cluster.audit().findings == ()


def test_an_orphan_of_a_task_that_had_ended_needs_no_second_look(cluster: Cluster) -> None:
    cluster.start("done")
    looks: list[int] = []
    report = cluster.audit(lambda: looks.append(1))
    assert [(finding.invariant, finding.subject) for finding in report.findings] == [("I5", "attempt/done-1")]
    assert looks == []


def test_a_start_that_overtook_the_load_is_no_orphan(cluster: Cluster) -> None:
    """Its hold was committed after the records were loaded and before the engine was listed: the second
    look sees it.
    """
    cluster.start("new")

    def commit_is_seen() -> None:
        cluster.submit("new")
        cluster.running("new")
        cluster.ledger(1000)

    assert cluster.audit(commit_is_seen).findings == ()


def test_an_orphan_that_stays_is_found(cluster: Cluster) -> None:
    cluster.start("stranger")
    assert [(finding.invariant, finding.subject) for finding in cluster.audit().findings] == [
        ("I5", "attempt/stranger-1")
    ]


def test_a_second_look_keeps_each_finding_of_one_subject(cluster: Cluster) -> None:
    """A pool has one for each resource."""
    held = Vector({"cpu": 700, "memory": 1})
    cluster.put(cluster.keys.ledger("default"), codec.encode_ledger(held, Op("x"), {}))
    cluster.start("stranger")
    findings = cluster.audit().findings
    assert [f.what.partition(":")[0] for f in findings if f.invariant == "I1"] == ["cpu", "memory"]
    assert [f.subject for f in findings if f.transient] == ["attempt/stranger-1"]


def test_one_orphan_that_goes_does_not_vouch_for_another_that_comes(cluster: Cluster) -> None:
    """A second look confirms the same attempt only."""
    cluster.start("first")

    def replaced() -> None:
        cluster.engine.stop(AttemptId("first", 1), grace_seconds=1.0)
        cluster.start("second")

    assert cluster.audit(replaced).findings == ()


def test_a_running_task_without_attempt_is_wrong_if_it_stays_so(cluster: Cluster) -> None:
    cluster.submit("ghost")
    cluster.running("ghost")
    cluster.ledger(1000)
    assert cluster.audit(lambda: cluster.start("ghost")).findings == ()
    other = Cluster()
    other.submit("ghost")
    other.running("ghost")
    other.ledger(500)
    assert [(finding.subject, finding.severity) for finding in other.audit().findings] == [
        ("attempt/ghost-1", FindingSeverity.WRONG)
    ]


def test_an_end_that_is_being_committed_is_no_finding(cluster: Cluster) -> None:
    cluster.engine.stop(AttemptId("runs", 1), grace_seconds=1.0)

    def committed() -> None:
        cluster.succeeded("runs")
        cluster.ledger(0)

    assert cluster.audit(committed).findings == ()
    cluster.running("runs")
    cluster.ledger(500)
    assert [finding.severity for finding in cluster.audit().findings] == [FindingSeverity.NOTICE]


def test_a_silent_engine_is_no_verdict_and_hides_no_records(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: object, **__: object) -> None:
        raise EngineUnavailable("the daemon does not answer")

    monkeypatch.setattr(cluster.engine, "attempts", silent)
    assert (cluster.audit().verdict, cluster.audit().attempts) == ("incomplete", None)
    assert "because the daemon does not answer." in cluster.audit().to_text()
    cluster.ledger(700)
    assert [(finding.invariant, cluster.audit().verdict) for finding in cluster.audit().findings] == [
        ("I1", "wrong")
    ]
    cluster.store.close()
    with pytest.raises(StoreUnavailable):
        cluster.audit()
