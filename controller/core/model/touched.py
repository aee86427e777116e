"""What a change of the model touched. The planner looks at it."""

from __future__ import annotations


class Touched:
    """Names in order of arrival: tasks that something happened to, and pools that may admit."""

    __slots__ = ("pools", "tasks")

    def __init__(self) -> None:
        self.tasks: dict[str, None] = {}
        self.pools: dict[str, None] = {}


NOTHING = Touched()
"""Never changed."""
