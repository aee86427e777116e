"""Values that anybody may write under the prefix: none of them takes a leader down, since it would take
down each successor.
"""

from __future__ import annotations

import json

import pytest

from controller.core.model.lifecycle import State
from controller.core.model.task import Phase
from tests.support.bench import Stage, observation, starts

DEEP = b'{"a":' * 5000 + b"1" + b"}" * 5000
SPEC = b'{"id":"bad","command":["true"],'


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tasks/bad", SPEC + b'"pod_template":' + DEEP + b"}"),
        ("tasks/bad", SPEC + b'"pod_template":' + b'{"a":' * 60 + b"1" + b"}" * 60 + b"}"),
        ("tasks/bad", SPEC + b'"resources":{"cpu":9},"submitted_at":' + b"1" * 400 + b"}"),
        ("states/bad", DEEP),
        ("requests/bad/cancel", DEEP),
        ("pools/bad", b'{"name":"bad","capacity":{},"engine_options":' + DEEP + b"}"),
        ("ledgers/bad", DEEP),
        ("repairs/bad", DEEP),
    ],
)
def test_a_value_that_no_reader_expects_costs_nobody_else(key: str, value: bytes) -> None:
    """Nested deeper than a stack, numbers beyond a float: quarantined or refused, and the next task runs."""
    stage = Stage()
    stage.pool()
    stage.put(stage.keys.prefix + key, value)
    stage.submit("job")
    leader = stage.replica()
    leader.list_engine()
    assert starts(leader.run()) == ["job-1"]
    model = stage.model()
    assert model.quarantine or model.tasks["bad"].state is State.FAILED


def test_a_history_that_cannot_be_read_costs_only_its_log_line() -> None:
    """What was committed goes on, although the steps before it do not parse."""
    stage = Stage()
    stage.pool()
    stage.submit("job")
    leader = stage.replica()
    leader.list_engine()
    leader.acknowledge(leader.run())
    stored, _ = stage.store.get(stage.keys.state("job"), deadline=stage.clock.boottime() + 5)
    assert stored is not None
    stage.put(stored.key, json.dumps({**json.loads(stored.value), "history": [5]}).encode())
    leader.sync()
    leader.see(observation(("job", 1), Phase.SUCCEEDED))
    leader.run()
    assert stage.state("job") == State.SUCCEEDED
    assert stage.held() == {}


@pytest.mark.parametrize("findings", [2, 12_000])
def test_a_request_for_repairs_that_was_written_by_hand(findings: int) -> None:
    """One finding named twice is repaired once; a request whose answer could not be stored is quarantined."""
    stage = Stage()
    stage.pool()
    junk = stage.put(stage.keys.prefix + "junk", b"?")
    wanted = {"invariant": "layout", "subject": f"key/{stage.keys.prefix}junk", "mod": junk}
    stage.put(
        stage.keys.repair("r"),
        json.dumps({"findings": [wanted, {**wanted, "invariant": "I1"}] * (findings // 2)}).encode(),
    )
    stage.submit("job")
    leader = stage.replica()
    leader.run()
    stage.clock.move(1)
    leader.list_engine()
    assert starts(leader.run()) == ["job-1"]
    leader.sync()
    assert not leader.model.repairs
    assert (("unknown", (stage.keys.prefix + "junk",)) in leader.model.quarantine) is (findings > 2)


def test_a_terms_key_of_thousands_of_digits_ends_no_audit() -> None:
    """int() refuses it; the audit that the leader makes of itself goes on, and so does a repair that names
    it.
    """
    stage = Stage()
    name = "1" * 5000
    stage.put(stage.keys.prefix + f"terms/{name}", b"{}")
    stage.put(
        stage.keys.repair("r"),
        json.dumps({"findings": [{"invariant": "I7", "subject": f"key/terms/{name}"}]}).encode(),
    )
    stage.check()
    leader = stage.replica()
    leader.run()
    stage.clock.move(1)
    leader.list_engine()
    leader.run()
    leader.sync()
    assert not leader.model.repairs
