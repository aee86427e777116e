"""deploy/examples/gang.yaml, with a replica, an engine and attempts that run."""

from __future__ import annotations

from pathlib import Path

import yaml

from controller.core.model.lifecycle import State
from tests.support.local import QUICK, local_cluster

GANG = Path(__file__).parents[2] / "deploy" / "examples" / "gang.yaml"


def test_all_members_run_at_once_and_are_retried_together(tmp_path: Path) -> None:
    """One fails at the first attempt: all are stopped, and run again."""
    with local_cluster(tmp_path / "data", replicas=1, settings=QUICK) as cluster, cluster.client() as client:
        client.apply_pool({"name": "default", "capacity": {"cpu": 4, "memory": "1Gi"}})
        assert client.features.enable("gangs") == ("arrays", "gangs")
        client.submit(yaml.safe_load(GANG.read_text()))
        gang = client.wait(["train"], timeout_seconds=60)["train"]
        assert (gang.state, gang.message, gang.attempt) == (State.SUCCEEDED, "all 4 members succeeded", 2)
        assert [view.id for view in client.tasks()] == ["train"]
        found = list(client.members("train"))
        assert [(each.role, each.state, each.attempts) for each in found] == [
            ("launcher", "Succeeded", 2),
            *[("worker", "Succeeded", 2)] * 3,
        ]
        failed = next(step for step in gang.history() if step.event == "failed-observed")
        assert "train-i2 failed" in failed.message
        assert "all 4 members succeeded" in client.explain("train")
        [pool] = client.pools()
        assert not pool.held
