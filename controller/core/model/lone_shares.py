"""Notes shares that something other than a leader has written: a leader writes the ledger with them, always.

So the shares of the pool are to be rebuilt, until a rebuild has ended that knew of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from controller.core.model.records import Ledger


class LoneShares:
    """See the module's docstring. A pool is in it if a share of it came without its ledger."""

    def __init__(self) -> None:
        self._revisions: dict[str, dict[int, None]] = {}  # pool → when
        self.loads = False  # a snapshot is taken in, in which a ledger may be newer than the shares

    def __contains__(self, pool: str) -> bool:
        return pool in self._revisions

    def note_share(self, pool: str, mod: int, ledger_mod: int) -> None:
        """A share was written or deleted at revision `mod`. The ledger may still come with it."""
        if mod > ledger_mod if self.loads else mod != ledger_mod:
            self.doubt(pool, mod)

    def doubt(self, pool: str, revision: int) -> None:
        """The shares of the pool may not be right, and were so at this revision."""
        self._revisions.setdefault(pool, {})[revision] = None

    def note_ledger(self, pool: str, mod: int) -> None:
        """The ledger was written at revision `mod`, as shares may have been."""
        if pool in self._revisions:
            self._keep(pool, (lone for lone in self._revisions[pool] if lone != mod))

    def note_end(self, pool: str, before: Ledger, after: Ledger) -> None:
        """If `after` ends a rebuild, all is right that was written until its last but one part, `before`.

        The leader knew of that.
        """
        if pool in self._revisions and after.shares_are_whole and not before.shares_are_whole:
            self._keep(pool, (lone for lone in self._revisions[pool] if lone > before.mod))

    def _keep(self, pool: str, lone: Iterable[int]) -> None:
        left = dict.fromkeys(lone)
        if left:
            self._revisions[pool] = left
        else:
            del self._revisions[pool]
