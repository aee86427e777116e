"""The pod that an attempt becomes: what Tally owns, what templates may change, and what is refused, by
name.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from controller.core.model.resources import Vector
from controller.core.model.task import Deadlines, Pool
from controller.dev.fake_kubernetes.admission import _restricted
from controller.engine.kubernetes.pod import decode_pod
from controller.engine.kubernetes.pod_template import build_pod, options_for, parse_options
from controller.errors import InvalidField
from tests.engine.kubernetes_cases import launch


def pod_of(*command: str, engine_options: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """The pod of such a launch, in namespace jobs."""
    given = launch(*command or ("true",), engine_options=engine_options, **spec)
    return build_pod(given, parse_options(given.pool), "jobs")


def main(pod: dict[str, Any]) -> dict[str, Any]:
    """The task's container."""
    found: dict[str, Any] = pod["spec"]["containers"][0]
    assert found["name"] == "task"
    return found


def test_names_labels_and_the_fencing_token() -> None:
    pod = pod_of("true", task_id="train", labels={"team": "blue"})
    assert (pod["metadata"]["name"], pod["metadata"]["namespace"]) == ("train-1", "jobs")
    assert pod["metadata"]["labels"] == {
        "team": "blue",
        "app.kubernetes.io/name": "tally-task",
        "app.kubernetes.io/instance": "train",
        "app.kubernetes.io/managed-by": "tally",
        "tally.dev/cluster": "test",
        "tally.dev/task": "train",
        "tally.dev/attempt": "1",
    }
    assert pod["metadata"]["finalizers"] == ["tally.dev/attempt"]
    env = {each["name"]: each["value"] for each in main(pod)["env"]}
    assert (env["TALLY_TASK_ID"], env["TALLY_ATTEMPT"], env["TALLY_TERM"]) == ("train", "1", "7")
    assert pod["spec"]["restartPolicy"] == "Never"


def test_the_defaults_meet_pod_security_restricted() -> None:
    """Also for other containers that a template adds; and nobody is given a service account's token."""
    pod = pod_of(
        pod_template={
            "spec": {
                "containers": [{"name": "side", "image": "x"}],
                "initContainers": [{"name": "i", "image": "x"}],
            }
        }
    )
    assert list(_restricted(pod["spec"])) == []
    assert pod["spec"]["initContainers"][0]["securityContext"]["allowPrivilegeEscalation"] is False
    assert pod["spec"]["automountServiceAccountToken"] is False


def test_resources_are_requests_and_limits() -> None:
    """What Kubernetes does not know is Tally's own accounting alone."""
    given = Vector.parse({"cpu": "500m", "memory": "64Mi", "nvidia.com/gpu": 1, "licences": 3})
    resources = main(pod_of("true", resources=given))["resources"]
    assert (
        resources["requests"]
        == resources["limits"]
        == {"cpu": "500m", "memory": "64Mi", "nvidia.com/gpu": "1"}
    )


@pytest.mark.parametrize(("grace", "seconds"), [(0.0, 1), (0.5, 1), (30.0, 30), (30.5, 31)])
def test_the_grace_is_at_least_one_second(grace: float, seconds: int) -> None:
    """0 would remove the object while its container runs."""
    assert pod_of("true", grace_seconds=grace)["spec"]["terminationGracePeriodSeconds"] == seconds


def test_the_active_deadline_ends_after_the_leaders_own() -> None:
    """It counts from the pod's acceptance: images are pulled within it."""
    both = pod_of("true", deadlines=Deadlines(run_seconds=100.0, start_seconds=50.0), grace_seconds=10.0)
    assert both["spec"]["activeDeadlineSeconds"] == 100 + 50 + 10 + 60
    assert "activeDeadlineSeconds" not in pod_of("true")["spec"]


@pytest.mark.parametrize("text", ["echo $$", "$(date)", "$$(x)", "$$$", "$", "a$b", "$$$$(", ""])
def test_commands_mean_the_same_as_in_other_engines(text: str) -> None:
    """Kubernetes expands `$(NAME)` and halves `$$`; here as it does (third_party/forked/golang/expansion)."""

    def expand(escaped: str) -> str:
        out, i = "", 0
        while i < len(escaped):
            pair = escaped[i : i + 2]
            assert pair != "$(", "a reference"
            out, i = (out + "$", i + 2) if pair == "$$" else (out + escaped[i], i + 1)
        return out

    container = main(pod_of("sh", text, args=(text,), env={"X": text}))
    assert [expand(each) for each in (container["command"][1], container["args"][0])] == [text, text]
    assert expand(next(each["value"] for each in container["env"] if each["name"] == "X")) == text


def test_pool_options_choose() -> None:
    options = {
        "priority_class": "low",
        "node_selector": {"disk": "ssd"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "image_pull_secrets": ["registry"],
        "image_pull_policy": "Never",
        "scheduling_gates": True,
    }
    pod = pod_of("true", engine_options=options)
    spec = pod["spec"]
    assert (spec["priorityClassName"], spec["nodeSelector"], spec["tolerations"]) == (
        "low",
        {"disk": "ssd"},
        [{"key": "gpu", "operator": "Exists"}],
    )
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert main(pod)["imagePullPolicy"] == "Never"
    assert spec["schedulingGates"] == [{"name": "tally.dev/leadership"}]


def test_a_pools_template_gives_the_hosts_network() -> None:
    """As a cluster without a network plugin needs it; the task's own template goes over the pool's, null
    takes away.
    """
    pool = {
        "pod_template": {
            "spec": {"hostNetwork": True, "dnsPolicy": "Default", "securityContext": {"runAsUser": None}}
        }
    }
    spec = pod_of("true", engine_options=pool, pod_template={"spec": {"dnsPolicy": "None"}})["spec"]
    assert (spec["hostNetwork"], spec["dnsPolicy"]) == (True, "None")
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def test_templates_merge_by_name() -> None:
    """A container named task is the task's own; its variables stand beside those of the spec."""
    secret = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    template = {
        "metadata": {"annotations": {"a": "b"}},
        "spec": {
            "containers": [
                {"name": "side", "image": "x"},
                {"name": "task", "env": [secret], "volumeMounts": [{"name": "v", "mountPath": "/v"}]},
            ]
        },
    }
    pod = pod_of("true", pod_template=template, env={"A": "1"})
    assert [each["name"] for each in pod["spec"]["containers"]] == ["task", "side"]
    assert {"KEY", "A", "TALLY_TERM"} <= {each["name"] for each in main(pod)["env"]}
    assert main(pod)["volumeMounts"] == [{"name": "v", "mountPath": "/v"}]
    assert pod["metadata"]["annotations"]["a"] == "b"


def names(container: dict[str, Any]) -> list[str]:
    """Of a container's variables."""
    return [each["name"] for each in container["env"]]


FENCE = ["TALLY_TASK_ID", "TALLY_ATTEMPT", "TALLY_TERM"]


def test_the_fence_comes_first_in_every_container() -> None:
    """Kubernetes lets a variable refer to those before it alone (found C5).

    The user's own keep their order, and stand next.
    """
    own = {"name": "OUT", "value": "/data/$(TALLY_ATTEMPT)"}
    others = {"containers": [{"name": "side", "image": "x", "env": [own]}, {"name": "task", "env": [own]}]}
    template = {"spec": {**others, "initContainers": [{"name": "init", "image": "x"}]}}
    pod = pod_of("true", pod_template=template, env={"Z": "1", "A": "2"})
    assert names(main(pod)) == [*FENCE, "Z", "A", "OUT", "TALLY_MAIN_CONTAINER"]
    assert main(pod)["env"][-2] == own
    assert names(pod["spec"]["containers"][1]) == [*FENCE, "OUT"]
    assert names(pod["spec"]["initContainers"][0]) == FENCE
    values = {each["name"]: each["value"] for each in pod["spec"]["initContainers"][0]["env"]}
    assert (values["TALLY_ATTEMPT"], values["TALLY_TERM"]) == ("1", "7")


def test_the_main_container_is_told_on_the_pod() -> None:
    """By the task, or else by its pool."""
    side = {"spec": {"containers": [{"name": "side", "image": "x"}]}}

    def told(**fields: Any) -> str:
        pod = pod_of("true", pod_template=side, **fields)
        assert "tally.dev/main-container" not in pod["metadata"]["labels"]
        return decode_pod(msgspec.json.encode(pod)).ends_with

    assert told() == ""
    assert told(main_container="side") == "side"
    assert told(engine_options={"main_container": "task"}) == "task"
    assert told(engine_options={"main_container": "task"}, main_container="side") == "side"
    with pytest.raises(
        InvalidField, match="main_container: is 'other', but the containers of the task's pod are task, side"
    ):
        told(main_container="other")


def test_a_pool_that_has_changed_since_the_admission_is_refused() -> None:
    """The pod would ask for something else than is held."""
    given = launch("true", resources=Vector.parse({"cpu": 1}), pod_template=beside("500m"))
    options_for(replace(given, hold=Vector.parse({"cpu": "1500m"})))
    with pytest.raises(InvalidField, match="has changed: the pod now requests cpu 1500m, but cpu 1 is held"):
        options_for(replace(given, hold=Vector.parse({"cpu": 1})))


def beside(cpu: str) -> dict[str, Any]:
    """A template with a sidecar that asks for so much."""
    return {"spec": {"containers": [{"name": "side", "image": "x", "resources": {"requests": {"cpu": cpu}}}]}}


def task(**fields: Any) -> dict[str, Any]:
    """A template of the task's container."""
    return {"spec": {"containers": [{"name": "task", **fields}]}}


def spec_of(container: dict[str, Any]) -> dict[str, Any]:
    """A template with one container."""
    return {"spec": {"containers": [container]}}


@pytest.mark.parametrize(
    ("template", "field"),
    [
        ({"spec": {"restartPolicy": "Never"}}, "pod_template.spec.restartPolicy"),
        ({"spec": {"terminationGracePeriodSeconds": 5}}, "pod_template.spec.terminationGracePeriodSeconds"),
        ({"spec": {"tolerations": []}}, "pod_template.spec.tolerations"),
        ({"metadata": {"labels": {"tally.dev/task": "x"}}}, "pod_template.metadata.labels.tally.dev/task"),
        ({"metadata": {"name": "x"}}, "pod_template.metadata.name"),
        ({"metadata": {"finalizers": []}}, "pod_template.metadata.finalizers"),
        ({"status": {}}, "pod_template.status"),
        (task(command=["x"]), "pod_template.spec.containers[task].command"),
        (task(image=None), "pod_template.spec.containers[task].image"),
        (
            task(env=[{"name": "TALLY_TERM", "value": "8"}]),
            "pod_template.spec.containers[task].env[TALLY_TERM]",
        ),
        (
            {"metadata": {"labels": {"tally.dev/tombstone": "true"}}},
            "pod_template.metadata.labels.tally.dev/tombstone",
        ),
        (
            {"metadata": {"labels": {"tally.dev/main-container": "x"}}},
            "pod_template.metadata.labels.tally.dev/main-container",
        ),
        (task(resources={"limits": {"cpu": "2"}}), "pod_template.spec.containers[task].resources.limits.cpu"),
        ({"spec": {"containers": [{"image": "x"}]}}, "pod_template.spec.containers"),
        ({"spec": {"containers": {}}}, "pod_template.spec.containers"),
        *((task(env=odd), "pod_template.spec.containers[task].env") for odd in ("A=b", 1, True, {"A": "b"})),
        *(
            (
                {"spec": {"containers": [{"name": "side", "env": odd}]}},
                "pod_template.spec.containers[side].env",
            )
            for odd in ("A=b", 1, True)
        ),
        ({"spec": {"volumes": "all"}}, "pod_template.spec.volumes"),
        ({"spec": []}, "pod_template.spec"),
    ],
)
@pytest.mark.parametrize("of_pool", [False, True])
def test_what_both_set_is_refused_by_name(template: dict[str, Any], field: str, of_pool: bool) -> None:
    options: dict[str, Any] = {"tolerations": [{"operator": "Exists"}]}
    given: dict[str, Any] = {} if of_pool else {"pod_template": template}
    if of_pool:
        options["pod_template"] = template
    with pytest.raises(InvalidField) as refused:
        pod_of("true", engine_options=options, resources=Vector.parse({"cpu": 1}), **given)
    assert refused.value.field == (f"engine_options.{field}" if of_pool else field)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"namspace": "x"}, "engine_options.namspace"),
        ({"namespace": "Not A Name"}, "engine_options.namespace"),
        ({"namespace": 3}, "engine_options.namespace"),
        ({"image_pull_policy": "Sometimes"}, "engine_options.image_pull_policy"),
        ({"node_selector": {"a": 1}}, "engine_options.node_selector[...]"),
        ({"tolerations": "all"}, "engine_options.tolerations"),
        ({"scheduling_gates": "yes"}, "engine_options.scheduling_gates"),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidField) as refused:
        parse_options(Pool(name="p", engine_options=options))
    assert refused.value.field == field


def test_labels_that_are_tallys_own_are_refused() -> None:
    with pytest.raises(InvalidField, match=r"labels\.app\.kubernetes\.io/name: is set by Tally"):
        pod_of("true", labels={"app.kubernetes.io/name": "mine"})


def test_an_image_is_needed() -> None:
    """From the task, or from a template."""
    with pytest.raises(InvalidField, match="image: is missing"):
        pod_of("true", image="")
    assert (
        main(pod_of("true", image="", pod_template=task(image="from-template")))["image"] == "from-template"
    )
