"""`tally dev`, as a user runs it: again, twice at once, with its ports taken, interrupted, and killed."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from controller.core.model.lifecycle import State
from controller.dev.cluster import DevOptions, LocalCluster
from controller.dev.data_dir import DevError
from controller.dev.run import _next_run, interruptible, run_dev
from controller.signals import ending_signals, unbroken
from tests.e2e.conftest import MakeDev, processes_of
from tests.support.etcd import free_ports
from tests.support.local import Gate, Journal, adjacent_ports
from tests.support.waiting import signalled_to_its_end, wait_until

POOL = {"name": "default", "capacity": {"cpu": 2}}


def is_part(process: psutil.Process) -> bool:
    """Whether it is etcd or a replica."""
    with suppress(psutil.NoSuchProcess):
        return bool({"etcd", "controller"} & {Path(word).name for word in process.cmdline()})
    return False


def test_ctrl_c_ends_all_that_was_started_and_the_next_run_continues(dev: MakeDev, tmp_path: Path) -> None:
    """What had finished is still there; what ran was interrupted, which uses up no attempt, and runs
    again.
    """
    journal, gate = Journal(tmp_path / "journal"), Gate(tmp_path / "gate")
    first = dev().until_it_leads()
    with first.client() as client:
        client.submit({"id": "done", "command": ["true"]})
        client.submit(
            {"id": "running", "command": journal.command(gate.body), "retry": {"backoff_seconds": 0.1}}
        )
        assert client.wait(["done"], timeout_seconds=30)["done"].state is State.SUCCEEDED
        wait_until(lambda: client.get("running").state is State.RUNNING, "the second task")
    assert len(processes_of(first.data_dir)) >= 4
    # whoever is impatient presses it again, at any moment
    assert signalled_to_its_end(first.process, signal.SIGINT) == 0
    assert processes_of(first.data_dir) == []
    assert "stopped; the data is kept" in first.output
    assert first.output.count("stopping:") == 1
    assert "Traceback" not in first.output

    second = dev().until_it_leads()
    gate.open()
    with second.client() as client:
        views = client.wait(["done", "running"], timeout_seconds=30)
    assert {view.state for view in views.values()} == {State.SUCCEEDED}
    assert (views["done"].attempt, views["running"].attempt) == (1, 2)
    second.process.terminate()
    assert second.ended() == 0
    assert processes_of(first.data_dir) == []


def test_a_kill_leaves_neither_etcd_nor_replicas_and_its_attempts_are_adopted(
    dev: MakeDev, tmp_path: Path
) -> None:
    journal, gate = Journal(tmp_path / "journal"), Gate(tmp_path / "gate")
    first = dev().until_it_leads()
    with first.client() as client:
        client.submit({"id": "running", "command": journal.command(gate.body)})
        wait_until(lambda: client.get("running").state is State.RUNNING, "the task")
    first.process.kill()
    first.ended()
    wait_until(
        lambda: not any(is_part(p) for p in processes_of(first.data_dir)), "the end of etcd and replicas"
    )
    assert processes_of(first.data_dir), "the attempt ended with them"
    second = dev().until_it_leads()
    gate.open()
    with second.client() as client:
        view = client.wait(["running"], timeout_seconds=30)["running"]
    assert (view.state, view.attempt) == (State.SUCCEEDED, 1)
    assert journal.starts() == {("running", 1): 1}


def test_an_etcd_that_dies_is_told_and_restarted(dev: MakeDev) -> None:
    """As replicas are; what runs goes on."""
    run = dev().until_it_leads()
    with run.client() as client:
        client.submit({"id": "before", "command": ["true"]})
        assert client.wait(["before"], timeout_seconds=30)["before"].state is State.SUCCEEDED
    (etcd,) = [process for process in processes_of(run.data_dir) if Path(process.cmdline()[0]).name == "etcd"]
    etcd.kill()
    wait_until(lambda: "etcd died; restarting it" in run.output, "word of its death")
    run.until_it_leads()
    with run.client() as client:
        assert client.get("before").state is State.SUCCEEDED
        client.submit({"id": "after", "command": ["true"]})
        assert client.wait(["after"], timeout_seconds=60)["after"].state is State.SUCCEEDED
    run.interrupt()
    assert run.ended() == 0
    assert processes_of(run.data_dir) == []
    assert "Traceback" not in run.output


@pytest.mark.parametrize("which", ["etcd_port", "status_port"])
def test_a_port_in_use_is_named(dev: MakeDev, tmp_path: Path, which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        run = dev(**{which: port})
        assert run.ended() == 1
    assert f"port {port}" in run.output
    assert "choose" in run.output
    assert "Traceback" not in run.output
    assert processes_of(tmp_path / "data") == []


@pytest.mark.parametrize(
    ("status_port", "told"),
    [
        (2378, "port 2379 is wanted twice: by replica r2 for its status endpoint (--status-port 2378)"),
        (2380, "port 2380 is wanted twice: by replica r1 for its status endpoint (--status-port 2380)"),
    ],
)
def test_a_port_that_a_replica_and_etcd_would_share_is_named(
    tmp_path: Path, status_port: int, told: str
) -> None:
    """With both flags, before anything is written. Also etcd's second port, which no flag gives."""
    options = DevOptions(data_dir=tmp_path / "data", etcd_port=2379, status_port=status_port)
    with pytest.raises(DevError) as caught:
        run_dev(options)
    assert str(caught.value).startswith(told)
    assert "(--etcd-port 2379 takes 2379 and 2380): choose another of the two" in str(caught.value)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("status_port", [2376, 2381])
def test_ports_beside_those_of_etcd_are_taken(tmp_path: Path, status_port: int) -> None:
    cluster = LocalCluster(DevOptions(data_dir=tmp_path, etcd_port=2379, status_port=status_port))
    assert not {each.status_port for each in cluster.replicas} & {2379, 2380}


def test_a_data_directory_in_use_is_named_and_its_user_goes_on(dev: MakeDev) -> None:
    first = dev().until_it_leads()
    with first.client() as client:
        client.submit({"id": "running", "command": ["sleep", "1000"]})
        client.wait(["running"], for_="running", timeout_seconds=30)
    second = dev(etcd_port=adjacent_ports(), status_port=free_ports(1)[0])
    assert second.ended() == 1
    assert f"pid {first.process.pid}" in second.output
    assert "--data-dir" in second.output
    assert "Traceback" not in second.output
    with first.client() as client:
        client.submit({"id": "task", "command": ["true"]})
        assert client.wait(["task"], timeout_seconds=30)["task"].state is State.SUCCEEDED
        view = client.get("running")
        assert (view.state, view.attempt) == (State.RUNNING, 1)
    assert "stop" not in second.output.replace("stop it", "")


def test_a_data_directory_of_another_version_is_left_alone(dev: MakeDev, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "version.json").write_text(json.dumps({"data_version": 99}))
    run = dev()
    assert run.ended() == 1
    assert "data version 99" in run.output
    assert "--data-dir" in run.output
    assert "Traceback" not in run.output
    assert not (data / "etcd").exists()


@pytest.mark.parametrize("name", ["tally.toml", "runs", "etcd", "notes.txt"])
def test_a_folder_of_somebody_else_is_left_as_it_was(tmp_path: Path, name: str) -> None:
    """What no `tally dev` has marked is nobody's to overwrite."""
    (tmp_path / name).write_text("experiment 17")
    (tmp_path / "lock").write_text("mine")
    with pytest.raises(DevError, match=rf"is no folder of `tally dev`, since it has '{name}'"):
        LocalCluster(DevOptions(data_dir=tmp_path)).start()
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {
        name: "experiment 17",
        "lock": "mine",
    }


@pytest.mark.parametrize("name", ["logs/r1.log", "logs", "version.json", "lock"])
def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "version.json").write_text(json.dumps({"data_version": 1}))
    if name == "logs":
        (tmp_path / "logs").write_text("")
    else:
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(DevError, match=rf"{name}.*: .*--data-dir"):
        LocalCluster(DevOptions(data_dir=tmp_path)).start()


@pytest.mark.parametrize(("content", "number"), [("7\n", 8), ("²", 1), ("experiment", 1), ("", 1)])
def test_the_count_of_runs_may_be_anything(tmp_path: Path, content: str, number: int) -> None:
    (tmp_path / "runs").write_text(content)
    assert _next_run(tmp_path) == number
    assert _next_run(tmp_path) == number + 1


def test_settings_that_replicas_refuse_end_it_and_are_named(dev: MakeDev) -> None:
    """A restart would not help. Those that they take are handed on as they were given."""
    run = dev(flags=("--relist-seconds", "1000000", "--silence-seconds", "1"))
    assert run.ended() == 1
    assert "replica r1 does not start: silence_seconds: is 1, but must be above" in run.output
    assert "relist_seconds" not in run.output
    assert run.output.count("died") == 0


@pytest.mark.parametrize("marker", ["{", "[]", 100_000 * "["])
def test_a_data_directory_whose_version_cannot_be_read_is_left_alone(tmp_path: Path, marker: str) -> None:
    """It ends as that of another version does: by an error that says what to do."""
    (tmp_path / "version.json").write_text(marker)
    with pytest.raises(DevError, match=r"cannot be read: .* --data-dir"):
        LocalCluster(DevOptions(data_dir=tmp_path)).start()
    assert not (tmp_path / "etcd").exists()


@pytest.fixture
def our_signals() -> Iterator[None]:
    """After the test, they have the handlers that they had before."""
    before = {number: signal.getsignal(number) for number in ending_signals()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Dropped:
    """Gets a signal while it is destroyed."""

    def __init__(self, number: signal.Signals) -> None:
        self._number = number

    def __del__(self) -> None:
        signal.raise_signal(self._number)


@pytest.mark.usefixtures("our_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_is_swallowed_is_heard_at_the_next_step(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """Python forgets what is raised in a destructor, or between the two halves of a fork, and prints it.

    From then on, nothing else is heard.
    """
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)  # pytest has one of its own
    cluster = LocalCluster(DevOptions(data_dir=tmp_path))
    with interruptible(cluster):
        assert cluster.tend() == []
        Dropped(number)
        with pytest.raises(KeyboardInterrupt):
            cluster.tend()
        Dropped(number)
        signal.raise_signal(number)
    signal.raise_signal(number)
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("our_signals")
def test_an_interrupt_is_heard_once_a_child_that_is_created_is_known(tmp_path: Path) -> None:
    """Also if the block is part of another one."""
    cluster = LocalCluster(DevOptions(data_dir=tmp_path))
    known = []

    @unbroken()
    def create() -> None:
        with unbroken():
            signal.raise_signal(signal.SIGTERM)
            known.append("inner")
        known.append("outer")

    with interruptible(cluster), pytest.raises(KeyboardInterrupt):
        create()
    assert known == ["inner", "outer"]
    with unbroken():
        pass  # it was heard once


@pytest.mark.usefixtures("our_signals")
@pytest.mark.parametrize("closed", [signal.SIG_DFL, signal.SIG_IGN])
def test_who_was_not_told_to_stop_has_the_signals_as_before(tmp_path: Path, closed: signal.Handlers) -> None:
    """A closed terminal is ignored if it was (nohup)."""
    signal.signal(signal.SIGHUP, closed)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    cluster = LocalCluster(DevOptions(data_dir=tmp_path))
    with interruptible(cluster):
        if closed is signal.SIG_IGN:
            signal.raise_signal(signal.SIGHUP)
        assert cluster.tend() == []
    assert [signal.getsignal(number) for number in numbers] == before
