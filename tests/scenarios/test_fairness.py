"""Owners get what their weights say, whoever leads; a late comer; and what a half-life remembers."""

from __future__ import annotations

import pytest

from tests.support.fairness import compete

TEN = {f"o{n}": float(weight) for n, weight in enumerate((1, 2, 3, 4, 1, 2, 3, 4, 1, 2))}


@pytest.mark.parametrize(
    "half_life",
    [
        pytest.param(0, id="what is held counts", marks=pytest.mark.slow),  # as below, with fewer owners
        pytest.param(100, id="what was held counts"),
    ],
)
def test_ten_owners_of_different_weights(half_life: int) -> None:
    """Sizes and run times are mixed, and eleven leaders follow each other: each owner is within 5 % of its
    part.
    """
    found = compete(TEN, 600, half_life=half_life, leader_seconds=50)
    assert found.leaders >= 11
    whole = sum(TEN.values())
    for owner, weight in TEN.items():
        assert found.part(owner, 100, 600) == pytest.approx(weight / whole, rel=0.05), owner


def test_a_late_comer_has_its_part_within_one_task_s_length() -> None:
    """No task runs for more than 50 s."""
    weights = {"a": 1.0, "b": 1.0, "late": 2.0}
    found = compete(weights, 400, active={"late": (200.0, 400.0)})
    assert found.part("late", 0, 200) == 0
    assert found.part("late", 250, 400) == pytest.approx(0.5, rel=0.05)


@pytest.mark.slow
def test_a_half_life_remembers_who_had_little() -> None:
    """`b` had nothing for a while: with a half-life it has more than its half then; without, its half."""
    weights = {"a": 1.0, "b": 1.0}
    active = {"b": (100.0, 400.0)}
    found = compete(weights, 400, half_life=50, active=active)
    assert found.part("b", 125, 165) > 0.6
    assert found.part("b", 300, 400) == pytest.approx(0.5, rel=0.1)
    forgets = compete(weights, 175, active=active)
    assert forgets.part("b", 125, 165) == pytest.approx(0.5, rel=0.05)
