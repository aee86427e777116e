"""The last hour, as a gateway tells it: to each caller what it may know."""

from __future__ import annotations

from typing import Any

from controller.client import Client
from controller.core.model import codec
from controller.core.model.lifecycle import Event, State
from controller.core.model.task import Status, Step
from tests.client.conftest import PutRaw
from tests.gateway.conftest import As
from tests.support.waiting import wait_until


def admit(put_raw: PutRaw, name: str, owner: str, waited: float) -> None:
    """As a leader does."""
    step = Step(at=1000.0, source=State.CREATED, event=Event.ADMITTED, state=State.PENDING, attempt=1)
    status = Status(
        state=State.PENDING,
        pool="default",
        owner=owner,
        attempt=1,
        steps=1,
        queued_at=1000.0 - waited,
        admitted_at=1000.0,
        history=(codec.encode_step(step),),
    )
    put_raw(f"states/{name}", codec.encode_status(status, {}))


def test_a_caller_is_told_of_its_own_waits_and_of_no_sums(as_: As, client: Client, put_raw: PutRaw) -> None:
    """Of the other owners it learns nothing: not that something of theirs began, nor how much waits."""
    client.apply_pool({"name": "default", "capacity": {"cpu": 4}})

    def told(name: str) -> dict[str, Any]:
        found: dict[str, Any] = as_(name).get("/v1/history").json()["pools"]
        return found

    admit(put_raw, "own", "vision", 7.0)
    admit(put_raw, "other", "speech", 30.0)
    wait_until(lambda: sum(told("watcher").get("default", {}).get("begun", [])) == 2, "what began")
    mine = {"owner": "vision", "began": 1, "median": 7.0, "longest": 7.0}
    other = {"owner": "speech", "began": 1, "median": 30.0, "longest": 30.0}
    assert told("watcher")["default"]["waits"] == [other, mine]
    assert told("alice") == {"default": {"queued": [], "begun": [], "ended": {}, "waits": [mine]}}
    assert told("bob")["default"]["waits"] == [other]
    assert as_("nobody").get("/v1/history").status_code == 403
