"""What users would take instead, on the same machine in the same run: procrastinate on PostgreSQL, and celery
on Redis.

Both have their own servers here, with fsync on each commit (PostgreSQL's defaults; Redis with `appendfsync
always`), and two worker processes. All no-op tasks wait before the workers start; the rate is from the first
end that is seen to the last. Then the workers are killed with SIGKILL amid a thousand tasks and started anew:
what has not ended once nothing moves for a while, was left behind. celery acknowledges late here, which loses
least; both are as installed otherwise.

Their packages go into a virtual environment of their own in the benchmarks' folder. redis-server is taken
from PATH, or unpacked from Debian's packages into that folder; PostgreSQL from PATH or Debian's place for it.
What cannot be had is skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench.measure import Figure, Skipped
from tests.bench.sizes import Sizes
from tests.bench.stage import ROOT, bench_folder, burn, cluster, disk
from tests.support.etcd import free_ports
from tests.support.waiting import wait_until

PACKAGES = ("procrastinate>=3", "psycopg[binary]>=3", "celery[redis]>=5.4")
REDIS_PACKAGES = ("redis-server", "redis-tools", "libjemalloc2", "liblzf1")
KILLED_AMONG = 1_000
RUNS = 3
INSTALL_SECONDS, DRIVE_SECONDS = 300, 1800

Server = Callable[[Path], Any]  # a context manager that gives the server's URL


def peers(sizes: Sizes) -> list[Figure]:
    """procrastinate on PostgreSQL and celery on Redis: the same number of no-op tasks, and what killed
    workers leave.
    """
    if not sizes.peers:
        raise Skipped("other systems run beside it in `make bench-full` alone")
    python = _environment()
    with cluster() as running:
        burn(running, max(10, sizes.peers // 10), "warm")
        own = [
            sizes.peers / burn(running, sizes.peers, f"peer{number}").seconds
            for number in range(sizes.repeat)
        ]
    figures = [Figure("PEERS", f"Tally: burn-down of {sizes.peers:,} no-op tasks", "tasks/s", own)]
    servers: tuple[tuple[str, str, str, Server], ...] = (
        ("procrastinate", "peer_procrastinate", "PostgreSQL, fsync=on, synchronous_commit=on", _postgresql),
        ("celery", "peer_celery", "Redis, appendonly, appendfsync=always", _redis),
    )
    missing = []
    for name, driver, on, server in servers:
        try:
            told = [_drive(python, driver, server, sizes.peers) for _ in range(RUNS)]
        except Skipped as skipped:
            missing.append(f"{name}: {skipped}")
            continue
        rates, left = [each["rate"] for each in told], [float(each["left_behind"]) for each in told]
        what = f"{name} {told[0]['version']}: {sizes.peers:,} no-op tasks, two worker processes"
        figures.append(Figure("PEERS", what, "tasks/s", rates, on, figures[0].median, "Tally's"))
        what = f"{name}: tasks left behind of {KILLED_AMONG:,}, workers killed with SIGKILL"
        figures.append(Figure("PEERS", what, "tasks", left, on, note="; ".join(missing)))
    if missing and len(figures) == 1:
        raise Skipped("; ".join(missing))
    return figures


def _environment() -> Path:
    """The Python of a virtual environment with the peers' packages; made once, and kept."""
    folder = bench_folder() / "peers"
    python, done = folder / "bin" / "python", folder / ".installed"
    if done.exists() and done.read_text() == str(PACKAGES):
        return python
    shutil.rmtree(folder, ignore_errors=True)
    _call([sys.executable, "-m", "venv", str(folder)])
    _call([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES])
    done.write_text(str(PACKAGES))
    return python


def _call(command: list[str], **options: Any) -> None:
    try:
        subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=INSTALL_SECONDS, **options
        )
    except (OSError, subprocess.SubprocessError) as error:
        why = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        raise Skipped(f"`{' '.join(command[:4])} …` failed: {why[-1] if why else error}") from error


def _drive(python: Path, driver: str, server: Server, count: int) -> dict[str, Any]:
    """Run a driver against a fresh server: its rate, and what killed workers left behind."""
    with disk() as folder, server(folder) as url:
        command = [
            str(python),
            str(ROOT / "tests" / "bench" / f"{driver}.py"),
            url,
            str(count),
            str(KILLED_AMONG),
        ]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
        ) as process:
            try:
                told, errors = process.communicate(timeout=DRIVE_SECONDS)
            finally:
                process.send_signal(signal.SIGINT)  # if it still runs: so that it ends its workers
        if process.returncode:
            raise RuntimeError(f"{driver} failed: {errors[-2000:]}")
        return dict(json.loads(told.splitlines()[-1]))


@contextmanager
def _served(command: list[str], ready: list[str], what: str, **options: Any) -> Iterator[None]:
    """A server in the foreground, until the block ends; `ready` is the command that succeeds once it
    answers.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
    )

    def answers() -> bool:
        if process.poll() is not None:
            raise Skipped(f"{what} ended at once, with exit code {process.returncode}")
        return subprocess.run(ready, capture_output=True, check=False, env=options.get("env")).returncode == 0

    try:
        wait_until(answers, f"{what} answering", timeout=60.0, poll=0.1)
        yield
    finally:
        process.send_signal(signal.SIGINT)  # PostgreSQL's word for: at once, whoever is connected
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _postgresql(folder: Path) -> Iterator[str]:
    """A PostgreSQL of its own with its default durability; as another user when we are root, whom it
    refuses.
    """
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if found := shutil.which("postgres"):
        places.insert(0, Path(found).resolve().parent)
    programs = ("initdb", "postgres", "pg_isready")
    place = next((each for each in places if all((each / program).exists() for program in programs)), None)
    if place is None:
        raise Skipped("PostgreSQL is not installed (Debian: postgresql)")
    user: dict[str, Any] = (
        {"user": "postgres" if _is_user("postgres") else "nobody", "extra_groups": []}
        if os.geteuid() == 0
        else {}
    )
    data = folder / "postgresql"
    data.mkdir()
    if user:
        folder.chmod(0o755)
        shutil.chown(data, user["user"])
    _call(
        [str(place / "initdb"), "-D", str(data), "-A", "trust", "-U", "bench", "--no-instructions"],
        cwd=data,
        **user,
    )
    (port,) = free_ports(1)
    command = [
        str(place / "postgres"),
        "-D",
        str(data),
        "-p",
        str(port),
        "-k",
        str(data),
        "-c",
        "listen_addresses=127.0.0.1",
    ]
    ready = [str(place / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
    with _served(command, ready, "PostgreSQL", cwd=data, **user):
        yield f"postgresql://bench@127.0.0.1:{port}/postgres"


def _is_user(name: str) -> bool:
    import pwd

    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


@contextmanager
def _redis(folder: Path) -> Iterator[str]:
    """A Redis of its own that syncs each write."""
    server, client, environment = _redis_programs()
    (port,) = free_ports(1)
    command = [server, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", "always"]
    with _served(command, [client, "-p", str(port), "-e", "PING"], "Redis", env=environment):
        yield f"redis://127.0.0.1:{port}/0"


def _redis_programs() -> tuple[str, str, dict[str, str]]:
    """Server and client, and the environment to run them in."""
    if (server := shutil.which("redis-server")) and (client := shutil.which("redis-cli")):
        return server, client, dict(os.environ)
    folder = bench_folder() / "redis"
    if not (folder / "usr/bin/redis-server").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        _call(["apt-get", "download", "-qq", *REDIS_PACKAGES], cwd=folder)
        for package in sorted(folder.glob("*.deb")):
            _call(["dpkg-deb", "-x", str(package), str(folder)])
    libraries = ":".join(str(path) for path in (folder / "usr/lib").glob("*-linux-gnu"))
    binaries = partial(os.path.join, folder / "usr/bin")
    return binaries("redis-server"), binaries("redis-cli"), {**os.environ, "LD_LIBRARY_PATH": libraries}
