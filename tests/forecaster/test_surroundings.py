"""What a process that looks ahead takes of its machine: what others leave, and nothing that there is not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.client import Client
from controller.core.forecast.supposed import Supposed
from controller.core.model.model import Model
from controller.dev.etcd import EtcdProcess
from controller.forecaster import forks, process
from controller.forecaster.forks import computed_modestly, fork
from controller.forecaster.process import Looker
from controller.forecaster.surroundings import EXIT_MEMORY, left_bytes, own_bytes
from controller.forecaster.wire import Question
from controller.views.forecast import ForecastView
from controller.views.supposition import Supposition
from tests.client.conftest import client as client
from tests.forecaster.test_forecaster import msgspec_json, subject
from tests.support.waiting import wait_until

SECONDS = 60.0
MIB = 1 << 20


def policy() -> bytes:
    """The scheduling policy of the process that computes it."""
    return str(os.sched_getscheduler(0)).encode()


def computed(compute: Callable[[], bytes]) -> bytes | None:
    return fork(partial(computed_modestly, compute, SECONDS), 2 * SECONDS).written(2 * SECONDS)


# -- processors


def test_a_look_takes_what_nobody_else_wants() -> None:
    assert computed(policy) == str(os.SCHED_IDLE).encode()


@pytest.mark.slow
def test_a_look_that_gets_no_processor_is_begun_again_as_any_other() -> None:
    """It shares one with a process that only computes."""
    (processor, *_) = os.sched_getaffinity(0)

    def compute() -> bytes:
        os.sched_setaffinity(0, {processor})
        for _ in range(10_000_000):
            pass
        return policy()

    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            os.sched_setaffinity(busy.pid, {processor})
            assert computed(compute) == str(os.SCHED_OTHER).encode()
        finally:
            busy.kill()


def test_what_fails_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "STARVED_SHARE", 0.0)  # whatever else uses the processors
    tried = tmp_path / "tried"

    def fails() -> bytes:
        with tried.open("a") as file:
            file.write("x")
        raise ValueError("a bug")

    assert computed(fails) == b""
    assert tried.read_text() == "x"


def test_no_fork_outlives_whoever_asks() -> None:
    script = (
        "import time\n"
        "from functools import partial\n"
        "from controller.forecaster.forks import computed_modestly, fork\n"
        "def spin():\n"
        "    while True: pass\n"
        f"print(fork(partial(computed_modestly, spin, {SECONDS}), {SECONDS}).pid, flush=True)\n"
        f"time.sleep({SECONDS})\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as asker:
        assert asker.stdout is not None
        first = psutil.Process(int(asker.stdout.readline()))
        wait_until(lambda: len(first.children()) == 1, "the fork of the fork")
        forks = [first, *first.children()]
        asker.kill()
        assert not psutil.wait_procs(forks, timeout=30)[1]


@pytest.mark.parametrize("is_early", [True, False])
def test_a_look_ends_with_the_fork_that_waits_for_it(
    is_early: bool, etcd: EtcdProcess, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is killed cannot end it: it sees that itself, also if it has not begun by then."""
    for bound in ("LOOK_SECONDS", "IDLE_LOOK_SECONDS", "FORK_SECONDS"):
        monkeypatch.setattr(process, bound, 2 * SECONDS)  # nothing else ends it
    has_ended = tmp_path / "ended"
    if is_early:
        monkeypatch.setattr(forks, "yield_cores", lambda: wait_until(has_ended.exists))

    def looks(_model: Model, goes_on: Callable[[], bool]) -> ForecastView:
        while goes_on():
            pass
        raise ValueError("nobody waits for it")

    first = Looker(subject(etcd, client))._fork(Model(), looks)
    waiting = psutil.Process(first.pid)
    wait_until(lambda: len(waiting.children()) == 1, "the fork of the fork")
    (second,) = waiting.children()
    first.end()
    has_ended.touch()
    assert not psutil.wait_procs([second], timeout=SECONDS)[1]


class HalfFailing(Looker):
    """The first look of a pair fails, and the second one goes on."""

    def _looking(
        self, horizon_seconds: float, now: float | None = None, supposed: Supposed | None = None
    ) -> Callable[[Model, Callable[[], bool]], ForecastView]:
        def looks(_model: Model, goes_on: Callable[[], bool]) -> ForecastView:
            while supposed is not None and goes_on():
                pass
            raise ValueError("a bug")

        return looks


def test_of_two_looks_none_is_left_if_the_other_fails(etcd: EtcdProcess, client: Client) -> None:
    looker, me = HalfFailing(subject(etcd, client)), psutil.Process()
    others = {*me.children(recursive=True)}
    looker.start()
    reply = looker.answer(Question(tasks=None, supposed=Supposition()))
    assert reply.problem == "it ended without an answer; the log may say why"
    assert {*me.children()} <= others
    looker._standby.close()
    psutil.wait_procs({*me.children(recursive=True)} - others, timeout=5)
    assert {*me.children(recursive=True)} <= others


def test_a_look_ends_with_whoever_asks(client: Client, etcd: EtcdProcess) -> None:
    """Without a word. The replica was killed while its question was looked into."""
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, msgspec_json(subject(etcd, client))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as asker:
        assert asker.stdout is not None
        assert asker.stderr is not None
        pid = next(line for line in asker.stdout if line.strip().isdigit())  # after the log
        forecaster = psutil.Process(int(pid))
        assert asker.stdout.readline() == b"asks\n"
        asker.kill()
        assert not psutil.wait_procs([forecaster], timeout=30)[1]
        said = asker.stderr.read()
        assert b"Traceback" not in said, said
        assert b"BrokenPipe" not in said, said


KILLED = """
import msgspec, sys, threading
from controller.clock import SystemClock
from controller.forecaster.forecaster import Forecaster
from controller.forecaster.wire import Question, Subject
from controller.telemetry.metrics import Metrics
made = Forecaster(msgspec.json.decode(sys.argv[1], type=Subject), Metrics(SystemClock()))
made.ask((), 0)
process = made._process
print(process.pid, flush=True)
process.stdin.write(msgspec.json.encode(Question(tasks=["t"], revision=0, at_least=10**12)) + b"\\n")
process.stdin.flush()
print("asks", flush=True)  # and it waits for that revision
threading.Event().wait(60)
"""


# -- memory


class Machine:
    """What a kernel tells of a machine's memory, as files."""

    def __init__(self, path: Path) -> None:
        self.proc, self.groups = path / "proc", path / "cgroup"
        (self.proc / "self").mkdir(parents=True)

    def has(self, available: int | str, groups: str) -> None:
        (self.proc / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {available} kB\nHuge: 0\n")
        (self.proc / "self" / "cgroup").write_text(groups)

    def group(self, path: str, limit: int | str, usage: int, cache: int = 0) -> None:
        is_first = path.startswith("memory")
        names = ("limit_in_bytes", "usage_in_bytes", "total_inactive_file")
        kinds = names if is_first else ("max", "current", "inactive_file")
        (self.groups / path).mkdir(parents=True, exist_ok=True)
        (self.groups / path / f"memory.{kinds[0]}").write_text(f"{limit}\n")
        (self.groups / path / f"memory.{kinds[1]}").write_text(f"{usage}\n")
        (self.groups / path / "memory.stat").write_text(f"anon 5\n{kinds[2]} {cache}\n")

    def left(self) -> int | None:
        """MiB; None: nothing can be read."""
        left = left_bytes(self.proc, self.groups)
        return left // MIB if left is not None else None


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_machine_itself(machine: Machine) -> None:
    machine.has(300 * 1024, "")
    assert machine.left() == 300
    machine.has("many", "")
    assert machine.left() is None


def test_the_narrowest_group_counts(machine: Machine) -> None:
    machine.has(9000 * 1024, "0::/system.slice/tally.service\n")
    machine.group("system.slice/tally.service", "max", 50 * MIB)
    assert machine.left() == 9000
    machine.group("system.slice", 700 * MIB, 600 * MIB)
    assert machine.left() == 100
    machine.group("system.slice/tally.service", 500 * MIB, 450 * MIB)
    assert machine.left() == 50


def test_a_cache_of_files_is_no_memory_in_use(machine: Machine) -> None:
    machine.has(9000 * 1024, "0::/\n")
    machine.group("", 700 * MIB, 690 * MIB, cache=200 * MIB)
    assert machine.left() == 210


def test_groups_of_the_first_version(machine: Machine) -> None:
    """In a container, the path is one of the host, and what is mounted is the container's own group."""
    machine.has(9000 * 1024, "3:cpu,cpuacct:/x\n4:memory:/docker/4711\n0::/\n")
    machine.group("memory", 512 * MIB, 500 * MIB, cache=8 * MIB)
    assert machine.left() == 20
    machine.group("memory/docker/4711", 256 * MIB, 255 * MIB)
    assert machine.left() == 1
    machine.group("memory/docker/4711", 9223372036854771712, 255 * MIB)
    assert machine.left() == 20


def test_more_in_use_than_there_may_be(machine: Machine) -> None:
    """A limit that was lowered."""
    machine.has(9000 * 1024, "0::/\n")
    machine.group("", 100 * MIB, 200 * MIB)
    assert machine.left() == 0


def test_where_nothing_can_be_read_nothing_is_known(tmp_path: Path) -> None:
    assert left_bytes(tmp_path / "no", tmp_path / "nor") is None


@given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=20), st.binary(max_size=30))
def test_whatever_the_files_say(meminfo: bytes, groups: bytes, limit: bytes, stat: bytes) -> None:
    """It is a guard: it stops nothing by an error of its own."""
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(Path(folder))
        machine.groups.mkdir()
        (machine.proc / "meminfo").write_bytes(meminfo)
        (machine.proc / "self" / "cgroup").write_bytes(groups)
        for name in ("memory.max", "memory.current"):
            (machine.groups / name).write_bytes(limit)
        (machine.groups / "memory.stat").write_bytes(stat)
        left_bytes(machine.proc, machine.groups)


def test_it_measures_itself() -> None:
    found = psutil.Process().memory_info()
    assert own_bytes(Path("/nowhere")) == 0
    assert own_bytes() == pytest.approx(found.rss - found.shared, rel=0.1)


# -- a real limit


@contextmanager
def group(kind: str, limit: str, at_most: int | str) -> Iterator[Path]:
    """A group of this machine with this limit, by cgroup v1 or v2; skips where none can be made."""
    first, second = Path("/sys/fs/cgroup") / kind, Path("/sys/fs/cgroup")
    made = (first if first.is_dir() else second) / f"tally-test-{kind}-{os.getpid()}"
    try:
        made.mkdir()
        (made / limit).write_text(str(at_most))  # v2 has it only where the parent hands the controller down
    except OSError as error:
        if made.is_dir():
            made.rmdir()
        pytest.skip(f"no group with a limit of {kind} can be made on this machine: {error}")
    yield made
    wait_until(lambda: not (made / "cgroup.procs").read_text(), "the group to be empty")
    made.rmdir()


@pytest.fixture
def limited() -> Iterator[Path]:
    """A group with 700 MiB of memory."""
    is_first = Path("/sys/fs/cgroup/memory").is_dir()
    with group("memory", "memory.limit_in_bytes" if is_first else "memory.max", 700 * MIB) as made:
        yield made


ASKS = f"""
import msgspec, os, sys, threading
open(sys.argv[2], "w").write(str(os.getpid()))
from controller.clock import SystemClock
from controller.forecaster.forecaster import Forecaster, NoForecast
from controller.forecaster.wire import Subject
from controller.telemetry.metrics import Metrics
made = Forecaster(msgspec.json.decode(sys.argv[1], type=Subject), Metrics(SystemClock()))

def ask():
    try:
        made.ask((), 0)
    except NoForecast as error:
        print("REFUSED", error)
    else:
        print("TOLD")

ask()
taken, process = [], made._process
while process.poll() is None:
    taken.append(os.urandom({MIB}))
    threading.Event().wait(0.01)  # as slowly as a model grows
print("ENDED", process.returncode)
ask()
taken.clear()
ask()
made.close()
"""


@pytest.mark.slow
def test_it_goes_before_memory_runs_out(limited: Path, client: Client, etcd: EtcdProcess) -> None:
    """In a container, the end of one can be that of all: a leader must not end because somebody asks.

    Nor is a process begun that there is no room for.
    """
    done = subprocess.run(
        [sys.executable, "-c", ASKS, msgspec_json(subject(etcd, client)), str(limited / "cgroup.procs")],
        stdout=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    told, ended, refused, again = [
        line for line in done.stdout.splitlines() if line.startswith(("REFUSED", "TOLD", "ENDED"))
    ]
    assert told == again == "TOLD"
    assert ended == f"ENDED {EXIT_MEMORY}"
    assert re.search(r"would need \d+ MiB of memory, and \d+ MiB are left: raise the memory limit", refused)


SCARCE = """
import msgspec, os, sys
from pathlib import Path
group = Path(sys.argv[2])
(group / "cgroup.procs").write_text(str(os.getpid()))
from controller.clock import SystemClock
from controller.forecaster.forecaster import Forecaster, NoForecast
from controller.forecaster.wire import Subject
from controller.telemetry.metrics import Metrics
made = Forecaster(msgspec.json.decode(sys.argv[1], type=Subject), Metrics(SystemClock()))
for more in (*range(12), 500):
    (group / "pids.max").write_text(str(int((group / "pids.current").read_text()) + more))
    try:
        made.ask((), 0)
    except NoForecast as error:
        print("REFUSED", error)
        assert made._process is None or made._process.poll() is None
    else:
        print("TOLD")
    made._end()
    assert (group / "cgroup.procs").read_text().split() == [str(os.getpid())]
"""


def test_no_process_is_left_over_where_processes_are_scarce(client: Client, etcd: EtcdProcess) -> None:
    """Whichever process or thread is one too many; and nothing of it is told as a bug."""
    with group("pids", "pids.max", "max") as scarce:
        done = subprocess.run(
            [sys.executable, "-c", SCARCE, msgspec_json(subject(etcd, client)), str(scarce)],
            capture_output=True,
            text=True,
            timeout=2 * SECONDS,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith(("REFUSED", "TOLD"))]
    assert said[-1] == "TOLD"
    assert said[0].startswith("REFUSED no process could be begun that looks ahead: ")
    assert all("raise" in line or "the log may say why" in line for line in said if line != "TOLD"), said


@pytest.mark.parametrize(
    "odd",
    [
        "pass",  # stdin, stdout and stderr are closed
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "os.chdir(tempfile.mkdtemp()); os.rmdir(os.getcwd())",
        "os.environ.clear()",
    ],
)
def test_it_looks_ahead_in_odd_surroundings(
    client: Client, etcd: EtcdProcess, tmp_path: Path, odd: str
) -> None:
    """Whatever a launcher has left to the replica."""
    answer = tmp_path / "answer"
    script = (
        "import msgspec, os, signal, sys, tempfile\n"
        "from controller.clock import SystemClock\n"
        "from controller.forecaster.forecaster import Forecaster\n"
        "from controller.forecaster.wire import Subject\n"
        "from controller.interpreter import open_standard_files\n"
        "from controller.telemetry.logs import configure_logs\n"
        "from controller.telemetry.metrics import Metrics\n"
        "open_standard_files()\n"
        "configure_logs(replica='r')\n"
        f"{odd}\n"
        "made = Forecaster(msgspec.json.decode(sys.argv[1], type=Subject), Metrics(SystemClock()))\n"
        "try:\n"
        "    said = str(made.ask((), 0).revision)\n"
        "except Exception as error:\n"
        "    said = repr(error)\n"
        "open(sys.argv[2], 'w').write(said)\n"
        "made.close()\n"
    )
    command = [sys.executable, "-c", script, msgspec_json(subject(etcd, client)), str(answer)]
    subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], timeout=SECONDS, check=True)
    assert answer.read_text().isdigit(), answer.read_text()
