"""`tally gateway` as it is run: a process beside replicas that run attempts, and callers of all kinds."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import jwt
import pytest
from typer.testing import CliRunner, Result

from controller.cli.main import app
from controller.client import NotFound
from controller.client.gateway_calls import GatewayCalls
from controller.client.gateway_client import GatewayClient
from controller.core.model.lifecycle import State
from controller.dev.cluster import LocalCluster
from controller.dev.fake_kubernetes.server import FakeCluster
from controller.gateway.tokens import digest, new_token
from controller.views.gateways import GatewayView
from tests.gateway.conftest import POLICY
from tests.gateway.test_oidc import Provider, rsa_key
from tests.support.etcd import free_ports
from tests.support.local import QUICK, local_cluster
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("gateway")  # one cluster and one gateway serve nearly all

RUNNER = "system:serviceaccount:team-a:runner"
RULES = (
    POLICY
    + f"""
[[rules]]
who = ["kubernetes:{RUNNER}", "oidc:alice"]
owners = ["vision"]
verbs = ["submit", "read-own", "cancel-own"]
"""
)


class Process:
    """A gateway that runs."""

    def __init__(self, cluster: LocalCluster, folder: Path, *flags: str) -> None:
        self.tokens = {name: new_token() for name in ("alice", "bob", "watcher", "ops")}
        self.policy, self.tokens_file = folder / "policy.toml", folder / "tokens.toml"
        self.policy.write_text(RULES)
        entries = (f'[[tokens]]\nname = "{n}"\nsha256 = "{digest(t)}"' for n, t in self.tokens.items())
        self.tokens_file.write_text("\n".join(entries))
        (port,) = free_ports(1)
        self.url, self.folder = f"http://127.0.0.1:{port}", folder
        self.log = (folder / "gateway.log").open("w+")
        command = [sys.executable, "-m", "controller", "gateway", "--etcd", cluster.endpoint]
        command += ["--gateway", f"127.0.0.1:{port}", "--gateway-policy-file", str(self.policy)]
        command += ["--gateway-tokens-file", str(self.tokens_file), *flags]
        environ = {key: value for key, value in os.environ.items() if not key.startswith("TALLY_")}
        self.command, self.environ = command, environ
        self.process = subprocess.Popen(command, stderr=self.log, stdout=self.log, env=environ)
        wait_until(self.is_ready, "the gateway", timeout=30)

    def is_ready(self) -> bool:
        assert self.process.poll() is None, (self.folder / "gateway.log").read_text()
        try:
            return httpx.get(f"{self.url}/readyz", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def client(self, token: str) -> GatewayClient:
        return GatewayClient(GatewayCalls(self.url, lambda: token))

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(20)
        self.log.close()
        return code


@contextmanager
def running(cluster: LocalCluster, folder: Path, *flags: str) -> Iterator[Process]:
    folder.mkdir()
    process = Process(cluster, folder, *flags)
    try:
        yield process
    finally:
        process.end()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with local_cluster(folder / "data", replicas=1, settings=QUICK) as cluster, cluster.client() as client:
        client.apply_pool({"name": "default", "capacity": {"cpu": 8}})
        for name in ("changes", "owners"):
            client.features.enable(name)
        yield cluster


@pytest.fixture(scope="module")
def gateway(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with running(cluster, tmp_path_factory.mktemp("gateway") / "it") as process:
        yield process


def job(name: str, script: str, owner: str = "vision") -> dict[str, object]:
    return {"id": name, "owner": owner, "command": ["sh", "-c", script], "resources": {"cpu": 1}}


def test_a_task_runs_and_its_output_is_read(gateway: Process) -> None:
    """Whole, its end, and as it comes; nobody else reads it."""
    alice = gateway.client(gateway.tokens["alice"])
    alice.submit(job("counts", "for n in 1 2 3; do echo line $n; done"))
    assert alice.wait(["counts"], timeout_seconds=60)["counts"].state is State.SUCCEEDED
    assert b"".join(alice.outputs.logs("counts")) == b"line 1\nline 2\nline 3\n"
    answer = httpx.get(
        f"{gateway.url}/v1/tasks/counts/logs",
        params={"container": "side"},
        headers={"Authorization": f"Bearer {gateway.tokens['alice']}"},
        trust_env=False,
    )
    assert (answer.status_code, "one output" in answer.text) == (400, True), "it has no containers"
    with pytest.raises(NotFound):
        list(gateway.client(gateway.tokens["bob"]).outputs.logs("counts"))


def test_the_output_of_a_removed_task_is_not_read_by_its_name(gateway: Process) -> None:
    """Its engine keeps it for longer. Who uses the name again reads the attempts of this task alone."""
    alice, bob = (gateway.client(gateway.tokens[name]) for name in ("alice", "bob"))
    alice.submit(job("reused", "echo secret") | {"retention_seconds": 2})
    alice.wait(["reused"], timeout_seconds=60)
    wait_until(lambda: "reused" not in [each.id for each in alice.tasks()], "its removal")
    retry = {"max_attempts": 2, "backoff_seconds": 0}
    bob.submit(job("reused", "echo mine; exit 1", "speech") | {"retry": retry})
    assert bob.wait(["reused"], timeout_seconds=60)["reused"].attempt == 3
    with pytest.raises(NotFound, match=r"tells of no attempt 1, .*: choose 2 to 3"):
        list(bob.outputs.logs("reused", attempt=1))
    assert [b"".join(bob.outputs.logs("reused", attempt=each)) for each in (2, 3, None)] == [b"mine\n"] * 3


def test_output_is_followed_until_the_end(gateway: Process, tmp_path: Path) -> None:
    """What is printed arrives while the attempt runs; who stops following ends its reading."""
    alice, go = gateway.client(gateway.tokens["alice"]), tmp_path / "go"
    alice.submit(job("slow", f"echo first; while [ ! -e {go} ]; do sleep 0.1; done; echo last"))
    wait_until(lambda: alice.get("slow").state is State.RUNNING, "the attempt")
    stop = threading.Event()
    other = alice.outputs.logs("slow", follow=True, stop=stop)
    assert next(other) == b"first\n"
    stop.set()
    parts = alice.outputs.logs("slow", follow=True)
    assert next(parts) == b"first\n"
    go.touch()
    assert b"".join(parts) == b"last\n"
    watcher = {"Authorization": f"Bearer {gateway.tokens['watcher']}"}

    def readings() -> list[str]:
        text = httpx.get(f"{gateway.url}/metrics", headers=watcher, trust_env=False).text
        return [line for line in text.splitlines() if line.startswith('tally_gateway_open{kind="logs"}')]

    wait_until(lambda: readings() == ['tally_gateway_open{kind="logs"} 0.0'], "the end of all readings")


def test_much_output_to_a_slow_reader(gateway: Process) -> None:
    """It arrives whole, and the gateway holds little of it."""
    alice = gateway.client(gateway.tokens["alice"])
    alice.submit(job("much", "head -c 40000000 /dev/zero | tr '\\0' x"))
    assert alice.wait(["much"], timeout_seconds=60)["much"].state is State.SUCCEEDED
    before = memory(gateway.process.pid)
    size = 0
    for part in alice.outputs.logs("much"):
        size += len(part)
        if size < 2**20:
            time.sleep(0.01)  # the reader is the slow one
    assert size == 40_000_000
    assert memory(gateway.process.pid) - before < 20 * 2**20


def memory(pid: int) -> int:
    """Resident, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tally(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert "Traceback" not in result.stdout + result.stderr
    return result


def test_logs_on_the_command_line(gateway: Process, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a kubeconfig, a folder of the engine, or etcd."""
    token = tmp_path / "token"
    token.write_text(gateway.tokens["alice"])
    monkeypatch.setenv("TALLY_SERVER", gateway.url)
    monkeypatch.setenv("TALLY_TOKEN_FILE", str(token))
    monkeypatch.delenv("TALLY_ETCD", raising=False)
    ran = tally("submit", "shell", "--owner", "vision", "--wait", "--", "sh", "-c", "echo $((6 * 7))")
    assert ran.exit_code == 0, ran.stderr
    assert tally("logs", "shell").stdout == "42\n"
    assert tally("logs", "none").exit_code == 5


def test_a_service_account_and_a_user_of_a_provider(cluster: LocalCluster, tmp_path: Path) -> None:
    """Each is who its own issuer says; a token that nobody knows is nobody's."""
    provider = Provider()
    provider.keys["one"] = rsa_key()
    with FakeCluster().start() as kubernetes:
        account = jwt.encode({"iss": "kubernetes", "sub": RUNNER}, "k" * 32)
        kubernetes.state.access.tokens[account] = RUNNER
        flags = ["--gateway-oidc-issuer", provider.url, "--gateway-oidc-audience", "tally"]
        flags += ["--gateway-kubernetes", "true", "--kubeconfig"]
        flags += [str(kubernetes.kubeconfig(tmp_path / "kubeconfig"))]
        try:
            with running(cluster, tmp_path / "it", *flags) as gateway:
                for name, token in (("kubernetes:" + RUNNER, account), ("oidc:alice", provider.token())):
                    client = gateway.client(token)
                    assert client.access.whoami()["name"] == name
                    client.submit(job(f"of-{name.partition(':')[0]}", "true"))
                http = httpx.Client(base_url=gateway.url, trust_env=False)
                unknown = provider.token(key=rsa_key())
                for token in (account + "x", unknown, "x.y.z"):
                    answer = http.get("/v1/whoami", headers={"Authorization": f"Bearer {token}"})
                    assert answer.status_code == 401
                kubernetes.state.access.deny("create", "tokenreviews")
                answer = http.get("/v1/whoami", headers={"Authorization": "Bearer a.b.c"})
                assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
                assert gateway.client(gateway.tokens["alice"]).access.whoami()["name"] == "alice"
        finally:
            provider.close()


def test_a_gateway_is_registered_while_it_runs(cluster: LocalCluster, tmp_path: Path) -> None:
    """Each reader finds it, and what is wrong with it; its end is known at once, and no key is left."""
    with running(cluster, tmp_path / "it", "--replica", "entrance") as gateway, cluster.client() as client:

        def found() -> dict[str, GatewayView]:
            return {each.id: each for each in client.replicas.gateways()}

        def line() -> list[str]:
            shown = tally("get", "gateways", *flags).stdout.splitlines()
            return next(each for each in shown if each.startswith("entrance")).split()

        flags = "--etcd", cluster.endpoint
        wait_until(lambda: "entrance" in found() and not found()["entrance"].problems, "its registration")
        seen = found()["entrance"]
        assert (seen.url, seen.pid, seen.problems) == (gateway.url, gateway.process.pid, ())
        of_gateway = gateway.client(gateway.tokens["alice"]).replicas.gateways
        wait_until(lambda: "entrance" in {each.id for each in of_gateway()}, "it knows itself")
        assert line()[:3] == ["entrance", "yes", gateway.url]
        assert tally("get", "gateway", "entrance", "-o", "name", *flags).stdout == "gateway/entrance\n"
        assert tally("get", "gateway", "exit", *flags).exit_code == 5
        gateway.policy.write_text("[[rules")
        wait_until(lambda: found()["entrance"].problems == ("gateway_policy_file",), "its problem")
        shown = line()
        assert (shown[:3], shown[-1]) == (["entrance", "yes", gateway.url], "gateway_policy_file")
        [document] = json.loads(tally("get", "gateways", "-o", "json", *flags).stdout)["items"][:1]
        assert {"id", "url", "problems", "applied_revision"} <= document.keys()
        assert gateway.end() == 0
        assert "entrance" not in found()


def test_a_gateway_ends_as_it_is_told(cluster: LocalCluster, tmp_path: Path) -> None:
    """Streams end, requests under way are answered, and the exit code is 0."""
    with running(cluster, tmp_path / "it") as gateway:
        headers = {"Authorization": f"Bearer {gateway.tokens['alice']}"}
        with (
            httpx.Client(base_url=gateway.url, headers=headers, trust_env=False, timeout=30) as http,
            http.stream("GET", "/v1/events") as events,
        ):
            lines = events.iter_lines()
            assert next(lines).startswith("retry")
            gateway.process.send_signal(signal.SIGTERM)
            assert not [line for line in lines if line.startswith("data")]
        assert gateway.end() == 0


def test_what_keeps_a_gateway_from_starting_is_said(gateway: Process, tmp_path: Path) -> None:
    """In one sentence that names what to set. Code 2: a supervisor need not try it again."""
    (tmp_path / "policy.toml").write_text(RULES)
    (tmp_path / "broken.toml").write_text("no TOML")
    policy = ["--gateway-policy-file", str(tmp_path / "policy.toml")]
    tokens = ["--gateway-tokens-file", str(gateway.tokens_file)]
    for code, flags, says in (
        (2, [], "gateway_policy_file"),
        (2, policy, "every other way to sign in"),
        (1, [*policy, *tokens, "--gateway", gateway.url[7:]], "--gateway HOST"),
        (2, [*policy, "--gateway-tokens-file", str(tmp_path / "none")], "gateway_tokens_file"),
        (2, ["--gateway-policy-file", str(tmp_path / "broken.toml"), *tokens], "gateway_policy_file"),
    ):
        command = [sys.executable, "-m", "controller", "gateway", "--etcd", "http://127.0.0.1:1", *flags]
        refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (refused.returncode, says in refused.stderr) == (code, True), refused.stderr
        assert "Traceback" not in refused.stderr


def test_who_leaves_in_the_middle_fills_no_log(gateway: Process) -> None:
    """Nor is it an error of ours."""
    for body in (b"Content-Length: 500000\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n-3\r\nx"):
        with socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2]))) as connection:
            head = (
                f"POST /v1/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.tokens['alice']}\r\n"
            )
            connection.sendall(head.encode() + body)
    assert gateway.client(gateway.tokens["alice"]).access.whoami()["name"] == "alice"
    assert "Traceback" not in (gateway.folder / "gateway.log").read_text()


@pytest.mark.slow
def test_etcd_may_be_away(cluster: LocalCluster, gateway: Process) -> None:
    """What needs etcd is answered with 503, and when to try again; what is known can be read."""
    pid = cluster.etcd.pid
    headers = {"Authorization": f"Bearer {gateway.tokens['alice']}"}
    os.kill(pid, signal.SIGSTOP)
    try:
        with httpx.Client(base_url=gateway.url, headers=headers, trust_env=False, timeout=90) as http:
            assert http.get("/livez").status_code == 200
            refused = http.post("/v1/tasks", content=json.dumps(job("x", "true")))
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
            kind, lines = {"Content-Type": "application/x-ndjson"}, json.dumps(job("x", "true")) + "\n"
            broken = http.post("/v1/tasks", content=lines, headers=kind)
            problem = json.loads(broken.text.splitlines()[-1])["problem"]
            assert problem["status"] == 503
            assert "send again what has no line here" in problem["detail"]
            assert http.get("/v1/tasks").status_code == 200
    finally:
        os.kill(pid, signal.SIGCONT)
    with cluster.client() as client:  # its lease may be over: the tests that follow ask what it runs
        wait_until(client.replicas.all, "the replica's registration")


def test_readers_go_on_when_a_gateway_is_restarted(cluster: LocalCluster, tmp_path: Path) -> None:
    """Output is whole, a watch begins anew, and a wait goes on."""
    with running(cluster, tmp_path / "it") as gateway:
        alice, go = gateway.client(gateway.tokens["alice"]), tmp_path / "go"
        alice.submit(job("lasts", f"echo first; while [ ! -e {go} ]; do sleep 0.1; done; echo last"))
        wait_until(lambda: alice.get("lasts").state is State.RUNNING, "the attempt")
        parts = alice.outputs.logs("lasts", follow=True)
        assert next(parts) == b"first\n"
        looks = alice.watch_tasks(owner="vision")
        assert "lasts" in [view.id for view in next(looks)]
        ended: list[State | None] = []
        waiting = threading.Thread(target=lambda: ended.append(alice.wait(["lasts"])["lasts"].state))
        waiting.start()
        assert gateway.end() == 0
        again = subprocess.Popen(gateway.command, stderr=subprocess.DEVNULL, env=gateway.environ)
        try:
            go.touch()
            assert b"".join(parts) == b"last\n"
            assert "lasts" in [view.id for view in next(looks)]
            waiting.join(60)
            assert ended == [State.SUCCEEDED]
        finally:
            looks.close()
            again.terminate()
            again.wait(20)


def test_output_is_of_one_attempt_when_a_gateway_is_restarted(cluster: LocalCluster, tmp_path: Path) -> None:
    """Whichever is the last one by then, also for who has not named one."""
    one, two, go = tmp_path / "one", tmp_path / "two", tmp_path / "go"
    output = "if [ $TALLY_ATTEMPT = 1 ]; then touch {}; echo 1: first; while [ ! -e {} ]; do sleep 0.1; done;"
    output += (
        " echo 1: last; exit 1; fi; echo 2: much more than the first attempt has printed; touch {}; sleep 600"
    )
    with running(cluster, tmp_path / "it") as gateway:
        alice = gateway.client(gateway.tokens["alice"])
        retry = {"max_attempts": 2, "backoff_seconds": 0.1}
        alice.submit({**job("again", output.format(one, go, two)), "retry": retry})
        wait_until(one.exists, "the first attempt")
        parts = alice.outputs.logs("again", follow=True)
        assert next(parts) == b"1: first\n"
        assert gateway.end() == 0
        go.touch()
        wait_until(two.exists, "the second attempt")
        again = subprocess.Popen(gateway.command, stderr=subprocess.DEVNULL, env=gateway.environ)
        try:
            assert b"".join(parts) == b"1: last\n"
        finally:
            again.terminate()
            again.wait(20)


def test_output_is_followed_no_longer_than_one_may(cluster: LocalCluster, tmp_path: Path) -> None:
    """Neither by who may not sign in, nor by who may not read the task any more; also if it is quiet."""
    with running(cluster, tmp_path / "it") as gateway:
        alice, ops = (gateway.client(gateway.tokens[name]) for name in ("alice", "ops"))
        alice.submit(job("quiet", "echo first; sleep 600"))
        wait_until(lambda: alice.get("quiet").state is State.RUNNING, "the attempt")
        headers = {"Authorization": f"Bearer {gateway.tokens['alice']}"}
        with (
            httpx.Client(base_url=gateway.url, headers=headers, trust_env=False, timeout=60) as http,
            http.stream("GET", "/v1/tasks/quiet/logs", params={"follow": "true"}) as output,
        ):
            parts = output.iter_raw()
            assert next(parts) == b"first\n"
            gateway.policy.write_text(RULES.replace('who = ["alice"]', 'who = ["carol"]'))
            with pytest.raises(httpx.RemoteProtocolError):
                list(parts)
        ops.cancel("quiet")
