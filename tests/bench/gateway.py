"""B13: the gateway beside the direct way: one submission, eight clients at once, readers of the stream, and
callers that wait.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil

from controller.client import Client, RequestResult, TaskAct
from controller.client.connecting import connect_to_gateway
from controller.gateway.tokens import digest, new_token
from tests.bench.measure import Aim, Figure
from tests.bench.sizes import Sizes
from tests.bench.stage import CLOCK, KEYS, POOL, ROOT, client_of, disk, etcd, specs
from tests.support.etcd import free_ports
from tests.support.waiting import wait_until

CLIENTS = 8
MORE_MILLISECONDS = 3.0
TASKS_A_SECOND = 2000.0
POLICY = '[[rules]]\nwho = ["*"]\nowners = ["default"]\nverbs = ["submit", "read-any", "cancel-own"]\n'


class RunningGateway:
    """A gateway in a process of its own, and a token for it."""

    def __init__(self, url: str, token: str, pid: int) -> None:
        self.url = url
        self.token = token
        self.process = psutil.Process(pid)

    def http(self) -> httpx.Client:
        """A connection of a caller."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=120)


def gateway(sizes: Sizes) -> list[Figure]:
    """All of it on one etcd, with no replica to answer to."""
    with etcd() as member, client_of(member.url) as client, disk() as folder:
        client.apply_pool(POOL)
        with running_gateway(member.url, folder) as running:
            return [
                *_one_by_one(client, running, sizes.latencies),
                *_at_once(member.url, running, sizes),
                *_acts(client, running, sizes),
                *_streams(client, running, sizes.streams),
                _waits(running, sizes.waits),
            ]


@contextmanager
def running_gateway(endpoint: str, folder: Path) -> Iterator[RunningGateway]:
    """A gateway that is ready, without a bound on the rate of its caller."""
    token = new_token()
    (folder / "policy.toml").write_text(POLICY)
    (folder / "tokens.toml").write_text(f'[[tokens]]\nname = "bench"\nsha256 = "{digest(token)}"\n')
    (port,) = free_ports(1)
    flags = ["--etcd", endpoint, "--cluster", KEYS.cluster, "--gateway", f"127.0.0.1:{port}"]
    flags += ["--gateway-policy-file", str(folder / "policy.toml"), "--gateway-rate", "100000"]
    flags += ["--gateway-tokens-file", str(folder / "tokens.toml"), "--gateway-burst", "100000"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TALLY_")}
    with subprocess.Popen(
        [sys.executable, "-m", "controller", "gateway", *flags],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        running = RunningGateway(f"http://127.0.0.1:{port}", token, process.pid)
        try:
            with running.http() as http:

                def is_ready() -> bool:
                    try:
                        return http.get("/readyz").status_code == 200
                    except httpx.TransportError:
                        return False

                wait_until(is_ready, "the gateway", timeout=60)
            yield running
        finally:
            process.terminate()


def _one_by_one(client: Client, running: RunningGateway, count: int) -> list[Figure]:
    """One task at a time, in turns, each on a connection that is open."""
    tasks = specs(2 * count + 2, "one")
    by_gateway = connect_to_gateway(running.url, token=running.token)
    for way, task in ((client, tasks.pop()), (by_gateway, tasks.pop())):
        way.submit(task)
    milliseconds: dict[Client, list[float]] = {client: [], by_gateway: []}
    for _ in range(count):
        for way, taken in milliseconds.items():
            began = CLOCK.boottime()
            way.submit(tasks.pop())
            taken.append(1000 * (CLOCK.boottime() - began))
    by_gateway.close()
    direct = Figure("B13", "one submission, by etcd", "ms", milliseconds[client], tail=True)
    more = [b - a for a, b in zip(*milliseconds.values(), strict=True)]
    most = (Aim("median", most=MORE_MILLISECONDS),)
    return [
        direct,
        Figure(
            "B13",
            "the same, by a gateway, in turns",
            "ms",
            milliseconds[by_gateway],
            baseline=direct.median,
            against="by etcd",
            tail=True,
        ),
        Figure("B13", "what a gateway adds", "ms", more, aims=most, tail=True),
    ]


def _at_once(endpoint: str, running: RunningGateway, sizes: Sizes) -> list[Figure]:
    """Eight clients, each in a process of its own, by both ways in turns."""
    each = max(1, sizes.submitted // CLIENTS)
    ways = {"etcd": [endpoint], "gateway": [running.url, running.token]}
    rates: dict[str, list[float]] = {way: [] for way in ways}
    cores: list[float] = []
    for turn in range(sizes.repeat):
        for way, where in ways.items():
            cpu, began = sum(running.process.cpu_times()[:2]), CLOCK.boottime()
            seconds = _submitted(where, each, f"{way}{turn}")
            rates[way].append(CLIENTS * each / seconds)
            if way == "gateway":
                spent = sum(running.process.cpu_times()[:2]) - cpu
                cores.append(spent / (CLOCK.boottime() - began))
    what = f"{CLIENTS} clients at once, {each:,} tasks each"
    direct = Figure("B13", f"{what}, by etcd", "tasks/s", rates["etcd"])
    least = Aim("median", least=TASKS_A_SECOND)
    return [
        direct,
        Figure(
            "B13",
            "the same, by a gateway",
            "tasks/s",
            rates["gateway"],
            baseline=direct.median,
            against="by etcd",
            aims=(least,),
        ),
        Figure("B13", "cpu of the gateway meanwhile", "cores", cores),
    ]


def _submitted(where: list[str], each: int, name: str) -> float:
    """Seconds from the word to go until all have submitted all."""
    with ExitStack() as stack:
        clients = []
        for number in range(CLIENTS):
            command = [sys.executable, "-m", "tests.bench.submitter", where[0], str(each), f"{name}-{number}"]
            clients.append(
                stack.enter_context(
                    subprocess.Popen(
                        [*command, *where[1:]],
                        cwd=ROOT,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        text=True,
                    )
                )
            )
        for client in clients:
            assert client.stdout is not None
            assert client.stdout.readline().strip() == "ready"
        began = CLOCK.boottime()
        for client in clients:
            assert client.stdin is not None
            client.stdin.write("go\n")
            client.stdin.flush()
        for client in clients:
            assert client.stdout is not None
            assert client.stdout.readline().strip() == "done"
        return CLOCK.boottime() - began


def _acts(client: Client, running: RunningGateway, sizes: Sizes) -> list[Figure]:
    """The same asked for of many tasks, which no leader answers: by both ways in turns."""
    rates: dict[str, list[float]] = {"etcd": [], "gateway": []}
    count = max(1, sizes.submitted // 10)
    with connect_to_gateway(running.url, token=running.token) as by_gateway:
        for turn in range(sizes.repeat):
            for way, caller in (("etcd", client), ("gateway", by_gateway)):
                named = specs(count, f"act-{way}{turn}")
                client.submit_many(named)
                views = client.tasks(selector="", state="waiting")
                mine = [view for view in views if view.id.startswith(f"act-{way}{turn}-")]
                began = CLOCK.boottime()
                results = list(caller.bulk.act(TaskAct.CANCEL, mine))
                rates[way].append(count / (CLOCK.boottime() - began))
                assert all(isinstance(result, RequestResult) for result in results), results[0]
    direct = Figure("B13", f"cancels of {count:,} tasks in one call, by etcd", "tasks/s", rates["etcd"])
    return [
        direct,
        Figure(
            "B13",
            "the same, by a gateway",
            "tasks/s",
            rates["gateway"],
            baseline=direct.median,
            against="by etcd",
        ),
    ]


def _streams(client: Client, running: RunningGateway, count: int) -> list[Figure]:
    """Readers of the event stream: when all have heard of a task, and what another caller notices."""
    command = [sys.executable, "-m", "tests.bench.stream_readers", running.url, str(count), running.token]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reading:
        assert reading.stdout is not None
        assert reading.stdin is not None
        assert reading.stdout.readline().strip() == "ready"
        delivered: dict[int, float] = {}
        for task in specs(20, "heard"):
            client.submit(task)
            view = client.get(str(task["id"]))
            delivered[view.create_revision] = CLOCK.boottime()
            threading.Event().wait(0.3)  # the pace of these events; nothing is awaited
        with running.http() as http:
            asked = []
            for _ in range(50):
                began = CLOCK.boottime()
                http.get("/v1/whoami").raise_for_status()
                asked.append(1000 * (CLOCK.boottime() - began))
        reading.stdin.write(f"{max(delivered)}\n")
        reading.stdin.flush()
        seen = json.loads(reading.stdout.readline())
    if seen["served"] != count or seen["cut"]:
        raise RuntimeError(f"of {count} readers {seen['served']} were served, and {seen['cut']} cut off")
    lags = []
    for revision, at in delivered.items():
        lags.append(max(1000 * (_heard(heard, revision) - at) for heard in seen["heard"]))
    return [
        Figure("B13", f"until all of {count:,} readers have heard of a task", "ms", lags, tail=True),
        Figure("B13", "a small request beside them", "ms", asked, tail=True),
    ]


def _heard(heard: list[list[float]], revision: int) -> float:
    return next(at for known, at in heard if known >= revision)


def _waits(running: RunningGateway, count: int) -> Figure:
    """Callers that wait for a task that does not end: the threads that the gateway has more with them."""
    with running.http() as http:
        http.post("/v1/tasks", json={"id": "waited-for", "command": ["true"]}).raise_for_status()
        before = running.process.num_threads()
        body = {"ids": ["waited-for"], "since": 2**40, "timeout_seconds": 20}
        headers = {"Authorization": f"Bearer {running.token}"}

        def wait(_: int) -> None:
            with httpx.Client(base_url=running.url, headers=headers, trust_env=False, timeout=120) as own:
                own.post("/v1/tasks:wait", json=body).raise_for_status()

        with ThreadPoolExecutor(count) as callers:
            waiting = [callers.submit(wait, number) for number in range(count)]

            def are_open() -> bool:
                lines = http.get("/metrics").text.splitlines()
                return f'tally_gateway_open{{kind="waits"}} {float(count)}' in lines

            wait_until(are_open, "all to wait", timeout=60)
            more = running.process.num_threads() - before
            for each in waiting:
                each.result()
    what = f"threads of the gateway more with {count:,} callers that wait"
    return Figure("B13", what, "threads", [float(more)], aims=(Aim("median", most=0.0),))
