"""Notes shares that something other than a leader has written: a leader writes the ledger with them, always.

So the shares of the pool are to be rebuilt, until a rebuild has ended that knew of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from controller.core.model.records import Ledger


class LoneShares:
    """See the module's docstring. A pool is in it if a share of it came without its ledger."""

    def __init__(self) -> None:
        self._owners: dict[str, dict[int, set[str]]] = {}  # pool → when → whose
        self.loads = False  # a snapshot is taken in, in which a ledger may be newer than the shares

    def __contains__(self, pool: str) -> bool:
        return pool in self._owners

    def owners(self, pool: str) -> set[str]:
        """Whose shares of the pool something else has written, as far as is known."""
        return set[str]().union(*self._owners.get(pool, {}).values())

    def note_share(self, pool: str, owner: str, mod: int, ledger_mod: int) -> None:
        """A share was written or deleted at revision `mod`. The ledger may still come with it."""
        if mod > ledger_mod if self.loads else mod != ledger_mod:
            self.doubt(pool, [owner], mod)

    def doubt(self, pool: str, owners: Iterable[str], revision: int) -> None:
        """The shares of the pool may not be right, and were so at this revision; those of these owners are
        wrong.
        """
        self._owners.setdefault(pool, {}).setdefault(revision, set()).update(owners)

    def note_ledger(self, pool: str, mod: int) -> None:
        """The ledger was written at revision `mod`, as shares may have been."""
        if pool in self._owners:
            self._keep(pool, lambda lone: lone != mod)

    def note_end(self, pool: str, before: Ledger, after: Ledger) -> None:
        """If `after` ends a rebuild, all is right that was written until its last but one part, `before`.

        The leader knew of that.
        """
        if pool in self._owners and after.shares_are_whole and not before.shares_are_whole:
            self._keep(pool, lambda lone: lone > before.mod)

    def _keep(self, pool: str, which: Callable[[int], bool]) -> None:
        left = {lone: owners for lone, owners in self._owners[pool].items() if which(lone)}
        if left:
            self._owners[pool] = left
        else:
            del self._owners[pool]
