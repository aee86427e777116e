"""Which parcel goes next: by a clock that the test moves."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.notifier.delivery import Delivered, Undelivered
from controller.notifier.parcel import Parcel, ParcelKey
from controller.notifier.rounds import MAX_COUNTED_HOSTS, OTHER_HOSTS, Outcome, Rounds

EPOCH = 1_700_000_000.0  # of the wall clock, when the other clock is 0
A, B, C = "https://a.example/1", "https://b.example/1", "https://a.example/2"
OK = Delivered(200)
DOWN = Undelivered("down")
BUSY = Undelivered("busy", 100.0, status=503)
ODD = Undelivered("odd", status=404)
GONE = Undelivered("gone", None, True, 410)


def parcel(task: str = "t", sequence: int = 1, target: str = A, begun: float = 0.0) -> Parcel:
    return Parcel(task, sequence, target, b"{}", f"{task}-{sequence}", EPOCH + begun)


class Desk:
    """Rounds, and the time. Pauses are whole, unless the test says otherwise."""

    def __init__(
        self, per_host: int = 2, give_up: float = 1000.0, spread: float = 1.0, workers: int = 100
    ) -> None:
        self.now = 0.0
        self.rounds = Rounds(workers, per_host, (5.0, 80.0), give_up, lambda: spread)
        self.over: list[Outcome] = []

    def take(self, *parcels: Parcel) -> None:
        for each in parcels:
            assert self.rounds.take(each, self.now)

    def ready(self) -> list[Parcel]:
        """All that can go now."""
        return list(iter(lambda: self.rounds.next(self.now), None))

    def end(self, ended: Parcel, outcome: Delivered | Undelivered) -> list[Outcome]:
        over = self.rounds.ended(ended, outcome, self.now, EPOCH + self.now)
        self.over += over
        return over

    def wait(self) -> float:
        """Until the next is due. Returns for how long, in seconds."""
        due = self.rounds.due()
        assert due is not None
        waited, self.now = due - self.now, max(due, self.now)
        return waited

    def forget(self, key: ParcelKey) -> bool:
        return self.rounds.forget(key, self.now)


def test_the_parcels_of_one_task_go_one_after_the_other() -> None:
    desk = Desk()
    first, second, third = (parcel(sequence=number) for number in (1, 2, 3))
    desk.take(third, first, second)
    assert desk.ready() == [first]
    desk.end(first, OK)
    assert desk.ready() == [second]
    desk.end(second, ODD)
    assert desk.ready() == []
    assert desk.wait() == 5.0
    assert desk.ready() == [second]
    desk.end(second, GONE)
    assert desk.ready() == [third]


def test_tasks_and_receivers_do_not_wait_for_each_other() -> None:
    desk = Desk()
    desk.take(parcel("t", 1), parcel("t", 2), parcel("t", 1, B), parcel("u", 1))
    assert set(desk.ready()) == {parcel("t", 1), parcel("t", 1, B), parcel("u", 1)}


def test_a_host_has_so_many_under_way() -> None:
    desk = Desk(per_host=2)
    desk.take(*(parcel(f"t{number}", target=target) for number in range(5) for target in (A, C)))
    desk.take(parcel("t", target=B))
    ready = desk.ready()
    assert sorted(each.target for each in ready) == [A, C, B]
    desk.end(ready[0], OK)
    assert len(desk.ready()) == 1


def hanging(number: int) -> list[Parcel]:
    return [parcel("h", target=f"https://hangs-{each}.example/") for each in range(number)]


def test_hosts_that_hang_leave_a_quarter_to_those_that_answer() -> None:
    """However many they are, and before any of them has failed."""
    desk = Desk(per_host=10, workers=8)
    desk.take(parcel("t"), parcel("t", target=B))
    for each in desk.ready():
        desk.end(each, OK)
    desk.take(*hanging(100))
    stuck = desk.ready()
    assert len(stuck) == 6
    desk.take(parcel("u"), parcel("v"), parcel("u", target=B))
    assert [each.target for each in desk.ready()] == [A, B]
    desk.end(stuck[0], ODD)
    assert len(desk.ready()) == 1


def test_hosts_that_take_their_time_leave_a_quarter_too() -> None:
    """They answer, and late: they are not taken for those that answer soon."""
    desk = Desk(per_host=10, workers=8)
    desk.take(parcel("t"), parcel("t", target=B))
    for each in desk.ready():
        desk.end(each, OK)
    slow = [f"https://slow-{number}.example/" for number in range(6)]
    desk.take(*(parcel("t", target=target) for target in slow))
    under_way = desk.ready()
    desk.now += 1.0
    for each in under_way:
        desk.end(each, OK)
    desk.take(*(parcel(f"u{number}", target=target) for target in slow for number in range(10)))
    assert len(desk.ready()) == 6
    desk.take(parcel("u"), parcel("v"), parcel("u", target=B))
    assert [each.target for each in desk.ready()] == [A, B]


def hosts_that_answered(desk: Desk, number: int) -> list[str]:
    targets = [f"https://answered-{each}.example/" for each in range(number)]
    desk.take(*(parcel("t", target=target) for target in (A, *targets)))
    while ready := desk.ready():
        for each in ready:
            desk.end(each, OK)
    return targets


def test_hosts_that_answered_soon_and_begin_to_hang_leave_room() -> None:
    """All at once: each has a second parcel under way only while the quarter is free."""
    desk = Desk(workers=32)
    targets = hosts_that_answered(desk, 16)
    desk.take(*(parcel(f"u{number}", target=target) for target in targets for number in range(2)))
    assert len(desk.ready()) == 24
    desk.take(parcel("late"))
    assert [each.target for each in desk.ready()] == [A]


def test_a_host_that_does_not_answer_soon_counts_among_the_others_meanwhile() -> None:
    """Wave after wave: once the first have hung for a moment, no others than those that answer go."""
    desk = Desk(per_host=1, workers=8)
    first = hosts_that_answered(desk, 6)
    desk.take(*(parcel("u", target=target) for target in first))
    stuck = desk.ready()
    assert len(stuck) == 6
    desk.now += 1.0
    desk.take(*hanging(9))
    assert desk.ready() == []
    desk.take(parcel("late"))
    assert [each.target for each in desk.ready()] == [A]
    for each in stuck:
        desk.end(each, OK)
    assert len(desk.ready()) == 6


def test_hosts_that_fail_share_a_quarter() -> None:
    """The rest is for hosts of which nothing is known: they may be the ones that work."""
    desk = Desk(workers=8, give_up=1e9)
    desk.take(*hanging(6))
    for each in desk.ready():
        desk.end(each, DOWN)
    desk.now = 100.0
    desk.take(*(parcel("t", target=f"https://new-{each}.example/") for each in range(9)))
    ready = desk.ready()
    assert sum("hangs" in each.target for each in ready) == 2
    assert sum("new" in each.target for each in ready) == 4
    for each in ready:
        desk.end(each, OK)
    assert sum("hangs" in each.target for each in desk.ready()) == 2


def test_the_receivers_of_a_host_take_turns() -> None:
    desk = Desk(per_host=1)
    desk.take(*(parcel(f"t{number}") for number in range(10)))
    desk.now = 1.0
    desk.take(*(parcel(f"t{number}", target=C) for number in range(2)))
    gone = []
    for _ in range(4):
        (each,) = desk.ready()
        gone.append(each.target)
        desk.end(each, OK)
    assert gone.count(C) == 2


@pytest.mark.parametrize("outcome", [DOWN, BUSY._replace(retry_after_seconds=None), ODD])
def test_the_pause_doubles_up_to_its_bound(outcome: Undelivered) -> None:
    desk = Desk(give_up=1e9)
    desk.take(parcel())
    pauses = []
    for _ in range(8):
        (each,) = desk.ready()
        desk.end(each, outcome)
        pauses.append(desk.wait())
    assert pauses == [5.0, 10.0, 20.0, 40.0, 80.0, 80.0, 80.0, 80.0]
    assert desk.rounds.retries == 7
    assert desk.rounds.failed == 8


def test_the_pause_is_spread() -> None:
    desk = Desk(spread=0.0)
    desk.take(parcel())
    desk.end(desk.ready()[0], DOWN)
    assert desk.wait() == 2.5


def test_the_pause_that_a_receiver_asks_for_is_for_all_its_parcels() -> None:
    desk = Desk()
    desk.take(parcel("t"))
    desk.end(desk.ready()[0], BUSY)
    desk.take(parcel("u"))
    assert desk.ready() == []
    assert desk.wait() == 100.0
    assert len(desk.ready()) == 1


def test_a_failing_receiver_gets_one_parcel_at_a_time() -> None:
    desk = Desk()
    desk.take(*(parcel(f"t{number}") for number in range(6)))
    for each in desk.ready():
        desk.end(each, DOWN)
    assert desk.wait() == 5.0  # two failures at once are one
    for pause in (10.0, 20.0):
        (each,) = desk.ready()
        desk.end(each, DOWN)
        assert desk.wait() == pause
    (each,) = desk.ready()
    desk.end(each, OK)
    assert len(desk.ready()) == 2


def test_a_failing_host_gets_one_parcel_at_a_time() -> None:
    """Whichever of its receivers it is for; but another host goes on."""
    desk = Desk(per_host=3)
    desk.take(parcel("t"), parcel("u"))
    for each in desk.ready():
        desk.end(each, DOWN)
    desk.take(parcel("t", target=C), parcel("u", target=C), parcel("t", target=B), parcel("u", target=B))
    assert sorted(each.target for each in desk.ready()) == [C, B, B]
    desk.end(parcel("t", target=C), OK)
    assert [each.target for each in desk.ready()] == [C]


def test_a_failing_receiver_gets_one_parcel_at_a_time_though_its_host_answers() -> None:
    desk = Desk(per_host=3)
    desk.take(parcel("t"), parcel("u"), parcel("v"))
    for each in desk.ready():
        desk.end(each, DOWN)
    desk.take(parcel("t", target=C))
    desk.end(desk.ready()[0], OK)
    desk.now = 50.0
    assert [each.target for each in desk.ready()] == [A]


def test_what_concerns_one_parcel_delays_no_other() -> None:
    desk = Desk()
    desk.take(*(parcel(f"t{number}") for number in range(3)))
    first, second = desk.ready()
    desk.end(first, ODD)
    assert len(desk.ready()) == 1
    desk.end(second, OK)


def test_a_parcel_is_dead_when_a_try_fails_after_its_time() -> None:
    desk = Desk(give_up=12.0)
    desk.take(parcel(begun=-1.0))
    desk.end(desk.ready()[0], DOWN)
    assert desk.wait() == 5.0
    desk.end(desk.ready()[0], DOWN)
    assert desk.wait() == 10.0  # the receiver's pause; its own would end with its time
    assert desk.end(desk.ready()[0], DOWN) == [(parcel(begun=-1.0), DOWN._replace(is_final=True))]
    assert desk.rounds.due() is None
    assert desk.rounds.dead == 1


def test_a_parcel_that_its_receiver_refuses_is_tried_last_when_its_time_ends() -> None:
    desk = Desk(give_up=12.0)
    desk.take(parcel())
    desk.end(desk.ready()[0], ODD)
    assert desk.wait() == 5.0
    desk.end(desk.ready()[0], ODD)
    assert desk.wait() == 7.0
    assert desk.end(desk.ready()[0], ODD) == [(parcel(), ODD._replace(is_final=True))]


def test_what_was_taken_late_is_tried_once() -> None:
    desk = Desk(give_up=12.0)
    desk.take(parcel(begun=-100.0))
    assert desk.end(desk.ready()[0], OK) == [(parcel(begun=-100.0), OK)]


def test_what_is_too_old_for_a_failing_receiver_is_dead_with_the_first() -> None:
    """There is no time to try each once more."""
    desk = Desk(give_up=12.0)
    old = [parcel(f"t{number}", sequence, begun=-100.0) for number in range(9) for sequence in (1, 2)]
    young = parcel("young")
    desk.take(*old, young)
    first, second = desk.ready()
    desk.end(first, DOWN)
    assert {each.key for each, _ in desk.over} == {each.key for each in old if each.task_id != second.task_id}
    desk.end(second, DOWN)
    assert {each.key for each, _ in desk.over} == {each.key for each in old}
    assert list(desk.rounds.waiting()) == [young]
    for task in range(9):
        assert [each.sequence for each, _ in desk.over if each.task_id == f"t{task}"] == [1, 2]


def test_a_parcel_is_taken_once_at_a_time() -> None:
    desk = Desk()
    desk.take(parcel())
    assert not desk.rounds.take(parcel(), 0.0)
    assert desk.ready() == [parcel()]
    assert not desk.rounds.take(parcel(), 0.0)
    desk.end(parcel(), OK)
    desk.take(parcel())


def test_what_waits_is_forgotten() -> None:
    desk = Desk()
    desk.take(parcel(sequence=1), parcel(sequence=2))
    assert desk.forget(parcel(sequence=1).key)
    assert not desk.forget(parcel(sequence=1).key)
    assert not desk.forget(parcel("x").key)
    assert not desk.forget(parcel(target=B).key)
    assert desk.ready() == [parcel(sequence=2)]
    desk.end(parcel(sequence=2), OK)
    assert [each for each, _ in desk.over] == [parcel(sequence=2)]


@pytest.mark.parametrize("outcome", [OK, DOWN, GONE])
def test_what_is_under_way_is_forgotten_when_it_ends(outcome: Delivered | Undelivered) -> None:
    """The next one waits until then; and the same one may be taken again."""
    desk = Desk()
    desk.take(parcel(sequence=1), parcel(sequence=2))
    assert desk.ready() == [parcel(sequence=1)]
    assert desk.forget(parcel(sequence=1).key)
    assert not desk.forget(parcel(sequence=1).key)
    assert desk.ready() == []
    desk.take(parcel(sequence=1))
    assert desk.end(parcel(sequence=1), outcome) == []
    if outcome is DOWN:
        desk.wait()
    assert desk.ready() == [parcel(sequence=1)]


def test_nothing_is_kept_of_what_is_over() -> None:
    desk = Desk()
    desk.take(*(parcel(f"t{number}", target=target) for number in range(3) for target in (A, B, C)))
    while desk.rounds.due() is not None:
        for each in desk.ready():
            desk.end(each, DOWN if each.task_id == "t1" and desk.now < 10 else OK)
        if desk.rounds.due() is not None:
            desk.wait()
    assert len(desk.over) == 9
    assert (desk.rounds._receivers, desk.rounds._hosts, list(desk.rounds._agenda)) == ({}, {}, [])
    assert (desk.rounds._crowd, desk.rounds._busy.total()) == ({}, 0)
    assert all(lane.under_way is None for _, lane in desk.rounds._fresh)


def test_counts_of_hosts_are_bounded() -> None:
    desk = Desk(workers=1000)
    for number in range(3 * MAX_COUNTED_HOSTS):
        desk.take(parcel(target=f"https://h{number}.example/"))
    desk.take(parcel(target="nonsense"))
    for each in desk.ready():
        desk.end(each, DOWN)
    assert len(desk.rounds.by_host) == MAX_COUNTED_HOSTS + 1
    assert desk.rounds.by_host[OTHER_HOSTS, "failed"] == 2 * MAX_COUNTED_HOSTS + 1
    assert desk.rounds.by_host["h0.example", "failed"] == 1


answers: list[Delivered | Undelivered] = [OK, OK, DOWN, BUSY, ODD, GONE]
outcomes = st.sampled_from(answers)


@given(st.data(), st.integers(1, 3), st.integers(1, 6))
def test_whatever_happens_each_parcel_is_told_of_once_and_in_order(
    data: st.DataObject, per_host: int, workers: int
) -> None:
    """Parcels are taken, forgotten and answered at any time and in any way."""
    desk = Desk(per_host, give_up=300.0, workers=workers)
    under_way: list[Parcel] = []
    taken: set[ParcelKey] = set()
    forgotten: set[ParcelKey] = set()
    sent: dict[tuple[str, str], list[int]] = defaultdict(list)
    coming = [
        parcel(task, sequence, target)
        for sequence in (1, 2, 3)
        for task in ("t", "u")
        for target in (A, B, C)
    ]
    for _ in range(data.draw(st.integers(0, 60))):
        act = data.draw(st.sampled_from(["take", "take", "send", "end", "end", "wait", "forget"]))
        if act == "take" and coming:
            desk.take(coming[0])
            taken.add(coming.pop(0).key)
        elif act == "send" and (each := desk.rounds.next(desk.now)) is not None:
            under_way.append(each)
            check_under_way(under_way, per_host)
        elif act == "end" and under_way:
            ended = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
            desk.end(ended, data.draw(outcomes))
        elif act == "wait" and desk.rounds.due() is not None:
            desk.wait()
        elif act == "forget" and taken:
            key = data.draw(st.sampled_from(sorted(taken)))
            if desk.forget(key):
                forgotten.add(key)
    while under_way or desk.rounds.due() is not None:  # in the end everything is answered
        for each in under_way:
            desk.end(each, data.draw(outcomes))
        under_way = desk.ready()
        check_under_way(under_way, per_host)
        if not under_way and desk.rounds.due() is not None:
            desk.wait()
    told = [each.key for each, _ in desk.over]
    assert sorted(told) == sorted(taken - forgotten)
    assert all(isinstance(outcome, Delivered) or outcome.is_final for _, outcome in desk.over)
    for each, _ in desk.over:
        sent[each.task_id, each.target].append(each.sequence)
    assert all(sequences == sorted(sequences) for sequences in sent.values())
    assert list(desk.rounds.waiting()) == []
    assert desk.rounds.delivered + desk.rounds.dead == len(told)


def check_under_way(under_way: list[Parcel], per_host: int) -> None:
    """One parcel of a task to a receiver, and so many of a host."""
    lanes = [(each.task_id, each.target) for each in under_way]
    assert len(lanes) == len(set(lanes))
    for host in ("//a.", "//b."):
        assert sum(host in each.target for each in under_way) <= per_host
