"""What every engine must do.

An engine joins with an `EngineCase`; what it cannot do by its nature, it states in `lacks`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pytest
from msgspec.structs import replace

from controller.clock import SystemClock
from controller.core.model.installation import Installation
from controller.core.model.own_labels import OF_TASKS
from controller.core.model.task import AttemptId, Launch, Observation, Phase
from controller.dev.fake_kubernetes import ClusterOptions, FakeCluster
from controller.engine.base import (
    AttemptRefused,
    AttemptUnknown,
    Engine,
    EngineUnavailable,
    LogOptions,
    LogsRefused,
)
from controller.engine.docker.engine import DockerEngine
from controller.engine.null import NullEngine
from controller.engine.process.engine import ProcessEngine
from tests.engine import kubernetes_cases
from tests.engine.process_cases import launch, observation, wait_for, wait_stopped
from tests.support.docker import PrivateDocker, docker_launch, until_stopped


def cannot(*_: object) -> NoReturn:
    """What an engine lacks by its nature."""
    raise AssertionError("no test of this engine calls this")


@dataclass
class EngineCase:
    """An engine and the launches that make it do what the tests are about, each of a fresh task."""

    engine: Engine
    succeeding: Callable[[], Launch]
    until_stopped: Callable[[], Launch]
    failing: Callable[[int], Launch] = cannot
    ignoring_sigterm: Callable[[], Launch] = cannot  # prints "ready" once it does
    printing: Callable[[str], Launch] = cannot
    never_starting: Callable[[], Launch] = cannot
    printing_environment: Callable[[], Launch] = cannot
    another: Callable[[str], Engine] = cannot  # another replica's engine, for the cluster of this name
    cleanups: list[Callable[[], object]] = field(default_factory=list)


def process_case(folder: Path) -> EngineCase:
    engine = ProcessEngine(folder, "test", SystemClock())
    case = EngineCase(
        engine,
        succeeding=lambda: launch("true"),
        until_stopped=lambda: launch("sleep", "1000"),
        failing=lambda code: launch("sh", "-c", f"exit {code}"),
        ignoring_sigterm=lambda: launch("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1000; done"),
        printing=lambda text: launch("sh", "-c", 'echo "$1"; echo "$1" >&2', "sh", text),
        never_starting=lambda: launch("/nonexistent/command"),
        printing_environment=lambda: launch("env"),
    )

    def another(cluster: str) -> Engine:
        other = ProcessEngine(folder, cluster, SystemClock())
        case.cleanups += [
            lambda: other.interrupt_all(0.0),
            other.close,
        ]  # another installation's attempts are in a place of their own
        return other

    case.another = another
    case.cleanups += [lambda: engine.interrupt_all(0.0), engine.close]
    return case


def kubernetes_case(folder: Path) -> EngineCase:
    """On a fake API server, over real HTTP. `tests/cluster` runs the same engine on a real one."""
    cluster = FakeCluster(ClusterOptions(scale=0.02)).start()
    engine = kubernetes_cases.engine_on(cluster, folder)
    scripted = kubernetes_cases.scripted
    case = EngineCase(
        engine,
        succeeding=lambda: kubernetes_cases.launch("true"),
        until_stopped=kubernetes_cases.running,
        failing=lambda code: kubernetes_cases.launch("sh", "-c", f"exit {code}"),
        ignoring_sigterm=lambda: scripted(run_seconds=None, output=[(0.0, "ready")]),
        printing=lambda text: scripted(output=[(0.0, text), (0.0, text)]),
        never_starting=lambda: scripted(start="not-found"),
        printing_environment=lambda: kubernetes_cases.launch(
            "sh",
            "-c",
            "; ".join(f"echo {name}=${name}" for name in ("TALLY_TASK_ID", "TALLY_ATTEMPT", "TALLY_TERM")),
        ),
    )

    def another(name: str) -> Engine:
        other = kubernetes_cases.engine_on(cluster, folder, name)
        case.cleanups.insert(0, other.close)
        return other

    case.another = another
    case.cleanups += [engine.close, cluster.stop]
    return case


def docker_case(docker: PrivateDocker) -> EngineCase:
    """On a real Docker daemon."""
    engine = DockerEngine(docker.url, "test", SystemClock())
    case = EngineCase(
        engine,
        succeeding=lambda: docker_launch("true"),
        until_stopped=until_stopped,
        failing=lambda code: docker_launch("sh", "-c", f"exit {code}"),
        ignoring_sigterm=lambda: docker_launch(
            "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1000; done"
        ),
        printing=lambda text: docker_launch("sh", "-c", 'echo "$1"; echo "$1" >&2', "sh", text),
        never_starting=lambda: docker_launch("/nonexistent/command"),
        printing_environment=lambda: docker_launch("env"),
    )

    def another(cluster: str) -> Engine:
        other = DockerEngine(docker.url, cluster, SystemClock())
        case.cleanups.append(other.close)
        return other

    case.another = another
    case.cleanups += [engine.close, docker.remove_all]
    return case


def null_case(folder: Path) -> EngineCase:
    """Excluded by nature: it runs nothing, so nothing fails, prints, ignores signals or outlives its
    process.
    """
    engine = NullEngine(SystemClock())
    stop = threading.Event()
    time_passes = threading.Thread(
        target=engine.watch, args=(lambda seen: None, stop), name="null-engine-time"
    )
    time_passes.start()
    return EngineCase(
        engine,
        succeeding=lambda: launch("true"),
        until_stopped=lambda: launch("true", env={"TALLY_NULL_SECONDS": "1000"}),
        cleanups=[stop.set, time_passes.join],
    )


CASES = [
    pytest.param(process_case, id="process"),
    pytest.param(kubernetes_case, id="kubernetes"),
    pytest.param(docker_case, id="docker", marks=pytest.mark.xdist_group("docker")),
    pytest.param(null_case, id="null"),
]


@pytest.fixture(params=CASES[:-1])
def running_case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EngineCase]:
    """The engines that run something; what the null engine is excluded from, its case states."""
    yield from _case(request, tmp_path)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EngineCase]:
    """Every engine."""
    yield from _case(request, tmp_path)


@pytest.fixture(params=CASES[1:-1])
def choosy_case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EngineCase]:
    """Those that may refuse now what they accepted before.

    The others refuse by the task's spec alone, which never changes.
    """
    yield from _case(request, tmp_path)


def _case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EngineCase]:
    given = request.getfixturevalue("docker") if request.param is docker_case else tmp_path
    made: EngineCase = request.param(given)
    yield made
    for cleanup in made.cleanups:
        cleanup()


def test_an_attempt_that_succeeds_is_proven_to_have_stopped(case: EngineCase) -> None:
    """It has a uid from the start, which it keeps, and ends Succeeded with its times."""
    given = case.succeeding()
    first = case.engine.start(given)
    last = wait_stopped(case.engine, given.attempt)
    assert first.uid
    assert (last.phase, last.exit_code, last.ran, last.uid) == (Phase.SUCCEEDED, 0, True, first.uid)
    assert last.started_at is not None
    assert last.finished_at is not None
    assert last.started_at <= last.finished_at


@pytest.mark.parametrize("key", sorted(OF_TASKS))
def test_a_label_of_tallys_own_is_none_that_a_user_must_not_set(case: EngineCase, key: str) -> None:
    """The tasks of schedules have one, and the calls of an executor."""
    given = case.succeeding()
    made = replace(given, spec=replace(given.spec, labels={key: "nightly"}))
    case.engine.start(made)
    assert wait_stopped(case.engine, made.attempt).phase is Phase.SUCCEEDED


@pytest.mark.parametrize("code", [1, 2, 255])
def test_an_exit_code_is_passed_on(running_case: EngineCase, code: int) -> None:
    given = running_case.failing(code)
    running_case.engine.start(given)
    seen = wait_stopped(running_case.engine, given.attempt)
    assert (seen.phase, seen.exit_code, seen.ran, seen.signal) == (Phase.FAILED, code, True, None)


def test_a_second_start_adopts_the_first(case: EngineCase) -> None:
    given = case.until_stopped()
    assert case.engine.start(given).uid == case.engine.start(given).uid


def test_starts_at_the_same_moment_make_one_attempt(case: EngineCase) -> None:
    given = case.until_stopped()
    with ThreadPoolExecutor(8, thread_name_prefix="starter") as pool:
        uids = {seen.uid for seen in pool.map(case.engine.start, [given] * 8)}
    assert len(uids) == 1


def test_a_finished_attempt_is_never_run_again(case: EngineCase) -> None:
    """Its name is its fencing token: a start that comes late is told how it ended."""
    given = case.succeeding()
    case.engine.start(given)
    ended = wait_stopped(case.engine, given.attempt)
    assert case.engine.start(given) == ended
    assert observation(case.engine, given.attempt) == ended


def test_a_stopped_attempt_ends_failed_with_the_proof_of_stop(case: EngineCase) -> None:
    given = case.until_stopped()
    started = case.engine.start(given)
    wait_for(lambda: is_running(case.engine, given.attempt), "the attempt to run")
    case.engine.stop(given.attempt, grace_seconds=30.0, uid=started.uid)
    case.engine.stop(given.attempt, grace_seconds=30.0, uid=started.uid)
    seen = wait_stopped(case.engine, given.attempt)
    assert (seen.phase, seen.reason, seen.ran) == (Phase.FAILED, "Stopped", True)
    assert case.engine.stop(given.attempt, grace_seconds=0.0) == seen


def is_running(engine: Engine, attempt: AttemptId) -> bool:
    """Whether the engine shows the attempt as running."""
    seen = observation(engine, attempt)
    return seen is not None and seen.phase is Phase.RUNNING


def test_a_stop_meant_for_another_uid_touches_nothing(case: EngineCase) -> None:
    given = case.until_stopped()
    case.engine.start(given)
    assert case.engine.stop(given.attempt, grace_seconds=0.0, uid="another") is None
    assert case.engine.stop(AttemptId("unknown", 1), grace_seconds=0.0, uid="another") is None
    seen = observation(case.engine, given.attempt)
    assert seen is not None
    assert not seen.stopped
    assert observation(case.engine, AttemptId("unknown", 1)) is None


def test_an_attempt_stopped_before_its_start_never_runs(case: EngineCase) -> None:
    """The stop leaves a tombstone, which the late start finds (fault 28)."""
    given = case.succeeding()
    seen = case.engine.stop(given.attempt, grace_seconds=1.0)
    assert seen is not None
    assert (seen.phase, seen.stopped, seen.ran, seen.reason) == (Phase.FAILED, True, False, "NeverStarted")
    assert case.engine.start(given) == seen
    assert case.engine.attempts() == [seen]


def repeated_and_refused(given: Launch) -> Launch:
    """The same start once more, after the pool was spoiled."""
    return replace(given, repeated=True, pool=replace(given.pool, engine_options={"nonsense": 1}))


def test_the_refusal_of_a_repeated_start_takes_the_name(choosy_case: EngineCase) -> None:
    """The first may still be under way: when it comes, after its hold has ended, it never runs (fault 27)."""
    given = choosy_case.until_stopped()
    with pytest.raises(AttemptRefused, match="nonsense"):
        choosy_case.engine.start(repeated_and_refused(given))
    late = choosy_case.another("test").start(given)
    assert (late.phase, late.stopped, late.ran) == (Phase.FAILED, True, False)
    choosy_case.engine.forget(given.attempt)
    wait_for(lambda: choosy_case.engine.attempts() == [], "it to be gone")


def test_what_runs_is_not_refused_by_a_repeated_start(choosy_case: EngineCase) -> None:
    """It is adopted, whatever has become of its pool."""
    given = choosy_case.until_stopped()
    started = choosy_case.engine.start(given)
    seen = choosy_case.engine.start(repeated_and_refused(given))
    assert (seen.uid, seen.stopped) == (started.uid, False)


def test_an_attempt_that_ignores_sigterm_is_killed_after_the_grace(running_case: EngineCase) -> None:
    given = running_case.ignoring_sigterm()
    running_case.engine.start(given)
    assert b"ready" in next(chunk for chunk in running_case.engine.logs(given.attempt, follow=True) if chunk)
    running_case.engine.stop(given.attempt, grace_seconds=0.3)
    seen = wait_stopped(running_case.engine, given.attempt)
    assert (seen.phase, seen.reason, seen.signal, seen.exit_code) == (Phase.FAILED, "Stopped", 9, 137)


def test_what_cannot_be_started_failed_without_having_run(running_case: EngineCase) -> None:
    given = running_case.never_starting()
    running_case.engine.start(given)
    seen = wait_stopped(running_case.engine, given.attempt)
    assert (seen.phase, seen.ran) == (Phase.FAILED, False)
    assert seen.reason
    assert seen.message


@pytest.mark.parametrize("is_proven", [False, True])
def test_a_finished_attempt_is_listed_until_it_is_forgotten(case: EngineCase, is_proven: bool) -> None:
    given = case.succeeding()
    case.engine.start(given)
    seen = wait_stopped(case.engine, given.attempt)
    uid = seen.uid if is_proven else ""
    case.engine.forget(given.attempt, uid=uid)
    case.engine.forget(given.attempt, uid=uid)
    assert case.engine.attempts() == []
    with pytest.raises(AttemptUnknown):
        case.engine.logs(given.attempt, follow=False)


def test_a_running_attempt_cannot_be_forgotten(case: EngineCase) -> None:
    given = case.until_stopped()
    started = case.engine.start(given)
    for uid in ("", "another"):
        case.engine.forget(given.attempt, uid=uid)
        seen = observation(case.engine, given.attempt)
        assert seen is not None
        assert (seen.uid, seen.stopped) == (started.uid, False)


def test_what_is_asked_for_by_name_is_told(case: EngineCase) -> None:
    """While it runs, when it has ended, and when the engine has it no more: gone, and that it stopped is
    proven, at the latest when a node must have heard of it.
    """
    given = case.until_stopped()
    started = case.engine.start(given)
    wait_for(lambda: is_running(case.engine, given.attempt), "the attempt to run")
    seen = case.engine.find(given.attempt, uid=started.uid)
    assert (seen.phase, seen.stopped, seen.gone, seen.uid) == (Phase.RUNNING, False, False, started.uid)
    case.engine.stop(given.attempt, grace_seconds=0.0)
    ended = wait_stopped(case.engine, given.attempt)
    assert case.engine.find(given.attempt, uid=started.uid) == ended
    case.engine.settle(given.attempt)
    case.engine.forget(given.attempt)
    wait_for(lambda: case.engine.attempts() == [], "it to be gone")
    wait_for(lambda: case.engine.find(given.attempt, uid=started.uid).gone, "the proof of it")
    seen = case.engine.find(given.attempt, uid=started.uid)
    assert (seen.attempt, seen.phase, seen.stopped, seen.gone) == (given.attempt, Phase.FAILED, True, True)


def test_another_replica_tells_what_became_of_an_attempt(running_case: EngineCase) -> None:
    another = running_case.another("test")
    given = running_case.until_stopped()
    started = running_case.engine.start(given)
    wait_for(lambda: is_running(running_case.engine, given.attempt), "the attempt to run")
    assert another.find(given.attempt, uid=started.uid).phase is Phase.RUNNING


@contextmanager
def watched(engine: Engine) -> Iterator[list[Observation]]:
    """What a watch has reported so far; it returns when it is told to, at the end."""
    reported: list[Observation] = []
    stop = threading.Event()
    watch = threading.Thread(target=engine.watch, args=(reported.append, stop), name="watch")
    watch.start()
    try:
        yield reported
    finally:
        stop.set()
        watch.join(20)
    assert not watch.is_alive()


def test_a_watch_reports_the_end_and_returns_when_told(running_case: EngineCase) -> None:
    with watched(running_case.engine) as reported:
        given = running_case.succeeding()
        running_case.engine.start(given)
        wait_for(
            lambda: any(s.attempt == given.attempt and s.stopped for s in reported),
            "the watch to report the end",
        )


def test_a_watch_reports_each_change_of_an_attempt(running_case: EngineCase) -> None:
    """What it has reported of an attempt before keeps nothing back: it is seen to run, and then to end."""
    with watched(running_case.engine) as reported:
        given = running_case.until_stopped()
        running_case.engine.start(given)
        wait_for(
            lambda: any(s.attempt == given.attempt and s.phase is Phase.RUNNING for s in reported),
            "the watch to report that it runs",
        )
        running_case.engine.stop(given.attempt, grace_seconds=1.0)
        wait_for(
            lambda: any(s.attempt == given.attempt and s.stopped for s in reported),
            "the watch to report the end",
        )


def test_output_of_both_streams_is_kept(running_case: EngineCase) -> None:
    given = running_case.printing("ä line")
    running_case.engine.start(given)
    assert b"".join(running_case.engine.logs(given.attempt, follow=True)).decode() == "ä line\nä line\n"
    assert b"".join(running_case.engine.logs(given.attempt, follow=False)).decode() == "ä line\nä line\n"


def test_the_last_lines_alone(running_case: EngineCase) -> None:
    """Each engine that keeps output can tell them."""
    given = running_case.printing("line")
    running_case.engine.start(given)
    wait_stopped(running_case.engine, given.attempt)
    for lines in (0, 1, 2, 3):
        told = b"".join(running_case.engine.logs(given.attempt, follow=False, options=LogOptions(tail=lines)))
        assert told.decode() == "line\n" * min(lines, 2)


def test_a_part_that_an_engine_does_not_have_is_refused(running_case: EngineCase) -> None:
    """And the option is not passed over, as if all were what was asked for."""
    given = running_case.until_stopped()
    running_case.engine.start(given)
    with pytest.raises(LogsRefused, match="container"):
        running_case.engine.logs(given.attempt, follow=False, options=LogOptions(container="nosuch"))


def test_logs_of_an_unknown_attempt_are_refused(case: EngineCase) -> None:
    with pytest.raises(AttemptUnknown):
        case.engine.logs(AttemptId("unknown", 1), follow=False)


def test_an_attempt_is_given_its_fencing_token(running_case: EngineCase) -> None:
    given = running_case.printing_environment()
    running_case.engine.start(given)
    lines = b"".join(running_case.engine.logs(given.attempt, follow=True)).decode().splitlines()
    assert {f"TALLY_TASK_ID={given.attempt.task_id}", "TALLY_ATTEMPT=1", "TALLY_TERM=7"} <= set(lines)


def test_another_replica_adopts_what_runs(running_case: EngineCase) -> None:
    """The first replica's engine is closed, which leaves its attempts running; the next one sees and stops
    them.
    """
    another = running_case.another("test")
    given = running_case.until_stopped()
    started = running_case.engine.start(given)
    running_case.engine.close()
    assert another.start(given).uid == started.uid
    another.stop(given.attempt, grace_seconds=30.0)
    assert wait_stopped(another, given.attempt).reason == "Stopped"


def test_another_cluster_is_not_touched(running_case: EngineCase) -> None:
    another = running_case.another("other")
    given = running_case.until_stopped()
    running_case.engine.start(given)
    assert another.attempts() == []
    another.stop(given.attempt, grace_seconds=0.0)
    seen = observation(running_case.engine, given.attempt)
    assert seen is not None
    assert not seen.stopped


OURS, THEIRS = Installation(id="aaaa"), Installation(id="bbbb")


def test_every_replica_is_told_the_same_identity(running_case: EngineCase) -> None:
    """Whatever cluster it is for, a replica on the same machine, daemon or API server has the same engine."""
    identity = running_case.engine.identity()
    assert identity.name == running_case.engine.name
    assert identity.id or any(identity.parts.values())
    assert running_case.another("test").identity() == identity == running_case.engine.identity()


def test_another_installation_of_the_same_cluster_name_is_not_touched(running_case: EngineCase) -> None:
    """It is neither listed nor stopped nor forgotten nor adopted; that it is there is said (fault 42)."""
    theirs = running_case.another("test")
    running_case.engine.bind(OURS, claim=True)
    theirs.bind(THEIRS, claim=True)
    given = replace(running_case.until_stopped(), installation=OURS.id)
    started = running_case.engine.start(given)
    assert theirs.attempts() == []
    assert {mark: list(names) for mark, names in theirs.others().items()} == {OURS.id: [str(given.attempt)]}
    with suppress(EngineUnavailable):  # where the name is taken, and cannot be kept from a late start
        theirs.stop(given.attempt, grace_seconds=0.0)
    theirs.settle(given.attempt)
    theirs.forget(given.attempt)
    with suppress(AttemptRefused):
        seen = theirs.start(replace(given, installation=THEIRS.id))
        assert seen.uid != started.uid
    found = observation(running_case.engine, given.attempt)
    assert found is not None
    assert (found.uid, found.stopped) == (started.uid, False)
    theirs.attempts()
    running_case.engine.attempts()
    assert OURS.id not in running_case.engine.others()


def test_what_carries_no_installation_belongs_to_the_one_that_was_upgraded(running_case: EngineCase) -> None:
    """An installation that began with ids leaves it alone; one in which an older version led adopts it."""
    given = running_case.until_stopped()
    started = running_case.engine.start(given)
    began_with_ids, upgraded = running_case.another("test"), running_case.another("test")
    began_with_ids.bind(THEIRS, claim=True)
    assert began_with_ids.attempts() == []
    assert {mark: list(names) for mark, names in began_with_ids.others().items()} == {
        "": [str(given.attempt)]
    }
    upgraded.bind(Installation(id="cccc", adopts_unmarked=True), claim=True)
    assert [seen.uid for seen in upgraded.attempts()] == [started.uid]
    assert upgraded.start(replace(given, installation="cccc")).uid == started.uid
    upgraded.stop(given.attempt, grace_seconds=0.0, uid=started.uid)
    assert wait_stopped(upgraded, given.attempt).reason == "Stopped"
