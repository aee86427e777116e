"""Callers with tokens of Kubernetes: the API server is asked, and what it says counts for a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest

from controller.clock import SystemClock
from controller.dev.fake_kubernetes.server import FakeCluster
from controller.engine.kubernetes.api import ClusterAccess, KubernetesApi
from controller.gateway.identity import Method, SignInUnavailable
from controller.gateway.token_review import ACCEPTED_SECONDS, CACHED, REFUSED_SECONDS, TokenReviews
from tests.support.busy import stays_known

RUNNER = "system:serviceaccount:team-a:runner"


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster().start() as cluster:
        yield cluster


class Hand:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def hand() -> Hand:
    return Hand()


def reviews(cluster: FakeCluster, tmp_path: Path, hand: Hand, *audiences: str) -> TokenReviews:
    access = ClusterAccess(kubeconfig=cluster.kubeconfig(tmp_path / "kubeconfig"))
    return TokenReviews(KubernetesApi(access, SystemClock()), audiences, hand)


def token_of(cluster: FakeCluster, user: str = RUNNER, audience: str = "") -> str:
    token = jwt.encode({"iss": "kubernetes", "sub": user, "iat": time.time()}, "k" * 32)
    cluster.state.access.tokens[token] = user
    if audience:
        cluster.state.access.audiences[token] = audience
    return token


def test_a_service_account_is_known_by_its_name(cluster: FakeCluster, tmp_path: Path, hand: Hand) -> None:
    token = token_of(cluster)
    kubernetes = reviews(cluster, tmp_path, hand)
    assert kubernetes.takes(token)
    identity = kubernetes.identify(token)
    assert identity == (
        "kubernetes:system:serviceaccount:team-a:runner",
        frozenset(
            {
                "kubernetes:system:serviceaccounts",
                "kubernetes:system:serviceaccounts:team-a",
                "kubernetes:system:authenticated",
            }
        ),
        Method.KUBERNETES,
    )
    assert kubernetes.identify(token + "x") is None
    kubernetes.close()


def test_a_token_must_be_for_this_gateway(cluster: FakeCluster, tmp_path: Path, hand: Hand) -> None:
    """A token that a pod has for the API server, or for another service, is none for a gateway that names
    its audience."""
    ours, others, servers = (
        token_of(cluster, RUNNER + name, audience) for name, audience in
        (("1", "tally"), ("2", "vault"), ("3", ""))
    )  # fmt: skip
    kubernetes = reviews(cluster, tmp_path, hand, "tally", "tally-2")
    assert kubernetes.identify(ours) is not None
    assert kubernetes.identify(others) is None
    assert kubernetes.identify(servers) is None
    hand.now += ACCEPTED_SECONDS + REFUSED_SECONDS
    cluster.state.access.knows_audiences = False  # as of a server that does not: its yes is for anything
    assert [kubernetes.identify(token) for token in (ours, others, servers)] == [None] * 3
    kubernetes.close()


def test_an_answer_counts_for_a_time(cluster: FakeCluster, tmp_path: Path, hand: Hand) -> None:
    """A token that is revoked ends then; one that becomes valid begins then; the memory is bounded."""
    token = token_of(cluster)
    kubernetes = reviews(cluster, tmp_path, hand)
    assert kubernetes.identify(token) is not None
    user = cluster.state.access.tokens.pop(token)
    hand.now += ACCEPTED_SECONDS - 1
    assert kubernetes.identify(token) is not None
    hand.now += 2
    assert kubernetes.identify(token) is None
    cluster.state.access.tokens[token] = user
    hand.now += REFUSED_SECONDS - 1
    assert kubernetes.identify(token) is None
    hand.now += 2
    assert kubernetes.identify(token) is not None
    assert kubernetes._accepted.maxsize == kubernetes._refused.maxsize == CACHED
    kubernetes.close()


def test_a_server_that_cannot_be_asked_refuses_nobody(
    cluster: FakeCluster, tmp_path: Path, hand: Hand
) -> None:
    """It is not known whether the token is valid: that is another answer than no."""
    token = token_of(cluster)
    kubernetes = reviews(cluster, tmp_path, hand)
    cluster.state.access.deny("create", "tokenreviews")
    with pytest.raises(SignInUnavailable, match="cannot create"):
        kubernetes.identify(token)
    assert kubernetes.error
    cluster.state.access.permit("create", "tokenreviews")
    assert kubernetes.identify(token) is not None
    assert not kubernetes.error
    kubernetes.close()


@pytest.mark.parametrize("token", ["", "tally_abc", "a.b", "x" * 20_000 + ".b.c", "a.b.c.d"])
def test_what_is_no_token_of_kubernetes_is_not_sent_there(
    cluster: FakeCluster, tmp_path: Path, hand: Hand, token: str
) -> None:
    kubernetes = reviews(cluster, tmp_path, hand)
    assert not kubernetes.takes(token)
    kubernetes.close()


def test_who_is_known_waits_for_nobody(cluster: FakeCluster, tmp_path: Path, hand: Hand) -> None:
    """Not for the tokens of others, about which the server is being asked."""
    assert stays_known(token_of(cluster), reviews(cluster, tmp_path, hand))
