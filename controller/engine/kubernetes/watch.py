"""Lists and then watches objects, such as the pods of one namespace, through all faults of the watch.

After an end by the server, a broken or a silent connection, the watch continues from the last version seen
(bookmarks keep it recent). After a 410, that version is no longer available, and the objects are listed
again. After 429 and 5xx, it waits as long as the server asks for, and longer each time. Source:
https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec
import structlog

from controller.engine.base import EngineError, EngineUnavailable
from controller.engine.kubernetes.api import ApiRefused, KubernetesApi, Stream, TooManyBytes, decode_status
from controller.engine.kubernetes.pod import NOT_JSON_OF_ITS_TYPE, Meta, decode_event, decode_list

PAGE = 500
LIST_SECONDS_FACTOR = 4.0  # a page may take so much longer than other calls
_FIRST_PAUSE_SECONDS = 0.2
_SHORT_SECONDS = 1.0  # a server lets a watch last for minutes
_MAX_PAUSE_SECONDS = 30.0
_GONE = 410

log = structlog.get_logger(__name__)


class WatchedObject(Protocol):
    """An object, as far as a watch looks at it."""

    @property
    def metadata(self) -> Meta:
        """Its metadata."""

    @property
    def unreadable(self) -> str:
        """Why all but its metadata could not be read; "" if it could."""


T = TypeVar("T", bound=WatchedObject)
Read = Callable[[msgspec.Raw], T]
"""Decodes an object. Raises EngineUnavailable for one of which not even the metadata can be read."""


def list_objects(
    api: KubernetesApi, path: str, query: Mapping[str, object], timeout: float, read: Read[T]
) -> Iterator[tuple[list[T], str]]:
    """All objects at one version, the present one; yields pages of objects, with that version.

    Raises EngineUnavailable, ApiRefused; 410 if the list took too long, and its version is gone.
    """
    token, limit = "", PAGE
    while True:
        page = {**query, "limit": limit, **({"continue": token} if token else {})}
        try:
            data = api.call("GET", path, query=page, timeout=timeout)
        except TooManyBytes:
            if limit == 1:
                raise
            limit //= 2
            continue
        try:
            decoded = decode_list(data)
        except NOT_JSON_OF_ITS_TYPE as error:
            raise EngineUnavailable(f"Kubernetes sends a list that cannot be read: {error}") from error
        yield [read(item) for item in decoded.items or ()], decoded.metadata.resource_version
        before, token = token, decoded.metadata.continue_
        if not token:
            return
        if token == before:
            raise EngineUnavailable(f"Kubernetes sends a list of {path} that does not end")


class Watching(NamedTuple, Generic[T]):
    """What is watched: the path of its API, what selects the objects, and how one of them is read."""

    path: str
    query: Mapping[str, object]
    read: Read[T]


class Pace(NamedTuple):
    """How long a page of a list may take, a watch lasts, and a watch may be silent, in seconds."""

    list_timeout: float
    watch_seconds: float
    silence_seconds: float


def _nothing(_: object) -> None:
    """Ignore it."""


class ObjectWatch(Generic[T]):
    """See the module's docstring. `sink` gets each object, and whether it was removed.

    `listed` gets all that there are, at the end of each list. `trouble` gets why the watch is interrupted,
    and "" once it goes on.
    """

    def __init__(
        self,
        api: KubernetesApi,
        watching: Watching[T],
        pace: Pace,
        sink: Callable[[T, bool], None],
        stop: threading.Event,
        *,
        listed: Callable[[list[T]], None] = _nothing,
        trouble: Callable[[str], None] = _nothing,
    ) -> None:
        self._api = api
        self._path, self._query, self._read = watching
        self._pace = pace
        self._sink = sink
        self._listed = listed
        self._trouble = trouble
        self._stop = stop
        self._version = ""
        self._lock = threading.Lock()
        self._stream: Stream | None = None

    def run(self) -> None:
        """Report until `stop` is set and `close` was called."""
        pause = _FIRST_PAUSE_SECONDS
        while not self._stop.is_set():
            try:
                if not self._version:
                    self._list()
                self._follow()
                pause = _FIRST_PAUSE_SECONDS
                continue
            except (ApiRefused, EngineUnavailable) as error:
                if isinstance(error, ApiRefused) and error.code == _GONE:
                    self._version = ""
                if self._stop.is_set():
                    return
                log.warning("watch interrupted", path=self._path, error=str(error))
                self._trouble(str(error))
                self._stop.wait(
                    max(pause, error.retry_after if isinstance(error, EngineUnavailable) else 0.0)
                )
            except Exception:
                # No answer of a server may end the thread; a list finds what the answer reported.
                self._version = ""
                self._api.faults["watch"] += 1
                log.exception("watch failed", path=self._path)
                self._trouble("its answer cannot be used: see the log")
                self._stop.wait(pause)
            pause = min(2 * pause, _MAX_PAUSE_SECONDS)

    def close(self) -> None:
        """Close the connection, so that `run` checks `stop`."""
        with self._lock:
            if self._stream is not None:
                self._stream.close()

    def _list(self) -> None:
        version, found = "", list[T]()
        pages = list_objects(self._api, self._path, self._query, self._pace.list_timeout, self._read)
        for objects, version in pages:  # noqa: B007  # the last one's
            for each in objects:
                self._sink(each, False)
            if self._listed is not _nothing:
                found += objects
        self._listed(found)
        self._version = version

    def _follow(self) -> None:
        """Follow one connection until the server ends it. Raises EngineUnavailable if that was at once."""
        # Spread, so that the watches of many clients do not all begin again at the same moment.
        seconds = int(self._pace.watch_seconds * random.uniform(1.0, 1.5)) or 1
        query = {
            **self._query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": seconds,
        }
        stream = self._api.stream(self._path, query, self._pace.silence_seconds)
        with self._lock:
            self._stream = stream
        if self._stop.is_set():
            stream.close()
        self._trouble("")
        began, has_told = time.monotonic(), False
        for line in stream.lines():
            if line:
                has_told |= self._receive(line)
        if not (has_told or self._stop.is_set()) and time.monotonic() - began < _SHORT_SECONDS:
            raise EngineUnavailable(f"the watch of {self._path} ended at once: does a proxy cut it off?")

    def _receive(self, line: bytes) -> bool:
        """Whether it tells of an object, and not only how far the watch has come."""
        try:
            event = decode_event(line)
            if event.type == "ERROR":
                raise self._error(event.object)
            seen = self._read(event.object)
        except NOT_JSON_OF_ITS_TYPE as error:
            self._version = ""  # a list finds what it reported
            raise EngineUnavailable(f"Kubernetes sends an event that cannot be read: {error}") from error
        except EngineUnavailable:
            self._version = ""
            raise
        # that one is left to a list
        if event.type != "BOOKMARK" and not (seen.unreadable and event.type == "DELETED"):
            self._sink(seen, event.type == "DELETED")
        self._version = seen.metadata.resource_version or self._version
        return event.type != "BOOKMARK"

    def _error(self, status: msgspec.Raw) -> EngineError:
        return self._api.fault(decode_status(status))


def run_watches(watches: Sequence[ObjectWatch[Any]], names: Sequence[str], stop: threading.Event) -> None:
    """Run all watches until `stop` is set and all have ended, each in a thread of its name."""
    threads = [
        threading.Thread(target=watch.run, name=name, daemon=True)
        for watch, name in zip(watches, names, strict=True)
    ]
    for thread in threads:
        thread.start()
    stop.wait()
    for watch, thread in zip(watches, threads, strict=True):
        watch.close()
        thread.join()
