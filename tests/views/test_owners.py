"""Owners of a shared pool and what they used, as readers see them, of what a real planner wrote."""

from __future__ import annotations

import pytest

from controller.client import Client, NotFound, UsageLine
from controller.core.model.requests import RequestKind
from controller.core.model.resources import Vector
from controller.errors import CorruptValue, InvalidField
from controller.views.overview import next_admission
from controller.views.pools import all_owners, owners_of
from tests.support.bench import Stage
from tests.support.shared import DAY, SHARING, Shared


@pytest.fixture
def shared() -> Shared:
    return Shared()


def test_an_owner_has_what_its_tasks_hold_and_what_its_policy_says(shared: Shared) -> None:
    """Held, running and used are those of its tasks; limit, guarantee and weight those of the pool."""
    for n in range(4):
        shared.submit(f"v{n}", owner="vision")
    shared.submit("other")
    shared.settle()
    shared.clock.move(10)
    owners = {facts.owner: facts for facts in owners_of(shared.model(), "default", shared.clock.now())}
    vision, other = owners["vision"], owners["default"]
    assert list(owners) == ["default", "nlp", "vision"]
    assert (vision.held, vision.running, vision.waiting) == (Vector({"cpu": 3000}), 3, 1), "its limit is 3"
    assert (vision.guarantee, vision.guarantee_left) == (Vector({"cpu": 3000}), Vector())
    assert vision.share == 3 / 4 / 2, "of cpu, by its weight"
    assert vision.used == Vector({"cpu": 3000 * 10_000})
    assert (other.held, other.policy.weight, other.share) == (Vector({"cpu": 1000}), 1.0, 1 / 4)
    assert (owners["nlp"].held, owners["nlp"].running) == (Vector(), 0)
    assert [view.owner for view in shared.client().owners.all()] == list(owners)
    shared.check()


def test_guarantees_scale_with_the_pool(shared: Shared) -> None:
    shared.pool(sharing=SHARING, capacity={"cpu": "1500m"})
    [vision] = [each for each in owners_of(shared.model(), "default", 0.0) if each.owner == "vision"]
    assert vision.guarantee == Vector({"cpu": 1500})


def test_a_share_that_cannot_be_read_is_named(shared: Shared) -> None:
    shared.put(shared.keys.share("default", "broken"), b"{")
    found = {facts.owner: facts.broken for facts in all_owners(shared.model(), 0.0)}
    assert found["broken"]
    assert found["vision"] == ""


def test_what_is_on_hold_is_told_by_owner(shared: Shared) -> None:
    """Beside what waits in the queue; also of an owner that has nothing else there."""
    shared.pool(sharing=SHARING, paused=True)
    for name, owner in (("a", "vision"), ("b", "vision"), ("c", "new")):
        shared.submit(name, owner=owner)
    shared.change("a", on_hold=True)
    shared.change("c", on_hold=True)
    shared.settle()
    told = {facts.owner: (facts.waiting, facts.on_hold) for facts in all_owners(shared.model(), 0.0)}
    assert told == {"nlp": (0, 0), "vision": (1, 1), "new": (0, 1)}
    shared.change("a", on_hold=False)
    shared.settle()
    told = {facts.owner: (facts.waiting, facts.on_hold) for facts in all_owners(shared.model(), 0.0)}
    assert told["vision"] == (2, 0)


def test_a_pool_without_sharing_has_no_owners() -> None:
    stage = Stage()
    stage.pool()
    stage.submit("a", owner="vision")
    assert all_owners(stage.model(), 0.0) == []


def test_tasks_are_selected_by_owner(shared: Shared) -> None:
    """By the owner in the status, or else in the spec."""
    shared.submit("a", owner="vision")
    shared.submit("b")
    assert [view.id for view in shared.client().tasks(owner="vision")] == ["a"]
    shared.settle()
    shared.delete(shared.keys.task("a"))
    assert [(view.id, view.owner) for view in shared.client().tasks(owner="vision")] == [("a", "vision")]
    assert [view.id for view in shared.client().tasks(owner="default")] == ["b"]


def test_the_next_admission_is_of_the_owner_whose_turn_it_is(shared: Shared) -> None:
    """An owner at its limit has no turn, whatever the priority of its tasks."""
    for n in range(3):
        shared.submit(f"v{n}", owner="vision")
    shared.settle()
    shared.submit("v3", owner="vision", priority=9)
    assert next_admission(shared.model(), "default", shared.clock.now()) == ""
    shared.submit("other")
    assert next_admission(shared.model(), "default", shared.clock.now()) == "other"


# -- usage


def used(client: Client, **asked: str) -> dict[str, dict[str, str]]:
    return {line.name: line.used for line in client.usage(**asked).items}


def test_usage_is_exact_and_agrees_by_owner_pool_and_label(shared: Shared) -> None:
    """1 cpu for 10 s, and 2 cpus for 30 s so far."""
    shared.submit("a", owner="nlp", labels={"team": "x"})
    shared.submit("b", owner="vision", resources={"cpu": 2}, labels={"team": "y"})
    shared.submit("c", owner="gone", resources={"cpu": 1})
    shared.settle()
    shared.clock.move(10)
    shared.end("a")
    shared.clock.move(20)
    by_owner = {"nlp": {"cpu": "10000000"}, "vision": {"cpu": "60000000"}, "gone": {"cpu": "30000000"}}
    assert used(shared.client()) == by_owner
    assert used(shared.client(), by="pool") == {"default": {"cpu": "100000000"}}
    by_label = {"x": by_owner["nlp"], "y": by_owner["vision"], "(no label)": by_owner["gone"]}
    assert used(shared.client(), by="label=team") == by_label
    assert used(shared.client(), by="label=none") == {"(no label)": {"cpu": "100000000"}}
    assert used(shared.client(), by="label=team", since="5s") == {
        "y": {"cpu": "10000000"},
        "(no label)": {"cpu": "5000000"},
    }
    with pytest.raises(NotFound, match="no pool 'other'"):
        used(shared.client(), pool="other")
    shared.check()


def test_usage_since_a_day_begins_where_that_day_was_closed(shared: Shared) -> None:
    """A day without a record: the next earlier one. None: since the beginning, and it says so."""
    shared.submit("a", owner="nlp")
    shared.settle()
    client = shared.client()
    before = client.usage(since="1d")
    assert before.since is None
    assert any("since the beginning" in note for note in before.notes)
    shared.clock.seconds = 13.0 * DAY + 50
    shared.settle()
    found = client.usage(since="1970-01-14")  # day 13
    assert (found.since, found.until, found.notes) == (13 * DAY * 1000, (13 * DAY + 50) * 1000, [])
    assert found.items[0].used == {"cpu": "50000000"}
    shared.clock.seconds = 15.0 * DAY + 50
    shared.settle()
    assert client.usage(since="1970-01-16").since == 15 * DAY * 1000
    shared.delete(shared.keys.usage("1970-01-15", "default"))
    assert client.usage(since="1970-01-16").since == 14 * DAY * 1000, "that day has no record any more"
    assert used(client, since="1970-01-16") == {"nlp": {"cpu": str((DAY + 50) * 1_000_000)}}
    assert client.usage().since is None


def test_usage_until_a_day_ends_where_that_day_was_closed(shared: Shared) -> None:
    """Between two closed days, to the millisecond; what has not ended by then is told as it was."""
    shared.submit("a", owner="nlp", labels={"team": "x"})
    shared.settle()
    shared.clock.seconds = 13.0 * DAY - 40
    shared.request("a", RequestKind.CANCEL)
    shared.settle()
    shared.clock.seconds = 14.0 * DAY + 50
    shared.settle()
    client = shared.client()
    found = client.usage(since="1970-01-14", until="1970-01-15")
    assert (found.since, found.until, found.notes) == (13 * DAY * 1000, 14 * DAY * 1000, [])
    whole = {"cpu": str(DAY * 1_000_000)}
    assert found.items == [UsageLine(name="nlp", used=whole, lost={}, stopping=whole)]
    [first] = client.usage(until="1970-01-14").items
    assert (first.used, first.stopping) == ({"cpu": str((DAY - 100) * 1_000_000)}, {"cpu": "40000000"})
    by_label = client.usage(by="label=team", since="1970-01-14", until="1970-01-15").items
    assert by_label == [UsageLine(name="x", used=whole, lost={}, stopping=whole)]
    shared.end("a")
    [line] = client.usage(by="label=team", until="1970-01-14").items
    assert (line.used, line.stopping) == (first.used, first.stopping), "as if it had been at its end"
    [every] = client.usage(by="label=team").items
    assert every.stopping == {"cpu": str((DAY + 90) * 1_000_000)}
    assert client.usage(until="1970-01-12").items == [], "no day had been closed by then"
    with pytest.raises(InvalidField, match="until"):
        client.usage(since="1d", until="2d")
    assert client.usage(since="0001-01-01").items == client.usage().items


def test_a_closed_day_of_many_owners_is_read_whole(shared: Shared) -> None:
    """Beyond 500 owners a day has more than one record."""
    shared.submit("a", owner="nlp")
    shared.settle()
    shared.clock.seconds = 13.0 * DAY + 50
    shared.settle()
    part = b'{"version":1,"at":%d,"used":{"%b":{"cpu":"%d"}},"op":"x"}'
    first = part % (13 * DAY * 1000, b"another", 1)
    second = part % (13 * DAY * 1000, b"nlp", 5_000)
    shared.put(shared.keys.usage("1970-01-13", "default"), first)
    shared.put(shared.keys.usage("1970-01-13", "default.1"), second)
    total = int(used(shared.client())["nlp"]["cpu"])
    assert used(shared.client(), since="1970-01-14")["nlp"]["cpu"] == str(total - 5_000)
    shared.delete(shared.keys.usage("1970-01-13", "default"))
    assert shared.client().usage(since="1970-01-14").since is None, "it is not closed yet"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b'{"at":1,"used":{"nlp":{"cpu":"much"}}}', "nlp.cpu: is not an integer in quotes"),
        (b'{"at":1,"used":{"nlp":5}}', "nlp: is not a mapping"),
        (b'{"at":1,"used":{"nlp":{"cpu":"-5"}}}', "nlp: has used less than nothing"),
        (b'{"at":1,"used":[]}', "are not mappings of owners"),
        (b'{"at":1}', "are not mappings of owners"),
        (b'{"used":{}}', "at: is not an integer"),
        (b"no", "not a JSON object"),
    ],
)
def test_a_closed_day_that_cannot_be_read_is_refused_by_name(shared: Shared, value: bytes, why: str) -> None:
    shared.put(shared.keys.usage("1970-01-12", "default"), value)
    with pytest.raises(CorruptValue, match=f"usage/1970-01-12/default cannot be read .*{why}"):
        shared.client().usage(since="1970-01-13")


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"by": "team"}, "by"),
        ({"by": "label="}, "by"),
        ({"since": "yesterday"}, "since"),
        ({"since": "2026-02-30"}, "since"),
        ({"since": "9999-12-31"}, "since"),
    ],
)
def test_what_usage_cannot_count_is_refused_by_name(
    shared: Shared, asked: dict[str, str], field: str
) -> None:
    with pytest.raises(InvalidField) as refused:
        shared.client().usage(**asked)
    assert refused.value.field == field


def test_usage_says_what_it_leaves_out(shared: Shared) -> None:
    shared.pool("plain")
    client = shared.client()
    assert client.usage(pool="plain").notes == ["pool plain has no `sharing`: nothing is counted of it"]
    shared.put(shared.keys.share("default", "broken"), b"{")
    assert "the share of broken cannot be read" in client.usage().notes[0]
    assert "removed after their retention" in client.usage(by="label=team").notes[0]
    shared.submit("a")
    shared.settle()
    shared.delete(shared.keys.task("a"))
    assert "tasks whose spec was deleted are left out" in client.usage(by="label=team").notes[1]
