"""`explain` tells of maintenance windows with numbers, and what the other readers make of them."""

from __future__ import annotations

from typing import Any

import pytest

from controller.core.model.requests import RequestKind
from controller.views.maintenance import kept_back, window_note, windows_text
from controller.views.overview import next_admission
from controller.views.pools import owners_of
from tests.views.test_explain import NOW, Scene

HOUR = 3600.0
# NOW is 2023-11-14T22:13:20Z
WINDOW = {"starts_at": NOW + 4800, "ends_at": NOW + 4800 + 2 * HOUR, "reason": "new nodes.", "by": "ops"}
SHOWN = "the maintenance window of pool p, 2023-11-14T23:33:20Z to 2023-11-15T01:33:20Z (new nodes)"
UNTIL = "it is not admitted before 2023-11-15T01:33:20Z, in 3h20m"


def scene(*windows: Any, **fields: Any) -> Scene:
    return Scene(maintenance=list(windows or (WINDOW,)), **fields)


def test_a_run_deadline_that_is_too_long() -> None:
    """With what counts beside it, what is left, and what would do."""
    told = scene().task("a", deadlines={"run": "3h", "start": "10m"}, grace_seconds=30)("a")
    assert told == (
        f"a is kept back by {SHOWN}: its run deadline is 3h, beside 10m to start and 30s to stop, and 1h20m"
        f" are left; a run deadline of at most 1h9m would let it run before; {UNTIL}."
    )
    assert "next in pool p" in scene().task("a", deadlines={"run": "1h9m", "start": "10m"})("a")


def test_no_run_deadline() -> None:
    told = scene().task("a", grace_seconds=0)("a")
    assert told == (
        f"a is kept back by {SHOWN}: it has no run deadline, and so could run into it, and 1h20m are left; a"
        f" run deadline of at most 1h20m would let it run before; {UNTIL}."
    )


def test_no_deadline_would_do() -> None:
    told = scene().task("a", grace_seconds=4800)("a")
    assert "no run deadline would let it run before, beside 1h20m to stop" in told


def test_within_a_window_and_several() -> None:
    """Until when counts all windows that it could run into."""
    later = {"starts_at": NOW + 5 * HOUR, "ends_at": NOW + 6 * HOUR}
    told = scene(WINDOW, later).task("a")("a", NOW + 4800)
    assert told == (
        f"a is kept back by {SHOWN}, within which nothing is admitted; it is not admitted before"
        " 2023-11-15T04:13:20Z, in 4h40m."
    )
    told = scene(WINDOW, later).task("a", deadlines={"run": "1h"})("a", NOW + 4800)
    assert "it is not admitted before 2023-11-15T01:33:20Z" in told


def test_beside_other_reasons() -> None:
    """Each is told; and a request that waits."""
    told = scene(paused=True).task("a").request("a", RequestKind.CANCEL)("a")
    assert told.startswith("a waits because its pool p is paused")
    assert f"besides, it is kept back by {SHOWN}" in told
    assert "the request to cancel it waits" in told


def test_who_is_kept_back_is_not_ahead() -> None:
    """Nor is it what is admitted next."""
    one = scene().task("head", cpu=4).task("a", deadlines={"run": "1h"})
    assert one("a").startswith("a is next in pool p")
    assert next_admission(one.model, "p", NOW) == "a"
    assert next_admission(one.model, "p", NOW + 4800) == ""
    assert kept_back(one.model, "p", NOW) == 1
    assert kept_back(one.model, "p", NOW + 4800) == 2
    assert kept_back(one.model, "p", NOW + 4800 + 2 * HOUR) == 0


@pytest.mark.parametrize("policy", ["strict", "backfill"])
def test_of_owners_that_share(policy: str) -> None:
    sharing = {"owners": {"vision": {"guarantee": {"cpu": 4}}}}
    one = scene(sharing=sharing, policy=policy).task("head", cpu=4, owner="vision")
    one.put("ledgers", ("p",), b'{"held":{},"op":"x","shares_op":"x"}')
    one.task("a", owner="speech", deadlines={"run": "1h"})
    facts = {owner.owner: owner for owner in owners_of(one.model, "p", NOW)}
    assert not facts["vision"].is_below_guarantee, "nothing that may run is kept waiting"
    assert facts["vision"].waiting == 1
    assert next_admission(one.model, "p", NOW) in ("a", "")


def test_words_of_windows() -> None:
    windows = scene().model.pools["p"].pool.maintenance
    text = "2023-11-14T23:33:20Z to 2023-11-15T01:33:20Z (new nodes), set by ops"
    assert windows_text(windows, NOW) == text
    assert window_note(windows, NOW) == "maintenance at 2023-11-14T23:33:20Z"
    assert window_note(windows, NOW + 4800) == "maintenance until 2023-11-15T01:33:20Z"
    assert window_note(windows, NOW + 9 * HOUR) == windows_text(windows, NOW + 9 * HOUR) == ""
