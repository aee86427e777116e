"""A release from before features beside this one: it does not lead while a feature is on, and leads again
when the feature was dropped.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from controller.client import Client, NotFound
from controller.core.model import codec
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.core.model.task import Spec
from controller.errors import InvalidField, UserError
from controller.store.base import Committed, Guard, Put, Transaction
from tests.support.local import (
    QUICK,
    add_replica,
    kill,
    lead_by_turns,
    leader_of,
    local_cluster,
)
from tests.support.waiting import wait_until


def put(client: Client, key: str, value: bytes) -> None:
    """By hand."""
    item, _ = client.store.get(key, deadline=client.clock.boottime() + 10)
    guard = Guard(key, item.mod if item is not None else 0)
    answer = client.store.commit(
        Transaction((guard,), (Put(key, value),), Op("hand")), deadline=client.clock.boottime() + 10
    )
    assert isinstance(answer, Committed)


def put_spec(client: Client, task_id: str) -> None:
    """As a client would that does not look at features."""
    spec = Spec(id=task_id, owner="vision", command=("true",), retention_seconds=1.0)
    put(client, client.keys.task(task_id), codec.encode_spec(spec, client.clock.now(), Op("hand")))


def record(client: Client) -> dict[str, Any]:
    item, _ = client.store.get(client.keys.engine, deadline=client.clock.boottime() + 10)
    assert item is not None
    return dict(json.loads(item.value))


def gone(client: Client, task_id: str) -> bool:
    try:
        client.get(task_id)
    except NotFound:
        return True
    return False


@pytest.mark.slow
def test_a_release_without_features_stays_out_and_comes_back(
    tmp_path: Path, before_features: dict[str, str]
) -> None:
    shared = {"name": "shared", "capacity": {"cpu": 2}, "sharing": {}}
    with local_cluster(tmp_path / "data", replicas=1, settings=QUICK) as cluster, cluster.client() as client:
        (newer,) = cluster.replicas
        assert client.features.enable("owners")  # by what real replicas register
        assert leader_of(cluster) is newer
        assert client.features.drop("owners")
        older = add_replica(cluster, "older", **before_features)
        client.apply_pool({"name": "default", "capacity": {"cpu": 2}})
        lead_by_turns(cluster, older)

        # What the fence is for: the older release takes the owner for an error, and the task fails.
        put_spec(client, "unfenced")
        view = client.wait(["unfenced"], timeout_seconds=60)["unfenced"]
        assert (view.state, "owner" in view.message) == (State.FAILED, True)

        # While it is registered, nobody can turn the feature on, nor use it.
        wait_until(lambda: len(client.replicas.all()) == 2, "both registrations", timeout=60)
        with pytest.raises(UserError, match="older"):
            client.features.enable("owners")
        with pytest.raises(UserError, match="older"):
            client.apply_pool(shared)
        with pytest.raises(InvalidField, match="tally features enable owners"):
            client.submit({"id": "a", "owner": "vision", "command": ["true"]})

        # Turned on past it, it leaves its office.
        stored = record(client)
        stored["engine"].setdefault("parts", {})["feature/owners"] = ""
        put(client, client.keys.engine, json.dumps(stored).encode())
        wait_until(lambda: leader_of(cluster) is newer, "the newer release leading", timeout=60)
        problem = wait_until(
            lambda: next(each.engine_problem for each in client.replicas.all() if each.id == "older"),
            "the older release saying why it is no candidate",
            timeout=60,
        )
        assert "lacks feature/owners" in problem
        put_spec(client, "fenced")
        assert client.wait(["fenced"], timeout_seconds=60)["fenced"].state is State.SUCCEEDED
        client.apply_pool(shared)
        task = {"id": "b", "pool": "shared", "owner": "vision", "command": ["true"], "retention_seconds": 1}
        client.submit(task)
        client.wait(["b"], timeout_seconds=60)

        # With nobody else there, it does not lead either: no term comes between.
        led = client.replicas.leader()
        assert led is not None
        kill(newer)
        wait_until(lambda: client.replicas.leader() is None, "the end of the term", timeout=60)
        beat = next(each.at for each in client.replicas.all() if each.id == "older")
        wait_until(
            lambda: next(each.at for each in client.replicas.all() if each.id == "older") > beat + 5,
            "the older release having had its time",
            timeout=60,
        )
        assert client.replicas.leader() is None
        cluster.start_replica(newer)
        assert leader_of(cluster) is newer
        again = client.replicas.leader()
        assert again is not None
        assert again.epoch == led.epoch + 1

        # The way back.
        with pytest.raises(UserError, match="pool/shared"):
            client.features.drop("owners")
        client.apply_pool({"name": "shared", "capacity": {"cpu": 2}})
        for task_id in ("unfenced", "fenced", "b"):
            wait_until(partial(gone, client, task_id), "the end of its retention", timeout=60)
        assert client.features.drop("owners")
        assert "feature/owners" not in record(client)["engine"]["parts"]
        lead_by_turns(cluster, older)
        client.submit({"id": "c", "pool": "shared", "command": ["true"]})
        assert client.wait(["c"], timeout_seconds=60)["c"].state is State.SUCCEEDED
