"""The host names of an array's members on Kubernetes: who has them, what they are told, and what templates
may say.
"""

from __future__ import annotations

from typing import Any

import pytest

from controller.core.model.arrays import environment
from controller.core.model.task import AttemptId
from controller.dev.fake_kubernetes import FakeCluster
from controller.engine.kubernetes.pod_template import build_pod, build_tombstone, parse_options
from controller.errors import InvalidField
from tests.engine.kubernetes_cases import Engines, launch
from tests.engine.process_cases import wait_stopped

GANGS: dict[str, Any] = {"pod_template": {"spec": {"subdomain": "gangs"}}}


def pod_of(
    task_id: str = "train-i2",
    options: dict[str, Any] | None = None,
    env: dict[str, str] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """The pod of member 2 of `train`, in a pool whose template has the subdomain `gangs`."""
    env = environment(2, 3) | (env or {})
    given = launch(
        "true", task_id=task_id, engine_options=GANGS if options is None else options, env=env, **spec
    )
    return build_pod(given, parse_options(given.pool), "jobs")


def names(pod: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The pod's host name, its subdomain, and the label by which the subdomain's Service selects."""
    spec = pod["spec"]
    return spec.get("hostname"), spec.get("subdomain"), pod["metadata"]["labels"].get("tally.dev/subdomain")


def told(pod: dict[str, Any]) -> dict[str, str]:
    """What the task's container is told about its hosts."""
    env = {each["name"]: each.get("value", "") for each in pod["spec"]["containers"][0]["env"]}
    return {name: value for name, value in env.items() if name in ("TALLY_ARRAY_HOSTS", "TALLY_ARRAY_LEADER")}


def test_a_member_has_its_own_name_without_the_attempt_and_knows_the_others() -> None:
    pod = pod_of()
    assert pod["metadata"]["name"] == "train-i2-1"
    assert names(pod) == ("train-i2", "gangs", "gangs")
    assert told(pod) == {"TALLY_ARRAY_HOSTS": "train-i%d.gangs", "TALLY_ARRAY_LEADER": "train-i0.gangs"}
    assert told(pod)["TALLY_ARRAY_HOSTS"] % 0 == told(pod)["TALLY_ARRAY_LEADER"]


def test_the_longest_name_is_a_label() -> None:
    name = "a" * 44 + "-i9999"
    pod = pod_of(name, env=environment(9999, 10_000))
    assert names(pod)[0] == name
    assert len(name) <= 63


def test_the_tasks_template_may_name_another_service_or_none() -> None:
    assert names(pod_of(pod_template={"spec": {"subdomain": "mine"}})) == ("train-i2", "mine", "mine")
    own = pod_of(pod_template={"spec": {"subdomain": None}})
    assert (names(own), told(own)) == ((None, None, None), {})


@pytest.mark.parametrize(
    ("task_id", "options", "env"),
    [
        ("train-i2", {}, {}),  # no Service is named: nobody could look the names up
        ("train", None, {}),
        ("train-i2", None, {"TALLY_ARRAY_INDEX": "1"}),
        ("train-i02", None, {}),
    ],
)
def test_all_others_are_as_they_were(
    task_id: str, options: dict[str, Any] | None, env: dict[str, str]
) -> None:
    pod = pod_of(task_id, options, env)
    assert (names(pod)[0], names(pod)[2], told(pod)) == (None, None, {})


def test_a_task_that_is_called_like_a_member_is_none() -> None:
    given = launch("true", task_id="train-i2", engine_options=GANGS)
    pod = build_pod(given, parse_options(given.pool), "jobs")
    assert names(pod) == (None, "gangs", None)


def test_a_template_that_names_the_host_keeps_it_and_nothing_false_is_told() -> None:
    pod = pod_of(pod_template={"spec": {"hostname": "own"}})
    assert (names(pod), told(pod)) == (("own", "gangs", None), {})
    pod = pod_of(
        options={"pod_template": {"spec": {"hostname": "own", "subdomain": "gangs"}}},
        pod_template={"spec": {"hostname": None}},
    )
    assert names(pod) == ("train-i2", "gangs", "gangs")


def test_a_templates_variables_may_refer_to_them() -> None:
    """They come before: Kubernetes expands only references to what precedes."""
    variable = {"name": "MASTER_ADDR", "value": "$(TALLY_ARRAY_LEADER)"}
    pod = pod_of(pod_template={"spec": {"containers": [{"name": "task", "env": [variable]}]}})
    env = pod["spec"]["containers"][0]["env"]
    assert env.index(variable) > [each["name"] for each in env].index("TALLY_ARRAY_LEADER")


def test_nobody_else_sets_them() -> None:
    """The task's variables of that name give way, as with a member's index; a template's are refused."""
    assert told(pod_of(env={"TALLY_ARRAY_LEADER": "mine"}))["TALLY_ARRAY_LEADER"] == "train-i0.gangs"
    variable = {"name": "TALLY_ARRAY_LEADER", "value": "mine"}
    with pytest.raises(
        InvalidField, match=r"pod_template\.spec\.containers\[task\]\.env\[TALLY_ARRAY_LEADER\]"
    ):
        pod_of(pod_template={"spec": {"containers": [{"name": "task", "env": [variable]}]}})
    with pytest.raises(InvalidField, match=r"metadata\.labels\.tally\.dev/subdomain"):
        pod_of(pod_template={"metadata": {"labels": {"tally.dev/subdomain": "x"}}})


@pytest.mark.parametrize("subdomain", ["a.b", "Gangs", 7, ["gangs"], "g" * 64])
def test_a_subdomain_that_no_service_can_have_is_refused_where_it_is_said(subdomain: object) -> None:
    template = {"spec": {"subdomain": subdomain}}
    with pytest.raises(InvalidField, match=r"^pod_template\.spec\.subdomain"):
        pod_of(pod_template=template)
    with pytest.raises(InvalidField, match=r"^engine_options\.pod_template\.spec\.subdomain"):
        pod_of(options={"pod_template": template})


def test_a_tombstone_has_no_name() -> None:
    """It must not be found as the host of a member that runs."""
    tombstone = build_tombstone(AttemptId("train-i2", 1), "test", "jobs")
    assert names(tombstone) == (None, None, None)


def test_a_server_takes_them(fake_cluster: FakeCluster, engines: Engines) -> None:
    engine = engines(fake_cluster)
    given = launch("true", task_id="train-i2", engine_options=GANGS, env=environment(2, 3))
    engine.start(given)
    wait_stopped(engine, given.attempt)
    pod = fake_cluster.state.pod(str(given.attempt))
    assert pod is not None
    assert names(pod) == ("train-i2", "gangs", "gangs")
