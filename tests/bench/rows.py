"""Which function measures which rows, in the order in which they are measured."""

from __future__ import annotations

from collections.abc import Callable

from tests.bench.arrays import arrays
from tests.bench.beside import beside
from tests.bench.burn_down import burn_down
from tests.bench.changes import changes
from tests.bench.day import day
from tests.bench.dependencies import dependencies
from tests.bench.floor import floor
from tests.bench.forecasts import forecasts
from tests.bench.gangs import gangs
from tests.bench.gateway import gateway
from tests.bench.growth import growth
from tests.bench.kueue_shape import kueue_shape
from tests.bench.latency import latency
from tests.bench.measure import Figure, Skipped
from tests.bench.owners import owners
from tests.bench.peers import peers
from tests.bench.pods import pods
from tests.bench.pods_burned import pods_burned
from tests.bench.reads import reads
from tests.bench.simulator import simulator
from tests.bench.sizes import Sizes
from tests.bench.standing import standing
from tests.bench.submissions import submissions
from tests.bench.take_over import take_over

__all__ = ["MEASUREMENTS", "ROWS", "Skipped"]

MEASUREMENTS: tuple[tuple[tuple[str, ...], Callable[[Sizes], list[Figure]]], ...] = (
    (("B1",), floor),
    (("B2",), burn_down),
    (("B3",), kueue_shape),
    (("B4",), growth),
    (("B5", "B6"), standing),
    (("B7",), take_over),
    (("B8",), latency),
    (("B9",), reads),
    (("B10",), submissions),
    (("B11",), pods),
    (("B12",), simulator),
    (("B13",), gateway),
    (("B14",), owners),
    (("B15",), changes),
    (("B16",), beside),
    (("B17",), dependencies),
    (("B18",), arrays),
    (("B19",), gangs),
    (("B20",), forecasts),
    (("B21",), day),
    (("B22",), pods_burned),
    (("PEERS",), peers),
)

ROWS = tuple(dict.fromkeys(row for rows, _ in MEASUREMENTS for row in rows))
