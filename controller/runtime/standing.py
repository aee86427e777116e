"""What a tenure stands on: which installation it is, and which engine it may believe."""

from __future__ import annotations

from typing import NamedTuple

from controller.core.model.installation import EngineIdentity, Installation, difference
from controller.core.model.model import Model
from controller.election.term import Leadership
from controller.engine.base import Engine, EngineUnavailable


class Standing(NamedTuple):
    """What a tenure stands on: as which installation, and on which engine."""

    installation: Installation
    engine: EngineIdentity

    @classmethod
    def of(cls, model: Model) -> Standing:
        """As the election that the model has applied wrote it."""
        assert model.installation is not None
        assert model.engine is not None
        return cls(model.installation, model.engine.engine)

    def check_engine(self, engine: Engine, leadership: Leadership) -> None:
        """Raises EngineUnavailable, and ends the term, when the engine is not the recorded one: what that
        lacks has not gone.

        An answer that proves an end counts only between two such checks.
        """
        if why := difference(self.engine, engine.identity()):
            leadership.end(why)
            raise EngineUnavailable(why)
