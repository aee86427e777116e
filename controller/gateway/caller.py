"""Who asks a gateway, and what it may do."""

from __future__ import annotations

from typing import NamedTuple

from controller.core.model.records import Task
from controller.gateway.identity import Identity
from controller.gateway.policy import Right, Rights
from controller.views.tasks import owner_of

# after which a caller whose answer goes on must still be allowed to sign in; such an answer sleeps no longer,
# so it ends within twice that time
RECHECK_SECONDS = 5.0


class Caller(NamedTuple):
    """Who asks, and what it may do."""

    identity: Identity
    rights: Rights

    def sees(self, task: Task) -> bool:
        """Whether the caller may read the task."""
        return self.rights.allows(Right.READ, owner_of(task))
