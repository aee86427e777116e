"""procrastinate on PostgreSQL: `python peer_procrastinate.py URL COUNT KILLED_AMONG`, in the peers'
virtual environment.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path

import procrastinate
import psycopg
from peer_driver import Workers, left_behind, rate, tell

HERE = Path(__file__).parent
URL = "PEER_URL"
PROCESSES = 2
CONCURRENCY = "10"

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ.get(URL, "")))


@app.task(name="nothing")
def nothing() -> None:
    """The no-op."""


def main(url: str, count: int, killed_among: int) -> None:
    """Submit, burn down, then kill."""
    database = psycopg.connect(url, autocommit=True)
    options = {URL: url, "PYTHONPATH": str(HERE)}
    command = [
        sys.executable,
        "-m",
        "procrastinate",
        "--app",
        "peer_procrastinate.app",
        "worker",
        "--concurrency",
        CONCURRENCY,
    ]
    start = partial(Workers, command, PROCESSES, **options)
    with app.replace_connector(procrastinate.SyncPsycopgConnector(conninfo=url)) as own, own.open():
        own.schema_manager.apply_schema()

        def submit(number: int) -> None:
            database.execute("TRUNCATE procrastinate_jobs CASCADE")
            own.configure_task("nothing").batch_defer(*({} for _ in range(number)))

        def ended() -> int:
            row = database.execute(
                "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'"
            ).fetchone()
            return int(row[0]) if row else 0

        submit(count)
        reached = rate(start, ended, count)
        submit(killed_among)
        tell(version("procrastinate"), reached, left_behind(start, ended, killed_among))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
