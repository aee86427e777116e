"""Counts in words."""

from __future__ import annotations

import pytest

from controller.core.model.printable import counted


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((0, "replica"), "0 replicas"),
        ((1, "replica"), "1 replica"),
        ((2, "status", "statuses"), "2 statuses"),
        ((1, "status", "statuses"), "1 status"),
    ],
)
def test_one_is_no_plural(given: tuple[int, str], words: str) -> None:
    assert counted(*given) == words
