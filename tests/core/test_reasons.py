"""The reasons that a retry rule is checked against are those that the code ends attempts with."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import controller.cli
import controller.client
import controller.core.planning
import controller.engine
import controller.views
from controller.core.model.lifecycle import State
from controller.core.model.task import Phase, RetryPolicy, RetryRule
from controller.core.planning.reasons import OWN, REASONS, unknown_reasons
from controller.core.planning.retry import PERMANENT_REASONS
from controller.engine.docker import container
from controller.engine.kubernetes import pod_observation
from controller.telemetry import label_words
from tests.support.bench import Stage, observation, starts


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
    assert words <= REASONS - OWN
    assert label_words.REASONS > REASONS


def test_what_the_leader_itself_ends_attempts_with_is_known() -> None:
    """Lost ones that are replaced, and members that end with their gang."""
    source = "".join(path.read_text() for path in Path(controller.core.planning.__path__[0]).glob("*.py"))
    words = set(re.findall(r'_give_up\(\s*task,\s*status,\s*"(\w+)"', source))
    words |= set(re.findall(r'fate\.reason or "(\w+)"', source))
    assert {"Lost", "MemberFailed"} <= words
    assert words <= REASONS


# compared in what an engine reports, or where there was no attempt, or only told in other words
ENGINES_WORDS = {"NameTaken", *PERMANENT_REASONS, "Failed"}


def test_what_is_decided_by_a_reason_goes_by_words_that_no_engine_can_give() -> None:
    """An engine passes on what others say: a condition's reason "Preempted" ended a task's back-off."""
    compared: dict[str, str] = {}
    for package in (controller.core, controller.views, controller.cli, controller.client):
        for path in Path(package.__path__[0]).rglob("*.py"):
            compared |= dict.fromkeys(_compared_reasons(path), path.name)
    assert {"Preempted", "Released", "Skipped", "OnHold"} <= compared.keys()
    assert {word: where for word, where in compared.items() if word not in OWN | ENGINES_WORDS} == {}


@pytest.mark.parametrize("word", sorted(OWN))
def test_an_engines_reason_is_told_as_its_own_if_it_is_one_of_tallys(word: str) -> None:
    stage = Stage()
    stage.pool()
    stage.submit("job", retry={"max_attempts": 9, "backoff_seconds": 300})
    leader = stage.leader()
    leader.run_to("job", Phase.RUNNING)
    leader.see(observation(("job", 1), Phase.FAILED, reason=word, exit_code=1))
    assert not starts(leader.run())
    status = stage.status("job")
    assert (status.state, status.reason) == (State.WAITING_RETRY, f"Engine{word}")
    assert (status.retry_at or 0.0) > stage.clock.now()


@pytest.mark.parametrize("word", ["Preempted", "OnHold"])
def test_so_is_a_reason_to_wait(word: str) -> None:
    stage = Stage()
    stage.pool()
    stage.submit("job")
    leader = stage.leader()
    leader.run_to("job", Phase.PENDING)
    leader.see(observation(("job", 1), Phase.PENDING, waiting=word))
    leader.run()
    assert stage.status("job").reason == f"Engine{word}"


def _compared_reasons(path: Path) -> Iterator[str]:
    """The words that the file compares an attribute `reason` with; "" is none."""
    parts = path.with_suffix("").parts
    name = ".".join(parts[len(parts) - parts[::-1].index("controller") - 1 :])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(isinstance(each, ast.Attribute) and each.attr == "reason" for each in sides):
                for side in sides:
                    yield from _words(side, name)


def _words(side: ast.expr, module: str) -> Iterator[str]:
    """What it is made of: literals, and the module's constants. Local names are no words."""
    known = vars(importlib.import_module(module))
    for node in ast.walk(side):
        if isinstance(node, ast.Constant):
            told = node.value
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            told = getattr(known.get(node.value.id), node.attr, "")
        else:
            told = known.get(node.id, "") if isinstance(node, ast.Name) else ""
        for word in told if isinstance(told, (tuple, list, set, frozenset)) else [told]:
            if type(word) is str and word:  # no enumeration's
                yield word


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
