"""What the server says about itself: enough for clients and for `kubectl get pods`."""

from __future__ import annotations

from controller.dev.fake_kubernetes.apierrors import Document
from controller.dev.fake_kubernetes.version import ServerVersion

RESOURCES = {
    "pods": ("Pod", True, ["create", "delete", "get", "list", "patch", "update", "watch"], ["po"]),
    "events": ("Event", True, ["get", "list", "watch"], ["ev"]),
    "namespaces": ("Namespace", False, ["create", "get", "list", "watch"], ["ns"]),
    "nodes": ("Node", False, ["get", "list", "watch"], ["no"]),
}
_AUTHORIZATION = {"groupVersion": "authorization.k8s.io/v1", "version": "v1"}


def document(path: str, version: ServerVersion) -> Document | None:
    """The document at `path`, or None when it is not one of discovery."""
    if path == "/version":
        return version.document()
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    if path == "/apis":
        group = {
            "name": "authorization.k8s.io",
            "versions": [_AUTHORIZATION],
            "preferredVersion": _AUTHORIZATION,
        }
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]}
    if path == "/api/v1":
        return {"kind": "APIResourceList", "groupVersion": "v1", "resources": _resources()}
    if path == "/apis/authorization.k8s.io/v1":
        review = {
            "name": "selfsubjectaccessreviews",
            "singularName": "",
            "namespaced": False,
            "verbs": ["create"],
        }
        resources = [review | {"kind": "SelfSubjectAccessReview"}]
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": "authorization.k8s.io/v1",
            "resources": resources,
        }
    return None


def _resources() -> list[Document]:
    found: list[Document] = [
        {
            "name": name,
            "singularName": kind.lower(),
            "namespaced": namespaced,
            "kind": kind,
            "verbs": verbs,
            "shortNames": short,
        }
        for name, (kind, namespaced, verbs, short) in RESOURCES.items()
    ]
    found.append(
        {"name": "pods/log", "singularName": "", "namespaced": True, "kind": "Pod", "verbs": ["get"]}
    )
    found.append(
        {
            "name": "pods/status",
            "singularName": "",
            "namespaced": True,
            "kind": "Pod",
            "verbs": ["get", "patch", "update"],
        }
    )
    return found
