"""deploy/examples/diamond.yaml and stages.yaml, with a replica, an engine and attempts that run."""

from __future__ import annotations

from pathlib import Path

import yaml

from controller.client import Client, TaskView
from controller.core.model.lifecycle import State
from tests.support.local import QUICK, local_cluster

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
DIAMOND, STAGES = EXAMPLES / "diamond.yaml", EXAMPLES / "stages.yaml"


def _begun(view: TaskView) -> float:
    assert view.status is not None
    return view.status.admitted_at or 0.0


def _ended(view: TaskView) -> float:
    assert view.status is not None
    return view.status.finished_at or 0.0


def test_a_wait_for_the_last_one_is_a_wait_for_all(tmp_path: Path) -> None:
    """Each begins after those before it; a failure is taken where it is wanted, and passed on elsewhere."""
    tasks = yaml.safe_load(DIAMOND.read_text())
    with local_cluster(tmp_path / "data", replicas=1, settings=QUICK) as cluster, cluster.client() as client:
        client.apply_pool({"name": "default", "capacity": {"cpu": 8, "memory": "1Gi"}})
        client.features.enable("dependencies")
        client.submit_many(tasks)
        last = client.wait(["diamond-report"], timeout_seconds=60)["diamond-report"]
        assert last.state is State.SUCCEEDED
        views = {view.id: view for view in client.tasks()}
        assert views["diamond-check"].state is State.FAILED
        for task in tasks:
            for parent in client.get(task["id"]).after:
                assert _ended(views[parent.task]) <= _begun(views[task["id"]])
                assert parent.verdict == "met"
        _what_fails_is_passed_on(client)


def _what_fails_is_passed_on(client: Client) -> None:
    client.submit({"id": "after-check", "command": ["true"], "after": ["diamond-check"]})
    client.submit({"id": "behind-it", "command": ["true"], "after": ["after-check"]})
    last = client.wait(["behind-it"], timeout_seconds=60)["behind-it"]
    assert (last.state, last.reason) == (State.FAILED, "DependencyFailed")
    assert "`tally retry --downstream diamond-check`" in client.explain("behind-it")
    assert [each.verdict for each in client.get("behind-it").after] == ["unmet"]


def test_arrays_go_on_member_by_member(tmp_path: Path) -> None:
    """What fails in one stage is passed on to its own member of the next one, and to no other."""
    with local_cluster(tmp_path / "data", replicas=1, settings=QUICK) as cluster, cluster.client() as client:
        client.apply_pool({"name": "default", "capacity": {"cpu": 8, "memory": "1Gi"}})
        for feature in ("arrays", "dependencies"):
            client.features.enable(feature)
        client.submit_many(yaml.safe_load(STAGES.read_text()))
        assert client.wait(["film"], timeout_seconds=60)["film"].state is State.SUCCEEDED
        ends = {name: [each.state for each in client.members(name)] for name in ("cut", "render", "check")}
        failed = ["Succeeded", "Succeeded", "Failed", "Succeeded"]
        assert ends == {"cut": failed, "render": failed, "check": ["Succeeded"] * 4}
        assert list(client.members("render"))[2].reason == "DependencyFailed"
        assert "after the success of member 2 of cut, which is Failed" in client.explain("render-i2")
        [before] = client.get("render").after
        assert (before.wish, before.verdict) == ("succeeded (same index)", "partly")
