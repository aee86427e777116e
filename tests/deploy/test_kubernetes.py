"""The Kubernetes manifests: rendered, checked field by field against the API's own models, and against
what Tally reads.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import models

from controller.config import Settings, check_timings, load_settings, variable_of
from controller.dev.etcd import EtcdBinary
from controller.endpoint.routes import ROUTES
from controller.endpoint.server import STOP_SECONDS
from controller.engine.kubernetes.rights import NEEDED, OF_IDENTITY
from controller.runtime.tenure import TEARDOWN_SECONDS
from controller.store.base import StoreError
from tests.support.etcd import EtcdFactory, free_ports, in_seconds
from tests.support.kustomize import CUSTOM, OVERLAYS, TRY_OUT, Object, copy_of_deploy, only, render
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("manifests")  # each overlay is rendered once

POD_IP = "10.0.0.7"


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `deploy/` that may be changed."""
    return copy_of_deploy(tmp_path_factory.mktemp("deploy"))


@pytest.fixture(scope="module")
def rendered(deploy: Path) -> Callable[[str], list[Object]]:
    """Renders an overlay, once."""
    return cache(lambda overlay: render(deploy / overlay))


@pytest.fixture(params=OVERLAYS)
def objects(request: pytest.FixtureRequest, rendered: Callable[[str], list[Object]]) -> list[Object]:
    """An overlay's objects."""
    return deepcopy(rendered(request.param))


def workloads(objects: list[Object]) -> Iterator[Object]:
    """What has pods."""
    return (each for each in objects if each["kind"] in ("Deployment", "StatefulSet"))


def test_every_object_is_what_the_api_knows(objects: list[Object]) -> None:
    """No field is unknown, misspelt, of another type, or missing: the model gives back exactly what it was
    given.
    """
    for each in objects:
        if each["kind"] in CUSTOM:
            assert each["apiVersion"] == "monitoring.coreos.com/v1"
            continue
        assert each["apiVersion"].rpartition("/")[2] == "v1"
        model = getattr(models, f"V1{each['kind']}").from_dict(each)
        assert model.model_dump(by_alias=True, exclude_none=True, mode="json") == each


def test_names_and_labels_meet(objects: list[Object]) -> None:
    """Selectors select the pods that they are for, and what a pod refers to is there, or said to be made
    beforehand.
    """
    labels = {
        each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"]
        for each in workloads(objects)
    }
    for each in workloads(objects):
        own = labels[each["metadata"]["name"]].items()
        assert each["spec"]["selector"]["matchLabels"].items() <= own
        for spread in each["spec"]["template"]["spec"]["topologySpreadConstraints"]:
            assert spread["labelSelector"]["matchLabels"].items() <= own
        assert only(objects, "Service", each["metadata"]["name"])["spec"]["selector"].items() <= own
        assert (
            only(objects, "PodDisruptionBudget", each["metadata"]["name"])["spec"]["selector"][
                "matchLabels"
            ].items()
            <= own
        )
        assert (
            only(objects, "NetworkPolicy", each["metadata"]["name"])["spec"]["podSelector"][
                "matchLabels"
            ].items()
            <= own
        )
    there = {(each["kind"], each["metadata"]["name"]) for each in objects}
    made_before = {("Secret", "tally-etcd-tls"), ("Secret", "tally-etcd-password")}
    for each in workloads(objects):
        assert set(references(each["spec"]["template"]["spec"])) <= there | made_before
    assert only(objects, "Deployment", "tally")["spec"]["replicas"] == 3


def references(spec: Object) -> Iterator[tuple[str, str]]:
    """(kind, name) of what a pod needs."""
    for volume in spec.get("volumes", []):
        yield "Secret", volume["secret"]["secretName"]
    for container in spec["containers"]:
        for source in container.get("envFrom", []):
            yield "ConfigMap", source["configMapRef"]["name"]
    if "serviceAccountName" in spec:
        yield "ServiceAccount", spec["serviceAccountName"]


def test_the_role_is_the_least_that_is_enough(objects: list[Object]) -> None:
    """Exactly what the engine needs, in the namespace of the attempts alone, for the controller's account
    alone.
    """
    roles = [each for each in objects if each["kind"] in ("Role", "ClusterRole")]
    (role,) = roles
    assert role["metadata"]["namespace"] == "tally-tasks"
    given = {rule["resources"][0]: tuple(sorted(rule["verbs"])) for rule in role["rules"]}
    assert given == {resource: tuple(sorted(verbs)) for resource, verbs in {**NEEDED, **OF_IDENTITY}.items()}
    assert all(len(rule["resources"]) == 1 and rule["apiGroups"] == [""] for rule in role["rules"])
    (binding,) = [each for each in objects if each["kind"] in ("RoleBinding", "ClusterRoleBinding")]
    assert binding["metadata"]["namespace"] == "tally-tasks"
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "tally", "namespace": "tally"}]


def settings_of(objects: list[Object], folder: Path) -> Settings:
    """What the replica in the pod reads, with its files in `folder`."""
    (container,) = only(objects, "Deployment", "tally")["spec"]["template"]["spec"]["containers"]
    environ: dict[str, str] = {}
    for source in container["envFrom"]:
        environ |= only(objects, "ConfigMap", source["configMapRef"]["name"])["data"]
    fields = {"metadata.name": "tally-5d4f9c7b8-x2x7k", "status.podIP": POD_IP}
    for variable in container["env"]:
        value = variable.get("value") or fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        for mount in container["volumeMounts"]:
            if value.startswith(mount["mountPath"]):
                value = str(folder / value.lstrip("/"))
                Path(value).parent.mkdir(parents=True, exist_ok=True)
                Path(value).touch()
        assert variable["name"] not in environ
        environ[variable["name"]] = value
    (folder / "empty.toml").touch()
    loaded = load_settings({}, environ, str(folder / "empty.toml"))
    known = {variable_of(name) for name, origin in loaded.origins.items() if origin.startswith("environment")}
    assert known == set(environ), "a variable is no setting"
    return loaded.settings


def test_the_replica_accepts_its_settings_and_can_be_reached(objects: list[Object], tmp_path: Path) -> None:
    """Every variable is a setting; it listens where the kubelet and the others can reach it, and says so."""
    settings = settings_of(objects, tmp_path)
    check_timings(settings)
    assert settings.engine == "kubernetes"
    assert settings.status == "0.0.0.0:9180"
    assert settings.advertise == POD_IP
    assert settings.kube_namespaces == (only(objects, "Role", "tally")["metadata"]["namespace"],)
    assert all(endpoint.startswith("https://") for endpoint in settings.etcd)
    assert settings.ca_file is not None
    assert settings.cert_file is not None
    (container,) = only(objects, "Deployment", "tally")["spec"]["template"]["spec"]["containers"]
    assert [port["containerPort"] for port in container["ports"]] == [9180]
    paths = {container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "liveness", "readiness")}
    assert paths == {"/livez", "/readyz"} <= {route.path for route in ROUTES}


def test_a_pod_is_given_more_time_than_its_drain_takes(objects: list[Object], tmp_path: Path) -> None:
    """The sum of all bounded steps of a shutdown, each at its worst."""
    settings = settings_of(objects, tmp_path)
    hand_over = settings.lease_ttl_seconds + TEARDOWN_SECONDS
    deregister = settings.heartbeat_seconds + settings.request_timeout_seconds + TEARDOWN_SECONDS
    spec = only(objects, "Deployment", "tally")["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] > 2 * (hand_over + deregister + STOP_SECONDS)


def test_a_changed_setting_rolls_the_replicas(deploy: Path) -> None:
    """The pods' template names the configuration by its content."""
    before = only(render(deploy / TRY_OUT), "Deployment", "tally")["spec"]["template"]
    settings = deploy / "kubernetes/base/controller/kustomization.yaml"
    text = settings.read_text()
    settings.write_text(text.replace("TALLY_CLUSTER=default", "TALLY_CLUSTER=other"))
    after = only(render(deploy / TRY_OUT), "Deployment", "tally")["spec"]["template"]
    settings.write_text(text)
    assert after != before


def test_pods_are_restricted(objects: list[Object]) -> None:
    """The Pod Security standard `restricted`, which the namespaces enforce, and a root file system that
    nobody writes.
    """
    for namespace in ("tally", "tally-tasks"):
        labels = only(objects, "Namespace", namespace)["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for each in workloads(objects):
        spec = each["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"requests", "limits"} <= set(container["resources"])
        assert all("secret" in volume for volume in spec.get("volumes", [])), "no host path, nothing writable"


def test_all_traffic_is_named(objects: list[Object]) -> None:
    """Nothing goes in or out of the controller's namespace unless a policy allows it; etcd hears Tally,
    and its own.
    """
    denied = only(objects, "NetworkPolicy", "deny-all")["spec"]
    assert denied == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    own = only(objects, "NetworkPolicy", "tally")["spec"]
    (ingress,) = own["ingress"]
    assert ingress["ports"] == [{"port": 9180}]
    assert {"port": 9180} in [port for rule in own["egress"] for port in rule["ports"]], (
        "followers watch the leader's endpoint"
    )
    if any(each["kind"] == "StatefulSet" for each in objects):
        hears = only(objects, "NetworkPolicy", "etcd")["spec"]["ingress"]
        peers = {rule["ports"][0]["port"]: rule["from"] for rule in hears}
        assert {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "tally"}}} in peers[2379]
        assert peers[2380] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "etcd"}}}]


def test_who_is_let_in_is_let_out(objects: list[Object]) -> None:
    """Whom a policy of the namespace lets in by a label: another lets it out, to there and to the names."""
    policies = [
        each["spec"]
        for each in objects
        if each["kind"] == "NetworkPolicy" and each["metadata"]["namespace"] == "tally"
    ]

    def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
        wanted: dict[str, str] = selector.get("matchLabels", {})
        return wanted.items() <= labels.items()

    seen = 0
    for policy in policies:
        for rule in policy.get("ingress", ()):
            for peer in rule["from"]:
                if "namespaceSelector" in peer or not (labels := peer["podSelector"].get("matchLabels")):
                    continue
                out = [
                    each
                    for own in policies
                    if selects(own["podSelector"], labels)
                    for each in own.get("egress", ())
                ]
                target = policy["podSelector"]["matchLabels"]
                ports = {
                    port["port"]
                    for each in out
                    if any(selects(to.get("podSelector", {}), target) for to in each.get("to", [{}]))
                    for port in each["ports"]
                }
                assert {port["port"] for port in rule["ports"]} <= ports, f"{labels} to {target}"
                assert 53 in {port["port"] for each in out for port in each["ports"]}, f"{labels}: names"
                seen += 1
    assert seen >= (3 if any(each["kind"] == "StatefulSet" for each in objects) else 0)


def test_the_example_etcd_runs_as_it_is_written(
    deploy: Path, etcd_binary: EtcdBinary, etcd_factory: EtcdFactory, tmp_path: Path
) -> None:
    """Three members with the manifest's own arguments and the script's certificates, on this machine's
    addresses: Tally's certificate is let in, and nobody without one."""
    (container,) = only(render(deploy / TRY_OUT), "StatefulSet", "etcd")["spec"]["template"]["spec"][
        "containers"
    ]
    ports = free_ports(9)
    processes = []
    try:
        for number in range(3):
            arguments = [on_this_machine(each, number, ports, deploy, tmp_path) for each in container["args"]]
            with (tmp_path / f"etcd-{number}.log").open("wb") as log:
                processes.append(subprocess.Popen([etcd_binary.path, *arguments], stdout=log, stderr=log))
        endpoints = [f"https://127.0.0.1:{ports[3 * number]}" for number in range(3)]
        certificates = deploy / TRY_OUT / "certificates"
        files = {"ca_file": "ca.crt", "cert_file": "tally.crt", "key_file": "tally.key"}
        allowed = etcd_factory.store(
            *endpoints, **{name: str(certificates / file) for name, file in files.items()}
        )

        def answers() -> bool:
            assert all(process.poll() is None for process in processes), (
                tmp_path / "etcd-0.log"
            ).read_text()[-2000:]
            try:
                return allowed.get("/tally/default/leader", deadline=in_seconds(2))[1] > 0
            except StoreError:
                return False

        wait_until(answers, "etcd's answer", timeout=60)
        stranger = etcd_factory.store(*endpoints, ca_file=str(certificates / "ca.crt"))
        with pytest.raises(StoreError):
            stranger.get("/tally/default/leader", deadline=in_seconds(5))
    finally:
        for process in processes:
            process.kill()
            process.wait()


def on_this_machine(argument: str, number: int, ports: list[int], deploy: Path, folder: Path) -> str:
    """An argument of the manifest, with names and ports of this machine."""

    def port(match: re.Match[str]) -> str:
        member = number if match[1] in ("0.0.0.0", "$(POD_NAME)") else int(match[1][-1])
        return f"127.0.0.1:{ports[3 * member + int(match[2]) - 2379]}"

    argument = re.sub(r"(0\.0\.0\.0|\$\(POD_NAME\)|etcd-\d)(?:\.etcd\.tally\.svc)?:(\d{4})", port, argument)
    argument = argument.replace("$(POD_NAME)", f"etcd-{number}").replace(
        "/var/lib/etcd", str(folder / f"data-{number}")
    )
    certificates = deploy / TRY_OUT / "certificates"
    for mounted, made in {"tls.crt": "etcd.crt", "tls.key": "etcd.key", "ca.crt": "ca.crt"}.items():
        argument = argument.replace(f"/etc/etcd/tls/{mounted}", str(certificates / made))
    return argument


def test_the_certificates_last(deploy: Path) -> None:
    """The script's are what the manifests name, and its second call renews them under the same authority."""
    folder = deploy / TRY_OUT / "certificates"
    before: dict[str, Any] = {path.name: path.read_bytes() for path in folder.iterdir()}
    subprocess.run([deploy / TRY_OUT / "certificates.sh"], check=True, capture_output=True)
    assert (folder / "ca.crt").read_bytes() == before["ca.crt"]
    assert (folder / "tally.crt").read_bytes() != before["tally.crt"]
    openssl = shutil.which("openssl") or ""
    for name in ("etcd", "tally"):
        verify = [openssl, "verify", "-CAfile", "ca.crt", f"{name}.crt"]
        assert subprocess.run(verify, cwd=folder, check=False, capture_output=True).returncode == 0
