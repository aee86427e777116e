"""A client on the session's etcd, in a cluster of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from controller.client import Client
from controller.core.model import codec
from controller.core.model.lifecycle import FINISHED, State
from controller.core.model.op import Op
from controller.core.model.resources import Vector
from controller.core.model.task import Status
from controller.dev.etcd import EtcdProcess
from controller.store.base import Committed, Guard, Put, Transaction
from tests.support.etcd import in_seconds

POOL = {"name": "default", "capacity": {"cpu": 8, "memory": "1Gi"}}
PutRaw = Callable[[str, bytes], int]
PutStatus = Callable[..., int]


@pytest.fixture
def client(etcd: EtcdProcess, cluster_name: str) -> Iterator[Client]:
    """A client whose cluster has the pool `default`."""
    with Client(etcd.url, cluster=cluster_name) as made:
        made.apply_pool(POOL)
        yield made


@pytest.fixture
def put_raw(client: Client) -> PutRaw:
    """Writes a key of the cluster as someone else would; returns the revision."""

    def put(key: str, value: bytes) -> int:
        item, _ = client.store.get(client.keys.prefix + key, deadline=in_seconds())
        guard = Guard(client.keys.prefix + key, item.mod if item is not None else 0)
        answer = client.store.commit(
            Transaction((guard,), (Put(client.keys.prefix + key, value),), Op(f"test-{key}")),
            deadline=in_seconds(),
        )
        assert isinstance(answer, Committed)
        return answer.revision

    return put


@pytest.fixture
def put_status(put_raw: PutRaw) -> PutStatus:
    """Writes a task's status as a leader would."""

    def put(task_id: str, state: State, **fields: Any) -> int:
        ended = {"finished_at": 2.0} if state in FINISHED else {}
        status = Status(state=state, pool="default", created_at=1.0, **{"attempt": 1, **ended, **fields})
        if status.is_holding:
            status = Status(
                **{name: getattr(status, name) for name in Status.__struct_fields__}
                | {"hold": Vector({"cpu": 100})}
            )
        return put_raw(f"states/{task_id}", codec.encode_status(status, {}))

    return put
