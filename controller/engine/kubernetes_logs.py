"""A pod's output and its events, read through the API server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import datetime

import msgspec
from msgspec import Struct

from controller.core.pod_merge import MAIN
from controller.engine.base import EngineUnavailable
from controller.engine.kubernetes_api import ApiRefused, KubernetesApi, Stream
from controller.engine.pod import NOT_JSON_OF_ITS_TYPE, Pod
from controller.engine.pod_observation import observe

SILENCE_SECONDS = 300.0  # of a task that prints nothing; then the stream is opened again
_AGAIN_SECONDS = 1.0


class _Source(Struct, frozen=True):
    component: str = ""


class _Event(Struct, frozen=True, rename="camel"):
    type: str = ""
    reason: str = ""
    message: str = ""
    count: int | None = None
    last_timestamp: datetime | None = None
    event_time: datetime | None = None
    source: _Source | None = None
    reporting_component: str = ""


class _EventList(Struct, frozen=True):
    items: list[msgspec.Raw] | None = None


class PodEvent(Struct, frozen=True, kw_only=True):
    """What a component of the cluster noted about a pod. `at`: seconds since the epoch, of the last of `count` times."""

    at: float
    kind: str  # Normal or Warning
    reason: str
    message: str
    count: int
    component: str


def recent_events(api: KubernetesApi, pod: Pod) -> list[PodEvent]:
    """Oldest first; the cluster keeps them for about an hour. Raises EngineUnavailable, ApiRefused."""
    path = f"/api/v1/namespaces/{pod.metadata.namespace}/events"
    query = {"fieldSelector": f"involvedObject.kind=Pod,involvedObject.uid={pod.metadata.uid}", "limit": 100}
    try:
        listed = msgspec.json.decode(api.call("GET", path, query=query), type=_EventList)
    except NOT_JSON_OF_ITS_TYPE as error:
        raise EngineUnavailable(f"Kubernetes sends events that cannot be read: {error}") from error
    return sorted((_read(event) for event in listed.items or ()), key=lambda event: event.at)


def _read(item: msgspec.Raw) -> PodEvent:
    try:
        event = msgspec.json.decode(item, type=_Event)
    except NOT_JSON_OF_ITS_TYPE as error:
        event = _Event(type="Warning", reason="Unreadable", message=f"this event cannot be read: {error}")
    at = event.last_timestamp or event.event_time
    component = event.reporting_component or (event.source.component if event.source is not None else "")
    return PodEvent(
        at=at.timestamp() if at is not None else 0.0,
        kind=event.type,
        reason=event.reason,
        message=event.message,
        count=event.count or 1,
        component=component,
    )


def read_log(
    api: KubernetesApi, path: str, pod: Pod, look: Callable[[], Pod | None], follow: bool, stop: threading.Event
) -> Iterator[bytes]:
    """The task's container's output, each byte once; with `follow` until the container has ended, or `stop`.

    A connection that breaks is opened again, and what was delivered is passed over. That loses lines when the node has
    begun a new log file in between, since it shows only the last one. Raises EngineUnavailable.
    """
    position = 0
    current: Pod | None = pod
    while current is not None and not stop.is_set():
        last_pass = not follow or _has_ended(current)
        try:
            query = {"container": MAIN} | ({} if last_pass else {"follow": "true"})
            stream = api.stream(path, query, SILENCE_SECONDS)
            for chunk in _from(position, stream, stop):
                position += len(chunk)
                yield chunk
        except ApiRefused as error:
            # 400: the container has not been created yet, or never was. 404: the pod is gone.
            if error.code not in (400, 404):
                raise EngineUnavailable(f"the output cannot be read: {error}") from error
            stop.wait(0.0 if last_pass else _AGAIN_SECONDS)
        except EngineUnavailable as error:
            if last_pass:
                raise
            stop.wait(error.retry_after)
        if last_pass:
            return
        current = look()


def _has_ended(pod: Pod) -> bool:
    main = pod.main
    return observe(pod).stopped or (main is not None and main.state.terminated is not None)


def _from(position: int, stream: Stream, stop: threading.Event) -> Iterator[bytes]:
    """The stream without its first `position` bytes, closed when `stop` is set."""
    done = threading.Event()

    def close_on_stop() -> None:
        while not done.is_set():
            if stop.wait(_AGAIN_SECONDS):
                stream.close()
                return

    closer = threading.Thread(target=close_on_stop, name="log-closer", daemon=True)
    closer.start()
    try:
        for chunk in stream:
            if position >= len(chunk):
                position -= len(chunk)
                continue
            yield chunk[position:]
            position = 0
    finally:
        done.set()
