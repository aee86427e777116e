"""What an attempt holds of its pool, as the kube-scheduler would count it for the attempt's pod.

Without a pod template, that is what the spec asks for. With one, of the task or of its pool, it is what the
pod requests: the sum of the containers and the restartable init containers (sidecars), or the peak of its
initialization, if that is more; plus the pod's overhead. As in Kubernetes, a limit without a request counts
as a request. Values that only the API server knows (the overhead of a runtime class, defaults of a
LimitRange) are not counted, unless the template states them.

Source: AggregateContainerRequests and PodRequests in k8s.io/component-helpers/resource/helpers.go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from controller.core.model.gangs import MemberRole, Reserved, total
from controller.core.model.pod_merge import MAIN, Document, overlay
from controller.core.model.resources import ZERO, Vector, parse_quantity
from controller.core.model.task import Pool, Spec
from controller.errors import InvalidField


def demand(spec: Spec, pool: Pool | None) -> Vector:
    """What the task holds of the pool once it is admitted: of a gang, for all members.

    The templates must be valid.
    """
    if spec.array is not None and spec.array.gang:
        return total(reserved(spec, lambda one: demand(one, pool)))
    if not (spec.pod_template or pool_template(pool)):
        return spec.resources
    return pod_requests(_pod_spec(spec, pool), "pod_template.spec", spec.resources)


def reserved(spec: Spec, demand_of: Callable[[Spec], Vector]) -> tuple[Reserved, ...]:
    """What a gang holds for its members while none has begun, by role."""
    assert spec.array is not None
    return tuple(Reserved(role.size, demand_of(of_role(spec, role))) for role in spec.array.parts)


def of_role(spec: Spec, role: MemberRole) -> Spec:
    """The spec of a gang, as the members of this role have it."""
    return msgspec.structs.replace(
        spec,
        array=None,
        resources=spec.resources if role.resources is None else role.resources,
        command=spec.command if role.command is None else role.command,
        args=spec.args if role.args is None else role.args,
    )


class Demands:
    """A cache of demands, for specs without a template of their own: one for each pool and its requests."""

    LIMIT = 1024  # for each pool

    def __init__(self) -> None:
        self._known: dict[str, dict[Vector, Vector]] = {}

    def of(self, spec: Spec, pool: Pool | None) -> Vector:
        """As `demand`."""
        if spec.array is not None and spec.array.gang:
            return total(reserved(spec, lambda one: self.of(one, pool)))
        if pool is None or spec.pod_template or not pool_template(pool):
            return demand(spec, pool)
        known = self._known.setdefault(pool.name, {})
        if spec.resources not in known:
            if len(known) >= self.LIMIT:
                known.clear()
            known[spec.resources] = demand(spec, pool)
        return known[spec.resources]

    def forget(self, pool: str) -> None:
        """Drop the demands of a pool that has changed."""
        self._known.pop(pool, None)


def pool_template(pool: Pool | None) -> Document:
    """The pod template that all tasks of the pool share; {} if there is none."""
    template: Document = pool.engine_options.get("pod_template", {}) if pool is not None else {}
    return template


def main_container(spec: Spec, pool: Pool) -> str:
    """The container whose end ends the attempt, by the task or else by its pool; "" for none in particular.

    Raises InvalidField if the pod has no such container.
    """
    main = spec.main_container or str(pool.engine_options.get("main_container", ""))
    if main in ("", MAIN):
        return main
    names = [
        MAIN,
        *(each["name"] for each in _pod_spec(spec, pool).get("containers", ()) if each["name"] != MAIN),
    ]
    if main not in names:
        field = "main_container" if spec.main_container else "engine_options.main_container"
        raise InvalidField(field, f"is {main!r}, but the containers of the task's pod are {', '.join(names)}")
    return main


def check_satisfiable(spec: Spec, pool: Pool, asked: Vector) -> None:
    """Raise InvalidField, with the numbers, if the spec can never run in its pool. `asked` is its demand.

    A pool whose capacity follows nodes may grow, so nothing is too large for it.
    """
    main_container(spec, pool)
    if pool.capacity_from is not None:
        return  # it may grow
    for name in asked.exceeding(pool.capacity):
        amount = Vector({name: asked[name]}).format()[name]
        more = " (including its pod template)" if asked[name] != spec.resources.get(name) else ""
        if spec.array is not None and spec.array.gang:
            more = f" for its {spec.array.size:,} members together, which run at once"
        have = Vector({name: pool.capacity.get(name)}).format().get(name)
        problem = (
            f"pool {pool.name!r} has {have} in all"
            if have
            else f"pool {pool.name!r} has none (it has {pool.capacity})"
        )
        raise InvalidField(
            f"resources.{name}", f"asks for {amount}{more}, but {problem}: the task could never run"
        )


def pod_requests(pod_spec: Document, path: str, main: Vector = ZERO) -> Vector:
    """What a pod requests.

    `main` is what the task's own container asks for; it overrides the template. Raises InvalidField, below
    `path`, for quantities that cannot be accounted for.
    """
    running = main
    for each in pod_spec.get("containers", ()):
        asked = _requests(each, f"{path}.containers[{each['name']}]")
        running += {
            name: amount for name, amount in asked.items() if each["name"] != MAIN or name not in main
        }
    sidecars, peak = ZERO, ZERO
    for each in pod_spec.get("initContainers", ()):
        asked = _requests(each, f"{path}.initContainers[{each['name']}]")
        if each.get("restartPolicy") == "Always":
            running, sidecars = running + asked, sidecars + asked
            peak = _largest(peak, sidecars)
        else:
            peak = _largest(peak, sidecars + asked)
    total = _largest(running, peak)
    whole = _amounts(pod_spec, "requests", path)
    for name, amount in _amounts(pod_spec, "limits", path).items():
        whole.setdefault(name, total.get(name) or amount)
    total = Vector({**total, **{name: amount for name, amount in whole.items() if _is_of_pods(name)}})
    return total + _quantities(pod_spec.get("overhead", {}), f"{path}.overhead")


def _is_of_pods(name: str) -> bool:
    """Whether a pod as a whole can ask for it (Kubernetes 1.32), which then overrides its containers."""
    return name in ("cpu", "memory") or name.startswith("hugepages-")


def _requests(container: Document, path: str) -> dict[str, int]:
    return _amounts(container, "limits", path) | _amounts(container, "requests", path)


def _amounts(owner: Document, kind: str, path: str) -> dict[str, int]:
    """The requests, or the limits, of a container or of a pod as a whole."""
    resources = owner.get("resources", {})
    if not isinstance(resources, Mapping):
        raise InvalidField(f"{path}.resources", "expected a mapping with requests and limits")
    return _quantities(resources.get(kind, {}), f"{path}.resources.{kind}")


def _quantities(raw: object, path: str) -> dict[str, int]:
    """Parse quantities. A name with amount zero stays: it asks for nothing, whatever a limit says."""
    if not isinstance(raw, Mapping):
        raise InvalidField(
            path, "expected a mapping of resource names to quantities, such as {cpu: 500m, memory: 64Mi}"
        )
    return {name: parse_quantity(name, text, f"{path}.{name}") for name, text in raw.items()}


def _largest(one: Vector, other: Vector) -> Vector:
    return Vector({name: max(one.get(name), other.get(name)) for name in (*one, *other)})


def _pod_spec(spec: Spec, pool: Pool | None) -> Document:
    """The pod's spec by the templates: the task's over its pool's."""
    merged: Document = overlay(overlay({}, pool_template(pool)), spec.pod_template)
    return merged.get("spec", {})  # type: ignore[no-any-return]  # checked by check_template
