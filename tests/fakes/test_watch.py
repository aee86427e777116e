"""Watches of the fake API: what is sent, from where, and what faults do to it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import requests

from controller.dev.fake_kubernetes import FakeCluster
from tests.support.fake_cluster import ClusterFactory, RawApi, task_pod
from tests.support.waiting import wait_until

# a gated pod changes only when the test changes it
NEVER: dict[str, Any] = {"schedulingGates": [{"name": "tally.dev/closed"}]}


@pytest.fixture
def api(fake_cluster: FakeCluster) -> RawApi:
    """Plain requests."""
    return RawApi(fake_cluster)


def label(api: RawApi, name: str, value: str) -> None:
    """Change a pod."""
    assert api.patch(name, {"metadata": {"labels": {"value": value}}}).status_code == 200


def brief(events: Iterator[dict[str, Any]], count: int) -> list[tuple[str, str, str]]:
    """Type, name and label of the next events."""
    told = []
    for event in islice(events, count):
        metadata = event["object"]["metadata"]
        told.append((event["type"], metadata.get("name", ""), metadata.get("labels", {}).get("value", "")))
    return told


def test_every_change_once_and_in_order_from_a_version_on(api: RawApi) -> None:
    """The watch starts after the version given, whenever it is opened."""
    api.create(task_pod("a", **NEVER))
    version = api.send("GET").json()["metadata"]["resourceVersion"]
    for value in "123":
        label(api, "a", value)
    api.send("DELETE", "/a")
    expected = [("MODIFIED", "a", value) for value in "123"] + [("MODIFIED", "a", "3"), ("DELETED", "a", "3")]
    assert brief(api.watch(resourceVersion=version), 5) == expected


def test_without_a_version_it_begins_with_what_is_there(api: RawApi) -> None:
    """As ADDED."""
    api.create(task_pod("a", **NEVER))
    api.create(task_pod("b", **NEVER))
    events = api.watch(resourceVersion="")
    assert brief(events, 2) == [("ADDED", "a", ""), ("ADDED", "b", "")]
    label(api, "b", "1")
    assert brief(events, 1) == [("MODIFIED", "b", "1")]


def test_a_selector_sees_coming_and_going(api: RawApi) -> None:
    """An object that begins to match is ADDED, one that ceases to is DELETED."""
    events = api.watch(labelSelector="value=1")
    api.create(task_pod("a", **NEVER))
    for value in "112":
        label(api, "a", value)
    api.patch("a", {"metadata": {"labels": {"value": "1", "more": "x"}}})
    api.patch("a", {"metadata": {"labels": {"more": "y"}}})
    assert brief(events, 4) == [
        ("ADDED", "a", "1"),
        ("DELETED", "a", "1"),
        ("ADDED", "a", "1"),
        ("MODIFIED", "a", "1"),
    ]


def test_only_the_namespace_asked_for(api: RawApi, fake_cluster: FakeCluster) -> None:
    """A watch of one namespace hears nothing of another."""
    fake_cluster.state.add_namespace("other")
    events = api.watch()
    path = f"{fake_cluster.url}/api/v1/namespaces/other/pods"
    assert api.http.post(path, json=task_pod("elsewhere", **NEVER), timeout=10).status_code == 201
    api.create(task_pod("here", **NEVER))
    assert brief(events, 1) == [("ADDED", "here", "")]


def test_bookmarks_carry_only_the_version(fake_clusters: ClusterFactory) -> None:
    """And move on with changes of other objects, so that a quiet watch does not grow old."""
    cluster = fake_clusters(bookmark_seconds=0.05)
    api = RawApi(cluster)
    version = cluster.state.storage.revision
    events = api.watch(allowWatchBookmarks="true")
    cluster.state.add_namespace("other")
    bookmark = next(
        event for event in events if int(event["object"]["metadata"]["resourceVersion"]) > version
    )
    assert bookmark["type"] == "BOOKMARK"
    assert bookmark["object"]["metadata"] == {"resourceVersion": str(version + 1), "creationTimestamp": None}


def test_it_ends_by_itself_after_its_time(api: RawApi) -> None:
    """timeoutSeconds; the stream is closed cleanly."""
    assert list(api.watch(timeoutSeconds="1")) == []


def test_a_compacted_version_is_told_in_the_stream(api: RawApi, fake_cluster: FakeCluster) -> None:
    """HTTP 200, one ERROR with code 410, and the end; a watch that is open goes on."""
    version = fake_cluster.state.storage.revision
    opened = api.watch()
    api.create(task_pod("a", **NEVER))
    fake_cluster.state.storage.compact()
    [error] = list(api.watch(resourceVersion=version))
    assert (error["type"], error["object"]["code"], error["object"]["reason"]) == ("ERROR", 410, "Expired")
    label(api, "a", "1")
    assert brief(opened, 2) == [("ADDED", "a", ""), ("MODIFIED", "a", "1")]


def test_history_is_bounded(fake_clusters: ClusterFactory) -> None:
    """What is older than the history answers 410, and what is within it does not."""
    cluster = fake_clusters(history_limit=5)
    api = RawApi(cluster)
    api.create(task_pod("a", **NEVER))
    first = cluster.state.storage.revision
    for value in range(20):
        label(api, "a", str(value))
    assert brief(api.watch(resourceVersion=cluster.state.storage.revision - 5), 5)[-1] == (
        "MODIFIED",
        "a",
        "19",
    )
    assert next(api.watch(resourceVersion=first))["type"] == "ERROR"


def test_cut_in_the_middle(api: RawApi, fake_cluster: FakeCluster) -> None:
    """The connection breaks; a new watch goes on from the last version seen."""
    events = api.watch()
    version = api.create(task_pod("a", **NEVER))["metadata"]["resourceVersion"]
    assert brief(events, 1) == [("ADDED", "a", "")]
    fake_cluster.state.watches.cut()
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        next(events)
    label(api, "a", "1")
    assert brief(api.watch(resourceVersion=version), 1) == [("MODIFIED", "a", "1")]


def test_frozen_says_nothing_and_thawed_says_all(api: RawApi, fake_cluster: FakeCluster) -> None:
    """A frozen watch is silent, bookmarks included; one that is opened meanwhile works."""
    frozen = api.watch(allowWatchBookmarks="true", timeoutSeconds="10")
    fake_cluster.state.watches.freeze()
    api.create(task_pod("a", **NEVER))
    other = api.watch(resourceVersion="")
    assert brief(other, 1) == [("ADDED", "a", "")]
    fake_cluster.state.watches.thaw()
    label(api, "a", "1")
    assert brief(frozen, 2) == [("ADDED", "a", ""), ("MODIFIED", "a", "1")]


def test_expired_on_command(api: RawApi, fake_cluster: FakeCluster) -> None:
    """An open watch is told 410 and ends."""
    events = api.watch()
    wait_until(lambda: fake_cluster.state.watches, "the watch")
    fake_cluster.state.watches.expire()
    assert [event["object"]["code"] for event in events] == [410]


def test_an_old_event_again(api: RawApi, fake_cluster: FakeCluster) -> None:
    """Replayed as it was, with its old version."""
    events = api.watch()
    old = api.create(task_pod("a", **NEVER))
    label(api, "a", "1")
    assert len(brief(events, 2)) == 2
    fake_cluster.state.watches.replay("MODIFIED", old)
    assert next(events)["object"]["metadata"]["resourceVersion"] == old["metadata"]["resourceVersion"]


def test_a_restart_breaks_connections_and_forgets_history(api: RawApi, fake_cluster: FakeCluster) -> None:
    """Objects stay; older versions answer 410."""
    events = api.watch()
    version = api.create(task_pod("a", **NEVER))["metadata"]["resourceVersion"]
    assert brief(events, 1) == [("ADDED", "a", "")]
    label(api, "a", "1")
    fake_cluster.restart()
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        list(events)
    assert api.send("GET", "/a").json()["metadata"]["labels"]["value"] == "1"
    assert next(api.watch(resourceVersion=version))["object"]["code"] == 410
