"""Wherever a number is shown, `term` is the leader key's create revision, and `epoch` the count of
leaderships.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from controller.client import Client
from tests.support.etcd import EtcdFactory, in_seconds

pytestmark = pytest.mark.xdist_group("epochs")  # one replica serves all

DOCUMENTS = (
    "/v1/summary",
    "/v1/tasks",
    "/v1/tasks/second",
    "/v1/pools",
    "/v1/replicas",
    "/v1/leader",
    "/v1/audit",
)


class Shown:
    """One installation in its second epoch, with the numbers that its leader key has in etcd."""

    def __init__(self, environment: dict[str, str], client: Client, url: str, log: Path) -> None:
        self._environment = environment
        self._url = url
        self._log = log
        key, _ = client.store.get(client.keys.leader, deadline=in_seconds())
        assert key is not None
        self.term = key.create
        self.epoch: int = json.loads(key.value)["epoch"]

    def tally(self, *arguments: str) -> str:
        """What a command prints."""
        command = [sys.executable, "-m", "controller.cli.entry", *arguments]
        return subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    def column(self, name: str, *arguments: str) -> list[str]:
        """A column of the last table that a command prints."""
        lines = self.tally(*arguments).splitlines()
        last = max(number for number, line in enumerate(lines) if line.split() and line.split()[0] == "TIME")
        return [line.split()[lines[last].split().index(name)] for line in lines[last + 1 :]]

    def get(self, path: str) -> str:
        """What the endpoint answers."""
        return requests.get(self._url + path, timeout=10).text

    def lines(self, event: str) -> list[dict[str, Any]]:
        """The replica's log lines of one kind."""
        lines = [json.loads(line) for line in self._log.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]


@pytest.fixture(scope="module")
def shown(etcd: Any, etcd_binary: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """A replica led, stepped down, leads again, and ran a task each time."""
    folder = tmp_path_factory.mktemp("epochs")
    factory = EtcdFactory(etcd_binary, folder)
    client = Client.of_store(factory.store(etcd.url), cluster="epochs")
    client.apply_pool({"name": "default", "capacity": {"cpu": 4}})
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TALLY_")} | {
        "TALLY_ETCD": etcd.url,
        "TALLY_CLUSTER": "epochs",
        "TALLY_REPLICA": "r1",
        "TALLY_ENGINE": "process",
        "TALLY_STATE_DIR": str(folder / "state"),
        "TALLY_STATUS": "127.0.0.1:0",
    }
    log = folder / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "controller.cli.main", "controller"], env=environment, stderr=sink
        )
    try:
        _run(client, "first")
        client.replicas.step_down()
        _run(client, "second")
        (replica,) = client.replicas.all()
        yield Shown(environment, client, replica.status_url, log)
    finally:
        process.terminate()
        process.wait(30)
        factory.close()


def _run(client: Client, task_id: str) -> None:
    client.submit({"id": task_id, "command": ["sh", "-c", "echo $TALLY_TERM"], "keep_logs": True})
    client.wait([task_id], timeout_seconds=60)


def numbers(document: Any, field: str) -> set[int]:
    """All values of a field of that name, however deep."""
    if isinstance(document, dict):
        own = {document[field]} if field in document else set()
        return own.union(*(numbers(value, field) for value in document.values()))
    return (
        set().union(*(numbers(value, field) for value in document)) if isinstance(document, list) else set()
    )


def test_the_two_differ(shown: Shown) -> None:
    assert shown.epoch == 2 < shown.term


@pytest.mark.parametrize("path", DOCUMENTS)
def test_documents_of_the_endpoint(shown: Shown, path: str) -> None:
    document = json.loads(shown.get(path))
    assert numbers(document, "term") <= {shown.term}
    assert numbers(document, "epoch") <= {shown.epoch}
    if path in ("/v1/summary", "/v1/leader"):
        assert numbers(document, "term")
        assert numbers(document, "epoch")
    if path == "/v1/tasks/second":
        assert {step.get("epoch") for step in document["history"]} == {shown.epoch}


def test_tables(shown: Shown) -> None:
    assert set(shown.column("EPOCH", "history", "second")) == {"2"}
    assert set(shown.column("EPOCH", "history", "first")) == {"1"}
    assert set(shown.column("EPOCH", "describe", "task", "second")) == {"2"}


@pytest.mark.parametrize(
    "command",
    [("history", "second"), ("get", "task", "second"), ("get", "replicas"), ("audit",), ("check",)],
    ids=" ".join,
)
def test_documents_of_the_command(shown: Shown, command: tuple[str, ...]) -> None:
    document = json.loads(shown.tally(*command, "-o", "json"))
    assert numbers(document, "term") <= {shown.term}
    assert numbers(document, "epoch") <= {shown.epoch}
    if "second" in command:
        assert numbers(document, "epoch")


def test_sentences(shown: Shown) -> None:
    assert f"leads epoch {shown.epoch} (term {shown.term})" in shown.tally("check")
    assert "term" not in shown.tally("explain", "second")
    assert shown.tally("logs", "second").strip() == str(shown.term)


def test_logs(shown: Shown) -> None:
    elected = [(line["epoch"], line["term"]) for line in shown.lines("elected")]
    assert [epoch for epoch, _ in elected] == [1, 2]
    assert elected[-1] == (shown.epoch, shown.term)
    steps = [line for line in shown.lines("transition") if line["task"] == "second"]
    assert steps
    assert {line.get("epoch") for line in steps} == {shown.epoch}
    assert not any("term" in line for line in steps)


def test_metrics(shown: Shown) -> None:
    samples = dict(line.rsplit(" ", 1) for line in shown.get("/metrics").splitlines() if line[0] != "#")
    shows = {name.partition("{")[0]: float(value) for name, value in samples.items()}
    assert (shows["tally_term"], shows["tally_epoch"]) == (shown.term, shown.epoch)
