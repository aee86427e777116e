"""The local cluster of `tally dev`: etcd, replicas and an engine on this machine.

`LocalCluster` starts and stops the parts, for the command and for tests. All parts are real: the replicas are
the same `tally controller` processes as in production.
"""

from __future__ import annotations

import importlib
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from controller.client import Client
from controller.clock import SystemClock
from controller.config import variable_of
from controller.config.values import parse_path
from controller.dev.credentials import DevCredentials, TlsFiles
from controller.dev.data_dir import DataDir, DevError
from controller.dev.etcd import EtcdConfig, EtcdProcess, end_with, find_etcd
from controller.engine.process.engine import ProcessEngine
from controller.signals import unbroken

if TYPE_CHECKING:
    from controller.dev.fake_kubernetes import FakeCluster

CLUSTER = "default"
SAMPLE_IMAGE = "busybox:1.36"
WITH_IMAGES = ("kubernetes", "docker")
RESTART_SECONDS = 1.0
REFUSED = 2  # how `tally controller` ends if it is not to be started again as it is
STOP_SECONDS = 10.0
SHUTDOWN_GRACE_SECONDS = 2.0  # for tasks that still run at Ctrl-C

TALLY = (sys.executable, "-m", "controller.cli.main")
"""The command `tally` of this installation."""


@dataclass(frozen=True, slots=True)
class DevOptions:
    """The options of `tally dev`.

    etcd uses the port `etcd_port` and the next one; replica n uses `status_port` + n - 1.
    """

    replicas: int = 3
    engine: str = "process"
    # with the kubernetes engine: a fake Kubernetes, instead of the one that KUBECONFIG names
    fake_cluster: bool = False
    data_dir: Path = Path(".tally")
    samples: bool = True
    etcd_port: int = 2379
    status_port: int = 9180
    # further settings of the replicas, as environment variables
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class ReplicaProcess:
    """A replica's process. `restart_at` (boottime) is set while it is down.

    `ended_with` is the code of its last end; below 0, the signal's.
    """

    name: str
    status_port: int
    process: subprocess.Popen[bytes] | None = None
    restart_at: float | None = None
    ended_with: int = 0

    @property
    def lives(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal. `LocalCluster.tend` restarts what ends by it."""
        if self.process is not None:
            self.process.send_signal(number)


class LocalCluster:
    """etcd, replicas and their engine on this machine.

    Start it from a thread that outlives it (see EtcdProcess). Its etcd requires the client certificate of
    `credentials`. Without `guarded`, every user of this machine may write: this is for measurements and tests
    that read etcd by other means.
    """

    def __init__(self, options: DevOptions, *, guarded: bool = True) -> None:
        self.options = options
        self.data_dir = parse_path(options.data_dir, "data_dir")
        self.folder = DataDir(self.data_dir)
        self.clock = SystemClock()
        self.state_dir = self.data_dir / "attempts"
        self.credentials = (
            DevCredentials(self.data_dir / "certificates", self.data_dir / "tally.toml") if guarded else None
        )
        self.etcd = EtcdProcess(
            find_etcd(),
            EtcdConfig(
                self.data_dir / "etcd",
                options.etcd_port,
                options.etcd_port + 1,
                log_file=self.folder.log("etcd"),
                client_cert_auth=guarded,
                peer_cert_auth=guarded,
                **(self.credentials.server if self.credentials is not None else {}),
            ),
        )
        _check_engine(options)
        _check_ports_differ(options)
        self.fake_cluster: FakeCluster | None = None
        self.replicas = [
            ReplicaProcess(f"r{n + 1}", options.status_port + n) for n in range(options.replicas)
        ]
        self._etcd_restart_at: float | None = None  # boottime; set while etcd is down
        self._lock_file: int | None = None
        self.is_told_to_stop = False

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig of the fake cluster, for the replicas."""
        return self.data_dir / "kubeconfig"

    @property
    def endpoint(self) -> str:
        """etcd's URL."""
        return self.etcd.url

    @property
    def client_files(self) -> TlsFiles:
        """The TLS files that a client of etcd needs, by the names of the settings."""
        return self.credentials.client if self.credentials is not None else {}

    def start(self) -> None:
        """Start etcd and the replicas. Raises DevError and EtcdFailed; after a failure, nothing runs."""
        self.start_etcd()
        self.start_replicas()

    def start_etcd(self) -> None:
        """Claim the data directory, and start etcd alone. Raises as `start`."""
        self._lock_file = self.folder.claim()  # before `stop` may run: another cluster may use the folder
        try:
            self._check_ports()
            if self.credentials is not None:
                self._make(self.credentials)
            self.etcd.start()
        except BaseException:
            self.stop()
            raise

    def start_replicas(self) -> None:
        """Start the replicas beside etcd. Raises as `start`."""
        try:
            if self.options.fake_cluster:
                self._start_fake_cluster()
            for replica in self.replicas:
                self.start_replica(replica)
        except BaseException:
            self.stop()
            raise

    def start_replica(self, replica: ReplicaProcess) -> None:
        """Start a replica's process; its log is appended to `logs/<name>.log` in the data directory.

        Raises DevError if that cannot be written.
        """
        environment = without_settings(os.environ) | {
            "TALLY_ETCD": self.endpoint,
            **{variable_of(name): str(path) for name, path in self.client_files.items()},
            "TALLY_CLUSTER": CLUSTER,
            "TALLY_REPLICA": replica.name,
            "TALLY_ENGINE": self.options.engine,
            "TALLY_STATE_DIR": str(self.state_dir),
            "TALLY_STATUS": f"127.0.0.1:{replica.status_port}",
            **self.options.settings,
        }
        if self.fake_cluster is not None:
            environment["TALLY_KUBECONFIG"] = str(self.kubeconfig)
        # The user's own settings file may be for another cluster; what is for replicas is in `settings`.
        config = str(self.credentials.config) if self.credentials is not None else os.devnull
        with open(self.folder.open_log(replica.name), "ab") as log, unbroken():
            replica.process = subprocess.Popen(
                [*TALLY, "controller", "--config", config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C is for us; we end them in order
                # SIGKILL would leave the leader's key in etcd
                preexec_fn=partial(end_with, os.getpid(), signal.SIGTERM),
            )
        replica.restart_at = None

    def stop_if_told(self) -> None:
        """Raise KeyboardInterrupt if the command was told to stop, and the first interrupt was swallowed."""
        if self.is_told_to_stop:
            raise KeyboardInterrupt

    def tend(self) -> list[ReplicaProcess]:
        """Restart dead replicas, a second after their end; returns those that were newly found dead.

        Raises KeyboardInterrupt as `stop_if_told`, and DevError if a replica refuses its settings: a restart
        would not help.
        """
        self.stop_if_told()
        dead = []
        for replica in self.replicas:
            now = self.clock.boottime()
            if replica.process is not None and replica.process.poll() is not None:
                replica.ended_with = replica.process.returncode
                if replica.ended_with == REFUSED:
                    word = self.folder.last_word(replica.name)
                    raise DevError(f"replica {replica.name} does not start: {word}")
                replica.process, replica.restart_at = None, now + RESTART_SECONDS
                dead.append(replica)
            elif replica.process is None and replica.restart_at is not None and now >= replica.restart_at:
                self.start_replica(replica)
        return dead

    def tend_etcd(self) -> bool:
        """Restart etcd, a second after its end. True if it was newly found dead. Raises EtcdFailed."""
        now = self.clock.boottime()
        if self._etcd_restart_at is None:
            if self.etcd.running:
                return False
            self._etcd_restart_at = now + RESTART_SECONDS
            return True
        if now >= self._etcd_restart_at:
            self._etcd_restart_at = None
            self.etcd.start()
        return False

    def client(self) -> Client:
        """A client of this cluster."""
        return Client(self.endpoint, cluster=CLUSTER, **self.client_files)

    @property
    def is_ours(self) -> bool:
        """Whether this cluster has the data directory, and what runs on it: from `start` until `stop`."""
        return self._lock_file is not None

    @unbroken()
    def stop(self) -> None:
        """Stop the replicas, then the attempts, then etcd. Nothing that was started here is left."""
        if self._lock_file is None:
            return
        running = [replica.process for replica in self.replicas if replica.process is not None]
        for process in running:
            process.terminate()
            process.send_signal(signal.SIGCONT)  # a stopped one ends, too
        for process in running:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if running and self.options.engine == "process" and self.state_dir.exists():
            engine = ProcessEngine(self.state_dir, CLUSTER, self.clock)
            engine.interrupt_all(SHUTDOWN_GRACE_SECONDS)
            # the folder is ours, so attempts of all installations in it are stopped
            for installation in engine.further_installations():
                engine.bind(installation)
                engine.interrupt_all(SHUTDOWN_GRACE_SECONDS)
            engine.close()
        if self.fake_cluster is not None:
            self.fake_cluster.stop()
        self.etcd.stop()
        os.close(self._lock_file)
        self._lock_file = None

    def _start_fake_cluster(self) -> None:
        """Start the fake Kubernetes with etcd's certificate, since kubectl sends its token only over TLS."""
        from controller.dev.fake_kubernetes import ClusterOptions, FakeCluster

        context, ca_file = None, ""
        if self.credentials is not None:
            files = self.credentials.server
            context, ca_file = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files["ca_file"]
            context.load_cert_chain(files["cert_file"], files["key_file"])
        self.fake_cluster = FakeCluster(ClusterOptions(token=secrets.token_urlsafe()), tls=context).start()
        self.fake_cluster.kubeconfig(self.kubeconfig, ca_file=ca_file)

    def _make(self, credentials: DevCredentials) -> None:
        try:
            credentials.make({"etcd": self.endpoint, "cluster": CLUSTER})
        except (OSError, UnicodeEncodeError) as error:
            why = f"certificates cannot be stored in {self.data_dir} ({error}): choose another --data-dir"
            raise DevError(why) from error

    def _check_ports(self) -> None:
        for replica in self.replicas:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", replica.status_port))
                except OSError as error:
                    raise DevError(
                        f"replica {replica.name} needs port {replica.status_port} for its status endpoint,"
                        f" which cannot be used ({error.strerror}): free it, or choose other ports with"
                        " --status-port"
                    ) from error


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without Tally's settings, which may be for another cluster."""
    return {name: value for name, value in environment.items() if not name.startswith("TALLY_")}


def _check_engine(options: DevOptions) -> None:
    """Check the options of the engine. Raises DevError and MissingExtra."""
    if options.fake_cluster and options.engine != "kubernetes":
        raise DevError(f"--fake-cluster is for --engine kubernetes, not for --engine {options.engine}")
    # A missing extra is reported here, and not by each replica in its log.
    importlib.import_module(f"controller.engine.{options.engine}")


def _check_ports_differ(options: DevOptions) -> None:
    """Raise DevError if a replica and etcd are to have the same port: each alone would find it free."""
    uses = {options.etcd_port: "for its clients", options.etcd_port + 1: "for its peers"}
    for n in range(options.replicas):
        port = options.status_port + n
        if port in uses:
            raise DevError(
                f"port {port} is wanted twice: by replica r{n + 1} for its status endpoint (--status-port"
                f" {options.status_port}), and by etcd {uses[port]} (--etcd-port {options.etcd_port} takes"
                f" {options.etcd_port} and {options.etcd_port + 1}): choose another of the two"
            )
