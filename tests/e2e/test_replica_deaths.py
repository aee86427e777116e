"""Replicas die, hang, are paused and are restarted, at every step between commit, effect and observation."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from controller.clock import SystemClock
from controller.core.model.lifecycle import State
from controller.runtime.failpoints import POINTS, VARIABLE
from tests.support.load import POOL, loaded
from tests.support.local import (
    QUICK,
    Gate,
    Journal,
    Tending,
    Witness,
    add_replica,
    check_promise,
    is_ready,
    kill,
    lead_by_turns,
    leader_of,
    local_cluster,
    logged,
    pid_of,
)
from tests.support.waiting import wait_until


def test_the_leader_is_killed_at_each_step_between_commit_effect_and_observation(tmp_path: Path) -> None:
    """One after the other leads and is killed at its own step.

    Every task ends once, and nothing stays held.
    """
    with loaded(tmp_path, replicas=1) as (cluster, journal, load):
        for point in POINTS:
            victim = add_replica(cluster, f"dies-{point}", **{VARIABLE: f"{point}:exit@4"})
            lead_by_turns(cluster, victim)
            assert victim.process is not None
            assert victim.process.wait(60) == -signal.SIGKILL
            assert logged(cluster, victim, event="failpoint", point=point)
        load.finish()
        history = check_promise(cluster, journal, load.acknowledged)
        assert len(history.writers) > len(POINTS)


def test_a_leader_that_is_paused_before_an_effect_comes_too_late_to_harm(tmp_path: Path) -> None:
    """It has checked its lease, then sleeps beyond it; the next leader starts the attempt, and the late
    start finds it there.
    """
    journal, gate = Journal(tmp_path / "journal"), Gate(tmp_path / "gate")
    with (
        local_cluster(tmp_path / "data", replicas=1, settings=QUICK) as cluster,
        cluster.client() as client,
        Tending(cluster),
    ):
        client.apply_pool(POOL)
        paused = add_replica(cluster, "paused", **{VARIABLE: "before-effect:sleep:1"})
        lead_by_turns(cluster, paused)
        client.submit({"id": "task", "command": journal.command(gate.body), "resources": {"cpu": 1}})
        wait_until(lambda: logged(cluster, paused, event="failpoint"), "the effect")
        witness, stopped = Witness(cluster.endpoint), pid_of(paused)
        at = kill(paused, signal.SIGSTOP)
        try:
            witness.next_term(at)
            wait_until(lambda: journal.starts(), "the attempt, started by the next leader")
        finally:
            os.kill(stopped, signal.SIGCONT)
            witness.close()
        wait_until(
            lambda: logged(cluster, paused, phase="following", before="stepping-down"), "the end of its term"
        )
        gate.open()
        assert client.wait(["task"], timeout_seconds=30)["task"].state is State.SUCCEEDED
        check_promise(cluster, journal, ["task"])


@pytest.mark.slow  # tests/deploy/test_systemd.py has a stuck loop, too
def test_a_leader_whose_loop_hangs_is_replaced(tmp_path: Path) -> None:
    """Its keep-alive thread lives, but renews nothing: another takes over, and the stuck process ends
    itself.
    """
    with loaded(tmp_path, replicas=1) as (cluster, journal, load):
        stuck = add_replica(cluster, "stuck", **{VARIABLE: "before-commit:hang@3"})
        lead_by_turns(cluster, stuck)
        assert stuck.process is not None
        assert stuck.process.wait(60) == 70
        assert logged(cluster, stuck, event="the control loop is stuck: its lease is not renewed")
        assert leader_of(cluster) is not stuck
        load.finish()
        check_promise(cluster, journal, load.acknowledged)


def has_started(journal: Journal, count: int) -> bool:
    return len(journal.starts()) >= count


def test_all_replicas_are_killed_at_once(tmp_path: Path) -> None:
    """Attempts run on without them; whoever is started again goes on from etcd and the engine alone."""
    with loaded(tmp_path, replicas=3) as (cluster, journal, load):
        for _ in range(2):
            wait_until(partial(has_started, journal, len(journal.starts()) + 11), "attempts")
            for replica in cluster.replicas:
                kill(replica)
            for replica in cluster.replicas:
                assert replica.process is not None
                replica.process.wait(10)
                cluster.start_replica(replica)
            leader_of(cluster)
        load.finish()
        check_promise(cluster, journal, load.acknowledged)


@pytest.mark.slow  # the rolling update of tests/deploy/test_upgrades.py does the same
def test_replicas_are_restarted_one_after_the_other(tmp_path: Path) -> None:
    """SIGTERM to each under load: the leader hands over at once, and no replica has to be killed."""
    with loaded(tmp_path, replicas=3) as (cluster, journal, load):
        witness = Witness(cluster.endpoint)
        gaps = []
        try:
            wait_until(lambda: all(map(is_ready, cluster.replicas)), "three replicas")
            for replica in cluster.replicas:
                leads_now = leader_of(cluster) is replica
                at = kill(replica, signal.SIGTERM)
                if leads_now:
                    gaps.append(witness.next_term(at))
                assert replica.process is not None
                assert replica.process.wait(20) == 0
                cluster.start_replica(replica)
                wait_until(partial(is_ready, replica), "its return")
        finally:
            witness.close()
        print(f"hand-overs: {', '.join(f'{gap:.3f} s' for gap in gaps)}")
        assert gaps
        assert witness.terms_out_of_order == []
        load.finish()
        check_promise(cluster, journal, load.acknowledged)


@pytest.mark.slow  # tests/runtime has both registrations, the acceptance test a leader's death
def test_two_replicas_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """Both are registered, one of them leads, and the death of one takes nothing from the other."""
    with loaded(tmp_path, replicas=1) as (cluster, journal, load), cluster.client() as client:
        (first,) = cluster.replicas
        second = add_replica(cluster, first.name)
        registered = wait_until(
            lambda: r if len(r := client.replicas.all()) == 2 else None, "both registrations"
        )
        assert {replica.pid for replica in registered} == {pid_of(first), pid_of(second)}
        assert registered[1].id.startswith(f"{first.name}-")
        at = SystemClock().boottime()
        witness = Witness(cluster.endpoint)
        try:
            kill(first)
            print(f"the other of that name led after {witness.next_term(at):.2f} s")
        finally:
            witness.close()
        leader = client.replicas.leader()
        assert leader is not None
        assert second.process is not None
        assert second.process.poll() is None
        wait_until(
            lambda: [r.id for r in client.replicas.all()] == [first.name],
            "the name, free again and taken",
            timeout=60,
        )
        load.finish()
        check_promise(cluster, journal, load.acknowledged)
