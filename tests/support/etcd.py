"""Real etcd members for tests, on free ports of 127.0.0.1, ended with the test."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from controller.clock import SystemClock
from controller.dev.etcd import EtcdBinary, EtcdConfig, EtcdProcess
from controller.store.etcd.gateway import GatewayOptions
from controller.store.etcd.store import EtcdStore
from controller.store.etcd.wire import prefix_range
from tests.support.ports import free_ports as free_ports  # tests take it from here, too

CLOCK = SystemClock()

QUICK_ELECTION = ("--heartbeat-interval=20", "--election-timeout=200")


def in_seconds(seconds: float = 15.0) -> float:
    """A deadline; generous unless the test is about deadlines."""
    return CLOCK.boottime() + seconds


class EtcdFactory:
    """Makes members in `folder`; `close` stops them all."""

    def __init__(self, binary: EtcdBinary, folder: Path) -> None:
        self.binary = binary
        self._folder = folder
        self._stack = ExitStack()
        self._count = 0

    def configure(self, **options: Any) -> EtcdProcess:
        """A member that is not started yet; `options` are EtcdConfig's."""
        self._count += 1
        client_port, peer_port = free_ports(2)
        defaults: dict[str, Any] = {
            "data_dir": self._folder / f"etcd-{self._count}",
            "client_port": client_port,
            "peer_port": peer_port,
        }
        process = EtcdProcess(self.binary, EtcdConfig(**defaults | options))
        self._stack.callback(process.kill)
        return process

    def start(self, *, extra_args: tuple[str, ...] = QUICK_ELECTION, **options: Any) -> EtcdProcess:
        """A running member by itself; it elects itself sooner than by default, which also allows leases
        shorter than 2 s.
        """
        process = self.configure(extra_args=extra_args, **options)
        process.start()
        return process

    def start_cluster(self, size: int = 3, **options: Any) -> list[EtcdProcess]:
        """A running cluster; `options` are EtcdConfig's."""
        ports = free_ports(2 * size)
        peers = ",".join(f"m{i}=http://127.0.0.1:{ports[2 * i + 1]}" for i in range(size))
        members = [
            self.configure(
                name=f"m{i}",
                client_port=ports[2 * i],
                peer_port=ports[2 * i + 1],
                initial_cluster=peers,
                **options,
            )
            for i in range(size)
        ]
        for member in members:
            member.launch()
        for member in members:
            member.wait_healthy()
        return members

    def store(self, *endpoints: str, **options: Any) -> EtcdStore:
        """A store that is closed with the factory; `options` are GatewayOptions'."""
        store = EtcdStore(GatewayOptions(tuple(endpoints), **options), CLOCK)
        self._stack.callback(store.close)
        return store

    def close(self) -> None:
        """Stop all that was started."""
        self._stack.close()


def admin(store: EtcdStore, path: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """A call of etcd that Tally itself never makes: compaction, users, roles, alarms."""
    answer: dict[str, Any] = store.gateway.call(
        path, msgspec.json.encode(request), msgspec.json.decode, deadline=in_seconds()
    )
    return answer


def compact(store: EtcdStore, revision: int) -> None:
    """Compact away the history below `revision`, and wait until that is done."""
    admin(store, "/kv/compaction", {"revision": revision, "physical": True})


def enable_authentication(
    store: EtcdStore, user: str, password: str, prefix: str, *, right: str = "READWRITE"
) -> None:
    """Create root and a user with one role on `prefix`, then switch authentication on."""
    key, range_end = prefix_range(prefix.encode())
    admin(store, "/auth/role/add", {"name": "root"})
    admin(store, "/auth/user/add", {"name": "root", "password": "root-password"})
    admin(store, "/auth/user/grant", {"user": "root", "role": "root"})
    admin(store, "/auth/role/add", {"name": "tally"})
    admin(
        store,
        "/auth/role/grant",
        {"name": "tally", "perm": {"permType": right, "key": key, "range_end": range_end}},
    )
    admin(store, "/auth/user/add", {"name": user, "password": password})
    admin(store, "/auth/user/grant", {"user": user, "role": "tally"})
    admin(store, "/auth/enable", {})
