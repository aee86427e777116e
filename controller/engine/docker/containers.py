"""Reads the containers of attempts from the daemon: which attempt each is of, and its observation."""

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
from controller.engine.docker.daemon import NOT_UNDERSTOOD, DockerDaemon, is_missing
from controller.engine.ownership import Owning


class Containers:
    """The containers with one cluster's name; `owner` knows the installation."""

    def __init__(self, daemon: DockerDaemon, cluster: str, owner: Owning) -> None:
        self._daemon = daemon
        self._cluster = cluster
        self._owner = owner

    def attempt_of(self, container: Container) -> AttemptId | None:
        """The attempt of this installation whose container it is; None if there is none."""
        return attempt_of(container, self._cluster, self._owner.installation)

    def ours_among(self, summaries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The containers of this installation; the owner records the others."""
        ours, others = divide(summaries, self._owner.installation)
        self._owner.note_others(others)
        return ours

    def inspect(self, name_or_id: str) -> Container | None:
        """Inspect a container; None if the daemon has no such container."""
        try:
            return decode(self._daemon.api.inspect_container(name_or_id))
        except NotFound as error:
            if is_missing(error):
                return None
            raise

    def look(self, container_id: str, *, unmarked: bool = False) -> Observation | None:
        """The observation of a container's attempt; None if it is a mark, or not of our attempts."""
        container = self.inspect(container_id)
        if container is None or container.role == STOP:
            return None
        attempt = self.attempt_of(container)
        return self.observe(container, attempt, unmarked=unmarked) if attempt is not None else None

    def look_at_one(self, summary: dict[str, Any], *, unmarked: bool) -> Observation | None:
        """As `look`, for a container in a list: if it cannot be read, its phase is Unknown."""
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
        """The observation of the attempt. `unmarked`: the caller knows that there is no mark to look for."""
        has_ended = container.was_started and not container.state.running
        mark = self.mark_of(attempt) if has_ended and not unmarked else None
        requested_at = mark.created if mark is not None else None
        return observe(container, attempt, node=self._daemon.node, stop_requested_at=requested_at)

    def mark_of(self, attempt: AttemptId) -> Container | None:
        """The mark of a requested stop; None if there is none."""
        mark = self.inspect(name_of(self._cluster, attempt, STOP))
        return mark if mark is not None and self.attempt_of(mark) == attempt else None
