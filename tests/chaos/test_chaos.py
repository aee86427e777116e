"""The bounded part of the chaos run. Longer runs, and others' seeds: `make chaos MINUTES=30 SEED=7`."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.embedded_etcd import EtcdBinary
from tests.chaos.run import run

SECONDS = 45.0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1])
def test_real_parts_keep_the_promise(etcd_binary: EtcdBinary, tmp_path: Path, seed: int) -> None:
    """Three members, three replicas, the process engine and three users, while everything is killed, stopped and cut off."""
    report = run(tmp_path, etcd_binary, seed=seed, seconds=SECONDS)
    print(f"{report.schedule()}\n{report.table()}")
    assert len(report.steps) > 3
