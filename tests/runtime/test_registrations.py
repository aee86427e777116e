"""When a replica was last heard of: by our clock, whatever it writes."""

from __future__ import annotations

from controller.core.model.records import Change
from controller.runtime.registrations import Registrations, describe
from controller.views.replica import Check, Facts
from tests.support.bench import HandClock


def change(name: str, mod: int, *, gone: bool = False) -> Change:
    return Change("replicas", (name,), None if gone else b'{"at": 1e12}', mod)


def test_an_age_counts_from_when_the_registration_came() -> None:
    clock = HandClock()
    registrations = Registrations(clock)
    registrations.changed([change("a", 5), change("b", 6)], 6)
    clock.move(7.0)
    registrations.changed([change("b", 9), Change("states", ("a",), b"{}", 9)], 9)
    clock.move(1.0)
    assert registrations.ages({"a": change("a", 5), "b": change("b", 9)}) == {"a": 8.0, "b": 1.0}


def test_a_load_makes_nobody_younger_of_whom_it_brings_nothing_new() -> None:
    """The watch is connected again, and all is read: a dead replica's registration stands there as it did
    before.
    """
    clock = HandClock()
    registrations = Registrations(clock)
    registrations.changed([change("a", 5), change("b", 6)], 6)
    clock.move(20.0)
    registrations.reloaded(30)
    clock.move(1.0)
    registered = {"a": change("a", 5), "b": change("b", 28), "new": change("new", 29)}
    assert registrations.ages(registered) == {"a": 21.0, "b": 1.0, "new": 1.0}
    registrations.changed([change("a", 31, gone=True)], 31)
    assert registrations.ages({}) == {}


def test_only_the_leader_speaks_of_the_engine() -> None:
    ready = (Check("model", True, ""), Check("engine", True, ""))
    facts = Facts(
        "a", "test", "leader", "leading", 7, 3, 12, 0.31, "a", "null", (), ready, engine_age_seconds=4.26
    )
    assert describe(facts, 99.5) == {
        "at": 99.5,
        "applied_revision": 12,
        "behind_seconds": 0.3,
        "phase": "leading",
        "engine_answers": True,
        "engine_age_seconds": 4.3,
        "engine_silence": "",
    }
    follower = Facts("a", "test", "follower", "following", 0, 3, 12, 0.0, "b", "null", (), ready[:1])
    assert "engine_answers" not in describe(follower, 99.5)
