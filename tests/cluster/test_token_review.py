"""Callers of a gateway with tokens of service accounts, as a real API server reviews them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from controller.clock import SystemClock
from controller.engine.kubernetes.api import ClusterAccess, KubernetesApi
from controller.gateway.identity import Identity, Method
from controller.gateway.token_review import TokenReviews
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]
RUNNER = "tally-test-runner"


@pytest.fixture
def account(core: Any, namespace: str) -> Iterator[str]:
    """A service account, by its name; removed again."""
    core.create_namespaced_service_account(
        namespace, client.V1ServiceAccount(metadata=client.V1ObjectMeta(name=RUNNER))
    )
    yield RUNNER
    if any(each.metadata.name == RUNNER for each in core.list_namespaced_service_account(namespace).items):
        core.delete_namespaced_service_account(RUNNER, namespace)


def reviews(*audiences: str) -> TokenReviews:
    access = ClusterAccess(kubeconfig=Path(os.environ["KUBECONFIG"].split(os.pathsep)[0]))
    clock = SystemClock()
    return TokenReviews(KubernetesApi(access, clock), audiences, clock.boottime)


def asked_anew(token: str) -> Identity | None:
    """Who it is, by one that remembers nothing."""
    kubernetes = reviews("tally")
    try:
        return kubernetes.identify(token)
    finally:
        kubernetes.close()


def token_for(core: Any, namespace: str, account: str, *audiences: str) -> str:
    """As `kubectl create token ACCOUNT --audience …` makes one."""
    spec = {"audiences": list(audiences), "expirationSeconds": 600}
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    made = core.create_namespaced_service_account_token(account, namespace, request)
    return str(made.status.token)


def test_a_service_account_is_known_by_a_token_that_is_for_the_gateway(
    core: Any, namespace: str, account: str
) -> None:
    """Not by one for another service, nor by a changed one, nor when the account is gone."""
    ours, others = (token_for(core, namespace, account, name) for name in ("tally", "vault"))
    kubernetes = reviews("tally")
    found = kubernetes.identify(ours)
    assert found is not None
    assert (found.name, found.method) == (
        f"kubernetes:system:serviceaccount:{namespace}:{account}",
        Method.KUBERNETES,
    )
    assert f"kubernetes:system:serviceaccounts:{namespace}" in found.groups
    assert kubernetes.identify(others) is None
    head, _, signature = ours.rpartition(".")
    assert kubernetes.identify(f"{head}.{signature[::-1]}") is None
    assert kubernetes.error == ""
    kubernetes.close()
    core.delete_namespaced_service_account(account, namespace)
    # the server itself remembers for some seconds what it has found
    wait_until(lambda: asked_anew(ours) is None, "the token being refused", timeout=60, poll=1)
