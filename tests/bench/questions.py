"""`python -m tests.bench.questions URL`: asks a replica, one question after the other over one connection, in
a process of its own.

Says "ready" once each kind was asked, goes on until a line comes on standard input, and then prints as JSON
how many milliseconds each answer took, by kind.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
from http.client import HTTPConnection
from urllib.parse import urlsplit

from controller.clock import SystemClock

CLOCK = SystemClock()
KINDS = {
    "one task": "/v1/tasks/stock-00000001",
    "a page of 100": "/v1/tasks?limit=100",
    "a page by pool and state": "/v1/tasks?pool=stock&state=Succeeded&limit=100",
    "all pools": "/v1/pools",
}
PAUSE_SECONDS = 0.01


def main(url: str) -> None:
    """See the module's docstring."""
    parts = urlsplit(url)
    connection = HTTPConnection(str(parts.hostname), parts.port, timeout=30)
    ended = threading.Event()

    def await_end() -> None:
        sys.stdin.readline()
        ended.set()

    threading.Thread(target=await_end, name="bench-end", daemon=True).start()
    for path in KINDS.values():
        _ask(connection, path)
    print("ready", flush=True)
    milliseconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for kind, path in itertools.cycle(KINDS.items()):
        milliseconds[kind].append(_ask(connection, path))
        if ended.wait(PAUSE_SECONDS) and all(milliseconds.values()):
            break
    print(json.dumps(milliseconds), flush=True)


def _ask(connection: HTTPConnection, path: str) -> float:
    """Milliseconds that the answer took. Raises RuntimeError for one that is none."""
    began = CLOCK.boottime()
    connection.request("GET", path)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{path} was answered {answer.status}: {content[:200]!r}")
    return 1000 * (CLOCK.boottime() - began)


if __name__ == "__main__":
    main(sys.argv[1])
