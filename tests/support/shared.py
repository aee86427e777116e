"""A stage with a pool that is shared among owners, and a leader that acts on it."""

from __future__ import annotations

from typing import Any

from controller.client import Client
from controller.core.model.task import Phase
from tests.support.bench import Stage

DAY = 86_400
SHARING = {
    "owners": {
        "vision": {"weight": 2, "guarantee": {"cpu": 3}, "limit": {"cpu": 3}, "max_running": 9},
        "nlp": {},
    }
}


class Shared(Stage):
    """A stage with a shared pool of 4 cpus, whose leader has its clock in day 12 of the epoch."""

    def __init__(self, **pool: Any) -> None:
        super().__init__()
        self.clock.seconds = 12.0 * DAY + 100
        self.pool(**{"sharing": SHARING, **pool})
        self.acting = self.leader()
        self.acting.run()

    def settle(self) -> Shared:
        """The leader sees what is stored, and does what is to be done."""
        self.acting.sync()
        self.acting.acknowledge(self.acting.run())
        self.acting.run()
        return self

    def end(self, task_id: str) -> None:
        self.acting.run_to(task_id, Phase.SUCCEEDED)
        self.settle()

    def client(self) -> Client:
        return Client.of_store(self.store, cluster="stage", clock=self.clock)
