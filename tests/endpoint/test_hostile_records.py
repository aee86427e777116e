"""Fault 44 at the status endpoint: whatever stands in the store, and whatever is asked, costs nobody else
an answer.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from typing import Any

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.clock import SystemClock
from controller.core.model import codec
from controller.core.model.lifecycle import State
from controller.core.model.model import Model
from controller.core.model.op import Op
from controller.core.model.records import Ledger
from controller.core.model.resources import Vector
from controller.core.model.shares import Account, Share, encode_share
from controller.core.model.validation import parse_pool
from controller.endpoint.server import StatusServer
from controller.telemetry.metrics import Metrics
from tests.endpoint.model_view import ModelView
from tests.support.mutations import JSON, SETTINGS

FIELDS = {
    "replicas": [
        "id",
        "instance",
        "version",
        "host",
        "status_url",
        "phase",
        "at",
        "started_at",
        "applied_revision",
        "behind_seconds",
        "engine_answers",
        "engine_age_seconds",
        "heartbeat_seconds",
        "pid",
        "engine",
    ],
    "leader": ["id", "instance", "since", "status_url", "epoch", "version"],
    "terms": ["replica", "since", "until", "why", "epoch"],
    "states": [
        "state",
        "pool",
        "attempt",
        "term",
        "hold",
        "history",
        "steps",
        "reason",
        "message",
        "created_at",
        "started_at",
        "finished_at",
        "retry_at",
        "lost_since",
        "exit_code",
        "stopping",
        "uid",
        "node",
        "op",
        "version",
        "failures",
    ],
    "tasks": [
        "id",
        "pool",
        "command",
        "env",
        "labels",
        "resources",
        "priority",
        "pod_template",
        "submitted_at",
        "retry",
    ],
    "pools": [
        "name",
        "capacity",
        "policy",
        "paused",
        "backfill_seconds",
        "engine_options",
        "default_resources",
        "version",
        "sharing",
        "preemption",
        "reserve",
    ],
    "ledgers": ["held", "op", "version", "used", "at", "shares_op", "day", "minute", "stopped", "unread"],
    "shares": ["held", "running", "used", "at", "recent", "lost", "stopping", "op", "version"],
    "claims": ["kind", "asked", "victims", "at", "op", "version"],
    "requests": ["kind", "by", "at", "reason"],
}
NAMES = {
    "replicas": 1,
    "leader": 0,
    "terms": 1,
    "states": 1,
    "tasks": 1,
    "pools": 1,
    "ledgers": 1,
    "shares": 2,
    "claims": 2,
    "requests": 2,
}
NAME = st.one_of(  # a key of any bytes: the store escapes what is no UTF-8
    st.sampled_from(["good", "a", "default", "shared", "vision", "replica-b", "cancel", "3"]),
    st.text(max_size=20),
)
DEEP = b"[" * 50_000


def like(kind: str) -> st.SearchStrategy[bytes]:
    """Any bytes, any JSON, and records of the kind in which any field may be anything."""
    fields = st.dictionaries(
        st.sampled_from(FIELDS[kind]),
        st.one_of(JSON, st.sampled_from(["Running", "good", {"cpu": "1"}, 5.0])),
    )
    as_json = st.one_of(JSON, fields).map(lambda value: json.dumps(value).encode())
    return st.one_of(st.binary(max_size=40), st.just(DEEP), as_json)


@st.composite
def record(draw: st.DrawFn) -> tuple[str, tuple[str, ...], bytes]:
    kind = draw(st.sampled_from(list(FIELDS)))
    return kind, tuple(draw(NAME) for _ in range(NAMES[kind])), draw(like(kind))


PATHS = (
    "/",
    "/readyz?verbose",
    "/livez",
    "/leader",
    "/metrics",
    "/openapi.json",
    "/v1/summary",
    "/v1/tasks",
    "/v1/tasks?sort=-submitted",
    "/v1/tasks?sort=state&limit=3",
    "/v1/tasks?sort=-pool",
    "/v1/tasks?label=a!=b",
    "/v1/pools",
    "/v1/replicas",
    "/v1/leader",
    "/v1/audit",
    "/v1/tasks/good",
    "/v1/tasks/a",
    "/v1/pools/default",
    "/v1/pools/shared",
    "/v1/owners",
    "/v1/owners?pool=shared",
)
SHARED = parse_pool(
    {
        "name": "shared",
        "capacity": {"cpu": 4},
        "sharing": {"owners": {"vision": {"guarantee": {"cpu": 1}, "limit": {"cpu": 2}}}},
        "preemption": {"reclaim": True, "per_minute": 3},
    }
)


def share_a_pool(view: ModelView) -> None:
    """With all that is kept of one: what comes later may be its definition, or any other part, in ruins."""
    held, op = Vector({"cpu": 1000}), Op("op")
    account = Account(used=Vector({"cpu": 5}), at=5, shares_op=op)
    view.write(
        ("pools", ("shared",), codec.encode_pool(SHARED, op)),
        ("ledgers", ("shared",), Ledger(held=held, op=op, account=account).encode(op)),
        ("shares", ("shared", "vision"), encode_share(Share(held=held, running=1, at=5), op)),
        ("claims", ("shared", "b"), b'{"kind":"reclaim","asked":{"cpu":"1"},"victims":["a-1"]}'),
    )
    view.submit("a", pool="shared", owner="vision")
    view.set_state("a", State.RUNNING, pool="shared", owner="vision", attempt=1, hold=held)
    view.submit("b", pool="shared", owner="speech")


def test_no_record_costs_others_their_answers() -> None:
    """Any value under any key, some at once: every path answers, and shows what is well beside it."""

    view = ModelView()
    metrics = Metrics(SystemClock())
    metrics.observe(view)
    server = StatusServer(view, "127.0.0.1", 0, metrics.exposition)
    server.start()
    turns = itertools.count()

    @given(st.lists(record(), min_size=1, max_size=4))
    @settings(max_examples=int(os.environ.get("EXAMPLES", "0")) or 60, **SETTINGS)
    def holds(records: list[tuple[str, tuple[str, ...], bytes]]) -> None:
        with view.lock:
            view.model = Model()
            for listener in view.listeners:
                listener.reloaded(0)
        _holds(view, http, records, streams=next(turns) % 10 == 0)  # of which each costs some time

    try:
        with httpx.Client(base_url=server.url, timeout=20.0, trust_env=False) as http:
            holds()
    finally:
        server.stop()


PARTS = (
    ("pools", ("shared",)),
    ("ledgers", ("shared",)),
    ("shares", ("shared", "vision")),
    ("claims", ("shared", "b")),
    ("tasks", ("a",)),
    ("states", ("a",)),
)
RUINS = (b"{", b"[]", b"null", DEEP, b'{"version":99}', b"{}", None)


def test_a_shared_pool_in_ruins_costs_nobody_an_answer() -> None:
    """Any one of its records, and any two."""
    view = ModelView()
    metrics = Metrics(SystemClock())
    metrics.observe(view)
    server = StatusServer(view, "127.0.0.1", 0, metrics.exposition)
    server.start()
    try:
        with httpx.Client(base_url=server.url, timeout=20.0, trust_env=False) as http:
            for parts in (*((part,) for part in PARTS), *itertools.combinations(PARTS, 2)):
                for ruin in RUINS if len(parts) == 1 else RUINS[:1]:
                    with view.lock:
                        view.model = Model()
                        for listener in view.listeners:
                            listener.reloaded(0)
                    _holds(view, http, [(*part, ruin) for part in parts], streams=False)
    finally:
        server.stop()


def _holds(
    view: ModelView,
    http: httpx.Client,
    records: Sequence[tuple[str, tuple[str, ...], bytes | None]],
    *,
    streams: bool,
) -> None:
    view.define_pool("well", cpu=1000)
    view.submit("well", pool="well")
    share_a_pool(view)
    position = view.model.revision
    view.write(*records)
    view.submit("well-too", pool="well")
    token = ""
    for path in PATHS:
        answer = http.get(path)
        assert answer.status_code < 500 or (path in ("/leader",) and answer.status_code == 503), (
            f"{path}: {answer.text}"
        )
    listed: list[str] = []
    while True:
        page: dict[str, Any] = http.get(
            "/v1/tasks", params={"limit": "2", "sort": "-submitted"} | ({"continue": token} if token else {})
        ).json()
        listed += [task["id"] for task in page["items"]]
        token = page["continue"]
        if not token:
            break
    assert {"well", "well-too"} <= set(listed)
    assert len(listed) == len(set(listed))
    assert "well" in [pool["name"] for pool in http.get("/v1/pools").json()["items"]]
    if streams:
        with http.stream("GET", f"/v1/events?after={position}") as stream:
            assert any("well-too" in line for line in stream.iter_lines())
