"""Refusals of valid pods: by namespace, quota, webhook, missing priority class, or Pod Security standard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal

from controller.dev.fake_kubernetes import apierrors
from controller.dev.fake_kubernetes.apierrors import ApiError, Cause, Document
from controller.dev.fake_kubernetes.pod_defaults import quantity, requests_of
from controller.dev.fake_kubernetes.storage import Storage

ENFORCE = "pod-security.kubernetes.io/enforce"
_COUNTED = {"cpu": "requests.cpu", "memory": "requests.memory"}


@dataclass(frozen=True, slots=True)
class Webhook:
    """A validating webhook that denies the pods for which `denies` says so."""

    name: str
    message: str
    denies: Callable[[Document], bool]
    code: int = 403


@dataclass(slots=True)
class AdmissionControl:
    """Applied in the order of a real server: namespace, priority class, Pod Security, webhooks, quota."""

    storage: Storage
    quotas: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    """Namespace → quota's name → hard limits, by the names pods, requests.cpu and requests.memory."""
    webhooks: list[Webhook] = field(default_factory=list)
    priority_classes: dict[str, int] = field(
        default_factory=lambda: {"system-cluster-critical": 2_000_000_000}
    )

    def admit(self, namespace: str, pod: Document) -> None:
        """Raises ApiError; fills in the priority. Needs the storage's lock."""
        labels = self._namespace(namespace, pod["metadata"]["name"])
        self._priority(pod)
        if labels.get(ENFORCE) == "restricted" and (violations := list(_restricted(pod["spec"]))):
            why = f'violates PodSecurity "restricted:latest": {", ".join(violations)}'
            raise apierrors.forbidden("pods", pod["metadata"]["name"], why)
        for webhook in self.webhooks:
            if webhook.denies(pod):
                message = f'admission webhook "{webhook.name}" denied the request: {webhook.message}'
                raise ApiError(webhook.code, "Forbidden" if webhook.code == 403 else "BadRequest", message)
        for name, hard in self.quotas.get(namespace, {}).items():
            self._quota(namespace, pod, name, hard)

    def _namespace(self, namespace: str, pod: str) -> Document:
        found = self.storage.namespaces.get(("", namespace))
        if found is None:
            raise apierrors.not_found("namespaces", namespace)
        if found.document["status"]["phase"] == "Terminating":
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            cause = Cause(
                "NamespaceTerminating", "metadata.namespace", f"namespace {namespace} is being terminated"
            )
            raise apierrors.forbidden("pods", pod, why, [cause])
        labels: Document = found.document["metadata"].get("labels", {})
        return labels

    def _priority(self, pod: Document) -> None:
        name = pod["spec"].get("priorityClassName")
        if name:
            if name not in self.priority_classes:
                raise apierrors.forbidden(
                    "pods", pod["metadata"]["name"], f"no PriorityClass with name {name} was found"
                )
            pod["spec"]["priority"] = self.priority_classes[name]

    def _quota(self, namespace: str, pod: Document, name: str, hard: dict[str, str]) -> None:
        asked = _usage(pod)
        used: dict[str, Decimal] = {}
        for stored in self.storage.pods.items.values():
            if stored.key[0] == namespace and stored.document["status"]["phase"] not in {
                "Succeeded",
                "Failed",
            }:
                for resource, amount in _usage(stored.document).items():
                    used[resource] = used.get(resource, Decimal(0)) + amount
        if missing := [each for each in hard if each not in asked]:
            raise apierrors.forbidden(
                "pods", pod["metadata"]["name"], f"failed quota: {name}: must specify {','.join(missing)}"
            )
        over = [
            each for each, limit in hard.items() if used.get(each, Decimal(0)) + asked[each] > quantity(limit)
        ]
        if over:
            requested = ",".join(f"{each}={_shown(each, asked[each])}" for each in over)
            before = ",".join(f"{each}={_shown(each, used.get(each, Decimal(0)))}" for each in over)
            limited = ",".join(f"{each}={hard[each]}" for each in over)
            why = f"exceeded quota: {name}, requested: {requested}, used: {before}, limited: {limited}"
            raise apierrors.forbidden("pods", pod["metadata"]["name"], why)


def _usage(pod: Document) -> dict[str, Decimal]:
    usage = {_COUNTED[name]: amount for name, amount in requests_of(pod["spec"]).items() if name in _COUNTED}
    return usage | {"pods": Decimal(1)}


def _shown(resource: str, amount: Decimal) -> str:
    if resource == "requests.cpu" and amount != amount.to_integral_value():
        return f"{int(amount * 1000)}m"
    mebibytes = amount / 1024**2
    if resource == "requests.memory" and amount and mebibytes == mebibytes.to_integral_value():
        return f"{int(mebibytes)}Mi"
    return f"{int(amount)}"


def _restricted(spec: Document) -> Iterator[str]:
    """The Pod Security standard `restricted`, as far as it concerns fields that a task's pod sets."""
    outer: Document = spec.get("securityContext") or {}
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"host namespaces ({name}=true)"
    for container in spec["containers"]:
        inner: Document = container.get("securityContext") or {}
        who = f'container "{container["name"]}"'
        if inner.get("privileged"):
            yield f"privileged ({who} must not set securityContext.privileged=true)"
        if inner.get("allowPrivilegeEscalation") is not False:
            yield (
                f"allowPrivilegeEscalation != false ({who} must set"
                " securityContext.allowPrivilegeEscalation=false)"
            )
        if "ALL" not in (inner.get("capabilities") or {}).get("drop", ()):
            yield f'unrestricted capabilities ({who} must set securityContext.capabilities.drop=["ALL"])'
        if not inner.get("runAsNonRoot", outer.get("runAsNonRoot")):
            yield f"runAsNonRoot != true (pod or {who} must set securityContext.runAsNonRoot=true)"
        profile = inner.get("seccompProfile") or outer.get("seccompProfile") or {}
        if profile.get("type") not in {"RuntimeDefault", "Localhost"}:
            yield (
                f"seccompProfile (pod or {who} must set securityContext.seccompProfile.type to"
                ' "RuntimeDefault" or "Localhost")'
            )
