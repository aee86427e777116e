"""B10: submissions, as users make them: a file through the command line, and eight clients at once.

Their floor are the same transactions, sent again to a fresh etcd by one client that does nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from controller.client import Client
from controller.store.base import Transaction
from controller.store.etcd import wire
from controller.store.etcd.gateway import GatewayOptions
from controller.store.etcd.store import EtcdStore
from controller.store.etcd.transaction import PendingTransaction
from tests.bench.measure import Aim, Figure
from tests.bench.sizes import Sizes
from tests.bench.stage import CLOCK, KEYS, POOL, ROOT, client_of, disk, etcd, specs, store_on

CLIENTS = 8
TASKS_A_SECOND = 2000.0


def submissions(sizes: Sizes) -> list[Figure]:
    """N tasks from a file through the command line, and from eight processes at once; with no replica to
    answer to.
    """
    count = sizes.submitted
    each = max(1, count // CLIENTS)
    floor = [count / _replay(count) for _ in range(sizes.repeat)]
    with disk() as folder:
        path = folder / "tasks.ndjson"
        path.write_text("".join(json.dumps(task) + "\n" for task in specs(count, "file")))
        through_file = [count / _command(path) for _ in range(sizes.repeat)]
    at_once = [CLIENTS * each / _at_once(each) for _ in range(sizes.repeat)]
    base = Figure("B10", f"floor: the transactions of {count:,} submissions, sent again", "tasks/s", floor)
    compared: dict[str, Any] = {
        "baseline": base.median,
        "against": "floor",
        "aims": (Aim("median", least=min(TASKS_A_SECOND, base.median)),),
    }
    what = f"`tally submit -f` of {count:,} tasks, the command's own start included"
    return [
        base,
        Figure("B10", what, "tasks/s", through_file, **compared),
        Figure("B10", f"{CLIENTS} clients at once, {each:,} tasks each", "tasks/s", at_once, **compared),
    ]


@contextmanager
def _etcd_with_pool() -> Iterator[dict[str, str]]:
    """The environment of users of a fresh etcd with a pool."""
    with etcd() as member, client_of(member.url) as client:
        client.apply_pool(POOL)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TALLY_")}
        yield environment | {"TALLY_ETCD": member.url, "TALLY_CLUSTER": KEYS.cluster}


def _command(path: Path) -> float:
    """Seconds of the command."""
    with _etcd_with_pool() as environment:
        began = CLOCK.boottime()
        command = [sys.executable, "-m", "controller.cli.main", "submit", "-f", str(path)]
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
        )
        seconds = CLOCK.boottime() - began
        if done.returncode:
            raise RuntimeError(f"tally submit failed: {done.stderr}")
        return seconds


def _at_once(each: int) -> float:
    """Seconds from the word to go until all clients, which are up and connected, have submitted all."""
    with _etcd_with_pool() as environment, ExitStack() as stack:
        clients = [stack.enter_context(_client(environment, each, number)) for number in range(CLIENTS)]
        for client in clients:
            _line(client, "ready")
        began = CLOCK.boottime()
        for client in clients:
            assert client.stdin is not None
            client.stdin.write("go\n")
            client.stdin.flush()
        for client in clients:
            _line(client, "done")
        return CLOCK.boottime() - began


@contextmanager
def _client(environment: dict[str, str], each: int, number: int) -> Iterator[subprocess.Popen[str]]:
    """A process that submits when told; it ends with its standard input."""
    command = [
        sys.executable,
        "-m",
        "tests.bench.submitter",
        environment["TALLY_ETCD"],
        str(each),
        f"part{number}",
    ]
    with subprocess.Popen(
        command, env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _line(process: subprocess.Popen[str], expected: str) -> None:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if line != expected:
        raise RuntimeError(f"a client said {line!r} instead of {expected!r}")


class _Keeping(EtcdStore):
    """Keeps the transactions that it was given."""

    def __init__(self, url: str) -> None:
        super().__init__(GatewayOptions((url,)), CLOCK)
        self.bodies: list[bytes] = []

    def begin(self, transaction: Transaction, *, deadline: float) -> PendingTransaction:
        self.bodies.append(wire.encode_transaction(transaction))
        return super().begin(transaction, deadline=deadline)


def _replay(count: int) -> float:
    """Seconds for the very transactions of these submissions: their guards hold on a fresh etcd with the
    same pool.
    """
    with etcd() as member:
        store = _Keeping(member.url)
        client = Client.of_store(store, cluster=KEYS.cluster)
        client.apply_pool(POOL)
        store.bodies.clear()
        client.submit_many(specs(count, "file"))
        store.close()
    with etcd() as member, store_on(member.url) as fresh:
        # at the revision that they compare; and it is connected
        Client.of_store(fresh, cluster=KEYS.cluster).apply_pool(POOL)
        began = CLOCK.boottime()
        for body in store.bodies:
            assert fresh.gateway.call(
                "/kv/txn", body, wire.decode_transaction, deadline=CLOCK.boottime() + 30
            ).succeeded
        return CLOCK.boottime() - began
