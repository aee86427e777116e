"""What elections stand on: the installation's id is made once, and nobody is elected on another engine
than the recorded one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from controller.core.model import codec
from controller.core.model.installation import (
    EngineIdentity,
    EngineRecord,
    Installation,
    decode_engine,
    decode_installation,
    encode,
)
from controller.core.model.op import Op
from controller.errors import CorruptValue
from controller.store.base import Refused
from controller.store.memory import MemoryStore
from tests.election.candidates import KEYS, Candidate, delete, put
from tests.support.bench import HandClock

ONE, TWO = EngineIdentity(name="test", id="e1"), EngineIdentity(name="test", id="e2")


def installation(store: MemoryStore) -> Installation:
    item, _ = store.get(KEYS.installation, deadline=0)
    assert item is not None
    return decode_installation(item.value)


def engine(store: MemoryStore) -> EngineRecord:
    item, _ = store.get(KEYS.engine, deadline=0)
    assert item is not None
    return decode_engine(item.value)


def hand_over(one: Candidate) -> None:
    one.elector.release("test", campaign_again=False)
    one.elector.step()
    assert one.elector.leadership is None


def test_the_first_election_makes_the_installation_and_no_later_one_changes_it(
    memory: MemoryStore, one: Candidate, other: Candidate
) -> None:
    one.elect()
    made, record = installation(memory), engine(memory)
    assert len(made.id) >= 12
    assert not made.adopts_unmarked
    assert (record.engine, record.installation, record.recorded_by) == (ONE, made.id, "a")
    hand_over(one)
    other.elect()
    assert (installation(memory), engine(memory)) == (made, record)


def test_a_replica_whose_engine_has_not_told_does_not_campaign(one: Candidate) -> None:
    one.identity = None
    one.run(30)
    assert one.elector.leadership is None
    one.identity = ONE
    one.run(3)
    assert one.leads


def test_a_replica_with_another_engine_does_not_campaign_until_the_record_is_changed(
    memory: MemoryStore, one: Candidate, other: Candidate
) -> None:
    one.elect()
    hand_over(one)
    other.identity = TWO
    other.run(30)
    assert other.events == []
    adopted = EngineRecord(engine=TWO, installation=installation(memory).id)
    put(memory, KEYS.engine, encode(adopted, Op("adopt")))
    other.run(10)
    assert other.leads


def before_its_commit(candidate: Candidate, act: Callable[[], None]) -> list[bool]:
    """Once, `act` just before the candidate's next commit arrives; returns whether that was refused."""
    refused: list[bool] = []

    def commit(real: Any, transaction: Any, **kwargs: Any) -> Any:
        del candidate.store.on["commit"]
        act()
        answer = real(transaction, **kwargs)
        refused.append(isinstance(answer, Refused))
        return answer

    candidate.store.on["commit"] = commit
    return refused


def test_nobody_is_elected_on_a_record_that_was_replaced_meanwhile(
    memory: MemoryStore, one: Candidate, other: Candidate
) -> None:
    """The record is read, replaced by `tally engine adopt`, and only then the election arrives: it is
    refused.
    """
    one.elect()
    hand_over(one)

    def replace_first() -> None:
        put(
            memory,
            KEYS.engine,
            encode(EngineRecord(engine=TWO, installation=installation(memory).id), Op("adopt")),
        )

    refused = before_its_commit(other, replace_first)
    other.run(30)
    assert refused == [True]
    assert other.events == []
    assert engine(memory).engine == TWO


@pytest.mark.parametrize("key", [KEYS.installation, KEYS.engine, KEYS.term(1)])
def test_an_election_overwrites_nothing_that_was_written_since_it_read(
    memory: MemoryStore, clock: HandClock, one: Candidate, other: Candidate, key: str
) -> None:
    """It rests on each of these records, and closes that of the term before, whose lease has run out."""
    one.elect()
    clock.move(10)

    def write_first() -> None:
        item, _ = memory.get(key, deadline=0)
        assert item is not None
        put(memory, key, json.dumps({**json.loads(item.value), "newer": 1}).encode())

    refused = before_its_commit(other, write_first)
    other.run(30)
    assert refused == [True]
    assert other.events == ["elected 2"]
    item, _ = memory.get(key, deadline=0)
    assert item is not None
    assert json.loads(item.value)["newer"] == 1


def test_nobody_is_elected_with_an_epoch_that_another_term_has_had_meanwhile(
    memory: MemoryStore, clock: HandClock, one: Candidate, other: Candidate
) -> None:
    """The epoch is read; a third one is elected, and leaves; and only then the election arrives, at a free
    leader key. An epoch that was given twice would make two terms one.
    """
    one.elect()
    hand_over(one)

    def lead_first() -> None:
        third = Candidate(memory.client(), clock, "c")
        assert third.elect().epoch == 2
        hand_over(third)

    refused = before_its_commit(other, lead_first)
    other.run(30)
    assert refused == [True]
    assert other.events == ["elected 3"]


def test_who_reads_while_another_is_elected_does_not_call_the_epoch_wrong(
    memory: MemoryStore, clock: HandClock, one: Candidate, other: Candidate
) -> None:
    """The epoch is read before that election, and the records of terms after it."""
    one.elect()
    hand_over(one)
    third = Candidate(memory.client(), clock, "c")

    def elect_first(real: Callable[..., Any], key: str, **options: Any) -> Any:
        found = real(key, **options)
        if key == KEYS.epoch and third.events == []:
            assert third.elect().epoch == 2
            hand_over(third)
        return found

    other.store.on["get"] = elect_first
    with capture_logs() as logs:
        other.run(30)
    assert other.events == ["elected 3"]
    assert [entry for entry in logs if "epoch is wrong" in entry["event"]] == []


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("key", [KEYS.installation, KEYS.engine])
def test_what_was_removed_or_damaged_by_hand_is_put_back(
    memory: MemoryStore, one: Candidate, other: Candidate, key: str, damaged: bool
) -> None:
    """By what the last term's record repeats: the installation stays the same, and its engine does."""
    one.elect()
    made, recorded = installation(memory), engine(memory).engine
    hand_over(one)
    if damaged:
        put(memory, key, b"\xff")
    else:
        delete(memory, key)
    other.identity = TWO
    other.run(30)
    assert other.events == []
    other.identity = ONE
    other.run(10)
    assert other.leads
    assert installation(memory).id == made.id
    assert engine(memory).engine == recorded


def test_a_record_that_cannot_be_read_nor_told_elects_nobody(memory: MemoryStore, one: Candidate) -> None:
    put(memory, KEYS.engine, b"\xff")
    with pytest.raises(CorruptValue, match="engine"):
        one.elector.step()


def test_two_keys_of_two_installations_elect_nobody(memory: MemoryStore, one: Candidate) -> None:
    put(memory, KEYS.installation, encode(Installation(id="aaaa"), Op("hand")))
    put(memory, KEYS.engine, encode(EngineRecord(engine=ONE, installation="bbbb"), Op("hand")))
    one.run(30)
    assert one.events == []


@pytest.mark.parametrize("key_is_there", [False, True])
def test_once_an_older_version_has_led_what_carries_no_id_is_adopted(
    memory: MemoryStore, one: Candidate, key_is_there: bool
) -> None:
    """In an upgrade, and in a mixed one where the older version led after this one."""
    put(memory, KEYS.epoch, codec.encode({"epoch": 7}))
    put(memory, KEYS.term(7), codec.encode({"epoch": 7, "id": "old"}))
    if key_is_there:
        put(memory, KEYS.installation, encode(Installation(id="aaaa"), Op("hand")))
    one.elect()
    assert installation(memory).adopts_unmarked
    assert not key_is_there or installation(memory).id == "aaaa"


def test_what_a_newer_version_has_added_to_the_records_is_kept(memory: MemoryStore, one: Candidate) -> None:
    put(memory, KEYS.installation, codec.encode({"id": "aaaa", "newer": [1]}))
    one.elect()
    item, _ = memory.get(KEYS.installation, deadline=0)
    assert item is not None
    assert codec.decode_mapping(item.value)["newer"] == [1]


def test_an_election_adds_what_its_engine_knows_beyond_the_record(
    memory: MemoryStore, one: Candidate, other: Candidate
) -> None:
    one.identity = EngineIdentity(name="test", parts={"namespace a": ""})
    one.elect()
    hand_over(one)
    other.identity = EngineIdentity(name="test", id="e1", parts={"namespace a": "", "namespace b": ""})
    other.elect()
    assert engine(memory).engine == other.identity


def record_feature(store: MemoryStore, name: str) -> None:
    recorded = engine(store)
    parts = {**recorded.engine.parts, f"feature/{name}": ""}
    on = msgspec.structs.replace(recorded, engine=msgspec.structs.replace(recorded.engine, parts=parts))
    put(store, KEYS.engine, encode(on, Op("hand")))


def test_nobody_is_elected_without_a_feature_that_is_on(
    memory: MemoryStore, one: Candidate, other: Candidate
) -> None:
    one.elect()
    hand_over(one)
    record_feature(memory, "tides")
    other.run(30)
    assert other.events == []


def test_a_feature_that_is_on_survives_elections_and_the_loss_of_its_record(
    memory: MemoryStore, one: Candidate, other: Candidate
) -> None:
    one.elect()
    hand_over(one)
    record_feature(memory, "owners")
    other.elect()
    assert engine(memory).engine.parts == {"feature/owners": ""}
    hand_over(other)
    delete(memory, KEYS.engine)
    third = Candidate(memory.client(), other.clock, "c")
    third.elect()
    assert engine(memory).engine.parts == {"feature/owners": ""}


def test_nobody_is_elected_if_a_feature_is_turned_on_meanwhile(
    memory: MemoryStore, one: Candidate, other: Candidate
) -> None:
    """The record is read before, and the election arrives after."""
    one.elect()
    hand_over(one)
    refused = before_its_commit(other, lambda: record_feature(memory, "tides"))
    other.run(30)
    assert refused == [True]
    assert other.events == []
