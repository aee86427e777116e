"""Back-offs follow what the retry policy counts, and never how often a task was tried in all."""

from __future__ import annotations

from typing import Any

import pytest

from controller.core.model.lifecycle import State
from controller.core.model.task import AttemptId, Observation, Phase, RetryPolicy, RetryRule, Status
from controller.core.planning.retry import JITTER, LONGEST_UNCOUNTED_SECONDS, judge

POLICY = RetryPolicy(max_attempts=5, backoff_seconds=2.0)
NOW = 1_000_000.0


def ended(attempt: int, **fields: Any) -> Observation:
    return Observation(attempt=AttemptId("job", attempt), phase=Phase.FAILED, stopped=True, **fields)


def delay(status: Status, observation: Observation) -> float:
    verdict = judge(POLICY, status, observation, NOW)
    assert verdict.retry
    return verdict.delay_seconds


@pytest.mark.parametrize("disrupted", [True, False])
def test_the_attempt_s_number_is_no_measure(disrupted: bool) -> None:
    """Attempt 30, after requests to retry: its end is the first of its kind."""
    status = Status(state=State.RUNNING, attempt=30, started_at=NOW - 5)
    assert 2.0 <= delay(status, ended(30, reason="Interrupted", disrupted=disrupted)) <= 2.0 * (1 + JITTER)


def test_a_series_of_uncounted_ends_becomes_slower() -> None:
    """A quota that refuses every start is asked ever more seldom, whatever the policy's back-off."""
    status, delays = Status(state=State.PENDING), []
    for attempt in range(1, 12):
        verdict = judge(
            RetryPolicy(backoff_seconds=0), status, ended(attempt, ran=False, disrupted=True), NOW
        )
        status = Status(state=State.PENDING, attempt=attempt, uncounted=verdict.uncounted)
        delays.append(verdict.delay_seconds)
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_UNCOUNTED_SECONDS


def test_what_ran_for_long_or_was_counted_ends_the_series() -> None:
    """Evicted once a day for a month is no reason to wait for minutes; nor is it after a failure that was
    counted.
    """
    evicted = ended(30, reason="Evicted", disrupted=True)
    assert (
        delay(Status(state=State.RUNNING, attempt=30, uncounted=29, started_at=NOW - 86_400), evicted) < 3.0
    )
    assert delay(Status(state=State.RUNNING, attempt=30, uncounted=29, started_at=NOW - 1), evicted) > 299.0
    assert judge(POLICY, Status(state=State.RUNNING, attempt=30, uncounted=29), ended(30), NOW).uncounted == 0


@pytest.mark.parametrize("ran", [True, False])
def test_the_rule_that_ends_a_task_is_told(ran: bool) -> None:
    """Attempts are left: without it, nothing would say why they are not used."""
    rules = (RetryRule(action="ignore", reasons=("Evicted",)), RetryRule(action="fail", exit_codes=(2,)))
    verdict = judge(
        RetryPolicy(max_attempts=3, rules=rules),
        Status(state=State.RUNNING),
        ended(1, ran=ran, exit_code=2),
        NOW,
    )
    assert (verdict.retry, verdict.why) == (False, "retry.rules[1] says fail")
