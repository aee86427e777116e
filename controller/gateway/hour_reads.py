"""The last hour, as far as a caller may know it."""

from __future__ import annotations

from controller.clock import Clock
from controller.endpoint.minutes import Minutes
from controller.gateway.caller import Caller
from controller.runtime.standby import Standby
from controller.views.history import HourView, LastHour, hour_of_owners


class ShownHour:
    """What the gateway has heard in the last hour. `listener` must hear of all changes."""

    def __init__(self, standby: Standby, clock: Clock) -> None:
        self._standby = standby
        self.listener = LastHour(standby.reading, clock.now)
        self.minutes = Minutes(self.listener, standby.reading, clock.now)

    def to(self, caller: Caller) -> HourView:
        """Waits of owners whose tasks the caller may read; sums, as of pools, to who may read all tasks."""
        with self._standby.reading() as model:
            found = self.listener.view(model)
        owners = caller.rights.readable
        return found if owners is None else hour_of_owners(found, owners)
