"""Whatever a user gives, parsing answers with a value or with InvalidField that names the field; nothing
else escapes.
"""

from __future__ import annotations

import math
from contextlib import suppress
from datetime import date
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from controller.core.model import codec
from controller.core.model.demand import check_satisfiable
from controller.core.model.op import Op
from controller.core.model.resources import MAX_AMOUNT, Vector, format_quantity, parse_quantity
from controller.core.model.scalars import parse_duration
from controller.core.model.task import Pool, Spec
from controller.core.model.validation import MAX_SPEC_BYTES, parse_pool, parse_spec
from controller.errors import InvalidField
from tests.support.examples import examples

GOOD: dict[str, Any] = {"id": "train-1", "command": ["sh", "-c", "true"]}

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**63, max_value=10**40)
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.text(alphabet=st.characters(codec=None), max_size=20)
    | st.sampled_from(
        [
            "NaN",
            "-1",
            "1e999",
            "1_000",
            "٣",
            "½",
            "500m",
            "64Mi",
            "1h",
            "-1s",
            "hold",
            "retry",
            "\0",
            "\ud800",
            "0x10",
            " 1",
        ]
    )
)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
SPEC_FIELDS = Spec.__struct_fields__
POOL_FIELDS = Pool.__struct_fields__
NESTED = (
    "max_attempts",
    "factor",
    "rules",
    "action",
    "exit_codes",
    "queue",
    "run",
    "replace_after",
    "cpu",
    "memory",
    "name",
)


def mappings(names: tuple[str, ...]) -> st.SearchStrategy[dict[str, Any]]:
    """Mappings that look like what is expected, with values of any kind."""
    inner = trees | st.dictionaries(st.sampled_from(NESTED), trees, max_size=4)
    return st.dictionaries(st.sampled_from(names), inner, max_size=6)


@settings(max_examples=examples(600), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mappings(SPEC_FIELDS) | trees)
@example({"pod_template": {"a": 10**40}})
@example({"pod_template": {"a": "\ud800"}})
@example({"env": {"A": 10**4000}})
@example({"resources": {"cpu": 10**4000}})
@example({"priority": 10**400})
@example({"retry": {"factor": 10**400}})
@example({"grace_seconds": 10**400})
@example({"grace_seconds": "9" * 400})
@example({"grace_seconds": "٣"})
def test_any_json_is_a_spec_or_names_its_field(raw: Any) -> None:
    """No other exception escapes, and a spec that is accepted survives being stored and read."""
    for given_value in (raw, {**GOOD, **raw} if isinstance(raw, dict) else raw):
        with suppress(InvalidField):
            spec = parse_spec(given_value)
            stored = codec.decode_spec(spec.id, codec.encode_spec(spec, 1.0, Op("op")))
            assert stored.error == ""
            assert stored.spec == spec


@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mappings(POOL_FIELDS) | trees)
@example({"engine_options": {"a": 10**40}})
@example({"engine_options": {"a": "\ud800"}})
@example({"policy": []})
@example({"policy": {}})
def test_any_json_is_a_pool_or_names_its_field(raw: Any) -> None:
    """As for specs."""
    for given_value in (raw, {"name": "p", "capacity": {"cpu": 1}, **raw} if isinstance(raw, dict) else raw):
        with suppress(InvalidField):
            pool = parse_pool(given_value)
            assert codec.decode_pool(pool.name, codec.encode_pool(pool, Op("op"))) == pool


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""),
        ("id", "Upper"),
        ("id", "-a"),
        ("id", "a_b"),
        ("id", "ä"),
        ("id", "a" * 53),
        ("id", 7),
        ("pool", "No Pool"),
        ("image", "a b"),
        ("command", "echo hello"),
        ("command", [1]),
        ("command", ["a\0b"]),
        ("args", {"a": 1}),
        ("working_dir", 7),
        ("priority", 1.5),
        ("priority", True),
        ("priority", 10**12),
        ("grace_seconds", -1),
        ("grace_seconds", math.nan),
        ("grace_seconds", math.inf),
        ("grace_seconds", "soon"),
        ("retention_seconds", "-1s"),
        ("pod_template", [1]),
        ("on_lost", "replace"),
        ("labels", {"a": "b c"}),
        ("nonsense", 1),
    ],
)
def test_invalid_field_is_named(field: str, value: Any) -> None:
    """The error names exactly the field that does not hold."""
    with pytest.raises(InvalidField) as caught:
        parse_spec({**GOOD, field: value})
    assert caught.value.field.split(".")[0].split("[")[0] == field


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("resources.cpu", {"resources": {"cpu": "-1"}}),
        ("resources.cpu", {"resources": {"cpu": "1e999"}}),
        ("resources.cpu", {"resources": {"cpu": "0.1m"}}),
        ("resources.cpu", {"resources": {"cpu": math.nan}}),
        ("resources.cpu", {"resources": {"cpu": math.inf}}),
        ("resources.cpu", {"resources": {"cpu": True}}),
        ("resources.cpu", {"resources": {"cpu": "1_000"}}),
        ("resources.cpu", {"resources": {"cpu": "٣"}}),
        ("resources.memory", {"resources": {"memory": "1.5"}}),
        ("resources.memory", {"resources": {"memory": "10E"}}),
        ("resources.memory", {"resources": {"memory": "64mi"}}),
        ("retry.max_attempts", {"retry": {"max_attempts": 0}}),
        ("retry.factor", {"retry": {"factor": 0.5}}),
        ("retry.nonsense", {"retry": {"nonsense": 1}}),
        ("retry.rules[1].action", {"retry": {"rules": [{"action": "fail"}, {"action": "explode"}]}}),
        ("retry.rules[0].exit_codes[1]", {"retry": {"rules": [{"action": "fail", "exit_codes": [1, 256]}]}}),
        ("deadlines.run", {"deadlines": {"run": 1, "run_seconds": 2}}),
        ("deadlines.run_seconds", {"deadlines": {"run": 0}}),
        ("on_lost.replace_after_seconds", {"on_lost": {"replace_after": "x"}}),
        ("env.1A", {"env": {"1A": "x"}}),
        ("env.TALLY_TERM", {"env": {"TALLY_TERM": "1"}}),
        ("env.A", {"env": {"A": 1.5}}),
        ("labels.a", {"labels": {"a": 1}}),
    ],
)
def test_invalid_nested_field_is_named_by_its_path(path: str, value: dict[str, Any]) -> None:
    """The path leads to the very entry."""
    with pytest.raises(InvalidField) as caught:
        parse_spec({**GOOD, **value})
    assert caught.value.field == path


def test_a_megabyte_of_environment_is_refused() -> None:
    """A spec above its limit is refused with both numbers, before etcd would refuse the request."""
    with pytest.raises(InvalidField, match=rf"has 1,\d+,\d+ bytes, but at most {MAX_SPEC_BYTES:,}"):
        parse_spec({**GOOD, "env": {f"A{i}": "x" * 1024 for i in range(1024)}})


@given(
    st.integers(min_value=0, max_value=MAX_AMOUNT),
    st.sampled_from(["cpu", "memory", "nvidia.com/gpu", "hugepages-2Mi"]),
)
def test_quantities_round_trip(amount: int, name: str) -> None:
    """What is printed is read back to the last unit."""
    assert parse_quantity(name, format_quantity(name, amount)) == amount


@given(st.text(max_size=12))
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    """Durations are finite and not negative."""
    with suppress(InvalidField):
        assert 0 <= parse_duration(text, "d") < math.inf


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1h30m", 5400), ("2d", 172800), ("1.5m", 90), ("7", 7), (0.5, 0.5)]
)
def test_durations(text: object, seconds: float) -> None:
    """The forms that the documentation promises."""
    assert parse_duration(text, "d") == seconds


def test_an_unsatisfiable_request_is_refused_with_the_numbers() -> None:
    """Asked and had, in the user's own notation."""
    pool = Pool(name="p", capacity=Vector.parse({"cpu": 4}))
    spec = parse_spec({**GOOD, "resources": {"cpu": "4500m"}})
    with pytest.raises(InvalidField, match=r"resources\.cpu: asks for 4500m, but pool 'p' has 4 in all"):
        check_satisfiable(spec, pool, spec.resources)
    spec = parse_spec({**GOOD, "resources": {"nvidia.com/gpu": 1}})
    with pytest.raises(InvalidField, match=r"nvidia\.com/gpu: asks for 1, but pool 'p' has none"):
        check_satisfiable(spec, pool, spec.resources)


def test_what_json_cannot_say_is_refused_in_templates() -> None:
    """A YAML file can hold what no JSON can: it is stored as text if it has one, else named, before
    anything is sent.
    """
    with pytest.raises(InvalidField, match="pod_template: cannot be stored as JSON"):
        parse_spec({**GOOD, "pod_template": {"a": object()}})
    dated = parse_spec(
        {**GOOD, "pod_template": {"metadata": {"labels": {"a": date(2026, 1, 2), 3: [math.nan]}}}}
    )
    assert dated.pod_template == {"metadata": {"labels": {"a": "2026-01-02", "3": [None]}}}


def test_a_number_out_of_range_is_named_in_full() -> None:
    with pytest.raises(InvalidField, match=r"priority: is 1000000001, expected -1000000000 to 1000000000"):
        parse_spec({"id": "a", "command": ["x"], "priority": 1_000_000_001})
