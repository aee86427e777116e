"""`python -m tests.bench [NAME…]`: measures, prints one table, and writes it to `tests/bench/results/`. Asserts nothing.

Every figure says what it was measured on. "etcd, fsync" is one etcd member on this machine's disk that syncs each commit,
as in production; "memory" is the store in memory, which shows Tally's own cost alone.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import time
from pathlib import Path

import structlog
from rich.console import Console
from rich.table import Table

from tests.bench.measure import Figure
from tests.bench.measurements import MEASUREMENTS

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run the measurements that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MEASUREMENTS)}; without one, all")
    parser.add_argument("--repeat", type=int, default=3, help="how often each is measured")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(MEASUREMENTS):
        parser.error(f"there is no measurement {', '.join(sorted(unknown))}")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    console = Console()
    figures: list[Figure] = []
    for name, measure in MEASUREMENTS.items():
        if not arguments.names or name in arguments.names:
            with console.status(f"measuring {name} …"):
                figures += measure(arguments.repeat)
    table = Table(title=f"Tally on {platform.node()}: {os.cpu_count()} cpus, Python {platform.python_version()}")
    for column in ("what", "measured on", "median", "spread", "ratio"):
        table.add_column(column, justify="right" if column in ("median", "spread", "ratio") else "left")
    for figure in figures:
        table.add_row(*figure.row())
    console.print(table)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(json.dumps([figure.to_json() for figure in figures], indent=1) + "\n")
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
