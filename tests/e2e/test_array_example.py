"""deploy/examples/array.yaml, with a replica, an engine and attempts that run."""

from __future__ import annotations

from pathlib import Path

import yaml

from controller.core.model.lifecycle import State
from tests.support.local import QUICK, local_cluster

ARRAY = Path(__file__).parents[2] / "deploy" / "examples" / "array.yaml"


def test_all_members_end_and_one_is_retried(tmp_path: Path) -> None:
    """Each has its own index; how each ended is kept, and no task of its own is left."""
    with local_cluster(tmp_path / "data", replicas=1, settings=QUICK) as cluster, cluster.client() as client:
        client.apply_pool({"name": "default", "capacity": {"cpu": 8, "memory": "1Gi"}})
        client.features.enable("arrays")
        client.features.enable("dependencies")
        client.submit(yaml.safe_load(ARRAY.read_text()))
        client.submit({"id": "film", "command": ["true"], "after": ["frames"]})
        array = client.wait(["frames"], timeout_seconds=60)["frames"]
        assert (array.state, array.message) == (State.SUCCEEDED, "all 12 members succeeded")
        assert array.progress is not None
        assert array.progress.succeeded == 12
        assert sorted(view.id for view in client.tasks()) == ["film", "frames"]
        seventh = client.get("frames-i7")
        assert (seventh.state, seventh.attempt) == (State.SUCCEEDED, 2)
        assert "after 2 attempts (exit code 0)" in client.explain("frames-i7")
        film = client.wait(["film"], timeout_seconds=60)["film"]
        assert film.state is State.SUCCEEDED
        assert film.status is not None
        assert film.status.admitted_at is not None
        assert array.status is not None
        assert array.status.finished_at is not None
        assert film.status.admitted_at >= array.status.finished_at
