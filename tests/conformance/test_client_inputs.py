"""Both ways to Tally refuse the same input with the same words, and change none of it."""

from __future__ import annotations

import datetime
import re
from decimal import Decimal
from typing import Any

import pytest

from controller.client import Client
from controller.client.bulk import TaskAct
from controller.core.model.lifecycle import State
from controller.errors import InvalidField
from tests.client.conftest import PutStatus
from tests.client.conftest import client as client
from tests.client.conftest import put_raw as put_raw
from tests.client.conftest import put_status as put_status
from tests.conformance.test_client import Ways, task
from tests.conformance.test_client import ways as ways
from tests.gateway.conftest import As
from tests.gateway.conftest import _features as _features
from tests.gateway.conftest import as_ as as_
from tests.gateway.conftest import served as served
from tests.support.waiting import wait_until

INFINITY, NAN, HALF = float("inf"), float("nan"), "\ud800"
LARGE = "x" * 1_700_000  # more than a request may have
NO_JSON: dict[str, dict[Any, Any]] = {
    "grace_seconds": {"grace_seconds": INFINITY},
    "priority": {"priority": -INFINITY},
    "deadlines.run_seconds": {"deadlines": {"run": NAN}},
    "command[0]": {"command": [b"\xff\x00"]},
    "command": {"command": {"a"}},
    "args[0]": {"args": [HALF]},
    "labels": {"labels": {7: "x"}},
    "env": {"env": {None: "x"}},
    "env.D": {"env": {"D": datetime.date(2026, 1, 1)}},
    "resources.cpu": {"resources": {"cpu": Decimal("1.5")}},
    "": {"args": [LARGE]},
}


@pytest.mark.parametrize("field", NO_JSON)
def test_what_json_cannot_hold_is_refused_by_its_field(ways: Ways, field: str) -> None:
    """None of it is stored as something else; the tasks beside it are submitted."""

    def submit(client: Client, name: str) -> Any:
        tasks = [task(f"{name}-1"), task(name, **NO_JSON[field]), task(f"{name}-2", after=[{"task": name}])]
        found = {result.index: result for result in client.submit_many([*tasks, task(f"{name}-3")])}
        assert [found[index].outcome for index in range(4)] == ["created", "invalid", "invalid", "created"]
        assert found[1].field == field
        with pytest.raises(InvalidField):
            client.submit(tasks[1])
        return sorted(found.items())

    ways.alike(submit, "by-etcd", "by-gate")


def test_tuples_and_dates_in_templates_are_as_by_etcd(ways: Ways) -> None:
    def submit(client: Client, name: str) -> Any:
        made = datetime.date(2026, 1, 1)
        template = {"metadata": {"annotations": {"made": made}}}
        outcome = client.submit({"id": name, "command": ("a", "b"), "pod_template": template}).outcome
        spec = client.get(name).spec
        assert spec is not None
        return outcome, spec.command, spec.pod_template

    ways.alike(submit, "by-etcd", "by-gate")


def test_pools_schedules_and_requests(ways: Ways) -> None:
    ways.direct.submit(task("a"))
    ways.both(lambda client: client.apply_pool({"name": "p", "capacity": {"cpu": NAN}}))
    ways.both(lambda client: client.cancel("a", reason=HALF))
    ways.both(lambda client: client.cancel("a", reason="x" * 2001))
    ways.both(lambda client: client.set_priority("a", NAN))  # type: ignore[arg-type]
    view, act = ways.direct.get("a"), TaskAct.SET_PRIORITY
    ways.both(lambda client: [*map(str, client.bulk.act(act, [view], priority=1, reason=HALF))])
    ways.both(lambda client: [*map(str, client.bulk.act(act, [view], priority=True))])
    assert ways.direct.get("a").requests == ()


@pytest.mark.parametrize(
    "labels", [{"a": "b,c"}, {"a": "b c"}, {"a,b": "c"}, {"a": "(b)"}, {"a": 7}, {7: "a"}]
)
def test_labels_that_no_task_can_have_are_no_other_selector(ways: Ways, labels: Any) -> None:
    ways.gateway.submit(task("a", labels={"a": "b", "c": "1"}))
    ways.both(lambda client: [view.id for view in client.tasks(labels=labels)])
    with pytest.raises(InvalidField) as refused:
        ways.gateway.tasks(labels=labels)
    assert refused.value.field.startswith("labels")
    with pytest.raises(InvalidField):
        next(ways.gateway.watch_tasks(labels=labels))
    assert ways.both(lambda client: [view.id for view in client.tasks(labels={"a": "b"})]) == ["a"]


NO_POOLS: list[Any] = [None, [1], "x", 7, {}, {"name": None}, {"name": 7}, {7: 1}, {"name": "p", 7: 1}]


@pytest.mark.parametrize("definition", NO_POOLS, ids=repr)
def test_what_is_no_pool(ways: Ways, definition: Any) -> None:
    ways.both(lambda client: client.apply_pool(definition))
    for each in (ways.direct, ways.gateway):
        with pytest.raises(InvalidField):
            each.apply_pool(definition)


@pytest.mark.parametrize("name", [HALF, "x" * 254, "a\0b", 7], ids=ascii)
def test_names_that_tasks_are_not_chosen_by(ways: Ways, name: Any) -> None:
    for given in ({"pool": name}, {"owner": name}):
        ways.both(lambda client, given=given: client.tasks(**given))  # type: ignore[misc]
        for each in (ways.direct, ways.gateway):
            with pytest.raises(InvalidField):
                each.tasks(**given)
            with pytest.raises(InvalidField):
                next(each.watch_tasks(**given))
    ways.both(lambda client: client.owners.all(name))
    ways.both(lambda client: client.usage(pool=name))


def test_a_reason_is_judged_also_where_nothing_is_to_be_done(ways: Ways, put_status: PutStatus) -> None:
    ways.direct.submit(task("a"))
    put_status("a", State.SUCCEEDED)
    wait_until(lambda: ways.gateway.tasks(state="Succeeded"), "the end of the task")
    for reason in ("x" * 100_000, HALF, 7):
        for verb in ("cancel", "retry", "hold", "release", "confirm_stopped"):
            for each in (ways.direct, ways.gateway):
                with pytest.raises(InvalidField, match="reason"):
                    getattr(each, verb)("a", reason=reason)


MANY_DIGITS = 10**5000
DEEP: dict[str, Any] = {}
for _ in range(5000):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize("value", [MANY_DIGITS, DEEP], ids=["digits", "depth"])
def test_limits_of_python_are_not_told_in_its_words(ways: Ways, as_: As, value: Any) -> None:
    fields: list[dict[Any, Any]] = [
        *(
            {name: value}
            for name in ("id", "priority", "pod_template", "labels", "array", "after", "resources")
        ),
        {"resources": {"cpu": value}},
        {"labels": {"a": value}},
        {"resources": {MANY_DIGITS: 1}},
    ]
    for more in fields:
        told = ways.both(lambda client, more=more: client.submit({**task("a"), **more}))  # type: ignore[misc]
        assert not re.search("4300|set_int|[Rr]ecursion", told)
    ways.both(lambda client: client.set_priority("a", value))
    ways.both(lambda client: client.apply_pool({"name": "p", "capacity": {"cpu": value}}))
    for body in (b"9" * 5000, b'{"a":' * 100_000):
        refused = as_("alice").post("/v1/tasks", content=body)
        assert refused.status_code == 400
        assert not re.search("4300|set_int|[Rr]ecursion", refused.text)
