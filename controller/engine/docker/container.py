"""Containers of attempts: how they are created, and what their state proves. Pure functions.

Proof of stop: the daemon reports that a started container no longer runs (`State.Running` is false, with an
exit code), or that a container could not be started. A container that is gone is proof, too: the daemon does
not remove a running container, except by force, which kills it first. A person who removes one by hand
vouches for its end. A paused or restarting container counts as running. Silence proves nothing.

Success must differ from the daemon's own stops. A daemon that shuts down, or restarts without live-restore,
stops its containers with their stop signal, and a command that handles SIGTERM by exit code 0 would look as
if it had succeeded (seen with 20.10). The stop signal of our containers is therefore SIGKILL: a container
that the daemon or `docker stop` ends has exit code 137, never 0. Tally itself sends the image's stop signal
by name, and makes a mark before (`STOP`). A container that ended before its mark ended by itself; any later
end is Stopped, whatever the exit code.

Two cases look alike: a command's own exit code 137 and a kill from outside (both are Killed), and a command's
own 255 and what the daemon records after a crash of the machine (both are Error). None of them is a success.
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
_LEAST_CPU = 10  # milli-cpu: a quota of 1 ms in a period of 100 ms
"""Roles: the attempt itself, the mark of a requested stop, and the tombstone of what must not start."""

EMPTY_IMAGE = "tally-nothing:1"
"""The image of marks and tombstones. It has no files, so even a `docker start` by hand runs nothing."""

DAEMON_STOP_SIGNAL = "SIGKILL"  # see the module's docstring

# exit codes of a container that could not be started
_START_FAILURES = {126: "PermissionDenied", 127: "CommandNotFound"}


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pool's `engine_options` for the docker engine; the defaults are those of `docker run`."""

    pull: Literal["missing", "never"] = "missing"
    network: str = ""
    user: str = ""
    # run a small init as process 1, which reaps zombies and gives signals their default action
    init: bool | None = None


class DockerState(Struct, frozen=True, rename="pascal"):
    """`State` of an inspected container."""

    running: bool = False
    oom_killed: bool = field(default=False, name="OOMKilled")
    exit_code: int = 0
    error: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None


class Config(Struct, frozen=True, rename="pascal"):
    """`Config` of an inspected container."""

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
        """Its role (see `RUN`), if it is ours; else ""."""
        return (self.config.labels or {}).get(LABEL_ROLE, "")

    @property
    def was_started(self) -> bool:
        """Whether its command was started."""
        return _seconds(self.state.started_at) is not None

    @property
    def awaits_start(self) -> bool:
        """Whether it was created for an attempt, and not started yet."""
        return self.role == RUN and not self.was_started and not self.state.error and not self.state.exit_code


# Done at import: msgspec prepares a type on first use, and crashes if two threads do that at once.
msgspec.json.Decoder(Container)
msgspec.json.Decoder(Options)


def decode(document: object) -> Container:
    """Decode the daemon's answer to an inspection. Raises msgspec.ValidationError."""
    return msgspec.convert(document, Container)


def name_of(cluster: str, attempt: AttemptId, role: str = RUN) -> str:
    """The container's name. It is unique, since the names of clusters and tasks have no dots."""
    return f"tally.{cluster}.{attempt}" + (".stop" if role == STOP else "")


def attempt_of(container: Container, cluster: str, ours: Installation | None = None) -> AttemptId | None:
    """The attempt of the cluster and installation (None: any) whose container it is; None if it is not ours.

    Labels alone do not prove that: an image that was committed from a container passes them on. It does not
    pass on the hostname.
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
    """A message on why a container with our attempt's name is left alone."""
    other = (found.config.labels or {}).get(LABEL_INSTALLATION)
    whose = (
        f"belongs to another installation of Tally, {other}"
        if other
        else "does not belong to this installation of Tally"
    )
    return (
        f"there is a container {name} that {whose} ({found.id[:12]}): it is left alone; remove it if it is"
        " not needed"
    )


def divide(
    summaries: Iterable[dict[str, Any]], ours: Installation | None
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Divide a list of containers into those of this installation (None: any), and others' attempts.

    The others are pairs of an installation's id and an attempt's name.
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
    """Parse a pool's `engine_options`. Raises InvalidField that names the option."""
    for name in raw:
        if name not in Options.__struct_fields__:
            known = ", ".join(Options.__struct_fields__)
            raise InvalidField(
                f"engine_options.{name}", f"is not an option of the docker engine; its options are {known}"
            )
    try:
        return msgspec.convert(raw, Options)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        raise InvalidField(f"engine_options{path.rstrip('`')}", problem) from error


def creation(launch: Launch, options: Options) -> dict[str, Any]:
    """The body of the request that creates the attempt's container.

    Raises InvalidField for fields that Docker does not support.
    """
    spec = launch.spec
    if not spec.image:
        raise InvalidField("image", "is missing: the docker engine runs images")
    for name in ("pod_template", "main_container"):
        if getattr(spec, name):
            raise InvalidField(name, "is only for the kubernetes engine: leave it out")
    memory, cpu = spec.resources.get("memory"), spec.resources.get("cpu")
    if 0 < cpu < _LEAST_CPU:
        raise InvalidField("resources.cpu", f"is {cpu}m: Linux limits a container to 10m or more")
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
            "MemorySwap": memory,  # the sum of memory and swap, so no swap
            "NanoCpus": cpu * 1_000_000,  # from milli-cpu
            "NetworkMode": options.network,
            "Init": options.init,
            "RestartPolicy": {"Name": "no"},
        },
    }


def placeholder(cluster: str, installation: str, attempt: AttemptId, role: str) -> dict[str, Any]:
    """The body of the request that creates a mark or a tombstone, a container that is never started."""
    body = _marked(cluster, installation, attempt, role, {})
    return {**body, "Image": EMPTY_IMAGE, "Entrypoint": ["/never"], "NetworkDisabled": True}


def observe(
    container: Container, attempt: AttemptId, *, node: str, stop_requested_at: datetime | None
) -> Observation:
    """The observation of a container's attempt.

    `stop_requested_at` is the time of its mark, by the daemon's clock.
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
        # no uid yet: another container may replace it before it starts
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
        # After a crash, a daemon that found neither the container nor its result has reported exit code 0.
        message = "the daemon lost its result when the daemon or the machine was restarted"
        return replace(seen, reason="ResultLost", message=message, disrupted=True)
    if seen.started_at is not None:
        # The daemon may record the start of a very short command after its end.
        seen = replace(seen, started_at=min(seen.started_at, finished_at))
    code = state.exit_code
    signal = code - 128 if 128 < code <= 128 + 64 else None  # the convention of shells and runtimes
    how = f"was killed by signal {signal}" if signal else f"exited with code {code}"
    seen = replace(
        seen, exit_code=code, signal=signal, message=f"{how}: {state.error}" if state.error else how
    )
    if stop_requested_at is not None and finished_at >= stop_requested_at.timestamp():
        return replace(seen, reason="Stopped")
    if code == 0:
        return replace(seen, phase=Phase.SUCCEEDED, reason="Completed", message="")
    if state.oom_killed:
        return replace(seen, reason="OOMKilled", message="used more memory than it requested")
    if signal == 9:
        # Docker learns of a kill for lack of memory apart from the exit, and sometimes later (moby#18510).
        who = (
            "but not by Tally: perhaps by docker kill or stop, a shutdown of the daemon, a machine out of"
            " memory, or its own memory limit"
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
    """The hostname and labels by which a container is ours; see `attempt_of`."""
    own = {
        LABEL_CLUSTER: cluster,
        LABEL_TASK: attempt.task_id,
        LABEL_ATTEMPT: str(attempt.number),
        LABEL_ROLE: role,
    }
    own |= {LABEL_INSTALLATION: installation} if installation else {}
    return {"Hostname": str(attempt), "Labels": {**labels, **own}}


def _seconds(when: datetime | None) -> float | None:
    """Seconds since the epoch; None for "never", which the daemon writes as the year 1."""
    return None if when is None or when.year == 1 else when.timestamp()
