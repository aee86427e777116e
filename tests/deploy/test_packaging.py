"""The wheel, installed where nothing else is: what it weighs, what it can do, and which extra it asks for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from controller import __version__
from controller.dev.etcd import EtcdProcess

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
LIMIT = 25_000_000  # bytes
BLOCK = 4096  # what the smallest file takes of most disks
UNREACHABLE = ("error sending request", "Failed to fetch", "Network connectivity is disabled", "dns error")

pytestmark = [
    pytest.mark.xdist_group("packaging"),  # one builds, the others use it
    pytest.mark.skipif(not UV.exists(), reason="needs uv beside this Python: make install"),
]


def uv(*arguments: object) -> None:
    """Run uv; a test that would need an index which cannot be reached is skipped."""
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    done = subprocess.run(
        [UV, *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if any(words in done.stderr for words in UNREACHABLE):
        pytest.skip(f"no package index: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True)
class Installation:
    """A virtual environment with Tally in it."""

    folder: Path
    settings: dict[str, str]

    @property
    def packages(self) -> Path:
        return next(self.folder.glob("lib/python*/site-packages"))

    @property
    def environment(self) -> dict[str, str]:
        """The settings, and none of this machine's."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder), **self.settings}

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, in a folder that is not the source's."""
        return subprocess.run(
            [self.folder / "bin" / program, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def succeed(self, program: str, *arguments: str) -> str:
        """What that prints; it must exit with 0."""
        done = self.run(program, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


Install = Callable[..., Installation]


@pytest.fixture(scope="module")
def install(tmp_path_factory: pytest.TempPathFactory) -> Install:
    """Makes an environment with the wheel, its dependencies in the lock's versions, and these extras."""
    built = tmp_path_factory.mktemp("wheel")
    uv("build", "--quiet", "--wheel", "--out-dir", built, ROOT)
    (wheel,) = built.glob("*.whl")
    locked = built / "locked.txt"
    uv(
        "export",
        "--quiet",
        "--frozen",
        "--all-extras",
        "--no-dev",
        "--no-emit-project",
        "--no-hashes",
        "-o",
        locked,
    )

    def install(*extras: str, **settings: str) -> Installation:
        folder = tmp_path_factory.mktemp("environment")
        uv("venv", "--quiet", "--clear", "--python", sys.executable, folder)
        what = f"{wheel}[{','.join(extras)}]" if extras else wheel
        uv("pip", "install", "--quiet", "--python", folder / "bin/python", "--constraint", locked, what)
        return Installation(folder, settings)

    return install


@pytest.fixture(scope="module")
def bare(install: Install) -> Installation:
    """An installation without extras."""
    return install()


@pytest.fixture
def connected(bare: Installation, etcd: EtcdProcess, cluster_name: str, tmp_path: Path) -> Installation:
    """The same, with an etcd."""
    settings = {
        "TALLY_ETCD": etcd.url,
        "TALLY_CLUSTER": cluster_name,
        "TALLY_STATUS": "127.0.0.1:0",
        "TALLY_STATE_DIR": str(tmp_path / "attempts"),
        "TALLY_REPLICA": "r1",
    }
    return Installation(bare.folder, settings)


def test_an_installation_without_extras_is_small(bare: Installation) -> None:
    files = [path for path in bare.packages.rglob("*") if path.is_file()]
    assert sum(-(-path.stat().st_size // BLOCK) * BLOCK for path in files) < LIMIT
    assert bare.packages / "controller/py.typed" in files


def test_the_command_has_two_names_and_one_version(bare: Installation) -> None:
    expected = f"tally {__version__}\n"
    assert bare.succeed("tally", "--version") == expected
    assert bare.succeed("python", "-m", "controller", "--version") == expected
    name = "from importlib.metadata import version; print('tally', version('tally-controller'))"
    assert bare.succeed("python", "-c", name) == expected


CLIENT = """
from controller.client.client import Client
with Client.from_config() as tally:
    tally.apply_pool({"name": "default", "capacity": {"cpu": "1"}})
    tally.submit({"id": "by-client", "command": ["true"], "resources": {"cpu": "100m"}})
    print(tally.get("by-client").state)
"""


def test_a_client_and_a_replica_of_the_process_engine_need_no_extra(connected: Installation) -> None:
    assert connected.succeed("python", "-c", CLIENT) == "Created\n"
    connected.succeed("tally", "submit", "by-command", "--cpu", "100m", "--", "echo", "hello")
    assert connected.succeed("tally", "get", "tasks", "-o", "name").split() == [
        "task/by-client",
        "task/by-command",
    ]
    command = [str(connected.folder / "bin/tally"), "controller", "--engine", "process"]
    with subprocess.Popen(command, cwd=connected.folder, env=connected.environment) as replica:
        try:
            connected.succeed("tally", "wait", "by-client", "by-command", "--timeout", "50s")
            assert connected.succeed("tally", "logs", "by-command") == "hello\n"
        finally:
            replica.terminate()
    assert replica.returncode == 0


@pytest.mark.parametrize(
    ("extra", "arguments"),
    [
        ("kubernetes", ("controller", "--engine", "kubernetes")),
        ("docker", ("controller", "--engine", "docker")),
        ("dev", ("dev",)),
        ("dev", ("demo",)),
    ],
)
def test_a_missing_extra_is_named(connected: Installation, extra: str, arguments: tuple[str, ...]) -> None:
    done = connected.run("tally", *arguments)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert done.stderr.rstrip().endswith(f"): pip install 'tally-controller[{extra}]'")
    assert "Traceback" not in done.stderr


TRY = """
from controller.errors import MissingExtra
try:
    import {room}
except ImportError as error:
    assert isinstance(error, MissingExtra)
    print(error.extra)
"""
IMPORT_ALL = """
import importlib, pkgutil
import {room} as room
for module in pkgutil.iter_modules(room.__path__, "{room}."):
    importlib.import_module(module.name)
"""
DEMO_PAGE = """
from controller.dev.demo import page, result, words
assert "<style>" in page.page_of(words.ENGLISH, "en", result.DemoResult("", (), result.Audit("", 0), 0.0))
"""


@pytest.mark.slow  # tests/architecture/test_dependencies.py looks at the same without installing
@pytest.mark.parametrize(
    ("extra", "room"),
    [
        ("kubernetes", "controller.engine.kubernetes"),
        ("docker", "controller.engine.docker"),
        ("dev", "controller.dev"),
    ],
)
def test_an_extra_brings_what_its_room_imports(
    install: Install, bare: Installation, extra: str, room: str, tmp_path: Path
) -> None:
    assert bare.succeed("python", "-c", TRY.format(room=room)) == f"{extra}\n"
    with_extra = install(extra)
    with_extra.succeed("python", "-c", IMPORT_ALL.format(room=room))
    if extra == "dev":
        with_extra.succeed("python", "-c", DEMO_PAGE)
        # nothing is started for an engine that replicas could not use
        done = with_extra.run("tally", "dev", "--engine", "docker", "--data-dir", str(tmp_path))
        assert (done.returncode, "tally-controller[docker]" in done.stderr) == (1, True), done.stderr
        assert not list(tmp_path.iterdir())
