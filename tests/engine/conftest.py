"""Each test has a state folder of its own, and leaves no process behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from controller.clock import SystemClock
from controller.dev.fake_kubernetes import FakeCluster
from controller.engine.kubernetes.engine import KubernetesEngine
from controller.engine.process.engine import ProcessEngine
from tests.engine.kubernetes_cases import Engines, engine_on
from tests.engine.process_cases import running_pids, wait_for
from tests.support.fake_cluster import fake_cluster, fake_clusters  # noqa: F401  # fixtures


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Callable[[], ProcessEngine]]:
    """Makes engines on one state folder, as the replicas of one cluster have them; ends all attempts after
    the test.
    """
    engines: list[ProcessEngine] = []

    def make() -> ProcessEngine:
        engines.append(ProcessEngine(tmp_path, "test", SystemClock()))
        return engines[-1]

    yield make
    last = make()
    last.interrupt_all(0.0)
    for pid in running_pids(tmp_path):
        os.kill(pid, signal.SIGKILL)
    for engine in engines:
        engine.close()
    wait_for(lambda: not running_pids(tmp_path), "the test's processes to end")


@pytest.fixture
def engine(replica: Callable[[], ProcessEngine]) -> ProcessEngine:
    return replica()


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Engines]:
    """Makes Kubernetes engines on a fake cluster, as the replicas of one cluster have them."""
    with ExitStack() as stack:

        def make(cluster: FakeCluster, **options: Any) -> KubernetesEngine:
            engine = engine_on(cluster, tmp_path, **options)
            stack.callback(engine.close)
            return engine

        yield make
