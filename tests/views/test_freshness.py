"""The one rule of ages: what the page, the endpoint, the metrics and the command line go by."""

from __future__ import annotations

import pytest

from controller.config import Settings
from controller.views.freshness import RULE, Freshness, Rule, StalenessLimits


@pytest.mark.parametrize(
    ("age", "expected"), [(0.0, "fresh"), (5.9, "fresh"), (6.0, "stale"), (9.9, "stale"), (10.0, "dead")]
)
def test_an_age_is_fresh_then_stale_then_dead(age: float, expected: str) -> None:
    assert StalenessLimits(6.0, 10.0).judge(age) is Freshness(expected)


def test_the_rule_follows_the_settings() -> None:
    """A slower heartbeat makes nobody look dead; and what is assumed where the settings are not known are
    their defaults.
    """
    settings = Settings()
    assert Rule.of(settings.heartbeat_seconds, settings.silence_seconds, settings.relist_seconds) == RULE
    slow = Rule.of(heartbeat_seconds=10.0, silence_seconds=60.0, relist_seconds=300.0)
    assert slow.replica.judge(29.0) is Freshness.FRESH
    assert slow.store.judge(29.0) is Freshness.FRESH
    assert slow.engine.judge(301.0) is Freshness.FRESH
    for limits in (*RULE, *slow):
        assert limits.stale_seconds < limits.dead_seconds
