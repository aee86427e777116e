"""Containers as Tally makes and reads them: the request that creates one, its mark, and what its state
proves. Pure.

What is proof of stop. The daemon's word that a container which was started does not run any more
(`State.Running` false, with its exit code) is proof, and so is its word that one could not be started. A
container that is gone is proof because the daemon removes none that runs, unless by force, which kills it
first; who removes one by hand gives an operator's word. Paused or restarting is running. Silence is no proof
of anything.

Success is told from what the daemon does at its own end. A daemon that shuts down, or comes back without
live-restore, stops its containers with their stop signal; a command that answers SIGTERM with exit code 0
would look as if it had finished (seen with 20.10). So the stop signal of our containers is SIGKILL: what the
daemon, or `docker stop`, ends is 137, never 0. Tally itself sends the image's own stop signal, by name, and
leaves a mark before it does (`STOP`): the end of a container that ended by itself before the mark was made is
its own, any later one is Stopped, whatever the exit code.

What cannot be told: exit code 137 of a command's own from a kill by another hand (both are Killed), and 255
of its own from what the daemon writes after a crash of the whole machine (both are Error). Neither is ever
success.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from controller.core.model.installation import Installation
from controller.core.model.task import AttemptId, Launch, Observation, Phase
from controller.errors import InvalidField

LABEL_CLUSTER = "tally.dev/cluster"
LABEL_INSTALLATION = "tally.dev/installation"
LABEL_TASK = "tally.dev/task"
LABEL_ATTEMPT = "tally.dev/attempt"
LABEL_TERM = "tally.dev/term"
LABEL_ROLE = "tally.dev/role"
RUN, STOP, TOMBSTONE = "run", "stop", "tombstone"
"""Roles: the attempt itself; the mark that it was asked to stop; what stands for an attempt that must
never start.
"""

EMPTY_IMAGE = "tally-nothing:1"
"""Of marks and tombstones: it holds no file, so that not even `docker start` by hand makes one run."""

DAEMON_STOP_SIGNAL = "SIGKILL"  # see the module's docstring

# exit codes of a container that was never started
_START_FAILURES = {126: "PermissionDenied", 127: "CommandNotFound"}


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pool's `engine_options` for the docker engine; what is not given is as `docker run` has it."""

    pull: Literal["missing", "never"] = "missing"
    network: str = ""
    user: str = ""
    # a small init as process 1, which reaps zombies and gives signals their default action
    init: bool | None = None


class DockerState(Struct, frozen=True, rename="pascal"):
    """State of an inspected container."""

    running: bool = False
    oom_killed: bool = field(default=False, name="OOMKilled")
    exit_code: int = 0
    error: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None


class Config(Struct, frozen=True, rename="pascal"):
    """Config of an inspected container."""

    hostname: str = ""
    labels: dict[str, str] | None = None


class Container(Struct, frozen=True, rename="pascal"):
    """The fields of an inspected container that Tally uses."""

    id: str
    created: datetime
    image: str = ""
    state: DockerState = DockerState()
    config: Config = Config()

    @property
    def role(self) -> str:
        """What it is for, of those that are ours."""
        return (self.config.labels or {}).get(LABEL_ROLE, "")

    @property
    def was_started(self) -> bool:
        """Whether its command ran, or runs."""
        return _seconds(self.state.started_at) is not None

    @property
    def awaits_start(self) -> bool:
        """Whether it was created, and nothing has happened to it since."""
        return self.role == RUN and not self.was_started and not self.state.error and not self.state.exit_code


# At import: msgspec prepares a type when it is first used, and crashes if two threads do that at once.
msgspec.json.Decoder(Container)
msgspec.json.Decoder(Options)


def decode(document: object) -> Container:
    """What the daemon answers to an inspection. Raises msgspec.ValidationError."""
    return msgspec.convert(document, Container)


def name_of(cluster: str, attempt: AttemptId, role: str = RUN) -> str:
    """The container's name.

    Neither a cluster's nor a task's name holds a dot, so that no two attempts share one.
    """
    return f"tally.{cluster}.{attempt}" + (".stop" if role == STOP else "")


def attempt_of(container: Container, cluster: str, ours: Installation | None = None) -> AttemptId | None:
    """Which attempt of the cluster, and of this installation of it (None: of any), it is; None when it is not
    ours.

    Labels alone do not make it ours: an image that was committed from a container hands them on. The hostname
    it does not.
    """
    labels = container.config.labels or {}
    if labels.get(LABEL_CLUSTER) != cluster:
        return None
    if ours is not None and not ours.owns(labels.get(LABEL_INSTALLATION, "")):
        return None
    try:
        attempt = AttemptId.parse(container.config.hostname)
    except ValueError:
        return None
    return (
        attempt
        if (labels.get(LABEL_TASK), labels.get(LABEL_ATTEMPT)) == (attempt.task_id, str(attempt.number))
        else None
    )


def not_ours(found: Container, name: str) -> str:
    """Why a container that has our attempt's name is left alone."""
    other = (found.config.labels or {}).get(LABEL_INSTALLATION)
    whose = (
        f"is of another installation of Tally, {other}"
        if other
        else "is not Tally's, or not this installation's"
    )
    return (
        f"there is a container {name} that {whose} ({found.id[:12]}): it is left alone; remove it, if nobody"
        " needs it"
    )


def divide(
    summaries: Iterable[dict[str, Any]], ours: Installation | None
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Of a list of containers, those of this installation (None: of any), and the marks and names of
    others' attempts.
    """
    own: list[dict[str, Any]] = []
    others = []
    for summary in summaries:
        labels = summary["Labels"]
        mark = labels.get(LABEL_INSTALLATION, "")
        if ours is None or ours.owns(mark):
            own.append(summary)
        elif labels.get(LABEL_ROLE) == RUN:
            others.append((mark, f"{labels.get(LABEL_TASK)}-{labels.get(LABEL_ATTEMPT)}"))
    return own, others


def parse_options(raw: dict[str, Any]) -> Options:
    """A pool's `engine_options`. Raises InvalidField that names the option."""
    for name in raw:
        if name not in Options.__struct_fields__:
            known = ", ".join(Options.__struct_fields__)
            raise InvalidField(
                f"engine_options.{name}", f"is not an option of the docker engine; known are {known}"
            )
    try:
        return msgspec.convert(raw, Options)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        raise InvalidField(f"engine_options{path.rstrip('`')}", problem) from error


def creation(launch: Launch, options: Options) -> dict[str, Any]:
    """The body of the request that creates the attempt's container.

    Raises InvalidField for what Docker has no place for.
    """
    spec = launch.spec
    if not spec.image:
        raise InvalidField("image", "is missing: the docker engine runs images")
    for name in ("pod_template", "main_container"):
        if getattr(spec, name):
            raise InvalidField(name, "means something to the kubernetes engine alone")
    memory = spec.resources.get("memory")
    own = {name: value for name, value in spec.labels.items() if not name.startswith("tally.dev/")}
    return {
        **_marked(
            launch.cluster, launch.installation, launch.attempt, RUN, own | {LABEL_TERM: str(launch.term)}
        ),
        "Image": spec.image,
        "Entrypoint": list(spec.command) or None,
        "Cmd": list(spec.args) or None,
        "Env": [f"{name}={value}" for name, value in launch.environment.items()],
        "WorkingDir": spec.working_dir,
        "User": options.user,
        "StopSignal": DAEMON_STOP_SIGNAL,
        "HostConfig": {
            "Memory": memory,
            "MemorySwap": memory,  # no swap beside it: the limit is the limit
            "NanoCpus": spec.resources.get("cpu") * 1_000_000,  # from thousandths
            "NetworkMode": options.network,
            "Init": options.init,
            "RestartPolicy": {"Name": "no"},
        },
    }


def placeholder(cluster: str, installation: str, attempt: AttemptId, role: str) -> dict[str, Any]:
    """The body of the request that creates a mark or a tombstone: a container that nobody starts."""
    body = _marked(cluster, installation, attempt, role, {})
    return {**body, "Image": EMPTY_IMAGE, "Entrypoint": ["/never"], "NetworkDisabled": True}


def observe(
    container: Container, attempt: AttemptId, *, node: str, stop_requested_at: datetime | None
) -> Observation:
    """What the container says of its attempt.

    `stop_requested_at`: when its mark was made, by the daemon's clock.
    """
    state = container.state
    started_at = _seconds(state.started_at)
    seen = Observation(
        attempt=attempt, phase=Phase.PENDING, uid=container.id, node=node, started_at=started_at
    )
    if container.role == TOMBSTONE:
        message = "a stop was requested before the attempt had started"
        return _never_ran(seen, "NeverStarted", message, container.created)
    if container.awaits_start:
        # it may be replaced by another container before it starts
        return replace(seen, uid="", awaits_start=True)
    if not container.was_started:
        reason = _START_FAILURES.get(state.exit_code, "StartError")
        return _never_ran(
            seen,
            reason,
            state.error or f"the daemon could not start it: {state.exit_code}",
            container.created,
        )
    if state.running:
        return replace(seen, phase=Phase.RUNNING)
    return _ended(seen, state, stop_requested_at)


def _ended(seen: Observation, state: DockerState, stop_requested_at: datetime | None) -> Observation:
    finished_at = _seconds(state.finished_at)
    seen = replace(seen, phase=Phase.FAILED, stopped=True, finished_at=finished_at)
    if finished_at is None:
        # Seen of daemons that found neither the container nor its result after a crash; they then say exit
        # code 0.
        message = "the daemon lost its result, when it or the machine was restarted"
        return replace(seen, reason="ResultLost", message=message, disrupted=True)
    if seen.started_at is not None:
        # The daemon notes a start once it has heard of it: a command of a millisecond ended before that.
        seen = replace(seen, started_at=min(seen.started_at, finished_at))
    code = state.exit_code
    signal = code - 128 if 128 < code <= 128 + 64 else None  # as shells and container runtimes say it
    how = f"was killed by signal {signal}" if signal else f"exited with code {code}"
    seen = replace(
        seen, exit_code=code, signal=signal, message=f"{how}: {state.error}" if state.error else how
    )
    if stop_requested_at is not None and finished_at >= stop_requested_at.timestamp():
        return replace(seen, reason="Stopped")
    if code == 0:
        return replace(seen, phase=Phase.SUCCEEDED, reason="Completed", message="")
    if state.oom_killed:
        return replace(seen, reason="OOMKilled", message="used more memory than it asked for")
    if signal == 9:
        # Docker hears of the kernel's kill beside the exit, and not always before it (moby/moby#18510).
        who = (
            "by another hand: docker kill or stop, the daemon's shutdown, a machine without memory, or its"
            " own memory limit"
        )
        return replace(seen, reason="Killed", message=f"{seen.message}, {who}")
    return replace(seen, reason="Error")


def _never_ran(seen: Observation, reason: str, message: str, at: datetime) -> Observation:
    return replace(
        seen,
        phase=Phase.FAILED,
        stopped=True,
        ran=False,
        reason=reason,
        message=message,
        finished_at=_seconds(at),
    )


def _marked(
    cluster: str, installation: str, attempt: AttemptId, role: str, labels: dict[str, str]
) -> dict[str, Any]:
    """What makes a container ours; see `attempt_of`."""
    own = {
        LABEL_CLUSTER: cluster,
        LABEL_TASK: attempt.task_id,
        LABEL_ATTEMPT: str(attempt.number),
        LABEL_ROLE: role,
    }
    own |= {LABEL_INSTALLATION: installation} if installation else {}
    return {"Hostname": str(attempt), "Labels": {**labels, **own}}


def _seconds(when: datetime | None) -> float | None:
    """Since the epoch; the daemon's word for "never" is the year 1."""
    return None if when is None or when.year == 1 else when.timestamp()
