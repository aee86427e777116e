"""An array in the store, as its client and a leader have written it."""

from __future__ import annotations

from typing import Any

from controller.client import Client
from controller.core.model import codec
from controller.core.model.blocks import WAITS, Block, Fate, MemberOutcome
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from tests.client.conftest import PutRaw, PutStatus
from tests.support.etcd import in_seconds

ENDED = (
    Fate(MemberOutcome.SUCCEEDED, 1, 0),
    Fate(MemberOutcome.FAILED, 2, 3, "Error"),
    Fate(MemberOutcome.CANCELLED),
)


def submit_array(client: Client, name: str, size: int = 10, **more: Any) -> None:
    """An array of which no member has begun."""
    client.submit({"id": name, "command": ["true"], "array": {"size": size}, **more})


def begin_array(
    client: Client, put_raw: PutRaw, put_status: PutStatus, name: str, owner: str = "default"
) -> int:
    """Members 0 to 2 have Succeeded, Failed and been Cancelled, 3 runs, and the others wait.

    Returns the revision.
    """
    put_block(client, put_raw, name, *ENDED)
    return put_status(f"{name}-i3", State.RUNNING, array=name, index=3, node="n1", owner=owner)


def put_block(client: Client, put_raw: PutRaw, name: str, *fates: Fate) -> int:
    """The first block of the array; members beyond these wait. Returns the revision."""
    item, _ = client.store.get(client.keys.task(name), deadline=in_seconds())
    assert item is not None
    block = Block.of_fates(codec.op_of_spec(item.value), [*fates, WAITS])
    return put_raw(f"arrays/{name}/0", block.encode(Op("a leader")))
