"""`tally dev` as a process, as a user runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from controller.client import Client
from controller.client.client import of_settings
from controller.config import load_settings
from tests.support.etcd import free_ports
from tests.support.local import adjacent_ports
from tests.support.waiting import wait_until


class Dev:
    """One run of `tally dev`."""

    def __init__(
        self,
        folder: Path,
        data_dir: Path,
        etcd_port: int,
        status_port: int,
        flags: tuple[str, ...] = (),
        replicas: int = 1,
        samples: bool = False,
    ) -> None:
        self.data_dir = data_dir
        self.config = data_dir / "tally.toml"
        self._output = folder / f"dev-{os.urandom(4).hex()}.txt"
        command = [
            "dev",
            "--samples" if samples else "--no-samples",
            "--replicas",
            str(replicas),
            "--data-dir",
            str(data_dir),
        ]
        command += [
            "--lease-ttl-seconds",
            "2",
            "--keepalive-interval-seconds",
            "0.5",
            "--deadline-margin-seconds",
            "0.3",
        ]
        ports = ["--etcd-port", str(etcd_port), "--status-port", str(status_port)]
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "controller.cli.main", *command, *ports, *flags],
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        """All that it has printed."""
        return self._output.read_text()

    def until_it_leads(self) -> Dev:
        """Wait until its replica leads."""
        wait_until(
            lambda: " leads" in self.output or self.process.poll() is not None, "the cluster", timeout=60
        )
        assert self.process.poll() is None, self.output
        return self

    def client(self) -> Client:
        return Client(**of_settings(load_settings({}, {}, str(self.config)).settings))

    def ended(self) -> int:
        """Its exit code; it must end by itself."""
        return self.process.wait(30)

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)


MakeDev = Callable[..., Dev]


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[MakeDev]:
    """Starts `tally dev`; all runs of a test share a data directory and ports, unless it says otherwise."""
    with dev_in(tmp_path) as start:
        yield start


@contextmanager
def dev_in(folder: Path) -> Iterator[MakeDev]:
    """The same, for tests that share one run."""
    settings: dict[str, Any] = {
        "data_dir": folder / "data",
        "etcd_port": adjacent_ports(),
        "status_port": free_ports(1)[0],
    }
    runs: list[Dev] = []

    def start(**options: Any) -> Dev:
        runs.append(Dev(folder, **{**settings, **options}))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.interrupt()
            run.ended()
    for process in processes_of(folder):  # only of a test that failed
        process.kill()


def processes_of(folder: Path) -> list[psutil.Process]:
    """Whatever runs with a path in `folder` in its command line or environment: etcd, replicas,
    supervisors, attempts.
    """
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if process.pid != os.getpid() and any(str(folder) in word for word in words):
            found.append(process)
    return found
