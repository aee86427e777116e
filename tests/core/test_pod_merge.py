"""Pod templates merged: nothing that the one above names is lost, nothing stands that it replaces, and the
order is told.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.model.merge_keys import MERGE_KEYS, identity
from controller.core.model.pod_merge import check_template, overlay
from controller.errors import InvalidField

Pod = dict[str, Any]


def container(**fields: Any) -> Pod:
    """A template of the task's container."""
    return {"spec": {"containers": [{"name": "task", **fields}]}}


def merged(below: Pod, above: Pod) -> Pod:
    """The task's container in the merged template."""
    for template in (below, above):
        check_template(template, "pod_template")
    pod = overlay(overlay({}, below), above)
    check_template(pod, "pod_template")
    first: Pod = pod["spec"]["containers"][0]
    return first


def field_of(below: Any, above: Any, field: str) -> Any:
    """A field of the task's container after merging the two values of it."""
    return merged(container(**{field: below}), container(**{field: above})).get(field)


@pytest.mark.parametrize(
    ("field", "below", "above", "expected"),
    [
        # One volume at three places (found C1).
        (
            "volumeMounts",
            [{"name": "data", "mountPath": "/data"}],
            [{"name": "data", "mountPath": "/a"}, {"name": "data", "mountPath": "/b"}],
            [
                {"name": "data", "mountPath": "/data"},
                {"name": "data", "mountPath": "/a"},
                {"name": "data", "mountPath": "/b"},
            ],
        ),
        (
            "volumeMounts",
            [{"name": "data", "mountPath": "/data", "readOnly": True}],
            [{"name": "mine", "mountPath": "/data"}],
            [{"name": "mine", "mountPath": "/data", "readOnly": True}],
        ),
        (
            "volumeDevices",
            [{"name": "d", "devicePath": "/dev/a"}],
            [{"name": "d", "devicePath": "/dev/b"}],
            [{"name": "d", "devicePath": "/dev/a"}, {"name": "d", "devicePath": "/dev/b"}],
        ),
        # Unnamed ports, told apart by number and protocol; a protocol that is not said is TCP.
        (
            "ports",
            [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 80}],
            [{"containerPort": 53}, {"containerPort": 80, "protocol": "TCP", "hostPort": 8080}],
            [
                {"containerPort": 53, "protocol": "UDP"},
                {"containerPort": 53},
                {"containerPort": 80, "protocol": "TCP", "hostPort": 8080},
            ],
        ),
        (
            "envFrom",
            [{"secretRef": {"name": "a"}}],
            [{"secretRef": {"name": "b"}}],
            [{"secretRef": {"name": "b"}}],
        ),
        ("command", ["a", "b"], ["c"], ["c"]),
        ("args", ["a"], [], []),
        ("env", [{"name": "A", "value": "1"}], [], [{"name": "A", "value": "1"}]),
        ("env", [{"name": "A", "value": "1"}], None, None),
    ],
)
def test_lists(field: str, below: Any, above: Any, expected: Any) -> None:
    assert field_of(below, above, field) == expected


SECRET = {"secretKeyRef": {"name": "s", "key": "k"}}


@pytest.mark.parametrize(
    ("below", "above", "expected"),
    [
        ({"value": "1"}, {"valueFrom": SECRET}, {"valueFrom": SECRET}),
        ({"valueFrom": SECRET}, {"value": "1"}, {"value": "1"}),
        (
            {"valueFrom": SECRET},
            {"valueFrom": {"fieldRef": {"fieldPath": "x"}}},
            {"valueFrom": {"fieldRef": {"fieldPath": "x"}}},
        ),
        (
            {"valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}},
            {"valueFrom": {"secretKeyRef": {"name": "t", "key": "k"}}},
            {"valueFrom": {"secretKeyRef": {"name": "t", "key": "k"}}},
        ),
        ({"value": "1"}, {}, {"value": "1"}),
    ],
)
def test_a_variable_has_one_source(below: Pod, above: Pod, expected: Pod) -> None:
    assert field_of([{"name": "A", **below}], [{"name": "A", **above}], "env") == [{"name": "A", **expected}]


@pytest.mark.parametrize(
    ("below", "above", "expected"),
    [
        ({"emptyDir": {}}, {"hostPath": {"path": "/x"}}, {"hostPath": {"path": "/x"}}),
        (
            {"emptyDir": {"medium": "Memory"}},
            {"emptyDir": {"sizeLimit": "1Gi"}},
            {"emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
        ),
        ({"emptyDir": {}}, {"notKnownYet": {}}, {"notKnownYet": {}}),
        ({"emptyDir": {}}, {"emptyDir": None, "hostPath": {"path": "/x"}}, {"hostPath": {"path": "/x"}}),
    ],
)
def test_a_volume_has_one_type(below: Pod, above: Pod, expected: Pod) -> None:
    volumes = overlay({"volumes": [{"name": "v", **below}]}, {"volumes": [{"name": "v", **above}]})["volumes"]
    assert volumes == [{"name": "v", **expected}]


@pytest.mark.parametrize("field", ["livenessProbe", "readinessProbe", "startupProbe"])
def test_a_probe_has_one_handler(field: str) -> None:
    """Its times stay those of the one below."""
    below = {"httpGet": {"port": 80}, "periodSeconds": 3}
    assert field_of(below, {"exec": {"command": ["x"]}}, field) == {
        "exec": {"command": ["x"]},
        "periodSeconds": 3,
    }
    assert field_of(below, {"httpGet": {"path": "/z"}}, field) == {
        "httpGet": {"port": 80, "path": "/z"},
        "periodSeconds": 3,
    }


def test_a_hook_has_one_handler() -> None:
    below = {"preStop": {"exec": {"command": ["x"]}}, "postStart": {"exec": {"command": ["y"]}}}
    expected = {"preStop": {"sleep": {"seconds": 1}}, "postStart": {"exec": {"command": ["y"]}}}
    assert field_of(below, {"preStop": {"sleep": {"seconds": 1}}}, "lifecycle") == expected


def test_security_contexts_are_merged_and_a_profile_is_one_thing() -> None:
    below = {
        "runAsUser": 1,
        "seccompProfile": {"type": "Localhost", "localhostProfile": "p"},
        "capabilities": {"drop": ["ALL"]},
    }
    above = {"seccompProfile": {"type": "RuntimeDefault"}, "capabilities": {"add": ["KILL"]}}
    expected = {
        "runAsUser": 1,
        "seccompProfile": {"type": "RuntimeDefault"},
        "capabilities": {"drop": ["ALL"], "add": ["KILL"]},
    }
    assert field_of(below, above, "securityContext") == expected


def test_lists_of_the_pod() -> None:
    below: dict[str, Any] = {
        "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a"]}],
        "topologySpreadConstraints": [
            {"topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 1}
        ],
        "tolerations": [{"key": "a"}],
        "imagePullSecrets": [{"name": "a"}],
        "ephemeralContainers": [{"name": "debug", "image": "x"}],
    }
    above: dict[str, Any] = {
        "hostAliases": [{"ip": "10.0.0.2", "hostnames": ["b"]}, {"ip": "10.0.0.1", "hostnames": ["c"]}],
        "topologySpreadConstraints": [
            {"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 2}
        ],
        "tolerations": [{"key": "b"}],
        "imagePullSecrets": [{"name": "b"}],
        "ephemeralContainers": [{"name": "debug", "stdin": True}],
    }
    assert overlay(below, above) == {
        "hostAliases": [{"ip": "10.0.0.2", "hostnames": ["b"]}, {"ip": "10.0.0.1", "hostnames": ["c"]}],
        "topologySpreadConstraints": [
            *below["topologySpreadConstraints"],
            *above["topologySpreadConstraints"],
        ],
        "tolerations": [{"key": "b"}],
        "imagePullSecrets": [{"name": "a"}, {"name": "b"}],
        "ephemeralContainers": [{"name": "debug", "image": "x", "stdin": True}],
    }


def test_variables_can_go_on_referring_to_those_before_them() -> None:
    """Of both templates: what one has before an entry stays before it."""
    below = [
        {"name": "A", "value": "a"},
        {"name": "OUT", "value": "/x"},
        {"name": "LOG", "value": "$(OUT)/log"},
    ]
    above = [{"name": "BASE", "value": "/b"}, {"name": "OUT", "value": "$(BASE)/o"}]
    assert [each["name"] for each in field_of(below, above, "env")] == ["A", "BASE", "OUT", "LOG"]
    assert [each["name"] for each in field_of(below, below[::-1], "env")] == ["LOG", "OUT", "A"]


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"volumeMounts": [{"name": "v"}]}, "volumeMounts[0]"),
        (
            {"volumeMounts": [{"name": "v", "mountPath": "/a"}, {"name": "w", "mountPath": "/a"}]},
            "volumeMounts[/a]",
        ),
        ({"ports": [{"containerPort": 1}, {"containerPort": 1, "protocol": "TCP"}]}, "ports[1/TCP]"),
        ({"env": {"A": "1"}}, "env"),
        ({"env": ["A=1"]}, "env[0]"),
        ({"env": [{"name": "TALLY_ATTEMPT", "value": "3"}]}, "env[TALLY_ATTEMPT]"),
        ({"resources": {"claims": [{}]}}, "resources.claims[0]"),
    ],
)
def test_what_cannot_be_told_apart_is_refused_by_name(fields: Pod, where: str) -> None:
    for name in ("task", "side"):
        with pytest.raises(InvalidField) as refused:
            check_template({"spec": {"containers": [{"name": name, **fields}]}}, "pod_template")
        assert refused.value.field == f"pod_template.spec.containers[{name}].{where}"


# -- properties
# --------------------------------------------------------------------------------------------------------

words = st.sampled_from(["a", "b", "c", "d"])
amounts = st.dictionaries(st.sampled_from(["cpu", "memory", "x.io/gpu"]), st.integers(0, 5), max_size=3)


def entries(
    field: str, fields: dict[str, st.SearchStrategy[Any]], *keys: st.SearchStrategy[Any]
) -> st.SearchStrategy[list[Any]]:
    """A list whose entries have their merge keys and some other fields."""
    named = dict(zip(MERGE_KEYS[field], keys, strict=True))
    one = st.fixed_dictionaries(named, optional=fields)
    return st.lists(one, max_size=3, unique_by=lambda entry: identity(field, entry))


handlers = st.one_of(
    st.fixed_dictionaries({"exec": st.fixed_dictionaries({"command": st.lists(words, max_size=2)})}),
    st.fixed_dictionaries(
        {"httpGet": st.fixed_dictionaries({"port": st.integers(1, 3)}, optional={"path": words})}
    ),
)
sources = st.one_of(
    st.fixed_dictionaries({"value": words}),
    st.fixed_dictionaries(
        {"valueFrom": st.fixed_dictionaries({"fieldRef": st.fixed_dictionaries({"fieldPath": words})})}
    ),
)
variables = st.dictionaries(words, sources, max_size=3).map(
    lambda env: [{"name": name, **source} for name, source in env.items()]
)
volume_types = st.one_of(
    st.fixed_dictionaries({"emptyDir": st.fixed_dictionaries({}, optional={"medium": words})}),
    st.fixed_dictionaries({"hostPath": st.fixed_dictionaries({"path": words})}),
)
volumes = st.dictionaries(words, volume_types, max_size=3).map(
    lambda by: [{"name": name, **kind} for name, kind in by.items()]
)
container_fields: dict[str, st.SearchStrategy[Any]] = {
    "env": variables,
    "command": st.lists(words, max_size=2),
    "envFrom": st.lists(st.fixed_dictionaries({"prefix": words}), max_size=2),
    "volumeMounts": entries("volumeMounts", {"name": words, "readOnly": st.booleans()}, words),
    "ports": entries(
        "ports", {"hostPort": st.integers(1, 3)}, st.integers(1, 3), st.sampled_from(["TCP", "UDP"])
    ),
    "livenessProbe": handlers,
    "resources": st.fixed_dictionaries({}, optional={"requests": amounts, "limits": amounts}),
    "securityContext": st.fixed_dictionaries({}, optional={"runAsUser": st.integers(0, 3)}),
}
pod_fields: dict[str, st.SearchStrategy[Any]] = {
    "containers": entries("containers", container_fields, words),
    "initContainers": entries("initContainers", container_fields, words),
    "volumes": volumes,
    "tolerations": st.lists(st.fixed_dictionaries({"key": words}), max_size=2),
    "hostAliases": entries("hostAliases", {"hostnames": st.lists(words, max_size=2)}, words),
    "nodeSelector": st.dictionaries(words, words, max_size=2),
}
templates = st.fixed_dictionaries(
    {},
    optional={
        "spec": st.fixed_dictionaries({}, optional=pod_fields),
        "metadata": st.fixed_dictionaries(
            {}, optional={"annotations": st.dictionaries(words, words, max_size=2)}
        ),
    },
)


def lost(named: Any, found: Any, field: str = "", path: str = "pod") -> list[str]:
    """What the template names that is not so in what came out."""
    if isinstance(named, dict):
        if not isinstance(found, dict):
            return [path]
        return [
            one
            for name, value in named.items()
            for one in lost(value, found.get(name), name, f"{path}.{name}")
        ]
    if isinstance(named, list) and field in MERGE_KEYS:
        by = {identity(field, entry): entry for entry in found or ()}
        return [
            one
            for each in named
            for one in lost(each, by.get(identity(field, each)), "", f"{path}[{identity(field, each)}]")
        ]
    return [] if named == found else [path]


@given(templates)
def test_merging_with_nothing_or_itself_changes_nothing(template: Pod) -> None:
    assert overlay({}, template) == template
    assert overlay(template, {}) == template
    assert overlay(template, template) == template


@given(templates, templates)
def test_nothing_that_the_task_names_is_lost(below: Pod, above: Pod) -> None:
    """And the result is a template again, and merging anew what is in it changes nothing."""
    both = overlay(below, above)
    check_template(both, "pod_template")
    assert lost(above, both) == []
    assert overlay(both, above) == both


@given(templates, templates)
def test_entries_keep_the_order_that_each_template_gives_them(below: Pod, above: Pod) -> None:
    """The one above as it is, and of the one below what the other does not name."""
    for field in ("containers", "initContainers", "volumes", "hostAliases"):
        under, over, both = (
            [identity(field, each) for each in template.get("spec", {}).get(field, ())]
            for template in (below, above, overlay(below, above))
        )
        assert [key for key in both if key in over] == over
        assert [key for key in both if key not in over] == [key for key in under if key not in over]


@pytest.mark.parametrize(
    ("kind", "fields", "field"),
    [
        ("containers", {"restartPolicy": "Always"}, "restartPolicy"),
        ("containers", {"restartPolicy": "Never"}, "restartPolicy"),
        ("initContainers", {"restartPolicy": "OnFailure"}, "restartPolicy"),
        ("containers", {"restartPolicyRules": [{"action": "Restart"}]}, "restartPolicyRules"),
        ("initContainers", {"restartPolicyRules": [{"action": "Restart"}]}, "restartPolicyRules"),
    ],
)
def test_no_container_of_an_attempt_runs_twice(kind: str, fields: Pod, field: str) -> None:
    """Kubernetes from 1.34 on starts single containers again, also in a pod that is never restarted."""
    with pytest.raises(InvalidField, match=rf"pod_template\.spec\.{kind}\[side\]\.{field}: .*runs once"):
        check_template({"spec": {kind: [{"name": "side", **fields}]}}, "pod_template")


def test_a_sidecar_is_one_that_is_always_started_again() -> None:
    check_template(
        {"spec": {"initContainers": [{"name": "side", "restartPolicy": "Always"}]}}, "pod_template"
    )
