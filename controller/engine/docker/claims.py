"""Claims the names of attempts: by containers that are started once, tombstones and marks.

`engine` explains how a name fences.
"""

from __future__ import annotations

from collections.abc import Callable

from docker.errors import APIError, ImageNotFound

from controller.core.model.task import AttemptId, Launch, Observation
from controller.engine.base import AttemptRefused, EngineUnavailable
from controller.engine.docker.container import (
    EMPTY_IMAGE,
    TOMBSTONE,
    Container,
    Options,
    creation,
    name_of,
    not_ours,
    parse_options,
    placeholder,
)
from controller.engine.docker.containers import Containers
from controller.engine.docker.daemon import CONFLICT, DockerDaemon, ImagePulls, words_of
from controller.engine.ownership import Owning
from controller.errors import InvalidField

_TRIES = 5  # while other replicas change the container of the name
_EMPTY_TAR = bytes(1024)  # an empty archive: only the two blocks of zeros at its end


class Claims:
    """Creates the containers of one cluster, with its owner's labels.

    The caller makes only one call for an attempt at a time.
    """

    def __init__(
        self, daemon: DockerDaemon, containers: Containers, pulls: ImagePulls, cluster: str, owner: Owning
    ) -> None:
        self._daemon = daemon
        self._containers = containers
        self._pulls = pulls
        self._cluster = cluster
        self._owner = owner

    def _create(self, name: str, body: dict[str, object], options: Options) -> str | None:
        """Create a container and return its id; None if the name is taken."""
        try:
            return str(self._daemon.api.create_container_from_config(body, name)["Id"])
        except ImageNotFound as error:
            if options.pull == "never":
                raise AttemptRefused(
                    "ImageMissing", f"{error.explanation}; engine_options.pull is never"
                ) from error
            self._pulls.need(str(body["Image"]))
        except APIError as error:
            if not words_of(error):
                raise
            if error.status_code == CONFLICT:
                return None
            if error.is_client_error():
                raise AttemptRefused("InvalidContainer", str(error.explanation)) from error
            raise

    def create_and_start(self, launch: Launch, confirm: Callable[[], None] | None) -> Observation:
        """Create and start the attempt's container, or adopt it; returns its observation.

        Raises AttemptRefused, EngineUnavailable.
        """
        try:
            options = parse_options(launch.pool.engine_options)
            body = creation(launch, options)
        except InvalidField as error:
            raise AttemptRefused("InvalidContainer", str(error)) from error
        name = name_of(self._cluster, launch.attempt)
        for _ in range(_TRIES):
            found = self._containers.inspect(name)
            if found is not None and self._containers.attempt_of(found) != launch.attempt:
                raise AttemptRefused("NameTaken", not_ours(found, name))
            if found is not None and not found.awaits_start:
                return self._containers.observe(found, launch.attempt)
            _confirm(confirm)
            if found is not None:
                self._daemon.discard(found.id)
                continue
            container_id = self._create(name, body, options)
            if container_id is None:
                continue  # another replica was faster
            _confirm(confirm)
            seen = self._start(container_id, launch.attempt)
            if seen is not None:
                return seen
        raise EngineUnavailable(f"container {name} keeps changing while Tally works on it")

    def take_name(self, attempt: AttemptId) -> Container:
        """The attempt's container if it was started, else its tombstone, which is created if needed.

        A container that was created and never started is replaced. Raises EngineUnavailable.
        """
        name = name_of(self._cluster, attempt)
        for _ in range(_TRIES):
            found = self._containers.inspect(name)
            if found is None:
                self.make_placeholder(attempt, TOMBSTONE)
            elif self._containers.attempt_of(found) != attempt:
                raise EngineUnavailable(not_ours(found, name), 10.0)
            elif found.awaits_start:
                self._daemon.discard(found.id)
            else:
                return found
        raise EngineUnavailable(f"container {name} keeps changing while Tally works on it")

    def _start(self, container_id: str, attempt: AttemptId) -> Observation | None:
        """Start a container that this call created; None if another replica has removed it."""
        refusal = None
        try:
            self._daemon.api.start(container_id)
        except APIError as error:
            refusal = error
        container = self._containers.inspect(container_id)
        if container is None:
            return None
        if container.awaits_start and refusal is not None:
            raise refusal
        return self._containers.observe(container, attempt)

    def make_placeholder(self, attempt: AttemptId, role: str) -> None:
        """Create the attempt's mark or tombstone, unless its name is taken."""
        name, body = (
            name_of(self._cluster, attempt, role),
            placeholder(self._cluster, self._owner.mark, attempt, role),
        )
        api = self._daemon.api
        for _ in range(_TRIES):
            try:
                api.create_container_from_config(body, name)
            except ImageNotFound:
                repository, _, tag = EMPTY_IMAGE.partition(":")
                api.import_image_from_data(_EMPTY_TAR, repository=repository, tag=tag)
                continue
            except APIError as error:
                if error.status_code != CONFLICT or not words_of(error):
                    raise
            return
        raise EngineUnavailable(f"image {EMPTY_IMAGE} is removed each time it is made")


def _confirm(confirm: Callable[[], None] | None) -> None:
    if confirm is not None:
        confirm()
