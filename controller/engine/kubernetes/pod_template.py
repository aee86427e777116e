"""Builds the pod of an attempt from its spec, its pool and the templates of both. Pure functions.

There are three layers, the weakest first: defaults (Pod Security `restricted`, no service-account token),
which a template may change; the pool's template, and over it the task's; and the fields that Tally owns. A
field that both a template and Tally set is refused by name. `core.model.pod_merge` explains the merge.

Pods are bare, with `restartPolicy: Never`, since a Job may start its pod twice. `activeDeadlineSeconds` is a
backstop for times without a leader, and ends later than the leader would stop the attempt: it counts from the
pod's acceptance, and v1.20 reports it while the container still runs, which proves nothing. Kubernetes
expands `$(NAME)` in commands and variables, and halves `$$`. Both are escaped in the task's own fields, which
thus mean the same in every engine, but not in a template. A template's variables may refer to the fence
(`$(TALLY_ATTEMPT)`), which each container has first, to the task's `env` and a member's host names, which its
container has next, and to variables before them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from controller.core.model import own_labels
from controller.core.model.demand import demand, main_container
from controller.core.model.fencing import FENCE, MAIN_CONTAINER
from controller.core.model.merge_keys import MERGE_KEYS, identity
from controller.core.model.pod_merge import MAIN, check_template, overlay
from controller.core.model.scalars import parse_name
from controller.core.model.task import AttemptId, Launch, Pool, Spec
from controller.engine.kubernetes.member_names import host_names
from controller.engine.kubernetes.pod import (
    FINALIZER,
    GATE,
    INSTALLATION,
    LABEL_ATTEMPT,
    LABEL_CLUSTER,
    LABEL_SUBDOMAIN,
    LABEL_TASK,
    LABEL_TOMBSTONE,
    NOWHERE,
    WHOLE,
)
from controller.errors import InvalidField

Document = dict[str, Any]

# for images to be pulled, in `activeDeadlineSeconds`, when there is no start deadline
START_ALLOWANCE_SECONDS = 3600.0
BACKSTOP_SECONDS = 60.0
# a user that no image gives rights to, so that images made for root run under `restricted` too
NOBODY = 65532
_NO_NODE = {NOWHERE: "true"}

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
_OWNED = "is set by Tally, or by the task or its pool outside of templates: leave it out here"
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
    main_container: str = ""
    scheduling_gates: bool = False


# at import: msgspec prepares a type when it is first used, and two threads at once crash it
msgspec.json.Decoder(PoolOptions)


def parse_options(pool: Pool) -> PoolOptions:
    """The pool's options. Raises InvalidField that names the option."""
    for name in pool.engine_options:
        if name not in PoolOptions.__struct_fields__:
            known = ", ".join(PoolOptions.__struct_fields__)
            raise InvalidField(
                f"engine_options.{name}",
                f"is not an option of the kubernetes engine; its options are {known}",
            )
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
    if options.main_container:
        parse_name(options.main_container, "engine_options.main_container", "a container's name")
    check_template(options.pod_template, "engine_options.pod_template")
    return options


def options_for(launch: Launch) -> PoolOptions:
    """The options of the launch's pool.

    Raises InvalidField also when that is no longer the pool that the task was admitted to.
    """
    options = parse_options(launch.pool)
    main_container(launch.spec, launch.pool)
    asked = demand(launch.spec, launch.pool)
    if launch.hold is not None and asked != launch.hold:
        raise InvalidField(
            "engine_options.pod_template",
            f"has changed: the pod now requests {asked}, but {launch.hold} is held",
        )
    return options


def build_pod(launch: Launch, options: PoolOptions, namespace: str) -> Document:
    """The pod of an attempt.

    Raises InvalidField that names the field of the spec, its template or the pool's.
    """
    template = launch.spec.pod_template
    check_template(template, "pod_template")
    below = overlay(overlay(_DEFAULTS, options.pod_template), template)
    names = host_names(launch, below["spec"])
    if names is not None:
        launch = replace(launch, environment={**launch.environment, **names.environment})
    owned = _owned(launch, options, namespace)
    _check_unset(options.pod_template, owned, "engine_options.pod_template")
    _check_unset(template, owned, "pod_template")
    pod = overlay(below, owned)
    spec = pod["spec"]
    own = [*launch.spec.env]
    if names is not None:
        spec["hostname"] = names.hostname
        pod["metadata"]["labels"][LABEL_SUBDOMAIN] = names.subdomain
        own += names.environment
    for kind in ("containers", "initContainers"):
        if kind in spec:
            spec[kind] = [overlay(_CONTAINER_DEFAULTS, container) for container in spec[kind]]
            _fence_first(spec[kind], launch.environment, own)
    spec["containers"].sort(key=lambda container: container["name"] != MAIN)
    if not spec["containers"][0].get("image"):
        raise InvalidField(
            "image", "is missing: the kubernetes engine runs images, from the task or from a pod template"
        )
    return {"apiVersion": "v1", "kind": "Pod", **pod}


def build_tombstone(
    attempt: AttemptId, cluster: str, namespace: str, installation: str = "", label: str = WHOLE
) -> Document:
    """A pod that takes the attempt's name and never runs: no scheduler takes it, and so no kubelet.

    A webhook may name a scheduler all the same, so it also selects a node that there is not. It explicitly
    requests nothing: a quota on cpu or memory refuses a pod without requests.
    """
    metadata = {
        "name": str(attempt),
        "namespace": namespace,
        "labels": {**_identity(attempt, cluster, installation), LABEL_TOMBSTONE: label},
        "annotations": _mark(installation),
        "finalizers": [FINALIZER],
    }
    nothing = {"cpu": "0", "memory": "0"}
    container = {
        "name": MAIN,
        "image": "tally.dev/none",
        "resources": {"requests": nothing, "limits": nothing},
    }
    spec = overlay(
        _DEFAULTS["spec"], {"schedulerName": NOWHERE, "restartPolicy": "Never", "nodeSelector": _NO_NODE}
    )
    spec["containers"] = [overlay(_CONTAINER_DEFAULTS, container)]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _owned(launch: Launch, options: PoolOptions, namespace: str) -> Document:
    """The fields that Tally sets, from the attempt, the spec and the pool's options."""
    spec = launch.spec
    identity = _identity(launch.attempt, launch.cluster, launch.installation)
    for key in spec.labels:
        if key in identity or (key.startswith(own_labels.PREFIX) and key not in own_labels.OF_TASKS):
            raise InvalidField(
                f"labels.{key}", "is set by Tally on the pods of the kubernetes engine: choose another key"
            )
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
        "annotations": {
            "tally.dev/term": str(launch.term),
            "tally.dev/pool": launch.pool.name,
            **_mark(launch.installation),
        },
        "finalizers": [FINALIZER],
    }
    return {"metadata": metadata, "spec": pod}


def _main_container(launch: Launch, options: PoolOptions) -> Document:
    spec = launch.spec
    container: Document = {
        "name": MAIN,
        "env": [
            *({"name": name, "value": value} for name, value in launch.environment.items()),
            {"name": MAIN_CONTAINER, "value": main_container(launch.spec, launch.pool)},
        ],
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
    """A grace for Kubernetes: at least 1, since 0 removes the object while its containers run."""
    return max(1, math.ceil(grace_seconds))


def _backstop_seconds(spec: Spec, run_seconds: float) -> int:
    start = spec.deadlines.start_seconds
    return math.ceil(
        run_seconds
        + (START_ALLOWANCE_SECONDS if start is None else start)
        + spec.grace_seconds
        + BACKSTOP_SECONDS
    )


def _literal(text: str) -> str:
    """`text`, escaped so that Kubernetes' expansion returns it unchanged."""
    return _EXPANSION.sub(lambda match: "$" + match[0] if match[0] == "$(" else "$$$$", text)


def _check_unset(template: Any, owned: Any, path: str, field: str = "") -> None:
    """Raises InvalidField for the first field that both set.

    `field` is what both are values of, or entries of.
    """
    if isinstance(template, Mapping) and isinstance(owned, Mapping):
        for name in template:
            if name in owned:
                _check_unset(template[name], owned[name], f"{path}.{name}", name)
        return
    if field in MERGE_KEYS and isinstance(template, list) and isinstance(owned, list):
        ours = {identity(field, entry): entry for entry in owned}
        for entry in template:
            known = ours.get(identity(field, entry))
            if known is None:
                continue
            inside = f"{path}[{entry['name']}]"
            if field != "containers":  # env, imagePullSecrets, gates: one entry is one field
                raise InvalidField(inside, _OWNED)
            _check_unset(entry, {name: value for name, value in known.items() if name != "name"}, inside)
        return
    raise InvalidField(path, _OWNED)


def _fence_first(
    containers: Sequence[Document], environment: Mapping[str, str], own: Collection[str]
) -> None:
    """Give every container the fence first, since a variable can refer only to those before it.

    `own` are the task's variables and a member's host names, which the task's container has next.
    """
    for container in containers:
        first = (*FENCE, *own) if container["name"] == MAIN else FENCE
        told = [{"name": name, "value": _literal(environment[name])} for name in first if name in environment]
        container["env"] = [*told, *(each for each in container.get("env", ()) if each["name"] not in first)]
