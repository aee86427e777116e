"""Which cluster an API server is of, by what may be read there; and whose a pod is, whatever was done to
its labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from controller.core.model.installation import Installation, difference, merged
from controller.dev.fake_kubernetes import ClusterOptions, FakeCluster
from controller.engine.base import AttemptRefused, EngineUnavailable
from controller.engine.kubernetes.engine import KubernetesEngine
from tests.engine import kubernetes_cases as cases
from tests.engine.process_cases import observation

OURS, THEIRS = Installation(id="aaaa"), Installation(id="bbbb")


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster(ClusterOptions(scale=0.02)).start() as cluster:
        yield cluster


@pytest.fixture
def engines(cluster: FakeCluster, tmp_path: Path) -> Iterator[cases.Engines]:
    made: list[KubernetesEngine] = []

    def make(**options: Any) -> KubernetesEngine:
        made.append(cases.engine_on(cluster, tmp_path, **options))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def test_the_uid_of_kube_system_names_the_cluster(cluster: FakeCluster, engines: cases.Engines) -> None:
    cluster.state.add_namespace("kube-system", uid="cluster-1")
    cluster.state.add_namespace("blue", uid="blue-1")
    identity = engines(namespaces=("blue",)).identity()
    assert (identity.id, identity.parts) == ("cluster-1", {"namespace blue": "blue-1"})


def test_a_right_that_is_given_or_taken_away_makes_no_other_engine(
    cluster: FakeCluster, engines: cases.Engines
) -> None:
    """On kube-system, as of a replica with an admin's kubeconfig beside those with the least role."""
    cluster.state.add_namespace("kube-system", uid="cluster-1")
    more = engines().identity()
    cluster.state.access.deny("get", "namespaces", namespace="kube-system")
    less = engines().identity()
    assert difference(more, less) == difference(less, more) == ""
    assert difference(merged(less, more), less) == difference(merged(more, less), more) == ""


def test_the_namespaces_uids_do_where_kube_system_may_not_be_read(
    cluster: FakeCluster, engines: cases.Engines
) -> None:
    """Another cluster has other uids; one namespace more is no other engine, one less is."""
    cluster.state.add_namespace("kube-system", uid="cluster-1")
    cluster.state.access.deny("get", "namespaces", namespace="kube-system")
    cluster.state.add_namespace("blue", uid="blue-1")
    both, one = engines(namespaces=("default", "blue")).identity(), engines(namespaces=("blue",)).identity()
    assert (one.id, one.parts) == ("", {"namespace blue": "blue-1"})
    assert difference(one, both) == ""
    assert "lacks namespace default" in difference(both, one)
    cluster.state.remove_namespace("blue")
    cluster.state.add_namespace("blue", uid="of-another-cluster")
    anew = difference(one, engines(namespaces=("blue",)).identity())
    assert "namespace blue had another uid: it was created anew since" in anew


def test_where_no_uid_may_be_read_the_names_are_left(cluster: FakeCluster, engines: cases.Engines) -> None:
    """So that an older installation without the right goes on; one that once knew a uid does not fall back
    to it.
    """
    known = engines().identity()
    cluster.state.access.deny("get", "namespaces")
    unknown = engines().identity()
    assert unknown.parts == {"namespace default": ""}
    assert difference(unknown, unknown) == difference(unknown, known) == ""
    assert "cannot tell" in difference(known, unknown)


def test_a_server_that_does_not_answer_tells_no_identity(
    cluster: FakeCluster, engines: cases.Engines
) -> None:
    engine = engines(timeout=0.5)
    engine.identity()
    cluster.stop()
    with pytest.raises(EngineUnavailable):
        engine.identity()


def test_a_name_that_another_installation_has_is_refused_and_says_whose_it_is(engines: cases.Engines) -> None:
    theirs, ours = engines(), engines()
    theirs.bind(THEIRS)
    ours.bind(OURS)
    given = cases.running()
    theirs.start(replace(given, installation=THEIRS.id))
    with pytest.raises(AttemptRefused, match="of another installation of Tally, bbbb") as refusal:
        ours.start(replace(given, installation=OURS.id))
    assert refusal.value.reason == "NameTaken"


@pytest.mark.parametrize("stripped", ["the installation's label", "all labels", "labels and annotations"])
def test_a_pod_whose_marks_were_removed_by_hand_is_still_ours(
    cluster: FakeCluster, engines: cases.Engines, stripped: str
) -> None:
    """Else it would look gone, and run again beside itself."""
    engine = engines()
    engine.bind(OURS)
    given = replace(cases.running(), installation=OURS.id)
    engine.start(given)
    with cluster.state.storage.lock:
        stored = cluster.state.storage.pods.get(("default", str(given.attempt)))
        assert stored is not None
        document = stored.copy()
        if stripped == "the installation's label":
            del document["metadata"]["labels"]["tally.dev/installation"]
        else:
            document["metadata"]["labels"] = {}
        if stripped == "labels and annotations":
            document["metadata"]["annotations"] = {}
        cluster.state.storage.pods.put(document)
    seen = observation(engine, given.attempt)
    assert seen is not None
    assert not seen.stopped
