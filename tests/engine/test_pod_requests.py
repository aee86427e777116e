"""What a task holds is what the kube-scheduler counts for the pod that is built of it.

The oracle is written from Kubernetes' own words: the API server gives each container the requests that its
limits imply (pkg/apis/core/v1/defaults.go), and the scheduler counts max(running, initializing) + overhead
(KEP-753).
"""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from controller.core.model.demand import check_satisfiable, demand
from controller.core.model.resources import Vector, parse_quantity
from controller.core.model.task import Pool, Spec
from controller.core.model.validation import parse_pool, parse_spec
from controller.engine.kubernetes.pod_template import build_pod, options_for
from controller.errors import InvalidField
from tests.engine.kubernetes_cases import launch

Pod = dict[str, Any]


def as_scheduled(pod: Pod) -> dict[str, int]:
    """What the scheduler counts for a pod, in Tally's units; zero amounts left out."""

    def requests(container: Pod) -> dict[str, Fraction]:
        resources = container.get("resources", {})
        named = {**resources.get("limits", {}), **resources.get("requests", {})}
        return {name: Fraction(parse_quantity(name, text)) for name, text in named.items()}

    spec = pod["spec"]
    names = ["cpu", "memory", "nvidia.com/gpu", "ephemeral-storage"]
    total = {}
    for name in names:
        inits = [
            (each.get("restartPolicy") == "Always", requests(each).get(name, Fraction()))
            for each in spec.get("initContainers", [])
        ]
        running = sum((requests(each).get(name, Fraction()) for each in spec["containers"]), Fraction())
        running += sum(amount for is_sidecar, amount in inits if is_sidecar)
        steps = [
            amount + sum(before for is_sidecar, before in inits[:n] if is_sidecar)
            for n, (_, amount) in enumerate(inits)
        ]
        overhead = parse_quantity(name, spec.get("overhead", {}).get(name, 0))
        total[name] = int(max([running, *steps]) + overhead)
    return {name: amount for name, amount in total.items() if amount}


def sized(resources: dict[str, Any], template: Pod, pool_template: Pod | None = None) -> tuple[Vector, Pod]:
    """What such a task holds, and its pod."""
    options = {"pod_template": pool_template} if pool_template else {}
    parse_pool({"name": "p", "capacity": {"cpu": 1}, "engine_options": options})
    parse_spec({"id": "a", "image": "x", "pod_template": template})
    given = launch("run", resources=Vector.parse(resources), pod_template=template, engine_options=options)
    return demand(given.spec, given.pool), build_pod(given, options_for(given), "jobs")


def check(spec: Spec, pool: Pool) -> None:
    """As a submission is checked."""
    check_satisfiable(spec, pool, demand(spec, pool))


def containers(*asked: tuple[str, Any], **more: Any) -> Pod:
    """A template of these containers; the task's own has its image already."""
    named = [
        {"name": name, "resources": resources} | ({} if name == "task" else {"image": "x"})
        for name, resources in asked
    ]
    return {"spec": {"containers": named, **more}}


def init(name: str, cpu: str, *, sidecar: bool = False) -> Pod:
    restart = {"restartPolicy": "Always"} if sidecar else {}
    return {"name": name, "image": "x", "resources": {"requests": {"cpu": cpu}}, **restart}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ({}, {"cpu": "1"}),
        (containers(("side", {"requests": {"cpu": "2200m"}})), {"cpu": "3200m"}),  # found C6
        (
            containers(("side", {"limits": {"cpu": 1, "memory": "1Gi"}, "requests": {"cpu": "100m"}})),
            {"cpu": "1100m", "memory": "1Gi"},
        ),
        (containers(("side", {"limits": {"cpu": 1}, "requests": {"cpu": 0}})), {"cpu": "1"}),
        (containers(("task", {"limits": {"memory": "1Gi"}})), {"cpu": "1", "memory": "1Gi"}),
        (containers(initContainers=[init("a", "500m"), init("b", "3")]), {"cpu": "3"}),
        (containers(initContainers=[init("a", "500m")]), {"cpu": "1"}),
        (containers(initContainers=[init("s", "500m", sidecar=True)]), {"cpu": "1500m"}),
        # An init container runs beside the sidecars before it, and not beside those after it.
        (containers(initContainers=[init("s", "500m", sidecar=True), init("a", "2")]), {"cpu": "2500m"}),
        (containers(initContainers=[init("a", "2"), init("s", "500m", sidecar=True)]), {"cpu": "2"}),
        (containers(overhead={"cpu": "250m", "memory": "1Mi"}), {"cpu": "1250m", "memory": "1Mi"}),
    ],
)
@pytest.mark.parametrize("of_pool", [False, True])
def test_what_is_held(template: Pod, expected: Pod, of_pool: bool) -> None:
    held, pod = sized({"cpu": 1}, {}, template) if of_pool else sized({"cpu": 1}, template)
    assert held.format() == expected
    assert dict(held.items()) == as_scheduled(pod)


def test_both_templates_count_once() -> None:
    """A container of both is one; the task's word stands over the pool's."""
    pool = containers(("side", {"requests": {"cpu": 1, "memory": "1Mi"}}), ("log", {"requests": {"cpu": 1}}))
    held, pod = sized({"cpu": 1}, containers(("side", {"requests": {"cpu": 2}})), pool)
    assert held.format() == {"cpu": "4", "memory": "1Mi"}
    assert dict(held.items()) == as_scheduled(pod)
    assert sized({"cpu": 1}, {"spec": {"containers": [{"name": "side", "resources": None}]}}, pool)[
        0
    ].format() == {"cpu": "2"}


def test_tallys_own_accounting_is_held_beside_it() -> None:
    assert sized({"licences": 2}, containers(("side", {"requests": {"cpu": 1}})))[0].format() == {
        "cpu": "1",
        "licences": "2",
    }


def test_requests_of_the_pod_as_a_whole() -> None:
    """They stand for those of its containers (Kubernetes 1.32); limits count for what no container asks
    for.
    """
    whole = {"requests": {"cpu": 4}, "limits": {"cpu": 8, "memory": "1Gi"}}
    assert sized({"cpu": 1}, containers(resources=whole))[0].format() == {"cpu": "4", "memory": "1Gi"}
    assert sized({"memory": "1Mi"}, containers(resources=whole))[0].format() == {"cpu": "4", "memory": "1Mi"}


@pytest.mark.parametrize(
    ("template", "field"),
    [
        (containers(("side", {"requests": {"cpu": "0.1m"}})), "containers[side].resources.requests.cpu"),
        (containers(("side", {"limits": {"memory": "lots"}})), "containers[side].resources.limits.memory"),
        (containers(("side", {"limits": []})), "containers[side].resources.limits"),
        (containers(("side", [])), "containers[side].resources"),
        (containers(initContainers=[init("i", "-1")]), "initContainers[i].resources.requests.cpu"),
        (containers(overhead={"cpu": True}), "overhead.cpu"),
    ],
)
def test_quantities_that_cannot_be_accounted_for_are_refused(template: Pod, field: str) -> None:
    """Of a task and of a pool, before anything is stored."""
    with pytest.raises(InvalidField) as refused:
        parse_spec({"id": "a", "image": "x", "pod_template": template})
    assert refused.value.field == f"pod_template.spec.{field}"
    with pytest.raises(InvalidField) as refused:
        parse_pool({"name": "p", "capacity": {}, "engine_options": {"pod_template": template}})
    assert refused.value.field == f"engine_options.pod_template.spec.{field}"


def test_what_can_never_run_is_refused_with_the_numbers() -> None:
    pool = Pool(
        name="p",
        capacity=Vector.parse({"cpu": 2}),
        engine_options={"pod_template": containers(("side", {"limits": {"cpu": 2}}))},
    )
    with pytest.raises(
        InvalidField,
        match=r"resources\.cpu: asks for 3 \(including its pod template\), but pool 'p' has 2 in all",
    ):
        check(Spec(id="a", resources=Vector.parse({"cpu": 1})), pool)


def test_a_main_container_that_is_not_there_is_named() -> None:
    """An init container is none."""
    template = containers(("side", {}), initContainers=[init("i", "1")])
    spec = Spec(id="a", image="x", pod_template=template, main_container="i")
    with pytest.raises(
        InvalidField, match=r"^main_container: is 'i', but the containers of the task's pod are task, side$"
    ):
        check(spec, Pool(name="p", capacity=Vector.parse({"cpu": 9})))
    with pytest.raises(InvalidField, match=r"^engine_options\.main_container: is 'x'"):
        check(Spec(id="a"), Pool(name="p", engine_options={"main_container": "x"}))


amounts = st.dictionaries(
    st.sampled_from(["cpu", "memory", "nvidia.com/gpu", "ephemeral-storage"]),
    st.sampled_from([0, 1, 2, "3", "7"]),
    max_size=3,
)
resources = st.fixed_dictionaries({}, optional={"requests": amounts, "limits": amounts})
names = st.sampled_from(["a", "b", "c"])


def some(*, inits: bool) -> st.SearchStrategy[list[Pod]]:
    optional: Pod = {"resources": resources}
    if inits:
        optional["restartPolicy"] = st.just("Always")
    one = st.fixed_dictionaries({"name": names, "image": st.just("x")}, optional=optional)
    return st.lists(one, max_size=3, unique_by=lambda each: str(each["name"]))


templates = st.fixed_dictionaries(
    {},
    optional={
        "spec": st.fixed_dictionaries(
            {},
            optional={
                "containers": some(inits=False),
                "initContainers": some(inits=True),
                "overhead": amounts,
            },
        )
    },
)


@given(amounts, templates, templates)
def test_it_is_what_the_scheduler_counts(asked: dict[str, Any], template: Pod, pool_template: Pod) -> None:
    held, pod = sized(asked, template, pool_template)
    assert dict(held.items()) == as_scheduled(pod)


texts = st.sampled_from(["task", "a", "1", "500m", "Always", "", "x.io/y"])
scalars = st.one_of(st.none(), st.booleans(), st.integers(-1, 3), texts)
fields = st.sampled_from(
    [
        "spec",
        "metadata",
        "labels",
        "containers",
        "initContainers",
        "name",
        "image",
        "resources",
        "requests",
        "limits",
        "cpu",
        "env",
        "value",
        "valueFrom",
        "ports",
        "containerPort",
        "volumes",
        "overhead",
        "claims",
        "seccompProfile",
        "type",
        "restartPolicy",
    ]
)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(fields, inner, max_size=4)),
    max_leaves=20,
)
odd_containers = st.lists(
    st.builds(
        lambda name, more: {**more, "name": name},
        st.sampled_from(["task", "a", "b", 3, None]),
        st.dictionaries(fields, anything, max_size=3),
    ),
    max_size=3,
)
odd_fields = {
    "containers": odd_containers,
    "initContainers": odd_containers,
    "overhead": anything,
    "resources": anything,
}
odd_templates = st.one_of(
    st.dictionaries(fields, anything, max_size=3),
    st.fixed_dictionaries({"spec": st.fixed_dictionaries({}, optional=odd_fields)}),
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(odd_templates, odd_templates, st.sampled_from(["", "a", "task"]))
def test_whatever_a_template_is_it_is_refused_by_name_or_has_a_demand(
    template: Any, pool_template: Any, main: str
) -> None:
    """Nothing else may come of it: what is admitted anywhere must not end a leader."""
    try:
        pool = parse_pool(
            {
                "name": "p",
                "capacity": {"cpu": 9},
                "engine_options": {"pod_template": pool_template, "main_container": main},
            }
        )
        spec = parse_spec({"id": "a", "image": "x", "pod_template": template})
    except InvalidField:
        return
    held = demand(spec, pool)
    assert all(amount > 0 for amount in held.values())
    given = replace(
        launch("run", pod_template=spec.pod_template, engine_options=pool.engine_options), hold=held
    )
    for refusing in (lambda: check(spec, pool), lambda: build_pod(given, options_for(given), "jobs")):
        with suppress(InvalidField):
            refusing()
