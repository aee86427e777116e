"""How the Kubernetes engine proves who it is and whom it speaks to: TLS, the pod's own account, and
credentials that change.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import ssl
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes.config import incluster_config

from controller.clock import SystemClock
from controller.dev.fake_kubernetes import TOKEN, FakeCluster
from controller.dev.fake_kubernetes.access import USER
from controller.engine.base import EngineUnavailable
from controller.engine.kubernetes import credentials as kubernetes_credentials
from controller.engine.kubernetes.api import ClusterAccess, KubernetesApi
from tests.support.fake_cluster import ClusterFactory
from tests.support.tls import Authority
from tests.support.waiting import wait_until

PODS = "/api/v1/namespaces/default/pods"

Connect = Callable[[ClusterAccess], KubernetesApi]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "tls")


def server_context(authority: Authority, *, clients: bool = False) -> ssl.SSLContext:
    """What the API server needs to serve TLS, and with `clients` to ask for a certificate."""
    files = authority.issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files["cert_file"], files["key_file"])
    if clients:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority.ca_file)
    return context


@pytest.fixture
def cluster(fake_clusters: ClusterFactory, authority: Authority) -> FakeCluster:
    """One that is served over TLS."""
    return fake_clusters(tls=server_context(authority))


@pytest.fixture
def connect() -> Iterator[Connect]:
    apis: list[KubernetesApi] = []

    def make(access: ClusterAccess) -> KubernetesApi:
        apis.append(KubernetesApi(access, SystemClock()))
        return apis[-1]

    yield make
    for api in apis:
        api.close()


def kubeconfig(cluster: FakeCluster, folder: Path, user: dict[str, Any], **server: Any) -> ClusterAccess:
    """A kubeconfig as people write it."""
    document = {
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": cluster.url, **server}}],
        "users": [{"name": "me", "user": user}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(document))
    return ClusterAccess(kubeconfig=path)


def replace_token(cluster: FakeCluster, token: str) -> None:
    """From now on the server accepts this one alone."""
    cluster.state.access.tokens.clear()
    cluster.state.access.tokens[token] = USER


# -- TLS
# ----------------------------------------------------------------------------------------------------


def test_the_servers_certificate_is_verified(
    cluster: FakeCluster, authority: Authority, tmp_path: Path, connect: Connect
) -> None:
    """By the authority that the kubeconfig names; one that somebody else signed is an outage, with the
    reason, and no answer.
    """
    trusting = kubeconfig(cluster, tmp_path, {"token": TOKEN}, **{"certificate-authority": authority.ca_file})
    assert b'"PodList"' in connect(trusting).call("GET", PODS)
    stranger = kubeconfig(
        cluster, tmp_path, {"token": TOKEN}, **{"certificate-authority": authority.stranger().ca_file}
    )
    with pytest.raises(EngineUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        connect(stranger).call("GET", PODS)


def test_a_client_certificate_is_shown_where_one_is_asked_for(
    fake_clusters: ClusterFactory, authority: Authority, tmp_path: Path, connect: Connect
) -> None:
    cluster = fake_clusters(tls=server_context(authority, clients=True))
    ca = {"certificate-authority": authority.ca_file}
    files = authority.issue("controller")
    shown = {"token": TOKEN, "client-certificate": files["cert_file"], "client-key": files["key_file"]}
    assert b'"PodList"' in connect(kubeconfig(cluster, tmp_path, shown, **ca)).call("GET", PODS)
    with pytest.raises(EngineUnavailable):
        connect(kubeconfig(cluster, tmp_path, {"token": TOKEN}, **ca)).call("GET", PODS)


def test_a_new_authority_in_the_same_file_is_trusted_by_new_connections(
    fake_clusters: ClusterFactory, authority: Authority, tmp_path: Path, connect: Connect
) -> None:
    """The file is swapped as a secret's volume swaps it; nothing is restarted but the server."""
    first = fake_clusters(tls=server_context(authority))
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(Path(authority.ca_file).read_bytes())
    api = connect(kubeconfig(first, tmp_path, {"token": TOKEN}, **{"certificate-authority": str(ca_file)}))
    api.call("GET", PODS)
    first.stop()
    successor = authority.stranger()
    fake_clusters(tls=server_context(successor), port=first.port)
    with pytest.raises(EngineUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        api.call("GET", PODS)
    ca_file.write_bytes(Path(successor.ca_file).read_bytes())
    assert b'"PodList"' in api.call("GET", PODS)


# -- tokens
# ----------------------------------------------------------------------------------------------------


def test_a_token_file_is_read_again_when_its_token_is_no_longer_accepted(
    cluster: FakeCluster, authority: Authority, tmp_path: Path, connect: Connect
) -> None:
    """The official client never does; the call that met the refusal is the one that succeeds."""
    token_file = tmp_path / "token"
    token_file.write_text(f"{TOKEN}\n")  # as editors leave it
    access = kubeconfig(
        cluster, tmp_path, {"tokenFile": str(token_file)}, **{"certificate-authority": authority.ca_file}
    )
    api = connect(access)
    api.call("GET", PODS)
    replace_token(cluster, "second")
    token_file.write_text("second")
    assert b'"PodList"' in api.call("GET", PODS)


@pytest.mark.parametrize(
    "broken", ["secret\nhalf", "secret\r\nX-Other: half", "secret\u65e5", "secret\0half"]
)
@pytest.mark.parametrize("is_first", [True, False], ids=["at the start", "after a refusal"])
def test_a_token_that_no_header_can_carry_is_read_again_and_never_shown(
    fake_cluster: FakeCluster,
    tmp_path: Path,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
    is_first: bool,
) -> None:
    monkeypatch.setattr(kubernetes_credentials, "RETRY_SECONDS", 0.01)
    token_file = tmp_path / "token"
    token_file.write_text(broken if is_first else TOKEN)
    api = connect(kubeconfig(fake_cluster, tmp_path, {"tokenFile": str(token_file)}))
    if not is_first:
        api.call("GET", PODS)
        replace_token(fake_cluster, "second")
        token_file.write_text(broken)

    def is_told() -> bool:  # the first call may still end with the refusal of the token before
        with pytest.raises(EngineUnavailable) as refused:
            api.call("GET", PODS)
        assert "secret" not in str(refused.value)
        return "the token has a line break" in str(refused.value)

    wait_until(is_told, "the broken token to be read")
    token_file.write_text(TOKEN if is_first else "second")

    def answers() -> bool:
        with contextlib.suppress(EngineUnavailable):
            return b'"PodList"' in api.call("GET", PODS)
        return False

    wait_until(answers, "the repaired token to be read")


def test_a_token_that_stays_refused_is_an_outage_and_the_files_are_not_read_each_time(
    cluster: FakeCluster,
    authority: Authority,
    tmp_path: Path,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is concluded from a 401, and a plugin that makes tokens is asked once in a while."""
    loads: list[object] = []
    load = kubernetes_credentials._load

    def counted(*args: Any) -> Any:
        loads.append(args)
        return load(*args)

    monkeypatch.setattr(kubernetes_credentials, "_load", counted)
    monkeypatch.setattr(kubernetes_credentials, "RETRY_SECONDS", 1000.0)
    api = connect(
        kubeconfig(cluster, tmp_path, {"token": TOKEN}, **{"certificate-authority": authority.ca_file})
    )
    api.call("GET", PODS)
    replace_token(cluster, "another")
    for _ in range(3):
        with pytest.raises(EngineUnavailable, match="does not accept our credentials"):
            api.call("GET", PODS)
    assert len(loads) == 2
    assert api.faults["401"] == 3


# -- in a cluster
# ----------------------------------------------------------------------------------------------------


@pytest.fixture
def account(
    cluster: FakeCluster, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The folder of a pod's service account, and the environment that a pod is given."""
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    (folder / "token").write_text(TOKEN)
    (folder / "namespace").write_text("default")
    (folder / "ca.crt").write_bytes(Path(authority.ca_file).read_bytes())
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(folder / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(folder / "ca.crt"))
    monkeypatch.setattr(kubernetes_credentials, "_SERVICE_ACCOUNT_NAMESPACE", folder / "namespace")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(cluster.port))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    return folder


def test_in_a_cluster_the_pods_own_account_is_used(
    account: Path, cluster: FakeCluster, connect: Connect
) -> None:
    api = connect(ClusterAccess())
    assert (api.namespace, api.host) == ("default", cluster.url)
    assert b'"PodList"' in api.call("GET", PODS)


def test_an_empty_kubeconfig_variable_says_nothing(
    account: Path, cluster: FakeCluster, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for kubectl."""
    monkeypatch.setenv("KUBECONFIG", "")
    assert connect(ClusterAccess()).host == cluster.url


def test_in_a_cluster_a_rotated_token_is_read_again(
    account: Path, cluster: FakeCluster, connect: Connect
) -> None:
    """Also one that was revoked before the client's own minute is over."""
    api = connect(ClusterAccess())
    api.call("GET", PODS)
    replace_token(cluster, "rotated")
    (account / "token").write_text("rotated")
    assert b'"PodList"' in api.call("GET", PODS)


def test_a_token_file_that_is_gone_is_an_outage(
    account: Path, cluster: FakeCluster, connect: Connect
) -> None:
    """The volume is away for a moment: nothing is concluded, and the next call finds it again."""
    api = connect(ClusterAccess())
    replace_token(cluster, "rotated")
    (account / "token").unlink()
    with pytest.raises(EngineUnavailable, match="token"):
        api.call("GET", PODS)


@pytest.mark.parametrize("text", ["", "[", "a: b: c", "[]", "clusters: 7", '{"current-context": "x"}', "\0"])
def test_a_kubeconfig_that_cannot_be_read_is_named_without_a_traceback(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(EngineUnavailable, match="no access to Kubernetes"):
        KubernetesApi(ClusterAccess(kubeconfig=path), SystemClock())


def test_keys_of_a_plugin_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes a new one each time: those of the client before are kept for its calls, and no others."""
    monkeypatch.setattr(kubernetes_credentials, "RETRY_SECONDS", 0.0)
    (tmp_path / "files").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "files"))
    plugin = tmp_path / "plugin"
    status = "dict(clientCertificateData=open('c').read(), clientKeyData=open('k').read())"
    told = f"dict(apiVersion='client.authentication.k8s.io/v1', kind='ExecCredential', status={status})"
    plugin.write_text(
        f"#!/bin/sh\ncd $(mktemp -d -p {tmp_path}); openssl req -x509 -newkey ec"
        " -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout k -out c -days 1 -subj /CN=me 2>/dev/null\n"
        f'{shlex.quote(sys.executable)} -c "import json; print(json.dumps({told}))"\n'
    )
    plugin.chmod(0o755)
    config = tmp_path / "kubeconfig"
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin)}}
    config.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
                "users": [{"name": "u", "user": user}],
            }
        )
    )
    renewed = kubernetes_credentials.Credentials(config, "", SystemClock())
    client = None
    for _ in range(4):
        client = renewed.client(client)
        wait_until(lambda: len([*(tmp_path / "files").iterdir()]) <= 2, "the end of the files before")
        assert Path(client.configuration.key_file).read_text().startswith("-----BEGIN")
    renewed.close()
    assert [*(tmp_path / "files").iterdir()] == []
