"""What is wrong with `array: {gang: true, …}` is told by the name of the field, with what to do."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from controller.client.prepared import prepare
from controller.core.model import codec
from controller.core.model.demand import demand, reserved
from controller.core.model.records import PoolRecord
from controller.core.model.resources import Vector
from controller.core.model.validation import parse_pool, parse_spec
from controller.errors import InvalidField

WRONG = {
    "{gang: yes please, size: 3}": "array.gang: is 'yes please', expected true or false",
    "{gang: 1, size: 3}": "array.gang: is 1, expected true or false",
    "{gang: true}": "array.size: is missing: give the number of members, 1 to 10,000, or `roles`",
    "{gang: true, size: 0}": "array.size: is 0, expected 1 to 10000",
    "{gang: true, size: 10001}": "array.size: is 10001, expected 1 to 10000",
    "{gang: true, size: three}": "array.size: is 'three', expected a whole number",
    "{gang: true, size: 3, max_running: 2}": (
        "array.max_running: means nothing for a gang, which runs whole: leave it out"
    ),
    "{gangs: true, size: 3}": "array.gangs: is not a field; did you mean gang?",
    "{size: 3, roles: [{name: a, size: 3}]}": (
        "array.roles: are those of a gang: add `gang: true` beside them"
    ),
    "{gang: false, roles: [{name: a, size: 3}]}": (
        "array.roles: are those of a gang: add `gang: true` beside them"
    ),
    "{gang: true, role: [{name: a, size: 1}]}": "array.role: is not a field; did you mean roles?",
    "{gang: true, roles: []}": (
        "array.size: is missing: give the number of members, 1 to 10,000, or `roles`"
    ),
    f"{{gang: true, roles: [{', '.join(['{name: a, size: 1}'] * 17)}]}}": (
        "array.roles: has 17 roles, but at most 16 are allowed"
    ),
    "{gang: true, roles: {launcher: 1, worker: 2}}": (
        "array.roles: expected a list, such as [{name: launcher, size: 1}, {name: worker, size: 8}]"
    ),
    "{gang: true, roles: [launcher, worker]}": (
        "array.roles[0]: expected a mapping such as {name: worker, size: 8, resources: {cpu: 2}}"
    ),
    "{gang: true, roles: [{name: a}]}": "array.roles[0].size: is missing: a role has a name and a size",
    "{gang: true, roles: [{size: 3}]}": "array.roles[0].name: is missing: a role has a name and a size",
    "{gang: true, roles: [{name: 1, size: 3}]}": (
        "array.roles[0].name: is 1, expected a name in quotes, such as 'worker'"
    ),
    "{gang: true, roles: [{name: a_b, size: 3}]}": (
        "array.roles[0].name: 'a_b' may hold only a-z, 0-9 and '-', and must begin and end with a letter or"
        " digit"
    ),
    "{gang: true, roles: [{name: a, size: 1}, {name: a, size: 2}]}": (
        "array.roles[1].name: 'a' is the name of an earlier role, too"
    ),
    "{gang: true, roles: [{name: a, size: 1.5}]}": "array.roles[0].size: is 1.5, expected a whole number",
    "{gang: true, roles: [{name: a, size: 6000}, {name: b, size: 6000}]}": (
        "array.roles: have 12,000 members in all, but a gang has at most 10,000"
    ),
    "{gang: true, size: 4, roles: [{name: a, size: 1}, {name: b, size: 2}]}": (
        "array.size: is 4, but its roles have 3 members in all: leave it out"
    ),
    "{gang: true, roles: [{name: a, size: 1, cpu: 1}]}": (
        "array.roles[0].cpu: is not a field; did you mean resources, as in {name: worker, size: 8, resources:"
        " {cpu: 2}}?"
    ),
    "{gang: true, roles: [{name: a, size: 1, resources: 4}]}": (
        "array.roles[0].resources: expected a mapping of resource names to quantities, such as {cpu: 500m,"
        " memory: 64Mi}"
    ),
    "{gang: true, roles: [{name: a, size: 1, replicas: 3}]}": (
        "array.roles[0].replicas: is not a field; did you mean size?"
    ),
    "{gang: true, roles: [{name: a, size: 1, env: {A: b}}]}": (
        "array.roles[0].env: is the same for all roles, and is given for the task: a role has its own"
        " resources, command and args"
    ),
    "{gang: true, roles: [{name: a, size: 1, nice: 3}]}": (
        "array.roles[0].nice: is not a field; the fields are name, size, resources, command, args"
    ),
    "{gang: true, roles: [{name: a, size: 1, command: run it}]}": (
        'array.roles[0].command: expected a list of strings, such as ["sh", "-c", "echo hello"], not str'
    ),
    "{gang: true, roles: [null]}": (
        "array.roles[0]: expected a mapping such as {name: worker, size: 8, resources: {cpu: 2}}"
    ),
}


def parsed(text: str, **more: Any) -> Any:
    return parse_spec({"id": "g", "command": ["true"], "array": yaml.safe_load(text), **more})


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong(text: str) -> None:
    with pytest.raises(InvalidField) as error:
        parsed(text)
    assert str(error.value) == WRONG[text]


def test_a_size_beyond_a_gangs_is_one_of_an_array() -> None:
    assert parsed("{size: 10001}").array.size == 10001
    assert parsed("{size: 10001, gang: false}").array.size == 10001


def test_the_size_of_a_gang_is_that_of_its_roles() -> None:
    roles = "[{name: launcher, size: 1}, {name: worker, size: 8}]"
    assert parsed(f"{{gang: true, roles: {roles}}}").array.size == 9
    assert parsed(f"{{gang: true, size: 9, roles: {roles}}}").array.size == 9


@pytest.mark.parametrize(
    "text", ["{gang: true, size: 2}", "{gang: true, roles: [{name: a, size: 1, command: [x]}]}", "{size: 2}"]
)
def test_a_printed_spec_is_one_that_can_be_submitted(text: str) -> None:
    spec = parsed(text)
    assert parse_spec(codec.to_builtins(spec)) == spec


def test_a_gang_has_a_start_deadline_unless_it_states_one() -> None:
    assert parsed("{gang: true, size: 2}").deadlines.start_seconds == 600
    assert parsed("{gang: true, size: 2}", deadlines={"start": 5}).deadlines.start_seconds == 5
    assert parsed("{size: 2}").deadlines.start_seconds is None


@pytest.mark.parametrize("field", ["gang", "roles", "size", "max_running", "fail_fast"])
def test_a_field_of_an_array_beside_it(field: str) -> None:
    with pytest.raises(InvalidField, match=f"{field}: is a field of an array"):
        parse_spec({"id": "a", "command": ["true"], "array": {"size": 2}, field: True})


def test_a_gang_needs_no_fail_fast() -> None:
    with pytest.raises(InvalidField, match=r"array\.fail_fast: is what a gang does anyway"):
        parse_spec({"id": "a", "command": ["true"], "array": {"size": 2, "gang": True, "fail_fast": True}})


def test_the_resources_of_a_role_replace_those_of_the_task() -> None:
    """All of them: what a role leaves out it does not ask for, and no default of the pool is filled in."""
    roles = "[{name: launcher, size: 1, resources: {cpu: 1}}, {name: worker, size: 2}]"
    spec = parsed(f"{{gang: true, roles: {roles}}}", resources={"cpu": "4", "memory": "1Gi"})
    assert [one.hold for one in reserved(spec, lambda each: demand(each, None))] == [
        Vector.parse({"cpu": "1"}),
        Vector.parse({"cpu": "4", "memory": "1Gi"}),
    ]
    pool = parse_pool({"name": "p", "capacity": {"cpu": 9}, "default_resources": {"memory": "64Mi"}})
    asked = {
        "id": "g",
        "command": ["true"],
        "pool": "p",
        "array": yaml.safe_load(f"{{gang: true, roles: {roles}}}"),
    }
    with pytest.raises(InvalidField, match="asks for 128Mi for its 3 members"):
        prepare(asked, {"p": PoolRecord(pool, 1)})
