"""A pool whose capacity follows nodes: at the command line (apply, get, describe, explain), by the client."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.client import Client
from controller.client.wire import pool_document, pool_of
from controller.core.model.capacities import CapacityChange, ObservedCapacity, encode_capacity
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.core.model.records import Ledger
from controller.core.model.resources import Vector
from controller.core.model.validation import parse_pool
from controller.errors import InvalidField
from tests.cli.conftest import Tally
from tests.client.conftest import PutRaw, PutStatus

AT = 1_764_000_000.0  # 2025-11-24T16:00:00Z
FOLLOWING = """
name: default
capacity: {from: nodes, selector: "pool=batch"}
"""


def engine(name: str, feature: bool = True) -> bytes:
    parts = b'"parts":{"feature/capacities":""}' if feature else b'"parts":{}'
    return b'{"engine":{"name":"%b","id":"e",%b},"installation":"abc"}' % (name.encode(), parts)


@pytest.fixture
def applied(tally: Tally, put_raw: PutRaw, tmp_path: Path) -> Path:
    """The file of a pool that was applied on Kubernetes."""
    put_raw("engine", engine("kubernetes"))
    file = tmp_path / "pool.yaml"
    file.write_text(FOLLOWING)
    assert tally("apply", "-f", str(file)).out == "pool/default configured\n"
    return file


def observe(put_raw: PutRaw, cpu: int, before: int = 0, **fields: object) -> None:
    change = CapacityChange(
        at=AT,
        epoch=3,
        why="node n1 became ready",
        before=Vector({"cpu": before}),
        after=Vector({"cpu": cpu}),
    )
    observed = ObservedCapacity(amounts=change.after, nodes=3, usable=2, changes=(change,), **fields)  # type: ignore[arg-type]
    put_raw("capacities/default", encode_capacity(observed, Op("op")))


def test_what_is_printed_can_be_applied_again(tally: Tally, applied: Path, tmp_path: Path) -> None:
    assert tally("apply", "-f", str(applied)).out == "pool/default unchanged\n"
    again = tmp_path / "again.yaml"
    again.write_text(tally("get", "pool", "default", "-o", "yaml").out)
    assert tally("apply", "-f", str(again)).out == "pool/default unchanged\n"


def test_a_pool_is_described_with_its_nodes(
    tally: Tally, applied: Path, client: Client, put_raw: PutRaw, put_status: PutStatus
) -> None:
    told = tally("describe", "pool", "default").out
    assert "Capacity from: nodes with pool=batch give: none was counted yet\n" in told
    observe(put_raw, 4000, 1000)
    client.submit({"id": "big", "command": ["true"], "resources": {"cpu": 9}})
    told = tally("describe", "pool", "default").out
    assert "Capacity from: 2 of 3 nodes with pool=batch give now\n" in told
    assert "Changed:       at 2025-11-24T16:00:00Z (" in told
    assert ": node n1 became ready: cpu 1 → 4\n" in told
    assert [line.split() for line in told.splitlines()][-1] == ["cpu", "4", "0", "4", "9"]
    assert tally("get", "pools").rows()[0] == ["default", "strict", "cpu", "4", "0", "4", "-"]
    why = tally("explain", "big").out
    assert "big waits for more nodes: it asks for cpu 9 (4 in all) of pool default" in why
    assert "what 2 of 3 nodes with pool=batch give now, and changed last at 2025-11-24T16:00:00Z" in why


def test_more_than_the_nodes_give_and_nodes_out_of_sight_are_told(
    tally: Tally, applied: Path, put_raw: PutRaw
) -> None:
    observe(put_raw, 1000, unseen_since=AT, unseen_why="nodes is forbidden")
    put_raw("ledgers/default", Ledger(Vector({"cpu": 3000})).encode(Op("op")))
    told = tally("describe", "pool", "default").out
    assert "Falling:       the nodes give cpu 1: the capacity falls as tasks end\n" in told
    assert "the nodes cannot be seen since 2025-11-24T16:00:00Z (" in told
    assert "): nodes is forbidden\n" in told
    assert "Overcommitted" not in told
    assert tally("get", "pools").rows()[0][3:6] == ["3", "3", "0"]


def test_a_task_that_is_larger_than_all_nodes_is_taken(tally: Tally, applied: Path, client: Client) -> None:
    """And one that names nothing gets Tally's own defaults: nodes have cpu and memory."""
    client.submit({"id": "big", "command": ["true"], "resources": {"cpu": 1000}})
    assert client.get("big").state is State.CREATED
    client.submit({"id": "small", "command": ["true"]})
    spec = client.get("small").spec
    assert spec is not None
    assert spec.resources.format() == {"cpu": "100m", "memory": "64Mi"}


@pytest.mark.parametrize("name", ["process", "docker", "null"])
def test_an_engine_without_nodes_is_refused(client: Client, put_raw: PutRaw, name: str) -> None:
    put_raw("engine", engine(name))
    with pytest.raises(InvalidField, match="which has no nodes") as refused:
        client.apply_pool({"name": "default", "capacity": {"from": "nodes"}})
    assert refused.value.field == "capacity.from"


def test_a_pool_needs_its_feature(client: Client, put_raw: PutRaw) -> None:
    """Which apply turns on; where nobody leads, it cannot."""
    put_raw("engine", engine("kubernetes", feature=False))
    client.apply_pool({"name": "default", "capacity": {"from": "nodes"}})
    assert {view.name: view.state for view in client.features.all()}["capacities"] == "on"
    assert not any(view.name == "capacities" and view.state == "off" for view in client.features.all())


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"capacity": {"from": "node"}}, "capacity.from"),
        ({"capacity": {"from": "nodes", "selector": "a=b=c"}}, "capacity.selector"),
        ({"capacity": {"from": "nodes", "selector": 3}}, "capacity.selector"),
        ({"capacity": {"from": "nodes", "cpu": 3}}, "capacity.cpu"),
        ({"capacity": {"cpu": 3}, "capacity_from": {"from": "nodes"}}, "capacity"),
        ({"capacity": {"from": "nodes"}, "capacity_from": {"from": "nodes"}}, "capacity_from"),
        ({"capacity_from": {"selector": "a"}}, "capacity_from.from"),
        ({"capacity_from": 3}, "capacity_from"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_its_field(fields: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidField) as refused:
        parse_pool({"name": "p", **fields})
    assert refused.value.field == field


def test_a_resource_may_be_called_from() -> None:
    pool = parse_pool({"name": "p", "capacity": {"from": "3"}})
    assert (pool.capacity, pool.capacity_from) == (Vector({"from": 3}), None)


def test_a_gateway_tells_what_was_observed(client: Client, applied: Path, put_raw: PutRaw) -> None:
    observe(put_raw, 4000, 1000, unseen_since=AT, unseen_why="why")
    (view,) = client.pools(counts=True)
    assert pool_of(pool_document(view)) == view
