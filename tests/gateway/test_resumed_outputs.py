"""An output goes on where it was when the gateway that it comes by breaks off, as for a restart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from controller.client import Client
from controller.client.errors import GatewayUnavailable
from controller.client.gateway_calls import GATEWAY_HEADER, GatewayCalls
from controller.client.gateway_client import GatewayClient
from controller.client.resumed_output import ResumedOutput
from controller.client.stop_event import StopEvent
from controller.clock import SystemClock
from controller.core.model.lifecycle import State
from controller.core.model.task import AttemptId
from controller.engine.base import EngineUnavailable, LogOptions
from controller.engine.null import NullEngine
from tests.client.conftest import PutStatus
from tests.client.conftest import put_status as put_status
from tests.gateway.conftest import As, Served
from tests.gateway.test_gateway import task
from tests.support.answering import Server
from tests.support.waiting import wait_until

PART = 2**16
LONG = b"".join(b"line %d\n" % number for number in range(900_000))  # 11 MB
LATE = 9 * 2**20


class BreakingOff(NullEngine):
    """An engine of which the first reading breaks off; what it keeps may be cut at the beginning then."""

    def __init__(self, output: bytes, *, at: int, kept_from: int = 0) -> None:
        super().__init__(SystemClock())
        self.output, self.at, self.kept_from = output, at, kept_from
        self.readings: list[bool] = []

    def logs(self, attempt: AttemptId, *, follow: bool, **_: Any) -> Iterator[bytes]:
        self.readings.append(follow)
        return self._parts(is_first=len(self.readings) == 1)

    def _parts(self, *, is_first: bool) -> Iterator[bytes]:
        kept = self.output[: self.at] if is_first else self.output[self.kept_from :]
        for begin in range(0, len(kept), PART):
            yield kept[begin : begin + PART]
        if is_first:
            raise EngineUnavailable("restarted")


@pytest.fixture
def alice(served: Served, client: Client, put_status: PutStatus) -> Iterator[GatewayClient]:
    client.submit(task("x"))
    put_status("x", State.RUNNING, owner="vision")
    calls = GatewayCalls(served.gateway.url, lambda: served.tokens["alice"], timeout_seconds=20.0)
    with closing(GatewayClient(calls)) as alice:
        wait_until(lambda: alice.tasks(state="Running"), "the task")
        yield alice


def read(served: Served, alice: GatewayClient, engine: BreakingOff, **options: Any) -> bytes:
    served.gateway._api.logs._find_engine = lambda _: engine
    return b"".join(alice.outputs.logs("x", attempt=1, **options))


@pytest.mark.parametrize("follow", [True, False])
@pytest.mark.parametrize("at", [100, LATE])
def test_it_goes_on_where_it_was_however_much_was_read(
    served: Served, alice: GatewayClient, at: int, follow: bool
) -> None:
    engine = BreakingOff(LONG, at=at)
    assert read(served, alice, engine, follow=follow) == LONG
    assert engine.readings == ([True, False, True] if follow else [False, False])


def test_it_goes_on_in_a_container_of_its_own(served: Served, alice: GatewayClient) -> None:
    engine = BreakingOff(LONG, at=PART)
    assert read(served, alice, engine, options=LogOptions(container="main")) == LONG


@pytest.mark.parametrize("kept_from", [2**20, LATE + PART])
def test_it_does_not_leave_out_what_is_not_there_any_more(
    served: Served, alice: GatewayClient, kept_from: int
) -> None:
    """A node of Kubernetes begins a new file: what was between the two is lost, and nobody knows how much."""
    with pytest.raises(GatewayUnavailable, match="dropped the beginning"):
        read(served, alice, BreakingOff(LONG, at=LATE, kept_from=kept_from), follow=True)


def test_a_part_of_it_is_not_read_again(served: Served, alice: GatewayClient) -> None:
    with pytest.raises(GatewayUnavailable, match="broke off"):
        read(served, alice, BreakingOff(LONG, at=PART), options=LogOptions(tail=10**6))


def test_what_was_received_is_left_out_on_request(served: Served, alice: GatewayClient, as_: As) -> None:
    engine = BreakingOff(b"0123456789", at=0)
    engine.readings.append(True)
    served.gateway._api.logs._find_engine = lambda _: engine
    paths = "", "?skip=0", "?skip=4", "?skip=10", "?skip=11", f"?skip={2**63 - 1}"
    told = [as_("alice").get(f"/v1/tasks/x/logs{path}").content for path in paths]
    assert told == [b"0123456789", b"0123456789", b"456789", b"", b"", b""]
    assert as_("alice").get("/v1/tasks/x/logs?skip=-1").status_code == 400


def test_a_gateway_of_an_earlier_release_sends_all() -> None:
    def answer(path: str) -> tuple[int, bytes | list[bytes]]:
        return (400, b'{"detail": "there is no parameter"}') if "skip" in path else (200, [LONG])

    def begun() -> Iterator[bytes]:
        yield LONG[:LATE]
        raise GatewayUnavailable("restarted")

    with closing(Server()) as server:
        server.answer, server.headers = answer, {GATEWAY_HEADER: "1"}
        with closing(GatewayCalls(server.url, lambda: "")) as calls:
            resumed = ResumedOutput(calls, "/logs", StopEvent(), {"follow": "true"})
            assert b"".join(resumed.parts(begun())) == LONG
