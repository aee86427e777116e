"""What a tenure stands on: which installation it is, and which engine it may believe."""

from __future__ import annotations

from typing import NamedTuple

from controller.core.model.installation import EngineIdentity, Installation, difference
from controller.core.model.model import World
from controller.election.term import Leadership
from controller.engine.base import Engine, EngineUnavailable


class Standing(NamedTuple):
    """What a tenure stands on: as which installation, and on which engine."""

    installation: Installation
    engine: EngineIdentity

    @classmethod
    def of(cls, world: World) -> Standing:
        """As the election that the model has applied wrote it."""
        assert world.installation is not None
        assert world.engine is not None
        return cls(world.installation, world.engine.engine)

    def check_engine(self, engine: Engine, leadership: Leadership) -> None:
        """Raises EngineUnavailable, and ends the term, when the engine is not the recorded one: what that
        lacks has not gone.

        An answer that proves an end counts only between two such checks.
        """
        if why := difference(self.engine, engine.identity()):
            leadership.end(why)
            raise EngineUnavailable(why)
