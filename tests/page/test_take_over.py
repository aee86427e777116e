"""The live page of a real replica, while another one is killed in office."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from controller.dev.etcd import EtcdBinary
from tests.page.browser import Browser
from tests.support.local import kill, leader_of, local_cluster
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(300)]


def test_the_new_leader_appears_on_a_followers_page(
    browser: Browser, etcd_binary: EtcdBinary, tmp_path: Path
) -> None:
    """Seen by a user who does nothing: who leads, nobody, and who leads next; tasks go on, and metrics
    tell the same.
    """
    with local_cluster(tmp_path, replicas=2) as cluster, cluster.client() as client:
        client.apply_pool({"name": "default", "capacity": {"cpu": 2}})
        leader = leader_of(cluster)
        (follower,) = [replica for replica in cluster.replicas if replica is not leader]
        url = f"http://127.0.0.1:{follower.status_port}"
        wait_until(lambda: _answers(url), "the follower's endpoint")
        browser.open(url)
        browser.wait(lambda: browser.text("#leader") == leader.name, "the leader")
        browser.wait(lambda: len(browser.texts("#replicas li")) == 2, "both replicas")
        kill(leader)
        browser.wait(lambda: browser.text("#leader") == follower.name, "the new leader", timeout=60.0)
        browser.wait(lambda: browser.texts("#ended strong") == [leader.name], "its end", timeout=60.0)
        assert "last heard from" in browser.text("#ended li")
        assert len(browser.texts("#replicas li")) == 1
        browser.wait(
            lambda: f"{follower.name} was elected" in browser.text("#activity"),
            "its election among the changes",
        )
        client.submit(
            {"id": "after", "command": ["echo", "hello"], "resources": {"cpu": 1}, "keep_logs": True}
        )
        browser.wait(
            lambda: browser.text('#states [value="Succeeded"]') == "Succeeded1",
            "the task's end",
            timeout=60.0,
        )
        browser.wait(lambda: browser.text("#verdict") == "All is well", "the verdict", timeout=60.0)
        browser.js("location.hash = '#task=after'")
        browser.wait(lambda: browser.text("#task-body pre") == "hello", "what is kept of its output")
        text = httpx.get(f"{url}/metrics", trust_env=False).text
        assert 'tally_leading{replica_role="leader"} 1.0' in text
        assert 'tally_take_over_seconds_count{replica_role="leader"} 1.0' in text
        assert 'tally_transaction_seconds_count{kind="plan",outcome="applied",replica_role="leader"}' in text
        assert "tally_store_size_bytes{" in text
        browser.driver.get("about:blank")


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
