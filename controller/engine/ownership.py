"""Tells the installation's own objects in an engine from others with the same cluster name.

Each object carries the installation's id.
"""

from __future__ import annotations

from collections.abc import Iterable

from controller.core.model.installation import Installation


class Owning:
    """The part of an engine that knows its installation.

    It is for engines whose objects carry the installation's id as a label.
    """

    def __init__(self) -> None:
        self.installation: Installation | None = None
        self._others: dict[str, list[str]] = {}

    # `claim` is not needed: labels need no place of their own
    def bind(self, installation: Installation, *, claim: bool = False) -> None:  # noqa: ARG002
        """See Engine."""
        self.installation = installation

    def others(self) -> dict[str, list[str]]:
        """See Engine."""
        return self._others

    @property
    def mark(self) -> str:
        """The installation's id, for objects that are created; "" while it is not known."""
        return self.installation.id if self.installation is not None else ""

    def note_others(self, found: Iterable[tuple[str, str]]) -> None:
        """Record the attempts of others that a list found, as pairs of a mark and an attempt's name."""
        others: dict[str, list[str]] = {}
        for mark, name in found:
            others.setdefault(mark, []).append(name)
        self._others = others
