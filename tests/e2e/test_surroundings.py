"""A replica in bad surroundings: it says what is wrong and what to do, without a traceback, and goes on
when it is mended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controller.bulkhead import EXIT_TORN
from controller.client import Client
from controller.core.model.lifecycle import State
from controller.notifier.signing import new_secret
from tests.support.etcd import EtcdFactory, enable_authentication
from tests.support.waiting import wait_until

Start = Callable[..., "Controller"]


class Controller:
    """One `tally controller` process and what it says."""

    def __init__(self, log: Path, *flags: str, status: str = "127.0.0.1:0", **environment: str) -> None:
        self._log = log
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("TALLY_")}
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "controller.cli.main",
                    "controller",
                    "--engine",
                    "null",
                    "--status",
                    status,
                    *flags,
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**inherited, "HOME": str(log.parent), **environment},
            )

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def says(self, text: str) -> None:
        """Wait until it has said that."""
        wait_until(lambda: text in self.output, f"{text!r} in its log", timeout=60)
        assert "Traceback" not in self.output

    def exits(self, code: int) -> str:
        """Its words, once it has ended by itself with that code."""
        assert self.process.wait(30) == code, self.output
        assert "Traceback" not in self.output
        return self.output


@pytest.fixture
def start(tmp_path: Path, etcd_factory: EtcdFactory) -> Iterator[Start]:  # etcd ends after them
    started: list[Controller] = []

    def make(*flags: str, **environment: str) -> Controller:
        started.append(Controller(tmp_path / f"controller-{len(started)}.log", *flags, **environment))
        return started[-1]

    yield make
    for controller in started:
        if controller.process.poll() is None:
            controller.process.send_signal(signal.SIGTERM)
        controller.process.wait(40)
        assert "Traceback" not in controller.output


def test_wrong_settings_end_it_at_once(start: Start) -> None:
    cases: list[tuple[list[str], dict[str, str], str]] = [
        (
            ["--lease-ttl-seconds", "1"],
            {},
            "lease_ttl_seconds: is 1, but the shortest lease of etcd is 2 s",
        ),
        ([], {"TALLY_FAILPOINTS": "nowhere:exit"}, "TALLY_FAILPOINTS: 'nowhere:exit' is not POINT"),
        (["--no-such-flag"], {}, "No such option"),
    ]
    started = [(start(*flags, **environment), says) for flags, environment, says in cases]
    for controller, says in started:
        assert controller.process.wait(60) in (1, 2)
        assert says in controller.output
        assert "Traceback" not in controller.output


def test_a_status_address_in_use_is_named(start: Start, etcd_factory: EtcdFactory) -> None:
    etcd = etcd_factory.start()
    taken = f"127.0.0.1:{etcd.config.client_port}"
    assert taken in start("--etcd", etcd.url, status=taken).exits(1)


def test_it_waits_for_an_etcd_that_does_not_answer_yet(start: Start, etcd_factory: EtcdFactory) -> None:
    etcd = etcd_factory.configure()
    controller = start("--etcd", etcd.url)
    controller.says(f"etcd cannot be reached: {etcd.url}")
    etcd.start()
    run_a_task(Client(etcd.url))


def test_it_waits_for_the_right_password(start: Start, etcd_factory: EtcdFactory, tmp_path: Path) -> None:
    """The reason names user and file; the file is read again, so that nothing has to be restarted."""
    etcd, password = etcd_factory.start(), tmp_path / "password"
    enable_authentication(etcd_factory.store(etcd.url), "tally", "right", "/tally/default/")
    password.write_text("wrong\n")
    controller = start("--etcd", etcd.url, "--user", "tally", "--password-file", str(password))
    controller.says(f"refuses to sign in the user 'tally' with the password in {password}")
    password.write_text("right\n")
    run_a_task(Client(etcd.url, user="tally", password_file=str(password)))


def test_it_names_the_right_that_it_lacks(start: Start, etcd_factory: EtcdFactory, tmp_path: Path) -> None:
    etcd, password = etcd_factory.start(), tmp_path / "password"
    enable_authentication(etcd_factory.store(etcd.url), "tally", "right", "/tally/default/", right="READ")
    password.write_text("right\n")
    controller = start("--etcd", etcd.url, "--user", "tally", "--password-file", str(password))
    controller.says("lacks the right to write")
    controller.says("tally auth init --grant ROLE=USER")


def run_a_task(client: Client) -> None:
    """It works now."""
    with client:
        client.apply_pool({"name": "default", "capacity": {"cpu": 1}})
        client.submit({"id": "task", "command": ["x"]})
        assert client.wait(["task"], timeout_seconds=60)["task"].state is State.SUCCEEDED


def test_a_thread_that_dies_ends_the_process_though_it_cannot_be_told() -> None:
    """What a thread dies of, such as a lack of memory, may keep its end from being logged, too."""
    script = (
        "import os, threading\n"
        "from controller import bulkhead\n"
        "from controller.telemetry.logs import configure_logs\n"
        "configure_logs(replica='r')\n"
        "threading.excepthook = bulkhead.end_with_thread\n"
        "os.close(2)\n"
        "threading.Thread(target=lambda: 1 / 0).start()\n"
        "threading.Event().wait(60)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == EXIT_TORN


def test_a_replica_whose_standard_files_are_closed(start: Start, etcd_factory: EtcdFactory) -> None:
    """What it opens does not take their places."""
    etcd = etcd_factory.start()
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-m", "controller.cli.main"]
    flags = ("--etcd", etcd.url, "--engine", "null", "--status", "127.0.0.1:0")
    with subprocess.Popen([*command, "controller", *flags]) as replica:
        client = Client(etcd.url)
        try:
            run_a_task(client)
            opened = [os.readlink(f"/proc/{replica.pid}/fd/{number}") for number in range(3)]
        finally:
            replica.send_signal(signal.SIGTERM)
        assert replica.wait(30) == 0
        assert opened == ["/dev/null"] * 3


@pytest.mark.parametrize(
    ("service", "flags", "setting"),
    [
        ("controller", ["--status-token-file"], "status_token_file"),
        ("controller", ["--status-cert-file", "--status-key-file"], "status_cert_file"),
        ("notifier", ["--notifier-secrets-file"], "notifier_secrets_file"),
        ("notifier", ["--notifier-secrets-file=SECRETS", "--notifier-ca-file"], "notifier_ca_file"),
    ],
)
def test_a_file_that_does_not_hold_what_it_should(
    service: str, flags: list[str], setting: str, tmp_path: Path
) -> None:
    """The setting is named, and code 2 keeps systemd from trying it again: see deploy/systemd."""
    (tmp_path / "short").write_text("short")
    (tmp_path / "secrets").write_text(f'default = ["{new_secret()}"]\n')
    given = [
        each.replace("SECRETS", str(tmp_path / "secrets")) if "=" in each else f"{each}={tmp_path / 'short'}"
        for each in flags
    ]
    command = [sys.executable, "-m", "controller", service, "--etcd", "http://127.0.0.1:1", *given]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (refused.returncode, f"error: {setting}:" in refused.stderr) == (2, True), refused.stderr
