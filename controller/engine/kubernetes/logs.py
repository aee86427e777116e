"""Reads a pod's output and its events through the API server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import datetime

import msgspec
from msgspec import Struct

from controller.engine.base import EngineUnavailable, LogOptions, LogsRefused
from controller.engine.kubernetes.api import ApiRefused, KubernetesApi, Stream
from controller.engine.kubernetes.pod import NOT_JSON_OF_ITS_TYPE, Pod, pod_path
from controller.engine.kubernetes.pod_observation import observe

SILENCE_SECONDS = 300.0  # without output, after which the stream is opened again
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
    """A Kubernetes event of a pod. `at` is the last of its `count` times, in seconds since the epoch."""

    at: float
    kind: str  # Normal or Warning
    reason: str
    message: str
    count: int
    component: str


def recent_events(api: KubernetesApi, namespace: str, name: str, uid: str) -> list[PodEvent]:
    """The events of one pod, oldest first; with `uid` "", of all pods that had the name.

    The cluster keeps events for about an hour. Raises EngineUnavailable, ApiRefused.
    """
    path = f"/api/v1/namespaces/{namespace}/events"
    which = f"involvedObject.uid={uid}" if uid else f"involvedObject.name={name}"
    query = {"fieldSelector": f"involvedObject.kind=Pod,{which}", "limit": 100}
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


def check_container(pod: Pod, name: str) -> None:
    """Raise LogsRefused if the pod has no such container ("": the main one); the error names all."""
    known = [each.name for each in (*(pod.spec.init_containers or ()), *(pod.spec.containers or ()))]
    if name and name not in known:
        raise LogsRefused(f"pod {pod.metadata.name} has no container {name!r}: there are {', '.join(known)}")


def read_log(
    api: KubernetesApi,
    pod: Pod,
    look: Callable[[], Pod | None],
    follow: bool,
    stop: threading.Event,
    options: LogOptions,
) -> Iterator[bytes]:
    """A container's output, by default the main one's, each byte once.

    With `follow`, it continues until the container has ended or `stop` is set. A broken connection is opened
    again, and bytes that were delivered are skipped. This loses lines if the node has begun a new log file in
    between, since it shows only the last one. With `tail` or `since_seconds`, the delivered bytes cannot be
    skipped: a break is then an error once bytes were delivered. Raises EngineUnavailable, LogsRefused.
    """
    container, path = options.container or pod.main_name, f"{pod_path(pod)}/log"
    part: dict[str, object] = {"container": container}
    if options.tail is not None:
        part["tailLines"] = options.tail
    if options.since_seconds is not None:
        part["sinceSeconds"] = max(1, round(options.since_seconds))
    if options.previous:
        part["previous"], follow = "true", False
    position, is_part = 0, len(part) > 1
    current: Pod | None = pod
    while current is not None and not stop.is_set():
        last_pass, before = not follow or _has_ended(current, container), position
        try:
            stream = api.stream(path, part | ({} if last_pass else {"follow": "true"}), SILENCE_SECONDS)
            for chunk in _from(position, stream, stop):
                position += len(chunk)
                yield chunk
            if position == before and not last_pass:
                stop.wait(_AGAIN_SECONDS)  # a proxy may end each at once
        except ApiRefused as error:
            if options.previous and error.code == 400:
                raise LogsRefused(f"--previous: {error}") from error
            # 400: the container has not been created yet, or never was. 404: the pod is gone.
            if error.code not in (400, 404):
                raise EngineUnavailable(f"the output cannot be read: {error}") from error
            stop.wait(0.0 if last_pass else _AGAIN_SECONDS)
        except EngineUnavailable as error:
            if last_pass or (is_part and position):
                raise
            stop.wait(error.retry_after)
        if last_pass:
            return
        current = look()
        if is_part and position:
            if current is not None and not stop.is_set() and not _has_ended(current, container):
                raise EngineUnavailable(
                    "the stream of the output ended before the container: run the command again"
                )
            return


def _has_ended(pod: Pod, container: str) -> bool:
    found = next(
        (each for each in pod.statuses() if each.name == container),
        pod.main if container == pod.main_name else None,
    )
    return observe(pod).stopped or (found is not None and found.state.terminated is not None)


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
