"""`explain` in a shared pool: limits, the owner's turn, preemption; of what a real planner wrote."""

from __future__ import annotations

from typing import Any

import pytest

from controller.client import Client
from controller.core.model import codec
from controller.core.model.op import Op
from controller.core.model.requests import RequestKind
from controller.core.model.resources import Vector
from controller.core.model.task import Phase
from controller.errors import InvalidField
from controller.views.words import share_text
from tests.support.bench import observation
from tests.support.shared import Shared


def sharing(**owners: dict[str, Any]) -> dict[str, Any]:
    return {"owners": owners}


def told(shared: Shared, task_id: str) -> str:
    return shared.client().explain(task_id)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0"),
        (1 / 3, "0.333"),
        (0.25, "0.250"),
        (0.000_123_4, "0.000123"),
        (1.5, "1.50"),
        (12.34, "12.3"),
        (2.5e-8, "2.50e-8"),
        (None, "beyond all"),
    ],
)
def test_a_share_has_three_significant_digits(share: float | None, text: str) -> None:
    """A small one is told from none, too."""
    assert share_text(share) == text


def test_above_its_owners_limit() -> None:
    """Held, asked and the most, of each resource that is named."""
    shared = Shared(sharing=sharing(vision={"limit": {"cpu": 2}}))
    for n in range(3):
        shared.submit(f"v{n}", owner="vision")
    shared.settle()
    assert (
        told(shared, "v2")
        == "v2 waits because owner vision in pool default would be above its limit: cpu 1 asked, cpu 2 held,"
        " cpu 2 at most."
    )


def test_as_many_as_may_run() -> None:
    shared = Shared(sharing=sharing(vision={"max_running": 1}))
    shared.submit("v0", owner="vision")
    shared.submit("v1", owner="vision")
    shared.settle()
    says = "v1 waits because owner vision in pool default runs 1 task, of at most 1 (max_running)."
    assert told(shared, "v1") == says


def test_a_task_that_a_later_limit_forbids_says_so() -> None:
    """At submission it is refused, as one above the capacity is; later it waits."""
    shared = Shared(sharing=sharing(vision={"limit": {"cpu": 1}}))
    shared.submit("v", owner="vision", resources={"cpu": 2})
    shared.settle()
    assert (
        told(shared, "v")
        == "v cannot run: it is above the limit of owner vision in pool default (cpu 2 asked, cpu 1 at most);"
        " raise the limit, or cancel the task."
    )
    shared.pool(sharing=sharing(vision={"max_running": 0}))
    assert "(max_running is 0)" in told(shared, "v")


@pytest.mark.parametrize(
    ("policy", "field", "says"),
    [
        ({"limit": {"cpu": 1}}, "resources.cpu", "owner 'vision' may hold at most 1 of pool 'default'"),
        ({"limit": {"cpu": 0}}, "resources.cpu", "at most 0"),
        ({"max_running": 0}, "owner", "'vision' may run no task in pool 'default'"),
    ],
)
def test_above_its_owners_limit_it_is_refused_at_submission(
    policy: dict[str, Any], field: str, says: str
) -> None:
    client = submitter({"vision": policy})
    task = {"id": "v", "command": ["x"], "resources": {"cpu": 2}}
    with pytest.raises(InvalidField, match=says) as refused:
        client.submit({**task, "owner": "vision"})
    assert refused.value.field == field
    assert client.submit(task).accepted, "another owner has no limit"


def test_the_limit_of_all_others_is_that_of_an_owner_that_is_not_named() -> None:
    client = submitter({"*": {"limit": {"cpu": 1}}})
    with pytest.raises(InvalidField, match="owner 'default' may hold at most 1"):
        client.submit({"id": "v", "command": ["x"], "resources": {"cpu": 2}})


def submitter(owners: dict[str, Any]) -> Client:
    return Shared(sharing={"owners": owners}).client()


def test_its_turn_among_owners_with_their_shares() -> None:
    """Who comes before it, and by what; what is left of its guarantee; its own tasks ahead."""
    shared = Shared(sharing=sharing(vision={"guarantee": {"cpu": 1}}, nlp={"weight": 2}))
    shared.submit("v0", owner="vision", resources={"cpu": 3})
    shared.settle()
    shared.submit("v1", owner="vision", resources={"cpu": 2})
    shared.submit("v2", owner="vision", resources={"cpu": 2})
    shared.submit("n0", owner="nlp", resources={"cpu": 2})
    shared.settle()
    assert (
        told(shared, "v2")
        == "v2 waits for resources: it asks for cpu 2 (1 free) of pool default; its owner vision (share"
        " 0.750) comes after 1 owner (nlp 0) by guarantees and shares; 1 task (v1) of the same owner is"
        " ahead; its guarantee of cpu 1 is used up."
    )
    assert "its owner nlp (share 0) comes first by guarantees and shares" in told(shared, "n0")


def test_an_owner_within_its_guarantee_comes_first() -> None:
    shared = Shared(sharing=sharing(vision={"guarantee": {"cpu": 3}}))
    shared.submit("v0", owner="vision", resources={"cpu": 1})
    shared.settle()
    shared.submit("n0", owner="nlp")
    shared.submit("v1", owner="vision")
    assert "comes after 1 owner (vision 0.250, within its guarantee)" in told(shared, "n0")
    assert "of its guarantee of cpu 3, cpu 2 is left" in told(shared, "v1")
    assert told(shared, "v1").startswith("v1 is next in pool default and fits (cpu 1 of cpu 3 free)")
    assert told(shared, "n0").startswith("n0 would fit, but waits for its turn in pool default: ")


def test_an_owner_at_its_limit_is_before_nobody() -> None:
    """It is passed over."""
    shared = Shared(sharing=sharing(vision={"limit": {"cpu": 1}, "weight": 100}))
    shared.submit("v0", owner="vision")
    shared.submit("n0", owner="nlp")
    shared.settle()
    shared.submit("v1", owner="vision")
    shared.submit("n1", owner="nlp")
    assert "its owner nlp (share 0.250) comes first" in told(shared, "n1")


def test_many_owners_before_it_are_counted() -> None:
    shared = Shared(sharing=sharing())
    shared.submit("v0", owner="vision", resources={"cpu": 4})
    shared.settle()
    for owner in ("a", "b", "c", "d", "vision"):
        shared.submit(f"{owner}1", owner=owner)
    assert "comes after 4 owners (a 0, b 0, c 0 and 1 more)" in told(shared, "vision1")


def test_across_owners_priorities_come_first() -> None:
    shared = Shared(sharing={**sharing(), "priority": "across-owners"})
    shared.submit("v0", owner="vision", resources={"cpu": 4})
    shared.settle()
    shared.submit("n", owner="nlp")
    shared.submit("v1", owner="vision", priority=5)
    assert "its owner nlp (share 0) comes after 1 owner (vision 1.00) by priorities" in told(shared, "n")


def preempting() -> Shared:
    """A pool in which `urgent` of owner nlp has a claim on what `v0` and `v1` of vision hold."""
    shared = Shared(
        sharing=sharing(nlp={"guarantee": {"cpu": 4}}),
        preemption={"reclaim": True, "min_run_seconds": 0},
    )
    for n in range(2):
        shared.submit(f"v{n}", owner="vision", resources={"cpu": 2})
    shared.settle()
    shared.submit("urgent", owner="nlp", resources={"cpu": 4})
    shared.settle()
    shared.clock.move(7)
    return shared


def test_a_claim_and_its_victims() -> None:
    """Asked, short, and the victims that have not stopped."""
    shared = preempting()
    assert (
        "7s ago, 2 attempts began to be stopped for it by reclaim (it asked for cpu 4, and is short of cpu"
        " 4); 2 still hold resources" in told(shared, "urgent")
    )
    assert "is being stopped because it is preempted: its resources go to urgent of owner nlp" in told(
        shared, "v0"
    )
    shared.acting.see(observation(("v0", 1), Phase.FAILED))
    shared.settle()
    assert "1 still holds resources" in told(shared, "urgent")
    when = "1970-01-13T00:01:47Z"
    assert told(shared, "v0").endswith(
        f"; its attempt 1 was preempted at {when}: its resources go to urgent of owner nlp, by reclaim."
    )
    assert "what comes free is set aside for 1 task (urgent) first" in told(shared, "v0")


def test_a_claim_that_cannot_be_read_is_said() -> None:
    shared = preempting()
    shared.put(shared.keys.claim("default", "urgent"), b"{")
    assert "its claim cannot be read, and reserves nothing" in told(shared, "urgent")


def test_a_preempted_task_that_ends_otherwise_says_nothing_of_it() -> None:
    shared = preempting()
    shared.acting.see(observation(("v0", 1), Phase.FAILED))
    shared.settle()
    shared.request("v0", RequestKind.CANCEL)
    shared.settle()
    assert "preempted" not in told(shared, "v0")


def test_no_more_stops_in_this_minute() -> None:
    shared = Shared(
        sharing=sharing(nlp={"guarantee": {"cpu": 4}}),
        preemption={"reclaim": True, "min_run_seconds": 0, "per_minute": 0},
    )
    shared.submit("v0", owner="vision", resources={"cpu": 4})
    shared.settle()
    shared.submit("urgent", owner="nlp")
    shared.settle()
    assert "no more attempts are stopped in this minute (per_minute is 0)" in told(shared, "urgent")


def test_shares_that_are_not_whole_or_cannot_be_read() -> None:
    shared = Shared()
    shared.submit("v0", owner="vision")
    shared.put(shared.keys.share("default", "vision"), b"{")
    assert "v0 waits because the share of its owner vision of pool default cannot be read" in told(
        shared, "v0"
    )
    shared.delete(shared.keys.share("default", "vision"))
    shared.put(shared.keys.ledger("default"), codec.encode_ledger(Vector(), Op("hand"), {}))
    assert told(shared, "v0").startswith("v0 waits because the shares of pool default are being rebuilt")


@pytest.mark.parametrize("policy", ["strict", "backfill"])
def test_what_has_waited_long_is_named(policy: str) -> None:
    """Under both policies it keeps what is free from owners behind it, and the sentence says for whom."""
    shared = Shared(sharing=sharing(a={}, b={}), policy=policy, backfill_seconds=60)
    for n in range(3):
        shared.submit(f"a{n}", owner="a")
    shared.settle()
    shared.submit("large", owner="b", resources={"cpu": 3})
    shared.settle()
    shared.clock.seconds += 61
    shared.submit("small", owner="a")
    shared.settle()
    assert "what is free is set aside for 1 task (large) first, after 1m of waiting" in told(shared, "small")
