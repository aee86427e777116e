"""In which order tasks are listed, and where a page begins: a place in that order, which stays right
whatever comes and goes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec

from controller.core.model.lifecycle import State

STATES = (*State, None)  # None, which stands last: a status that does not parse

Entry = tuple[float, str]
"""A task in the order of submission, or of names (then with 0.0): when it was submitted, its id."""


class By(StrEnum):
    """What tasks are sorted by; those that are equal, by name."""

    NAME = "name"
    SUBMITTED = "submitted"
    POOL = "pool"
    STATE = "state"


class Sort(NamedTuple):
    """An order."""

    by: By = By.NAME
    descending: bool = False

    def __str__(self) -> str:
        return f"-{self.by}" if self.descending else str(self.by)

    def section(self, pool: str, state: State | None) -> str | int:
        """By what tasks of this pool and state are sorted before all else; states stand as the lifecycle
        has them.
        """
        return pool if self.by is By.POOL else STATES.index(state) if self.by is By.STATE else 0


class SortKey(NamedTuple):
    """A task's place in an order."""

    section: str | int
    entry: Entry

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.entry[1]

    def token(self, sort: Sort) -> str:
        """What stands for the page after it; opaque to clients, and good for ever, since nothing is
        counted.
        """
        return msgspec.json.encode((str(sort), self.section, *self.entry)).hex()


SORTS = {str(sort): sort for sort in (Sort(by, descending) for by in By for descending in (False, True))}


def parse_token(text: str) -> tuple[Sort, SortKey]:
    """The order and the place that a token stands for. Raises ValueError for what is none."""
    try:
        name, section, at, task_id = msgspec.json.decode(
            bytes.fromhex(text), type=tuple[str, str | int, float, str]
        )
    except (ValueError, msgspec.DecodeError):  # also what is no JSON at all
        raise ValueError("expected the `continue` of the page before, unchanged") from None
    sort = SORTS.get(name)
    if sort is None or isinstance(section, str) is not (sort.by is By.POOL):
        raise ValueError("expected the `continue` of the page before, unchanged")
    return sort, SortKey(section, (at, task_id))
