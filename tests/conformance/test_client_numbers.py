"""Numbers that are none, or out of bounds, are refused alike by both ways to Tally."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from controller.client import AsyncClient, Client, LogOptions, connect_to_gateway
from controller.client.by_gateway import NeedsEtcd
from controller.errors import InvalidField
from controller.views.ahead import MOST_HORIZON_SECONDS
from tests.client.conftest import PutRaw
from tests.client.conftest import client as client
from tests.client.conftest import put_raw as put_raw
from tests.client.test_features import release
from tests.conformance.test_client import Ways, task
from tests.conformance.test_client import ways as ways
from tests.gateway.conftest import _features as _features
from tests.gateway.conftest import served as served

NAN, INFINITY = float("nan"), float("inf")
NO_SECONDS: list[Any] = [NAN, INFINITY, -INFINITY, -1, 1e12, 10**400, True, "5", [1]]
Verb = Callable[[Client, Any], object]
TAKES_SECONDS: dict[str, Verb] = {
    "timeout_seconds": lambda tally, number: tally.wait(["a"], timeout_seconds=number),
    "horizon_seconds": lambda tally, number: tally.forecasts.of("a", horizon_seconds=number),
    "horizon_seconds ": lambda tally, number: tally.forecasts.suppose(horizon_seconds=number),
    "since_seconds": lambda _, number: LogOptions(since_seconds=number),
}
TAKES_WHOLE: dict[str, Verb] = {
    "attempt": lambda tally, number: [*tally.outputs.logs("a", attempt=number)],
    "tail": lambda _, number: LogOptions(tail=number),
    "offset": lambda tally, number: tally.members.page("a", offset=number),
    "limit": lambda tally, number: tally.members.page("a", limit=number),
    "limit ": lambda tally, number: tally.neighbours("a", limit=number),
    "depth": lambda tally, number: tally.neighbours("a", depth=number),
    "term": lambda tally, number: tally.replicas.end_term(number),
    "priority": lambda tally, number: tally.set_priority("a", number),
}


def refused(ways: Ways, verb: Verb, number: Any, field: str) -> None:
    ways.both(lambda tally: verb(tally, number))
    for tally in (ways.direct, ways.gateway):
        with pytest.raises(InvalidField) as error:
            verb(tally, number)
        assert error.value.field == field.strip()


def test_numbers_that_are_none(ways: Ways) -> None:
    ways.direct.submit(task("a"))
    for field, verb in TAKES_SECONDS.items():
        for number in NO_SECONDS:
            refused(ways, verb, number, field)
    for field, verb in TAKES_WHOLE.items():
        for number in (*NO_SECONDS, 1.5, -(10**12)):
            if (field, number) != ("priority", -1):
                refused(ways, verb, number, field)
    for number in (NAN, INFINITY, True, "5"):
        refused(ways, lambda tally, number: tally.maintenance.undrain("default", number), number, "starts_at")
        drain: Verb = lambda tally, number: tally.maintenance.drain("default", number, 4e9)  # noqa: E731
        refused(ways, drain, number, "starts_at")


def test_a_horizon_has_the_same_bounds_everywhere(ways: Ways) -> None:
    for number in (0, 0.5, MOST_HORIZON_SECONDS + 1):
        refused(ways, TAKES_SECONDS["horizon_seconds"], number, "horizon_seconds")
    for number in (1, MOST_HORIZON_SECONDS):
        for tally in (ways.direct, ways.gateway):
            assert tally.forecasts.of(horizon_seconds=number).is_whole


def test_a_wait_for_asyncio(ways: Ways) -> None:
    async def use(client: Client) -> None:
        with pytest.raises(InvalidField, match="timeout_seconds"):
            await asyncio.wait_for(AsyncClient(client).wait(["a"], timeout_seconds=NAN), 20)

    for each in (ways.direct, ways.gateway):
        asyncio.run(use(each))


@pytest.mark.parametrize("number", [NAN, -1, 0, INFINITY])
def test_the_time_limit_of_calls(number: float) -> None:
    for make in (Client, connect_to_gateway):
        with pytest.raises(InvalidField, match="timeout_seconds"):
            make("http://127.0.0.1:1", timeout_seconds=number)


def test_a_term_is_ended_by_both_ways(ways: Ways, put_raw: PutRaw) -> None:
    """That one, and no later one."""
    for tally in (ways.direct, ways.gateway):
        put_raw("leader", release("r1"))
        leader = ways.direct.replicas.leader()
        assert leader is not None
        term = leader.term
        tally.replicas.end_term(term + 1)
        assert ways.direct.replicas.leader() is not None
        tally.replicas.end_term(term)
        assert ways.direct.replicas.leader() is None


def test_what_a_gateway_does_not_offer_says_so(ways: Ways) -> None:
    """Each verb of a part of a client is one of its gateway's, too, or works with those."""
    others = set()
    for name, part in vars(ways.direct).items():
        kind = type(vars(ways.gateway).get(name))
        if type(part) in kind.__mro__[1:]:
            verbs = {verb for verb in vars(type(part)) if not verb.startswith("_")}
            others |= {f"{name}.{verb}" for verb in verbs - vars(kind).keys()}
    assert others == {"bulk.act", "forecasts.suppose", "features.check", "features.ensure", "schedules.none"}
    for verb in (ways.gateway.features.check, ways.gateway.features.ensure):
        with pytest.raises(NeedsEtcd):
            verb({})
    assert not hasattr(ways.gateway.features, "nothing")
