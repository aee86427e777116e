"""The docker engine on a real daemon: faults 26 to 29 and 34, and what Docker alone can do to an attempt."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from typing import Any

import msgspec
import pytest

from controller.clock import SystemClock
from controller.core.model.task import AttemptId, Launch, Observation, Phase
from controller.engine.base import AttemptRefused, Counting, EngineUnavailable
from controller.engine.docker.container import (
    LABEL_CLUSTER,
    RUN,
    Config,
    Container,
    DockerState,
    name_of,
    observe,
)
from controller.engine.docker.engine import DockerEngine
from tests.engine.process_cases import observation, wait_for, wait_stopped
from tests.support.docker import IMAGE, PrivateDocker, docker_launch, root_filesystem, until_stopped
from tests.support.proxy import Proxy
from tests.support.registry import registry, serving

pytestmark = pytest.mark.xdist_group("docker")


@pytest.fixture
def replica(docker: PrivateDocker) -> Iterator[Callable[..., DockerEngine]]:
    """Makes engines on one daemon, as the replicas of one cluster have them; removes all containers after
    the test.
    """
    engines: list[DockerEngine] = []

    def make(url: str = docker.url) -> DockerEngine:
        engines.append(DockerEngine(url, "test", SystemClock()))
        return engines[-1]

    yield make
    for each in engines:
        each.close()
    docker.remove_all()


@pytest.fixture
def engine(replica: Callable[..., DockerEngine]) -> DockerEngine:
    return replica()


@pytest.fixture
def proxied(
    docker: PrivateDocker, replica: Callable[..., DockerEngine]
) -> Iterator[tuple[DockerEngine, Proxy]]:
    """An engine whose way to the daemon can be made bad."""
    with Proxy(docker.port) as proxy:
        engine = replica(f"tcp://127.0.0.1:{proxy.port}")
        engine.attempts()
        yield engine, proxy


def at_step(number: int, act: Callable[[], object]) -> Callable[[], None]:
    """A `confirm` that does something at its n-th call: the first is before the creation, the second
    before the start.
    """
    calls = itertools.count(1)

    def confirm() -> None:
        if next(calls) == number:
            act()

    return confirm


def starts(docker: PrivateDocker, launch: Launch) -> int:
    """How often the daemon has started a container of this name."""
    filters = {"type": "container", "event": "start", "container": name_of("test", launch.attempt)}
    with docker.api() as api:
        return sum(1 for _ in api.events(since=0, until=f"{time.time():.9f}", filters=filters))


def outcome(seen: Observation | None) -> tuple[object, ...]:
    assert seen is not None
    return seen.phase, seen.reason, seen.exit_code, seen.stopped, seen.ran


@contextmanager
def http_json(answers: dict[str, Any]) -> Iterator[int]:
    """A server that answers each path's end with its document; gives its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            body = msgspec.json.encode(next(value for end, value in answers.items() if path.endswith(end)))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with serving(Handler) as port:
        yield port


# -- fault 34: the daemon is restarted, a container is removed by hand
# --------------------------------------------------


@pytest.mark.parametrize("end", [PrivateDocker.terminate, PrivateDocker.kill], ids=["terminated", "killed"])
def test_what_a_daemon_ends_with_itself_is_no_success(
    docker: PrivateDocker, engine: DockerEngine, end: Callable[[PrivateDocker], None]
) -> None:
    """Not even for a command that would answer the daemon's SIGTERM with exit code 0; what had ended keeps
    its result.
    """
    done, running = docker_launch("true"), until_stopped(exit_code=0)
    engine.start(done)
    engine.start(running)
    before = wait_stopped(engine, done.attempt)
    end(docker)
    with pytest.raises(EngineUnavailable):
        engine.attempts()
    with pytest.raises(EngineUnavailable):
        engine.stop(running.attempt, grace_seconds=1.0)
    docker.start()
    assert outcome(wait_stopped(engine, running.attempt)) == (Phase.FAILED, "Killed", 137, True, True)
    assert observation(engine, done.attempt) == before


def test_what_ended_while_there_was_no_daemon_keeps_its_result(
    docker: PrivateDocker, engine: DockerEngine
) -> None:
    given = [
        docker_launch("sh", "-c", f"while [ ! -e /proc/1/root/go ]; do sleep 0.02; done; exit {code}")
        for code in (0, 3)
    ]
    for each in given:
        engine.start(each)
    pids = [each["State"]["Pid"] for each in docker.containers()]
    docker.kill()
    for pid in pids:
        open(f"/proc/{pid}/root/go", "w").close()
    wait_for(lambda: not any(_runs(pid) for pid in pids), "the commands' end")
    docker.start()
    assert [outcome(wait_stopped(engine, each.attempt))[:3] for each in given] == [
        (Phase.SUCCEEDED, "Completed", 0),
        (Phase.FAILED, "Error", 3),
    ]


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_result_that_the_daemon_lost_is_no_success() -> None:
    """After a crash some daemons say exit code 0 and never finished."""
    began = datetime(2026, 1, 1, tzinfo=UTC)
    state = DockerState(exit_code=0, started_at=began, finished_at=datetime(1, 1, 1, tzinfo=UTC))
    container = Container(id="c", created=began, state=state, config=Config(labels={"tally.dev/role": RUN}))
    seen = observe(container, AttemptId("a", 1), node="", stop_requested_at=None)
    assert outcome(seen) == (Phase.FAILED, "ResultLost", None, True, True)
    assert seen.disrupted


def test_a_container_removed_by_hand_is_no_longer_listed(docker: PrivateDocker, engine: DockerEngine) -> None:
    kept, removed = until_stopped(), until_stopped()
    engine.start(kept)
    uid = engine.start(removed).uid
    with docker.api() as api:
        api.remove_container(uid, force=True)
    assert [seen.attempt for seen in engine.attempts()] == [kept.attempt]
    assert engine.stop(removed.attempt, grace_seconds=1.0, uid=uid) is None


def test_another_daemon_is_another_engine(proxied: tuple[DockerEngine, Proxy], docker: PrivateDocker) -> None:
    """It knows of no attempt: whoever compares its identity around a list does not take all for gone."""
    engine, proxy = proxied
    engine.start(until_stopped())
    before = engine.identity()
    with docker.api() as api:
        answers = {
            "/version": api.version(),
            "/info": {**api.info(), "ID": "another"},
            "/containers/json": [],
        }
    with http_json(answers) as port:
        proxy.target = port
        proxy.disconnect()
        assert engine.identity().id == "another" != before.id


# -- faults 26 to 29
# ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2], ids=["creation", "start"])
def test_an_answer_that_is_lost_makes_no_second_container(
    proxied: tuple[DockerEngine, Proxy], docker: PrivateDocker, step: int
) -> None:
    engine, proxy = proxied
    given = until_stopped()
    with pytest.raises(EngineUnavailable):
        engine.start(given, at_step(step, proxy.reset_answers))
    assert proxy.swallowed.is_set()
    proxy.heal()
    assert engine.start(given).phase is Phase.RUNNING
    assert len(docker.containers()) == 1
    assert starts(docker, given) == 1


def test_a_creation_that_lands_after_the_stop_never_runs(
    docker: PrivateDocker, replica: Callable[..., DockerEngine]
) -> None:
    """The late leader finds the tombstone."""
    stale, leader = replica(), replica()
    given = docker_launch("true")
    seen = stale.start(given, at_step(1, lambda: leader.stop(given.attempt, grace_seconds=1.0)))
    assert outcome(seen) == (Phase.FAILED, "NeverStarted", None, True, False)
    assert leader.attempts() == [seen]
    assert starts(docker, given) == 0


def test_a_start_that_lands_after_the_stop_starts_nothing(
    docker: PrivateDocker, replica: Callable[..., DockerEngine]
) -> None:
    """What the late leader had created is gone by then, and the tombstone stands in its place."""
    stale, leader = replica(), replica()
    given = docker_launch("true")
    seen = stale.start(given, at_step(2, lambda: leader.stop(given.attempt, grace_seconds=1.0)))
    assert outcome(seen) == (Phase.FAILED, "NeverStarted", None, True, False)
    assert starts(docker, given) == 0


def test_a_start_that_lands_after_another_leaders_runs_nothing_again(
    docker: PrivateDocker, replica: Callable[..., DockerEngine]
) -> None:
    """Docker would start a container that has ended once more."""
    stale, leader = replica(), replica()
    given = docker_launch("true")
    ended: list[Observation] = []

    def lead() -> None:
        leader.start(given)
        ended.append(wait_stopped(leader, given.attempt))

    assert [stale.start(given, at_step(2, lead))] == ended
    assert starts(docker, given) == 1


def test_what_was_created_and_not_started_waits_for_the_next_leader(
    replica: Callable[..., DockerEngine],
) -> None:
    class Lost(Exception):
        pass

    def lose() -> None:
        raise Lost

    stale, leader = replica(), replica()
    given = docker_launch("true")
    with pytest.raises(Lost):
        stale.start(given, at_step(2, lose))
    seen = observation(leader, given.attempt)
    assert seen is not None
    assert (seen.phase, seen.awaits_start, seen.stopped) == (Phase.PENDING, True, False)
    leader.start(given)
    assert wait_stopped(leader, given.attempt).phase is Phase.SUCCEEDED


def test_a_container_of_our_name_that_is_not_ours_is_not_touched(
    docker: PrivateDocker, engine: DockerEngine
) -> None:
    given = docker_launch("true")
    with docker.api() as api:
        host = api.create_host_config(network_mode="none")
        theirs = api.create_container(
            IMAGE, ["sleep", "1000"], name=name_of("test", given.attempt), host_config=host
        )["Id"]
        api.start(theirs)
    with pytest.raises(AttemptRefused) as refused:
        engine.start(given)
    assert refused.value.reason == "NameTaken"
    with pytest.raises(EngineUnavailable, match="does not belong to this installation of Tally"):
        engine.stop(given.attempt, grace_seconds=0.0)
    engine.forget(given.attempt)
    assert engine.attempts() == []
    assert [(each["Id"], each["State"]["Running"]) for each in docker.containers()] == [(theirs, True)]


def test_containers_of_an_image_made_from_an_attempt_are_not_ours(
    docker: PrivateDocker, engine: DockerEngine
) -> None:
    """`docker commit` hands the labels on."""
    given = docker_launch("true")
    uid = engine.start(given).uid
    ended = wait_stopped(engine, given.attempt)
    with docker.api() as api:
        image = api.commit(uid)["Id"]
        theirs = api.create_container(image, ["true"], name="theirs")["Id"]
        assert api.inspect_container(theirs)["Config"]["Labels"][LABEL_CLUSTER] == "test"
    assert engine.attempts() == [ended]


# -- stopping
# ----------------------------------------------------------------------------------------------------------


def test_an_end_with_code_0_after_a_stop_is_no_success(engine: DockerEngine) -> None:
    given = until_stopped(exit_code=0)
    engine.start(given)
    next(engine.logs(given.attempt, follow=True))
    engine.stop(given.attempt, grace_seconds=30.0)
    assert outcome(wait_stopped(engine, given.attempt)) == (Phase.FAILED, "Stopped", 0, True, True)


def test_a_stop_that_comes_after_the_end_changes_nothing(docker: PrivateDocker, engine: DockerEngine) -> None:
    given = docker_launch("true")
    engine.start(given)
    ended = wait_stopped(engine, given.attempt)
    assert engine.stop(given.attempt, grace_seconds=1.0) == ended
    assert len(docker.containers()) == 1


def test_a_grace_that_outlives_its_leader_is_ended_by_the_next(replica: Callable[..., DockerEngine]) -> None:
    first, second = replica(), replica()
    given = docker_launch("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1000; done")
    first.start(given)
    next(first.logs(given.attempt, follow=True))
    first.stop(given.attempt, grace_seconds=1000.0)
    first.close()
    second.stop(given.attempt, grace_seconds=0.1)
    assert outcome(wait_stopped(second, given.attempt)) == (Phase.FAILED, "Stopped", 137, True, True)


def test_a_paused_attempt_is_stopped_too(docker: PrivateDocker, engine: DockerEngine) -> None:
    given = until_stopped()
    uid = engine.start(given).uid
    with docker.api() as api:
        api.pause(uid)
    seen = observation(engine, given.attempt)
    assert seen is not None
    assert (seen.phase, seen.stopped) == (Phase.RUNNING, False)
    engine.stop(given.attempt, grace_seconds=0.1)
    assert wait_stopped(engine, given.attempt).reason == "Stopped"


def test_nothing_is_left_of_a_forgotten_attempt(docker: PrivateDocker, engine: DockerEngine) -> None:
    """Neither of one that was stopped, nor of one that never was."""
    given = until_stopped()
    engine.start(given)
    engine.stop(given.attempt, grace_seconds=0.0)
    wait_stopped(engine, given.attempt)
    engine.stop(AttemptId("never", 1), grace_seconds=0.0)
    assert len(docker.containers()) == 3
    for attempt in (given.attempt, AttemptId("never", 1)):
        engine.forget(attempt)
    assert docker.containers() == []


# -- what is asked of Docker
# -------------------------------------------------------------------------------------------


def test_more_memory_than_asked_for_ends_the_attempt(engine: DockerEngine) -> None:
    given = docker_launch("sh", "-c", "cat /dev/zero | tail", memory="16Mi")
    engine.start(given)
    seen = wait_stopped(engine, given.attempt)
    assert (seen.phase, seen.exit_code, seen.reason in ("OOMKilled", "Killed")) == (Phase.FAILED, 137, True)
    assert "memory" in seen.message, "Docker does not always tell which it was, so both messages name it"


def test_a_launch_becomes_a_container(docker: PrivateDocker, engine: DockerEngine) -> None:
    given = docker_launch(
        "sh",
        "-c",
        "id -u; exit 0",
        options={"user": "1234", "pull": "never"},
        memory="32Mi",
        working_dir="/tmp",
    )
    engine.start(given)
    assert b"".join(engine.logs(given.attempt, follow=True)) == b"1234\n"
    [made] = docker.containers()
    assert made["HostConfig"]["Memory"] == 32 * 2**20
    assert made["HostConfig"]["NetworkMode"] == "none"
    assert made["HostConfig"]["RestartPolicy"]["Name"] == "no"
    assert made["Config"]["WorkingDir"] == "/tmp"
    assert made["Config"]["Labels"]["tally.dev/term"] == "7"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (docker_launch("true", options={"networks": "none"}), "engine_options.networks: is not an option"),
        (docker_launch("true", options={"pull": "always"}), "engine_options.pull: "),
        (docker_launch("true", image=""), "image: is missing"),
        (docker_launch("true", memory="1Mi"), "(?i)minimum memory limit"),
        (docker_launch("true", cpu="9m"), "resources.cpu: is 9m"),
        (docker_launch("true", pod_template={"spec": {}}), "pod_template: "),
    ],
    ids=["option", "value", "image", "memory", "cpu", "pod"],
)
def test_what_docker_cannot_do_is_refused_by_name(
    docker: PrivateDocker, engine: DockerEngine, given: Launch, words: str
) -> None:
    with pytest.raises(AttemptRefused, match=words) as refused:
        engine.start(given)
    assert refused.value.reason == "InvalidContainer"
    assert docker.containers() == []


def test_an_image_that_is_missing_is_pulled_if_that_is_allowed(engine: DockerEngine) -> None:
    with registry(root_filesystem()) as image:
        with pytest.raises(AttemptRefused, match="pull is never") as refused:
            engine.start(docker_launch("true", image=image, options={"pull": "never"}))
        assert refused.value.reason == "ImageMissing"
        given = docker_launch("true", image=image)
        wait_for(lambda: started(engine, given), "the image to be pulled")
        assert wait_stopped(engine, given.attempt).phase is Phase.SUCCEEDED


def test_a_pull_that_fails_refuses_the_attempt(engine: DockerEngine) -> None:
    with registry(b"") as image:
        given = docker_launch("true", image=image.replace(":1", ":absent"))
        with pytest.raises(AttemptRefused, match="cannot be pulled") as refused:
            wait_for(lambda: started(engine, given), "the pull to fail")
    assert refused.value.reason == "ErrImagePull"


def started(engine: DockerEngine, launch: Launch) -> bool:
    try:
        engine.start(launch)
    except EngineUnavailable:
        return False
    return True


# -- streams
# -----------------------------------------------------------------------------------------------------------


def test_logs_are_followed_until_the_end_or_until_told(docker: PrivateDocker, engine: DockerEngine) -> None:
    given = docker_launch("sh", "-c", "echo one; while [ ! -e /go ]; do sleep 0.02; done; echo two")
    engine.start(given)
    stop = threading.Event()
    told = engine.logs(given.attempt, follow=True, stop=stop)
    assert next(told) == b"one\n"
    stop.set()
    assert list(told) == []
    followed = engine.logs(given.attempt, follow=True)
    assert next(followed) == b"one\n"
    [container] = docker.containers()
    open(f"/proc/{container['State']['Pid']}/root/go", "w").close()
    assert list(followed) == [b"two\n"]


def test_a_watch_that_loses_its_daemon_says_so(proxied: tuple[DockerEngine, Proxy]) -> None:
    engine, proxy = proxied
    given = until_stopped()
    engine.start(given)
    seen: list[Observation] = []
    failed: list[EngineUnavailable] = []

    def watch() -> None:
        try:
            engine.watch(seen.append, threading.Event())
        except EngineUnavailable as error:
            failed.append(error)

    thread = threading.Thread(target=watch, name="watch")
    thread.start()
    wait_for(lambda: seen, "the watch to be open")
    proxy.refuse()
    thread.join(20)
    assert not thread.is_alive()
    assert failed
    assert [each.attempt for each in seen] == [given.attempt]


def test_failed_calls_are_counted_for_the_metrics(proxied: tuple[DockerEngine, Proxy]) -> None:
    engine, proxy = proxied
    counting: object = engine  # as the metrics have it
    assert isinstance(counting, Counting)
    assert dict(counting.faults) == {}
    proxy.refuse()
    with pytest.raises(EngineUnavailable):
        engine.attempts()
    assert dict(counting.faults) == {"connection": 1}
