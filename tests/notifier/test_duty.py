"""Duty on a real etcd: one at a time, and who was replaced records nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from controller.clock import SystemClock
from controller.core.model.notices import EndNotice, encode_notice
from controller.core.model.notify_rules import Ending
from controller.core.model.op import Op
from controller.endpoint.reloaded import Reloaded
from controller.notifier.courier import Courier
from controller.notifier.delivery import Postman
from controller.notifier.duty import MARGIN_SECONDS, TTL_SECONDS, Duty, DutyLost
from controller.notifier.notifier import Notifier
from controller.notifier.outbox import Outbox
from controller.notifier.secrets import SigningSecrets
from controller.store.base import Committed, Delete, Put, Refused, StoreUnavailable, Transaction
from controller.store.etcd.store import EtcdStore
from controller.store.keys import Keys
from controller.store.memory import MemoryStore
from tests.support.bench import HandClock
from tests.support.etcd import EtcdFactory
from tests.support.etcd import in_seconds as soon
from tests.support.receiving import LOOPBACK, ReceivingServer, answer
from tests.support.waiting import wait_until

CLOCK = SystemClock()
KEYS = Keys("duties")
NEVER = threading.Event()


class CutOffStore(MemoryStore):
    """Takes `late` seconds for each renewal; once it is `silent`, each call lasts until its deadline."""

    def __init__(self, clock: HandClock) -> None:
        super().__init__(clock)
        self.hand, self.late, self.is_silent = clock, 0.0, False
        self.asked: list[float] = []

    def keep_alive(self, lease: int, *, deadline: float) -> int:
        self.asked.append(self.hand.boottime())
        if self.is_silent:
            self.hand.seconds = max(self.hand.seconds, deadline)
            raise StoreUnavailable("silence")
        ttl = super().keep_alive(lease, deadline=deadline)
        self.hand.move(self.late)
        self.is_silent = True
        return ttl


class HandEvent(threading.Event):
    """Waiting moves the clock; set when it has been waited for a hundred times."""

    def __init__(self, clock: HandClock) -> None:
        super().__init__()
        self.hand, self.waits = clock, 0

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.hand.move(timeout)
        self.waits += 1
        if self.waits > 100:
            self.set()
        return self.is_set()


class SetClock(SystemClock):
    """A wall clock that was set forward since the process began."""

    def wall(self) -> float:
        return super().wall() + 600.0

    def anchor(self) -> None:
        self._offset = super().wall() - self.boottime()


@pytest.fixture
def store(etcd_factory: EtcdFactory) -> EtcdStore:
    return etcd_factory.store(etcd_factory.start().url)


def test_who_was_replaced_records_nothing(store: EtcdStore) -> None:
    """The notice is told, and another notifier has taken over meanwhile: its word would not count.

    Receivers refuse signatures of another time: they are dated by the wall clock.
    """
    hold, ended = threading.Event(), threading.Event()

    def act(sock: object, _: object) -> None:
        hold.wait(30)
        sock.sendall(answer(200))  # type: ignore[attr-defined]  # a socket

    secrets = Reloaded((), lambda: SigningSecrets({}, (b"k" * 32,)), lambda before: before)
    with ReceivingServer(act) as receiver:
        notifier = Notifier(
            store, KEYS, SetClock(), "n1", Postman(CLOCK, allowed=LOOPBACK, allow_http=True), secrets, 60.0
        )
        thread = threading.Thread(target=notifier.run, args=(ended,), daemon=True)
        thread.start()
        told = EndNotice(
            task="job", urls=(receiver.url(),), ending=Ending.FAILED, at=CLOCK.now(), pool="p", owner="o"
        )
        key, done = KEYS.notice("job", f"{7:020d}"), KEYS.delivery("job", f"{7:020d}")
        put = Put(key, encode_notice(told, Op("x")))
        store.commit(Transaction((), (put,), Op("x")), deadline=soon())
        wait_until(lambda: receiver.requests, "the request")
        assert int(receiver.requests[0].headers["webhook-timestamp"]) > CLOCK.now() + 500
        taken = (Delete(KEYS.notifier), Put(KEYS.notifier, b'{"id":"n2"}'))
        for write in taken:  # a lease that expired, and a successor
            store.commit(Transaction((), (write,), Op("x")), deadline=soon())
        hold.set()
        wait_until(lambda: (counts := notifier.counts()) is not None and counts.delivered == 1, "its answer")
        ended.set()
        thread.join(30)
        assert store.get(done, deadline=soon())[0] is None
        assert store.get(key, deadline=soon())[0] is not None, "the successor tells it again"


@pytest.mark.parametrize("late", [0.0, 2.5])
def test_who_is_cut_off_is_off_duty_before_the_next_can_be_on(late: float) -> None:
    """The lease lives from when the last renewal was sent, however long its answer took."""
    clock = HandClock()
    cut_off, ended = CutOffStore(clock), HandEvent(clock)
    duty = Duty(cut_off, KEYS, clock, "n1")
    assert duty.take_up(ended)
    cut_off.late = late
    duty.keep(ended)
    assert duty.term == 0
    assert clock.boottime() <= cut_off.asked[0] + TTL_SECONDS - MARGIN_SECONDS
    assert len(cut_off.asked) > 1, "it was asked again"


def test_a_turn_that_is_over_lets_nothing_begin_and_is_not_prolonged() -> None:
    """A process that was suspended finds its duty lost, whoever is asked first."""
    clock = HandClock()
    cut_off = CutOffStore(clock)
    duty = Duty(cut_off, KEYS, clock, "n1")
    assert duty.take_up(NEVER)
    assert duty.is_held()
    clock.move(TTL_SECONDS)
    assert not duty.is_held()
    with pytest.raises(DutyLost):
        duty.guard()
    duty.keep(HandEvent(clock))
    assert duty.term == 0
    assert not cut_off.asked


def test_a_turn_that_was_granted_too_late_is_not_taken() -> None:
    class LateStore(MemoryStore):
        def commit(self, transaction: Transaction, *, deadline: float) -> Committed | Refused:
            answer = super().commit(transaction, deadline=deadline)
            clock.move(TTL_SECONDS - MARGIN_SECONDS)
            return answer

    clock = HandClock()
    ended = HandEvent(clock)
    ended.waits = 99
    store = LateStore(clock)
    assert not Duty(store, KEYS, clock, "n1").take_up(ended)
    assert store.get(KEYS.notifier, deadline=clock.boottime() + 5)[0] is None, "the next may begin"


def test_nothing_begins_while_a_turn_is_closed(store: EtcdStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing the outbox may take seconds, when etcd does not answer."""
    ended, closed = threading.Event(), list[str]()
    for part in (Outbox, Courier):
        monkeypatch.setattr(part, "close", _noted(part, closed))
    secrets = Reloaded((), lambda: SigningSecrets({}, (b"k" * 32,)), lambda before: before)
    notifier = Notifier(store, KEYS, CLOCK, "n1", Postman(CLOCK), secrets, 60.0)
    thread = threading.Thread(target=notifier.run, args=(ended,), daemon=True)
    thread.start()
    wait_until(lambda: notifier.counts() is not None, "its turn")
    ended.set()
    thread.join(30)
    assert closed == ["Courier", "Outbox"]


def _noted(part: type[Outbox | Courier], closed: list[str]) -> Callable[[Any], None]:
    close = part.close

    def noted(self: Any) -> None:
        closed.append(part.__name__)
        close(self)

    return noted


def test_turns(store: EtcdStore) -> None:
    first, second = (Duty(store, KEYS, CLOCK, name) for name in ("n1", "n2"))
    assert first.take_up(NEVER)
    with pytest.raises(DutyLost):
        second.guard()
    ended = threading.Event()
    waiting = threading.Thread(target=second.take_up, args=(ended,), daemon=True)
    waiting.start()
    assert not second.term
    first.give_up()
    wait_until(lambda: second.term, "its turn")
    waiting.join(10)
    assert second.guard().revision > 0
    second.give_up()


def test_who_waits_goes_on_after_a_restore(etcd_factory: EtcdFactory, store: EtcdStore) -> None:
    """Nothing else that it does off duty would begin anew: one alone would never be on duty again."""
    first = Duty(store, KEYS, CLOCK, "n1")
    assert first.take_up(NEVER)
    other = etcd_factory.store(store.gateway.options.endpoints[0])
    other.get(KEYS.notifier, deadline=soon())
    other.renounce("it was restored")
    second, ended = Duty(other, KEYS, CLOCK, "n2"), threading.Event()
    waiting = threading.Thread(target=second.take_up, args=(ended,), daemon=True)
    waiting.start()
    first.give_up()
    wait_until(lambda: second.term, "its turn")
    waiting.join(10)
    second.give_up()


def test_who_has_lost_the_key_is_not_on_duty(store: EtcdStore) -> None:
    """It was deleted by hand, and the lease lives: another may have it by now, and tell each end as well."""
    duty = Duty(store, KEYS, CLOCK, "n1")
    assert duty.take_up(NEVER)
    for write in (Delete(KEYS.notifier), Put(KEYS.notifier, b'{"id":"n2"}')):
        store.commit(Transaction((), (write,), Op("x")), deadline=soon())
    duty.keep(NEVER)
    assert duty.term == 0
    with pytest.raises(DutyLost):
        duty.guard()
