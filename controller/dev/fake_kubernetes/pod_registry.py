"""Writing pods: the rules by which the API server creates, changes and deletes them.

Graceful deletion and finalizers follow k8s.io/apiserver `registry/rest/delete.go` and
`registry/generic/registry/store.go`: a deletion marks the pod (`deletionTimestamp`); the object goes when the
grace is 0 and no finalizer is left.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import msgspec

from controller.clock import Clock
from controller.dev.fake_kubernetes import apierrors
from controller.dev.fake_kubernetes.admission import AdmissionControl
from controller.dev.fake_kubernetes.apierrors import Document
from controller.dev.fake_kubernetes.pod_defaults import apply_defaults
from controller.dev.fake_kubernetes.pod_validation import validate_new, validate_update
from controller.dev.fake_kubernetes.storage import Key, Storage, Stored
from controller.dev.fake_kubernetes.timestamps import seconds_of, timestamp
from controller.dev.fake_kubernetes.version import ServerVersion

TERMINAL = frozenset({"Succeeded", "Failed"})
_OWNED_BY_SERVER = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "name",
    "namespace",
)


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """What a deletion asks for.

    `grace_seconds` None: the pod's own; `uid`, `resource_version`: preconditions, "" for none.
    """

    grace_seconds: int | None = None
    uid: str = ""
    resource_version: str = ""


class PodRegistry:
    """All calls need the storage's lock, and raise ApiError."""

    def __init__(
        self, storage: Storage, version: ServerVersion, clock: Clock, admission: AdmissionControl
    ) -> None:
        self._storage = storage
        self._pods = storage.pods
        self._version = version
        self._clock = clock
        self._admission = admission

    def get(self, key: Key) -> Stored:
        """The pod."""
        found = self._pods.get(key)
        if found is None:
            raise apierrors.not_found("pods", key[1])
        return found

    def find(self, key: Key, uid: str) -> Stored | None:
        """The pod, if it is still there, and still the same."""
        found = self._pods.get(key)
        return found if found is not None and found.document["metadata"]["uid"] == uid else None

    def create(self, namespace: str, pod: Document, *, dry_run: bool = False) -> Stored:
        """A new pod, defaulted, admitted and validated."""
        metadata: Document = pod.setdefault("metadata", {})
        if metadata.setdefault("namespace", namespace) != namespace:
            sent = metadata["namespace"]
            why = (
                "the namespace of the provided object does not match the namespace sent on the request"
                f" ({sent}, {namespace})"
            )
            raise apierrors.bad_request(why)
        if metadata.get("resourceVersion"):
            raise apierrors.bad_request("resourceVersion should not be set on objects to be created")
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = f"{metadata['generateName']}{uuid.uuid4().hex[:5]}"
        validate_new(pod)
        apply_defaults(pod, self._version)
        self._admission.admit(namespace, pod)
        key = (namespace, metadata["name"])
        if self._pods.get(key) is not None:
            raise apierrors.already_exists("pods", key[1])
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": timestamp(self._clock.now())}
        if pod["spec"].get("schedulingGates"):
            gated = {
                "type": "PodScheduled",
                "status": "False",
                "lastProbeTime": None,
                "lastTransitionTime": None,
            }
            message = "Scheduling is blocked due to non-empty scheduling gates"
            pod["status"]["conditions"] = [gated | {"reason": "SchedulingGated", "message": message}]
        document = {
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": metadata,
            "spec": pod["spec"],
            "status": pod["status"],
        }
        if dry_run:
            return Stored(key, 0, document, msgspec.json.encode(document))
        return self._pods.put(document)

    def change(self, old: Stored, new: Document, *, status_only: bool = False) -> Stored:
        """Replace `old` by `new`, as far as the request may: all but the status, or only the status."""
        name = old.key[1]
        sent: Document = new.get("metadata", {})
        if sent.get("uid", old.document["metadata"]["uid"]) != old.document["metadata"]["uid"]:
            why = (
                f"Precondition failed: UID in precondition: {sent['uid']}, UID in object meta:"
                f" {old.document['metadata']['uid']}"
            )
            raise apierrors.conflict("pods", name, why)
        if sent.get("resourceVersion", str(old.revision)) != str(old.revision):
            raise apierrors.modified("pods", name)
        if status_only:
            return self._write(old, {**old.copy(), "status": new.get("status", {})})
        metadata = {
            field: value
            for field, value in sent.items()
            if field not in _OWNED_BY_SERVER and value not in (None, {}, [])
        }
        metadata |= {
            field: old.document["metadata"][field]
            for field in _OWNED_BY_SERVER
            if field in old.document["metadata"]
        }
        changed = {**old.copy(), "metadata": metadata, "spec": new.get("spec", {})}
        validate_update(old.document, changed)
        return self._write(old, changed)

    def set_status(self, old: Stored, status: Document) -> Stored:
        """The kubelet's and the scheduler's own write."""
        return self._write(old, {**old.copy(), "status": status})

    def bind(self, old: Stored, node: str, status: Document) -> Stored:
        """Give the pod to a node."""
        document = old.copy()
        document["spec"]["nodeName"] = node
        return self._pods.put({**document, "status": status})

    def delete(self, key: Key, options: DeleteOptions) -> Stored:
        """Mark the pod as being deleted, and remove it when nothing keeps it.

        The answer is the pod as it was left.
        """
        old = self.get(key)
        self._check(old, options)
        document = old.copy()
        metadata = document["metadata"]
        if "deletionTimestamp" in metadata:
            pending = metadata["deletionGracePeriodSeconds"]
            asked = options.grace_seconds
            grace = 1 if asked is not None and asked < 0 else asked
            if grace is None or grace >= pending:
                return old  # only a shorter grace changes anything
            ends = seconds_of(metadata["deletionTimestamp"]) - pending + grace
            if ends < self._clock.now() and not self._version.deletions_move_back:
                ends, grace = self._clock.now(), min(grace, 1)
        else:
            grace = self._grace(document, options)
            ends = self._clock.now() + grace
        metadata |= {"deletionTimestamp": timestamp(ends), "deletionGracePeriodSeconds": grace}
        marked = self._pods.put(document)
        if grace == 0 and not metadata.get("finalizers"):
            self._pods.remove(key)
        return marked

    def vanish(self, key: Key) -> None:
        """Remove the object as if its key had been deleted from etcd."""
        self._pods.remove(key)

    def _write(self, old: Stored, document: Document) -> Stored:
        document["metadata"]["resourceVersion"] = old.document["metadata"]["resourceVersion"]
        metadata = document["metadata"]
        if document == old.document:
            return old
        if metadata.get("deletionGracePeriodSeconds") == 0 and not metadata.get("finalizers"):
            return self._pods.remove(old.key, document)
        return self._pods.put(document)

    def _check(self, old: Stored, options: DeleteOptions) -> None:
        uid = old.document["metadata"]["uid"]
        if options.uid and options.uid != uid:
            why = f"the UID in the precondition ({options.uid}) does not match the UID in record ({uid}). "
            raise apierrors.conflict(
                "Pod", old.key[1], why + "The object might have been deleted and then recreated"
            )
        if options.resource_version and options.resource_version != str(old.revision):
            why = (
                f"the ResourceVersion in the precondition ({options.resource_version}) does not match the"
                " ResourceVersion in "
            )
            raise apierrors.conflict(
                "Pod", old.key[1], why + f"record ({old.revision}). The object might have been modified"
            )

    def _grace(self, pod: Document, options: DeleteOptions) -> int:
        if not pod["spec"].get("nodeName") or pod["status"]["phase"] in TERMINAL:
            return 0
        grace = (
            pod["spec"]["terminationGracePeriodSeconds"]
            if options.grace_seconds is None
            else options.grace_seconds
        )
        return grace if grace >= 0 else 1
