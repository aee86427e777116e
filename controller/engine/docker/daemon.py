"""The connection to one Docker daemon: made on first use, with a time limit on each request.

Errors of the library are translated to the engine's.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import msgspec
import urllib3
from docker import APIClient
from docker.errors import APIError, DockerException, NotFound, StreamParseError
from docker.types import CancellableStream
from docker.utils import kwargs_from_env, parse_repository_tag
from requests.exceptions import RequestException

from controller.engine.base import AttemptDelayed, AttemptRefused, EngineUnavailable

REQUEST_SECONDS = 10
# the longest silence in a stream: a stream of events is then opened again, and a pull has failed
SILENCE_SECONDS = 60.0
_CLOSE_POLL_SECONDS = 0.1
_PULL_RETRY_SECONDS = 1.0
CONFLICT = 409


NOT_UNDERSTOOD = (
    msgspec.ValidationError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    RecursionError,
    StreamParseError,
)
"""The exceptions that an answer of an unexpected form causes in the library and here."""


def is_missing(error: NotFound) -> bool:
    """Whether the daemon itself says that there is no such object. A proxy may answer 404, too."""
    return "no such" in words_of(error).lower()


def words_of(error: APIError) -> str:
    """What the daemon says; "" if it is not the daemon that does."""
    try:
        words: object = error.response.json()["message"]  # type: ignore[union-attr]  # None: AttributeError
    except NOT_UNDERSTOOD:
        return ""
    return words if isinstance(words, str) else ""


class _BoundedClient(APIClient):
    """Sets a time limit where the library sets none. The library retries nothing, as `start` requires."""

    def send(self, request: Any, **options: Any) -> Any:
        if options.get("timeout") is None:
            options["timeout"] = (REQUEST_SECONDS, SILENCE_SECONDS)
        return super().send(request, **options)


class DockerDaemon:
    """A connection to the daemon at `base_url`, which has the form of DOCKER_HOST.

    None: DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH are used. Safe to use from several threads.
    """

    def __init__(self, base_url: str | None) -> None:
        self._base_url = base_url
        self._connecting = threading.Lock()
        self._client: Any = None
        # failed calls by kind: HTTP codes, "connection", "answer"
        self.faults: Counter[str] = Counter()
        self.node = ""
        """The daemon's name for its machine; "" before the first call."""

    @property
    def api(self) -> Any:
        """The library's client. Raises EngineUnavailable."""
        with self._connecting:
            if self._client is None:
                with self.translated():
                    options = kwargs_from_env() if self._base_url is None else {"base_url": self._base_url}
                    client = _BoundedClient(**options, version="auto", timeout=REQUEST_SECONDS)
                    info = client.info()
                self.node = info["Name"]
                self._client = client
            return self._client

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Count the library's errors, and raise them as EngineUnavailable."""
        try:
            yield
        except APIError as error:
            self.faults[str(error.status_code)] += 1
            raise EngineUnavailable(f"the Docker daemon refuses: {error.explanation or error}") from error
        except (DockerException, RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            self.faults["connection"] += 1
            raise EngineUnavailable(f"the Docker daemon does not answer: {error}") from error
        except NOT_UNDERSTOOD as error:
            self.faults["answer"] += 1
            raise EngineUnavailable(
                f"the Docker daemon's answer is not understood: {type(error).__name__}: {error}"
            ) from error

    def signal(self, container_id: str, name: str) -> None:
        """Send a signal, unless the container no longer runs. Raises EngineUnavailable."""
        with self.translated():
            try:
                self.api.kill(container_id, name)
            except NotFound as error:
                if not is_missing(error):
                    raise
            except APIError as error:
                if error.status_code != CONFLICT or not words_of(error):  # CONFLICT: it no longer runs
                    raise

    def stop_signal(self, image: str) -> str:
        """The stop signal of the image. That of the container is for the daemon's own stops."""
        try:
            return str(self.api.inspect_image(image)["Config"].get("StopSignal") or "SIGTERM")
        except NotFound:
            return "SIGTERM"
        except NOT_UNDERSTOOD:  # it is to be stopped all the same
            self.faults["answer"] += 1
            return "SIGTERM"

    def discard(self, container_id: str) -> None:
        """Remove a container, unless it runs."""
        try:
            self.api.remove_container(container_id, v=True)
        except NotFound as error:
            if not is_missing(error):
                raise
        except APIError as error:
            if error.status_code != CONFLICT or not words_of(error):
                raise

    def close(self) -> None:
        """Close idle connections. Idempotent."""
        if self._client is not None:
            self._client.close()


class ImagePulls:
    """Pulls images in the background, one pull per image: a pull may take minutes, which no effect may."""

    def __init__(self, daemon: DockerDaemon) -> None:
        self._daemon = daemon
        self._lock = threading.Lock()
        self._pulls: dict[str, threading.Thread] = {}
        self._failures: dict[str, str] = {}
        self._closed = threading.Event()

    def need(self, image: str) -> NoReturn:
        """Pull the image in the background.

        Raises AttemptDelayed while the pull runs, and AttemptRefused once it has failed.
        """
        with self._lock:
            failure = self._failures.pop(image, None)
            if failure is not None:
                raise AttemptRefused("ErrImagePull", f"image {image} cannot be pulled: {failure}")
            if image not in self._pulls:
                thread = threading.Thread(
                    target=self._run, args=(image,), name=f"docker-pull-{image}", daemon=True
                )
                self._pulls[image] = thread
                thread.start()
        raise AttemptDelayed(f"image {image} is being pulled", retry_after=_PULL_RETRY_SECONDS)

    def close(self) -> None:
        """End the running pulls, each at the daemon's next progress message.

        The daemon keeps what it has fetched.
        """
        self._closed.set()

    def _run(self, image: str) -> None:
        failure = None
        try:
            with self._daemon.translated():
                repository, tag = parse_repository_tag(image)
                for step in self._daemon.api.pull(repository, tag or "latest", stream=True, decode=True):
                    failure = step.get("error", failure)
                    if self._closed.is_set():
                        break
        except EngineUnavailable as error:
            failure = str(error)
        finally:
            with self._lock:
                del self._pulls[image]
                if failure is not None:
                    self._failures[image] = failure


@contextmanager
def closed_when(stop: threading.Event, stream: CancellableStream[Any]) -> Iterator[None]:
    """Close the stream when `stop` is set or the block is left, so that its reader finds its end."""
    left = threading.Event()

    def close() -> None:
        while not (stop.is_set() or left.wait(_CLOSE_POLL_SECONDS)):
            pass
        # AttributeError: the library raises it for a stream that has ended
        with suppress(OSError, AttributeError):
            stream.close()

    thread = threading.Thread(target=close, name="docker-stream-closer", daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()
