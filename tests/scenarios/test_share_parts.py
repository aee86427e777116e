"""What was held while an attempt was lost or being stopped: parts of what an owner has used, to the ms."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from controller.client import Client
from controller.core.model import codec
from controller.core.model.requests import RepairRequest, RequestKind, Wanted
from controller.core.model.resources import Vector
from controller.core.model.shares import DAY_MS, Share
from controller.core.model.task import HISTORY_LIMIT, Phase
from controller.core.promise.share_invariants import check_shares
from tests.support.bench import Stage, StagedReplica, observation

SHARING = {"owners": {"vision": {"weight": 2}}}


@pytest.fixture
def stage() -> Stage:
    """A shared pool of 4 cpus."""
    stage = Stage()
    stage.pool(sharing=SHARING)
    return stage


def run(stage: Stage, task_id: str = "a", **fields: object) -> StagedReplica:
    """A task of 1 cpu runs."""
    stage.submit(task_id, owner="vision", **fields)
    leader = stage.leader()
    leader.run_to(task_id, Phase.RUNNING)
    return leader


def see(leader: StagedReplica, phase: Phase, task: tuple[str, int] = ("a", 1), **fields: object) -> None:
    leader.see(observation(task, phase, **fields))
    leader.acknowledge(leader.run())


def ask(stage: Stage, leader: StagedReplica, kind: RequestKind) -> None:
    stage.request("a", kind)
    leader.sync()
    leader.acknowledge(leader.run())


def share(stage: Stage) -> Share:
    return stage.model().share("default", "vision")


def stored_share(stage: Stage) -> dict[str, Any]:
    item, _ = stage.store.get(stage.keys.share("default", "vision"), deadline=stage.clock.boottime() + 5)
    assert item is not None
    return dict(json.loads(item.value))


def charged(stage: Stage) -> tuple[int, int, int]:
    """Used, lost and stopping, in cpu × ms, of holds that have ended."""
    stage.check()
    found = share(stage)
    assert found.held == Vector()
    used, lost, stopping = (part.get("cpu") // 1000 for part in (found.used, found.lost, found.stopping))
    return used, lost, stopping


def so_far(stage: Stage) -> tuple[str | None, str | None]:
    """Lost and stopping up to now, as clients see them."""
    [line] = Client.of_store(stage.store, cluster="stage", clock=stage.clock).usage().items
    [owner] = [
        owner
        for owner in Client.of_store(stage.store, cluster="stage", clock=stage.clock).owners.all()
        if owner.used
    ]
    assert (owner.lost, owner.stopping) == (line.lost, line.stopping)
    return line.lost.get("cpu"), line.stopping.get("cpu")


def cancel(stage: Stage, leader: StagedReplica) -> None:
    ask(stage, leader, RequestKind.CANCEL)


def end_main(stage: Stage, leader: StagedReplica) -> None:
    see(leader, Phase.RUNNING, main_ended=True, ran=True, exit_code=0)


@pytest.mark.parametrize("stop", [cancel, end_main])
def test_a_stop_counts_from_its_request_to_its_proof(
    stage: Stage, stop: Callable[[Stage, StagedReplica], None]
) -> None:
    leader = run(stage)
    stage.clock.move(10)
    stop(stage, leader)
    before = share(stage)
    stage.clock.move(3.5)
    assert so_far(stage) == (None, "3500000")
    assert share(stage) == before, "nothing is written meanwhile"
    see(leader, Phase.FAILED, exit_code=0)
    assert charged(stage) == (13_500, 0, 3500)
    assert so_far(stage) == (None, "3500000")
    step = codec.decode_history(stage.status("a"))[-1]
    assert (step.lost_ms, step.stopping_ms) == (0, 3500)


def test_what_is_lost_counts_until_it_is_found_or_ends(stage: Stage) -> None:
    leader = run(stage)
    stage.clock.move(10)
    see(leader, Phase.UNKNOWN)
    stage.clock.move(2)
    assert so_far(stage) == ("2000000", None)
    see(leader, Phase.RUNNING)
    stage.clock.move(30)
    assert so_far(stage) == ("2000000", None)
    see(leader, Phase.UNKNOWN)
    stage.clock.move(5)
    ask(stage, leader, RequestKind.CONFIRM_STOPPED)
    assert charged(stage) == (47_000, 7000, 0)


def test_time_that_is_both_is_lost(stage: Stage) -> None:
    """A stop without proof is shown as lost; it may be found, and is then being stopped again."""
    leader = run(stage)
    cancel(stage, leader)
    stage.clock.move(100)  # its grace is over
    see(leader, Phase.UNKNOWN)
    assert stage.status("a").lost_since is not None
    stage.clock.move(20)
    assert so_far(stage) == ("20000000", "100000000")
    see(leader, Phase.FAILED)
    assert charged(stage) == (120_000, 20_000, 100_000)


def test_an_attempt_that_is_replaced_is_charged_once(stage: Stage) -> None:
    """The next attempt, which is not lost, begins at nothing."""
    leader = run(stage, on_lost={"replace_after": "1m"}, retry={"max_attempts": 2, "backoff_seconds": 0})
    see(leader, Phase.UNKNOWN)
    stage.clock.move(60)
    leader.acknowledge(leader.run())
    assert stage.status("a").attempt == 2
    assert so_far(stage) == ("60000000", None)
    stage.clock.move(5)
    see(leader, Phase.SUCCEEDED, ("a", 2))
    assert charged(stage) == (65_000, 60_000, 0)


def test_a_successor_goes_on_where_the_last_leader_was(stage: Stage) -> None:
    leader = run(stage)
    see(leader, Phase.UNKNOWN)
    stage.clock.move(4)
    see(leader, Phase.RUNNING)
    cancel(stage, leader)
    stage.clock.move(6)
    stage.elect()
    successor = stage.leader(observation(("a", 1), Phase.RUNNING))
    successor.acknowledge(successor.run())
    stage.clock.move(1)
    see(successor, Phase.FAILED)
    assert charged(stage) == (11_000, 4000, 7000)


def test_a_history_that_is_cut_takes_nothing_from_them(stage: Stage) -> None:
    leader = run(stage)
    for _ in range(HISTORY_LIMIT):
        see(leader, Phase.UNKNOWN)
        stage.clock.move(1)
        see(leader, Phase.RUNNING)
        stage.clock.move(1)
    assert stage.status("a").steps > 2 * HISTORY_LIMIT
    see(leader, Phase.SUCCEEDED)
    assert charged(stage) == (2000 * HISTORY_LIMIT, 1000 * HISTORY_LIMIT, 0)


def test_a_status_of_an_older_version_says_since_when_it_is_lost(stage: Stage) -> None:
    """Since when it was being stopped, it does not say."""
    leader = run(stage)
    cancel(stage, leader)
    see(leader, Phase.UNKNOWN)
    stage.clock.move(200)
    see(leader, Phase.UNKNOWN)
    stored = json.loads(codec.encode_status(stage.status("a"), {}))
    for name in ("lost_ms", "stopping_ms", "counted_at"):
        stored.pop(name, None)
    stage.put(stage.keys.state("a"), json.dumps(stored).encode())
    leader.sync()
    stage.clock.move(3)
    see(leader, Phase.FAILED)
    assert charged(stage) == (203_000, 3000, 0)


def test_a_pool_that_is_shared_counts_from_then(stage: Stage) -> None:
    """What an attempt was lost before was not charged; what it is lost from then on is."""
    stage.pool("plain")
    stage.submit("a", owner="vision", pool="plain")
    leader = stage.leader()
    leader.run_to("a", Phase.RUNNING)
    see(leader, Phase.UNKNOWN)
    stage.clock.move(50)
    stage.pool("plain", sharing=SHARING)
    leader.sync()
    leader.run()
    assert stage.model().share("plain", "vision").lost == Vector({"cpu": -50_000_000})
    stage.clock.move(2)
    assert so_far(stage) == ("2000000", None)
    see(leader, Phase.FAILED)
    found = stage.model().share("plain", "vision")
    assert (found.used, found.lost) == (Vector({"cpu": 2_000_000}), Vector({"cpu": 2_000_000}))
    stage.check()


def repair(stage: Stage, leader: StagedReplica, invariant: str, subject: str) -> None:
    wanted = RepairRequest(findings=(Wanted(invariant=invariant, subject=subject),), by="op")
    stage.put(stage.keys.repair("r"), codec.encode(wanted))
    leader.sync()
    leader.run()
    leader.list_engine(observation(("a", 1), Phase.RUNNING))
    leader.run()
    leader.sync()
    leader.run()


def test_parts_beyond_the_whole_are_found_and_cut(stage: Stage) -> None:
    leader = run(stage)
    cancel(stage, leader)
    stage.clock.move(1)
    see(leader, Phase.FAILED)
    stage.clock.move(1)
    stored = stored_share(stage)
    stored |= {"lost": {"cpu": "600000"}, "stopping": {"cpu": "600000"}}
    stage.put(stage.keys.share("default", "vision"), json.dumps(stored).encode())
    leader.sync()
    [finding] = check_shares(leader.model, ())
    assert (finding.invariant, finding.subject) == ("I10", "pool/default")
    assert "were lost" in finding.what
    repair(stage, leader, "I10", "pool/default")
    assert charged(stage) == (1000, 400, 600)


def test_a_repaired_hold_counts_from_its_repair(stage: Stage) -> None:
    """What was charged by the wrong hold is an estimate, of which no part is told."""
    leader = run(stage)
    cancel(stage, leader)
    stage.clock.move(5)
    stored = json.loads(codec.encode_status(stage.status("a"), {}))
    stage.put(stage.keys.state("a"), json.dumps({**stored, "hold": {"cpu": "3"}}).encode())
    repair(stage, leader, "I1", "task/a")
    assert stage.status("a").hold == Vector({"cpu": 1000})
    stage.clock.move(2)
    see(leader, Phase.FAILED)
    assert charged(stage) == (7000, 0, 2000)


def test_a_closed_day_tells_them_of_what_still_runs(stage: Stage) -> None:
    day = round(stage.clock.now() * 1000) // DAY_MS
    stage.clock.move((day + 1) * 86_400 - 10 - stage.clock.now())
    leader = run(stage)
    cancel(stage, leader)
    stage.clock.move(25)  # into the next day
    see(leader, Phase.FAILED)
    item, _ = stage.store.get(stage.keys.usage("1970-01-12", "default"), deadline=stage.clock.boottime() + 5)
    assert item is not None
    told = json.loads(item.value)
    assert (told["used"], told["stopping"]) == (
        {"vision": {"cpu": "10000000"}},
        {"vision": {"cpu": "10000000"}},
    )
    assert "lost" not in told
    assert charged(stage) == (25_000, 0, 25_000)


def test_a_share_that_never_lost_anything_says_nothing_of_it(stage: Stage) -> None:
    leader = run(stage)
    see(leader, Phase.SUCCEEDED)
    assert set(stored_share(stage)) == {"version", "held", "running", "used", "recent", "at", "op"}
    assert not {"lost_ms", "stopping_ms", "counted_at"} & set(
        json.loads(codec.encode_status(stage.status("a"), {}))
    )
