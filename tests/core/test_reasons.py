"""The reasons that a retry rule is checked against are those that the code ends attempts with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import controller.core.planning
import controller.engine
from controller.core.model.task import RetryPolicy, RetryRule
from controller.core.planning.reasons import REASONS, unknown_reasons
from controller.engine.docker import container
from controller.engine.kubernetes import pod_observation
from controller.telemetry import label_words


def test_what_engines_refuse_and_report_is_known() -> None:
    """Whoever adds a reason is told to add it here too."""
    source = "".join(path.read_text() for path in Path(controller.engine.__path__[0]).rglob("*.py"))
    words = set(re.findall(r'AttemptRefused\(\s*"(\w+)"', source))
    words |= set(re.findall(r'_failure\([\w., ]+, "(\w+)"', source)) | set(
        re.findall(r'ran=\w+, reason="(\w+)"', source)
    )
    assert len(words) > 10
    words |= pod_observation._REFUSED | pod_observation._DISRUPTED | pod_observation._CANNOT_START
    words |= set(container._START_FAILURES.values())
    assert words <= REASONS
    assert label_words.REASONS > REASONS


def test_what_the_leader_itself_ends_attempts_with_is_known() -> None:
    """Lost ones that are replaced, and members that end with their gang."""
    source = "".join(path.read_text() for path in Path(controller.core.planning.__path__[0]).glob("*.py"))
    words = set(re.findall(r'_give_up\(\s*task,\s*status,\s*"(\w+)"', source))
    words |= set(re.findall(r'fate\.reason or "(\w+)"', source))
    assert {"Lost", "MemberFailed"} <= words
    assert words <= REASONS


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        ("OOMKiled", "did you mean OOMKilled?"),
        ("oomkilled", "did you mean OOMKilled?"),
        ("CompanyPolicy", "it matches only if your cluster or container runtime reports it"),
    ],
)
def test_an_unknown_reason_is_doubted(reason: str, says: str) -> None:
    rules = (
        RetryRule(action="fail", exit_codes=(2,)),
        RetryRule(action="retry", reasons=("Evicted", "OutOfnvidia.com/gpu", reason)),
    )
    [(field, problem)] = unknown_reasons(RetryPolicy(rules=rules))
    assert field == "retry.rules[1].reasons[2]"
    assert problem == f"{reason!r} is not a reason that Tally knows; {says}"
