"""A private Docker daemon for tests: its own folders, no bridge, no registry, one image made of Debian's
busybox-static.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from docker import APIClient
from docker.errors import DockerException
from msgspec.structs import replace

from controller.core.model.task import Launch, Pool
from tests.engine.process_cases import launch
from tests.support.etcd import free_ports
from tests.support.waiting import wait_until

IMAGE = "tally-test:1"
BUSYBOX = Path("/bin/busybox")
_COMMANDS = ("cat", "echo", "env", "kill", "id", "sh", "sleep", "tail", "true")


class PrivateDocker:
    """One dockerd (and the containerd that it starts); `terminate` and `kill` may be followed by `start`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"unix://{folder}/docker.sock"
        self.port: int = free_ports(1)[0]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the daemon, and wait until it answers.

        Raises AssertionError with the end of its log when it does not.
        """
        (self.folder / "config").write_text("{}")  # not the machine's own
        (self.folder / "pidfile").unlink(missing_ok=True)
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(self._command(), stdout=log, stderr=log, start_new_session=True)
        process = self._process

        def answers() -> bool:
            assert process.poll() is None, f"dockerd ended: {self._last_words()}"
            try:
                with self.api():
                    return True
            except DockerException:
                return False

        wait_until(answers, "dockerd's answer")

    def _command(self) -> list[str]:
        """It ends with the test run, also with one that is killed; setpriv becomes dockerd."""
        address = ["--bridge=none", "-H", self.url, "-H", f"tcp://127.0.0.1:{self.port}", "--tls=false"]
        return ["setpriv", "--pdeathsig", "TERM", *self._dockerd(), *address]

    def _dockerd(self) -> list[str]:
        own = [
            f"--{name}={self.folder}/{name.split('-')[0]}"
            for name in ("data-root", "exec-root", "pidfile", "config-file")
        ]
        return ["dockerd", "--iptables=false", "--ip6tables=false", "--shutdown-timeout=5", *own]

    def terminate(self) -> None:
        """SIGTERM, and wait for its end."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)

    def kill(self) -> None:
        """SIGKILL, which its containerd dies of too; its containers live on until it is started again."""
        assert self._process is not None
        containerd = Path("/proc") / (self.folder / "exec/containerd/containerd.pid").read_text()
        self._process.kill()
        self._process.wait(30)
        # dockerd would wait for one that is still there
        wait_until(lambda: not containerd.exists(), "containerd's end")

    @contextmanager
    def api(self) -> Iterator[Any]:
        """The library's client, for what tests do by hand."""
        client = APIClient(self.url, version="auto", timeout=30)
        try:
            yield client
        finally:
            client.close()

    def containers(self) -> list[dict[str, Any]]:
        """All containers, inspected."""
        with self.api() as api:
            return [api.inspect_container(each["Id"]) for each in api.containers(all=True)]

    def remove_all(self) -> None:
        """Remove all containers."""
        with self.api() as api:
            for each in api.containers(all=True):
                api.remove_container(each["Id"], force=True)

    def close(self) -> None:
        """End it, with all that runs on it, and remove its folder."""
        if self._process is None or self._process.poll() is not None:
            self.start()  # only a daemon ends what another has left running
        self.remove_all()
        self.terminate()
        # A daemon that was killed leaves mounts behind.
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for target in reversed([each for each in mounts if each.startswith(f"{self.folder}/")]):
            subprocess.run(["umount", "-l", target], check=False)
        shutil.rmtree(self.folder)

    def _last_words(self) -> str:
        return (self.folder / "log").read_text(errors="replace").strip().splitlines()[-1]


class NetworkedDocker(PrivateDocker):
    """One with the default bridge, in a network namespace of its own, where its socket is in its usual
    place too.
    """

    _ENTER = 'ip link set lo up && mount -t tmpfs tmpfs /run && exec "$@"'

    def _command(self) -> list[str]:
        outside = [
            "setpriv",
            "--pdeathsig",
            "TERM",
            "unshare",
            "--net",
            "--mount",
            "sh",
            "-c",
            self._ENTER,
            "enter",
        ]
        return [*outside, *self._dockerd(), "-H", self.url, "-H", "unix:///run/docker.sock"]

    def inside(self, *command: str) -> str:
        """What a command says that runs in its network."""
        assert self._process is not None
        enter = ["nsenter", "--net", "--target", str(self._process.pid)]
        return subprocess.run(
            [*enter, *command], capture_output=True, text=True, check=True, timeout=60
        ).stdout


@contextmanager
def private_docker(kind: type[PrivateDocker] = PrivateDocker) -> Iterator[PrivateDocker]:
    """A running daemon with the test image; skips, with the reason, where there can be none."""
    if shutil.which("dockerd") is None:
        pytest.skip("no Docker engine: dockerd is not installed (Debian: docker.io)")
    if os.geteuid() != 0:
        pytest.skip("no Docker engine: only root can start one")
    # /bin/busybox may also be a linked one, which runs in no empty root
    if not Path("/usr/share/doc/busybox-static").exists():
        pytest.skip("no image for the Docker engine: busybox-static is not installed")
    # A short path: the names of its sockets are limited to 108 characters.
    docker = kind(Path(tempfile.mkdtemp(prefix="tally-docker-")))
    try:
        docker.start()
    except AssertionError as error:
        pytest.skip(f"no Docker engine: {error}")
    try:
        with docker.api() as api:
            api.import_image_from_data(root_filesystem(), repository="tally-test", tag="1")
        yield docker
    finally:
        docker.close()


def root_filesystem() -> bytes:
    """A tar archive with busybox and some of its commands."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(BUSYBOX, "bin/busybox")
        for name in _COMMANDS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return archive.getvalue()


def docker_launch(*command: str, options: dict[str, Any] | None = None, **spec: Any) -> Launch:
    """A launch on the test image, by default without a network, as the private daemon has none."""
    pool = Pool(name="default", engine_options={"network": "none", **(options or {})})
    return replace(launch(*command, **{"image": IMAGE, **spec}), pool=pool)


def until_stopped(exit_code: int = 143) -> Launch:
    """Runs until SIGTERM, which process 1 of a container only gets when it asks for it; prints "ready"
    once it does.
    """
    return docker_launch(
        "sh", "-c", f"trap 'exit {exit_code}' TERM; echo ready; while :; do sleep 0.05; done"
    )
