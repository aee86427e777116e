"""Every decoder takes whatever bytes may stand in its place, and fails only as its callers know (fault 44).

A decoder is any public function of the package that takes `bytes` and makes something of them; one without a
row fails here.
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from controller.core.model import (
    attested,
    blocks,
    capacities,
    claims,
    codec,
    installation,
    kept_log,
    known_specs,
    notices,
    quarantine,
    schedules,
    shares,
    task,
)
from controller.core.model.lifecycle import State
from controller.core.model.model import Model
from controller.core.model.nodes import NodeRoom
from controller.core.model.op import Op
from controller.core.model.records import Change, decode_ledger
from controller.core.model.resources import Vector
from controller.election import term_records
from controller.endpoint.problems import Problem
from controller.endpoint.stream_events import status_event
from controller.engine.base import EngineUnavailable
from controller.engine.kubernetes import api as kubernetes_api
from controller.engine.kubernetes import node_objects, pod
from controller.engine.process import attempt_folder, attempt_values
from controller.engine.process import table as process_table
from controller.errors import CorruptValue, InvalidField
from controller.gateway import bodies
from controller.store.base import KeyValue
from controller.store.etcd import faults, wire
from controller.store.etcd import store as etcd
from controller.store.etcd.faults import RpcError
from controller.store.keys import Keys
from controller.views.usage import closed_days
from tests.support.kubernetes_recordings import NAMES, load
from tests.support.mutations import anything
from tests.support.recorded_values import load as load_values

PACKAGE = Path(faults.__file__).parents[2]
KEYS = Keys("default")
EXAMPLES = int(os.environ.get("EXAMPLES", "0"))
Errors = tuple[type[Exception], ...]


class Row(NamedTuple):
    """A decoder, the kinds of recorded values that it is made for, and how it may fail."""

    decode: Callable[[bytes], Any]
    kinds: tuple[str, ...]
    errors: Errors = ()


def _stored(kind: str) -> Row:
    """The model, which takes every value: it quarantines what it cannot read."""
    return Row(lambda data: Model().apply(Change(kind, ("a", "b")[: _names(kind)], data, 5, 5)), (kind,))


def _names(kind: str) -> int:
    return next(n for n in range(3) if KEYS.parse("/".join([KEYS.prefix + kind, *"ab"[:n]])) is not None)


def _item(data: bytes) -> KeyValue:
    return KeyValue("/tally/default/epoch", data, 5, 5)


CORRUPT: Errors = (CorruptValue,)
BROKEN: Errors = (msgspec.MsgspecError,)
EVERY = (
    "tasks",
    "states",
    "pools",
    "requests",
    "ledgers",
    "repairs",
    "repaired",
    "terms",
    "replicas",
    "leader",
    "epoch",
    "logs",
)


def _room_of_node(data: bytes) -> NodeRoom:
    return node_objects.read_node(data).room(Vector())


ROWS: dict[str, Row] = {
    "core.model.codec.decode_mapping": Row(codec.decode_mapping, EVERY, CORRUPT),
    "core.model.codec.filled_in": Row(codec.filled_in, ("tasks",), CORRUPT),
    "core.model.codec.op_of_spec": Row(codec.op_of_spec, ("tasks",), CORRUPT),
    "core.model.blocks.decode_block": Row(blocks.decode_block, ("arrays",), CORRUPT),
    "core.model.codec.decode_spec": Row(lambda data: codec.decode_spec("rich", data), ("tasks",), CORRUPT),
    "core.model.codec.decode_shared_spec": Row(
        lambda data: codec.decode_shared_spec("rich", data), ("tasks",), CORRUPT
    ),
    "core.model.codec.decode_whole_spec": Row(
        lambda data: codec.decode_whole_spec("rich", data), ("tasks",), CORRUPT
    ),
    "core.model.known_specs.split": Row(lambda data: known_specs.split("rich", data), ("tasks",)),
    "core.model.codec.decode_pool": Row(lambda data: codec.decode_pool("odd", data), ("pools",), CORRUPT),
    "core.model.codec.decode_request": Row(
        lambda data: codec.decode_request("cancel", data), ("requests",), CORRUPT
    ),
    "core.model.codec.decode_repair": Row(codec.decode_repair, ("repairs",), CORRUPT),
    "core.model.codec.decode_status": Row(codec.decode_status, ("states",), CORRUPT),
    "core.model.codec.read_status": Row(codec.read_status, ("states",), CORRUPT),
    "core.model.codec.decode_history": Row(
        lambda data: codec.decode_history(codec.decode_status(data)[0]), ("states",), CORRUPT
    ),
    "core.model.codec.decode_ledger": Row(codec.decode_ledger, ("ledgers", "shared-ledger"), CORRUPT),
    "core.model.records.decode_ledger": Row(
        lambda data: decode_ledger(Change("ledgers", ("a",), data, 5, 5)),
        ("ledgers", "shared-ledger"),
        CORRUPT,
    ),
    "core.model.shares.decode_share": Row(shares.decode_share, ("shares",), CORRUPT),
    "views.usage.closed_days": Row(
        lambda data: closed_days([("2026-11-27", "p", data)], "2026-11-27"), ("usage",), CORRUPT
    ),
    "core.model.claims.decode_claim": Row(claims.decode_claim, ("claims",), CORRUPT),
    "core.model.capacities.decode_capacity": Row(capacities.decode_capacity, ("capacities",), CORRUPT),
    "core.model.installation.decode_installation": Row(
        installation.decode_installation, ("installation",), CORRUPT
    ),
    "core.model.installation.decode_engine": Row(installation.decode_engine, ("engine",), CORRUPT),
    "core.model.attested.decode": Row(attested.decode, ("attested",), CORRUPT),
    "core.model.schedules.decode_schedule": Row(
        lambda data: schedules.decode_schedule("nightly", data), ("schedules",), CORRUPT
    ),
    "core.model.schedules.decode_state": Row(
        lambda data: schedules.decode_state("nightly", data), ("schedule-states",), CORRUPT
    ),
    "endpoint.stream_events.status_event": Row(lambda data: status_event("a", 5, data), ("states",)),
    "core.model.notices.decode_notice": Row(notices.decode_notice, ("outbox",), CORRUPT),
    "core.model.notices.decode_delivery": Row(notices.decode_delivery, ("delivered",), CORRUPT),
    "core.model.kept_log.decode": Row(kept_log.decode, ("logs",), CORRUPT),
    "core.model.quarantine.decode": Row(quarantine.decode, ("quarantined",), CORRUPT),
    "election.term_records.epoch_of": Row(
        lambda data: term_records.epoch_of(_item(data)), ("epoch",), CORRUPT
    ),
    "election.term_records.with_end": Row(
        lambda data: term_records.with_end(_item(data), 5.0, "why"), ("terms",)
    ),
    "store.etcd.wire.decode_range": Row(wire.decode_range, ("/kv/range",), BROKEN),
    "store.etcd.wire.decode_page": Row(wire.decode_page, ("/kv/range",), BROKEN),
    "store.etcd.wire.decode_item": Row(wire.decode_item, ("kv",), BROKEN),
    "store.etcd.wire.decode_transaction": Row(wire.decode_transaction, ("/kv/txn",), BROKEN),
    "store.etcd.wire.decode_lease": Row(wire.decode_lease, ("/lease/grant", "/lease/revoke"), BROKEN),
    "store.etcd.wire.decode_keep_alive": Row(wire.decode_keep_alive, ("/lease/keepalive",), BROKEN),
    "store.etcd.wire.decode_watch": Row(wire.decode_watch, ("/watch",), BROKEN),
    "store.etcd.wire.decode_token": Row(wire.decode_token, ("/auth/authenticate",), BROKEN),
    "store.etcd.wire.decode_version": Row(wire.decode_version, ("/version",), BROKEN),
    "store.etcd.wire.decode_status": Row(wire.decode_status, ("/maintenance/status",), BROKEN),
    "store.etcd.wire.decode_error": Row(wire.decode_error, ("error",), BROKEN),
    "store.etcd.wire.key_text": Row(wire.key_text, EVERY),
    "store.etcd.faults.rpc_error": Row(lambda data: faults.rpc_error(data, 503, "http://a:1"), ("error",)),
    "store.etcd.store.keep_alive": Row(etcd._decode_keep_alive, ("/lease/keepalive",), (*BROKEN, RpcError)),
    "engine.process.attempt_folder.parse": Row(attempt_folder.parse, ("record.json", "result.json")),
    "engine.process.attempt_values.parse_record": Row(attempt_values.parse_record, ("record.json",)),
    "engine.process.attempt_values.parse_result": Row(attempt_values.parse_result, ("result.json",)),
    "engine.process.table.value_in": Row(
        lambda data: process_table.value_in(data, "TALLY_ATTEMPT"), ("record.json",)
    ),
    "engine.kubernetes.api.decode_status": Row(
        kubernetes_api.decode_status, ("Status",), pod.NOT_JSON_OF_ITS_TYPE
    ),
    "engine.kubernetes.api.kind_of": Row(kubernetes_api.kind_of, ("Status", "Pod")),
    "engine.kubernetes.pod.decode_pod": Row(pod.decode_pod, ("Pod",), pod.NOT_JSON_OF_ITS_TYPE),
    "engine.kubernetes.pod.read_pod": Row(pod.read_pod, ("Pod",), (EngineUnavailable,)),
    "engine.kubernetes.pod.read_head": Row(
        lambda data: pod.read_head(data, "why"), ("Node",), (EngineUnavailable,)
    ),
    "engine.kubernetes.node_objects.read_node": Row(_room_of_node, ("Node",), (EngineUnavailable,)),
    "engine.kubernetes.node_objects.read_placed": Row(
        lambda data: node_objects.read_placed(data).requests(), ("Pod",), (EngineUnavailable, InvalidField)
    ),
    "engine.kubernetes.pod.decode_list": Row(pod.decode_list, ("PodList",), pod.NOT_JSON_OF_ITS_TYPE),
    "engine.kubernetes.pod.decode_event": Row(pod.decode_event, ("WatchEvent",), pod.NOT_JSON_OF_ITS_TYPE),
    **{
        f"core.model.model.{kind}": _stored(kind)
        for kind in (*EVERY, "installation", "engine", "quarantined", "shares", "claims", "capacities")
    },
}
# what callers of the gateway send; the records of tasks and pools are JSON of that kind, too
ROWS |= {
    "gateway.bodies.parse_json": Row(bodies.parse_json, EVERY, (ValueError,)),
    "gateway.bodies.parse_body": Row(
        lambda data: bodies.parse_body(data, dict[str, object]), EVERY, (Problem,)
    ),
}
NO_DECODERS = {
    "engine.base.without_first",  # leaves some out
    "forecaster.forks.fork",  # takes what computes bytes
    "forecaster.forks.computed_modestly",
    "store.etcd.wire.prefix_range",
    "store.etcd.wire.status_in_metrics",  # no JSON: see test_whatever_the_metrics_are
    "store.etcd.wire.encode_range",
    "engine.process.attempt_command.why_not_executed",
    "notifier.signing.signed_headers",
    "notifier.signing.verify",  # compares, and decodes nothing: tests/notifier/test_signing.py
}
"""What takes bytes of our own making."""


def recorded() -> dict[str, list[bytes]]:
    """By kind: Tally's own, etcd's and Kubernetes' (see both READMEs); what a quiet run does not have is
    written out.
    """
    found = load_values()
    found["quarantined"] = [
        quarantine.encode(
            quarantine.Aside(reason="plan: KeyError: 5", seen=(5, 6, 0), at=5.0, epoch=7), Op("op")
        )
    ]
    found["shared-ledger"] = [
        (
            b'{"version":1,"held":{"cpu":"2"},"op":"r/1/8","used":{"cpu":"5000"},"at":1764241200123,'
            b'"shares_op":"r/1/8","day":20419,"minute":29404020,"stopped":2}'
        )
    ]
    found["shares"] = [
        (
            b'{"version":1,"held":{"cpu":"2"},"running":2,"used":{"cpu":"5000"},"recent":{"cpu":"2048"},'
            b'"at":1764241200123,"op":"r/1/8"}'
        )
    ]
    found["usage"] = [b'{"version":1,"at":1764288000000,"used":{"vision":{"cpu":"5000"}},"op":"r/1/8"}']
    found["claims"] = [
        (
            b'{"kind":"reclaim","asked":{"cpu":"2"},"short":{"cpu":"1"},"victims":["train-1"],'
            b'"at":1764241200123,"version":1,"op":"r/1/8"}'
        )
    ]
    found["capacities"] = [
        (
            b'{"amounts":{"cpu":"12","memory":"24Gi"},"nodes":3,"usable":2,"changes":[{"at":1764241200.5,"epoch":7,'
            b'"why":"node n1 became ready","before":{"cpu":"8"},"after":{"cpu":"12","memory":"24Gi"}}],'
            b'"unseen_since":1764241260.0,"unseen_why":"nodes: forbidden","version":1,"op":"r/1/8"}'
        )
    ]
    found["Node"] = [
        (
            b'{"metadata":{"name":"n1","labels":{"a":"b"},"resourceVersion":"7"},"spec":{"unschedulable":true,'
            b'"taints":[{"key":"k","value":"v","effect":"NoSchedule"}]},"status":{"allocatable":{"cpu":"3920m",'
            b'"memory":"12Gi"},"conditions":[{"type":"Ready","status":"True"}]}}'
        )
    ]
    found["/auth/authenticate"] = [b'{"header":{"cluster_id":"1","revision":"7"},"token":"abc.7"}']
    found["kv"] = [b'{"key":"YQ==","create_revision":"2","mod_revision":"3","version":"1","value":"dg=="}']
    found["/version"] = [b'{"etcdserver":"3.5.1","etcdcluster":"3.5.0"}']
    found["error"] = [
        b'{"error":"etcdserver: request timed out","message":"etcdserver: request timed out","code":14}',
        (
            b'{"error":{"grpc_code":11,"http_code":400,"message":"etcdserver: compacted","http_status":"Bad'
            b' Request"}}'
        ),
    ]
    documents: dict[str, list[Any]] = {"Pod": [], "WatchEvent": [], "Status": [], "PodList": []}
    for name in NAMES:
        recording = load(name)
        documents["WatchEvent"] += [
            {"type": event["type"], "object": event["object"]} for event in recording.events[:3]
        ]
        answers = [request["body"] for request in recording.requests if isinstance(request.get("body"), dict)]
        for document in (*(event["object"] for event in recording.events), *answers):
            documents.get(document.get("kind", "Pod"), []).append(document)
    documents["PodList"] += [{"metadata": {"resourceVersion": "7"}, "items": documents["Pod"][:2]}]
    return found | {
        kind: [msgspec.json.encode(one) for one in _unlike(ones)] for kind, ones in documents.items()
    }


def _unlike(documents: list[Any]) -> list[Any]:
    """A few of them, short and long."""
    by_length = sorted(documents, key=lambda one: len(msgspec.json.encode(one)))
    return by_length[:: max(1, len(by_length) // 5)]


RECORDED = recorded()


KINDS = sorted({kind for row in ROWS.values() for kind in row.kinds})
OF_ONE_NAME = {
    "core.model.codec.decode_spec": b"rich",
    "core.model.codec.decode_whole_spec": b"rich",
    "core.model.codec.decode_shared_spec": b"rich",
    "core.model.codec.decode_pool": b"odd",
    "core.model.codec.decode_request": b"cancel",
}


@pytest.mark.parametrize("name", ROWS)
def test_what_was_recorded_is_decoded(name: str) -> None:
    """Or the recorded values would be no start for a fuzz."""
    values = [
        value for kind in ROWS[name].kinds for value in RECORDED[kind] if OF_ONE_NAME.get(name, b"") in value
    ]
    assert values
    for value in values:
        ROWS[name].decode(value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_decoder_fails_as_its_callers_know_and_in_no_other_way(kind: str) -> None:
    """What has become of a value of one kind stands in the place of all others, too.

    EXAMPLES=1000 draws as many.
    """

    @settings(
        max_examples=EXAMPLES or 60,
        derandomize=not EXAMPLES,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(anything(RECORDED[kind]))
    def holds(data: bytes) -> None:
        for name, row in ROWS.items():
            try:
                row.decode(data)
            except row.errors:
                continue
            except Exception as error:
                raise AssertionError(f"{name} raises {type(error).__name__}") from error

    holds()


def test_every_decoder_has_a_row() -> None:
    """By its signature: it is public, of a module, and takes bytes."""
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if module.startswith("dev.fake_kubernetes"):
            continue  # answers Tally's own requests
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and any(
                "bytes" in _annotation(arg) for arg in node.args.args
            ):
                found.add(f"{module}.{node.name}")
            if (
                isinstance(node, ast.Assign)
                and isinstance(node.targets[0], ast.Name)
                and node.targets[0].id.startswith("decode")
            ):
                found.add(f"{module}.{node.targets[0].id}")
    public = {name for name in found if not name.rpartition(".")[2].startswith("_")}
    assert public - ROWS.keys() - NO_DECODERS == set()
    assert len(public) > 20


def _annotation(argument: ast.arg) -> str:
    return ast.unparse(argument.annotation) if argument.annotation is not None else ""


def test_an_epoch_is_stored_under_the_name_that_older_versions_read() -> None:
    step = task.Step(at=1.0, source="Created", event="admitted", state="Pending", epoch=3)
    status = task.Status(state=State.PENDING, attempt=1, epoch=4, history=(codec.encode_step(step),))
    stored = codec.encode_status(status, {"newer": 1})
    assert (json.loads(stored)["term"], json.loads(stored)["history"][0]["term"]) == (4, 3)
    read, extras = codec.decode_status(stored)
    assert (read.epoch, codec.decode_history(read)[0].epoch, list(extras)) == (4, 3, ["newer"])
