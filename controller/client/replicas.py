"""The processes of an installation: its replicas, its leader and its gateways."""

from __future__ import annotations

from controller.client.calls import Calls
from controller.client.errors import NotFound
from controller.client.reading import Reading
from controller.client.replica_views import LeaderView, ReplicaView, leader_view, replica_views
from controller.core.model.records import Change
from controller.core.model.scalars import shown
from controller.errors import InvalidField
from controller.store.base import Delete, Guard, Transaction, new_op
from controller.views.gateways import GatewayView, gateway_views


class Replicas:
    """The replicas and gateways as they registered themselves in the store."""

    def __init__(self, calls: Calls, reading: Reading) -> None:
        self._calls = calls
        self._reading = reading

    def all(self) -> list[ReplicaView]:
        """The registered replicas, sorted by id."""
        return replica_views(self._reading.model("replicas/", "leader"))

    def gateways(self) -> list[GatewayView]:
        """The registered gateways, sorted by id."""
        return gateway_views(self._reading.model("gateways/"))

    def leader(self) -> LeaderView | None:
        """The leader; None when no replica leads."""
        item = self._calls.stored(self._calls.keys.leader)
        return leader_view(
            Change("leader", (), item.value, item.mod, item.create) if item is not None else None
        )

    def step_down(self) -> LeaderView:
        """End the current term, so that a new election follows; returns the leader of the ended term.

        Deletes the leader's key if its term has not changed. The fence then refuses the old leader's next
        write, and its watch reports the deletion. Raises NotFound when no replica leads.
        """
        leader = self.leader()
        if leader is None:
            raise no_leader()
        self.end_term(leader.term)
        return leader

    def end_term(self, term: int) -> None:
        """End this term, and no later one. Raises InvalidField for what is no term."""
        guard = Guard(self._calls.keys.leader, parse_term(term), on_create=True)
        # A refusal means that another term has begun, which is what the caller wanted.
        self._calls.commit(Transaction((guard,), (Delete(self._calls.keys.leader),), new_op()))


def parse_term(raw: object) -> int:
    """The number of a term. Raises InvalidField."""
    if isinstance(raw, bool) or not isinstance(raw, int) or not 0 < raw < 2**63:
        raise InvalidField("term", f"is {shown(raw)}, expected the number of a term")
    return raw


def no_leader() -> NotFound:
    """No replica leads."""
    return NotFound("no replica leads, so none can step down: see `tally get replicas`")
