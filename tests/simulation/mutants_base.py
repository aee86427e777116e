"""What a seeded bug is: see `mutants`."""

from __future__ import annotations

from typing import NamedTuple


class Edit(NamedTuple):
    """`old` becomes `new`, wherever it occurs in the function `where` (module:qualified.name)."""

    where: str
    old: str
    new: str


class Mutant(NamedTuple):
    """A bug: its name, which says what it would mean, and how it is made. `harmless` says why one is none.

    `faults` are those of the hunt; None: each seed chooses its own. A bug that needs a rare course of events
    is looked for under the faults that lead there, under no others, and at a higher `density` of them.
    `sharing`: whether pools are shared; None: in every second seed. `schedules`: whether there are any; None:
    in every third seed. `arrays`: the same; None: in every second seed without shares. `windows`: whether
    pools are maintained; None: in each tenth seed. `nodes`: whether a pool follows them; None: in some seeds
    without shares. It is found within so many `seeds`.
    """

    name: str
    edits: tuple[Edit, ...]
    harmless: str = ""
    faults: frozenset[str] | None = None
    density: float = 1.0
    sharing: bool | None = None
    schedules: bool | None = None
    arrays: bool | None = None
    windows: bool | None = None
    nodes: bool | None = None
    seeds: int = 200
