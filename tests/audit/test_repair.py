"""Damage done by hand, on real etcd, a real replica and real processes: found by the audit, mended by the
repair.
"""

from __future__ import annotations

import json
import shlex
import shutil
from base64 import b64encode
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controller.audit.audit import examine, run_audit
from controller.audit.repairs import RepairUnanswered, ask, preview, wanted
from controller.core.model import codec
from controller.core.model.lifecycle import State
from controller.core.model.printable import one_line
from controller.core.model.requests import RepairRequest, Wanted
from controller.core.model.resources import Vector
from controller.core.model.task import AttemptId, Launch, Pool, Spec
from controller.core.planning.plan import Outcome, Verdict
from controller.engine.process import attempt_folder as files
from controller.engine.process.engine import ProcessEngine
from controller.store.etcd.store import EtcdStore
from tests.audit.conftest import CPU, Damaged, pause, resume
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("audit: repair")  # one cluster serves all


def repair(damaged: Damaged, *deletions: str) -> list[Outcome]:
    """Audit, and have the leader repair what was found; returns what became of each finding."""
    report = damaged.audit()
    request = RepairRequest(
        findings=wanted(report, deletions), revision=report.revision, by="tester", reason="a drill"
    )
    return ask(damaged.client.store, damaged.client.keys, damaged.client.clock, request, 30)


def verdicts(outcomes: list[Outcome]) -> list[tuple[str, Verdict]]:
    return [(outcome.subject, outcome.verdict) for outcome in outcomes]


def repair_all(damaged: Damaged) -> None:
    """Repair until nothing is wrong, as the command does."""

    def mended() -> bool:
        if not damaged.wrong():
            return True
        repair(damaged)
        return False

    wait_until(mended, "nothing being wrong any more", timeout=60)


@pytest.mark.parametrize("cpu", [0, 4000])
def test_a_wrong_ledger_becomes_what_the_tasks_hold(damaged: Damaged, cpu: int) -> None:
    """Too low as well as too high; the record says who had it repaired, and what it was."""
    name = damaged.runs()
    damaged.set_held(cpu)
    assert damaged.wrong() == [("I1", "pool/default")]
    assert verdicts(repair(damaged)) == [("pool/default", Verdict.REPAIRED)]
    assert damaged.held() == CPU
    value = json.loads(damaged.get("ledgers/default") or b"")
    assert (value["repaired"]["by"], value["repaired"]["reason"]) == ("tester", "a drill")
    assert value["repaired"]["was"] == Vector({"cpu": cpu}).format()
    assert damaged.wrong() == []
    damaged.gate.open()
    damaged.client.wait([name], timeout_seconds=30)
    assert damaged.held() == Vector()
    assert b"repaired" in (damaged.get("ledgers/default") or b""), "the record outlives the next write"


def test_a_ledger_that_fell_below_zero_is_still_a_ledger(damaged: Damaged) -> None:
    """It was set to nothing, and then a hold ended: the pool must not stand still for it."""
    name = damaged.runs()
    damaged.set_held(0)
    damaged.gate.open()
    assert damaged.client.wait([name], timeout_seconds=30)[name].state is State.SUCCEEDED
    assert damaged.held() == Vector({"cpu": -500})
    assert damaged.wrong() == [("I1", "pool/default")]
    repair(damaged)
    assert (damaged.held(), damaged.wrong()) == (Vector(), [])


def test_a_deleted_status_is_not_made_up_again(damaged: Damaged) -> None:
    """What runs is stopped as an orphan, the ledger is lowered only after that, and the task runs anew
    under the next number.
    """
    name = damaged.runs()
    pause(damaged)
    damaged.put(f"states/{name}", None)
    assert sorted(damaged.wrong()) == [("I1", "pool/default"), ("I5", f"attempt/{name}-1")]
    resume(damaged)
    repair_all(damaged)
    view = wait_until(
        lambda: v if (v := damaged.client.get(name)).state is State.RUNNING else None, "the next attempt"
    )
    assert view.attempt == 2
    assert damaged.held() == CPU
    phases = {
        str(seen.attempt): seen.stopped for seen in damaged.engine.attempts() if seen.attempt.task_id == name
    }
    assert phases == {f"{name}-1": True, f"{name}-2": False}


def test_a_ledger_is_not_lowered_while_an_orphan_may_run(damaged: Damaged) -> None:
    """What runs without a hold uses what the ledger would call free; the preview and the leader say so."""
    name = damaged.runs()
    pause(damaged)
    damaged.put(f"states/{name}", None)
    epoch = json.loads(damaged.get("epoch") or b"")["epoch"]
    # without a lease: it would be removed
    damaged.put("leader", codec.encode({"id": "somebody", "epoch": epoch}))
    report, look = examine(
        damaged.client.store, damaged.engine, damaged.client.keys.cluster, damaged.client.clock
    )
    request = RepairRequest(findings=wanted(report))
    shown = preview(look, request, damaged.client.keys, damaged.client.clock.now())
    ledger = next(outcome for outcome in shown.outcomes if outcome.subject == "pool/default")
    assert ledger.verdict is Verdict.LATER
    assert f"{name}-1 holds nothing and may still be running" in ledger.what
    assert not any("ledgers" in write.key for write in shown.transaction.writes)
    resume(damaged)


def test_a_forged_term_is_written_anew_by_the_term_that_leads(damaged: Damaged) -> None:
    """In the status and in its history; the step that records it says what was found, and `op` is the
    leader's again.
    """
    name = damaged.done()
    status = damaged.status(name)
    steps = codec.decode_history(status)
    forged = (*status.history[:-1], codec.encode_step(msgspec.structs.replace(steps[-1], epoch=99)))
    damaged.put(
        f"states/{name}",
        codec.encode_status(msgspec.structs.replace(status, epoch=99, op="forged", history=forged), {}),
    )
    assert set(damaged.wrong()) == {("I7", f"task/{name}")}
    assert verdicts(repair(damaged)) == [(f"task/{name}", Verdict.REPAIRED)]
    mended = damaged.status(name)
    last = codec.decode_history(mended)[-1]
    epoch = json.loads(damaged.get("epoch") or b"")["epoch"]
    assert (mended.epoch, last.reason, last.epoch) == (epoch, "Repaired", epoch)
    assert "names epoch 99" in last.message
    assert "requested by tester: a drill" in last.message
    assert mended.op != "forged"
    assert (mended.state, mended.reason, mended.steps) == (status.state, status.reason, status.steps + 1)
    assert damaged.wrong() == []


def test_a_hold_that_does_not_match_its_state_is_corrected_with_the_ledger(damaged: Damaged) -> None:
    """A finished task that holds, and a running one that holds too little: in one transaction with their
    ledgers.
    """
    done, runs = damaged.done(), damaged.runs()
    damaged.put(
        f"states/{done}", codec.encode_status(msgspec.structs.replace(damaged.status(done), hold=CPU), {})
    )
    damaged.put(
        f"states/{runs}",
        codec.encode_status(msgspec.structs.replace(damaged.status(runs), hold=Vector()), {}),
    )
    damaged.set_held(0)
    assert set(damaged.wrong()) == {("I1", f"task/{done}"), ("I1", f"task/{runs}")}
    assert {verdict for _, verdict in verdicts(repair(damaged))} == {Verdict.REPAIRED}
    assert (damaged.status(done).hold, damaged.status(runs).hold, damaged.held()) == (Vector(), CPU, CPU)
    assert damaged.wrong() == []


def test_an_attempt_without_a_task_is_stopped(damaged: Damaged) -> None:
    pause(damaged)
    attempt = AttemptId("stranger", 1)
    spec = Spec(id="stranger", command=("sleep", "3600"), resources=CPU)
    damaged.engine.start(
        Launch(
            attempt=attempt, cluster="default", term=1, spec=spec, pool=Pool(name="default"), environment={}
        )
    )
    assert damaged.wrong() == [("I5", "attempt/stranger-1")]
    resume(damaged)
    repair_all(damaged)
    assert [seen.stopped for seen in damaged.engine.attempts() if seen.attempt == attempt] == [True]


def test_a_task_whose_attempt_is_gone_is_ended(damaged: Damaged) -> None:
    """Everything of the attempt is removed behind the engine's back; its next list is an hour away, unless
    it is asked for.
    """
    name = damaged.runs()
    folder = damaged.cluster.state_dir / "default" / "attempts" / f"{name}-1"
    pause(damaged)
    _kill_all_of(folder)
    _remove(folder)
    assert damaged.wrong() == [("I5", f"attempt/{name}-1")]
    resume(damaged)
    repair_all(damaged)
    view = damaged.client.wait([name], timeout_seconds=30)[name]
    assert (view.state, view.reason) == (State.FAILED, "Gone")
    assert damaged.held() == Vector()


def _remove(folder: Path) -> None:
    """Whoever lists the engine at this moment may still write what became of the killed supervisor."""

    def removed() -> bool:
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    wait_until(removed, f"{folder} being gone")


def _kill_all_of(folder: Path) -> None:
    """Kill every process of the attempt, its supervisor first: no other test's, which may have a task of
    the same name.
    """
    import psutil

    supervisor = psutil.Process(json.loads((folder / files.RECORD).read_text())["supervisor"])
    others = [
        process
        for process in psutil.process_iter()
        if _environment(process).get(files.MARKER) == str(folder.resolve())
    ]
    for process in (supervisor, *others):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs([supervisor, *others], timeout=10)


def _environment(process: Any) -> dict[str, str]:
    import psutil

    try:
        environment: dict[str, str] = process.environ()
        return environment
    except psutil.Error:
        return {}


@pytest.mark.parametrize("value", [None, b"rubbish", b'{"epoch":0}'])
def test_a_lost_epoch_becomes_the_number_of_this_term(damaged: Damaged, value: bytes | None) -> None:
    damaged.done()
    before = damaged.get("epoch")
    damaged.put("epoch", value)
    assert ("I7", "key/epoch") in damaged.wrong()
    assert ("key/epoch", Verdict.REPAIRED) in verdicts(repair(damaged))
    assert json.loads(damaged.get("epoch") or b"")["epoch"] == json.loads(before or b"")["epoch"]
    assert damaged.wrong() == []


def test_a_term_that_never_was_is_removed(damaged: Damaged) -> None:
    damaged.put("terms/000000000099", b'{"epoch":99}')
    assert damaged.wrong() == [("I7", "key/terms/000000000099")]
    repair(damaged)
    assert (damaged.get("terms/000000000099"), damaged.wrong()) == (None, [])


def test_a_key_that_is_no_utf_8_holds_up_no_repair(damaged: Damaged) -> None:
    """It is nobody's status, whatever stands before it; that it cannot be named, and so not be deleted by
    us, is said.
    """
    store, prefix = damaged.client.store, damaged.client.keys.prefix
    assert isinstance(store, EtcdStore)
    keys = [
        f"{prefix}{kind}/".encode() + b"\xff"
        for kind in ("states", "tasks", "requests/x", "pools", "ledgers")
    ]

    def ask_etcd(path: str, **fields: bytes) -> None:
        body = {name: b64encode(value).decode() for name, value in fields.items()}
        store.gateway.call(path, msgspec.json.encode(body), msgspec.json.decode, deadline=damaged.soon())

    for key in keys:
        ask_etcd("/kv/put", key=key, value=b"{}")
    damaged.runs()
    damaged.set_held(0)
    assert verdicts(repair(damaged)) == [("pool/default", Verdict.REPAIRED)]
    assert damaged.held() == CPU
    (outcome,) = repair(damaged, f"{prefix}states/\\xff")
    assert (outcome.verdict, "etcdctl" in outcome.what) == (Verdict.LEFT, True)
    for key in keys:
        ask_etcd("/kv/deleterange", key=key)
    damaged.gate.open()


def test_a_quarantined_key_goes_only_when_it_is_named(damaged: Damaged) -> None:
    """With the revision that was seen: one that was mended since stays."""
    damaged.put("foreign/thing", b"\xff")
    assert repair(damaged) == []
    whole = damaged.client.keys.prefix + "foreign/thing"
    report = damaged.audit()
    request = RepairRequest(findings=wanted(report, [whole]))
    damaged.put("foreign/thing", b"another")
    client = damaged.client
    assert verdicts(ask(client.store, client.keys, client.clock, request, 30)) == [
        (f"key/{whole}", Verdict.LEFT)
    ]
    assert verdicts(repair(damaged, whole)) == [(f"key/{whole}", Verdict.REPAIRED)]
    assert damaged.get("foreign/thing") is None


@pytest.mark.parametrize("printed", ["engine", "installation", "pools/\\x1b[31mx"])
def test_a_key_is_named_as_the_audit_prints_it(damaged: Damaged, printed: str) -> None:
    """Also one without a name of its own, and one with control characters in it."""
    key = printed.replace("\\x1b", "\x1b")
    damaged.put(key, b"{")
    assert f"--delete {shlex.quote(printed)}`" in one_line(
        " ".join(finding.repair for finding in damaged.audit().findings)
    )
    assert [verdict for _, verdict in verdicts(repair(damaged, printed))] == [Verdict.REPAIRED]


def test_a_strangers_folder_is_not_checked_even_where_the_record_is_damaged(
    damaged: Damaged, tmp_path: Path
) -> None:
    """Nothing of what runs is there, and none of it is gone: the last term tells which engine it is."""
    damaged.runs()
    damaged.put("engine", b"{")  # a leader leaves it alone, as one that is gone it does not
    client = damaged.client
    stranger = ProcessEngine(tmp_path / "stranger", client.keys.cluster, client.clock)
    report = run_audit(client.store, stranger, client.keys.cluster, client.clock)
    stranger.close()
    assert report.verdict == "incomplete"
    assert {finding.subject for finding in report.findings} >= {"engine/asked", "key/engine"}


def test_a_ledger_that_cannot_be_read_is_written_anew_when_it_is_named(damaged: Damaged) -> None:
    """Never deleted: an absent ledger says that all is free."""
    damaged.runs()
    damaged.put("ledgers/default", b"rubbish")
    damaged.submit("true")
    assert verdicts(repair(damaged, "ledgers/default")) == [("key/ledgers/default", Verdict.REPAIRED)]
    wait_until(lambda: damaged.held() == CPU, "the second task having come and gone")
    assert damaged.wrong() == []


def test_holds_that_cannot_be_read_keep_the_ledger_from_being_repaired(damaged: Damaged) -> None:
    name = damaged.runs()
    damaged.put(f"states/{name}", b"rubbish")
    damaged.set_held(300)
    request = RepairRequest(findings=(Wanted(invariant="I1", subject="pool/default"),))
    client = damaged.client
    (outcome,) = ask(client.store, client.keys, client.clock, request, 30)
    assert outcome.verdict is Verdict.LEFT
    assert "cannot be read" in outcome.what
    assert damaged.held() == Vector({"cpu": 300})


def test_a_request_believes_nothing_and_takes_effect_once(damaged: Damaged) -> None:
    """Findings that do not hold change nothing, whatever the request says; and it is gone with its answer."""
    name = damaged.runs()
    before = damaged.status(name)
    subjects = [
        "pool/default",
        f"task/{name}",
        f"attempt/{name}-1",
        "key/epoch",
        "key/terms/1",
        "attempt/x",
        "pod/x",
        "task/nope",
    ]
    request = RepairRequest(findings=tuple(Wanted(invariant="I1", subject=subject) for subject in subjects))
    client = damaged.client
    outcomes = ask(client.store, client.keys, client.clock, request, 30)
    assert {outcome.verdict for outcome in outcomes} <= {Verdict.GONE, Verdict.LEFT}
    assert len(outcomes) == len(subjects)
    assert (damaged.status(name), damaged.held()) == (before, CPU)
    assert client.store.load(client.keys.repair(""), deadline=damaged.soon()).items == ()


def test_without_a_leader_the_request_is_withdrawn(damaged: Damaged) -> None:
    """It must not take effect later, when nobody thinks of it any more."""
    pause(damaged)
    damaged.set_held(100)
    request = RepairRequest(findings=wanted(damaged.audit()))
    with pytest.raises(RepairUnanswered, match="was withdrawn"):
        ask(damaged.client.store, damaged.client.keys, damaged.client.clock, request, 0.5)
    assert damaged.client.store.load(damaged.client.keys.repair(""), deadline=damaged.soon()).items == ()
