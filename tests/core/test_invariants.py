"""Each finding is made of damaged data, and none of sound data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

import controller
from controller.core.model import codec
from controller.core.model.lifecycle import FINISHED, Event, State
from controller.core.model.model import Model
from controller.core.model.op import Op
from controller.core.model.records import Change
from controller.core.model.resources import Vector
from controller.core.model.task import AttemptId, Observation, Phase, Pool, Spec, Status, Step
from controller.core.promise.engine_invariants import check_engine
from controller.core.promise.finding import INVARIANTS, Finding, FindingSeverity
from controller.core.promise.invariants import check_model, check_task

ADMITTED = (State.CREATED, Event.ADMITTED, State.PENDING)
RUNNING = (State.PENDING, Event.RUNNING_OBSERVED, State.RUNNING)
SUCCEEDED = (State.RUNNING, Event.SUCCEEDED_OBSERVED, State.SUCCEEDED)
AGAIN = (
    ADMITTED,
    (State.PENDING, Event.FAILED_OBSERVED, State.FAILED),
    (State.FAILED, Event.RETRY_DUE, State.WAITING_RETRY),
    (State.WAITING_RETRY, Event.ADMITTED, State.PENDING),
)
PATHS = {
    State.PENDING: (ADMITTED,),
    State.RUNNING: (ADMITTED, RUNNING),
    State.SUCCEEDED: (ADMITTED, RUNNING, SUCCEEDED),
}
CPU = Vector({"cpu": 500})
NOW = 2000.0


class Records:
    """A sound cluster in one pool, to which a test does damage: each call is one revision."""

    def __init__(self) -> None:
        self.model = Model()
        self.put("epoch", (), b'{"epoch":4}')
        self.put(
            "pools",
            ("default",),
            codec.encode_pool(Pool(name="default", capacity=Vector({"cpu": 2000})), Op("op")),
        )
        self.ledger({})

    def put(self, kind: str, names: tuple[str, ...], value: bytes | None) -> None:
        mod = self.model.revision + 1
        self.model.apply(Change(kind, names, value, mod, mod))
        self.model.advance_revision(mod)

    def ledger(self, held: dict[str, int], pool: str = "default") -> None:
        self.put("ledgers", (pool,), codec.encode_ledger(Vector(held), Op("op"), {}))

    def spec(self, task_id: str, **fields: Any) -> None:
        self.put(
            "tasks",
            (task_id,),
            codec.encode_spec(Spec(id=task_id, command=("true",), **fields), 1.0, Op("op")),
        )

    def status(
        self,
        task_id: str,
        state: State,
        path: Any = None,
        *,
        epochs: Any = (),
        attempts: Any = (),
        **fields: Any,
    ) -> None:
        path = PATHS[state] if path is None else path
        steps = [
            Step(
                at=1.0,
                source=source,
                event=event,
                state=target,
                attempt=(*attempts, 1, 1, 1)[i],
                epoch=(*epochs, 2, 2, 2)[i],
            )
            for i, (source, event, target) in enumerate(path)
        ]
        holds = CPU if state in (State.PENDING, State.RUNNING) else Vector()
        values = {
            "pool": "default",
            "attempt": 1,
            "epoch": max([2, *epochs]),
            "hold": holds,
            "admitted_at": 1900.0,
            "finished_at": 1950.0 if state in FINISHED else None,
        }
        values |= {"steps": len(steps), "history": tuple(map(codec.encode_step, steps)), **fields}
        self.put("states", (task_id,), codec.encode_status(Status(state=state, **values), {}))

    def task(self, task_id: str, state: State, **fields: Any) -> None:
        self.spec(task_id)
        self.status(task_id, state, **fields)

    def findings(self) -> list[tuple[str, str, FindingSeverity]]:
        return [(f.invariant, f.subject, f.severity) for f in check_model(self.model)]

    def engine_findings(self, *observations: Observation) -> list[Finding]:
        return check_engine(self.model, observations, NOW)


@pytest.fixture
def records() -> Records:
    """One task runs and one is done, all in order."""
    records = Records()
    records.task("runs", State.RUNNING)
    records.task("done", State.SUCCEEDED)
    records.ledger({"cpu": 500})
    return records


def seen(name: str, phase: Phase = Phase.RUNNING, **fields: Any) -> Observation:
    return Observation(attempt=AttemptId.parse(name), phase=phase, **fields)


def test_sound_records_and_a_sound_engine_give_no_finding(records: Records) -> None:
    records.spec("waits")
    assert records.findings() == []
    assert records.engine_findings(seen("runs-1"), seen("done-1", Phase.SUCCEEDED, stopped=True)) == []


# -- I1, I2
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [0, 499, 501])
def test_a_ledger_that_is_not_the_sum_is_wrong(records: Records, held: int) -> None:
    records.ledger({"cpu": held})
    assert records.findings() == [("I1", "pool/default", FindingSeverity.WRONG)]
    finding = check_model(records.model)[0]
    assert "cpu" in finding.what
    assert "500m" in finding.what
    assert finding.since_revision == records.model.revision


def test_each_resource_and_pool_is_judged_by_itself(records: Records) -> None:
    records.ledger({"cpu": 500, "memory": 1})
    records.ledger({"gpu": 1}, pool="gone")
    findings = records.findings()
    assert findings.count(("I1", "pool/default", FindingSeverity.WRONG)) == 1
    assert ("I1", "pool/gone", FindingSeverity.WRONG) in findings
    assert ("I2", "pool/gone", FindingSeverity.NOTICE) in findings


def test_a_missing_ledger_is_an_empty_one(records: Records) -> None:
    records.put("ledgers", ("default",), None)
    assert records.findings() == [("I1", "pool/default", FindingSeverity.WRONG)]


def test_an_unreadable_status_explains_a_surplus_and_never_a_lack(records: Records) -> None:
    records.spec("torn")
    records.put("states", ("torn",), b"garbage")
    records.ledger({"cpu": 700})
    assert ("I1", "pool/default", FindingSeverity.NOTICE) in records.findings()
    records.ledger({"cpu": 400})
    assert ("I1", "pool/default", FindingSeverity.WRONG) in records.findings()


def test_a_hold_outside_pending_and_running_is_wrong(records: Records) -> None:
    records.status("done", State.SUCCEEDED, hold=CPU)
    assert records.findings() == [("I1", "task/done", FindingSeverity.WRONG)]


def test_overcommit_is_shown_and_not_wrong(records: Records) -> None:
    records.put(
        "pools",
        ("default",),
        codec.encode_pool(Pool(name="default", capacity=Vector({"cpu": 100})), Op("op")),
    )
    assert records.findings() == [("I2", "pool/default", FindingSeverity.NOTICE)]


# -- I3, I4, I7 within a history
# -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "invariant"),
    [
        ({"path": (ADMITTED, SUCCEEDED)}, "I3"),  # begins where the step before did not end
        ({"path": (ADMITTED, (State.PENDING, Event.ADMITTED, State.SUCCEEDED))}, "I3"),  # no row of the table
        ({"path": (RUNNING, SUCCEEDED)}, "I3"),  # does not begin at Created, and nothing was cut
        ({"path": (ADMITTED, RUNNING)}, "I3"),  # ends elsewhere than the state
        ({"path": ()}, "I3"),
        ({"path": (("Nowhere", "happened", "Succeeded"),)}, "I3"),
        ({"steps": 2}, "I3"),
        ({"history": (msgspec.Raw(b'{"at":"x"}'),)}, "I3"),
        ({"epochs": (3, 2, 2)}, "I7"),
        ({"attempts": (2, 1, 1)}, "I4"),
        ({"attempt": 0}, "I4"),
        ({"attempt": 9}, "I4"),  # its last step is of the first
        ({"attempts": (1, 2, 2), "attempt": 2}, "I4"),  # no admission began the second
        ({"path": (*AGAIN, RUNNING, SUCCEEDED), "attempts": 6 * (1,), "epochs": 6 * (2,)}, "I4"),
    ],
)
def test_damaged_histories(records: Records, damage: dict[str, Any], invariant: str) -> None:
    records.status("done", State.SUCCEEDED, **damage)
    assert (invariant, "task/done", FindingSeverity.WRONG) in records.findings()


def test_each_admission_begins_an_attempt(records: Records) -> None:
    path, attempts = (*AGAIN, RUNNING, SUCCEEDED), (1, 1, 1, 2, 2, 2)
    records.status("done", State.SUCCEEDED, path=path, attempts=attempts, epochs=6 * (2,), attempt=2)
    assert records.findings() == []


def test_a_bounded_history_may_begin_anywhere(records: Records) -> None:
    records.status("done", State.SUCCEEDED, path=(RUNNING, SUCCEEDED), steps=90)
    assert records.findings() == []
    records.status("done", State.SUCCEEDED, path=(ADMITTED, SUCCEEDED), steps=90)
    assert ("I3", "task/done", FindingSeverity.WRONG) in records.findings()


# -- I6, I7, layout
# --------------------------------------------------------------------------------------------------


def test_terms_above_the_epoch_are_wrong(records: Records) -> None:
    records.task("late", State.SUCCEEDED, epochs=(5, 5, 5))
    records.put("terms", ("000000000006",), b"{}")
    assert records.findings() == [
        ("I7", "task/late", FindingSeverity.WRONG),
        ("I7", "key/terms/000000000006", FindingSeverity.WRONG),
    ]


def test_a_write_of_an_older_term_after_a_newer_one_is_wrong(records: Records) -> None:
    """The fence failed: two terms' writes interleave, though each history by itself is in order."""
    records.task("new", State.SUCCEEDED, epochs=(3, 3, 3))
    records.task("stale", State.SUCCEEDED, epochs=(2, 2, 2))
    assert records.findings() == [("I7", "task/stale", FindingSeverity.WRONG)]


def test_what_is_written_after_an_epoch_that_never_was_is_not_late(records: Records) -> None:
    """A repair rewrites such statuses one by one: those that it has mended are right."""
    records.task("impossible", State.SUCCEEDED, epochs=(9, 9, 9))
    records.task("mended", State.SUCCEEDED, epochs=(4, 4, 4))
    assert records.findings() == [("I7", "task/impossible", FindingSeverity.WRONG)]


@pytest.mark.parametrize("value", [None, b"junk", b'{"epoch":"four"}', b'{"epoch":true}'])
def test_a_lost_epoch_is_wrong(records: Records, value: bytes | None) -> None:
    records.put("epoch", (), value)
    assert records.findings() == [("I7", "key/epoch", FindingSeverity.WRONG)]


def test_a_new_cluster_has_no_epoch_and_nothing_wrong() -> None:
    assert check_model(Model()) == []


def test_what_no_term_wrote_is_no_sign_of_an_epoch() -> None:
    """A status put by hand into a cluster that nobody has led yet: it is wrong itself, and no epoch is
    missed for it.
    """
    model = Model()
    model.apply(Change("states", ("foreign",), b'{"version":9,"state":"Failed","finished_at":1}', 2, 2))
    assert ("I7", "key/epoch") not in {(finding.invariant, finding.subject) for finding in check_model(model)}
    model.apply(
        Change("states", ("other",), b'{"version":9,"state":"Failed","finished_at":1,"term":1}', 3, 3)
    )
    assert ("I7", "key/epoch") in {(finding.invariant, finding.subject) for finding in check_model(model)}


def test_a_retry_without_a_spec_can_never_run(records: Records) -> None:
    failed = (State.RUNNING, Event.FAILED_OBSERVED, State.FAILED)
    due = (State.FAILED, Event.RETRY_DUE, State.WAITING_RETRY)
    records.status("lost", State.WAITING_RETRY, path=(RUNNING, failed, due), steps=9)
    assert records.findings() == [("I6", "task/lost", FindingSeverity.WRONG)]


def test_foreign_keys_and_damaged_values_are_noticed(records: Records) -> None:
    records.put("unknown", ("/tally/x/junk",), b"?")
    records.put("pools", ("torn",), b"?")
    records.put("requests", ("runs", "explode"), b"{}")
    assert records.findings() == [
        ("layout", "key//tally/x/junk", FindingSeverity.NOTICE),
        ("layout", "key/pools/torn", FindingSeverity.NOTICE),
        ("layout", "key/requests/runs/explode", FindingSeverity.NOTICE),
    ]


def test_an_unreadable_status_is_judged_by_nothing_else(records: Records) -> None:
    records.put("states", ("runs",), b"garbage")
    assert check_task(records.model.tasks["runs"], None) == []
    assert ("layout", "key/states/runs", FindingSeverity.NOTICE) in records.findings()


# -- I4, I5 against an engine
# ----------------------------------------------------------------------------------------


def only(findings: list[Finding]) -> tuple[str, str, FindingSeverity, bool]:
    assert len(findings) == 1, findings
    return findings[0].invariant, findings[0].subject, findings[0].severity, findings[0].transient


def test_an_attempt_whose_hold_had_ended_is_certainly_an_orphan(records: Records) -> None:
    """The engine was listed after the load, and a hold ends only after the end was observed."""
    findings = records.engine_findings(seen("runs-1"), seen("done-1"))
    assert only(findings) == ("I5", "attempt/done-1", FindingSeverity.WRONG, False)


@pytest.mark.parametrize("name", ["done-2", "new-1"])
def test_an_attempt_that_the_records_do_not_know_yet_is_looked_at_again(records: Records, name: str) -> None:
    findings = records.engine_findings(seen("runs-1"), seen(name))
    assert only(findings) == ("I5", f"attempt/{name}", FindingSeverity.WRONG, True)


def test_an_attempt_with_an_unreadable_status_is_no_orphan(records: Records) -> None:
    records.spec("torn")
    records.put("states", ("torn",), b"garbage")
    findings = records.engine_findings(seen("runs-1"), seen("torn-1"))
    assert only(findings) == ("I5", "attempt/torn-1", FindingSeverity.NOTICE, False)


@pytest.mark.parametrize("absent", [(), (seen("runs-1", Phase.UNKNOWN, gone=True),)])
def test_a_running_task_that_the_engine_does_not_have_is_wrong(
    records: Records, absent: tuple[Observation, ...]
) -> None:
    assert only(records.engine_findings(*absent)) == ("I5", "attempt/runs-1", FindingSeverity.WRONG, True)


def test_a_lost_attempt_is_shown(records: Records) -> None:
    records.status("runs", State.RUNNING, lost_since=NOW - 40)
    findings = records.engine_findings()
    assert only(findings) == ("I5", "attempt/runs-1", FindingSeverity.NOTICE, False)
    assert "40 s" in findings[0].what


def test_a_start_in_flight_is_a_notice(records: Records) -> None:
    records.task("starts", State.PENDING)
    assert only(records.engine_findings(seen("runs-1"))) == (
        "I5",
        "attempt/starts-1",
        FindingSeverity.NOTICE,
        True,
    )


def test_an_end_that_is_not_committed_yet_is_a_notice(records: Records) -> None:
    findings = records.engine_findings(seen("runs-1", Phase.FAILED, stopped=True))
    assert only(findings) == ("I6", "attempt/runs-1", FindingSeverity.NOTICE, True)


def test_two_attempts_alive_at_once_are_wrong(records: Records) -> None:
    records.status("runs", State.RUNNING, attempt=2)
    findings = records.engine_findings(seen("runs-1", Phase.UNKNOWN), seen("runs-2"))
    assert [(f.invariant, f.subject) for f in findings] == [
        ("I4", "attempt/runs-1"),
        ("I5", "attempt/runs-1"),
    ]
    assert findings[0].severity is FindingSeverity.WRONG


def test_two_attempts_are_accepted_when_the_first_was_given_up(records: Records) -> None:
    records.status("runs", State.RUNNING, attempt=2, abandoned=1)
    findings = records.engine_findings(seen("runs-1", Phase.UNKNOWN), seen("runs-2"))
    assert [(f.invariant, f.severity) for f in findings] == [
        ("I4", FindingSeverity.NOTICE),
        ("I5", FindingSeverity.NOTICE),
    ]


def test_an_attempt_that_was_made_again_behind_the_engine_is_wrong(records: Records) -> None:
    records.status("runs", State.RUNNING, uid="first")
    assert records.engine_findings(seen("runs-1", uid="first")) == []
    findings = records.engine_findings(seen("runs-1", uid="second"))
    assert only(findings) == ("I4", "attempt/runs-1", FindingSeverity.WRONG, True)


def test_the_command_that_deletes_a_key_can_be_pasted() -> None:
    """Somebody's key may have any name."""
    model = Model()
    model.load([Change("unknown", ("/tally/c/leader2/a b; true",), b"x", 5)], 5)
    (finding,) = [finding for finding in check_model(model) if finding.invariant == "layout"]
    assert finding.repair.endswith("`tally audit --repair --delete '/tally/c/leader2/a b; true'`")


def test_each_invariant_that_is_named_is_one_of_the_list() -> None:
    """What a finding names, the metrics have a series of: a new invariant that the list lacks has none."""
    folder = Path(controller.__file__).parent
    sources = [
        *folder.glob("core/promise/*.py"),
        *folder.glob("audit/**/*.py"),
        *folder.glob("core/planning/*.py"),
    ]
    named = {name for path in sources for name in re.findall(r'invariant="(\w+)"', path.read_text())}
    assert named
    assert named <= set(INVARIANTS)
