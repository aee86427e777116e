"""Whoever reaches a port of `tally dev` without its files gets nothing: a web page, through a browser, or
another local user.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import stat
import subprocess
import tempfile
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest

from controller.core.model.lifecycle import State
from tests.e2e.conftest import Dev, MakeDev, dev_in
from tests.support.waiting import wait_until

KUBECTL = shutil.which("kubectl")
EVIL = b'{"id":"evil","pool":"default","command":["touch","/tmp/evil"],"resources":{"cpu":1}}'
PUT = b'{"key":"%s","value":"%s"}' % (b64encode(b"/tally/default/tasks/evil"), b64encode(EVIL))
POD = (
    b'{"apiVersion":"v1","kind":"Pod","metadata":{"name":"evil"},'
    b'"spec":{"containers":[{"name":"c","image":"i"}]}}'
)
REQUESTS = {
    "/v3/kv/put": PUT,
    "/v3beta/kv/put": PUT,
    "/v3/kv/range": b'{"key":"AA==","range_end":"AA=="}',
    "/v3/maintenance/snapshot": b"{}",
    "/v2/keys/evil": b"value=evil",
    "/v1/tasks": EVIL,
    "/api/v1/namespaces/default/pods": POD,
    "/_faults": b'{"fault":"restart"}',
    "/members": b"{}",
    "/": b"",
}


def listening(dev: Dev) -> list[int]:
    """Every port on which it, or whatever it started, listens."""
    processes = [psutil.Process(dev.process.pid), *psutil.Process(dev.process.pid).children(recursive=True)]
    return sorted(
        {
            c.laddr.port
            for process in processes
            for c in process.net_connections("tcp")
            if c.status == psutil.CONN_LISTEN
        }
    )


def posted(port: int, path: str, body: bytes, *, tls: bool) -> int:
    """What a browser sends for a page of evil.example, and the status of the answer; 0 for none."""
    request = (
        b"POST %s HTTP/1.1\r\nHost: evil.example\r\nOrigin: https://evil.example\r\nContent-Type:"
        b" text/plain\r\n"
    )
    request = request % path.encode() + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    answer = b""
    with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port), timeout=10)) as plain:
        connection = unverified.wrap_socket(plain) if tls else plain
        with closing(connection):
            connection.sendall(request)
            while part := connection.recv(65536):
                answer += part
    found = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
    return int(found[1]) if found else 0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """With a Kubernetes of its own."""
    with dev_in(tmp_path_factory.mktemp("dev")) as start:
        yield start(flags=("--engine", "kubernetes", "--fake-cluster")).until_it_leads()


@pytest.mark.xdist_group("dev with a fake cluster")
def test_a_web_page_gets_nothing_from_any_port(running: Dev) -> None:
    """Fault 49.

    A form may post text/plain anywhere without asking; what it changes is changed, though it sees no answer.
    """
    ports = listening(running)
    assert len(ports) == 4, (
        "etcd for clients and for peers, the replica's status endpoint, and the fake Kubernetes"
    )
    answers = {
        (port, path, tls): posted(port, path, body, tls=tls)
        for port in ports
        for path, body in REQUESTS.items()
        for tls in (False, True)
    }
    assert {key: status for key, status in answers.items() if status != 0 and status < 400} == {}
    assert {status for (_, _, tls), status in answers.items() if not tls} - {0}, "nobody was asked at all"
    with running.client() as client:
        assert {view.id for view in client.tasks()} <= {"seen"}
    kubeconfig = (running.data_dir / "kubeconfig").read_text()
    assert "fake-token" not in kubeconfig, "a token that everybody knows"


@pytest.mark.xdist_group("dev with a fake cluster")
@pytest.mark.skipif(KUBECTL is None, reason="kubectl is not on PATH")
def test_kubectl_with_its_kubeconfig_sees_the_pods(running: Dev, tmp_path: Path) -> None:
    """It sends its token over TLS alone, so that is what the fake Kubernetes speaks."""
    with running.client() as client:
        client.apply_pool({"name": "default", "capacity": {"cpu": 2, "memory": "1Gi"}})
        client.submit({"id": "seen", "image": "busybox", "command": ["sleep", "600"]})
        wait_until(lambda: client.get("seen").state is State.RUNNING, "the task to run")
    assert KUBECTL is not None
    done = subprocess.run(
        [KUBECTL, "--kubeconfig", running.data_dir / "kubeconfig", "get", "pods", "-o", "name"],
        env={"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("pod/seen-1\n", "")


OTHERS = {"TALLY_ETCD": "http://127.0.0.1:1", "TALLY_CLUSTER": "other"}


@pytest.mark.parametrize(
    ("data_dir", "set_by_user"),
    [
        ("else where", OTHERS),
        pytest.param(".tally", {}, marks=pytest.mark.slow),
        pytest.param(".tally", OTHERS, marks=pytest.mark.slow),
        pytest.param("else where", {}, marks=pytest.mark.slow),
    ],
)
def test_the_printed_commands_run_as_they_are_printed(
    dev: MakeDev, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_dir: str, set_by_user: dict[str, str]
) -> None:
    """In the folder where it was called, without a flag for the default data folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TALLY_CONFIG", raising=False)
    for name, value in set_by_user.items():
        monkeypatch.setenv(name, value)
    running = dev(data_dir=tmp_path / data_dir, replicas=2).until_it_leads()
    commands = re.findall(r"^  (.*tally.* (?:submit|get|audit)\b.*)$", running.output, re.MULTILINE)
    assert len(commands) == 3, running.output
    assert ("--config" not in running.output.partition("Try in")[2]) is (
        data_dir == ".tally" and not set_by_user
    )
    with running.client() as client:
        client.apply_pool({"name": "default", "capacity": {"cpu": 2, "memory": "1Gi"}})
        for command in commands:
            printed = subprocess.run(
                command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
            )
            assert printed.returncode == 0, command + printed.stdout + printed.stderr
            if "kill" in command:
                wait_until(client.replicas.leader, "the next leader")


@pytest.fixture
def folder_for_all() -> Iterator[Path]:
    """A folder that everybody may look into."""
    folder = Path(tempfile.mkdtemp(prefix="tally-dev-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_certificates_are_new_at_each_start_and_their_owners_alone(
    dev: MakeDev, folder_for_all: Path
) -> None:
    """What an older version left has no certificates; a client's copy of old ones opens nothing any more.

    Keys are for their owner also in a data folder that others may look into.
    """
    data = folder_for_all / "data"
    first = dev(data_dir=data).until_it_leads()
    assert stat.S_IMODE(data.stat().st_mode) == 0o700, "logs and the attempts' environments are in it"
    key = (data / "certificates" / "client-key.pem").read_text()
    with first.client() as client:
        client.submit({"id": "kept", "command": ["true"]})
        client.wait(["kept"], timeout_seconds=30)
    first.interrupt()
    first.ended()
    shutil.rmtree(data / "certificates")
    data.chmod(0o755)
    second = dev(data_dir=data).until_it_leads()
    assert (data / "certificates" / "client-key.pem").read_text() != key
    with second.client() as client:
        assert client.get("kept").finished
    files = [second.config, *(data / "certificates").iterdir()]
    assert len(files) == 6, "no key of the authority is kept"
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE((data / "certificates").stat().st_mode) == 0o700
    assert stat.S_IMODE(data.stat().st_mode) == 0o755
    if os.geteuid() != 0:
        pytest.skip("only root can try as somebody else")
    for path in files:
        tried = subprocess.run(
            ["cat", path], user=65534, group=65534, extra_groups=[], capture_output=True, check=False
        )
        assert (tried.returncode, tried.stdout) == (1, b"")
