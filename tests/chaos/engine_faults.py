"""What is done to attempts and to the engine that runs them: processes of this machine, or pods of the
fake cluster.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import requests

from controller.dev.fake_kubernetes import FakeCluster
from controller.dev.fake_kubernetes.apierrors import ApiError
from tests.chaos.ground import Ground, fault
from tests.support.fake_cluster import RawApi


@fault("engine", 33, engine="process")
def supervisors_killed(ground: Ground) -> Iterator[None]:
    attempts = ground.installation.supervised()
    for attempt in ground.rng.sample(sorted(attempts), min(2, len(attempts))):
        ground.destroyed.add(attempt.task_id)
        with suppress(ProcessLookupError):
            os.kill(attempts[attempt], signal.SIGKILL)
    yield


# -- the API server
# ------------------------------------------------------------------------------------------------------


@fault("engine", 26, engine="kubernetes")
def api_server_unreachable(ground: Ground) -> Iterator[None]:
    _cluster(ground).state.faults.drop_requests()
    yield
    _cluster(ground).state.faults.clear()


@fault("engine", 27, engine="kubernetes")
def api_server_answers_lost(ground: Ground) -> Iterator[None]:
    _cluster(ground).state.faults.drop_answers(rate=0.5)
    yield
    _cluster(ground).state.faults.clear()


@fault("engine", 28, engine="kubernetes")
def creations_land_late(ground: Ground) -> Iterator[None]:
    _cluster(ground).state.faults.hold("create", resource="pods")
    yield
    _cluster(ground).state.faults.clear()


@fault("engine", 31, engine="kubernetes")
def api_server_fails(ground: Ground) -> Iterator[None]:
    """Half of the requests are answered with an error that asks for patience, in each of the ways there
    are.
    """
    for status in (429, 500, 503):
        _cluster(ground).state.faults.fail(status, rate=0.2, retry_after=1 if status == 429 else None)
    yield
    _cluster(ground).state.faults.clear()


@fault("engine", 31, engine="kubernetes")
def lists_forbidden(ground: Ground) -> Iterator[None]:
    for verb in ("list", "watch"):
        _cluster(ground).state.faults.fail(403, verb)
    yield
    _cluster(ground).state.faults.clear()


@fault("engine", 32, engine="kubernetes")
def quota_used_up(ground: Ground) -> Iterator[None]:
    _cluster(ground).state.set_quota("default", {"pods": "0"})
    yield
    _cluster(ground).state.set_quota("default", None)


# -- its watches and its history
# -----------------------------------------------------------------------------------------


@fault("watches", 31, engine="kubernetes")
def watches_cut(ground: Ground) -> Iterator[None]:
    _cluster(ground).state.watches.cut()
    yield


@fault("watches", 31, engine="kubernetes")
def watches_silent(ground: Ground) -> Iterator[None]:
    """For ever, as far as their connections go: lists must do."""
    _cluster(ground).state.watches.freeze()
    yield
    _cluster(ground).state.watches.cut()


@fault("watches", 31, engine="kubernetes")
def watches_expired(ground: Ground) -> Iterator[None]:
    """410 in the stream, and for whoever comes back with an old version."""
    _cluster(ground).state.storage.compact()
    _cluster(ground).state.watches.expire()
    yield


@fault("watches", 31, engine="kubernetes")
def old_events_again(ground: Ground) -> Iterator[None]:
    """Pods as they were when the fault began are told again when it ends."""
    cluster = _cluster(ground)
    pods = cluster.state.pods()
    yield
    for pod in pods:
        gone = cluster.state.pod(pod["metadata"]["name"]) is None  # nobody tells of a deletion that was none
        cluster.state.watches.replay(
            ground.rng.choice(["ADDED", "MODIFIED", *(["DELETED"] if gone else [])]), pod
        )


@fault("watches", 31, engine="kubernetes")
def api_server_restarted(ground: Ground) -> Iterator[None]:
    _cluster(ground).restart()
    yield


# -- nodes and pods
# ------------------------------------------------------------------------------------------------------


@fault("nodes", 30, engine="kubernetes")
def node_lost_and_back(ground: Ground) -> Iterator[None]:
    """Its containers run on, and nobody hears of them."""
    node = ground.rng.choice(["node1", "node2"])
    _cluster(ground).state.lose_node(node)
    yield
    _cluster(ground).state.restore_node(node)


@fault("nodes", 30, engine="kubernetes")
def node_crashed(ground: Ground) -> Iterator[None]:
    """What ran there has ended, and nobody saw how."""
    node = ground.rng.choice(["node1", "node2"])
    ground.destroyed |= {
        _task(pod) for pod in _cluster(ground).state.pods() if pod["spec"].get("nodeName") == node
    }
    _cluster(ground).state.lose_node(node, containers_die=True)
    yield
    _cluster(ground).state.restore_node(node)


@fault("nodes", 30, engine="kubernetes")
def pods_removed(ground: Ground) -> Iterator[None]:
    """Deleted by somebody's hand, evicted, preempted."""
    cluster = _cluster(ground)
    ways: list[Callable[[str], object]] = [
        cluster.state.preempt,
        cluster.state.evict,
        lambda name: RawApi(cluster).send("DELETE", f"/{name}"),
    ]
    live = [pod for pod in cluster.state.pods() if pod["status"]["phase"] == "Running"]
    for pod in ground.rng.sample(live, min(3, len(live))):
        ground.destroyed.add(_task(pod))
        # it has ended meanwhile, or another fault strikes this
        with suppress(LookupError, ApiError, requests.RequestException):
            ground.rng.choice(ways)(pod["metadata"]["name"])
    yield


def _cluster(ground: Ground) -> FakeCluster:
    cluster = ground.installation.fake_cluster
    assert cluster is not None, "this fault is for the kubernetes engine"
    return cluster


def _task(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["labels"]["tally.dev/task"])
