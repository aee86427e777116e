"""A feature is turned on if everybody knows it, and dropped if nothing uses it; clients guard the record."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from controller.client import Client
from controller.core.model import codec
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.core.model.task import Spec
from controller.errors import InvalidField, TallyError, UserError
from controller.store.base import Refused
from tests.client.conftest import PutRaw, PutStatus
from tests.support.meddling import MeddledStore

KNOWS = ["changes", "claims", "owners"]
SHARED = {"name": "shared", "capacity": {"cpu": 4}, "sharing": {}}
PREEMPTING = {**SHARED, "preemption": {"by_priority": True}}


def release(name: str, *, knows: list[str] | None = None) -> bytes:
    told: dict[str, Any] = {"id": name, "instance": name}
    return json.dumps(told if knows is None else {**told, "features": knows}).encode()


@pytest.fixture
def led(client: Client, put_raw: PutRaw) -> Client:
    """A client of an installation with two replicas of this release, of which one leads."""
    put_raw("engine", b'{"engine":{"name":"null","id":"e","newer":1},"installation":"abc","newer":2}')
    for key in ("leader", "replicas/r1", "replicas/r2"):
        put_raw(key, release("r2" if key == "replicas/r2" else "r1", knows=KNOWS))
    return client


def stored(client: Client, key: str) -> dict[str, Any] | None:
    item, _ = client.store.get(client.keys.prefix + key, deadline=client.clock.boottime() + 10)
    return dict(json.loads(item.value)) if item is not None else None


OTHERS = dict.fromkeys(
    ("arrays", "attested", "capacities", "dependencies", "gangs", "maintenance", "notify", "schedules"), "off"
)
"""Those that no test here turns on."""


def states(client: Client) -> dict[str, str]:
    """Of the features that these tests are about."""
    found = {view.name: view.state for view in client.features.all()}
    assert found.items() >= OTHERS.items()
    return {name: state for name, state in found.items() if name not in OTHERS}


def test_a_feature_is_turned_on_in_a_new_term(led: Client) -> None:
    """The record keeps what a newer release has put there."""
    assert states(led) == {"changes": "off", "claims": "off", "owners": "off"}
    assert led.features.enable("owners")
    assert states(led) == {"changes": "off", "claims": "off", "owners": "on"}
    assert stored(led, "leader") is None
    record = stored(led, "engine")
    assert record is not None
    assert (record["engine"], record["newer"]) == (
        {"name": "null", "id": "e", "newer": 1, "parts": {"feature/owners": ""}},
        2,
    )
    assert not led.features.enable("owners")


@pytest.mark.parametrize("key", ["leader", "replicas/r1"])
@pytest.mark.parametrize("knows", [None, ["owners"]], ids=["from before features", "from before claims"])
def test_a_replica_that_does_not_know_it_keeps_it_off(
    led: Client, put_raw: PutRaw, key: str, knows: list[str] | None
) -> None:
    put_raw(key, release("r1", knows=knows))
    with pytest.raises(UserError, match=r"replica r1\. Upgrade"):
        led.features.enable("claims")
    with pytest.raises(UserError, match="r1"):
        led.apply_pool(PREEMPTING)
    assert states(led) == {"changes": "off", "claims": "off", "owners": "off"}
    assert [pool.name for pool in led.pools()] == ["default"]
    if key != "leader":
        assert {view.name: view.unknown_to for view in led.features.all()}["claims"] == ("r1",)


def test_before_the_first_election_there_is_no_record_to_put_it_in(client: Client) -> None:
    with pytest.raises(UserError, match="start a replica first"):
        client.features.enable("owners")


def test_a_feature_of_another_release_is_shown_and_not_touched(led: Client, put_raw: PutRaw) -> None:
    put_raw("engine", b'{"engine":{"name":"null","parts":{"feature/tides":""}},"installation":"abc"}')
    assert states(led) == {"changes": "off", "claims": "off", "owners": "off", "tides": "on"}
    for change in (led.features.enable, led.features.drop):
        with pytest.raises(UserError, match="knows no feature 'tides'"):
            change("tides")


def meddle(client: Client, act: Callable[[], object]) -> tuple[Client, list[bool]]:
    """A client before whose next commit `act` is done once; and whether each of its commits was refused."""
    store: Any = MeddledStore(client.store)
    refused: list[bool] = []

    def commit(real: Any, transaction: Any, **options: Any) -> Any:
        if not refused:
            act()
        answer = real(transaction, **options)
        refused.append(isinstance(answer, Refused))
        return answer

    store.on["commit"] = commit
    return Client.of_store(store, cluster=client.keys.cluster), refused


@pytest.mark.parametrize("key", ["leader", "replicas/r1"])
def test_who_becomes_another_release_meanwhile_keeps_it_off(led: Client, put_raw: PutRaw, key: str) -> None:
    other, refused = meddle(led, lambda: put_raw(key, release("r1")))
    with pytest.raises(UserError, match="r1"):
        other.features.enable("owners")
    assert refused == [True]
    assert states(led)["owners"] == "off"


def test_a_heartbeat_does_not_keep_it_off(led: Client, put_raw: PutRaw) -> None:
    other, refused = meddle(led, lambda: put_raw("replicas/r1", release("r1", knows=KNOWS)))
    assert other.features.enable("owners")
    assert refused == [True, False]


def test_a_pool_turns_on_what_it_needs_and_says_so(led: Client) -> None:
    assert led.apply_pool(PREEMPTING).turned_on == ("owners", "claims")
    assert states(led) == {"changes": "off", "claims": "on", "owners": "on"}
    assert led.apply_pool({**PREEMPTING, "capacity": {"cpu": 5}}).turned_on == ()


def test_a_spec_with_an_owner_needs_the_feature(led: Client) -> None:
    [refused, plain] = led.submit_many(
        [{"id": "a", "owner": "vision", "command": ["true"]}, {"id": "b", "command": ["true"]}]
    )
    assert (refused.outcome, refused.field) == ("invalid", "owner")
    assert "tally features enable owners" in refused.message
    assert plain.outcome == "created"
    led.features.enable("owners")
    assert led.submit({"id": "a", "owner": "vision", "command": ["true"]}).outcome == "created"


def test_what_a_feature_requires_is_turned_on_with_it(led: Client, put_raw: PutRaw) -> None:
    """In one term; and it is dropped after it."""
    put_raw("leader", release("r1", knows=["arrays", "gangs"]))
    put_raw("replicas/r1", release("r1", knows=["arrays", "gangs"]))
    put_raw("replicas/r2", release("r2", knows=["gangs"]))
    with pytest.raises(UserError, match=r"feature arrays cannot be turned on: .* replica r2"):
        led.features.enable("gangs")
    put_raw("replicas/r2", release("r2", knows=["arrays", "gangs"]))
    gang = {"id": "train", "command": ["true"], "array": {"gang": True, "size": 2}}
    with pytest.raises(InvalidField, match="`tally features enable arrays gangs`"):
        led.submit(gang)
    assert led.features.enable("gangs") == ("arrays", "gangs")
    assert led.submit(gang).outcome == "created"
    with pytest.raises(UserError, match="gangs requires it, which is on: run `tally features drop gangs`"):
        led.features.drop("arrays")


def test_several_are_turned_on_in_one_term_or_none(led: Client, put_raw: PutRaw) -> None:
    with pytest.raises(UserError, match="knows no feature 'tides'"):
        led.features.enable("owners", "tides")
    with pytest.raises(UserError, match="notify cannot be turned on"):
        led.features.enable("owners", "notify")
    assert states(led)["owners"] == "off"
    led.features.enable("changes")
    put_raw("leader", release("r1", knows=KNOWS))
    assert led.features.enable("claims", "changes", "owners") == ("owners", "claims")
    assert states(led) == {"changes": "on", "claims": "on", "owners": "on"}


def test_no_spec_and_no_pool_is_stored_after_its_feature_was_dropped(led: Client) -> None:
    """It was checked before; the guard on the record refuses it."""
    led.features.enable("owners")
    other, refused = meddle(led, lambda: led.features.drop("owners"))
    [result] = other.submit_many([{"id": "a", "owner": "vision", "command": ["true"]}])
    assert (refused, result.field) == ([True], "owner")
    led.features.enable("owners")
    other, refused = meddle(led, lambda: led.features.drop("owners"))
    assert other.apply_pool(SHARED).turned_on == ("owners",)
    assert refused[0]
    assert states(led)["owners"] == "on"


def spec(name: str, owner: str) -> bytes:
    return codec.encode_spec(Spec(id=name, owner=owner, command=("true",)), 1.0, Op("x"))


def test_what_uses_owners_keeps_them_on(led: Client, put_raw: PutRaw, put_status: PutStatus) -> None:
    led.features.enable("owners")
    led.apply_pool(SHARED)
    with pytest.raises(UserError, match="uses it: pool/shared"):
        led.features.drop("owners")
    led.delete_pool("shared")
    for number in range(7):
        put_raw(f"tasks/t{number}", spec(f"t{number}", "vision"))
    with pytest.raises(UserError, match="task/t0, task/t1, task/t2, task/t3, task/t4 and 2 more"):
        led.features.drop("owners")
    assert states(led)["owners"] == "on"
    for number in range(7):
        put_raw(f"tasks/t{number}", spec(f"t{number}", "default"))
    put_status("left", State.SUCCEEDED, owner="vision")
    with pytest.raises(UserError, match="task/left"):
        led.features.drop("owners")
    put_status("left", State.SUCCEEDED)
    assert led.features.drop("owners")
    assert states(led)["owners"] == "off"
    assert not led.features.drop("owners")


def test_what_uses_claims_keeps_them_on(led: Client, put_raw: PutRaw, put_status: PutStatus) -> None:
    led.apply_pool(PREEMPTING)
    with pytest.raises(UserError, match="uses it: pool/shared"):
        led.features.drop("claims")
    led.apply_pool(SHARED)
    put_status("victim", State.RUNNING, stopping="preempted")
    with pytest.raises(UserError, match="task/victim"):
        led.features.drop("claims")
    put_status("victim", State.RUNNING)
    assert led.features.drop("claims")
    assert states(led) == {"changes": "off", "claims": "off", "owners": "on"}


def test_while_a_feature_is_being_dropped_it_takes_no_new_use(led: Client, put_raw: PutRaw) -> None:
    """A drop that was interrupted is begun again, or taken back."""
    put_raw(
        "engine", b'{"engine":{"name":"null","parts":{"feature/owners":"dropping"}},"installation":"abc"}'
    )
    assert states(led)["owners"] == "dropping"
    with pytest.raises(InvalidField, match="is dropping"):
        led.submit({"id": "a", "owner": "vision", "command": ["true"]})
    with pytest.raises(TallyError, match="is dropping"):
        led.apply_pool(SHARED)
    assert led.features.enable("owners")
    assert states(led)["owners"] == "on"
