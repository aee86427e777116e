"""The API itself: what each request means, from its path, query and body to a document.

Knows nothing of HTTP's wire.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from controller.clock import Clock
from controller.dev.fake_kubernetes import apierrors, discovery
from controller.dev.fake_kubernetes.access import ResourceAttributes
from controller.dev.fake_kubernetes.apierrors import ApiError, Document
from controller.dev.fake_kubernetes.patches import apply_patch
from controller.dev.fake_kubernetes.pod_logs import PodLogs
from controller.dev.fake_kubernetes.pod_registry import DeleteOptions, PodRegistry
from controller.dev.fake_kubernetes.pod_validation import SUBDOMAIN_WHY
from controller.dev.fake_kubernetes.selectors import compile_selectors
from controller.dev.fake_kubernetes.storage import Collection, Key, Storage, Stored
from controller.dev.fake_kubernetes.timestamps import timestamp
from controller.dev.fake_kubernetes.version import ServerVersion
from controller.dev.fake_kubernetes.watching import WatchStream

REVIEWS = "selfsubjectaccessreviews"
TOKEN_REVIEWS = "tokenreviews"
_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_SUBRESOURCES = {"status", "log"}


class RequestInfo(NamedTuple):
    """A request to a resource, read off path and query.

    `access` is what it wants, as rights and faults name it.
    """

    method: str
    access: ResourceAttributes
    resource: str
    subresource: str
    query: Mapping[str, str]

    @property
    def key(self) -> Key:
        """The object meant."""
        return ("" if self.resource == "namespaces" else self.access.namespace, self.access.name)


class Answer(NamedTuple):
    """A whole answer."""

    body: bytes
    code: int = 200
    content_type: str = "application/json"


class LogStream(NamedTuple):
    """Log lines that are sent as they are printed."""

    logs: PodLogs
    uid: str
    tail: int | None


def read_request(method: str, path: str, query: Mapping[str, str]) -> RequestInfo:
    """Raises ApiError 404 or 405 for what this API does not have."""
    parts = [part for part in path.split("/") if part]
    if parts[:3] == ["apis", "authorization.k8s.io", "v1"] and parts[3:] == [REVIEWS]:
        access = ResourceAttributes("create", REVIEWS, group="authorization.k8s.io")
        return RequestInfo(method, access, REVIEWS, "", query)
    if parts[:3] == ["apis", "authentication.k8s.io", "v1"] and parts[3:] == [TOKEN_REVIEWS]:
        access = ResourceAttributes("create", TOKEN_REVIEWS, group="authentication.k8s.io")
        return RequestInfo(method, access, TOKEN_REVIEWS, "", query)
    if parts[:2] != ["api", "v1"]:
        raise apierrors.no_such_path()
    parts = parts[2:]
    namespace = ""
    if parts[:1] == ["namespaces"] and len(parts) > 2:
        namespace, parts = parts[1], parts[2:]
    resource, name, subresource = [*parts, "", "", ""][:3]
    if (
        resource not in discovery.RESOURCES
        or len(parts) > 3
        or (subresource and subresource not in _SUBRESOURCES)
    ):
        raise apierrors.no_such_path()
    verb = _VERBS.get(method)
    if verb is None or (method == "POST" and name) or (method in ("PUT", "PATCH", "DELETE") and not name):
        raise apierrors.method_not_allowed()
    if verb == "get" and not name:
        verb = "watch" if query.get("watch") in ("1", "true", "True") else "list"
    if resource == "namespaces" and name:
        namespace = name
    full = f"{resource}/{subresource}" if subresource else resource
    return RequestInfo(method, ResourceAttributes(verb, full, namespace, name), resource, subresource, query)


@dataclass(slots=True)
class FakeApi:
    """Applies requests. All calls need the storage's lock, and raise ApiError."""

    storage: Storage
    registry: PodRegistry
    logs: PodLogs
    clock: Clock
    version: ServerVersion
    bookmark_seconds: float
    stale: Mapping[Key, Stored] | None = field(default=None)
    """What lists with resourceVersion=0 answer, while the watch cache lags behind."""

    def lag(self, behind: bool = True) -> None:
        """While on, lists with resourceVersion=0 answer what was true when it was switched on."""
        with self.storage.lock:
            self.stale = dict(self.storage.pods.items) if behind else None

    def answer(
        self, request: RequestInfo, body: bytes, content_type: str
    ) -> Answer | WatchStream | LogStream:
        """What the request asks for; rights have been checked."""
        verb, resource = request.access.verb, request.resource
        if verb == "watch":
            return self._watch(request)
        if verb == "list":
            return Answer(self._list(request))
        if verb == "get":
            return self._get(request)
        if resource == "namespaces" and verb == "create":
            return Answer(self._create_namespace(_decode(body)).body, 201)
        if resource != "pods":
            raise apierrors.method_not_allowed()
        if verb == "create":
            stored = self.registry.create(
                request.access.namespace, _decode(body), dry_run="dryRun" in request.query
            )
            return Answer(stored.body, 201)
        if verb == "delete":
            return Answer(self.registry.delete(request.key, _delete_options(request.query, body)).body)
        old = self.registry.get(request.key)
        new = (
            _decode(body)
            if verb == "update"
            else apply_patch(content_type, old.copy(), _decode(body, of=object))
        )
        return Answer(self.registry.change(old, new, status_only=request.subresource == "status").body)

    def _get(self, request: RequestInfo) -> Answer | LogStream:
        found = self.storage.collections[request.resource].get(request.key)
        if found is None:
            raise apierrors.not_found(request.resource, request.access.name)
        if request.subresource != "log":
            return Answer(found.body)
        container, uid = request.query.get("container", ""), found.document["metadata"]["uid"]
        self.logs.check(found.document, container)
        tail = _integer(request.query, "tailLines")
        if request.query.get("follow") in ("1", "true", "True"):
            return LogStream(self.logs, uid, tail)
        return Answer(b"".join(self.logs.lines(uid, tail)), content_type="text/plain")

    def _create_namespace(self, document: Document) -> Stored:
        name = document.get("metadata", {}).get("name", "")
        if not name:
            causes = [apierrors.invalid_value("metadata.name", name, SUBDOMAIN_WHY)]
            raise apierrors.invalid("Namespace", name, causes)
        if self.storage.namespaces.get(("", name)) is not None:
            raise apierrors.already_exists("namespaces", name)
        return self.add_namespace(name, document["metadata"].get("labels", {}))

    def add_namespace(self, name: str, labels: Mapping[str, str], uid: str = "") -> Stored:
        """A namespace, active."""
        metadata: dict[str, Any] = {
            "name": name,
            "uid": uid or f"namespace-{name}",
            "creationTimestamp": timestamp(self.clock.now()),
        }
        metadata["labels"] = {"kubernetes.io/metadata.name": name, **labels}
        status = {"phase": "Active"}
        return self.storage.namespaces.put(
            {"kind": "Namespace", "apiVersion": "v1", "metadata": metadata, "status": status}
        )

    def _watch(self, request: RequestInfo) -> WatchStream:
        query = request.query
        wanted = _revision(query.get("resourceVersion", ""))
        seconds = _integer(query, "timeoutSeconds")
        return WatchStream(
            self.storage.collections[request.resource],
            self.clock,
            namespace=request.access.namespace,
            matches=self._selectors(request),
            after=wanted or None,
            bookmark_seconds=self.bookmark_seconds
            if query.get("allowWatchBookmarks") in ("1", "true", "True")
            else None,
            timeout_seconds=seconds or None,
        )

    def _selectors(self, request: RequestInfo) -> Any:
        query = request.query
        fields = query.get("fieldSelector", "")
        if request.access.name and request.access.verb == "watch":
            fields = ",".join(filter(None, [fields, f"metadata.name={request.access.name}"]))
        return compile_selectors(request.resource, query.get("labelSelector", ""), fields)

    def _list(self, request: RequestInfo) -> bytes:
        collection = self.storage.collections[request.resource]
        query = request.query
        matches = self._selectors(request)
        namespace = request.access.namespace
        limit = _integer(query, "limit") or 0
        items, revision, start = self._snapshot(collection, query)
        found: list[Stored] = []
        more: Key | None = None
        remaining = 0
        for key, stored in items.items():
            if (
                key < start
                or namespace not in ("", key[0])
                or not (matches is None or matches(stored.document))
            ):
                continue
            if limit and len(found) == limit:
                more = more or key
                remaining += 1
                continue
            found.append(stored)
        metadata: Document = {"resourceVersion": str(revision)}
        if more is not None:
            metadata["continue"] = _token(revision, more)
            if matches is None:
                metadata["remainingItemCount"] = remaining
        head = {"kind": f"{collection.kind}List", "apiVersion": "v1", "metadata": metadata}
        bodies = b",".join(stored.body for stored in found)
        return msgspec.json.encode(head)[:-1] + b',"items":[' + bodies + b"]}"

    def _snapshot(
        self, collection: Collection, query: Mapping[str, str]
    ) -> tuple[Mapping[Key, Stored], int, Key]:
        current = self.storage.revision
        if token := query.get("continue"):
            revision, start = _parse_token(token)
            if revision < 0:  # an inconsistent continuation, as the answer 410 offers it
                return collection.items, current, start
            try:
                return collection.at(revision), revision, start
            except ApiError as error:
                raise apierrors.continue_expired(_token(-1, start)) from error
        wanted = _revision(query.get("resourceVersion", ""))
        if wanted == 0 and self.stale is not None and collection is self.storage.pods:
            return self.stale, max((each.revision for each in self.stale.values()), default=1), ("", "")
        if wanted is not None and wanted > current:
            raise apierrors.too_large(wanted, current)
        if wanted and query.get("resourceVersionMatch") == "Exact":
            return collection.at(wanted), wanted, ("", "")
        return collection.items, current, ("", "")


def _decode(body: bytes, of: type = dict) -> Any:
    try:
        decoded = msgspec.json.decode(body or b"{}")
    except msgspec.DecodeError as error:
        raise apierrors.bad_request(
            f"the object provided is unrecognized (must be of type Pod): {error}"
        ) from error
    if not isinstance(decoded, of):
        raise apierrors.bad_request("the object provided is unrecognized: expected a JSON object")
    return decoded


def _delete_options(query: Mapping[str, str], body: bytes) -> DeleteOptions:
    options: Document = _decode(body)
    preconditions: Document = options.get("preconditions") or {}
    grace = options.get("gracePeriodSeconds")
    if grace is None and query.get("gracePeriodSeconds"):
        grace = _integer(query, "gracePeriodSeconds")
    return DeleteOptions(grace, preconditions.get("uid") or "", preconditions.get("resourceVersion") or "")


def _integer(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name, "")
    if not text:
        return None
    if not text.lstrip("-").isdecimal():
        raise apierrors.bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax ({name})')
    return int(text)


def _revision(text: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal():
        raise apierrors.bad_request(
            f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
        )
    return int(text)


def _token(revision: int, start: Key) -> str:
    token = {"v": "meta.k8s.io/v1", "rv": revision, "start": "/".join(start)}
    return base64.urlsafe_b64encode(msgspec.json.encode(token)).decode().rstrip("=")


def _parse_token(token: str) -> tuple[int, Key]:
    try:
        decoded = msgspec.json.decode(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        namespace, _, name = decoded["start"].rpartition("/")
        return int(decoded["rv"]), (namespace, name)
    except (
        binascii.Error,
        msgspec.DecodeError,
        UnicodeDecodeError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        why = "continue key is not valid: invalid character 'i' looking for beginning of value"
        raise apierrors.bad_request(f"invalid continue token: {why}") from error
