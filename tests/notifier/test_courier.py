"""The courier with real threads, and with real receivers."""

from __future__ import annotations

import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller import bulkhead
from controller.clock import SystemClock
from controller.errors import InvalidField
from controller.notifier.courier import Courier
from controller.notifier.delivery import Delivered, Postman, PostTimes, Undelivered
from controller.notifier.parcel import Parcel
from controller.notifier.signing import signed_headers, verify
from tests.support.receiving import LOOPBACK, Received, ReceivingServer, answer
from tests.support.waiting import wait_until

CLOCK = SystemClock()
KEY = b"k" * 32
OK = Delivered(200)
DOWN = Undelivered("down")
SOON = (0.001, 0.004)


def parcel(
    task: str = "t", sequence: int = 1, target: str = "https://a.example/", begun: float | None = None
) -> Parcel:
    begun = CLOCK.now() if begun is None else begun
    return Parcel(task, sequence, target, b"{}", f"{task}-{sequence}", begun)


class Ear:
    """What a courier has told, and by which threads."""

    def __init__(self) -> None:
        self.heard: list[tuple[Parcel, Delivered | Undelivered]] = []
        self.threads: set[str] = set()

    def __call__(self, heard: Parcel, outcome: Delivered | Undelivered) -> None:
        self.threads.add(threading.current_thread().name)
        self.heard.append((heard, outcome))

    def wait_for(self, number: int) -> None:
        wait_until(lambda: len(self.heard) >= number, f"{number} parcels that are over")


@contextmanager
def courier(
    deliver: Callable[[Parcel], Delivered | Undelivered], ear: Ear, **options: Any
) -> Iterator[Courier]:
    made = Courier(deliver, CLOCK, ear, **{"backoff_seconds": SOON} | options)
    try:
        yield made
    finally:
        made.close()


def by_post(times: PostTimes) -> Callable[[Parcel], Delivered | Undelivered]:
    """Real requests, signed as they are made."""
    postman = Postman(CLOCK, allowed=LOOPBACK, allow_http=True, times=times)

    def deliver(each: Parcel) -> Delivered | Undelivered:
        return postman.post(
            each.target, each.body, signed_headers([KEY], each.event_id, CLOCK.now(), each.body)
        )

    return deliver


def test_a_receiver_that_hangs_holds_up_nobody_else() -> None:
    """Its workers wait until the end, and meanwhile another gets everything, in order and signed."""

    def hang(*_: object) -> None:
        dead.hold.wait()

    ear = Ear()
    patient = PostTimes(60.0, 60.0, 60.0)
    with (
        ReceivingServer(hang, host="127.0.0.2") as dead,
        ReceivingServer(answer(200)) as alive,
        courier(by_post(patient), ear, workers=3) as made,
    ):
        for number in range(200):
            made.take(parcel(f"t{number}", 1, dead.url(host="127.0.0.2")))
        wait_until(lambda: dead.connections == 2, "two parcels for the one that hangs")
        for number in range(200):
            made.take(parcel(f"t{number % 20}", number, alive.url()))
        ear.wait_for(200)
        assert dead.connections == 2
        assert made.counts().waiting == 200
        dead.hold.set()
    assert {each.target for each, _ in ear.heard[:200]} == {alive.url()}
    assert all(outcome == OK for _, outcome in ear.heard[:200])
    assert len(alive.requests) == 200
    arrived: dict[str, list[int]] = defaultdict(list)
    for request in alive.requests:
        verify([KEY], request.headers, request.body, CLOCK.now())
        task, _, sequence = request.headers["webhook-id"].partition("-")
        arrived[task].append(int(sequence))
    assert all(numbers == sorted(numbers) for numbers in arrived.values())


def test_a_receiver_that_comes_back_gets_everything() -> None:
    fails = threading.Event()
    fails.set()

    def act(sock: socket.socket, _: Received) -> None:
        sock.sendall(answer(500 if fails.is_set() else 204))

    ear = Ear()
    with ReceivingServer(act) as server, courier(by_post(PostTimes()), ear) as made:
        for number in range(30):
            made.take(parcel(f"t{number}", 1, server.url()))
        wait_until(lambda: made.counts().retries >= 3, "tries again")
        assert ear.heard == []
        fails.clear()
        ear.wait_for(30)
        counts = made.counts()
        assert (counts.delivered, counts.dead, counts.waiting) == (30, 0, 0)
        assert counts.by_host["127.0.0.1", "delivered"] == 30
        assert counts.by_host["127.0.0.1", "failed"] == counts.failed
    assert len(ear.threads) == 1


@settings(max_examples=50)
@given(
    st.dictionaries(
        st.tuples(st.sampled_from("tu"), st.integers(1, 4), st.sampled_from("ab")),
        st.lists(st.sampled_from(["down", "odd", "busy"]), max_size=3),
        max_size=12,
    ),
    st.integers(1, 4),
)
def test_each_parcel_is_told_of_once_and_in_order(scripts: dict[Any, list[str]], workers: int) -> None:
    """Whatever each receiver answers before it takes a parcel, or wants no more."""
    words = {
        "down": DOWN,
        "odd": Undelivered("odd", status=404),
        "busy": Undelivered("busy", 0.002, status=429),
    }
    parcels = {key: parcel(key[0], key[1], f"https://{key[2]}.example/") for key in scripts}
    left = {parcels[key].key: [words[each] for each in script] for key, script in scripts.items()}
    tries: list[Parcel] = []

    def deliver(each: Parcel) -> Delivered | Undelivered:
        tries.append(each)
        return left[each.key].pop(0) if left[each.key] else OK

    ear = Ear()
    with courier(deliver, ear, workers=workers) as made:
        for each in sorted(parcels.values(), key=lambda each: each.sequence):
            assert made.take(each)
        ear.wait_for(len(parcels))
    assert sorted(each.key for each, _ in ear.heard) == sorted(each.key for each in parcels.values())
    assert len(tries) == len(parcels) + sum(map(len, scripts.values()))
    order: dict[Any, list[int]] = defaultdict(list)
    for each in tries:
        order[each.task_id, each.target].append(each.sequence)
    assert all(sequences == sorted(sequences) for sequences in order.values())


def test_what_becomes_possible_at_once_is_done_at_once() -> None:
    """A host that answers again may have two under way: who takes the one wakes another for the other."""
    hold, both = threading.Event(), threading.Barrier(2)

    def deliver(each: Parcel) -> Delivered | Undelivered:
        if each.task_id == "down":
            return DOWN
        if each.task_id == "probe":
            hold.wait()
        else:
            both.wait(60)
        return OK

    ear = Ear()
    with courier(deliver, ear, workers=2, backoff_seconds=(3600.0, 3600.0)) as made:
        made.take(parcel("down"))
        wait_until(lambda: made.counts().failed == 1, "a failing host")
        for task in ("probe", "t", "u"):
            made.take(parcel(task, target="https://a.example/other"))
        wait_until(lambda: made._rounds._hosts["a.example"].parked, "the other worker's look")
        made.counts()  # which waits for the lock: that worker sleeps
        hold.set()
        ear.wait_for(3)
    assert all(outcome == OK for _, outcome in ear.heard)


def test_what_waits_behind_a_forgotten_parcel_goes() -> None:
    ear = Ear()
    odd = Undelivered("odd", status=404)
    with courier(
        lambda each: odd if each.sequence == 1 else OK, ear, workers=1, backoff_seconds=(3600.0, 3600.0)
    ) as made:
        made.take(parcel(sequence=1))
        made.take(parcel(sequence=2))
        wait_until(lambda: made.counts().failed == 1, "a failure")
        assert made.forget(parcel(sequence=1).key)
        ear.wait_for(1)
    assert [each.sequence for each, _ in ear.heard] == [2]


def test_an_unexpected_error_is_counted_and_tried_again() -> None:
    errors = [ZeroDivisionError(), None]

    def deliver(_: Parcel) -> Delivered:
        if (error := errors.pop(0)) is not None:
            raise error
        return OK

    before = bulkhead.counts["delivery", "ZeroDivisionError"]
    ear = Ear()
    with courier(deliver, ear) as made:
        made.take(parcel())
        ear.wait_for(1)
    assert ear.heard[0][1] == OK
    assert bulkhead.counts["delivery", "ZeroDivisionError"] == before + 1


def test_an_error_of_the_one_who_hears_stops_nothing() -> None:
    heard: list[str] = []

    def hear(each: Parcel, _: Delivered | Undelivered) -> None:
        heard.append(each.task_id)
        if each.task_id == "t":
            raise ZeroDivisionError

    before = bulkhead.counts["delivery heard", "ZeroDivisionError"]
    made = Courier(lambda _: OK, CLOCK, hear, workers=1)
    made.take(parcel("t"))
    made.take(parcel("u"))
    wait_until(lambda: len(heard) == 2, "both")
    made.close()
    assert heard == ["t", "u"]
    assert bulkhead.counts["delivery heard", "ZeroDivisionError"] == before + 1


def test_what_is_final_is_told_as_dead() -> None:
    ear = Ear()
    with courier(lambda each: Undelivered("gone", is_final=each.task_id == "t"), ear) as made:
        made.take(parcel("t"))
        made.take(parcel("u", target="https://b.example/", begun=CLOCK.now() - 86401))
        ear.wait_for(2)
        assert made.counts().dead == 2
    assert {outcome for _, outcome in ear.heard} == {Undelivered("gone", is_final=True)}


def test_counts_of_what_waits() -> None:
    hold = threading.Event()

    def deliver(_: Parcel) -> Delivered:
        hold.wait()
        return OK

    ear = Ear()
    with courier(deliver, ear, workers=1) as made:
        assert made.counts().oldest_waiting_seconds == 0.0
        made.take(parcel("t", begun=CLOCK.now() - 500))
        made.take(parcel("u", begun=CLOCK.now() - 1000))
        counts = made.counts()
        assert counts.waiting == 2
        assert 1000.0 <= counts.oldest_waiting_seconds < 1100.0
        assert made.forget(parcel("u").key)
        assert made.counts().oldest_waiting_seconds < 600.0
        hold.set()
        ear.wait_for(1)
        assert made.counts().waiting == 0
    assert [each.task_id for each, _ in ear.heard] == ["t"]


def test_closing_tells_what_is_over_and_nothing_later() -> None:
    begun, hold, ended = threading.Event(), threading.Event(), threading.Event()

    def deliver(each: Parcel) -> Delivered:
        if each.task_id == "slow":
            begun.set()
            hold.wait()
            ended.set()
        return OK

    ear = Ear()
    made = Courier(deliver, CLOCK, ear, workers=2)
    made.take(parcel("slow"))
    assert begun.wait(30)
    for number in range(20):
        made.take(parcel(f"t{number}", target="https://b.example/"))
    ear.wait_for(20)
    made.close(within_seconds=0.05)  # returns, though one is under way
    made.close(within_seconds=0.05)
    assert not made.take(parcel("late"))
    hold.set()
    assert ended.wait(30)
    wait_until(lambda: not any(thread.is_alive() for thread in made._workers), "the end of the workers")
    assert len(ear.heard) == 20
    assert not made._teller.is_alive()


@pytest.mark.parametrize(("off_days", "age_days", "gives_up"), [(2, 0.1, False), (-3650, 3, True)])
def test_an_age_is_told_by_the_clock_as_it_is(off_days: float, age_days: float, gives_up: bool) -> None:
    """A machine's clock may be wrong when a notifier starts, and be set right afterwards."""

    class StartedWrong(SystemClock):
        def anchor(self) -> None:
            self._offset = self.wall() + off_days * 86400 - self.boottime()

    ear = Ear()
    made = Courier(lambda _: DOWN, StartedWrong(), ear, backoff_seconds=SOON, give_up_after_seconds=86400.0)
    made.take(parcel(begun=CLOCK.wall() - age_days * 86400))
    wait_until(lambda: ear.heard or made.counts().failed > 2, "it is given up, or tried again")
    assert bool(ear.heard) is gives_up
    if not gives_up:
        assert age_days * 86400 <= made.counts().oldest_waiting_seconds < age_days * 86400 + 600
    made.close()


def test_an_idle_courier_does_not_turn() -> None:
    """Its threads sleep until something is due."""

    class CountingClock(SystemClock):
        reads = 0

        def boottime(self) -> float:
            self.reads += 1
            return super().boottime()

    clock, ear = CountingClock(), Ear()
    made = Courier(lambda _: DOWN, clock, ear, workers=4, backoff_seconds=(3600.0, 3600.0))
    made.take(parcel())
    wait_until(lambda: made.counts().failed == 1, "a failure")
    reads = clock.reads
    threading.Event().wait(0.3)
    assert clock.reads - reads <= 4 * 2
    made.close()


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("workers", {"workers": 0}),
        ("per_host", {"per_host": 0}),
        ("backoff_seconds", {"backoff_seconds": (0.0, 1.0)}),
        ("backoff_seconds", {"backoff_seconds": (2.0, 1.0)}),
    ],
)
def test_what_cannot_work_is_named(field: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidField, match=f"^{field}: "):
        Courier(lambda _: OK, CLOCK, Ear(), **options)
