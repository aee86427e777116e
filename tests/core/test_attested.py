"""Attestations and notices, as the core keeps them and plans with them."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from controller.core.model import attested, codec, notices
from controller.core.model.attested import Attestation
from controller.core.model.lifecycle import State
from controller.core.model.model import Model
from controller.core.model.notices import Delivery, decode_notice, encode_delivery, given_up, kept_after
from controller.core.model.notify_rules import Ending
from controller.core.model.op import Op
from controller.core.model.records import Change
from controller.core.model.task import Status
from controller.core.model.validation import parse_pool, parse_spec
from controller.core.planning.attestation import unattested
from controller.core.planning.beside import beside
from controller.core.planning.decide import Decision
from controller.core.planning.plan import Plan
from controller.core.planning.transitions import Moment
from controller.core.promise.invariants import check_model
from controller.errors import CorruptValue, InvalidField

OP = Op("r/1/7")
MOMENT = Moment(100.0, 3, OP, 100_000)
RULES = [
    {"url": "https://a.example/x", "on": ["failed", "cancelled"]},
    {"url": "https://b.example", "on": ["failed"], "labels": {"tell": "ops"}},
]


def model(*changes: Change, revision: int = 100) -> Model:
    made = Model()
    made.load(changes, revision)
    return made


def pool(**fields: Any) -> Change:
    value = parse_pool({"name": "p", "capacity": {"cpu": 4}, **fields})
    return Change("pools", ("p",), codec.encode_pool(value, OP), 3, 3)


def spec(mod: int, create: int = 0, owner: str = "vision", **fields: Any) -> Change:
    value = parse_spec({"id": "t", "pool": "p", "owner": owner, "command": ["true"], **fields})
    return Change("tasks", ("t",), codec.encode_spec(value, 1.0, OP), mod, create or mod)


def attestation(mod: int, owner: str = "vision") -> Change:
    return Change(attested.KIND, ("t",), attested.encode(Attestation(owner=owner, by="alice"), OP), mod, mod)


def state(status: Status, mod: int = 20) -> Change:
    return Change("states", ("t",), codec.encode_status(status, {}), mod, mod)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([spec(9), attestation(9)], ""),
        ([attestation(9), spec(9)], ""),  # in whatever order they are taken in
        ([spec(9)], "nobody has attested"),
        ([spec(9), attestation(8)], "not the one that was attested"),
        ([spec(9), attestation(12)], "not the one that was attested"),  # attested later, by itself
        ([spec(11, 9), attestation(9)], "not the one that was attested"),  # changed since
        ([spec(9), attestation(9, "speech")], "not the one that was attested"),
        ([spec(9), Change(attested.KIND, ("t",), b"{", 9, 9)], "cannot be read"),
        ([spec(9), Change(attested.KIND, ("t",), b'{"owner":"A/B","by":"x"}', 9, 9)], "cannot be read"),
    ],
)
def test_an_attestation_holds_for_the_spec_of_its_own_revision(changes: list[Change], words: str) -> None:
    known = model(pool(require_attested=True), *changes)
    refused = unattested(known, known.tasks["t"], known.pools["p"].pool)
    assert bool(refused) is bool(words)
    assert words in refused
    other = model(pool(), *changes)
    assert unattested(other, other.tasks["t"], other.pools["p"].pool) == ""


def test_an_attestation_that_is_left_is_a_notice_and_one_that_is_lacking_while_it_runs() -> None:
    found = check_model(model(pool(require_attested=True), attestation(9)))
    assert [(each.invariant, each.subject) for each in found] == [("I12", "key/attested/t")]
    running = Status(state=State.RUNNING, pool="p", owner="vision", attempt=1, created_at=1.0)
    held = [pool(require_attested=True), spec(9), state(running)]
    assert "I12" in {each.invariant for each in check_model(model(*held))}
    assert "I12" not in {each.invariant for each in check_model(model(*held, attestation(9)))}


def ended(**fields: Any) -> Decision:
    status = {"state": State.FAILED, "pool": "p", "owner": "vision", "attempt": 2, "finished_at": 99.0}
    return Decision(Status(**{**status, **fields}))


def test_a_removal_asks_for_what_the_watch_has_yet_to_bring() -> None:
    """A refusal shows a spec, and not its attestation: until the watch has passed it, its absence is
    compared.
    """
    removal = Decision(None, removes=True)
    early = model(pool(), spec(9), revision=8)
    assert beside(early, early.tasks["t"], removal, MOMENT, Plan(OP), False).attested_mod == 0
    known = model(pool(), spec(9), attestation(9))
    brought = beside(known, known.tasks["t"], removal, MOMENT, Plan(OP), True)
    assert (brought.attested_mod, brought.also_removes) == (-1, ("attested", "logs"))


def test_the_notice_of_an_end_is_for_those_whose_rules_ask_for_it() -> None:
    known = model(pool(notify=RULES), spec(9, labels={"tell": "ops"}))
    task, plan = known.tasks["t"], Plan(OP)
    found = beside(known, task, ended(reason="Error", message="m" * 5000, exit_code=1), MOMENT, plan, False)
    assert found.notice is not None
    assert found.notice.names == ("t", "00000003000000000007")
    told = decode_notice(found.notice.value)
    assert told.urls == ("https://a.example/x", "https://b.example")
    assert (told.task, told.ending, told.attempt, told.owner, len(told.message), told.at) == (
        "t",
        Ending.FAILED,
        2,
        "vision",
        1000,
        100.0,
    )
    for nothing in (ended(state=State.SUCCEEDED), ended(state=State.WAITING_RETRY, retry_at=5.0)):
        assert beside(known, task, nothing, MOMENT, plan, False).notice is None
    again = model(pool(notify=RULES), spec(9), state(Status(state=State.FAILED, pool="p", finished_at=2.0)))
    assert beside(again, again.tasks["t"], ended(), MOMENT, plan, False).notice is None, "it had ended"


def test_a_full_outbox_keeps_no_more_and_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "MAX_NOTICES", 1)
    known, plan = model(pool(notify=RULES), spec(9)), Plan(OP)
    first, second = [beside(known, known.tasks["t"], ended(), MOMENT, plan, False) for _ in range(2)]
    first.add_to(plan)
    second.add_to(plan)
    assert first.notice is not None
    assert len(plan.notices) == 2, "both were asked for before either was added"
    third = beside(known, known.tasks["t"], ended(), MOMENT, plan, False)
    assert (third.notice, third.is_unnoticed, second.is_unnoticed) == (None, True, False)
    third.add_to(plan)
    assert plan.unnoticed == 1


def test_who_has_many_notices_leaves_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner of a pool has at most as many as still fit; what is deleted counts no more."""
    monkeypatch.setattr(notices, "MAX_NOTICES", 20)
    known, serial = model(pool(notify=RULES)), count(200)

    def end(owner: str, revision: int) -> bool:
        """An end of a task of this owner, whose notice is stored if it is kept."""
        known.apply(spec(revision, owner=owner))
        found = beside(known, known.tasks["t"], ended(owner=owner), MOMENT, Plan(OP), False)
        assert found.is_unnoticed is (found.notice is None)
        if found.notice is not None:
            key = ("t", f"{revision:020d}")
            known.apply(Change("outbox", key, found.notice.value, next(serial), revision))
        return found.notice is not None

    assert [end("greedy", next(serial)) for _ in range(12)] == [True] * 10 + [False] * 2
    assert [end("modest", next(serial)) for _ in range(6)] == [True] * 5 + [False]
    assert [end("third", next(serial)) for _ in range(4)] == [True] * 3 + [False]
    of_greedy = [names for names, notice in known.notices.items() if notice.owner == "greedy"]
    for names in of_greedy:
        known.apply(Change("outbox", names, None, next(serial)))
    assert dict(known.notice_counts) == {("p", "modest"): 5, ("p", "third"): 3}
    assert end("modest", next(serial))


def test_what_is_kept_of_a_notice() -> None:
    known = model(pool(notify=RULES), spec(9, labels={"tell": "ops"}))
    found = beside(known, known.tasks["t"], ended(), MOMENT, Plan(OP), False)
    assert found.notice is not None
    notice = decode_notice(found.notice.value)
    assert kept_after(notice, Delivery(at=1.0, by="n")) is None
    dead = kept_after(
        notice, Delivery(dead={"https://b.example": "503", "https://c.example": "?"}, at=5.0, by="n")
    )
    assert dead is not None
    assert dead.dead is not None
    assert (dead.urls, dead.dead.why) == (("https://b.example",), {"https://b.example": "503"})
    again = kept_after(dead, Delivery(again=True, at=1.0, by="n"))
    assert again is not None
    assert (again.urls, again.dead) == (("https://b.example",), None)
    value = encode_delivery(Delivery(dead={"u": "x" * 2000}, at=1.0, by="n"), OP)
    assert notices.decode_delivery(value).dead["u"] == "x" * 2000
    assert given_up(notice, Delivery(dead={"https://b.example": "x" * 2000}, at=1.0, by="n")).dead is not None


@pytest.mark.parametrize(
    ("notify", "field"),
    [
        ("https://a.example", "notify"),
        ([{"url": "https://a.example"}], "notify[0].on"),
        ([{"on": ["failed"]}], "notify[0].url"),
        ([{"url": "https://a.example", "when": ["failed"]}], "notify[0].when"),
        ([{"url": "ftp://a.example", "on": ["failed"]}], "notify[0].url"),
        ([{"url": "https://a.example", "on": []}], "notify[0].on"),
        ([{"url": "https://a.example", "on": ["lost"]}], "notify[0].on"),
        ([{"url": "https://a.example", "on": "failed"}], "notify[0].on"),
        ([{"url": "https://a.example", "on": ["failed"], "lables": {}}], "notify[0].lables"),
        ([{"url": "https://a.example", "on": ["failed"], "labels": {"a": 1}}], "notify[0].labels.a"),
        ([{"url": "https://a.example", "on": ["failed"]}] * 9, "notify"),
    ],
)
def test_a_bad_rule_is_named(notify: object, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        parse_pool({"name": "p", "capacity": {"cpu": 1}, "notify": notify})
    assert caught.value.field == field


@pytest.mark.parametrize("value", [b"{}", b'{"version":99}', b'{"at":1}', b'{"by":"n"}'])
def test_what_names_nobody_delivers_nothing(value: bytes) -> None:
    with pytest.raises(CorruptValue):
        notices.decode_delivery(value)
