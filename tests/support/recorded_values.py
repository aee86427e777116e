"""Values that a real installation stored and a real etcd answered, checked in: what fuzzed decoders start
from.

To record them again, let a `tally dev` run tasks of all kinds (a failure with retries, a cancel, kept logs, a
repair), and call, where its folder is: `.venv/bin/python -m tests.support.recorded_values .tally`. It reads
etcd's whole history.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from controller.client import Client
from controller.core.model.codec import decode_mapping
from controller.errors import CorruptValue
from controller.store.etcd import wire
from controller.store.etcd.store import EtcdStore
from tests.support.etcd import in_seconds

FILE = Path(__file__).parent / "recorded-values.json"
OF_EACH = 4  # values of a kind: the longest and the shortest differ most
Recorded = dict[str, list[bytes]]


def load() -> Recorded:
    """By kind: a record's (`states`), a file's of an attempt (`result.json`), a call's (`/kv/range`)."""
    found: dict[str, list[str]] = json.loads(FILE.read_text(encoding="utf-8"))
    return {kind: [value.encode() for value in values] for kind, values in found.items()}


def _stored(client: Client) -> Iterator[tuple[str, bytes]]:
    """Every value since the first revision, those of deleted keys too."""
    prefix = client.keys.prefix
    newest = client.store.get(client.keys.leader, deadline=in_seconds())[1]
    watch = client.store.watch(prefix, after=0)
    for batch in watch:
        yield from (
            (e.key.removeprefix(prefix).split("/")[0], e.item.value)
            for e in batch.events
            if e.item is not None
        )
        if batch.revision >= newest:
            watch.close()


def _answered(store: EtcdStore, key: bytes) -> Iterator[tuple[str, bytes]]:
    def ask(path: str, request: object) -> tuple[str, bytes]:
        return path, store.gateway.call(path, wire.encode(request), bytes, deadline=in_seconds())

    yield ask("/kv/range", {"key": key})
    for result in ("EQUAL", "GREATER"):
        compare = {"key": key, "target": "CREATE", "create_revision": "0", "result": result}
        yield ask("/kv/txn", {"compare": [compare], "failure": [{"request_range": {"key": key}}]})
    lease = {"ID": 77, "TTL": 5}
    for path in ("/lease/grant", "/lease/keepalive", "/lease/revoke"):
        yield ask(path, lease)
    yield ask("/maintenance/status", {})
    watch = {"create_request": {"key": key, "start_revision": "1"}}
    connection, response = store.gateway.stream("/watch", wire.encode(watch), timeout=5.0)
    with response:
        for _ in range(2):  # that it was created, and the first events
            yield "/watch", response.readline()
    connection.close()


def record(folder: Path) -> Recorded:
    """See the module's docstring."""
    every: defaultdict[str, set[bytes]] = defaultdict(set)
    with Client.from_config(str(folder / "tally.toml")) as client:
        assert isinstance(client.store, EtcdStore)
        for kind, value in (*_stored(client), *_answered(client.store, client.keys.leader.encode())):
            # what was damaged to have it repaired is left out
            every[kind] |= {value} if _is_object(value) else set()
    for name in ("record.json", "result.json"):
        every[name] = {path.read_bytes() for path in folder.rglob(name)}
    return {kind: _chosen(values) for kind, values in sorted(every.items())}


def _is_object(value: bytes) -> bool:
    try:
        return bool(decode_mapping(value))
    except CorruptValue:
        return False


def _chosen(values: set[bytes]) -> list[bytes]:
    by_length = sorted(values, key=lambda value: (len(value), value))
    places = sorted({round(n * (len(by_length) - 1) / (OF_EACH - 1)) for n in range(OF_EACH)})
    return [by_length[place] for place in places]


if __name__ == "__main__":
    host, home = socket.gethostname(), os.path.realpath(sys.argv[1])
    found = {
        kind: [v.decode().replace(host, "host").replace(home, "/data") for v in vs]
        for kind, vs in record(Path(home)).items()
    }
    FILE.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
