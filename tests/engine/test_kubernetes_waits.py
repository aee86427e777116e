"""Whatever the Kubernetes engine waits for may hang: plugins, files, sockets, servers.

Each wait has its limit (fault 46).
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from controller.clock import SystemClock
from controller.dev.fake_kubernetes import TOKEN, FakeCluster
from controller.engine.base import EngineUnavailable
from controller.engine.kubernetes import api as kubernetes_api
from controller.engine.kubernetes import credentials as kubernetes_credentials
from controller.engine.kubernetes.api import ClusterAccess, KubernetesApi
from tests.support.local import Gate
from tests.support.waiting import wait_until

PODS = "/api/v1/namespaces/default/pods"
VERSION = "client.authentication.k8s.io/v1"


class MovedClock(SystemClock):
    """A clock that a test moves on; its wall clock is set by `set_by` more."""

    def __init__(self) -> None:
        self.moved = self.set_by = 0.0
        super().__init__()

    def wall(self) -> float:
        return super().wall() + self.moved + self.set_by

    def boottime(self) -> float:
        return super().boottime() + self.moved


class Plugin:
    """A credential plugin: a shell script, whose runs are counted and whose body the test changes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path = folder / "plugin"
        self._runs = folder / "runs"

    def does(self, body: str) -> Plugin:
        """What the next runs do."""
        beside = self.path.with_suffix(".new")
        beside.write_text(f"#!/bin/sh\necho $$ >> {shlex.quote(str(self._runs))}\n{body}\n")
        beside.chmod(0o755)
        beside.replace(self.path)
        return self

    def gives(self, token: str, expires_at: float | None = None) -> Plugin:
        """A token, as plugins print it."""
        status: dict[str, Any] = {"token": token}
        if expires_at is not None:
            status["expirationTimestamp"] = datetime.fromtimestamp(expires_at, UTC).strftime(
                "%Y-%m-%dT%H:%M:%SZ"
            )
        answer = {"apiVersion": VERSION, "kind": "ExecCredential", "status": status}
        return self.does(f"printf %s {shlex.quote(json.dumps(answer))}")

    @property
    def runs(self) -> list[int]:
        """The process ids of all runs so far."""
        return [int(line) for line in self._runs.read_text().split()] if self._runs.exists() else []


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    return Plugin(tmp_path)


class StandingClock(SystemClock):
    """A clock that only a test moves on: however slow the machine is, no other time passes."""

    def __init__(self) -> None:
        self.seconds = 0.0
        super().__init__()

    def boottime(self) -> float:
        return self.seconds


Connect = Callable[..., KubernetesApi]


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Connect]:
    """Makes connections to a server, as `user` of a kubeconfig; closed after the test."""
    apis: list[KubernetesApi] = []

    def make(
        url: str, user: dict[str, Any], clock: SystemClock | None = None, **server: Any
    ) -> KubernetesApi:
        document = {
            "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": url, **server}}],
            "users": [{"name": "me", "user": user}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        }
        path = tmp_path / "kubeconfig"
        path.write_text(json.dumps(document))
        apis.append(
            KubernetesApi(ClusterAccess(kubeconfig=path, timeout_seconds=0.5), clock or SystemClock())
        )
        return apis[-1]

    yield make
    for api in apis:
        api.close()


def executed(plugin: Plugin) -> dict[str, Any]:
    """The kubeconfig's user that a plugin signs for."""
    return {"exec": {"apiVersion": VERSION, "command": str(plugin.path), "interactiveMode": "Never"}}


def refusal(api: KubernetesApi) -> str:
    """The words with which a call fails."""
    with pytest.raises(EngineUnavailable) as caught:
        api.call("GET", PODS)
    return str(caught.value)


@contextmanager
def settled() -> Iterator[None]:
    """What the refreshes that begin in the block have found is known to all calls after it.

    A call that waits for a refresh may come back before that.
    """
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        if thread.name == "kubernetes-credentials":
            thread.join(60)
            assert not thread.is_alive()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# -- credential plugins
# ------------------------------------------------------------------------------------------------


def test_a_plugin_that_hangs_is_run_once_and_ended_with_its_children_and_named(
    fake_cluster: FakeCluster, plugin: Plugin, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many calls need it: each fails with its name, and for a while no other is started."""
    monkeypatch.setattr(kubernetes_credentials, "PLUGIN_SECONDS", 0.5)
    api = connect(
        fake_cluster.url, executed(plugin.does("echo asking the identity provider >&2; sleep 600 & wait"))
    )
    with ThreadPoolExecutor(8) as threads:
        words = [each.result() for each in [threads.submit(refusal, api) for _ in range(8)]]
    assert all("plugin did not end within 0.5 s: asking the identity provider" in each for each in words)
    assert len(plugin.runs) == 1
    assert "did not end within" in refusal(api)
    assert not is_alive(plugin.runs[0])
    assert len(plugin.runs) == 1  # it was not run again
    assert api.faults["credentials"] == 9


def test_a_plugin_that_answers_again_is_used_after_the_pause(
    fake_cluster: FakeCluster, plugin: Plugin, connect: Connect
) -> None:
    clock = MovedClock()
    api = connect(fake_cluster.url, executed(plugin.does("echo no network >&2; exit 3")), clock)
    with settled():
        assert "ended with exit code 3: no network" in refusal(api)
    plugin.gives(TOKEN)
    assert "no network" in refusal(api)
    clock.moved += kubernetes_credentials.RETRY_SECONDS
    assert b"PodList" in api.call("GET", PODS)


def test_the_pause_between_failing_runs_grows(
    fake_cluster: FakeCluster, plugin: Plugin, connect: Connect
) -> None:
    """Each is twice as long as the one before, up to a minute."""
    clock = StandingClock()
    api = connect(fake_cluster.url, executed(plugin.does("exit 1")), clock)
    runs: list[float] = []
    for _ in range(200):  # a call a second
        with settled():
            refusal(api)
        runs += [clock.seconds] * (len(plugin.runs) - len(runs))
        clock.seconds += 1
    assert runs == [0, 5, 15, 35, 75, 135, 195]


def test_a_credential_is_used_to_its_end_while_the_plugin_hangs(
    fake_cluster: FakeCluster, plugin: Plugin, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is renewed early, in the background: only once it has expired do calls wait, and fail."""
    clock = MovedClock()
    api = connect(fake_cluster.url, executed(plugin.gives(TOKEN, clock.now() + 1000)), clock)
    with settled():
        api.call("GET", PODS)
    plugin.does("exec sleep 600")
    clock.moved += 800
    api.call("GET", PODS)
    wait_until(lambda: len(plugin.runs) == 2, "the renewal")
    api.call("GET", PODS)
    monkeypatch.setattr(kubernetes_credentials, "WAIT_SECONDS", 0.2)
    clock.moved += 201
    assert "have not arrived after 0.2 s" in refusal(api)
    assert len(plugin.runs) == 2


def test_a_credential_that_expires_is_renewed_by_one_run(
    fake_cluster: FakeCluster, plugin: Plugin, connect: Connect
) -> None:
    clock = MovedClock()
    api = connect(fake_cluster.url, executed(plugin.gives(TOKEN, clock.now() + 1000)), clock)
    with settled():
        api.call("GET", PODS)
    fake_cluster.state.access.tokens["second"] = fake_cluster.state.access.tokens.pop(TOKEN)
    plugin.gives("second")
    clock.moved += 1001
    with ThreadPoolExecutor(8) as threads:
        answers = [each.result() for each in [threads.submit(api.call, "GET", PODS) for _ in range(8)]]
    assert all(b"PodList" in answer for answer in answers)
    assert len(plugin.runs) == 2


def test_when_a_credential_expires_is_told_by_the_wall_clock(
    fake_cluster: FakeCluster, plugin: Plugin, connect: Connect
) -> None:
    """It was set forward since this process began, by whose time the credential had 40 minutes left."""
    clock = MovedClock()
    clock.set_by = 2400.0
    api = connect(fake_cluster.url, executed(plugin.gives(TOKEN, clock.wall() + 100)), clock)
    with settled():
        api.call("GET", PODS)
    clock.moved += 101
    api.call("GET", PODS)
    assert len(plugin.runs) == 2


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("echo '{'", "printed no ExecCredential"),
        ("printf '\\377\\376'", "printed no ExecCredential"),
        ("head -c 100000 /dev/zero | tr '\\0' '['", "printed no ExecCredential"),
        ('echo \'{"apiVersion":"v1","kind":"Secret","status":{}}\'', "printed Secret of v1"),
        (
            f'echo \'{{"apiVersion":"{VERSION}","kind":"ExecCredential","status":{{"token":7}}}}\'',
            "printed no ExecCredential",
        ),
        (
            f'echo \'{{"apiVersion":"{VERSION}","kind":"ExecCredential","status":{{}}}}\'',
            "neither a token nor",
        ),
        ("yes", "printed more than"),
        ("yes >&2", "printed more than"),
        ("exec >&- 2>&-; sleep 600", "did not end within"),
        ("kill -9 $$", "exit code -9"),
    ],
)
def test_whatever_a_plugin_prints_is_an_outage_that_says_so(
    fake_cluster: FakeCluster,
    plugin: Plugin,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    body: str,
    words: str,
) -> None:
    monkeypatch.setattr(kubernetes_credentials, "PLUGIN_SECONDS", 2.0)
    assert words in refusal(connect(fake_cluster.url, executed(plugin.does(body))))
    assert not is_alive(plugin.runs[0])


def test_a_child_that_keeps_the_plugins_output_open_is_not_waited_for(
    fake_cluster: FakeCluster, plugin: Plugin, connect: Connect, tmp_path: Path
) -> None:
    """Else its run would be too long."""
    gate = Gate(tmp_path / "gate")
    plugin.gives(TOKEN)
    script = plugin.path.read_text()
    plugin.path.write_text(script.replace("#!/bin/sh\n", f"#!/bin/sh\n(exec 3>&1; {gate.body}) &\n"))
    assert b"PodList" in connect(fake_cluster.url, executed(plugin)).call("GET", PODS)
    gate.open()


def test_a_plugin_that_is_not_there_is_named(
    fake_cluster: FakeCluster, plugin: Plugin, connect: Connect
) -> None:
    user = {"exec": {"apiVersion": VERSION, "command": "no-such-plugin", "installHint": "apt install it"}}
    assert "credential plugin no-such-plugin cannot be run" in (
        words := refusal(connect(fake_cluster.url, user))
    )
    assert "apt install it" in words


# -- files and servers
# -------------------------------------------------------------------------------------------------


def test_a_token_file_that_hangs_is_an_outage(
    fake_cluster: FakeCluster, tmp_path: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one on a dead mount does; here it is a pipe without a writer."""
    monkeypatch.setattr(kubernetes_credentials, "WAIT_SECONDS", 0.3)
    os.mkfifo(tmp_path / "token")
    api = connect(fake_cluster.url, {"tokenFile": str(tmp_path / "token")})
    assert "have not arrived after 0.3 s" in refusal(api)
    assert "have not arrived after 0.3 s" in refusal(api)
    assert sum(thread.name == "kubernetes-credentials" for thread in threading.enumerate()) == 1
    (tmp_path / "token").write_text(TOKEN)  # the mount is back, and what waited goes on


@pytest.fixture
def silent() -> Iterator[Callable[[bytes, float], int]]:
    """Makes servers that take each connection and send a text byte by byte, with a pause between; "" sends
    nothing.
    """
    listeners: list[socket.socket] = []
    ended = threading.Event()

    def make(text: bytes, pause: float) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve(connection: socket.socket) -> None:
            with connection:
                try:
                    for byte in text:
                        connection.sendall(bytes([byte]))
                        if ended.wait(pause):
                            return
                except OSError:
                    return
                ended.wait(60)

        def accept() -> None:
            while not ended.is_set():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return int(listener.getsockname()[1])

    yield make
    ended.set()
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_takes_the_connection_and_is_silent_is_an_outage(
    silent: Callable[[bytes, float], int], connect: Connect, scheme: str
) -> None:
    """Its TLS handshake hangs, or its answer."""
    api = connect(f"{scheme}://127.0.0.1:{silent(b'', 0)}", {"token": TOKEN})
    assert "does not answer" in refusal(api)


def test_an_answer_that_comes_byte_by_byte_has_a_limit_in_all(
    silent: Callable[[bytes, float], int], connect: Connect
) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
    port = silent(head + b" " * 100_000, 0.005)  # all of it would take longer than any test may
    assert "too slowly" in refusal(connect(f"http://127.0.0.1:{port}", {"token": TOKEN}))


def test_an_answer_without_end_is_cut_off(
    silent: Callable[[bytes, float], int], connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_api, "MAX_ANSWER_BYTES", 500)
    port = silent(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2000, 0)
    assert "an answer of more than 500 bytes" in refusal(
        connect(f"http://127.0.0.1:{port}", {"token": TOKEN})
    )
