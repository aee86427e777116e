"""Maintenance windows on real replicas and etcd: kept across a take-over, and ended by time alone."""

from __future__ import annotations

import signal
from pathlib import Path

from controller.core.model.lifecycle import State
from tests.support.local import (
    QUICK,
    Journal,
    Tending,
    check_promise,
    kill,
    leader_of,
    local_cluster,
)
from tests.support.waiting import wait_until


def test_a_window_is_kept_when_the_leader_is_killed(tmp_path: Path) -> None:
    """What it keeps back waits under the next leader, too, until it has ended; all else runs."""
    journal = Journal(tmp_path / "journal")
    with (
        local_cluster(tmp_path / "data", replicas=2, settings=QUICK) as cluster,
        cluster.client() as client,
        Tending(cluster),
    ):
        for name in ("maintained", "other"):
            client.apply_pool({"name": name, "capacity": {"cpu": 4}})
        begin = client.clock.now()
        assert client.maintenance.drain("maintained", begin, begin + 3600).turned_on == ("maintenance",)
        tasks = {"command": journal.command("true"), "resources": {"cpu": 1}}
        client.submit({**tasks, "id": "kept", "pool": "maintained"})
        client.submit({**tasks, "id": "before", "pool": "other"})
        client.wait(["before"], timeout_seconds=60)
        kill(leader_of(cluster), signal.SIGKILL)
        client.submit({**tasks, "id": "after", "pool": "other"})
        after = client.wait(["after"], timeout_seconds=60)["after"].status
        before = client.get("before").status
        assert after is not None
        assert before is not None
        assert after.epoch > before.epoch, "another leader"
        assert client.get("kept").state is State.CREATED
        assert "within which nothing is admitted" in client.explain("kept")
        ends_at = client.clock.now() + 2
        client.maintenance.drain("maintained", begin, ends_at)
        view = client.wait(["kept"], timeout_seconds=60)["kept"]
        assert view.state is State.SUCCEEDED
        assert view.status is not None
        assert view.status.admitted_at is not None
        assert view.status.admitted_at >= ends_at
        assert len(wait_until(lambda: journal.starts(), "the attempts")) == 3
        check_promise(cluster, journal, ["kept", "before", "after"])
