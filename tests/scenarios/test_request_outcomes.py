"""What became of a request is a field of the step that answers it; of older records, what their words say."""

from __future__ import annotations

import msgspec
import pytest

from controller.core.model import codec
from controller.core.model.lifecycle import State
from controller.core.model.requests import RequestKind, RequestOutcome
from controller.core.model.task import Phase, Status
from tests.support.bench import Stage, observation

CANCEL, RETRY, CONFIRM = RequestKind.CANCEL, RequestKind.RETRY, RequestKind.CONFIRM_STOPPED
DONE, IGNORED = RequestOutcome.DONE, RequestOutcome.IGNORED


def status_of(stage: Stage) -> Status:
    status = stage.status("job")
    assert status is not None
    return status


def answers(status: Status) -> list[tuple[str, str]]:
    return [(step.request, step.outcome) for step in codec.decode_history(status) if step.request]


def as_older_versions_wrote(status: Status) -> Status:
    steps = [msgspec.json.decode(raw) for raw in status.history]
    kept = [{k: v for k, v in step.items() if k not in ("request", "outcome")} for step in steps]
    return msgspec.structs.replace(status, history=tuple(msgspec.Raw(msgspec.json.encode(s)) for s in kept))


def test_each_request_is_answered_by_a_step(stage: Stage) -> None:
    stage.submit("job")
    leader = stage.leader()
    leader.run_to("job", Phase.RUNNING)
    for kind in (CONFIRM, RETRY, CANCEL, CANCEL):
        stage.request("job", kind)
        leader.run_to("job", Phase.RUNNING)
    leader.see(observation(("job", 1), Phase.FAILED))
    leader.run()
    stage.request("job", RETRY)
    leader.run_to("job", Phase.RUNNING, attempt=2)
    told = [(CONFIRM, IGNORED), (RETRY, IGNORED), (CANCEL, DONE), (CANCEL, IGNORED), (RETRY, DONE)]
    assert answers(status_of(stage)) == told
    assert answers(as_older_versions_wrote(status_of(stage))) == told


def test_a_cancel_of_what_waits_is_answered(stage: Stage) -> None:
    stage.submit("job", resources={"cpu": 100_000})
    stage.request("job", CANCEL)
    leader = stage.leader()
    leader.sync()
    leader.run()
    assert answers(status_of(stage)) == [(CANCEL, DONE)]
    assert answers(as_older_versions_wrote(status_of(stage))) == [(CANCEL, DONE)]


@pytest.mark.parametrize("stopped_by", [None, CANCEL])
def test_the_word_on_a_lost_attempt_is_answered_whatever_stopped_it(
    stage: Stage, stopped_by: RequestKind | None
) -> None:
    """The reason of the end is then the stop's, and tells nothing of the word."""
    stage.submit("job")
    leader = stage.leader()
    leader.run_to("job", Phase.RUNNING)
    if stopped_by is not None:
        stage.request("job", stopped_by)
        leader.run_to("job", Phase.RUNNING)
        stage.clock.move(3600)
    leader.see(observation(("job", 1), Phase.UNKNOWN))
    leader.run()
    stage.request("job", CONFIRM, attempt=1)
    leader.sync()
    leader.run()
    assert stage.state("job") == (State.CANCELLED if stopped_by is CANCEL else State.FAILED)
    assert answers(status_of(stage))[-1] == (CONFIRM, DONE)
