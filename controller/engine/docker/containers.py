"""The containers of attempts, as the daemon shows them: whose each is, and what it says of its attempt."""

from __future__ import annotations

from typing import Any

from docker.errors import NotFound

from controller.core.model.task import AttemptId, Observation, Phase
from controller.engine.docker.container import (
    LABEL_ATTEMPT,
    LABEL_TASK,
    STOP,
    Container,
    attempt_of,
    decode,
    divide,
    name_of,
    observe,
)
from controller.engine.docker.daemon import NOT_UNDERSTOOD, DockerDaemon
from controller.engine.ownership import Owning


class Containers:
    """Those of one cluster's name; `owner` knows which of them are its installation's."""

    def __init__(self, daemon: DockerDaemon, cluster: str, owner: Owning) -> None:
        self._daemon = daemon
        self._cluster = cluster
        self._owner = owner

    def attempt_of(self, container: Container) -> AttemptId | None:
        """The attempt of this installation whose container it is, if it is one."""
        return attempt_of(container, self._cluster, self._owner.installation)

    def ours_among(self, summaries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those of this installation; of the others it is noted that they are there."""
        ours, others = divide(summaries, self._owner.installation)
        self._owner.note_others(others)
        return ours

    def inspect(self, name_or_id: str) -> Container | None:
        """What the daemon says of a container; None when it has none."""
        try:
            return decode(self._daemon.api.inspect_container(name_or_id))
        except NotFound:
            return None

    def look(self, container_id: str, *, unmarked: bool = False) -> Observation | None:
        """What a container says of its attempt; None when it is of none, or a mark."""
        container = self.inspect(container_id)
        if container is None or container.role == STOP:
            return None
        attempt = self.attempt_of(container)
        return self.observe(container, attempt, unmarked=unmarked) if attempt is not None else None

    def look_at_one(self, summary: dict[str, Any], *, unmarked: bool) -> Observation | None:
        """The same in a list: one that cannot be read is there, and nothing else is known of it; the
        others are looked at.
        """
        try:
            return self.look(summary["Id"], unmarked=unmarked)
        except NOT_UNDERSTOOD as error:
            self._daemon.faults["answer"] += 1
            labels = summary["Labels"]
            attempt = AttemptId.parse(f"{labels.get(LABEL_TASK)}-{labels.get(LABEL_ATTEMPT)}")
            message = f"its container cannot be read: {error}"
            return Observation(
                attempt=attempt, phase=Phase.UNKNOWN, uid=summary["Id"], reason="Unreadable", message=message
            )

    def observe(self, container: Container, attempt: AttemptId, *, unmarked: bool = False) -> Observation:
        """What the container says; its mark is looked for unless the caller knows that there is none."""
        has_ended = container.was_started and not container.state.running
        mark = self.mark_of(attempt) if has_ended and not unmarked else None
        requested_at = mark.created if mark is not None else None
        return observe(container, attempt, node=self._daemon.node, stop_requested_at=requested_at)

    def mark_of(self, attempt: AttemptId) -> Container | None:
        """The mark that a stop of the attempt was requested."""
        mark = self.inspect(name_of(self._cluster, attempt, STOP))
        return mark if mark is not None and self.attempt_of(mark) == attempt else None
