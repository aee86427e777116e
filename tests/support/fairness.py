"""Owners that compete for a pool in simulated time: the real planner, on a store in memory."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from typing import Any

from controller.core.model import codec
from controller.core.model.op import Op
from controller.core.model.records import Change
from controller.core.model.task import AttemptId, Phase
from controller.core.model.validation import parse_spec
from controller.core.planning.plan import Start
from tests.support.bench import Stage, observation

CORES = 256
TICK_SECONDS = 5.0
BACKLOG = 40  # tasks of each owner that wait


@dataclass
class Competition:
    """What each owner had used, in core-seconds, at each time (seconds since the begin)."""

    weights: dict[str, float]
    times: list[float] = field(default_factory=list)
    used: dict[str, list[float]] = field(default_factory=dict)
    leaders: int = 0

    def part(self, owner: str, begin: float, end: float) -> float:
        """What part the owner had of all that was used in that time."""
        first, last = self._at(begin), self._at(end)
        total = sum(used[last] - used[first] for used in self.used.values())
        return (self.used[owner][last] - self.used[owner][first]) / total

    def _at(self, time: float) -> int:
        return next((n for n, each in enumerate(self.times) if each >= time), len(self.times) - 1)


def compete(
    weights: dict[str, float],
    seconds: float,
    *,
    half_life: float = 0,
    active: dict[str, tuple[float, float]] | None = None,
    leader_seconds: float = 0,
    arrivals: int = 0,
    seed: int = 1,
) -> Competition:
    """Let the owners compete: each always has tasks that wait, of mixed sizes and run times.

    With `arrivals`, a random number of tasks up to that is submitted at each tick, and not all that there is
    room for. `active` says from when to when an owner has tasks, if not always. A new leader takes over every
    `leader_seconds`.
    """
    rng, stage = random.Random(seed), Stage()
    owners = {owner: {"weight": weight} for owner, weight in weights.items()}
    stage.pool(
        capacity={"cpu": CORES},
        policy="backfill",
        backfill_seconds=0,
        sharing={"half_life": half_life, "owners": owners},
    )
    found = Competition(weights, used={owner: [] for owner in weights})
    begin, leader, numbers = stage.clock.now(), stage.leader(), 0
    waiting: dict[str, set[str]] = {owner: set() for owner in weights}
    ends: list[tuple[float, str, int]] = []
    running: dict[str, int] = {}
    next_leader = leader_seconds

    def submit(owner: str) -> None:
        nonlocal numbers
        numbers += 1
        fields: dict[str, Any] = {"resources": {"cpu": rng.choice([1, 1, 2, 4])}, "retention_seconds": 1}
        spec = parse_spec({"id": f"t{numbers}", "owner": owner, "command": ["true"], **fields})
        value = codec.encode_spec(spec, stage.clock.now(), Op(f"s/{numbers}"))
        revision = stage.put(stage.keys.task(spec.id), value)
        touched = leader.model.apply(Change("tasks", (spec.id,), value, revision, revision))
        assert touched is not None
        leader.planner.note(touched)
        waiting[owner].add(spec.id)

    def act() -> None:
        while effects := leader.run():
            leader.acknowledge(effects)
            for effect in effects:
                if isinstance(effect, Start):
                    task_id, number = effect.attempt
                    waiting[effect.launch.spec.owner].discard(task_id)
                    running[task_id] = number
                    heapq.heappush(ends, (stage.clock.now() + rng.uniform(10, 50), task_id, number))
                    leader.see(observation(effect.attempt, Phase.RUNNING))

    while stage.clock.now() < begin + seconds:
        now = stage.clock.now() - begin
        if leader_seconds and now >= next_leader:
            next_leader += leader_seconds
            found.leaders += 1
            stage.elect()
            leader = stage.leader(
                *(observation(AttemptId(task_id, n), Phase.RUNNING) for task_id, n in running.items())
            )
        for owner in weights:
            since, until = (active or {}).get(owner, (0.0, seconds))
            room = BACKLOG - len(waiting[owner]) if since <= now < until else 0
            for _ in range(min(room, rng.randint(0, arrivals)) if arrivals else room):
                submit(owner)
        act()
        found.times.append(now)
        for owner in weights:
            at = round(stage.clock.now() * 1000)
            found.used[owner].append(leader.model.share("default", owner).used_at(at).get("cpu") / 1e6)
        step = now + TICK_SECONDS
        while ends and ends[0][0] - begin <= step:
            due, task_id, number = heapq.heappop(ends)
            stage.clock.move(due - stage.clock.now())
            del running[task_id]
            leader.see(observation((task_id, number), Phase.SUCCEEDED))
            act()
        stage.clock.move(begin + step - stage.clock.now())
    stage.check()
    return found
