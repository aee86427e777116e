"""Which tasks changed after a revision, for callers that wait or watch: a ring of bounded size.

A caller is a revision. It costs no memory, and one that falls behind the ring is told to look at everything.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from controller.core.model import blocks
from controller.core.model.records import Change
from controller.gateway.policy import Right, Rights
from controller.gateway.task_owners import TaskOwners
from controller.views.array_changes import names_of

CAPACITY = 65_536
_KINDS = frozenset(("tasks", "states", "requests", "quarantined", blocks.KIND))


class Changes:
    """See the module's docstring. A Listener of the standby's model; any thread may ask.

    `owners` hears of each change before it.
    """

    def __init__(self, owners: TaskOwners, capacity: int = CAPACITY) -> None:
        self._owners = owners
        self._lock = threading.Lock()
        self._ring: deque[tuple[int, str, str | None]] = deque(maxlen=capacity)  # revision, name, owner
        self._floor = 0  # changes up to here are not in the ring

    def reloaded(self, revision: int) -> None:
        """See Listener."""
        with self._lock:
            self._ring.clear()
            self._floor = revision

    def changed(self, changes: Sequence[Change], revision: int) -> None:  # noqa: ARG002  # of Listener
        """See Listener."""
        with self._lock:
            for index, change in enumerate(changes):
                for name in names_of(change) if change.kind in _KINDS else ():
                    if len(self._ring) == self._ring.maxlen:
                        self._floor = self._ring[0][0]
                    owner = self._owners.of(name.partition("/")[0], index)
                    self._ring.append((change.mod, name, owner))

    def since(self, revision: int, rights: Rights) -> set[str] | None:
        """What changed after the revision, of the tasks that these rights let one read.

        It is told by the names of `controller.views.array_changes`. None if that is not known any more.
        """
        with self._lock:
            if revision < self._floor:
                return None
            found = set()
            for mod, task_id, owner in reversed(self._ring):
                if mod <= revision:
                    break
                if rights.may_read_all or (owner is not None and rights.allows(Right.READ, owner)):
                    found.add(task_id)
            return found
