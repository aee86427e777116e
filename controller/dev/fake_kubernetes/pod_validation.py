"""Refuses pods that do not decode (400) or are not valid (422), field by field, in the server's words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from controller.dev.fake_kubernetes import apierrors
from controller.dev.fake_kubernetes.apierrors import (
    REGEX_SUBDOMAIN,
    Cause,
    Document,
    forbidden_field,
    invalid_value,
    required,
)
from controller.dev.fake_kubernetes.pod_defaults import quantity
from controller.dev.fake_kubernetes.script import ANNOTATION, parse_script

_SUBDOMAIN = re.compile(REGEX_SUBDOMAIN)
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_QUALIFIED = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])")
_ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_MAX_ANNOTATIONS = 256 * 1024
_MAX_DEADLINE = 2**31 - 1

SUBDOMAIN_WHY = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must"
    " start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is"
    f" '{REGEX_SUBDOMAIN}')"
)
_LABEL_WHY = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and"
    " end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is"
    " '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_LABEL_VALUE_WHY = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must"
    " start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used"
    " for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_KEY_WHY = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an"
    " alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is"
    " '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_UPDATE_WHY = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)

_STRINGS = (
    "restartPolicy",
    "nodeName",
    "priorityClassName",
    "serviceAccountName",
    "schedulerName",
    "dnsPolicy",
)
_NUMBERS = ("terminationGracePeriodSeconds", "activeDeadlineSeconds", "priority")


def validate_new(pod: Document) -> None:
    """Raises ApiError 400 for what does not decode, 422 for what is not valid."""
    _decode(pod)
    name = str(pod["metadata"].get("name", ""))
    if causes := [*_metadata(pod["metadata"]), *_spec(pod["spec"])]:
        raise apierrors.invalid("Pod", name, causes)


def validate_update(old: Document, new: Document) -> None:
    """Raises ApiError 422 when the change is one that pods do not allow."""
    causes = list(_metadata(new["metadata"]))
    if "deletionTimestamp" in old["metadata"]:
        kept = old["metadata"].get("finalizers", [])
        if added := [each for each in new["metadata"].get("finalizers", []) if each not in kept]:
            shown = ", ".join(f'"{each}"' for each in added)
            why = (
                "no new finalizers can be added if the object is being deleted, found new finalizers"
                f" []string{{{shown}}}"
            )
            causes.append(forbidden_field("metadata.finalizers", why))
    causes += _spec_update(old["spec"], new["spec"])
    if causes:
        raise apierrors.invalid("Pod", old["metadata"]["name"], causes)


def _spec_update(old: Document, new: Document) -> Iterator[Cause]:
    before, after = old.get("activeDeadlineSeconds"), new.get("activeDeadlineSeconds")
    if before != after:
        if after is None:
            yield invalid_value(
                "spec.activeDeadlineSeconds", "null", "must not update from a positive integer to nil value"
            )
        elif before is not None and after > before:
            yield invalid_value(
                "spec.activeDeadlineSeconds", after, f"must be less than or equal to previous value {before}"
            )
        else:
            yield from _deadline(new)
    gates = [each["name"] for each in old.get("schedulingGates", ())]
    if added := [each["name"] for each in new.get("schedulingGates", ()) if each["name"] not in gates]:
        yield forbidden_field(
            "spec.schedulingGates", f"only deletion is allowed, but found new scheduling gate '{added[0]}'"
        )
    if _fixed(old) != _fixed(new):
        yield forbidden_field("spec", _UPDATE_WHY)


def _fixed(spec: Document) -> Document:
    """The spec without what may be changed."""
    free = {
        "activeDeadlineSeconds",
        "schedulingGates",
        "tolerations",
        "containers",
        "terminationGracePeriodSeconds",
    }
    rest = {name: value for name, value in spec.items() if name not in free and value not in (None, [], {})}
    rest["containers"] = [
        {k: v for k, v in each.items() if k != "image"} for each in spec.get("containers", ())
    ]
    return rest


def _decode(pod: Any) -> None:
    spec = pod.setdefault("spec", {})
    for field, value, expected in _typed_fields(pod, spec):
        if value is not None and (
            not isinstance(value, expected) or (isinstance(value, bool) and expected is int)
        ):
            kind = {dict: "object", list: "array", str: "string", int: "number"}[expected]
            message = (
                f"json: cannot unmarshal {_json_kind(value)} into Go struct field {field} of type {kind}"
            )
            raise apierrors.bad_request(f'Pod in version "v1" cannot be handled as a Pod: {message}')
    for container in spec.get("containers") or ():
        for side in ("requests", "limits"):
            for value in ((container.get("resources") or {}).get(side) or {}).values():
                try:
                    quantity(value)
                except ValueError as error:
                    raise apierrors.bad_request(
                        f'Pod in version "v1" cannot be handled as a Pod: {error}'
                    ) from error


def _typed_fields(pod: Document, spec: Any) -> Iterator[tuple[str, Any, type]]:
    yield "Pod.spec", spec, dict
    for name in ("labels", "annotations"):
        yield f"ObjectMeta.metadata.{name}", pod["metadata"].get(name), dict
        for value in (pod["metadata"].get(name) or {}).values():
            yield f"ObjectMeta.metadata.{name}", value, str
    yield "PodSpec.spec.containers", spec.get("containers"), list
    for name in _STRINGS:
        yield f"PodSpec.spec.{name}", spec.get(name), str
    for name in _NUMBERS:
        yield f"PodSpec.spec.{name}", spec.get(name), int
    for container in spec.get("containers") or ():
        yield "PodSpec.spec.containers", container, dict
        for name in ("command", "args", "env"):
            yield f"Container.spec.containers.{name}", container.get(name), list
        for word in [*(container.get("command") or ()), *(container.get("args") or ())]:
            yield "Container.spec.containers.command", word, str
        for each in container.get("env") or ():
            yield "EnvVar.spec.containers.env.value", each.get("value"), str


def _json_kind(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    return "string" if isinstance(value, str) else "number" if isinstance(value, int | float) else "object"


def _metadata(metadata: Document) -> Iterator[Cause]:
    name = metadata.get("name", "")
    if not name:
        yield required("metadata.name", "name or generateName is required")
    elif len(name) > 253:
        yield invalid_value("metadata.name", name, "must be no more than 253 characters")
    elif not _SUBDOMAIN.fullmatch(name):
        yield invalid_value("metadata.name", name, SUBDOMAIN_WHY)
    for key, value in (metadata.get("labels") or {}).items():
        yield from _qualified("metadata.labels", key)
        if len(value) > 63:
            yield invalid_value("metadata.labels", value, "must be no more than 63 characters")
        elif value and not _QUALIFIED.fullmatch(value):
            yield invalid_value("metadata.labels", value, _LABEL_VALUE_WHY)
    annotations = metadata.get("annotations") or {}
    for key in annotations:
        yield from _qualified("metadata.annotations", key)
    if sum(len(key) + len(value.encode()) for key, value in annotations.items()) > _MAX_ANNOTATIONS:
        yield Cause(
            "FieldValueTooLong",
            "metadata.annotations",
            f"Too long: may not be more than {_MAX_ANNOTATIONS} bytes",
        )
    for index, finalizer in enumerate(metadata.get("finalizers") or ()):
        if "/" not in finalizer and finalizer not in {"orphan", "foregroundDeletion"}:
            why = "name is neither a standard finalizer name nor is it fully qualified"
            yield invalid_value(f"metadata.finalizers[{index}]", finalizer, why)
    if ANNOTATION in annotations:
        try:
            parse_script(annotations[ANNOTATION])
        except ValueError as error:
            yield invalid_value(f"metadata.annotations[{ANNOTATION}]", annotations[ANNOTATION], str(error))


def _qualified(field: str, key: str) -> Iterator[Cause]:
    prefix, slash, name = key.rpartition("/")
    if slash and not _SUBDOMAIN.fullmatch(prefix):
        yield invalid_value(field, key, f"prefix part {SUBDOMAIN_WHY}")
    if len(name) > 63:
        yield invalid_value(field, key, "name part must be no more than 63 characters")
    elif not _QUALIFIED.fullmatch(name):
        yield invalid_value(field, key, _KEY_WHY)


def _spec(spec: Document) -> Iterator[Cause]:
    if not spec.get("containers"):
        yield required("spec.containers")
    seen: set[str] = set()
    for index, container in enumerate(spec.get("containers") or ()):
        yield from _container(f"spec.containers[{index}]", container)
        if (name := container.get("name", "")) in seen:
            yield Cause("FieldValueDuplicate", f"spec.containers[{index}].name", f'Duplicate value: "{name}"')
        seen.add(name)
    policy = spec.get("restartPolicy", "Always")
    if policy not in {"Always", "OnFailure", "Never"}:
        supported = 'supported values: "Always", "OnFailure", "Never"'
        yield Cause(
            "FieldValueNotSupported", "spec.restartPolicy", f'Unsupported value: "{policy}": {supported}'
        )
    yield from _deadline(spec)
    if spec.get("schedulingGates") and spec.get("nodeName"):
        yield forbidden_field("spec.nodeName", "cannot be set until all schedulingGates have been cleared")
    for index, gate in enumerate(spec.get("schedulingGates") or ()):
        yield from _qualified(f"spec.schedulingGates[{index}]", gate.get("name", ""))


def _deadline(spec: Document) -> Iterator[Cause]:
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline <= _MAX_DEADLINE:
        why = f"must be between 1 and {_MAX_DEADLINE}, inclusive"
        yield invalid_value("spec.activeDeadlineSeconds", deadline, why)


def _container(field: str, container: Document) -> Iterator[Cause]:
    name = container.get("name", "")
    if not name:
        yield required(f"{field}.name")
    elif len(name) > 63 or not _LABEL.fullmatch(name):
        yield invalid_value(f"{field}.name", name, _LABEL_WHY)
    if not container.get("image"):
        yield required(f"{field}.image")
    for index, each in enumerate(container.get("env") or ()):
        if not each.get("name"):
            yield required(f"{field}.env[{index}].name")
        elif not _ENV_NAME.fullmatch(each["name"]):
            yield invalid_value(
                f"{field}.env[{index}].name",
                each["name"],
                "a valid environment variable name must consist of "
                "alphabetic characters, digits, '_', '-', or '.', and must not start with a digit",
            )
    resources = container.get("resources") or {}
    limits = resources.get("limits") or {}
    for side in ("limits", "requests"):
        for resource, value in (resources.get(side) or {}).items():
            where = f"{field}.resources.{side}[{resource}]"
            if quantity(value) < 0:
                yield invalid_value(where, str(value), "must be greater than or equal to 0")
            elif (
                "/" not in resource
                and resource not in {"cpu", "memory", "ephemeral-storage"}
                and not resource.startswith("hugepages-")
            ):
                yield invalid_value(where, resource, "must be a standard resource for containers")
            elif side == "requests" and resource in limits and quantity(value) > quantity(limits[resource]):
                why = f"must be less than or equal to {resource} limit of {limits[resource]}"
                yield invalid_value(f"{field}.resources.requests", str(value), why)
