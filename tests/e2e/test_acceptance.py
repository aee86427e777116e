"""The promise, on real parts: 300 tasks of all kinds while the leader is killed, stopped and told to go."""

from __future__ import annotations

import itertools
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

from controller.audit.audit import run_audit
from controller.clock import SystemClock
from controller.core.model.lifecycle import State
from controller.engine.process.engine import ProcessEngine
from controller.store.etcd.gateway import GatewayOptions
from controller.store.etcd.store import EtcdStore
from controller.views.step import StepView
from tests.support.history import replay
from tests.support.local import Journal, Tending, Witness, kill, leader_of, local_cluster, pid_of, wait_ready
from tests.support.waiting import wait_until

QUICK, FLAKY, FAILING, CANCELLED, OVERDUE = 200, 40, 20, 20, 20
STOPPED_SECONDS = 10.0
FAULTS = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP, signal.SIGKILL]


def tasks(journal: Journal) -> list[dict[str, Any]]:
    """300 tasks: most succeed, some after a retry, some fail for good, some are cancelled, some run over
    their deadline.
    """

    def task(task_id: str, body: str, **fields: Any) -> dict[str, Any]:
        return {
            "id": task_id,
            "command": journal.command(body),
            "resources": {"cpu": "250m"},
            "grace_seconds": 1,
            **fields,
        }

    retry = {"max_attempts": 2, "backoff_seconds": 1, "factor": 1}
    return [
        *(task(f"quick-{n}", f"sleep 0.{n % 10}") for n in range(QUICK)),
        *(task(f"flaky-{n}", '[ "$TALLY_ATTEMPT" != 1 ]', retry=retry) for n in range(FLAKY)),
        *(task(f"failing-{n}", "exit 7", retry=retry) for n in range(FAILING)),
        *(task(f"cancelled-{n}", "sleep 600") for n in range(CANCELLED)),
        *(task(f"overdue-{n}", "sleep 600", deadlines={"run": 2}) for n in range(OVERDUE)),
    ]


def waves(everything: list[dict[str, Any]], count: int) -> list[list[dict[str, Any]]]:
    """The tasks in as many portions, each with some of all kinds: there is work whenever a leader dies."""
    return [everything[n::count] for n in range(count)]


def expected_state(task_id: str) -> State:
    """What must become of a task."""
    kind = task_id.split("-")[0]
    return {"quick": State.SUCCEEDED, "flaky": State.SUCCEEDED, "cancelled": State.CANCELLED}.get(
        kind, State.FAILED
    )


def expected_attempts(task_id: str) -> int:
    """How many attempts it must have made."""
    return 2 if task_id.split("-")[0] in ("flaky", "failing") else 1


def test_300_tasks_while_the_leader_dies(tmp_path: Path) -> None:
    """All 300 end in the right state, each attempt ran once and alone, and every unit of resource is free
    again.
    """
    journal = Journal(tmp_path / "journal")
    with local_cluster(tmp_path / "data") as cluster, cluster.client() as client, Tending(cluster):
        client.apply_pool({"name": "default", "capacity": {"cpu": 5}, "policy": "backfill"})
        witness = Witness(cluster.endpoint)
        try:
            leader_of(cluster)
            gaps = []
            for fault, wave in zip(FAULTS, waves(tasks(journal), len(FAULTS)), strict=True):
                wait_ready(cluster)
                for result in client.submit_many(wave):
                    assert result.outcome == "created", result
                for task in wave:
                    if str(task["id"]).startswith("cancelled"):
                        client.cancel(str(task["id"]))
                leader = leader_of(cluster)
                gap = (
                    stop_and_continue(leader, witness)
                    if fault is signal.SIGSTOP
                    else witness.next_term(kill(leader, fault))
                )
                gaps.append((fault.name, gap))
            ids = [f"{kind}-{n}" for kind, count in kinds() for n in range(count)]
            views = client.wait(ids, timeout_seconds=180)
        finally:
            witness.close()
        for kind, gap in gaps:
            print(f"{kind}: next leader's first commit after {gap:.2f} s")
        print(f"longest gap: {max(gap for _, gap in gaps):.2f} s")

        wrong = {
            task_id: view.state for task_id, view in views.items() if view.state != expected_state(task_id)
        }
        assert not wrong
        starts = journal.starts()
        assert {attempt: times for attempt, times in starts.items() if times != 1} == {}, (
            "an attempt ran more than once"
        )
        assert journal.overlaps() == []
        began = Counter(task_id for task_id, _ in starts)
        for task_id in ids:
            if not task_id.startswith("cancelled"):  # those may have been cancelled before they began
                assert began[task_id] == expected_attempts(task_id), task_id
        assert witness.terms_out_of_order == []
        history = replay(cluster.endpoint)
        assert history.findings == [], "an invariant did not hold at some revision"
        assert history.missing(ids) == []
        check_histories({task_id: client.get(task_id).history() for task_id in ids[:20]})
        (pool,) = client.pools()
        assert not pool.held, pool
        engine = ProcessEngine(cluster.state_dir, "default", SystemClock())
        store = EtcdStore(GatewayOptions((cluster.endpoint,)), SystemClock())
        report = run_audit(store, engine, "default", SystemClock())
        store.close()
        engine.close()
        assert report.verdict == "ok", report.to_text()


def kinds() -> list[tuple[str, int]]:
    """The kinds of tasks and how many there are."""
    return [
        ("quick", QUICK),
        ("flaky", FLAKY),
        ("failing", FAILING),
        ("cancelled", CANCELLED),
        ("overdue", OVERDUE),
    ]


def stop_and_continue(leader: Any, witness: Witness) -> float:
    """SIGSTOP for longer than the lease, then SIGCONT; the gap until another replica's first commit."""
    at = kill(leader, signal.SIGSTOP)
    stopped = pid_of(leader)
    try:
        gap = witness.next_term(at)
        wait_until(lambda: SystemClock().boottime() - at >= STOPPED_SECONDS, "the stop's end")
    finally:
        os.kill(stopped, signal.SIGCONT)
    return gap


def check_histories(histories: dict[str, list[StepView]]) -> None:
    """Each history is a chain of steps, in time and by epoch."""
    for task_id, steps in histories.items():
        for before, after in itertools.pairwise(steps):
            assert before.state == after.source, task_id
            assert before.epoch <= after.epoch, task_id
