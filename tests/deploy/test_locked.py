"""The component that protects the status endpoint, on top of the production overlay."""

from __future__ import annotations

from pathlib import Path

from kubernetes.client import models

from tests.deploy.test_kubernetes import references, settings_of
from tests.support.kustomize import copy_of_deploy, only, render

LOCKED = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../production]
components: [../../components/status-tls]
"""


def test_with_tls_and_a_token_kubelet_and_prometheus_still_read(tmp_path: Path) -> None:
    deploy = copy_of_deploy(tmp_path)
    overlay = deploy / "kubernetes/overlays/locked"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(LOCKED)
    objects = render(overlay)
    deployment = only(objects, "Deployment", "tally")
    model = models.V1Deployment.from_dict(deployment)
    assert model is not None
    assert model.model_dump(by_alias=True, exclude_none=True, mode="json") == deployment
    settings = settings_of(objects, tmp_path)
    assert None not in (settings.status_cert_file, settings.status_key_file, settings.status_token_file)
    spec = deployment["spec"]["template"]["spec"]
    assert {("Secret", "tally-status-tls"), ("Secret", "tally-status-token")} <= set(references(spec))
    (container,) = spec["containers"]
    probes = [container[f"{probe}Probe"]["httpGet"] for probe in ("startup", "liveness", "readiness")]
    assert [(probe["scheme"], probe["path"]) for probe in probes] == [
        ("HTTPS", "/livez"),
        ("HTTPS", "/livez"),
        ("HTTPS", "/readyz"),
    ]
    (endpoint,) = only(objects, "ServiceMonitor", "tally")["spec"]["endpoints"]
    assert endpoint["scheme"] == "https"
    assert endpoint["tlsConfig"]["ca"]["secret"] == {"name": "tally-status-tls", "key": "ca.crt"}
    assert endpoint["authorization"]["credentials"] == {"name": "tally-status-token", "key": "token"}
