"""When a replica was last heard of: by our clock, whatever it writes."""

from __future__ import annotations

from controller.core.model.records import Change
from controller.runtime.registrations import ENDED_SECONDS, MAX_ENDED, Registrations, describe
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


def test_who_has_ended_is_kept_for_an_hour_with_its_last_word() -> None:
    """Whoever is registered again has not ended; only the last ones are kept."""
    clock = HandClock()
    registrations = Registrations(clock)
    registrations.changed([change("a", 5), change("b", 6)], 6)
    clock.move(7.0)
    registrations.changed([change("a", 8, gone=True)], 8)
    (ended,) = registrations.ended({"b": change("b", 6)})
    assert (ended.name, ended.record) == ("a", {"at": 1e12})
    assert ended.ended_at - ended.heard_at == 7.0
    registrations.changed([change("a", 9)], 9)
    assert registrations.ended({"a": change("a", 9), "b": change("b", 6)}) == ()
    registrations.changed([change("a", 10, gone=True)], 10)
    assert [each.name for each in registrations.ended({"b": change("b", 6)})] == ["a"]
    clock.move(ENDED_SECONDS)
    assert registrations.ended({"b": change("b", 6)}) == ()
    for n in range(MAX_ENDED + 3):
        registrations.changed([change(f"r{n}", 20 + n), change(f"r{n}", 21 + n, gone=True)], 21 + n)
        clock.move(1.0)
    names = [each.name for each in registrations.ended({"b": change("b", 6)})]
    assert names == [f"r{n}" for n in reversed(range(3, MAX_ENDED + 3))]


def test_who_ended_while_the_model_was_loaded_again_has_ended() -> None:
    clock = HandClock()
    registrations = Registrations(clock)
    registrations.changed([change("a", 5), change("b", 6)], 6)
    clock.move(20.0)
    registrations.reloaded(30)
    (ended,) = registrations.ended({"b": change("b", 6)})
    assert (ended.name, ended.ended_at - ended.heard_at) == ("a", 20.0)


def test_who_was_loaded_and_never_heard_of_has_ended_too() -> None:
    clock = HandClock()
    registrations = Registrations(clock)
    registrations.reloaded(30)
    clock.move(3.0)
    registrations.changed([change("a", 31, gone=True)], 31)
    (ended,) = registrations.ended({})
    assert (ended.name, ended.record, ended.ended_at - ended.heard_at) == ("a", {}, 3.0)


def test_a_process_that_has_another_name_by_now_has_not_ended() -> None:
    """The second of a name is registered as another one until the first has gone."""
    clock = HandClock()
    registrations = Registrations(clock)
    guest, own = (
        Change("replicas", (name,), b'{"instance": "i"}', mod) for name, mod in (("a-i", 5), ("a", 6))
    )
    registrations.changed([guest, own, change("a-i", 7, gone=True)], 7)
    assert registrations.ended({"a": own}) == ()
    clock.move(1.0)
    registrations.changed([change("a", 8, gone=True)], 8)
    assert [each.name for each in registrations.ended({})] == ["a", "a-i"]
