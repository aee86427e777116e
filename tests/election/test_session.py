"""The election's thread: begun and ended by two others."""

from __future__ import annotations

import pytest

from controller.election.session import ElectorThread
from controller.errors import TallyError
from tests.election.candidates import Candidate


def test_a_replica_may_be_told_to_stop_as_it_starts(one: Candidate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever closes finds the thread not yet started; it ends at once when it is, without a term."""
    errors: list[TallyError] = []
    session = ElectorThread(one.elector, errors.append)
    start, closed = session._thread.start, list[bool]()

    def start_late() -> None:
        closed.append(session.close("stopped", 5.0))
        start()

    monkeypatch.setattr(session._thread, "start", start_late)
    session.start()
    session._thread.join(5.0)
    assert (closed, session._thread.is_alive(), one.elector.leadership, errors) == ([True], False, None, [])
