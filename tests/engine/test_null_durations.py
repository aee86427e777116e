"""How long an attempt of the null engine takes is its task's own word, which keeps no other from ending."""

from __future__ import annotations

import pytest

from controller.core.model.task import AttemptId, Launch, Pool
from controller.core.model.validation import parse_spec
from controller.engine.base import AttemptRefused
from controller.engine.null import NullEngine
from tests.support.bench import HandClock


@pytest.mark.parametrize("seconds", ["nan", "-nan", "inf", "1e999", "-1", "soon", ""])
def test_what_is_no_number_of_seconds_is_refused(seconds: str) -> None:
    launch = Launch(
        attempt=AttemptId("a", 1),
        cluster="c",
        term=1,
        spec=parse_spec({"id": "a", "command": ["x"]}),
        pool=Pool(name="p"),
        environment={"TALLY_NULL_SECONDS": seconds},
    )
    engine = NullEngine(HandClock())
    with pytest.raises(AttemptRefused, match=r"env\.TALLY_NULL_SECONDS"):
        engine.start(launch)
    assert engine.attempts() == []
