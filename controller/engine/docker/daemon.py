"""The connection to one Docker daemon: made when first used, every request bounded, its errors translated."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import msgspec
import urllib3
from docker import APIClient
from docker.errors import APIError, DockerException, NotFound
from docker.types import CancellableStream
from docker.utils import kwargs_from_env, parse_repository_tag
from requests.exceptions import RequestException

from controller.engine.base import AttemptDelayed, AttemptRefused, EngineUnavailable

REQUEST_SECONDS = 10
# of a stream: of events, after which it is opened again; of a pull, after which it has failed
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
)
"""How the library and we fail at an answer of another form than the daemon's own."""


class _BoundedClient(APIClient):
    """The library asks for no time limit in some calls.

    (It retries nothing by itself, which is as it must be.)
    """

    def send(self, request: Any, **options: Any) -> Any:
        if options.get("timeout") is None:
            options["timeout"] = (REQUEST_SECONDS, SILENCE_SECONDS)
        return super().send(request, **options)


class DockerDaemon:
    """`base_url` as in DOCKER_HOST; None: what DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH say.

    Safe for threads.
    """

    def __init__(self, base_url: str | None) -> None:
        self._base_url = base_url
        self._connecting = threading.Lock()
        self._client: Any = None
        # what went wrong with calls, by kind: HTTP codes, "connection", "answer"
        self.faults: Counter[str] = Counter()
        self.node = ""
        """The daemon's name of its machine; "" before the first call."""

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
        """The library's errors as the engine's, counted."""
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
        """Send a signal; a container that does not run any more gets none. Raises EngineUnavailable."""
        with self.translated():
            try:
                self.api.kill(container_id, name)
            except NotFound:
                return
            except APIError as error:
                if error.status_code != CONFLICT:  # it does not run any more
                    raise

    def stop_signal(self, image: str) -> str:
        """The image's own: that of the container says how the daemon ends it."""
        try:
            return str(self.api.inspect_image(image)["Config"].get("StopSignal") or "SIGTERM")
        except NotFound:
            return "SIGTERM"

    def discard(self, container_id: str) -> None:
        """Remove a container that does not run; one that does by now is left alone."""
        try:
            self.api.remove_container(container_id, v=True)
        except NotFound:
            return
        except APIError as error:
            if error.status_code != CONFLICT:
                raise

    def close(self) -> None:
        """Let go of idle connections. Idempotent."""
        if self._client is not None:
            self._client.close()


class ImagePulls:
    """Pulls in the background, each image once at a time: a pull may take minutes, an effect must not."""

    def __init__(self, daemon: DockerDaemon) -> None:
        self._daemon = daemon
        self._lock = threading.Lock()
        self._pulls: dict[str, threading.Thread] = {}
        self._failures: dict[str, str] = {}
        self._closed = threading.Event()

    def need(self, image: str) -> NoReturn:
        """Have the image pulled.

        Raises AttemptDelayed while that is under way, AttemptRefused once it has failed.
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
        """End the pulls under way; each ends with the daemon's next word of it.

        What was fetched stays with the daemon.
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
        with self._lock:
            del self._pulls[image]
            if failure is not None:
                self._failures[image] = failure


@contextmanager
def closed_when(stop: threading.Event, stream: CancellableStream[Any]) -> Iterator[None]:
    """Close the stream, so that whoever reads it finds its end, when `stop` is set or the block is left."""
    left = threading.Event()

    def close() -> None:
        while not (stop.is_set() or left.wait(_CLOSE_POLL_SECONDS)):
            pass
        # AttributeError: the library's, of a stream that has ended already
        with suppress(OSError, AttributeError):
            stream.close()

    thread = threading.Thread(target=close, name="docker-stream-closer", daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()
