"""What a change of the model touched: worth a look for whoever plans, and nobody else's business."""

from __future__ import annotations


class Touched:
    """Names, in order of arrival: of tasks that something happened to, and of pools that may admit."""

    __slots__ = ("pools", "tasks")

    def __init__(self) -> None:
        self.tasks: dict[str, None] = {}
        self.pools: dict[str, None] = {}
