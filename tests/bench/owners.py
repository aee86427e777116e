"""B14: what owners cost: a pass in a pool with many of them against one with a single owner."""

from __future__ import annotations

import time

from controller.core.model import codec
from controller.core.model.op import Op
from controller.core.model.task import Phase
from controller.core.model.validation import parse_spec
from controller.core.planning.plan import Start
from controller.store.base import Put, Transaction
from tests.bench.measure import MEMORY, Aim, Figure
from tests.bench.sizes import Sizes
from tests.support.bench import Stage, StagedReplica, observation

HALF_LIFE_SECONDS = 86_400
TICK_SECONDS = 60.0  # as long as an order is kept with that half-life
_TASKS_A_TRANSACTION = 100


def owners(sizes: Sizes) -> list[Figure]:
    """A pass of one end and one admission, and one after which all owners are placed anew."""
    most, waiting = sizes.owners, sizes.owned
    # by turns, so that whatever else the machine does meets both
    alone, many = Passes(1, waiting), Passes(most, waiting)
    for passes in (alone, many):
        passes.measure(max(10, sizes.passes // 10))
        passes.samples.clear()
    for _ in range(10):
        for passes in (alone, many):
            passes.measure(max(1, sizes.passes // 10))
    waits = f"{waiting:,} tasks waiting"
    one = Figure("B14", f"pass with 1 owner, {waits}", "µs", alone.samples, MEMORY, tail=True)
    what, base, aims = f"pass with {most:,} owners, {waits}", one.median, (Aim("ratio", most=1.2),)
    usual = Figure(
        "B14", what, "µs", many.samples, MEMORY, baseline=base, against="1 owner", aims=aims, tail=True
    )
    many.samples = []
    many.measure(max(3, sizes.passes // 20), moves=TICK_SECONDS)
    what = f"the same, once in {TICK_SECONDS:g} s: all owners are placed anew"
    return [one, usual, Figure("B14", what, "µs", many.samples, MEMORY, tail=True)]


class Passes:
    """A shared pool with room for one task, and so many owners and waiting tasks; `samples` in µs."""

    def __init__(self, owners: int, waiting: int) -> None:
        self.samples: list[float] = []
        self._stage = Stage()
        self._stage.pool(capacity={"cpu": 1}, sharing={"half_life": HALF_LIFE_SECONDS})
        writes = []
        for number in range(waiting):
            task = {"id": f"t{number}", "owner": f"o{number % owners}", "command": ["true"]}
            spec = parse_spec({**task, "resources": {"cpu": 1}})
            value = codec.encode_spec(spec, self._stage.clock.now(), Op("bench"))
            writes.append(Put(self._stage.keys.task(spec.id), value))
        for first in range(0, waiting, _TASKS_A_TRANSACTION):
            some = tuple(writes[first : first + _TASKS_A_TRANSACTION])
            self._stage.store.commit(Transaction((), some, Op(f"b{first}")), deadline=float("inf"))
        self._leader = self._stage.leader()
        self._started = _settle(self._leader)

    def measure(self, times: int, *, moves: float = 0.0) -> None:
        """The end of what runs, and the admission that it allows; `moves` seconds pass between two."""
        for _ in range(times):
            self._leader.acknowledge([self._started])
            self._leader.see(observation(self._started.attempt, Phase.RUNNING))
            _settle(self._leader)
            self._stage.clock.move(moves or 0.001)
            ended = observation(self._started.attempt, Phase.SUCCEEDED)
            began = time.perf_counter()
            self._leader.see(ended)
            self._started = _settle(self._leader, self._started)
            self.samples.append(1e6 * (time.perf_counter() - began))


def _settle(leader: StagedReplica, running: Start | None = None) -> Start:
    """Step until nothing is left to do; returns the start that this has led to."""
    leader.effects.clear()
    while leader.reconciler.step():
        pass
    starts = [effect for effect in leader.effects if isinstance(effect, Start)]
    return starts[0] if starts else running  # type: ignore[return-value]
