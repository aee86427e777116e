"""celery on Redis: `python peer_celery.py URL COUNT KILLED_AMONG`, in the peers' virtual environment; see
`peer_driver`.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import celery
import redis
from peer_driver import Workers, left_behind, rate, tell

HERE = Path(__file__).parent
URL = "PEER_URL"
PROCESSES = "2"

app = celery.Celery("peer_celery", broker=os.environ.get(URL), backend=os.environ.get(URL))
app.conf.task_acks_late = True  # otherwise a task that a killed worker had begun is lost for sure
app.conf.broker_connection_retry_on_startup = True


@app.task(name="nothing")
def nothing() -> None:
    """The no-op."""


def main(url: str, count: int, killed_among: int) -> None:
    """Submit, burn down, then kill."""
    os.environ[URL] = url
    app.conf.update(broker_url=url, result_backend=url)
    database = redis.Redis.from_url(url)
    options = {URL: url, "PYTHONPATH": str(HERE)}
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "peer_celery",
        "worker",
        "--concurrency",
        PROCESSES,
        "--loglevel",
        "ERROR",
    ]
    start = partial(Workers, command, 1, **options)

    def submit(number: int) -> None:
        database.flushall()
        for _ in range(number):
            nothing.delay()

    def ended() -> int:
        return sum(1 for _ in database.scan_iter("celery-task-meta-*", count=10_000))

    submit(count)
    reached = rate(start, ended, count)
    submit(killed_among)
    tell(celery.__version__, reached, left_behind(start, ended, killed_among))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
