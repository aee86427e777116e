"""The identity and version of an API server."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from controller.core.model.installation import EngineIdentity
from controller.engine.base import EngineUnavailable
from controller.engine.kubernetes.api import ApiRefused, KubernetesApi
from controller.engine.kubernetes.pod import NOT_JSON_OF_ITS_TYPE
from controller.engine.kubernetes.refusals import unavailable

# made with the cluster and never removed, so that its uid names the cluster
CLUSTER_NAMESPACE = "kube-system"


class _Version(msgspec.Struct, frozen=True, rename="camel"):
    minor: str = ""
    git_version: str = ""


class _Meta(msgspec.Struct, frozen=True):
    uid: str


class _Namespace(msgspec.Struct, frozen=True):
    metadata: _Meta


def identity(
    api: KubernetesApi, namespaces: Sequence[str], *, asks_for_cluster: bool = True
) -> EngineIdentity:
    """The uids of kube-system (if `asks_for_cluster`) and of the namespaces that are used, as far as we may
    read them.

    Both: a replica may have more rights than another, or get and lose them, and each is to know this cluster.
    If we may read none of them, only their names are left: another cluster with the same names cannot be told
    from this one, and `tally check` says so. Raises EngineUnavailable.
    """
    parts = {f"namespace {name}": _uid_of(api, name) for name in namespaces}
    cluster = _uid_of(api, CLUSTER_NAMESPACE) if asks_for_cluster else ""
    return EngineIdentity(name="kubernetes", id=cluster, parts=parts)


def minor_version(api: KubernetesApi) -> int:
    """The second number of the server's version. Raises EngineUnavailable."""
    with unavailable("the server's version cannot be read"):
        data = api.call("GET", "/version")
    try:
        version = msgspec.json.decode(data, type=_Version)
    except NOT_JSON_OF_ITS_TYPE as error:
        raise EngineUnavailable(f"Kubernetes sends a version that cannot be read: {error}") from error
    # Some say "27+", and a server that was built without its version says nothing but v0.0.0.
    minor = re.match(r"([0-9]{1,4})", version.minor) or re.match(r"v1\.([0-9]{1,4})", version.git_version)
    if minor is None:
        raise EngineUnavailable(
            f"Kubernetes does not report its version (minor {version.minor!r}, {version.git_version!r})"
        )
    return int(minor[1])


def _uid_of(api: KubernetesApi, namespace: str) -> str:
    """The namespace's uid; "" if it does not exist, or we may not read it."""
    with unavailable(f"namespace {namespace} cannot be read"):
        try:
            return msgspec.json.decode(
                api.call("GET", f"/api/v1/namespaces/{namespace}"), type=_Namespace
            ).metadata.uid
        except NOT_JSON_OF_ITS_TYPE as error:
            raise EngineUnavailable(f"Kubernetes sends a namespace that cannot be read: {error}") from error
        except ApiRefused as error:
            if error.code in (403, 404):
                return ""
            raise
