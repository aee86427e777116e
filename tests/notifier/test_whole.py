"""Notifiers as processes, on a real installation: what receivers get, whoever is killed meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from controller.cli.main import app
from controller.client import Client
from controller.clock import SystemClock
from controller.core.model.model import Model
from controller.dev.cluster import LocalCluster
from controller.errors import UserError
from controller.notifier.signing import new_secret, parse_secret, verify
from controller.store.etcd.gateway import GatewayOptions
from controller.store.etcd.store import EtcdStore
from controller.store.keys import Keys
from controller.store.mirror import Loaded, Mirror
from controller.store.records import changes_of
from tests.support.etcd import free_ports
from tests.support.local import QUICK, Journal, Tending, check_promise, leader_of, local_cluster
from tests.support.receiving import Received, ReceivingServer, answer
from tests.support.waiting import wait_until

OK = answer(204)


class Notifying:
    """One notifier, as a process."""

    def __init__(self, cluster: LocalCluster, secrets: Path, *flags: str) -> None:
        (port,) = free_ports(1)
        self.metrics_url = f"http://127.0.0.1:{port}/metrics"
        self._output = secrets.with_name(f"notifier-{os.urandom(4).hex()}.log")
        command = [sys.executable, "-m", "controller.cli.main", "notifier", "--etcd", cluster.endpoint]
        command += ["--notifier", f"127.0.0.1:{port}", "--notifier-secrets-file", str(secrets)]
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, "--notifier-allow-http", "true", *flags], stdout=output, stderr=subprocess.STDOUT
            )

    def wait_on_duty(self, *, is_on: bool = True) -> None:
        """Until it is up, and delivers or not."""

        def is_as_wanted() -> bool:
            try:
                return f"tally_notifier_on_duty {float(is_on)}" in self.metrics()
            except httpx.HTTPError:
                return False

        wait_until(is_as_wanted, f"a notifier with {is_on=}")

    def metrics(self) -> str:
        """What Prometheus would read."""
        with httpx.Client(trust_env=False) as client:
            return client.get(self.metrics_url).text

    def end(self, number: int = signal.SIGTERM) -> int:
        """End it, and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(30)

    def said(self) -> str:
        """Its log."""
        return self._output.read_text(errors="replace")


@contextmanager
def notifying(cluster: LocalCluster, secrets: Path, *flags: str) -> Iterator[Notifying]:
    notifier = Notifying(cluster, secrets, *flags)
    try:
        yield notifier
    finally:
        if notifier.process.poll() is None:
            notifier.end(signal.SIGKILL)


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    file = tmp_path / "secrets.toml"
    file.write_text(f'default = ["{new_secret()}"]\n')
    return file


def key_in(secrets: Path) -> bytes:
    return parse_secret(secrets.read_text().split('"')[1], "secret")


def stored(cluster: LocalCluster) -> Model:
    """The records, at one revision."""
    clock, keys = SystemClock(), Keys("default")
    store = EtcdStore(GatewayOptions((cluster.endpoint,)), clock)
    try:
        snapshot = store.load(keys.prefix, deadline=clock.boottime() + 10)
    finally:
        store.close()
    mirror = Mirror()
    mirror.take(Loaded(list(changes_of(keys, snapshot.items)), snapshot.revision))
    return mirror.model


def told(request: Received, key: bytes) -> dict[str, Any]:
    """The event of a request that is signed."""
    verify([key], request.headers, request.body, SystemClock().now())
    assert request.headers["content-type"] == "application/cloudevents+json"
    event: dict[str, Any] = json.loads(request.body)
    return event


def define(client: Client, *rules: dict[str, Any], **fields: Any) -> None:
    client.apply_pool({"name": "default", "capacity": {"cpu": 8}, "notify": list(rules), **fields})


def task_of(journal: Journal, name: str) -> dict[str, Any]:
    """A task that takes a moment; t7 fails."""
    command = journal.command("sleep 0.2" if name != "t7" else "exit 3")
    return {"id": name, "command": command, "resources": {"cpu": "500m"}}


def has_more(receiver: ReceivingServer, seen: int) -> bool:
    return len(receiver.requests) > seen


LOCAL = ("--notifier-allowed-networks", "127.0.0.0/8")


def test_whoever_is_killed_each_end_is_told_in_order(tmp_path: Path, secrets: Path) -> None:
    """Leaders and notifiers are killed all the while, and the receiver fails now and then."""
    failing = threading.Event()
    journal = Journal(tmp_path / "journal")

    def act(sock: Any, _: Received) -> None:
        sock.sendall(answer(500) if failing.is_set() else OK)

    with (
        ReceivingServer(act) as receiver,
        local_cluster(tmp_path / "data", replicas=2, settings=QUICK) as cluster,
        cluster.client() as client,
        Tending(cluster),
    ):
        define(client, {"url": receiver.url("/hook"), "on": ["succeeded", "failed"]})
        names = [f"t{number}" for number in range(20)]
        for turn in range(2):
            with notifying(cluster, secrets, *LOCAL) as notifier:
                notifier.wait_on_duty()
                if turn == 0:
                    failing.set()
                mine = names[10 * turn : 10 * turn + 10]
                tasks = (task_of(journal, name) for name in mine)
                assert all(result.accepted for result in client.submit_many(tasks))
                wait_until(lambda: leader_of(cluster), "a leader").signal(signal.SIGKILL)
                seen = len(receiver.requests)
                wait_until(partial(has_more, receiver, seen), "a request")
                failing.clear()
        client.wait(names, timeout_seconds=120)
        with notifying(cluster, secrets, *LOCAL) as notifier:
            wait_until(lambda: not stored(cluster).notices and not stored(cluster).deliveries, "all told")
            assert notifier.end() == 0, notifier.said()
        events = [told(request, key_in(secrets)) for request in receiver.requests]
        assert {event["subject"] for event in events} == set(names)
        assert {e["subject"] for e in events if e["type"] == "tally.task.failed"} == {"t7"}
        assert next(e for e in events if e["subject"] == "t7")["data"]["exit_code"] == 3
        ids = {event["id"] for event in events}
        assert len(ids) == len(names), "one end of each"
        check_promise(cluster, journal, names)


@pytest.mark.slow
def test_two_notifiers_take_turns_and_each_end_of_one_task_comes_in_order(
    tmp_path: Path, secrets: Path
) -> None:
    """A task that fails, is retried and succeeds has two ends, and the second is not told before the
    first; the notifier off duty tells nothing.
    """
    fails = tmp_path / "fails"
    fails.touch()
    refused = threading.Event()
    refused.set()

    def act(sock: Any, _: Received) -> None:
        sock.sendall(answer(503, "Retry-After: 1") if refused.is_set() else OK)

    with (
        ReceivingServer(act) as receiver,
        local_cluster(tmp_path / "data", replicas=1, settings=QUICK) as cluster,
        cluster.client() as client,
        notifying(cluster, secrets, *LOCAL) as first,
    ):
        first.wait_on_duty()
        with notifying(cluster, secrets, *LOCAL) as second:
            second.wait_on_duty(is_on=False)
            rule = {"url": receiver.url(), "on": ["succeeded", "failed"], "labels": {"tell": "yes"}}
            define(client, rule)
            command = ["sh", "-c", f"test ! -e {fails}"]
            client.submit({"id": "quiet", "command": ["true"]})
            client.submit({"id": "job", "command": command, "labels": {"tell": "yes"}})
            client.wait(["job", "quiet"], timeout_seconds=30)
            wait_until(lambda: receiver.requests, "a first try")
            fails.unlink()
            client.retry("job")
            wait_until(lambda: client.get("job").state == "Succeeded", "its second end")
            assert len(stored(cluster).notices) == 2
            refused.clear()
            wait_until(lambda: not stored(cluster).notices, "both ends are told")
            assert 'outcome="delivered"} 2.0' in first.metrics()
            assert "on_duty 0.0" in second.metrics()
            assert first.end() == 0
            second.wait_on_duty()
        events = [told(request, key_in(secrets)) for request in receiver.requests]
        assert {event["subject"] for event in events} == {"job"}
        kinds = [event["type"] for event in events]
        assert kinds.index("tally.task.succeeded") == len(kinds) - 1
        assert [event["sequence"] for event in events] == sorted(event["sequence"] for event in events)


def test_who_cannot_be_told_is_a_dead_letter_that_says_why(tmp_path: Path, secrets: Path) -> None:
    """A receiver in a network that is not allowed gets no connection; one that says 410 is not asked again;
    the third, which takes it, is told once.
    """
    with (
        ReceivingServer(OK) as inside,
        ReceivingServer(answer(410)) as gone,
        local_cluster(tmp_path / "data", replicas=1, settings=QUICK) as cluster,
        cluster.client() as client,
        notifying(
            cluster, secrets, "--notifier-give-up-seconds", "8", "--notifier-allowed-networks", "127.0.0.2/32"
        ) as notifier,
    ):
        urls = [inside.url("/a"), gone.url("/b", host="localhost")]
        define(client, *({"url": url, "on": ["cancelled", "succeeded"]} for url in urls))
        client.submit({"id": "job", "command": ["true"]})
        client.wait(["job"], timeout_seconds=30)
        hosts = {"127.0.0.1", "localhost"}
        wait_until(lambda: client.notices.summary().failing.keys() == hosts, "what is said before it is over")
        listed = CliRunner().invoke(app, ["notifier", "list", "--etcd", cluster.endpoint]).stdout
        assert "waiting" in listed
        assert listed.count("is not public") == len(hosts)
        wait_until(lambda: stored(cluster).dead, "a dead letter", timeout=60)
        wait_until(lambda: not client.notices.summary().failing, "nobody waits for these hosts any more")
        [notice] = stored(cluster).notices.values()
        assert notice.dead is not None
        assert set(notice.urls) == set(urls) == set(notice.dead.why)
        assert all("not public" in why for why in notice.dead.why.values())
        assert inside.connections == gone.connections == 0
        log = notifier.said()
        assert log.count("a receiver was not told, and is tried again") == 2, "once for each host"
        assert "not public" in log
        assert notifier.end() == 0
        client.submit({"id": "late", "command": ["true"]})
        wait_until(lambda: len(stored(cluster).notices) == 2, "a notice that nobody tells")
        drop = partial(CliRunner().invoke, app)
        flags = ["--etcd", cluster.endpoint]
        assert drop(["notifier", "drop", "late", *flags]).exit_code == 5, "it is no dead letter"
        dropped = drop(["notifier", "drop", "late", "--waiting", *flags])
        assert dropped.stdout == "notice/late dropped\n", dropped.stderr
        wait_until(lambda: len(stored(cluster).notices) == 1, "the leader deletes it")
        define(client)
        with pytest.raises(UserError, match="outbox/job"):
            client.features.drop("notify")
