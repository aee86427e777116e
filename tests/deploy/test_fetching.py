"""The scripts that fetch and build what contributors run Tally on: what they do where there is no mirror,
no root, no program.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEWEST = ROOT / "tests/support/newest.sh"
UP, DOWN = (ROOT / f"tests/cluster/one_node/{name}.sh" for name in ("up", "down"))
SCRIPTS = [ROOT / ".ci/run", *sorted((ROOT / "tests").rglob("*.sh"))]


def program(path: Path, text: str) -> None:
    """An executable script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def call(script: Path, *arguments: object, cache: Path, path: Path) -> subprocess.CompletedProcess[str]:
    """Run it with this cache, and with the programs of `path` before all others."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "PATH": f"{path}:{os.environ['PATH']}"}
    return subprocess.run(
        [script, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_each_is_a_program_that_bash_reads(script: Path) -> None:
    """Executable where it is called, and without a syntax error."""
    assert script.name in ("run", "debian.sh") or os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)


def test_without_a_mirror_the_newest_that_was_fetched_before_is_used(tmp_path: Path) -> None:
    """By version and not by name; a folder with a space in its path is as good as any."""
    cache = tmp_path / "a cache"
    for version in ("3.5.9-1", "3.5.30-2", "3.5.4-1"):
        program(cache / "tally/newest/etcd" / version / "etcd", "echo etcd Version: 3.5.0")
    program(tmp_path / "bin/apt-get", "echo no mirror >&2; exit 100")
    done = call(NEWEST, "etcd", "etcd-server", cache=cache, path=tmp_path / "bin")
    assert done.stdout.strip() == str(cache / "tally/newest/etcd/3.5.30-2")
    assert (cache / "tally/newest/etcd/current/etcd").exists()


def test_without_a_mirror_and_a_cache_it_fails_and_says_so(tmp_path: Path) -> None:
    """What comes first on PATH must not become an empty word."""
    program(tmp_path / "bin/apt-get", "echo no mirror >&2; exit 100")
    done = call(NEWEST, "etcd", "etcd-server", cache=tmp_path, path=tmp_path / "bin")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no etcd could be fetched" in done.stderr


def test_a_cluster_names_what_it_lacks_before_it_builds_anything(tmp_path: Path) -> None:
    """All that is missing at once, and how to install it."""
    for name in ("bash", "dirname", "mkdir", "realpath", "id"):
        found = shutil.which(name)
        assert found is not None
        (tmp_path / name).symlink_to(found)
    done = subprocess.run(
        [UP, tmp_path / "cluster"], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "missing here: etcd dockerd docker runc conntrack" in done.stderr
    assert "apt-get install" in done.stderr


def test_only_a_cluster_s_own_processes_are_ended(tmp_path: Path) -> None:
    """A number in its folder that the kernel has given to somebody else meanwhile is left alone; a folder
    of another kind too.
    """
    stranger = subprocess.Popen(["sleep", "60"])
    (tmp_path / "cluster/pids").mkdir(parents=True)
    (tmp_path / "cluster/log").touch()
    own = subprocess.Popen(["tail", "-f", tmp_path / "cluster/log"])
    try:
        (tmp_path / "cluster/pids/kubelet").write_text(str(stranger.pid))
        (tmp_path / "cluster/pids/etcd").write_text(str(own.pid))
        (tmp_path / "other").mkdir()
        program(tmp_path / "bin/docker", "exit 1")
        assert call(DOWN, tmp_path / "other", cache=tmp_path, path=tmp_path / "bin").returncode == 1
        assert call(DOWN, tmp_path / "cluster", cache=tmp_path, path=tmp_path / "bin").returncode == 0
        assert own.wait(10) != 0
        assert stranger.poll() is None
        assert (tmp_path / "other").exists()
        assert not (tmp_path / "cluster").exists()
    finally:
        stranger.kill()
        own.kill()
