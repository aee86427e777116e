"""Which of all that has the cluster's name in an engine is ours: told by the installation's id that each
object carries.
"""

from __future__ import annotations

from collections.abc import Iterable

from controller.core.model.installation import Installation


class Owning:
    """The part of an engine that knows its installation; for engines whose objects carry its id as a
    label.
    """

    def __init__(self) -> None:
        self.installation: Installation | None = None
        self._others: dict[str, list[str]] = {}

    # labels need no place
    def bind(self, installation: Installation, *, claim: bool = False) -> None:  # noqa: ARG002
        """See Engine."""
        self.installation = installation

    def others(self) -> dict[str, list[str]]:
        """See Engine."""
        return self._others

    @property
    def mark(self) -> str:
        """The id that what is created carries, "" while it is not known."""
        return self.installation.id if self.installation is not None else ""

    def note_others(self, found: Iterable[tuple[str, str]]) -> None:
        """What a list has found of others: pairs of a mark and an attempt's name."""
        others: dict[str, list[str]] = {}
        for mark, name in found:
            others.setdefault(mark, []).append(name)
        self._others = others
