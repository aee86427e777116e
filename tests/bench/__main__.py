"""`make bench`, `make bench-full`: measures, prints one table, and writes all samples as JSON.

Asserts nothing.

    python -m tests.bench [--full] [--rows B2,B7] [--output FILE]
    python -m tests.bench --publish FILE         write the figures of such a file into RESULTS.md; measures
    nothing

Every figure says its durability: "etcd, fsync" is one etcd member on this machine's disk that syncs each
commit, as in production. The environment's ROWS stands for --rows; TALLY_BENCH_DIR names the folder on the
disk.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
import traceback
from pathlib import Path

import structlog
from rich.console import Console

from tests.bench.report import Report, publish
from tests.bench.rows import MEASUREMENTS, ROWS, Skipped
from tests.bench.sizes import FULL, QUICK, Sizes
from tests.bench.stage import alone

RESULTS = Path(__file__).parent / "results"
PIPED_COLUMNS = 200


def main() -> int:
    """Returns the exit code: 1 when a row broke, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.description = __doc__
    parser.add_argument("--full", action="store_true", help="the sizes of the aims, and the peers")
    parser.add_argument(
        "--rows", default=os.environ.get("ROWS", ""), help=f"of {','.join(ROWS)}; without, all"
    )
    parser.add_argument(
        "--output", type=Path, help="where the JSON goes; without, a new file in tests/bench/results"
    )
    parser.add_argument(
        "--publish", type=Path, metavar="FILE", help="write the figures of this JSON into RESULTS.md"
    )
    arguments = parser.parse_args()
    if arguments.publish:
        publish(json.loads(arguments.publish.read_text()))
        return 0
    rows = {row.strip().upper() for row in arguments.rows.split(",") if row.strip()} or set(ROWS)
    if unknown := rows - set(ROWS):
        parser.error(f"there is no row {', '.join(sorted(unknown))}; the rows are {', '.join(ROWS)}")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    # or every start of a process compiles all modules, as no user's does
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with alone():
        report = Report("full" if arguments.full else "quick")
        path = arguments.output or RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
        broken = measure(report, rows, FULL if arguments.full else QUICK, path)
    report.show(Console(width=None if sys.stdout.isatty() else PIPED_COLUMNS))
    print(f"written to {path}; `python -m tests.bench --publish {path}` puts it into RESULTS.md")
    return int(broken)


def measure(report: Report, rows: set[str], sizes: Sizes, path: Path) -> bool:
    """Measure these rows into the report, which is written after each; tells whether one broke, which keeps
    no other from being measured.
    """
    broken = False
    for names, function in MEASUREMENTS:
        if not rows & set(names):
            continue
        print(f"{', '.join(names)}: {function.__doc__ or ''}".splitlines()[0], file=sys.stderr, flush=True)
        began = time.monotonic()
        try:
            report.figures += [figure for figure in function(sizes) if figure.row in rows]
        except Skipped as skipped:
            report.skipped.append({"row": ", ".join(names), "reason": str(skipped)})
        except Exception as error:  # noqa: BLE001  # the others are still worth having; the exit code tells
            traceback.print_exc()
            report.skipped.append(
                {"row": ", ".join(names), "reason": f"broke with {type(error).__name__}: {error}"}
            )
            broken = True
        report.seconds[", ".join(names)] = round(time.monotonic() - began, 1)
        report.write(path)
    return broken


if __name__ == "__main__":
    sys.exit(main())
