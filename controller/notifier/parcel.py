"""What is to be delivered."""

from __future__ import annotations

from typing import NamedTuple


class ParcelKey(NamedTuple):
    """What tells parcels apart."""

    task_id: str
    target: str
    sequence: int


class Parcel(NamedTuple):
    """One event of one task, for one receiver.

    `target` is the receiver's URL. Parcels of one task to one target go in the order of `sequence`. `begun`
    is when the event happened, in seconds since the epoch.
    """

    task_id: str
    sequence: int
    target: str
    body: bytes
    event_id: str
    begun: float

    @property
    def key(self) -> ParcelKey:
        """See ParcelKey."""
        return ParcelKey(self.task_id, self.target, self.sequence)
