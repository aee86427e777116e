"""A client that is closed asks nobody any more, and ends what goes on: by both ways, and for asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from controller.client import AsyncClient, Client, Closed, connect_to_gateway
from controller.client.bulk import TaskAct
from controller.client.views import TaskView
from controller.core.model.lifecycle import State
from controller.dev.etcd import EtcdProcess
from controller.endpoint.access import EndpointAccess, StatusFiles
from controller.store.etcd.store import EtcdStore
from tests.client.conftest import client as client
from tests.client.conftest import put_raw as put_raw
from tests.conformance.test_client import task
from tests.gateway.conftest import Served, serving
from tests.gateway.conftest import _features as _features
from tests.gateway.conftest import served as served
from tests.support.tls import Authority
from tests.support.waiting import wait_until

Make = Callable[[], Client]
A_VIEW = TaskView(id="a", pool="default", state=State.CREATED, create_revision=7)
VERBS: dict[str, Callable[[Client], object]] = {
    "submit": lambda tally: tally.submit(task("b")),
    "get": lambda tally: tally.get("a"),
    "tasks": lambda tally: tally.tasks(),
    "explain": lambda tally: tally.explain("a"),
    "pools": lambda tally: tally.pools(),
    "wait": lambda tally: tally.wait(["a"]),
    "watch": lambda tally: next(tally.watch_tasks()),
    "cancel": lambda tally: tally.cancel("a"),
    "bulk": lambda tally: list(tally.bulk.act(TaskAct.CANCEL, [A_VIEW])),
    "apply_pool": lambda tally: tally.apply_pool({"name": "p", "capacity": {"cpu": 1}}),
    "delete_pool": lambda tally: tally.delete_pool("default"),
    "replicas": lambda tally: tally.replicas.all(),
    "leader": lambda tally: tally.replicas.leader(),
    "logs": lambda tally: list(tally.outputs.logs("a")),
    "kept_log": lambda tally: tally.outputs.kept_log("a"),
    "members": lambda tally: list(tally.members("a")),
    "owners": lambda tally: tally.owners.all(),
    "usage": lambda tally: tally.usage(),
    "neighbours": lambda tally: tally.neighbours("a"),
    "schedules": lambda tally: tally.schedules.all(),
    "forecast": lambda tally: tally.forecasts.of("a"),
    "features": lambda tally: tally.features.all(),
}


@pytest.fixture(params=["etcd", "gateway"])
def make(request: pytest.FixtureRequest, etcd: EtcdProcess, client: Client, served: Served) -> Make:
    """Makes clients of one of the two kinds; there is a task `a`."""
    client.submit(task("a"))

    def made() -> Client:
        if request.param == "etcd":
            return Client(etcd.url, cluster=client.cluster)
        return connect_to_gateway(served.gateway.url, token=served.tokens["ops"])

    with made() as first:
        wait_until(lambda: first.tasks(), "the task")
    return made


def test_a_client_that_is_closed_does_nothing(make: Make, client: Client) -> None:
    closed = make()
    closed.pools()
    closed.close()
    closed.close()
    for verb in VERBS.values():
        with pytest.raises(Closed, match="has been closed"):
            verb(closed)
    assert [view.id for view in client.tasks()] == ["a"]


@pytest.mark.parametrize("seconds", [None, 600.0])
def test_what_goes_on_ends_when_it_is_closed(make: Make, seconds: float | None) -> None:
    """At once, also a wait for what may never happen."""
    tally = make()
    begun = [threading.Event() for _ in range(4)]

    def wait(event: threading.Event) -> None:
        tally.wait(["a"], timeout_seconds=seconds, on_change=lambda _: event.set())

    def watch(event: threading.Event, task_id: str) -> None:
        for _ in tally.watch_tasks(task_id=task_id):
            event.set()

    with ThreadPoolExecutor(4) as threads:
        ends = [threads.submit(wait, begun[0]), threads.submit(wait, begun[1])]
        ends += [threads.submit(watch, begun[2], ""), threads.submit(watch, begun[3], "a")]
        assert all(event.wait(20) for event in begun)
        tally.close()
        for end in ends:
            assert isinstance(end.exception(timeout=10), Closed)


def test_a_client_for_asyncio(make: Make) -> None:
    """Also calls for which there was no thread yet."""

    async def use() -> None:
        tally = AsyncClient(make())
        waits = [asyncio.create_task(tally.wait(["a"])) for _ in range(100)]
        looks = tally.watch_tasks()
        await anext(looks)
        coming = asyncio.ensure_future(anext(looks))
        await tally.close()
        await tally.close()
        for end in await asyncio.wait_for(asyncio.gather(*waits, coming, return_exceptions=True), 20):
            assert isinstance(end, Closed)
        with pytest.raises(Closed):
            await tally.get("a")
        with pytest.raises(Closed):
            await anext(tally.watch_tasks())

    asyncio.run(use())


def test_a_wait_by_tls_ends_too(client: Client, store: EtcdStore, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    files = {name: Path(file) for name, file in authority.issue("server").items()}
    access = EndpointAccess(StatusFiles(files["cert_file"], files["key_file"]), prefix="gateway_")
    client.submit(task("a"))
    with serving(store, client.cluster, tmp_path, access=access) as served, ThreadPoolExecutor(1) as threads:
        url, token = served.gateway.url, served.tokens["ops"]
        tally, begun = connect_to_gateway(url, token=token, ca_file=authority.ca_file), threading.Event()
        wait_until(lambda: tally.tasks(), "the task")
        end = threads.submit(tally.wait, ["a"], on_change=lambda _: begun.set())
        assert begun.wait(20)
        tally.close()
        assert isinstance(end.exception(timeout=10), Closed)
