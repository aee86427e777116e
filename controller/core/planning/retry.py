"""What follows a failed attempt: the rules of the spec, in order, and then the counts of its policy.

Pure. The jitter is deterministic.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

from controller.core.model.task import AttemptId, Observation, RetryPolicy, Status

LONGEST_UNCOUNTED_SECONDS = 60.0
"""The longest back-off after an uncounted end.

An attempt that runs for at least as long ends a series of uncounted ends.
"""

JITTER = 0.1
"""Back-offs are lengthened by up to this share, so that tasks that failed together do not return together."""

PERMANENT_REASONS = frozenset(
    {
        "ArgumentsTooLong",
        "CommandNotFound",
        "PermissionDenied",
        "BadWorkingDirectory",
        "InvalidSpec",
        "InvalidImageName",
        "InvalidName",
        "NameTaken",
        "NoCommand",
        "NotExecutable",
        "SpecDeleted",
        "InvalidPod",
        "InvalidContainer",
        "PodSecurityViolation",
    }
)
"""Failures to start that the same spec will meet again. They are not retried, unless a rule says so."""


class RetryDecision(NamedTuple):
    """Whether another attempt follows, after how many seconds, and the next values of the counts."""

    retry: bool
    delay_seconds: float
    failures: int
    start_failures: int
    uncounted: int
    why: str  # why there is no other attempt; "" if there is one


def judge(policy: RetryPolicy, status: Status, observation: Observation, now: float) -> RetryDecision:
    """The verdict on an attempt that failed, or is gone, at `now`.

    The first rule that matches the exit code or the reason decides. Without one, an attempt that the platform
    ended (`disrupted`) is ignored, one that never ran counts as a start failure, and all others count as
    failures. Back-offs follow these counts, never the attempt's number. A request to retry resets the counts.
    """
    number, action = _matching(policy, observation)
    by_rule = f"retry.rules[{number}] says fail" if action == "fail" else ""
    failures, start_failures = status.failures, status.start_failures
    if action == "ignore" or (action is None and observation.disrupted):
        # The policy's back-off need not grow, and nothing else would end such a series: a quota that refuses
        # every start would be asked as fast as etcd commits. So a series becomes slower. An attempt that ran
        # for long was not part of it.
        lasted = now - status.started_at if observation.ran and status.started_at is not None else 0.0
        series = 1 if lasted >= LONGEST_UNCOUNTED_SECONDS else status.uncounted + 1
        least = min(2.0 ** min(series - 1, 64), LONGEST_UNCOUNTED_SECONDS)
        return RetryDecision(
            True,
            max(least, _backoff(policy, observation.attempt, series)),
            failures,
            start_failures,
            series,
            "",
        )
    if not observation.ran:
        start_failures += 1
        if action == "fail" or (action is None and observation.reason in PERMANENT_REASONS):
            return RetryDecision(False, 0.0, failures, start_failures, 0, by_rule)
        if start_failures > policy.max_start_failures:
            why = (
                f"failed to start {start_failures} times, more than max_start_failures"
                f" ({policy.max_start_failures})"
            )
            return RetryDecision(False, 0.0, failures, start_failures, 0, why)
        return RetryDecision(
            True, _backoff(policy, observation.attempt, start_failures), failures, start_failures, 0, ""
        )
    failures += 1
    if action == "fail":
        return RetryDecision(False, 0.0, failures, start_failures, 0, by_rule)
    if failures >= policy.max_attempts:
        why = f"all {policy.max_attempts} attempts failed" if policy.max_attempts > 1 else ""
        return RetryDecision(False, 0.0, failures, start_failures, 0, why)
    return RetryDecision(
        True, _backoff(policy, observation.attempt, failures), failures, start_failures, 0, ""
    )


def _matching(policy: RetryPolicy, observation: Observation) -> tuple[int, str | None]:
    """The first rule that matches: its number, from 0, and its action, which is None if no rule matches."""
    for number, rule in enumerate(policy.rules):
        matches_all = not rule.exit_codes and not rule.reasons
        if matches_all or observation.exit_code in rule.exit_codes or observation.reason in rule.reasons:
            return number, rule.action
    return -1, None


def _backoff(policy: RetryPolicy, attempt: AttemptId, n: int) -> float:
    """Seconds before the next attempt, after the n-th failure of its kind (n from 1)."""
    exponent = min(n - 1, 64)  # beyond it, any factor above 1 has reached any maximum
    delay: float = min(policy.backoff_seconds * policy.factor**exponent, policy.max_seconds)
    return delay * (1 + JITTER * zlib.crc32(str(attempt).encode()) / 2**32)
