"""The main container's end, by the engine on a fake API server: told at once, its pod stopped on demand,
with proof.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from controller.core.model.resources import Vector
from controller.core.model.task import Launch, Observation, Phase
from controller.dev.fake_kubernetes import FakeCluster
from controller.engine.base import AttemptRefused
from controller.engine.kubernetes.engine import KubernetesEngine
from tests.engine.kubernetes_cases import Engines, launch, scripted
from tests.engine.process_cases import observation, wait_for, wait_stopped

SIDE = {"containers": [{"name": "side", "image": "busybox:1"}]}


@pytest.fixture
def engine(fake_cluster: FakeCluster, engines: Engines) -> KubernetesEngine:
    return engines(fake_cluster)


def with_main(given: Launch, name: str = "task") -> Launch:
    return replace(given, spec=replace(given.spec, main_container=name))


def main_end(engine: KubernetesEngine, given: Launch) -> Observation:
    """Waits for the end of the main container."""

    def ended() -> Observation | None:
        found = next((one for one in engine.attempts() if one.attempt == given.attempt), None)
        return found if found is not None and found.main_ended else None

    return wait_for(ended, "the end of its main container")


@pytest.mark.parametrize("exit_code", [0, 7])
def test_it_is_told_and_the_rest_is_stopped_with_proof(engine: KubernetesEngine, exit_code: int) -> None:
    given = with_main(
        scripted(pod=SIDE, exit_code=exit_code, others_stay=True, on_term=143, term_seconds=0.01)
    )
    engine.start(given)
    seen = main_end(engine, given)
    assert (seen.phase, seen.stopped, seen.exit_code) == (Phase.RUNNING, False, exit_code)
    engine.stop(given.attempt, grace_seconds=1, uid=seen.uid)
    assert wait_stopped(engine, given.attempt).stopped


def test_without_it_the_attempt_runs_on(engine: KubernetesEngine) -> None:
    given = scripted(pod=SIDE, others_stay=True, on_term=143, term_seconds=0.01)
    engine.start(given)
    wait_for(lambda: engine.attempts()[0].phase is Phase.RUNNING or None, "it to run")
    seen = observation(engine, given.attempt)
    assert seen is not None
    assert not seen.main_ended
    engine.stop(given.attempt, grace_seconds=1)
    wait_stopped(engine, given.attempt)


def test_what_the_pool_no_longer_allows_is_refused_for_now(engine: KubernetesEngine) -> None:
    """The pool has changed since the admission: nothing is created, and the task may be admitted anew."""
    grown = replace(launch("true", pod_template={"spec": SIDE}), hold=Vector.parse({"cpu": 1}))
    for given in (grown, with_main(launch("true"), "gone")):
        with pytest.raises(AttemptRefused) as refused:
            engine.start(given)
        assert (refused.value.reason, refused.value.transient) == ("InvalidPool", True)
    assert engine.attempts() == []
