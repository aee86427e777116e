"""The orders in which tasks are listed, and the start of a page as a place in an order.

A place stays valid when tasks come and go.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec

from controller.core.model.lifecycle import State

STATES = (*State, None)  # None, the last: a status that does not parse

Entry = tuple[float | str, str]
"""A task in an order: what it is sorted by (0.0 in the order of names), and its id."""


class By(StrEnum):
    """What tasks are sorted by; equal ones are sorted by name."""

    NAME = "name"
    SUBMITTED = "submitted"
    POOL = "pool"
    STATE = "state"
    OWNER = "owner"
    ATTEMPT = "attempt"
    REASON = "reason"

    @property
    def is_of_words(self) -> bool:
        """Whether an entry begins with a word, and not with a number."""
        return self in (By.OWNER, By.REASON)

    @property
    def is_of_sections(self) -> bool:
        """Whether tasks are sorted by groups that an index has anyway, and by name in each."""
        return self in (By.POOL, By.STATE)


class Sort(NamedTuple):
    """An order of tasks."""

    by: By = By.NAME
    descending: bool = False

    def __str__(self) -> str:
        return f"-{self.by}" if self.descending else str(self.by)

    def section(self, pool: str, state: State | None) -> str | int:
        """The first sort key of the tasks of this pool and state. States are in the lifecycle's order."""
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
        """The token of the page after this place.

        It is opaque to clients, and does not expire, since it names a place and not a count.
        """
        return msgspec.json.encode((str(sort), self.section, *self.entry)).hex()


SORTS = {str(sort): sort for sort in (Sort(by, descending) for by in By for descending in (False, True))}


def parse_token(text: str) -> tuple[Sort, SortKey]:
    """The order and the place of a token. Raises ValueError for an invalid one."""
    try:
        name, section, at, task_id = msgspec.json.decode(
            bytes.fromhex(text), type=tuple[str, str | int, float | str, str]
        )
    except (ValueError, msgspec.DecodeError):  # also for text that is not JSON
        raise ValueError("expected the `continue` of the previous page, unchanged") from None
    sort = SORTS.get(name)
    if (
        sort is None
        or isinstance(section, str) is not (sort.by is By.POOL)
        or isinstance(at, str) is not sort.by.is_of_words
    ):
        raise ValueError("expected the `continue` of the previous page, unchanged")
    return sort, SortKey(section, (at, task_id))
