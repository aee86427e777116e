"""The command in this process, on the session's etcd, in a cluster of its own."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest
from typer.testing import CliRunner

from controller.cli.main import app
from controller.dev.etcd import EtcdProcess
from tests.client.conftest import client, put_raw, put_status  # noqa: F401  # fixtures


class Answer:
    """What a command printed, and its exit code."""

    def __init__(self, exit_code: int, out: str, err: str) -> None:
        self.exit_code = exit_code
        self.out = out
        self.err = err

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    def rows(self) -> list[list[str]]:
        """The cells of a table without its header."""
        return [line.split() for line in self.out.splitlines()[1:]]


Tally = Callable[..., Answer]


@pytest.fixture
def environment(
    etcd: EtcdProcess, cluster_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The settings of these tests, and none of the machine's."""
    settings = {"TALLY_ETCD": etcd.url, "TALLY_CLUSTER": cluster_name, "HOME": str(tmp_path)}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TALLY_CONFIG", raising=False)
    monkeypatch.delenv("TALLY_DEBUG", raising=False)
    return settings


@pytest.fixture
def tally(environment: dict[str, str]) -> Tally:
    """Runs a command; a traceback on either stream fails the test."""

    def run(*arguments: str, stdin: str | None = None) -> Answer:
        result = CliRunner().invoke(app, list(arguments), input=stdin)
        assert "Traceback" not in result.stdout + result.stderr
        return Answer(result.exit_code, result.stdout, result.stderr)

    return run


@contextmanager
def reading(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[tuple[Popen[str], list[str]]]:
    """A command as a process of its own, and the lines that it has printed so far."""
    process = Popen(command, stdout=PIPE, stderr=PIPE, text=True, env={**os.environ, **environment})
    lines: list[str] = []
    assert process.stdout is not None
    read = process.stdout.readline
    reader = threading.Thread(target=lambda: lines.extend(iter(read, "")), name="reader")
    reader.start()
    try:
        yield process, lines
    finally:
        process.kill()
        process.wait()
        reader.join()


@pytest.fixture
def executable() -> list[str]:
    """The command as a process of its own."""
    return [sys.executable, "-m", "controller.cli.entry"]
