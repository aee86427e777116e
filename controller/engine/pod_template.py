"""The pod of an attempt, built from its spec, its pool and the templates of both. Pure.

Three layers, from the weakest: defaults (Pod Security `restricted`, no service-account token), which a template may
change; the pool's template, and over it the task's; and what Tally owns. A field that a template and Tally both set is
refused by name. Mappings are merged, lists of named things (containers, env, volumes, …) by name, other lists replaced;
null takes a default away.

`restartPolicy: Never` and bare pods: a Job may start its pod twice. `activeDeadlineSeconds` is a backstop for when no leader
is there, and ends later than the leader would stop the attempt: it counts from the pod's acceptance, and v1.20 reports it
while the container still runs, which proves nothing. Kubernetes expands `$(NAME)` in commands and variables, and halves
`$$`; both are escaped, so that a command means the same in every engine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from controller.core.errors import InvalidField
from controller.core.task import AttemptId, Launch, Pool, Spec
from controller.core.validation import parse_name
from controller.engine.pod import (
    FINALIZER,
    GATE,
    INSTALLATION,
    LABEL_ATTEMPT,
    LABEL_CLUSTER,
    LABEL_TASK,
    LABEL_TOMBSTONE,
    MAIN,
)

Document = dict[str, Any]

START_ALLOWANCE_SECONDS = 3600.0  # for images to be pulled, in `activeDeadlineSeconds`, when there is no start deadline
BACKSTOP_SECONDS = 60.0
NOBODY = 65532  # a user that no image gives rights to, so that images made for root run under `restricted` too
NO_SCHEDULER = "tally.dev/none"  # no scheduler takes a pod for another one's name

_DEFAULTS: Document = {
    "spec": {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": NOBODY,
            "runAsGroup": NOBODY,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
}
_CONTAINER_DEFAULTS: Document = {
    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
}
_COMPUTE = ("cpu", "memory", "ephemeral-storage")
_PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_EXPANSION = re.compile(r"\$\$|\$\(")


class PoolOptions(Struct, frozen=True, kw_only=True):
    """A pool's `engine_options` for the kubernetes engine. Tolerations are as in a pod; secrets are names."""

    namespace: str = ""
    priority_class: str = ""
    node_selector: dict[str, str] = {}
    tolerations: list[Document] = []
    image_pull_secrets: list[str] = []
    image_pull_policy: str = ""
    pod_template: Document = {}
    scheduling_gates: bool = False


msgspec.json.Decoder(PoolOptions)  # at import: msgspec prepares a type when it is first used, and two threads at once crash it


def parse_options(pool: Pool) -> PoolOptions:
    """The pool's options. Raises InvalidField that names the option."""
    for name in pool.engine_options:
        if name not in PoolOptions.__struct_fields__:
            known = ", ".join(PoolOptions.__struct_fields__)
            raise InvalidField(f"engine_options.{name}", f"is not an option of the kubernetes engine; known are {known}")
    try:
        options = msgspec.convert(pool.engine_options, PoolOptions)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        raise InvalidField(f"engine_options{path.rstrip('`')}", problem) from error
    if options.namespace:
        parse_name(options.namespace, "engine_options.namespace", "a namespace")
    if options.image_pull_policy not in ("", *_PULL_POLICIES):
        problem = f"is {options.image_pull_policy!r}, expected one of {', '.join(_PULL_POLICIES)}"
        raise InvalidField("engine_options.image_pull_policy", problem)
    _check_shape(options.pod_template, "engine_options.pod_template")
    return options


def build_pod(launch: Launch, options: PoolOptions, namespace: str) -> Document:
    """The pod of an attempt. Raises InvalidField that names the field of the spec, its template or the pool's."""
    template = launch.spec.pod_template
    _check_shape(template, "pod_template")
    owned = _owned(launch, options, namespace)
    _check_unset(options.pod_template, owned, "engine_options.pod_template")
    _check_unset(template, owned, "pod_template")
    pod = _overlay(_overlay(_overlay(_DEFAULTS, options.pod_template), template), owned)
    spec = pod["spec"]
    for kind in ("containers", "initContainers"):
        if kind in spec:
            spec[kind] = [_overlay(_CONTAINER_DEFAULTS, container) for container in spec[kind]]
    spec["containers"].sort(key=lambda container: container["name"] != MAIN)
    if not spec["containers"][0].get("image"):
        raise InvalidField("image", "is missing: the kubernetes engine runs images, from the task or from a pod template")
    return {"apiVersion": "v1", "kind": "Pod", **pod}


def build_tombstone(attempt: AttemptId, cluster: str, namespace: str, installation: str = "") -> Document:
    """A pod that takes the attempt's name and never runs: no scheduler feels responsible for it, and so no kubelet.

    It asks for nothing, in words (a quota on cpu or memory refuses a pod that says nothing of them).
    """
    metadata = {
        "name": str(attempt),
        "namespace": namespace,
        "labels": {**_identity(attempt, cluster, installation), LABEL_TOMBSTONE: "true"},
        "annotations": _mark(installation),
        "finalizers": [FINALIZER],
    }
    nothing = {"cpu": "0", "memory": "0"}
    container = {"name": MAIN, "image": "tally.dev/none", "resources": {"requests": nothing, "limits": nothing}}
    spec = _overlay(_DEFAULTS["spec"], {"schedulerName": NO_SCHEDULER, "restartPolicy": "Never"})
    spec["containers"] = [_overlay(_CONTAINER_DEFAULTS, container)]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _owned(launch: Launch, options: PoolOptions, namespace: str) -> Document:
    """What Tally sets, by the attempt, the spec and the pool's options."""
    spec = launch.spec
    identity = _identity(launch.attempt, launch.cluster, launch.installation)
    for key in spec.labels:
        if key in identity or key.partition("/")[0] == "tally.dev":
            raise InvalidField(f"labels.{key}", "is set by Tally on the pods of the kubernetes engine: choose another key")
    pod: Document = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": whole_seconds(spec.grace_seconds),
        "containers": [_main_container(launch, options)],
    }
    if spec.deadlines.run_seconds is not None:
        pod["activeDeadlineSeconds"] = _backstop_seconds(spec, spec.deadlines.run_seconds)
    if options.priority_class:
        pod["priorityClassName"] = options.priority_class
    if options.node_selector:
        pod["nodeSelector"] = options.node_selector
    if options.tolerations:
        pod["tolerations"] = options.tolerations
    if options.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in options.image_pull_secrets]
    if options.scheduling_gates:
        pod["schedulingGates"] = [{"name": GATE}]
    metadata: Document = {
        "name": str(launch.attempt),
        "namespace": namespace,
        "labels": {**spec.labels, **identity},
        "annotations": {"tally.dev/term": str(launch.term), "tally.dev/pool": launch.pool.name, **_mark(launch.installation)},
        "finalizers": [FINALIZER],
    }
    return {"metadata": metadata, "spec": pod}


def _main_container(launch: Launch, options: PoolOptions) -> Document:
    spec = launch.spec
    container: Document = {
        "name": MAIN,
        "env": [{"name": name, "value": _literal(value)} for name, value in launch.environment.items()],
    }
    if spec.image:
        container["image"] = spec.image
    if spec.command:
        container["command"] = [_literal(word) for word in spec.command]
    if spec.args:
        container["args"] = [_literal(word) for word in spec.args]
    if spec.working_dir:
        container["workingDir"] = spec.working_dir
    if options.image_pull_policy:
        container["imagePullPolicy"] = options.image_pull_policy
    # Names without a domain that Kubernetes does not know are Tally's own accounting (licences, slots, …).
    amounts = {
        name: text
        for name, text in spec.resources.format().items()
        if name in _COMPUTE or "/" in name or name.startswith("hugepages-")
    }
    if amounts:
        container["resources"] = {"requests": amounts, "limits": dict(amounts)}
    return container


def _mark(installation: str) -> dict[str, str]:
    return {INSTALLATION: installation} if installation else {}


def _identity(attempt: AttemptId, cluster: str, installation: str) -> dict[str, str]:
    return {
        **_mark(installation),
        "app.kubernetes.io/name": "tally-task",
        "app.kubernetes.io/instance": attempt.task_id,
        "app.kubernetes.io/managed-by": "tally",
        LABEL_CLUSTER: cluster,
        LABEL_TASK: attempt.task_id,
        LABEL_ATTEMPT: str(attempt.number),
    }


def whole_seconds(grace_seconds: float) -> int:
    """A grace as Kubernetes takes it: at least 1, since 0 removes the object while its containers run."""
    return max(1, math.ceil(grace_seconds))


def _backstop_seconds(spec: Spec, run_seconds: float) -> int:
    start = spec.deadlines.start_seconds
    return math.ceil(run_seconds + (START_ALLOWANCE_SECONDS if start is None else start) + spec.grace_seconds + BACKSTOP_SECONDS)


def _literal(text: str) -> str:
    """`text` so that Kubernetes' expansion gives it back unchanged."""
    return _EXPANSION.sub(lambda match: "$" + match[0] if match[0] == "$(" else "$$$$", text)


# -- templates ---------------------------------------------------------------------------------------------------------


def _check_shape(template: Document, path: str) -> None:
    for name, value in template.items():
        if name not in ("metadata", "spec") or not isinstance(value, Mapping):
            raise InvalidField(f"{path}.{name}", "a pod template has the mappings metadata (labels, annotations) and spec")
    for name, value in template.get("metadata", {}).items():
        if name not in ("labels", "annotations") or not isinstance(value, Mapping):
            raise InvalidField(f"{path}.metadata.{name}", "a template's metadata has the mappings labels and annotations")
    for name, value in template.get("spec", {}).items():
        if name in ("containers", "initContainers") and not (isinstance(value, list) and _are_named(value)):
            problem = f"expected a list of containers with names; the task's own is named {MAIN}"
            raise InvalidField(f"{path}.spec.{name}", problem)


def _are_named(items: list[Any]) -> bool:
    return all(isinstance(item, Mapping) and isinstance(item.get("name"), str) for item in items)


def _check_unset(template: Any, owned: Any, path: str) -> None:
    """Raises InvalidField for the first field that both set."""
    if isinstance(template, Mapping) and isinstance(owned, Mapping):
        for name in template:
            if name in owned:
                _check_unset(template[name], owned[name], f"{path}.{name}")
        return
    if isinstance(template, list) and isinstance(owned, list) and _are_named(template) and _are_named(owned):
        known = {item["name"]: item for item in owned}
        for item in template:
            if item["name"] not in known:
                continue
            ours = {name: value for name, value in known[item["name"]].items() if name != "name"}
            inside = f"{path}[{item['name']}]"
            if path.endswith(".containers"):
                _check_unset(item, ours, inside)
            else:  # env, imagePullSecrets, gates: one entry is one field
                raise InvalidField(inside, "is set by Tally, or by the task or its pool outside of templates: leave it out here")
        return
    raise InvalidField(path, "is set by Tally, or by the task or its pool outside of templates: leave it out here")


def _overlay(below: Any, above: Any) -> Any:
    """`above` merged over `below`, neither of which is changed; see the module's docstring."""
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        merged = {name: value for name, value in below.items() if name not in above or above[name] is not None}
        for name, value in above.items():
            if value is not None:
                merged[name] = _overlay(merged.get(name), value)
        return merged
    if isinstance(below, list) and isinstance(above, list) and below and above and _are_named(below) and _are_named(above):
        over = {item["name"]: item for item in above}
        kept = [_overlay(item, over.pop(item["name"], {})) for item in below]
        return [*kept, *(_overlay({}, item) for item in over.values())]
    if isinstance(above, Mapping):
        return _overlay({}, above)
    return list(above) if isinstance(above, list) else above
