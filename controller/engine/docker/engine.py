"""The Docker engine: each attempt is a container of one Docker daemon, whose state is authoritative.

All replicas must use the same daemon (DOCKER_HOST): in another one, all attempts would seem gone. The
daemon's id is the engine's identity, and containers carry the installation's id as a label. Needs Docker
20.10 or later.

How the name fences: the container `tally.<cluster>.<task-id>-<n>` is created once. A start that finds it
adopts it if it is ours, and is refused if it is not (fault 29). Docker's `start` would run a finished
container again, so a container is started at most once: by the call that created it, after `confirm`, with
one request that is never repeated. A container that was created and not started (its creator crashed, lost
the answer, or is late) is never started by another call. It is removed, unless it runs, and created
again, so that a late start of the old one finds nothing. The attempt could run twice only if the creator
started the old one after we looked, and it ended before our removal: one after the other, never two at once.

A stop that finds no container leaves a tombstone, a container without files that is never started, so that a
late creation finds the name taken (fault 28). The refusal of a repeated start does the same, since the first
start may still be under way. A stop of a running container makes a mark (a second container, `<name>.stop`,
never started) and sends the image's stop signal; SIGKILL follows after the grace. Finished containers, marks
and tombstones stay until `forget`. `container` explains what a container's state proves. `docker container
prune` removes what must be kept: run it with `--filter label!=tally.dev/cluster`.

The spec: `image` is required. `command` and `args` replace the image's entrypoint and command, as on
Kubernetes. `memory` (without swap) and `cpu` are limits; other resources are only counted. A pool's
`engine_options` are `pull` (missing or never), `network`, `user` and `init`; for network and user, Docker's
defaults apply.

Cost, as measured with 20.10 on two shared cores: 0.3 s for a start, and 4 a second with eight under way; 5 ms
of the first list for each attempt that has ended (so a take-over of 1,000 kept ones takes 5 s), 0.2 ms of
each later one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import urllib3

from controller.clock import Clock
from controller.core.model.installation import EngineIdentity
from controller.core.model.scalars import parse_name
from controller.core.model.task import AttemptId, Launch, Observation, Phase
from controller.engine.base import (
    ALL_LOGS,
    AttemptRefused,
    AttemptUnknown,
    EngineUnavailable,
    LogOptions,
    gone,
)
from controller.engine.docker.claims import Claims
from controller.engine.docker.container import (
    LABEL_ATTEMPT,
    LABEL_CLUSTER,
    LABEL_ROLE,
    LABEL_TASK,
    STOP,
    TOMBSTONE,
    Container,
    name_of,
)
from controller.engine.docker.containers import Containers
from controller.engine.docker.daemon import DockerDaemon, ImagePulls, closed_when
from controller.engine.docker.delayed_kills import DelayedKills
from controller.engine.ownership import Owning

_LOCKS = 64
_EVENTS = ["start", "die", "oom", "pause", "unpause", "kill"]
_AWAIT_START_SECONDS = 0.2


class DockerEngine(Owning):
    """See the module's docstring.

    Safe to use from several threads and by several replicas. `faults` counts failed calls.
    """

    name = "docker"

    def __init__(self, base_url: str | None, cluster: str, clock: Clock) -> None:
        """`base_url` has the form of DOCKER_HOST; None: the environment's. Connects on first use.

        Raises InvalidField.
        """
        super().__init__()
        self._cluster = parse_name(cluster, "cluster", "a cluster's name")
        self._clock = clock
        self._daemon = DockerDaemon(base_url)
        self.faults = self._daemon.faults
        self._pulls = ImagePulls(self._daemon)
        self._containers = Containers(self._daemon, self._cluster, self)
        self._claims = Claims(self._daemon, self._containers, self._pulls, self._cluster, self)
        self._kills = DelayedKills(
            lambda container_id: self._daemon.signal(container_id, "SIGKILL"),
            clock,
            f"docker-kills-{cluster}",
        )
        # A start and a stop of one attempt exclude each other, or they would replace each other's containers.
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        # by id and state: observations of the last list that stay valid while the state is the same
        self._listed: dict[tuple[str, str], Observation] = {}

    def identity(self) -> EngineIdentity:
        """See Engine. It is the daemon's id, which the daemon keeps in its data folder."""
        with self._daemon.translated():
            info = self._daemon.api.info()
        return EngineIdentity(name=self.name, id=str(info["ID"]), details={"host": str(info["Name"])})

    def waited_seconds(self) -> float:
        """See Counting. Always 0: this engine has no rate limit."""
        return 0.0

    def start(self, launch: Launch, confirm: Callable[[], None] | None = None) -> Observation:
        """See Engine.

        The reasons of AttemptRefused are NameTaken, ImageMissing, ErrImagePull and InvalidContainer (invalid
        options, or a refusal by Docker).
        """
        with self._lock_of(launch.attempt), self._daemon.translated():
            try:
                return self._claims.create_and_start(launch, confirm)
            except AttemptRefused as refusal:
                if not launch.repeated or refusal.reason == "NameTaken":
                    raise
                # An earlier start may still be under way. Only a taken name makes sure that nothing starts.
                found = self._claims.take_name(launch.attempt)
                if found.role == TOMBSTONE:
                    raise
                return self._containers.observe(found, launch.attempt)

    def stop(self, attempt: AttemptId, *, grace_seconds: float, uid: str = "") -> Observation | None:
        """See Engine. Returns None if `uid` is not the attempt's."""
        with self._lock_of(attempt), self._daemon.translated():
            found = self._containers.inspect(uid) if uid else None
            if uid and (found is None or found.id != uid or self._containers.attempt_of(found) != attempt):
                return None
            if found is None or found.awaits_start:
                found = self._claims.take_name(attempt)
            if found.state.running:
                self._end(found, attempt, grace_seconds)
                found = self._containers.inspect(found.id) or found
            return self._containers.observe(found, attempt)

    def find(
        self,
        attempt: AttemptId,
        *,
        uid: str = "",
        grace_seconds: float = 0.0,  # noqa: ARG002  # it sees what still runs
    ) -> Observation:
        """See Engine.

        A container that is gone has stopped, since the daemon does not remove a running one.
        """
        with self._daemon.translated():
            for name in filter(None, (uid, name_of(self._cluster, attempt))):
                found = self._containers.inspect(name)
                if found is not None and self._containers.attempt_of(found) == attempt:
                    return self._containers.observe(found, attempt)
        return gone(attempt, uid)

    def settle(self, attempt: AttemptId, *, uid: str = "") -> None:  # its name is enough
        """See Engine. Does nothing: a container is kept until `forget`."""

    def forget(self, attempt: AttemptId, *, uid: str = "") -> None:  # noqa: ARG002  # it looks
        """See Engine."""
        with self._lock_of(attempt), self._daemon.translated():
            found = self._containers.inspect(name_of(self._cluster, attempt))
            if found is not None and (
                self._containers.attempt_of(found) != attempt
                or not self._containers.observe(found, attempt).stopped
            ):
                return
            # The mark goes first: after a crash in between, the container is still listed, and forgotten
            # later.
            mark = self._containers.mark_of(attempt)
            for each in (mark, found):
                if each is not None:
                    self._daemon.discard(each.id)

    def attempts(self) -> list[Observation]:
        """See Engine. A running or ended container is inspected once."""
        with self._daemon.translated():
            listed: dict[tuple[str, str], Observation] = {}
            observations = []
            found = self._daemon.api.containers(
                all=True, filters={"label": f"{LABEL_CLUSTER}={self._cluster}"}
            )
            summaries = self._containers.ours_among(found)
            marks = [each for each in summaries if each["Labels"].get(LABEL_ROLE) == STOP]
            marked = {(each["Labels"].get(LABEL_TASK), each["Labels"].get(LABEL_ATTEMPT)) for each in marks}
            for summary in summaries:
                labels = summary["Labels"]
                if labels.get(LABEL_ROLE) == STOP:
                    continue
                # It ended before a mark was seen, so a mark that is made from now on does not concern its
                # end.
                unmarked = (
                    summary["State"] == "exited"
                    and (labels.get(LABEL_TASK), labels.get(LABEL_ATTEMPT)) not in marked
                )
                key = (summary["Id"], summary["State"])
                seen = self._listed.get(key) or self._containers.look_at_one(summary, unmarked=unmarked)
                if seen is None:
                    continue  # not ours, or removed meanwhile
                if seen.stopped or seen.phase is Phase.RUNNING:
                    listed[key] = seen
                observations.append(seen)
            self._listed = listed
            return observations

    def watch(self, sink: Callable[[Observation], None], stop: threading.Event) -> None:
        """See Engine. Removals are not reported; `attempts` shows them."""
        reported: dict[str, Observation] = {}

        def report(seen: Observation) -> None:
            if reported.get(seen.uid) != seen:
                reported[seen.uid] = seen
                sink(seen)

        filters = {"type": "container", "event": _EVENTS, "label": f"{LABEL_CLUSTER}={self._cluster}"}
        while not stop.is_set():
            with self._daemon.translated():
                events = self._daemon.api.events(decode=True, filters=filters)
                with closed_when(stop, events):
                    listed = self.attempts()  # for changes from before the stream was open
                    present = {seen.uid for seen in listed}
                    reported = {uid: seen for uid, seen in reported.items() if uid in present}
                    for seen in listed:
                        report(seen)
                    if self._follow(events, report) and not stop.is_set():
                        raise EngineUnavailable("the Docker daemon ended the stream of events")

    def logs(
        self,
        attempt: AttemptId,
        *,
        follow: bool,
        stop: threading.Event | None = None,
        options: LogOptions = ALL_LOGS,
    ) -> Iterator[bytes]:
        """See Engine. Supports the options `tail` and `since_seconds`."""
        options.check(self.name, "tail", "since_seconds")
        with self._daemon.translated():
            found = self._containers.inspect(name_of(self._cluster, attempt))
        if found is None or self._containers.attempt_of(found) != attempt:
            raise AttemptUnknown(f"the docker engine has no attempt {attempt}")
        return self._read_log(name_of(self._cluster, attempt), follow, stop or threading.Event(), options)

    def close(self) -> None:
        """See Engine."""
        self._kills.close()
        self._pulls.close()
        self._daemon.close()

    def _lock_of(self, attempt: AttemptId) -> threading.Lock:
        return self._locks[hash(attempt) % _LOCKS]

    def _end(self, container: Container, attempt: AttemptId, grace_seconds: float) -> None:
        """Make the mark, send the stop signal, schedule the kill. Repeated, it can only shorten the grace."""
        self._claims.make_placeholder(attempt, STOP)
        if grace_seconds <= 0:
            self._daemon.signal(container.id, "SIGKILL")
        elif not self._kills.shorten(container.id, grace_seconds):
            self._daemon.signal(container.id, self._daemon.stop_signal(container.image))
            self._kills.add(container.id, grace_seconds)

    def _follow(self, events: Iterator[dict[str, Any]], report: Callable[[Observation], None]) -> bool:
        """Report the attempts of the events. Returns False after a long silence, to open the stream again."""
        try:
            for event in events:
                # the daemon's API names it in `Actor` since 1.22, and not in `id` any more since 1.52
                container = event.get("Actor", {}).get("ID") or event.get("id")
                seen = self._containers.look(container) if container else None
                if seen is not None:
                    report(seen)
        except urllib3.exceptions.ReadTimeoutError:
            return False
        return True

    def _read_log(
        self, name: str, follow: bool, stop: threading.Event, options: LogOptions
    ) -> Iterator[bytes]:
        with self._daemon.translated():
            while follow and (found := self._containers.inspect(name)) is not None and found.awaits_start:
                if stop.wait(_AWAIT_START_SECONDS):
                    return
            since = (
                None
                if options.since_seconds is None
                else max(1, int(self._clock.wall() - options.since_seconds))
            )
            tail = "all" if options.tail is None else options.tail
            stream = self._daemon.api.logs(name, stream=True, follow=follow, tail=tail, since=since)
            with closed_when(stop, stream):
                yield from stream
            found = self._containers.inspect(name)
            if follow and not stop.is_set() and found is not None and found.state.running:
                raise EngineUnavailable("the Docker daemon ended the stream of the output")
