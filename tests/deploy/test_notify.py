"""What a replica tells its service manager: a real `tally controller`, over a real socket, with a real
etcd.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from controller.client import Client
from controller.runtime import failpoints
from controller.runtime.instruments import UNCOUNTED
from controller.telemetry.notify import ServiceNotifier, status_line
from controller.views.replica import Check, Facts
from tests.support.etcd import CLOCK, EtcdFactory
from tests.support.service_manager import NotifySocket, notify_socket
from tests.support.waiting import signalled_to_its_end, wait_until


@contextmanager
def replica(
    etcd_url: str, folder: Path, manager: NotifySocket, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A replica of the null engine whose service manager listens at `manager`."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("TALLY_")} | {
        "TALLY_ETCD": etcd_url,
        "TALLY_ENGINE": "null",
        "TALLY_REPLICA": "unit",
        "TALLY_STATUS": "127.0.0.1:0",
        "TALLY_LEASE_TTL_SECONDS": "2",
        "TALLY_KEEPALIVE_INTERVAL_SECONDS": "0.5",
        "NOTIFY_SOCKET": manager.address,
        "WATCHDOG_USEC": "2000000",
        **environment,
    }
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "controller.cli.main", "controller"], env=variables, stderr=log
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("abstract", "number"), [(False, signal.SIGTERM), (True, signal.SIGHUP)], ids=["path", "abstract"]
)
def test_a_replicas_life_as_its_service_manager_hears_it(
    etcd_factory: EtcdFactory, tmp_path: Path, abstract: bool, number: signal.Signals
) -> None:
    """Not ready, with more time asked for, until etcd answers; then ready, alive, its role in the status
    line; then stopping, whatever further signals come. A closed terminal is one.
    """
    etcd = etcd_factory.configure()
    address = f"@tally-{os.getpid()}-{tmp_path.name}" if abstract else str(tmp_path / "notify")
    with notify_socket(address) as manager, replica(etcd.url, tmp_path, manager) as process:
        wait_until(lambda: manager.has("EXTEND_TIMEOUT_USEC="), "a plea for time")
        assert manager.has("STATUS=starting")
        assert not manager.has("READY=1")

        etcd.start()
        wait_until(lambda: manager.has("READY=1"), "readiness")
        wait_until(lambda: manager.has("STATUS=leading, epoch 1"), "the role")
        manager.drain()
        assert "WATCHDOG=1" in wait_until(manager.drain, "a sign of life")
        assert not any(each.startswith("EXTEND") for each in manager.drain())

        assert signalled_to_its_end(process, number) == 0
        assert manager.drain()[-1] != "READY=1"
        assert manager.has("STOPPING=1")
        assert manager.received.count("READY=1") == 1


@pytest.mark.slow
def test_a_stuck_control_loop_feeds_no_watchdog(etcd_factory: EtcdFactory, tmp_path: Path) -> None:
    """The process lives on, with all its other threads; nothing of it says so any more (fault 6)."""
    etcd = etcd_factory.start()
    armed = {failpoints.VARIABLE: "before-commit:hang"}
    with (
        notify_socket(str(tmp_path / "notify")) as manager,
        replica(etcd.url, tmp_path, manager, **armed) as process,
    ):
        wait_until(lambda: manager.has("STATUS=leading"), "the role")
        with Client(etcd.url) as client:
            client.apply_pool({"name": "default", "capacity": {"cpu": 1}})
            client.submit({"id": "one", "command": ["true"], "resources": {"cpu": 1}})
        wait_until(lambda: b'"failpoint"' in (tmp_path / "log").read_bytes(), "the loop to hang")
        manager.drain()
        assert process.wait(30) == 70, "the leader that cannot be torn down ends itself"
        assert manager.drain() == []


def test_others_processes_and_others_watchdogs(tmp_path: Path) -> None:
    """What the manager says to this process is taken out of the environment; a watchdog meant for another
    is not fed.
    """
    with notify_socket(str(tmp_path / "notify")) as manager:
        environ = {
            "NOTIFY_SOCKET": manager.address,
            "WATCHDOG_USEC": "1000",
            "WATCHDOG_PID": "1",
            "PATH": "/bin",
        }
        notifier = ServiceNotifier(UNCOUNTED, CLOCK, environ)
        assert environ == {"PATH": "/bin"}
        notifier.observe(_view())
        notifier.turned()
        assert manager.drain() == [
            "EXTEND_TIMEOUT_USEC=60000000",
            "STATUS=following, epoch 7, revision 9; r1 leads",
        ]


def test_a_manager_that_is_gone_harms_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Said once, not with every beat."""
    notifier = ServiceNotifier(
        UNCOUNTED, CLOCK, {"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "1"}
    )
    notifier.observe(_view())
    notifier.turned()
    notifier.entered("following")
    notifier.turned()
    said = capfd.readouterr()
    assert (said.out + said.err).count("cannot be notified") == 1


def _view() -> Any:
    """A replica of which only the facts are asked."""
    return SimpleNamespace(facts=facts)


def facts(*ready: Check) -> Facts:
    """Those of a follower."""
    return Facts(
        replica="r2",
        cluster="default",
        role="follower",
        phase="following",
        term=0,
        epoch=7,
        revision=9,
        staleness_seconds=0.1,
        leader="r1",
        engine="null",
        live=(),
        ready=ready,
    )


def test_the_status_line_says_what_is_wrong() -> None:
    """In one line, whatever an error message holds: systemd splits at line ends."""
    line = status_line(facts(Check("model", True, "9 tasks"), Check("store", False, "no answer\nWATCHDOG=1")))
    assert line == "following, epoch 7, revision 9; r1 leads; store: no answer WATCHDOG=1"
