"""The bounded part of the chaos run, and its judge of users' answers.

Longer runs, other seeds: `make chaos MINUTES=30 SEED=7`.
"""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from controller.core.model.lifecycle import State
from controller.dev.etcd import EtcdBinary
from tests.chaos.faults import FAULTS
from tests.chaos.linearizability import UNKNOWN, Call, violations
from tests.chaos.recorder import Version
from tests.chaos.run import run

# a group of several tests, which xdist starts before single ones: this takes long
pytestmark = pytest.mark.xdist_group("chaos")

VERSIONS = [
    Version(5, True),
    Version(8, True, State.PENDING, 1),
    Version(9, True, State.RUNNING, 1),
    Version(12, True, State.FAILED, 1),
]
SUBMIT = Call("a", "submit", 0.0, 1.0, "created")
RETRY = Call("a", "retry", 2.0, 3.0, "requested")
FAILED = Call("a", "get", 4.0, 5.0, "found", 14, 0, "Failed", 1)


@pytest.mark.timeout(400)
def test_real_parts_keep_the_promise(etcd_binary: EtcdBinary, tmp_path: Path) -> None:
    """Three members, three replicas, the process engine and three users; each fault comes once."""
    _run_each_fault_once(tmp_path, etcd_binary, "process")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_fake_cluster_keeps_the_promise(etcd_binary: EtcdBinary, tmp_path: Path) -> None:
    """The same with the Kubernetes engine, and what happens to pods, nodes and an API server."""
    _run_each_fault_once(tmp_path, etcd_binary, "kubernetes")


def _run_each_fault_once(path: Path, etcd: EtcdBinary, engine: str) -> None:
    report = run(path, etcd, seed=1, seconds=None, engine=engine)
    print(f"{report.schedule()}\n{report.table()}")
    injected = {name for step in report.steps for name in step.faults}
    assert injected == {fault.name for fault in FAULTS.values() if fault.engine in ("", engine)}
    left = [child.cmdline() for child in psutil.Process().children() if str(path) in str(child.environ())]
    assert not left, "the run ended, and these of its processes did not"


def test_true_answers_are_no_finding() -> None:
    # of a replica that is behind, as far as it may be
    stale = Call("a", "read", 6.0, 7.0, "found", 8, 6, "Pending", 1)
    lost = Call("a", "cancel", 6.0, 7.0, UNKNOWN)
    assert violations([SUBMIT, RETRY, FAILED, stale, lost], {"a": VERSIONS}, {("a", "retry"): [13]}) == []


@pytest.mark.parametrize(
    ("calls", "puts"),
    [
        ([SUBMIT, SUBMIT], []),
        ([SUBMIT, Call("a", "submit", 2.0, 3.0, "conflict")], []),
        ([SUBMIT, Call("a", "cancel", 2.0, 3.0, "not found")], []),
        ([SUBMIT, Call("a", "read", 2.0, 3.0, "not found", 5, 5)], []),
        ([SUBMIT, Call("a", "read", 2.0, 3.0, "found", 8, 12, "Running", 1)], []),
        ([FAILED, Call("a", "get", 6.0, 7.0, "found", 11, 0, "Running", 1)], []),
        ([SUBMIT, RETRY], []),
        ([SUBMIT, RETRY], [13, 15]),
        ([SUBMIT, FAILED, Call("a", "retry", 6.0, 7.0, "requested")], [13]),
    ],
    ids=[
        "created twice",
        "no conflict",
        "it was there",
        "not older than asked for",
        "older",
        "back in time",
        "lost",
        "twice",
        "early",
    ],
)
def test_untrue_answers_are_found(calls: list[Call], puts: list[int]) -> None:
    assert violations(calls, {"a": VERSIONS}, {("a", "retry"): puts}) != []
