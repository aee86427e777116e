"""Quantities and vectors: exact, strict, and the same after a round trip."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.model.resources import (
    MAX_AMOUNT,
    MAX_NAMES,
    ZERO,
    Vector,
    format_quantity,
    parse_quantity,
)
from controller.errors import InvalidField

names = st.sampled_from(["cpu", "memory", "ephemeral-storage", "hugepages-2Mi", "nvidia.com/gpu", "licences"])
amounts = st.one_of(
    st.integers(0, MAX_AMOUNT), st.integers(0, 60).map(lambda power: 2**power), st.integers(0, 5000)
)
vectors = st.dictionaries(names, st.integers(0, 10**6)).map(Vector)


@given(names, amounts)
def test_a_formatted_amount_is_read_back_exactly(name: str, amount: int) -> None:
    assert parse_quantity(name, format_quantity(name, amount)) == amount


@given(vectors)
def test_a_formatted_vector_is_read_back_exactly(vector: Vector) -> None:
    assert Vector.parse(vector.format()) == vector


@given(
    st.integers(0, 10**6),
    st.sampled_from(["m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]),
)
def test_suffixes_mean_what_kubernetes_says(number: int, suffix: str) -> None:
    powers = {"m": Fraction(1, 1000)} | {s: Fraction(1000) ** n for n, s in enumerate("kMGTPE", 1)}
    powers |= {f"{s}i": Fraction(1024) ** n for n, s in enumerate("KMGTPE", 1)}
    exact = number * powers[suffix] * 1000
    if exact.denominator == 1 and exact <= MAX_AMOUNT:
        assert parse_quantity("cpu", f"{number}{suffix}") == exact
    else:
        with pytest.raises(InvalidField):
            parse_quantity("cpu", f"{number}{suffix}")


@pytest.mark.parametrize(
    ("name", "text", "amount"),
    [
        ("cpu", "500m", 500),
        ("cpu", 2, 2000),
        ("cpu", 0.5, 500),
        ("cpu", "0.1", 100),
        ("cpu", ".5", 500),
        ("cpu", "1e3", 10**6),
        ("memory", "64Mi", 64 * 2**20),
        ("memory", "1.5Gi", 3 * 2**29),
        ("memory", "1E", 10**18),
        ("memory", "1E2", 100),
        ("memory", "1000m", 1),
        ("gpu", "12e-1", None),
        ("memory", MAX_AMOUNT, MAX_AMOUNT),
        ("memory", "0", 0),
    ],
)
def test_spellings(name: str, text: object, amount: int | None) -> None:
    if amount is None:
        with pytest.raises(InvalidField):
            parse_quantity(name, text)
    else:
        assert parse_quantity(name, text) == amount


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-1",
        "+1",
        "1_000",
        "１",
        "nan",
        "inf",
        "1e999",
        "1e100",
        "0x10",
        "1,5",
        "1 Gi",
        "1gi",
        "1KI",
        "1mm",
        "1e",
        "1e+",
        "Infinity",
        None,
        True,
        False,
        [],
        {},
        b"1",
        float("nan"),
        float("inf"),
        -1,
        -0.5,
        10**30,
        str(MAX_AMOUNT + 1),
        "9" * 25,
    ],
)
def test_what_is_no_quantity_is_refused_by_name(text: object) -> None:
    with pytest.raises(InvalidField) as caught:
        parse_quantity("memory", text, "resources.memory")
    assert caught.value.field == "resources.memory"


@pytest.mark.parametrize(
    ("name", "text"), [("cpu", "0.1m"), ("cpu", "0.0001"), ("memory", "1.5"), ("memory", "1m"), ("gpu", 0.5)]
)
def test_what_is_finer_than_a_unit_is_refused_and_never_rounded(name: str, text: object) -> None:
    with pytest.raises(InvalidField, match="finer than"):
        parse_quantity(name, text)


@given(st.text(max_size=30))
def test_any_text_is_an_amount_or_a_refusal(text: str) -> None:
    try:
        amount = parse_quantity("memory", text)
    except InvalidField:
        return
    assert 0 <= amount <= MAX_AMOUNT


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        "cpu=1",
        {1: "1"},
        {"": "1"},
        {"-cpu": "1"},
        {"a b": "1"},
        {"UPPER.example/": "1"},
        {"x" * 64: "1"},
        {f"r{n}": 1 for n in range(MAX_NAMES + 1)},
    ],
)
def test_what_is_no_vector_is_refused(raw: object) -> None:
    with pytest.raises(InvalidField) as caught:
        Vector.parse(raw, "capacity")
    assert caught.value.field == "capacity"


def test_a_bad_amount_names_its_resource() -> None:
    with pytest.raises(InvalidField) as caught:
        Vector.parse({"cpu": "1", "memory": "-1"}, "hold")
    assert caught.value.field == "hold.memory"


@given(vectors, vectors)
def test_what_is_added_can_be_taken_away(a: Vector, b: Vector) -> None:
    assert (a + b) - b == a
    assert a - a == ZERO
    assert a + b == b + a


@given(vectors, vectors)
def test_fitting_is_exceeding_nothing(request: Vector, free: Vector) -> None:
    assert request.fits(free) is (request.exceeding(free) == [])
    assert request.fits(free) is all((free - request).get(name) >= 0 for name in request)


@given(st.dictionaries(names, st.integers(0, 3)))
def test_zeros_and_order_make_no_difference(raw: dict[str, int]) -> None:
    padded: Mapping[str, Any] = {**dict(reversed(raw.items())), "never-asked": 0}
    assert Vector(raw) == Vector(padded)
    assert hash(Vector(raw)) == hash(Vector(padded))


def test_a_balance_below_zero_is_kept_and_shown() -> None:
    below = ZERO - Vector({"cpu": 500, "memory": 2**20})
    assert below.format() == {"cpu": "-500m", "memory": "-1Mi"}
    assert not Vector({"cpu": 1}).fits(below)
