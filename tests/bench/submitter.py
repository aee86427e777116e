"""`python -m tests.bench.submitter URL COUNT NAME [TOKEN]`: a client of B10 or B13 in its own process; says
ready, waits, submits, says done. With a token, the URL is that of a gateway.
"""

from __future__ import annotations

import sys

from controller.client import Client, connect_to_gateway
from tests.bench.stage import specs


def main(url: str, count: str, name: str, token: str = "") -> None:
    """Connect, and submit so many tasks as soon as a line comes."""
    with connect_to_gateway(url, token=token) if token else Client(url) as client:
        tasks = specs(int(count), name)
        client.pools()
        print("ready", flush=True)
        sys.stdin.readline()
        assert all(result.accepted for result in client.submit_many(tasks))
        print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
