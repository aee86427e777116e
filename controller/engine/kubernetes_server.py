"""What an API server says of itself: which cluster it is, and its version."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from controller.core.installation import EngineIdentity
from controller.engine.kubernetes_api import ApiRefused, KubernetesApi
from controller.engine.kubernetes_refusals import unavailable

CLUSTER_NAMESPACE = "kube-system"  # made with the cluster and never removed, so that its uid names the cluster


def identity(api: KubernetesApi, namespaces: Sequence[str]) -> EngineIdentity:
    """The uid of kube-system, where it may be read; else those of the namespaces that are used.

    Where none may be read, the namespaces' names alone are left: another cluster that has these cannot be told from this one,
    and `tally check` says so. Raises EngineUnavailable.
    """
    cluster = _uid_of(api, CLUSTER_NAMESPACE)
    parts = {f"namespace {name}": "" if cluster else _uid_of(api, name) for name in namespaces}
    return EngineIdentity(name="kubernetes", id=cluster, parts=parts)


def minor_version(api: KubernetesApi) -> int:
    """The second number of the server's version. Raises EngineUnavailable."""
    with unavailable("the server's version cannot be read"):
        version = msgspec.json.decode(api.call("GET", "/version"))
    return int("".join(filter(str.isdigit, version["minor"])))  # some say "27+"


def _uid_of(api: KubernetesApi, namespace: str) -> str:
    """Its uid; "" when there is no such namespace, or it may not be read."""
    with unavailable(f"namespace {namespace} cannot be read"):
        try:
            document = msgspec.json.decode(api.call("GET", f"/api/v1/namespaces/{namespace}"))
        except ApiRefused as error:
            if error.code in (403, 404):
                return ""
            raise
    return str(document["metadata"]["uid"])
