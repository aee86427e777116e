"""Reads, creates, entombs, deletes and patches the pods of one cluster of Tally, by name.

Each call is safe to repeat, and bound to one object by its uid: an object that others change meanwhile is
read again, and not overwritten. Refusals of calls other than a creation count as outages (see `refusals`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from controller.core.model.task import AttemptId
from controller.engine.base import AttemptRefused, AttemptUnknown, EngineUnavailable
from controller.engine.kubernetes.api import JSON_PATCH, ApiRefused, KubernetesApi, kind_of
from controller.engine.kubernetes.pod import (
    FINALIZER,
    GATE,
    INSTALLATION,
    LABEL_TOMBSTONE,
    PART,
    WHOLE,
    Pod,
    attempt_of,
    pod_path,
    pods_path,
    read_pod,
)
from controller.engine.kubernetes.pod_template import Document, build_tombstone
from controller.engine.kubernetes.refusals import unavailable
from controller.engine.kubernetes.watch import list_objects
from controller.engine.ownership import Owning

TRIES = 5  # while others change the object
_FORBIDDEN = 403


class PodObjects:
    """See the module's docstring. Safe to use from several threads; every method raises EngineUnavailable."""

    def __init__(
        self,
        api: KubernetesApi,
        cluster: str,
        namespaces: tuple[str, ...],
        list_timeout: float,
        owner: Owning,
    ) -> None:
        self._api = api
        self._owner = owner
        self._cluster = cluster
        self._namespaces = namespaces
        self.list_timeout = list_timeout

    def all(self) -> Iterator[tuple[AttemptId, Pod]]:
        """All pods of our attempts. Raises EngineUnavailable."""
        others = []
        for namespace in self._namespaces:
            with unavailable(f"pods of namespace {namespace} cannot be listed"):
                for pods, _ in list_objects(self._api, pods_path(namespace), {}, self.list_timeout, read_pod):
                    for pod in pods:
                        attempt = self.attempt_of(pod)
                        if attempt is not None:
                            yield attempt, pod
                        elif attempt_of(pod, self._cluster) is not None:
                            others.append((pod.installation, pod.metadata.name))
        self._owner.note_others(others)

    def held(self) -> list[Pod]:
        """All pods of ours that our finalizer keeps. Raises EngineUnavailable."""
        return [pod for _, pod in self.all() if pod.has_finalizer]

    def attempt_of(self, pod: Pod) -> AttemptId | None:
        """The attempt of our installation whose pod it is; None if there is none.

        The installation's id is on it twice. A pod that our finalizer keeps stays ours if only one of them
        was changed, or the cluster's name.
        """
        ours = self._owner.installation
        if (attempt := attempt_of(pod, self._cluster, ours)) is not None or ours is None:
            return attempt
        told = pod.metadata.annotations or {}, pod.metadata.labels or {}
        marks = [mark for each in told if (mark := each.get(INSTALLATION, ""))]
        if not pod.has_finalizer or not any(map(ours.owns, marks)):
            return None
        try:
            return AttemptId.parse(pod.metadata.name)
        except ValueError:
            return None

    def find(self, attempt: AttemptId, uid: str = "") -> Pod | None:
        """The attempt's pod, by its uid or else by its labels; rather one that is no tombstone.

        A tombstone that has not taken the name in all namespaces is none: see `entomb`.
        """
        found: Pod | None = None
        for namespace in self._namespaces:
            pod = self.get(namespace, attempt)
            if pod is None or pod.is_part:
                continue
            if uid and pod.metadata.uid == uid:
                return pod
            if self.attempt_of(pod) == attempt and (found is None or found.is_tombstone):
                found = pod
                if not uid and not pod.is_tombstone:
                    break
        return found

    def known(self, attempt: AttemptId) -> Pod:
        """The attempt's pod. Raises AttemptUnknown."""
        pod = self.find(attempt)
        if pod is None:
            raise AttemptUnknown(
                f"there is no pod {attempt} of cluster {self._cluster} in {', '.join(self._namespaces)}"
            )
        return pod

    def get(self, namespace: str, attempt: AttemptId) -> Pod | None:
        """The pod with the attempt's name, whether it is ours or not."""
        with unavailable(f"pod {attempt} cannot be read"):
            try:
                return _about(attempt, self._api.call("GET", f"{pods_path(namespace)}/{attempt}"))
            except ApiRefused as error:
                if error.is_absence("pods", str(attempt)):
                    return None
                raise

    def create(self, attempt: AttemptId, body: Document) -> Pod:
        """Create the pod. Raises ApiRefused, AttemptRefused (NameTaken) and EngineUnavailable."""
        namespace = body["metadata"]["namespace"]
        for _ in range(TRIES):
            try:
                return _about(attempt, self._api.call("POST", pods_path(namespace), body=body))
            except ApiRefused as error:
                if error.code != 409:
                    raise
                if error.reason != "AlreadyExists":  # a quota that many change at once
                    raise EngineUnavailable(f"pod {attempt} cannot be created now: {error}") from error
            pod = self.get(namespace, attempt)
            if pod is None:
                continue  # it has just gone
            if self.attempt_of(pod) == attempt:
                return pod
            raise AttemptRefused("NameTaken", pod.why_not_ours(self._cluster))
        raise EngineUnavailable(f"the name {attempt} keeps being taken and released")

    def entomb(self, attempt: AttemptId, why: str) -> Pod | None:
        """Take the attempt's name in every namespace; returns the tombstone, or the existing pod.

        Of several tombstones, one tells of the attempt's end, once all are there. Returns None if pods that
        are not ours have all the names. Raises EngineUnavailable if the name could not be taken: a late
        creation is then still possible.
        """
        label = WHOLE if len(self._namespaces) == 1 else PART
        tombstones = []
        for namespace in self._namespaces:
            pod = self._entomb_in(namespace, attempt, why, label)
            if pod is not None and not pod.is_tombstone:
                return pod
            tombstones += [pod] if pod is not None else []
        whole = next((pod for pod in tombstones if not pod.is_part), None)
        return whole or (self._make_whole(tombstones[0]) if tombstones else None)

    def close_others(self, attempt: AttemptId, namespace: str) -> Pod | None:
        """Take the attempt's name in all namespaces but this; returns the pod that one of them has, if any.

        Raises EngineUnavailable if the name could not be taken.
        """
        for each in self._namespaces:
            if each != namespace:
                pod = self._entomb_in(each, attempt, f"its name could not be taken in {each}", PART)
                if pod is not None and not pod.is_tombstone:
                    return pod
        return None

    def _entomb_in(self, namespace: str, attempt: AttemptId, why: str, label: str) -> Pod | None:
        """The pod of the attempt's name there; None if it is not ours, or cannot be created any more."""
        body = build_tombstone(attempt, self._cluster, namespace, self._owner.mark, label)
        with unavailable(f"{attempt}: {why}"):
            try:
                return self._create_tombstone(attempt, body)
            except AttemptRefused:
                return None  # a pod that is not ours has the name, which serves as well
            except ApiRefused as error:
                if error.is_absence("namespaces", namespace):
                    return None  # nothing can be created there
                raise

    def _create_tombstone(self, attempt: AttemptId, body: Document) -> Pod:
        try:
            return self.create(attempt, body)
        except ApiRefused as refused:
            if refused.code != _FORBIDDEN:
                raise
            # a LimitRange may want more than nothing; without requests it gives what it wants
            for container in body["spec"]["containers"]:
                del container["resources"]
            try:
                return self.create(attempt, body)
            except ApiRefused:
                raise refused from None

    def _make_whole(self, pod: Pod) -> Pod | None:
        path = f"/metadata/labels/{LABEL_TOMBSTONE.replace('/', '~1')}"
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": pod.metadata.uid},
            {"op": "replace", "path": path, "value": WHOLE},
        ]
        with unavailable(f"the tombstone {pod.metadata.name} cannot be updated"):
            data = self._api.call("PATCH", pod_path(pod), body=patch, content_type=JSON_PATCH)
        return _about(pod.metadata.name, data)

    def delete(self, namespace: str, attempt: AttemptId, uid: str, grace_seconds: int) -> Pod | None:
        """Delete the attempt's pod of this uid; returns its new state, None if it is gone, or another one."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": grace_seconds,
            "preconditions": {"uid": uid},
        }
        with unavailable(f"pod {attempt} cannot be deleted"):
            try:
                data = self._api.call("DELETE", f"{pods_path(namespace)}/{attempt}", body=body)
            except ApiRefused as error:
                if error.code == 409 or error.is_absence("pods", str(attempt)):
                    return None
                raise
        if kind_of(data) == "Status":
            return None  # it is gone already
        answer = read_pod(data)
        is_same = (answer.metadata.uid, answer.metadata.name) == (uid, str(attempt))
        return answer if is_same else None

    def drop_finalizer(self, pod: Pod) -> None:
        self._patch_list(
            pod,
            "/metadata/finalizers",
            lambda each: _index(each.metadata.finalizers or [], FINALIZER),
            FINALIZER,
        )

    def open_gate(self, pod: Pod) -> Pod:
        def find(each: Pod) -> int | None:
            return _index([gate.name for gate in each.spec.scheduling_gates or ()], GATE)

        opened = self._patch_list(pod, "/spec/schedulingGates", find, {"name": GATE})
        if opened is None:
            raise EngineUnavailable(
                f"pod {pod.metadata.name} was gone before its scheduling gate was removed"
            )
        return opened

    def _patch_list(
        self, pod: Pod, path: str, find: Callable[[Pod], int | None], value: object
    ) -> Pod | None:
        """Remove an entry from a list of this pod; None if the pod is gone. Raises EngineUnavailable."""
        current: Pod | None = pod
        for _ in range(TRIES):
            if current is None or current.metadata.uid != pod.metadata.uid:
                return None
            index = find(current)
            if index is None:
                return current
            patch = [
                {"op": "test", "path": "/metadata/uid", "value": pod.metadata.uid},
                {"op": "test", "path": f"{path}/{index}", "value": value},
                {"op": "remove", "path": f"{path}/{index}"},
            ]
            with unavailable(f"pod {pod.metadata.name} cannot be updated"):
                try:
                    return _about(
                        pod.metadata.name,
                        self._api.call("PATCH", pod_path(pod), body=patch, content_type=JSON_PATCH),
                    )
                except ApiRefused as error:
                    gone = error.is_absence("pods", pod.metadata.name)
                    if not gone and error.code not in (409, 422):  # these: it has changed since it was read
                        raise
            current = self.get(pod.metadata.namespace, AttemptId.parse(pod.metadata.name))
        raise EngineUnavailable(f"pod {pod.metadata.name} keeps changing while it is updated")


def _about(name: AttemptId | str, data: bytes) -> Pod:
    pod = read_pod(data)
    if pod.metadata.name != str(name):
        raise EngineUnavailable(f"Kubernetes answers with something other than pod {name}")
    return pod


def _index(items: list[str], item: str) -> int | None:
    return items.index(item) if item in items else None
