"""The elector, step by step on a clock that the test moves: what it believes, and what the store would let
others do.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.model import codec
from controller.core.model.op import Op
from controller.election.elector import TERMS_KEPT
from controller.election.term import LeadershipLost
from controller.errors import CorruptValue
from controller.store.base import Delete, Guard, Put, StoreDenied, Transaction
from controller.store.memory import MemoryStore
from tests.election.candidates import KEYS, TIMINGS, Candidate, delete, put
from tests.support.bench import HandClock
from tests.support.examples import examples
from tests.support.meddling import answer_lost, unanswered


class WallClock(HandClock):
    """A clock whose wall time can jump, as `SystemClock` sees it when it is anchored."""

    def now(self) -> float:
        return self.seconds + self.ahead

    wall = now


def record(store: MemoryStore, epoch: int) -> dict[str, Any]:
    """The record of a term."""
    item, _ = store.get(KEYS.term(epoch), deadline=0)
    assert item is not None
    return codec.decode_mapping(item.value)


# -- the deadline
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["grant", "keep_alive"])
def test_the_deadline_counts_from_when_the_request_was_sent(
    one: Candidate, clock: HandClock, call: str
) -> None:
    """The server may have begun to count as soon as it was sent, however late its answer is."""
    if call == "keep_alive":
        one.elect()

    def slow(real: Any, *args: Any, **kwargs: Any) -> Any:
        answer = real(*args, **kwargs)
        clock.move(1.5)
        return answer

    one.store.on[call] = slow
    sent = clock.boottime()
    one.elector.step()
    assert one.elector.leadership is not None
    assert one.elector.leadership.deadline == sent + 5 - 0.5


def test_an_unanswered_leader_stops_before_anyone_else_can_begin(
    one: Candidate, other: Candidate, clock: HandClock
) -> None:
    leadership = one.elect()
    one.run(3.0)
    one.store.on["keep_alive"] = one.store.on["revoke"] = unanswered
    one.run(leadership.remaining() + 0.01)
    assert not one.leads
    assert one.events[-1].startswith("lost 1: the lease could not be renewed in time, key still there")
    other.elector.step()
    assert not other.leads, "the store's lease has not expired yet"
    with pytest.raises(LeadershipLost):
        leadership.check()
    clock.move(0.5)
    other.elect()


_SECONDS = st.sampled_from([0.0, 0.0, 0.3, 1.0, 2.0, 4.0])
_FATES = st.sampled_from(["", "", "", "", "request lost", "answer lost"])


@settings(max_examples=examples(400), deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), _SECONDS, _SECONDS, _FATES, _SECONDS), min_size=5, max_size=40)
)
def test_never_two_at_once(steps: list[tuple[str, float, float, str, float]]) -> None:
    """Two candidates on one store, whose requests and answers are late or lost: at no moment do both take
    themselves to lead.
    """
    clock = HandClock()
    memory = MemoryStore(clock)
    candidates = {name: Candidate(memory.client(), clock, name) for name in "ab"}
    for who, there, back, fate, pause in steps:

        def meddle(
            real: Any,
            *args: Any,
            _there: float = there,
            _back: float = back,
            _fate: str = fate,
            **kwargs: Any,
        ) -> Any:
            clock.move(_there)
            if _fate == "request lost":
                return unanswered(real)
            answer = answer_lost(real, *args, **kwargs) if _fate == "answer lost" else real(*args, **kwargs)
            clock.move(_back)
            return answer

        candidate = candidates[who]
        candidate.store.on = dict.fromkeys(("get", "grant", "commit", "keep_alive"), meddle)
        candidate.elector.step()
        assert not all(each.leads for each in candidates.values())
        clock.move(pause)


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_jump_of_the_wall_clock_changes_no_deadline(jump: float) -> None:
    clock = WallClock()
    memory = MemoryStore(clock)
    one, other = Candidate(memory, clock), Candidate(memory.client(), clock, "b")
    leadership = one.elect()
    deadline = leadership.deadline
    clock.ahead = jump
    assert leadership.deadline == deadline
    assert one.leads
    one.run(20.0)
    other.elector.step()
    assert one.leads
    assert other.events == []


def test_a_machine_that_was_suspended_finds_its_term_over(one: Candidate, clock: HandClock) -> None:
    """Boottime counts the suspension: the first thing it does is to notice."""
    leadership = one.elect()
    clock.move(3600.0)
    with pytest.raises(LeadershipLost):
        leadership.check()
    one.elector.step()
    assert one.elector.leadership is None


# -- losing it
# -------------------------------------------------------------------------------------------------------


def test_an_answer_without_a_ttl_means_lost(one: Candidate, memory: MemoryStore) -> None:
    """Also when an operator revokes the lease: there is nothing left to renew."""
    leadership = one.elect()
    memory.revoke(leadership.lease, deadline=0)
    one.elector.step()
    assert one.events == ["elected 1", "lost 1: its lease no longer exists"]


def test_a_stuck_loop_is_not_kept_in_office(one: Candidate, other: Candidate, clock: HandClock) -> None:
    """The thread that renews lives, and renews nothing; a loop that comes back in time is kept."""
    leadership = one.elect()
    one.alive = False
    one.run(3.0)
    assert "keep_alive" not in one.store.calls
    one.alive = True
    one.run(2.0)
    assert one.leads
    one.alive = False
    one.run(leadership.remaining() + 0.01)
    assert one.events[-1].startswith("lost 1:")
    one.alive = True
    other.elect()
    assert one.elector.leadership is None


def test_state_is_torn_down_before_a_successor_is_let_in(one: Candidate) -> None:
    """`on_lost` returns first; only then the lease is revoked, and the key goes."""
    leadership = one.elect()
    leadership.end("the test says so")
    one.elector.step()
    assert one.events[-1] == "lost 1: the test says so, key still there"
    leader, _ = one.store.get(KEYS.leader, deadline=0)
    assert leader is None


def test_a_release_hands_over_at_once_and_is_recorded(
    one: Candidate, other: Candidate, memory: MemoryStore
) -> None:
    one.elect()
    one.elector.release("the replica stops", campaign_again=False)
    one.elector.step()
    assert one.events[-1] == "lost 1: the replica stops, key still there"
    other.elect()
    assert record(memory, 1)["why"] == "the replica stops"
    assert record(memory, 1)["unexpected"] is False
    assert "to" in record(memory, 1)
    one.run(60.0)
    assert one.elector.leadership is None


def test_a_release_because_of_an_unexpected_error_is_recorded_as_such(
    one: Candidate, memory: MemoryStore
) -> None:
    one.elect()
    one.elector.release("KeyError: 5", campaign_again=True, unexpected=True)
    one.elector.step()
    assert record(memory, 1)["unexpected"] is True


def test_a_release_whose_records_cannot_be_read_lets_the_next_one_in_all_the_same(
    one: Candidate, other: Candidate
) -> None:
    """The record of its term stays open, for its successor to close; the key does not wait for the lease's
    end.
    """
    leadership = one.elect()

    def no_terms(real: Any, key: str, **kwargs: Any) -> Any:
        return unanswered(real) if key == KEYS.term(leadership.epoch) else real(key, **kwargs)

    one.store.on["get"] = no_terms
    one.elector.release("the replica stops", campaign_again=False)
    one.elector.step()
    assert other.elect().epoch == leadership.epoch + 1


def test_a_release_during_the_election_is_carried_out_once_elected(one: Candidate) -> None:
    """SIGTERM arrives while the election is under way: the term is handed over at once, not kept until
    somebody gives up.
    """

    def stop_then_commit(real: Any, *args: Any, **kwargs: Any) -> Any:
        one.elector.release("the replica stops", campaign_again=False)
        return real(*args, **kwargs)

    one.store.on["commit"] = stop_then_commit
    one.elect()
    one.store.on.clear()
    one.elector.step()
    assert one.events == ["elected 1", "lost 1: the replica stops, key still there"]
    assert one.store.get(KEYS.leader, deadline=0)[0] is None


def test_who_has_just_lost_lets_the_others_go_first(one: Candidate, clock: HandClock) -> None:
    one.elect()
    one.elector.release("step-down", campaign_again=True)
    assert one.elector.step() == TIMINGS.standback_seconds
    assert 0 < one.elector.step() <= TIMINGS.standback_seconds
    assert one.elector.leadership is None
    clock.move(TIMINGS.standback_seconds)
    assert one.elect().epoch == 2


def test_a_right_that_is_taken_away_is_told_and_the_term_ends_by_its_deadline(one: Candidate) -> None:
    def denied(_real: Any, *_args: Any, **_kwargs: Any) -> Any:
        raise StoreDenied("permission denied")

    leadership = one.elect()
    one.store.on["keep_alive"] = one.store.on["revoke"] = denied
    with pytest.raises(StoreDenied):
        one.elector.step()
    one.clock.move(leadership.remaining())
    with pytest.raises(StoreDenied):  # of the revocation; the loss was told before
        one.elector.step()
    assert one.events[-1].startswith("lost 1:")
    assert one.elector.leadership is None


# -- campaigning
# -----------------------------------------------------------------------------------------------------


def test_an_election_whose_answer_is_lost_is_given_up_and_made_good(
    one: Candidate, other: Candidate, memory: MemoryStore
) -> None:
    """Whoever does not know that it was elected does not lead; its lease goes, so that nobody waits for
    it.
    """
    one.store.on["commit"] = answer_lost
    one.elector.step()
    assert one.events == []
    assert other.elect().epoch == 2
    assert record(memory, 1)["why"].endswith("(closed by its successor)")
    assert record(memory, 1)["unexpected"] is False


def test_who_is_elected_too_late_does_not_lead(one: Candidate, clock: HandClock) -> None:
    def slow(real: Any, *args: Any, **kwargs: Any) -> Any:
        answer = real(*args, **kwargs)
        clock.move(4.5)
        return answer

    one.store.on["commit"] = slow
    one.elector.step()
    assert one.events == []
    del one.store.on["commit"]
    assert one.elect().epoch == 2


def test_a_leader_key_without_a_lease_was_put_by_hand_and_is_removed(
    one: Candidate, memory: MemoryStore
) -> None:
    put(memory, KEYS.leader, b"me")
    assert one.elect().epoch == 1


def test_a_leader_key_with_a_lease_is_waited_for_whatever_it_says(
    one: Candidate, memory: MemoryStore
) -> None:
    memory.grant(7, 5, deadline=0)
    put(memory, KEYS.leader, b"\xff", lease=7)
    one.run(2.0)
    assert one.events == []
    memory.revoke(7, deadline=0)
    one.run(5.1)
    assert one.events == ["elected 1"]


@pytest.mark.parametrize("value", [b"not a leader", b"{}", b"[" * 200_000])
def test_a_leader_key_that_names_no_replica_is_not_waited_for_for_ever(
    one: Candidate, memory: MemoryStore, value: bytes
) -> None:
    """Whatever its lease is. Each new value has its time."""
    memory.grant(7, 10**6, deadline=0)
    put(memory, KEYS.leader, value, lease=7)
    one.run(10.0)
    put(memory, KEYS.leader, value + b" ", lease=7)
    one.run(10.0)
    assert one.events == []
    one.run(10.0)
    assert one.events == ["elected 1"]


BAD_EPOCHS = [
    b'{"epoch": "many"}',
    b'{"epoch": true}',
    b'{"epoch": -1}',
    b'{"epoch": 1' + b"0" * 400 + b"}",
    b"[" * 200_000,
    b"\xff",
]


@pytest.mark.parametrize("value", BAD_EPOCHS, ids=lambda value: repr(value[:16]))
def test_an_epoch_that_is_none_is_taken_from_the_records_of_terms(
    one: Candidate, memory: MemoryStore, value: bytes
) -> None:
    """One damaged key keeps nobody from leading, and terms go on rising."""
    for epoch in (1, 2):
        assert one.elect().epoch == epoch
        one.elector.release("stop", campaign_again=True)
        one.clock.move(one.elector.step())
    put(memory, KEYS.epoch, value)
    put(memory, KEYS.term(10**12), b"{}")
    assert one.elect().epoch == 3
    stored, _ = memory.get(KEYS.epoch, deadline=0)
    assert stored is not None
    assert codec.decode_mapping(stored.value)["epoch"] == 3


@pytest.mark.parametrize("value", [None, b'{"epoch": 0}', b'{"epoch": 1}', b'{"epoch": 2}'])
def test_an_epoch_that_was_set_back_is_not_given_again(
    one: Candidate, memory: MemoryStore, value: bytes | None
) -> None:
    """By hand, or its key was deleted: the records of terms show which epochs there were."""
    for epoch in (1, 2, 3):
        assert one.elect().epoch == epoch
        one.elector.release(f"stop {epoch}", campaign_again=True)
        one.clock.move(one.elector.step())
    if value is None:
        delete(memory, KEYS.epoch)
    else:
        put(memory, KEYS.epoch, value)
    assert one.elect().epoch == 4
    assert record(memory, 2)["why"] == "stop 2"


def test_a_record_of_a_term_that_is_too_large_to_be_closed_is_left_alone(
    one: Candidate, memory: MemoryStore
) -> None:
    """It is not written again with the next election, which would be larger than etcd takes."""
    one.elect()
    put(memory, KEYS.term(1), json.dumps({"epoch": 1, "x": "x" * 1_040_000}).encode())
    one.elector.release("stop", campaign_again=True)
    one.clock.move(one.elector.step())
    assert one.elect().epoch == 2


@pytest.mark.parametrize("value", BAD_EPOCHS, ids=lambda value: repr(value[:16]))
def test_an_epoch_that_is_none_is_named(one: Candidate, memory: MemoryStore, value: bytes) -> None:
    """Guessing one could let a term come back: nobody leads where there is no record of a term either."""
    put(memory, KEYS.epoch, value)
    with pytest.raises(CorruptValue, match=f"{KEYS.epoch}: does not hold an epoch; restore it"):
        one.elector.step()
    assert memory.get(KEYS.leader, deadline=0)[0] is None


def test_terms_are_recorded_and_the_last_hundred_kept(one: Candidate, memory: MemoryStore) -> None:
    for epoch in range(1, TERMS_KEPT + 6):
        assert one.elect().epoch == epoch
        one.elector.release(f"release {epoch}", campaign_again=True)
        one.clock.move(one.elector.step())
    names = [item.key for item in memory.load(KEYS.term(0)[:-12], deadline=0).items]
    assert names == [KEYS.term(epoch) for epoch in range(6, TERMS_KEPT + 6)]
    for epoch in (6, TERMS_KEPT + 5):
        closed = record(memory, epoch)
        assert (closed["id"], closed["why"]) == ("a", f"release {epoch}")
        assert closed["from"] <= closed["to"]


def test_a_term_whose_record_was_damaged_is_no_obstacle(
    one: Candidate, other: Candidate, memory: MemoryStore
) -> None:
    one.elect()
    put(memory, KEYS.term(1), b"damaged")
    one.elector.release("stop", campaign_again=False)
    one.elector.step()
    assert other.elect().epoch == 2


def test_the_fence_holds_where_the_clock_does_not(memory: MemoryStore) -> None:
    """A leader whose clock stands still goes on believing; the store refuses what it writes."""
    slow, right = HandClock(), HandClock()
    server = MemoryStore(right)
    stale = Candidate(server.client(), slow)
    leadership = stale.elect()
    right.move(6.0)
    server.expire_leases()
    successor = Candidate(server, right, "b")
    successor.elect()
    assert stale.leads, "the test's premise"
    guards = (Guard(KEYS.leader, leadership.revision, on_create=True), Guard(KEYS.state("t"), 0))
    result = server.commit(
        Transaction(guards, (Put(KEYS.state("t"), b"{}"), Delete(KEYS.task("t"))), Op("op")), deadline=0
    )
    assert type(result).__name__ == "Refused"
