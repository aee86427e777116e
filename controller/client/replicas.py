"""The replicas of an installation, and which of them leads."""

from __future__ import annotations

import uuid

from controller.client.calls import Calls
from controller.client.errors import NotFound
from controller.client.reading import Reading
from controller.client.views import LeaderView, ReplicaView, leader_view, replica_views
from controller.core.model.records import Change
from controller.store.base import Delete, Guard, Transaction


class Replicas:
    """As they are registered in the store."""

    def __init__(self, calls: Calls, reading: Reading) -> None:
        self._calls = calls
        self._reading = reading

    def all(self) -> list[ReplicaView]:
        """The registered replicas, sorted by id."""
        return replica_views(self._reading.model("replicas/", "leader"))

    def leader(self) -> LeaderView | None:
        """The replica that leads, None when none does."""
        item = self._calls.stored(self._calls.keys.leader)
        return leader_view(
            Change("leader", (), item.value, item.mod, item.create) if item is not None else None
        )

    def step_down(self) -> LeaderView:
        """Take the leadership from whoever has it, so that a replica is elected anew; returns who had it.

        Raises NotFound.

        Deletes the leader's key, if it still is that term's: the leader's next write fails its fence, and its
        watch tells it.
        """
        leader = self.leader()
        if leader is None:
            raise NotFound("no replica leads: there is nobody to step down; see `tally get replicas`")
        guard = Guard(self._calls.keys.leader, leader.term, on_create=True)
        # Another term by now is what was wanted: the one that led when this was called no longer does.
        self._calls.commit(Transaction((guard,), (Delete(self._calls.keys.leader),), uuid.uuid4().hex))
        return leader
