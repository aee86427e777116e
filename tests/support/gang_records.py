"""A gang in the store, as its client and a leader have written it."""

from __future__ import annotations

from controller.client import Client
from controller.core.model.gangs import Reserved
from controller.core.model.lifecycle import State
from controller.core.model.resources import Vector
from tests.client.conftest import PutStatus

ROLES = [{"name": "launcher", "size": 1}, {"name": "worker", "size": 3, "resources": {"cpu": "50m"}}]


def submit_gang(client: Client, name: str, owner: str = "default") -> None:
    """A gang of a launcher and three workers, which is not admitted."""
    array = {"gang": True, "roles": ROLES}
    client.submit({"id": name, "command": ["true"], "owner": owner, "array": array})


def begin_gang(put_status: PutStatus, name: str, owner: str = "default") -> int:
    """It is admitted: its launcher runs, one worker has begun, and two have not. Returns the revision."""
    left = (Reserved(0, Vector({"cpu": 100})), Reserved(2, Vector({"cpu": 50})))
    put_status(name, State.PENDING, reserved=left, owner=owner)
    put_status(f"{name}-i0", State.RUNNING, array=name, index=0, of_gang=True, node="n1", owner=owner)
    return put_status(f"{name}-i1", State.PENDING, array=name, index=1, of_gang=True, owner=owner)
