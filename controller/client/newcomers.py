"""Notes which owner is new in a pool that names its owners: the name may be misspelt.

An owner is new that the pool's `sharing` does not name, and that has no share of the pool: it has held
nothing of it. Tasks that wait are not looked through. It is told once, and nothing is refused for it.
"""

from __future__ import annotations

from collections.abc import Callable

from controller.core.model.sharing import ANYBODY
from controller.core.model.task import Pool, Spec
from controller.store.base import StoreError

NAMED = 10  # of the owners that a pool names, those that a note lists
MOST = 20  # owners that are looked up by one client


class Newcomers:
    """See the module's docstring. `has_share` reads whether an owner has a share of a pool; `sees` whether
    an owner that a pool names may be told.
    """

    def __init__(
        self, has_share: Callable[[str, str], bool], sees: Callable[[str], bool] = lambda _: True
    ) -> None:
        self._has_share = has_share
        self._sees = sees
        self._notes: dict[tuple[str, str], str] = {}  # pool and owner → what is to be told; "": nothing more

    def look(self, spec: Spec, pool: Pool) -> None:
        """See whether the task's owner is new in its pool, before the task is stored."""
        named = sorted(pool.sharing.owners.keys() - {ANYBODY}) if pool.sharing is not None else []
        at = spec.pool, spec.owner
        if not named or spec.owner in named or at in self._notes or len(self._notes) >= MOST:
            return
        try:
            is_known = self._has_share(*at)
        except StoreError:
            return  # a hint is no reason to fail
        told = [*filter(self._sees, named)]
        names = ", ".join(told[:NAMED]) + (f" and {len(told) - NAMED} more" if told[NAMED:] else "")
        new = f"owner {spec.owner} is new in pool {spec.pool}"
        self._notes[at] = "" if is_known else f"{new} (the pool names: {names})" if names else new

    def tell(self, spec: Spec) -> str:
        """What is to be told of the owner of a task that was stored; "" if nothing is, or if it was told."""
        at = spec.pool, spec.owner
        note = self._notes.get(at, "")
        if note:
            self._notes[at] = ""
        return note
