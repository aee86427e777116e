"""A term ends by its deadline whether or not anybody asks."""

from __future__ import annotations

import pytest

from controller.election.term import Leadership, LeadershipLost
from tests.support.bench import HandClock


@pytest.mark.parametrize("asked", [True, False])
def test_a_term_whose_deadline_has_passed_stays_ended(asked: bool) -> None:
    clock = HandClock()
    leadership = Leadership(1, 1, 0, clock.boottime() + 5, clock)
    clock.move(6)
    if asked:
        assert leadership.why_ended()
    leadership.extend(clock.boottime() + 5)  # the answer to a keep-alive comes late
    leadership.end("the replica stops")
    assert leadership.why_ended() == "the lease could not be renewed in time"
    assert leadership.remaining() == 0
    with pytest.raises(LeadershipLost, match="could not be renewed"):
        leadership.check()
