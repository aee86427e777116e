"""B5 and B6: what tasks that are merely stored cost: memory, the start of a replica, and the take-over by
a warm one.
"""

from __future__ import annotations

import signal
from contextlib import closing

from controller.dev.cluster import LocalCluster
from tests.bench.measure import Aim, Figure
from tests.bench.sizes import Sizes
from tests.bench.stage import CLOCK, cluster, resident_bytes, specs, wait_started
from tests.support.local import Witness, add_replica, kill
from tests.support.waiting import wait_until

BYTES_A_TASK, BYTES_OF_AN_ENDED_TASK = 2_000.0, 1_200.0
START_SECONDS, TAKE_OVER_MS = 2.5, 100.0
NO_MORE = 1.02
"""A follower takes no more than the leader, within what the allocator makes of the same model twice."""


def standing(sizes: Sizes) -> list[Figure]:
    """Memory of leader and follower, cold start to ready, and take-over of a warm follower after SIGTERM."""
    figures: list[Figure] = []
    base: dict[str, float] = {}
    for count in sizes.standing:
        leader, follower, starts, take_overs = _measure(count, sizes.repeat)
        for role, samples in (("leader", leader), ("follower", follower)):
            aims = (Aim("ratio", most=NO_MORE),) if role == "follower" else ()
            of = Figure("", "", "", leader).median if role == "follower" else None
            what = f"resident memory of a {role}, {count:,} tasks"
            figures.append(Figure("B5", what, "MB", samples, baseline=of, against="the leader's", aims=aims))
            base.setdefault(role, figures[-1].median)
            if count:
                each = [1e6 * (sample - base[role]) / count for sample in samples]
                aims = (Aim("median", most=BYTES_A_TASK),) if count == sizes.standing[-1] else ()
                figures.append(
                    Figure("B5", f"the same for each of {count:,} tasks ({role})", "bytes", each, aims=aims)
                )
        largest = count == sizes.standing[-1]
        aims = (Aim("median", most=START_SECONDS),) if largest else ()
        figures.append(Figure("B6", f"cold start to ready, {count:,} tasks stored", "s", starts, aims=aims))
        aims = (Aim("median", most=TAKE_OVER_MS),) if largest else ()
        what = f"SIGTERM to a warm follower's first commit, {count:,} tasks stored"
        figures.append(Figure("B6", what, "ms", take_overs, aims=aims))
    figures.append(_ended(sizes.standing[-1], base["leader"]))
    return sorted(figures, key=lambda figure: figure.row)


def _ended(count: int, base: float) -> Figure:
    """What tasks cost that have all ended."""
    with cluster(stock=count, stock_ended=True) as running:
        each = [1e6 * (resident_bytes(running.replicas[0]) / 1e6 - base) / count]
    aims = (Aim("median", most=BYTES_OF_AN_ENDED_TASK),)
    return Figure(
        "B5", f"the same for each of {count:,} tasks that have ended (leader)", "bytes", each, aims=aims
    )


def _measure(count: int, repeat: int) -> tuple[list[float], list[float], list[float], list[float]]:
    """MB of leader and of follower, seconds of starts, and ms of take-overs; the follower is the next
    turn's leader.
    """
    leaders, followers, starts, take_overs = [], [], [], []
    with (
        cluster(stock=count) as running,
        closing(Witness(running.endpoint)) as witness,
        running.client() as client,
    ):
        client.apply_pool({"name": "default", "capacity": {"cpu": 1000}})
        for turn in range(repeat):
            began = CLOCK.boottime()
            follower = add_replica(running, f"next{turn}")
            wait_started(running, follower)
            starts.append(CLOCK.boottime() - began)
            leaders.append(resident_bytes(running.replicas[0]) / 1e6)
            followers.append(resident_bytes(follower) / 1e6)
            take_overs.append(1000 * _take_over(running, witness, turn))
    return leaders, followers, starts, take_overs


def _take_over(running: LocalCluster, witness: Witness, turn: int) -> float:
    """Seconds from SIGTERM to the next leader's first commit; something to commit is submitted right after
    the signal.
    """
    with running.client() as client:
        client.submit_many(specs(5, f"before{turn}"))
        wait_until(lambda: witness.first_commits, "a first commit", timeout=60.0)
        leader = running.replicas.pop(0)
        at = kill(leader, signal.SIGTERM)
        client.submit_many(specs(5, f"after{turn}"))
        seconds = witness.next_term(at)
        assert leader.process is not None
        leader.process.wait(30)
        return seconds
