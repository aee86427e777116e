"""What a tenure relies on: its installation, and the engine that it may believe."""

from __future__ import annotations

from typing import NamedTuple

from controller.core.model.installation import EngineIdentity, Installation, difference
from controller.core.model.model import Model
from controller.election.term import Leadership
from controller.engine.base import Engine, EngineUnavailable


class Standing(NamedTuple):
    """The installation that a tenure leads, and its recorded engine."""

    installation: Installation
    engine: EngineIdentity

    @classmethod
    def of(cls, model: Model) -> Standing:
        """As written by the election that the model has applied."""
        assert model.installation is not None
        assert model.engine is not None
        return cls(model.installation, model.engine.engine)

    def check_engine(self, engine: Engine, leadership: Leadership) -> None:
        """End the term and raise EngineUnavailable, if the engine is not the recorded one.

        An attempt that another engine lacks is not gone. An answer that proves an end counts only between
        two such checks.
        """
        if why := difference(self.engine, engine.identity()):
            leadership.end(why)
            raise EngineUnavailable(why)
