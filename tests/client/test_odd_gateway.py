"""A gateway of another release, or one that is ill: whatever it answers, its client raises Tally's errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import islice

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from controller.client.bulk import TaskAct
from controller.client.gateway_calls import GATEWAY_HEADER, GatewayCalls
from controller.client.gateway_client import GatewayClient
from controller.client.stop_event import StopEvent
from controller.client.views import TaskView
from controller.core.model.lifecycle import State
from controller.errors import TallyError
from tests.support.answering import Server

A_VIEW = TaskView(id="a", pool="p", state=State.CREATED, create_revision=7)
VERBS: dict[str, Callable[[GatewayClient], object]] = {
    "submit": lambda tally: tally.submit_many([{"id": "a", "command": ["x"], "pool": "p"}]),
    "get": lambda tally: tally.get("a"),
    "tasks": lambda tally: tally.tasks(),
    "explain": lambda tally: tally.explain("a"),
    "pools": lambda tally: tally.pools(counts=True),
    "wait": lambda tally: tally.wait(["a"], timeout_seconds=0.0),
    "watch_tasks": lambda tally: next(tally.watch_tasks(stop=Once())),
    "watch_one": lambda tally: next(tally.watch_tasks(task_id="a")),
    "cancel": lambda tally: tally.cancel("a", of=A_VIEW),
    "apply_pool": lambda tally: tally.apply_pool({"name": "p", "capacity": {"gpu": "1"}}),
    "delete_pool": lambda tally: tally.delete_pool("p"),
    "bulk": lambda tally: list(tally.bulk.act(TaskAct.CANCEL, [A_VIEW])),
    "cluster": lambda tally: tally.cluster,
    "may": lambda tally: tally.access.may("read"),
    "replicas": lambda tally: tally.replicas.all(),
    "gateways": lambda tally: tally.replicas.gateways(),
    "leader": lambda tally: tally.replicas.leader(),
    "step_down": lambda tally: tally.replicas.step_down(),
    "logs": lambda tally: b"".join(tally.outputs.logs("a")),
    "last_attempt": lambda tally: tally.outputs.last_attempt("a"),
    "kept_log": lambda tally: tally.outputs.kept_log("a"),
    "pause": lambda tally: tally.admission.pause("p"),
    "drain": lambda tally: tally.maintenance.drain("p", 4e9, 5e9),
    "undrain": lambda tally: tally.maintenance.undrain("p"),
    "owners": lambda tally: tally.owners.all(),
    "sharing": lambda tally: tally.owners.sharing("p"),
    "usage": lambda tally: tally.usage(),
    "neighbours": lambda tally: tally.neighbours("a"),
    "members": lambda tally: list(islice(tally.members("a"), 9)),
    "schedules": lambda tally: tally.schedules.all(),
    "schedule": lambda tally: tally.schedules.get("s"),
    "suspend": lambda tally: tally.schedules.suspend("s"),
    "forecast": lambda tally: tally.forecasts.of("a"),
    "compared": lambda tally: tally.forecasts.suppose(),
    "features": lambda tally: tally.features.all(),
    "enable": lambda tally: tally.features.enable("sharing"),
    "drop": lambda tally: tally.features.drop("sharing"),
}

# what answers are made of, so that some are nearly right
NAMES = st.sampled_from(
    [
        *("items", "id", "missing", "revision", "results", "problem", "status", "detail", "field", "leader"),
        *("next_offset", "changed", "turned_on", "now", "then", "text", "cluster", "attempt", "spec", "done"),
        *("history", "gone", "more", "outcome", "definition", "name", "counts"),
    ]
)
CODES = [200, 200, 200, 204, 400, 404, 409, 412, 500]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**70) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
BODIES = ANYTHING.map(lambda value: json.dumps(value).encode()) | st.sampled_from(
    [b"", b"<html>", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b"{} {}", b"9" * 5000]
)


class Once(StopEvent):
    """Ends what would try again."""

    def wait(self, timeout: float | None = None) -> bool:
        self.set()
        return True


@pytest.fixture(scope="module")
def odd() -> Iterator[Server]:
    """A gateway that gives one answer to all questions."""
    with closing(Server()) as server:
        yield server


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is so for now only is asked for once."""
    for module in ("gateway_calls", "gateway_client", "resumed_output", "gateway_bulk"):
        monkeypatch.setattr(f"controller.client.{module}.PATIENT_SECONDS", 0.0)


@pytest.mark.parametrize("verb", VERBS)
def test_any_answer_is_an_answer_or_an_error_of_tallys(odd: Server, verb: str) -> None:
    @given(
        st.sampled_from([200, 200, 200, 204, 400, 404, 409, 412, 500]),
        BODIES,
        st.sampled_from(["", "7", "²", "9" * 5000]),
    )
    @example(200, b"", "")
    @example(200, b"[]", "")
    @example(200, b"{}", "²")
    @example(200, b"[" * 100_000, "")
    @example(200, b'{"items": 7, "results": 7, "problem": 7, "missing": 7, "revision": "x"}', "9" * 5000)
    @example(200, b'{"items": [7], "results": [7], "missing": {}, "revision": 7}', "7")
    @example(200, b'{"items": [], "results": [], "missing": {}, "revision": 7, "next_offset": "x"}', "7")
    @example(400, b'{"detail": 7, "field": 7}', "7")
    def check(code: int, body: bytes, revision: str) -> None:
        odd.answer = lambda _: (code, body if code != 204 else b"")
        odd.headers = {GATEWAY_HEADER: "1", "Tally-Revision": revision}
        with (
            closing(GatewayClient(GatewayCalls(odd.url, lambda: "t", timeout_seconds=5.0))) as tally,
            suppress(TallyError, StopIteration),
        ):
            VERBS[verb](tally)

    check()
