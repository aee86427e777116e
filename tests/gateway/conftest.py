"""A gateway on a real etcd, and callers with tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from controller.client import Client
from controller.clock import SystemClock
from controller.endpoint.access import EndpointAccess
from controller.endpoint.stream import Feed
from controller.forecaster.forecaster import Forecaster
from controller.forecaster.wire import Subject
from controller.gateway.api import GatewayApi
from controller.gateway.attempt_logs import AttemptLogs
from controller.gateway.changes import Changes
from controller.gateway.events import OwnedEvents
from controller.gateway.metrics import GatewayMetrics
from controller.gateway.noted import NotedCalls
from controller.gateway.rates import Rates
from controller.gateway.server import GatewayServer
from controller.gateway.service import Service
from controller.gateway.sessions import Sessions
from controller.gateway.sign_in import SignIn, policy_file
from controller.gateway.task_owners import TaskOwners
from controller.gateway.tokens import digest, new_token
from controller.gateway.writing import Writing
from controller.runtime.standby import Standby
from controller.store.etcd.store import EtcdStore
from controller.store.keys import Keys
from controller.views.freshness import Rule
from tests.client.conftest import PutRaw
from tests.client.conftest import client as client
from tests.client.conftest import put_raw as put_raw
from tests.client.test_features import release
from tests.support.waiting import wait_until

POLICY = """
[[rules]]
who = ["alice"]
owners = ["vision"]
verbs = ["submit", "read-own", "cancel-own"]

[[rules]]
who = ["bob"]
owners = ["speech"]
verbs = ["submit", "read-own", "cancel-own"]

[[rules]]
who = ["watcher"]
verbs = ["read-any"]

[[rules]]
who = ["ops"]
verbs = ["admin"]
"""

As = Callable[[str], httpx.Client]


@pytest.fixture(autouse=True)
def _features(client: Client, put_raw: PutRaw) -> None:
    """As a replica that leads would have it: tasks have owners and members, and wait for others."""
    put_raw("engine", b'{"engine":{"name":"null","id":"e"},"installation":"abc"}')
    known = ["arrays", "changes", "dependencies", "gangs", "maintenance", "owners"]
    put_raw("leader", release("r1", knows=known))
    client.features.enable(*known)
    put_raw("leader", release("r1", knows=known))


class Served:
    """A gateway that serves, its files, and its callers."""

    def __init__(self, gateway: GatewayServer, folder: Path, tokens: dict[str, str]) -> None:
        self.gateway = gateway
        self.policy = folder / "policy.toml"
        self.tokens_file = folder / "tokens.toml"
        self.tokens = tokens


@contextmanager
def serving(
    store: EtcdStore,
    cluster: str,
    folder: Path,
    *,
    access: EndpointAccess | None = None,
    session_keys: Path | None = None,
    rates: tuple[float, int] = (1000.0, 2000),
) -> Iterator[Served]:
    """A gateway that serves, with the policy and new tokens in this folder."""
    tokens = {name: new_token() for name in ("alice", "bob", "watcher", "ops", "nobody")}
    policy, file = folder / "policy.toml", folder / "tokens.toml"
    policy.write_text(POLICY)
    file.write_text("\n".join(f'[[tokens]]\nname = "{n}"\nsha256 = "{digest(t)}"' for n, t in tokens.items()))
    clock, keys = SystemClock(), Keys(cluster)
    standby = Standby(store, keys, clock, Rule.of(2.0, 10.0, 30.0), 10.0)
    calls = NotedCalls(store, keys, clock, 5.0)
    subject = Subject(cluster=cluster, options=store.gateway.options, silence_seconds=10.0, name="g")
    metrics = GatewayMetrics()
    forecaster = Forecaster(subject, metrics)
    service = Service(calls, standby, forecaster.answer)
    writing, events = Writing(calls, standby, service), OwnedEvents(TaskOwners(standby.reading))
    logs = AttemptLogs(Client.of_store(store, cluster=keys.cluster, clock=clock), lambda _: None)
    sessions = Sessions(session_keys, keys.cluster, clock.wall)
    changes = Changes(events.owners)
    api = GatewayApi(service, writing, Feed(), changes, events, logs, metrics, sessions)
    gateway = GatewayServer(
        api,
        standby,
        SignIn(file, clock.wall),
        policy_file(policy),
        Rates(clock, *rates),
        access or EndpointAccess(),
    )
    standby.start()
    gateway.start()
    try:
        wait_until(lambda: standby.revision > 0, "the gateway's model")
        yield Served(gateway, folder, tokens)
    finally:
        forecaster.close()
        gateway.stop()
        standby.close()


@pytest.fixture
def served(client: Client, store: EtcdStore, tmp_path: Path) -> Iterator[Served]:
    with serving(store, client.keys.cluster, tmp_path) as served:
        yield served


@pytest.fixture
def as_(served: Served) -> Iterator[As]:
    with ExitStack() as stack:

        def caller(name: str) -> httpx.Client:
            headers = {"Authorization": f"Bearer {served.tokens[name]}"} if name else {}
            return stack.enter_context(
                httpx.Client(base_url=served.gateway.url, headers=headers, trust_env=False, timeout=30.0)
            )

        yield caller
