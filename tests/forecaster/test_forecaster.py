"""A process that looks ahead for a replica: what it tells, what it learns, and what becomes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import psutil
import pytest
from msgspec.structs import replace

from controller.client import Client
from controller.clock import SystemClock
from controller.core.model.lifecycle import State
from controller.core.model.model import Model
from controller.core.model.task import AttemptId
from controller.dev.etcd import EtcdProcess
from controller.forecaster import forecaster
from controller.forecaster.forecaster import Forecaster, NoForecast
from controller.forecaster.process import Looker
from controller.forecaster.surroundings import NICENESS
from controller.forecaster.wire import Subject
from controller.store.etcd.connection import GatewayOptions
from controller.store.etcd.store import EtcdStore
from controller.views.ahead import look
from controller.views.explain_forecast import explain_coming
from tests.client.conftest import client as client
from tests.client.conftest import put_raw as put_raw
from tests.support.etcd import compact, in_seconds
from tests.support.running import POOL, RecordingEngine, RunningReplica, submit
from tests.support.waiting import wait_until

CLOCK = SystemClock()


class Told:
    """What is measured."""

    def __init__(self) -> None:
        self.looks: list[float] = []
        self.starts: list[tuple[float, float]] = []

    def looked_ahead(self, seconds: float) -> None:
        self.looks.append(seconds)

    def begun_as_told(self, seconds: float, share: float) -> None:
        self.starts.append((seconds, share))


@pytest.fixture
def told() -> Told:
    return Told()


def subject(etcd: EtcdProcess, client: Client) -> Subject:
    return Subject(
        cluster=client.keys.cluster,
        options=GatewayOptions((etcd.url,)),
        silence_seconds=10.0,
        name="test",
    )


@pytest.fixture
def asked(etcd: EtcdProcess, client: Client, told: Told) -> Iterator[Forecaster]:
    made = Forecaster(subject(etcd, client), told)
    yield made
    made.close()


def process_of(asked: Forecaster) -> psutil.Process:
    assert asked._process is not None
    return psutil.Process(asked._process.pid)


def test_it_tells_what_is_to_come_and_learns_how_far_off_it_was(
    client: Client, asked: Forecaster, told: Told, store: EtcdStore
) -> None:
    """By the run deadlines, each begins a minute after the one before; but each ends at once."""
    client.apply_pool(POOL)
    names = [f"t{number}" for number in range(8)]
    limited = {"resources": {"cpu": 4}, "deadlines": {"run": "60s"}, "retry": {"max_attempts": 1}}
    engine = RecordingEngine(SystemClock(), 600.0)
    with RunningReplica(store, cluster=client.keys.cluster, engine=engine) as replica:
        submit(client, *names, **limited)
        wait_until(lambda: len(engine.started) == 1, "the first has begun")
        revision = replica.replica.facts().revision
        view = asked.ask(names, revision)
        assert view.revision >= revision
        begins = [view.tasks[name].begins_at for name in names[1:]]
        first = begins[0]
        assert first is not None
        assert view.tasks["t0"].has_begun
        assert begins == pytest.approx([first + 60 * number for number in range(7)], abs=3)
        assert view.starts is None
        for number, name in enumerate(names[:-1]):
            engine.end(AttemptId(name, 1))
            wait_until(lambda: len(engine.started) == number + 2, "the next has begun")  # noqa: B023

        def judged() -> bool:
            asked.ask((), replica.replica.facts().revision)
            return len(told.starts) == 7

        wait_until(judged, "what was told is judged")
    seconds = [seconds for seconds, _ in told.starts]
    assert seconds == pytest.approx([60 * (number + 1) for number in range(7)], abs=20)
    assert min(share for _, share in told.starts) > 0.8
    assert max(share for _, share in told.starts) <= 1
    assert len(told.looks) >= 1


def test_what_was_just_submitted_is_known(client: Client, asked: Forecaster, told: Told) -> None:
    """What was told just now is told again, but not to whoever asks of a task that is newer."""
    submit(client, "old", resources={"cpu": 1})
    assert set(asked.ask(["old"], 0).tasks) == {"old"}
    assert set(asked.ask(["old", "nosuch"], 0).tasks) == {"old"}
    assert len(told.looks) == 1
    for name in ("new", "newer"):
        submit(client, name)
        _, revision = client.store.get(f"{client.keys.prefix}tasks/{name}", deadline=in_seconds())
        assert set(asked.ask([name, "old"], revision).tasks) == {name, "old"}
    assert len(told.looks) == 3


def test_a_task_that_has_changed_is_not_told_as_it_was(
    client: Client, asked: Forecaster, told: Told, store: EtcdStore
) -> None:
    client.apply_pool(POOL)
    for name in ("a", "b", "c"):
        submit(client, name, resources={"cpu": 4}, deadlines={"run": "60s"})
    with RunningReplica(store, cluster=client.keys.cluster, engine=RecordingEngine(CLOCK, 600.0)) as replica:
        wait_until(lambda: client.get("a").state is State.RUNNING, "the first has begun")
        before = asked.ask(["a", "b", "c"], replica.replica.facts().revision)
        assert (before.tasks["b"].begins_at or 0) < (before.tasks["c"].begins_at or 0)
        client.cancel("b")
        wait_until(lambda: client.get("b").state is State.CANCELLED, "the end")
        revision = replica.replica.facts().revision
        looks = len(told.looks)
        assert asked.ask(["c"], revision) == asked.ask(["c"], revision), "it has not changed itself"
        assert "b" not in asked.ask(["b"], revision).tasks
        assert len(told.looks) == looks + 1
        client.features.enable("changes")
        client.hold("c")
        wait_until(lambda: (status := client.get("c").status) is not None and status.on_hold, "the hold")
        assert asked.ask(["c"], replica.replica.facts().revision).tasks["c"].begins_at is None


def test_members_that_have_ended_tell_how_long_the_others_run(
    client: Client, asked: Forecaster, store: EtcdStore
) -> None:
    """They are gone before this process looks again: it hears of them all the same."""
    client.apply_pool(POOL)
    engine = RecordingEngine(SystemClock(), 600.0)
    with RunningReplica(store, cluster=client.keys.cluster, engine=engine) as replica:
        wait_until(lambda: replica.replica.facts().role == "leader", "a leader")
        client.features.enable("arrays")
        submit(client, "sweep", resources={"cpu": 1}, array={"size": 20})
        wait_until(lambda: len(engine.started) == 4, "the first have begun")
        assert asked.ask(["sweep"], 0).tasks["sweep"].runs == 0
        for number in range(9):
            engine.end(AttemptId(f"sweep-i{number}", 1))
            wait_until(lambda: len(engine.started) == 5 + number, "the next has begun")  # noqa: B023

        def is_folded() -> bool:
            progress = client.get("sweep").progress
            return progress is not None and progress.succeeded == 9

        wait_until(is_folded, "they are counted")
        _, revision = store.get(client.keys.leader, deadline=in_seconds())
        sweep = asked.ask(["sweep"], revision, at_least=revision).tasks["sweep"]
    assert (sweep.by, sweep.runs) == ("array", 9)


def test_a_member_that_waits_is_told_of_with_its_array(client: Client, asked: Forecaster, told: Told) -> None:
    """And that is told again for a while, as all is."""
    client.apply_pool({**POOL, "paused": True})
    engine = RecordingEngine(SystemClock(), 600.0)
    with RunningReplica(client.store, cluster=client.keys.cluster, engine=engine) as replica:
        replica.until_leading()
        client.features.enable("arrays")
    submit(client, "sweep", resources={"cpu": 1}, array={"size": 20})
    _, revision = client.store.get(f"{client.keys.prefix}tasks/sweep", deadline=in_seconds())
    view = asked.ask(["sweep-i7"], revision, at_least=revision)
    assert view.tasks.keys() == {"sweep"}
    assert explain_coming(view, "sweep-i7").startswith("Of its array: ")
    looks = len(told.looks)
    assert asked.ask(["sweep-i7", "sweep"], revision) == view
    assert len(told.looks) == looks
    assert "Nothing is to come of other-i7" in explain_coming(asked.ask(["other-i7"], revision), "other-i7")


def test_it_is_as_of_the_revision_that_it_must_be_of(client: Client, asked: Forecaster, told: Told) -> None:
    submit(client, "t")
    asked.ask([], 0)
    submit(client, "u")
    _, revision = client.store.get(f"{client.keys.prefix}tasks/u", deadline=in_seconds())
    assert asked.ask([], revision).revision < revision, "what was told is told again"
    assert asked.ask([], revision, at_least=revision).revision >= revision
    assert len(told.looks) == 2


def test_no_look_is_older_than_what_the_asker_has_seen(client: Client, asked: Forecaster) -> None:
    """Not even if etcd does not show it: whoever cancelled a task is not told when it will begin."""
    submit(client, "t")
    revision = asked.ask(["t"], 0).revision
    with pytest.raises(NoForecast, match=f"has not shown revision {revision + 1}"):
        asked.ask(["t"], revision + 1)
    submit(client, "u")
    assert set(asked.ask(["t", "u"], revision + 1).tasks) == {"t", "u"}


def test_a_model_that_is_loaded_again_is_waited_for(
    client: Client, asked: Forecaster, store: EtcdStore
) -> None:
    """A compaction sends it back each time; a model of which only a part is new tells nothing."""
    submit(client, "t0")
    asked.ask([], 0)
    for number in range(1, 4):
        submit(client, f"t{number}")
        _, revision = client.store.get(client.keys.prefix, deadline=in_seconds())
        compact(store, revision)
        names = [f"t{each}" for each in range(number + 1)]
        assert set(asked.ask(names, revision).tasks) == set(names)


def test_a_fork_whose_answer_nobody_can_read_any_more_ends(etcd: EtcdProcess, client: Client) -> None:
    """Nor has it anything else of the process that was killed."""
    looker = Looker(subject(etcd, client))
    view = look(Model(), 0.0, lambda: True)
    view = replace(view, endless={"default": ["x" * 1_000_000]})
    first = looker._fork(Model(), lambda *_: view)
    second = looker._fork(Model(), lambda *_: view)
    for fork in (second, first):  # the second one could keep the first one's pipe
        wait_until(partial(_has_little_open, fork.pid), "nothing else is open")
        os.close(fork.pipe)
        # 0 if it sees so before it has anything to write
        assert os.waitstatus_to_exitcode(os.waitpid(fork.pid, 0)[1]) in (0, 1)


def _has_little_open(pid: int) -> bool:
    return psutil.Process(pid).num_fds() <= 2  # its log and its pipe


def test_a_process_that_is_killed_is_begun_again(client: Client, asked: Forecaster) -> None:
    submit(client, "t")
    asked.ask(["t"], 0)
    killed = process_of(asked)
    killed.kill()
    assert set(asked.ask(["t"], 0).tasks) == {"t"}
    assert not killed.is_running()
    assert process_of(asked).pid != killed.pid


def test_a_process_that_does_not_answer_is_ended(
    client: Client, asked: Forecaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks is told so in the end, and the next one has a new process."""
    submit(client, "t")
    asked.ask(["t"], 0)
    stopped = process_of(asked)
    stopped.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(forecaster, "ANSWER_SECONDS", 0.5)
    with pytest.raises(NoForecast, match="ask again"):
        asked.ask(["t"], 0)
    assert not stopped.is_running()
    monkeypatch.undo()
    assert set(asked.ask(["t"], 0).tasks) == {"t"}


def test_it_ends_with_whoever_asks(client: Client, etcd: EtcdProcess) -> None:
    """Also with a replica that is killed."""
    asks = (
        "import msgspec, sys, time\n"
        "from controller.forecaster.forecaster import Forecaster\n"
        "from controller.forecaster.wire import Subject\n"
        "from controller.telemetry.metrics import Metrics\n"
        "from controller.clock import SystemClock\n"
        "made = Forecaster(msgspec.json.decode(sys.argv[1], type=Subject), Metrics(SystemClock()))\n"
        "made.ask((), 0)\n"
        "print(made._process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    about = msgspec_json(subject(etcd, client))
    with subprocess.Popen([sys.executable, "-c", asks, about], stdout=subprocess.PIPE, text=True) as asker:
        assert asker.stdout is not None
        pid = next(line for line in asker.stdout if line.strip().isdigit())  # after the log
        process = psutil.Process(int(pid))
        assert process.nice() >= 10
        asker.kill()
        psutil.wait_procs([process], timeout=30)
        assert not process.is_running()


def test_it_is_nice_within_the_session_of_whoever_asks(client: Client, asked: Forecaster) -> None:
    """Ctrl-C is not for it; but in a session of its own its niceness would count nothing."""
    client.apply_pool(POOL)
    asked.ask([], 0)
    process = process_of(asked)
    assert process.nice() == os.nice(0) + NICENESS
    assert os.getsid(process.pid) == os.getsid(0)
    assert os.getpgid(process.pid) == process.pid


def test_nothing_is_asked_after_the_end(client: Client, asked: Forecaster) -> None:
    asked.close()
    with pytest.raises(NoForecast, match="ends"):
        asked.ask((), 0)


def msgspec_json(value: object) -> str:
    import msgspec

    return msgspec.json.encode(value).decode()
