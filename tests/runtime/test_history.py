"""The judge is judged: each kind of damage, written around the leader, is found in etcd's history at its
revision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from controller.client import Client
from controller.core.model import codec
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.store.base import Delete, Guard, Put, Transaction, Write
from controller.store.keys import Keys
from controller.store.memory import MemoryStore
from tests.support.bench import HandClock
from tests.support.history import History, replay_store


class Forger:
    """Writes records as a leader would, or would not."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.store = MemoryStore(self.clock)
        self.keys = Keys("forged")
        self.epoch = 0
        self.term = 0
        self.elect()
        self.client = Client.of_store(self.store, cluster="forged", clock=self.clock)
        self.client.apply_pool({"name": "default", "capacity": {"cpu": 2}})
        self.client.submit({"id": "a", "command": ["x"], "resources": {"cpu": 1}})
        self.ops = 0

    def write(self, *writes: Write) -> int:
        """In one transaction, whatever was there."""
        key = writes[0].key
        current, _ = self.store.get(key, deadline=0)
        result = self.store.commit(
            Transaction((Guard(key, current.mod if current else 0),), writes, Op("forged")), deadline=0
        )
        return result.revision

    def elect(self) -> None:
        current, _ = self.store.get(self.keys.leader, deadline=0)
        if current is not None:
            self.write(Delete(self.keys.leader))
        self.epoch += 1
        leader = Put(self.keys.leader, codec.encode({"id": "r", "epoch": self.epoch}))
        self.term = self.write(leader, Put(self.keys.epoch, codec.encode({"epoch": self.epoch})))

    def status(self, **fields: Any) -> Put:
        """A status as the leader of this term would write it: a lawful admission, unless told otherwise."""
        step = {
            "at": 1.0,
            "source": "Created",
            "event": "admitted",
            "state": "Pending",
            "attempt": 1,
            "term": self.epoch,
        }
        value = {
            "version": 1,
            "state": "Pending",
            "pool": "default",
            "attempt": 1,
            "hold": {"cpu": "1"},
            "steps": 1,
            "history": [step],
            "term": self.epoch,
            "op": self.op(),
            **fields,
        }
        return Put(self.keys.state("a"), codec.encode(value))

    def ledger(self, cpu: str) -> Put:
        return Put(
            self.keys.ledger("default"), codec.encode({"version": 1, "held": {"cpu": cpu}, "op": self.op()})
        )

    def op(self) -> str:
        self.ops += 1
        return f"i/{self.term}/{self.ops}"

    def history(self) -> History:
        return replay_store(self.store, "forged", self.clock.boottime() + 5)


def lawful(forger: Forger) -> None:
    forger.write(forger.status(), forger.ledger("1"))


def hold_without_ledger(forger: Forger) -> None:
    forger.write(forger.status())


def ledger_without_hold(forger: Forger) -> None:
    forger.write(forger.ledger("1"))


def above_capacity(forger: Forger) -> None:
    forger.write(forger.status(hold={"cpu": "3"}), forger.ledger("3"))


def unlawful_step(forger: Forger) -> None:
    step = {"at": 1.0, "source": "Created", "event": "succeeded-observed", "state": "Succeeded"}
    forger.write(forger.status(state="Succeeded", attempt=0, hold={}, finished_at=1.0, history=[step]))


def attempt_from_nowhere(forger: Forger) -> None:
    forger.write(forger.status(attempt=2), forger.ledger("1"))


def attempt_twice(forger: Forger) -> None:
    lawful(forger)
    step = {
        "at": 1.0,
        "source": "Pending",
        "event": "admitted",
        "state": "Pending",
        "attempt": 1,
        "term": forger.epoch,
    }
    forger.write(forger.status(steps=2, history=[step]))


def deposed_writer(forger: Forger) -> None:
    stale = forger.status()
    forger.elect()
    forger.write(stale, forger.ledger("1"))


def writer_in_nobodys_time(forger: Forger) -> None:
    forger.write(Delete(forger.keys.leader))
    lawful(forger)


def epoch_skipped(forger: Forger) -> None:
    forger.epoch += 1
    forger.elect()


def applied_twice(forger: Forger) -> None:
    lawful(forger)
    same = forger.ledger("1")
    forger.write(same)
    forger.write(same)


def request_without_trace(forger: Forger) -> None:
    forger.client.cancel("a")
    forger.write(Delete(forger.keys.request("a", "cancel")))


def spec_alone(forger: Forger) -> None:
    forger.write(Delete(forger.keys.task("a")))


def spec_changed(forger: Forger) -> None:
    forger.write(Put(forger.keys.task("a"), b"{}"))


def removed_while_it_ran(forger: Forger) -> None:
    lawful(forger)
    forger.write(Delete(forger.keys.state("a")), Delete(forger.keys.task("a")), forger.ledger("0"))


@pytest.mark.parametrize(
    ("damage", "invariant"),
    [
        (hold_without_ledger, "I1"),
        (ledger_without_hold, "I1"),
        (above_capacity, "I2"),
        (unlawful_step, "I3"),
        (attempt_from_nowhere, "I4"),
        (attempt_twice, "I4"),
        (spec_alone, "I6"),
        (spec_changed, "I6"),
        (removed_while_it_ran, "I6"),
        (deposed_writer, "I7"),
        (writer_in_nobodys_time, "I7"),
        (epoch_skipped, "I7"),
        (request_without_trace, "I8"),
        (applied_twice, "once"),
    ],
)
def test_damage_is_found(damage: Callable[[Forger], None], invariant: str) -> None:
    forger = Forger()
    assert forger.history().findings == []
    damage(forger)
    findings = forger.history().findings
    assert [finding for finding in findings if f": {invariant}: " in finding], findings


def test_what_a_leader_writes_lawfully_is_no_finding() -> None:
    forger = Forger()
    lawful(forger)
    history = forger.history()
    assert history.findings == []
    assert (history.unfinished(), dict(history.admissions)) == (["a"], {"a": 1})
    assert history.missing(["a", "b"]) == ["b"]
    assert history._statuses["a"].state is State.PENDING
