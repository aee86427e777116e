"""How much of each row is measured: FULL as the aims are stated, QUICK in a few minutes, TINY so that the
benches cannot rot.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Counts of tasks unless the name says otherwise; `repeat` is how often what gives one sample a run is
    run.
    """

    name: str
    repeat: int
    recorded: int  # B1: tasks of the burn-down whose transactions are sent again
    floor_seconds: float  # B1: how long puts and transactions of each size are sent
    burned: int  # B2
    shape_divisor: int  # B3: Kueue's counts are divided by this
    growth: tuple[int, ...]  # B4: stored tasks
    growth_burned: int
    passes: int  # B4: passes timed at each size
    standing: tuple[int, ...]  # B5, B6: stored tasks; the first is the base
    take_overs: int  # B7, of each fault
    lease_ttl_seconds: int  # B7
    latencies: int  # B8
    read_stored: tuple[int, ...]  # B9
    readers: int
    read_burned: int
    submitted: int  # B10
    pods: int  # B11: pod lives
    watched_pods: int
    decoded: int  # B11: of the recorded events, how many the official client decodes
    seeds: int  # B12
    streams: int  # B13: readers of a gateway's stream
    waits: int  # B13: callers that wait
    owners: int  # B14
    owned: int  # B14, B20: waiting tasks, of all owners
    changed: int  # B15
    waiting: int  # B17, B18, B19
    a_day: int  # B21
    a_batch: int
    retention_seconds: float
    peers: int  # 0: not run


FULL = Sizes(
    name="full",
    repeat=5,
    recorded=5_000,
    floor_seconds=5.0,
    burned=20_000,
    shape_divisor=1,
    growth=(1_000, 10_000, 100_000, 500_000),
    growth_burned=10_000,
    passes=500,
    standing=(0, 10_000, 100_000),
    take_overs=30,
    lease_ttl_seconds=5,
    latencies=500,
    read_stored=(10_000, 100_000),
    readers=200,
    read_burned=10_000,
    submitted=10_000,
    pods=2_000,
    watched_pods=5_000,
    decoded=2_000,
    seeds=10,
    streams=1000,
    waits=500,
    owners=1_000,
    owned=100_000,
    changed=10_000,
    waiting=10_000,
    a_day=2_000_000,
    a_batch=10_000,
    retention_seconds=60.0,
    peers=5_000,
)

QUICK = Sizes(
    name="quick",
    repeat=3,
    recorded=5_000,
    floor_seconds=1.0,
    burned=20_000,
    shape_divisor=5,
    growth=(1_000, 20_000),
    growth_burned=2_000,
    passes=200,
    standing=(0, 100_000),
    take_overs=5,
    lease_ttl_seconds=5,
    latencies=100,
    read_stored=(10_000,),
    readers=200,
    read_burned=5_000,
    submitted=10_000,
    pods=500,
    watched_pods=500,
    decoded=500,
    seeds=3,
    streams=1000,
    waits=500,
    owners=1_000,
    owned=20_000,
    changed=3_000,
    waiting=10_000,
    a_day=100_000,
    a_batch=4_000,
    retention_seconds=4.0,
    peers=0,
)

TINY = Sizes(
    name="tiny",
    repeat=1,
    recorded=30,
    floor_seconds=0.02,
    burned=30,
    shape_divisor=50,
    growth=(10, 20),
    growth_burned=20,
    passes=3,
    standing=(0, 20),
    take_overs=1,
    lease_ttl_seconds=3,
    latencies=2,
    read_stored=(20,),
    readers=3,
    read_burned=30,
    submitted=40,
    pods=4,
    watched_pods=2,
    decoded=4,
    seeds=1,
    streams=3,
    waits=4,
    owners=3,
    owned=20,
    changed=40,
    waiting=60,
    a_day=80,
    a_batch=20,
    retention_seconds=1.0,
    peers=0,
)
