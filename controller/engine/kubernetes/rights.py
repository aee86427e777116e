"""The rights that the engine needs in each namespace, and a check for missing ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from controller.engine.base import EngineUnavailable
from controller.engine.kubernetes.api import KubernetesApi
from controller.engine.kubernetes.pod import NOT_JSON_OF_ITS_TYPE

NEEDED: dict[str, tuple[str, ...]] = {
    "pods": ("create", "delete", "get", "list", "patch", "watch"),
    "pods/log": ("get",),
    "events": ("list",),
}
OF_NODES: dict[str, tuple[str, ...]] = {"nodes": ("get", "list", "watch"), "pods": ("list", "watch")}
"""Rights on the whole cluster, while the capacity of a pool follows nodes."""

OF_IDENTITY: dict[str, tuple[str, ...]] = {"namespaces": ("get",)}
"""Rights on the namespaces themselves: their uids tell clusters apart. A right on kube-system alone will do.

Once an identity is recorded, no replica leads that can read nothing of it.
"""


class MissingRight(NamedTuple):
    """A verb that is not allowed on a resource in a namespace ("": in all, and on what has none)."""

    namespace: str
    resource: str
    verb: str

    def __str__(self) -> str:
        where = f"namespace {self.namespace}" if self.namespace else "the whole cluster"
        return f'{where}: {{apiGroups: [""], resources: [{self.resource}], verbs: [{self.verb}]}}'


class _ReviewStatus(msgspec.Struct, frozen=True):
    allowed: bool


class _Review(msgspec.Struct, frozen=True):
    status: _ReviewStatus


def missing_rights(
    api: KubernetesApi,
    namespaces: Iterable[str],
    needed: Mapping[str, tuple[str, ...]] = MappingProxyType(NEEDED),
) -> list[MissingRight]:
    """Ask the server for each right, and return the missing ones. Raises EngineUnavailable, ApiRefused."""
    return [
        MissingRight(namespace, resource, verb)
        for namespace in namespaces
        for resource, verbs in needed.items()
        for verb in verbs
        if not _is_allowed(api, namespace, resource, verb)
    ]


def _is_allowed(api: KubernetesApi, namespace: str, resource: str, verb: str) -> bool:
    name, _, subresource = resource.partition("/")
    asked = {"namespace": namespace, "verb": verb, "group": "", "resource": name, "subresource": subresource}
    kind = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
    body = {**kind, "spec": {"resourceAttributes": asked}}
    data = api.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=body)
    try:
        answer = msgspec.json.decode(data, type=_Review)
    except NOT_JSON_OF_ITS_TYPE as error:
        raise EngineUnavailable(
            f"Kubernetes sends a review of rights that cannot be read: {error}"
        ) from error
    return answer.status.allowed
