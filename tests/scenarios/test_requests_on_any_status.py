"""Any status by hand, then any request and any repair: never an unexpected error, and other tasks go on
(fault 44).

What no leader can have written is quarantined, with the reason; the key can be deleted by name.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.model.lifecycle import State
from controller.core.model.requests import RequestKind
from controller.core.model.task import Phase
from controller.core.promise.invariants import check_layout, check_model
from controller.endpoint.documents import document, encode
from controller.views.dependencies import parents_of
from controller.views.explain import explain
from controller.views.tasks import task_facts
from tests.support.bench import Stage, StagedReplica, observation, starts
from tests.support.examples import examples

NUMBERS: st.SearchStrategy[Any] = st.sampled_from(
    [0, 1, 2, -1, 99999, 2**31, 2**53 + 1, 10**30, 1.5, 1e300, -1e300, True, None, "1", [], {}]
)
TEXTS = st.sampled_from(["", "default", "nope", "a/b", "UP", "\x00", "x" * 300, 5, None, ["a"]])
STATUSES = st.fixed_dictionaries(
    {"version": st.sampled_from([1, 9]), "state": st.sampled_from([*State, "Odd", "", 5])},
    optional={
        "pool": TEXTS,
        "owner": TEXTS,
        "on_hold": st.sampled_from([True, False, 1]),
        "priority": NUMBERS,
        "attempt": NUMBERS,
        "term": NUMBERS,
        "steps": NUMBERS,
        "failures": NUMBERS,
        "abandoned": NUMBERS,
        "exit_code": NUMBERS,
        "finished_at": NUMBERS,
        "retry_at": NUMBERS,
        "lost_since": NUMBERS,
        "lost_ms": NUMBERS,
        "stopping_ms": NUMBERS,
        "counted_at": NUMBERS,
        "admitted_at": NUMBERS,
        "started_at": NUMBERS,
        "queued_at": NUMBERS,
        "created_at": NUMBERS,
        "stopping": TEXTS,
        "uid": TEXTS,
        "reason": TEXTS,
        "hold": st.sampled_from(
            [{}, {"cpu": "1"}, {"cpu": "-1"}, {"cpu": "1e999"}, {"cpu": 10**400}, {"": "1"}, [], "1", 5, None]
        ),
        "history": st.sampled_from([[], [5], ["x"], [{}], [None] * 50, "x", {}]),
        "newer": st.sampled_from([1, {"a": [1]}, 10**40]),
    },
)
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "kind": st.sampled_from(["cancel", "retry", "confirm-stopped", "change", "odd", 5]),
        "by": TEXTS,
        "reason": TEXTS,
        "at": NUMBERS,
        "attempt": NUMBERS,
        "on_hold": st.sampled_from([True, False, None, "yes"]),
        "priority": NUMBERS,
    },
)
KINDS = st.sampled_from(["cancel", "retry", "confirm-stopped", "change", "odd"])


def act(stage: Stage, leader: StagedReplica) -> None:
    """What its watch and its engine bring, until it has nothing left to do; nothing unexpected is caught."""
    stage.clock.move(1)
    leader.sync()
    leader.list_engine()
    leader.acknowledge(leader.run())
    assert leader.model.asides == {}


def ask_for_repairs(stage: Stage, *, deletes: bool) -> None:
    """All that an audit finds, as `tally audit --repair` does; and each key that is quarantined."""
    model = stage.model()
    findings: list[dict[str, Any]] = [
        {"invariant": f.invariant, "subject": f.subject} for f in check_model(model)
    ]
    if deletes:
        findings = [
            {"invariant": f.invariant, "subject": f.subject, "mod": f.since_revision}
            for f in check_layout(model)
        ]
    stage.put(stage.keys.repair("r"), json.dumps({"findings": findings[:40]}).encode())


@settings(max_examples=examples(150))
@given(status=STATUSES, requests=st.dictionaries(KINDS, REQUESTS, max_size=3), submitted=st.booleans())
def test_any_status_and_any_request(
    status: dict[str, Any], requests: dict[str, dict[str, Any]], submitted: bool
) -> None:
    """In any combination, with a spec or without one."""
    stage = Stage()
    stage.pool()
    if submitted:
        stage.submit("odd", pool="nope" if status.get("pool") == "nope" else "default")
    stage.put(stage.keys.state("odd"), json.dumps(status).encode())
    leader = stage.replica()
    act(stage, leader)
    for kind, request in requests.items():
        stage.put(stage.keys.request("odd", kind), json.dumps({"kind": kind, **request}).encode())
    act(stage, leader)
    leader.see(observation(("odd", 1), Phase.RUNNING), observation(("odd", 1), Phase.FAILED))
    for deletes in (False, True):
        ask_for_repairs(stage, deletes=deletes)
        act(stage, leader)
        act(stage, leader)
        assert not leader.model.repairs
    stage.submit("other", resources={"cpu": "1m"})
    leader.sync()
    assert "other-1" in starts(leader.run())
    model = stage.model()
    assert not model.caught
    if "odd" in model.tasks:
        explain(model, "odd", stage.clock.now())
        encode(document(task_facts(model, model.tasks["odd"]), parents_of(model, "odd")))


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ({"state": "Created", "pool": "nope", "term": 99999}, "state: is Created, and no step led there"),
        ({"state": "Created", "steps": 1, "attempt": 2}, "attempt: is 2, but a Created task has had none"),
        ({}, "state: is Created"),
        ({"state": "Pending"}, "attempt: is 0, but a Pending task has had at least one"),
        ({"state": "Running", "attempt": 1, "pool": "a/b"}, "pool: 'a/b' may hold only"),
        ({"state": "Failed", "attempt": 10**18}, r"attempt"),
        ({"state": "Succeeded"}, "finished_at: is missing, but a Succeeded task has ended"),
        ({"state": "Failed", "message": "x" * 600_000}, "bytes, but at most 524,288"),
    ],
)
def test_what_no_leader_can_have_written_is_quarantined_and_can_be_deleted(
    status: dict[str, Any], why: str
) -> None:
    """With the reason; once its key is deleted by name, the task runs."""
    stage = Stage()
    stage.pool()
    stage.submit("odd")
    stage.put(stage.keys.state("odd"), json.dumps({"version": 1, **status}).encode())
    leader = stage.replica()
    act(stage, leader)
    (finding,) = check_layout(stage.model())
    assert finding.subject == "key/states/odd"
    assert why in finding.what
    stage.request("odd", RequestKind.RETRY)
    act(stage, leader)
    ask_for_repairs(stage, deletes=True)
    act(stage, leader)
    act(stage, leader)
    assert stage.model().tasks["odd"].attempt == 1
    stage.check()
