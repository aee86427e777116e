"""A schedule on a real Kubernetes: what a tick makes runs as any other task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from controller.core.model.lifecycle import State
from controller.core.model.own_labels import SCHEDULE
from controller.dev.cluster import LocalCluster
from tests.cluster.test_cluster import PATIENCE
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(900)]

Make = Callable[..., dict[str, Any]]


def test_the_task_of_a_tick_succeeds_as_a_pod(tally: LocalCluster, task: Make, core: Any) -> None:
    """The pod has the schedule's label, too, as `kubectl get pods -l` asks for."""
    spec = task('test -n "$TALLY_SCHEDULED_AT"')
    name = spec.pop("id")
    with tally.client() as users:
        users.schedules.apply({"name": name, "cron": "* * * * *", "task": spec})
        made = wait_until(lambda: [*users.tasks(labels={SCHEDULE: name})], "a tick", timeout=120, poll=0.5)
        users.schedules.delete(name)
        view = users.wait([made[0].id], timeout_seconds=PATIENCE)[made[0].id]
    assert (view.state, view.attempt) == (State.SUCCEEDED, 1), view
    (pod,) = core.list_pod_for_all_namespaces(label_selector=f"{SCHEDULE}={name}").items
    assert pod.metadata.name == f"{view.id}-1"
