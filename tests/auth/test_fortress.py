"""Everything switched on: etcd with TLS, client certificates and users; replicas with TLS, certificates and
tokens.

Two replicas as they are started in production, each with its role's rights alone. What is proven here: tasks
run, a dead leader is replaced at once although nobody may speak to its endpoint without credentials, and in
all that was printed, served, logged or stood in an argument list there is no secret.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from controller.dev.etcd import EtcdBinary, EtcdProcess
from controller.endpoint.routes import ROUTES
from tests.auth.conftest import QUICK_SIGN_IN, ROLES, run_tally
from tests.support.etcd import QUICK_ELECTION, EtcdFactory, admin
from tests.support.tls import Authority
from tests.support.waiting import wait_until

ETCD_TOKEN = re.compile(r"\b[a-zA-Z]{16}\.\d+\b")
"""What etcd gives to whoever has signed in.

Source: `simpleTokenTTL` and its neighbours in etcd's server/auth/simple_token.go.
"""

STATUS_URL = re.compile(r'"status":"(https://127\.0\.0\.1:\d+)"')

STEADY = {"TALLY_LEASE_TTL_SECONDS": "30"}
"""An office that is lost neither on a busy machine nor, in time, by its lease: a dead leader is replaced
by who watches it.
"""

ALL_OUT = {"TALLY_DEBUG": "1", "PYTHONFAULTHANDLER": "1"}


class Replica:
    """A `tally controller` process."""

    def __init__(self, fortress: Fortress, name: str) -> None:
        self.name = name
        self.url = ""  # where its status endpoint listens, once it has said so
        self.log = fortress.folder / f"{name}.log"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("TALLY_")}
        settings = {
            **fortress.settings("controller"),
            **fortress.status_settings,
            **ALL_OUT,
            **STEADY,
            "HOME": str(fortress.folder),
            "TALLY_REPLICA": name,
            "TALLY_STATUS": "127.0.0.1:0",
            "TALLY_STATE_DIR": str(fortress.folder / "attempts"),
        }
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "controller.cli.main", "controller"],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**environment, **settings},
            )

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")


class Fortress:
    """See the module's docstring.

    `secrets` has everything that must not be seen, `seen` what was printed and served.
    """

    def __init__(self, folder: Path, factory: EtcdFactory) -> None:
        self.folder = folder
        self.factory = factory
        self.authority = Authority(folder / "authority")
        self.token = secrets.token_hex(20)
        (folder / "token").write_text(self.token + "\n")
        self.env_value = f"env-{secrets.token_hex(12)}"
        self.seen: dict[str, str] = {}
        self.replicas: list[Replica] = []
        self.server: EtcdProcess
        status = self.authority.issue("status")
        self.status_settings = {
            "TALLY_STATUS_CERT_FILE": status["cert_file"],
            "TALLY_STATUS_KEY_FILE": status["key_file"],
            "TALLY_STATUS_CLIENT_CA_FILE": self.authority.ca_file,
            "TALLY_STATUS_TOKEN_FILE": str(folder / "token"),
        }
        self.reader_settings = {
            "TALLY_STATUS_CA_FILE": self.authority.ca_file,
            "TALLY_STATUS_TOKEN_FILE": str(folder / "token"),
        }
        self.connection = self.authority.issue("client")

    def settings(self, user: str) -> dict[str, str]:
        return {
            "TALLY_ETCD": self.server.url,
            "TALLY_CA_FILE": self.authority.ca_file,
            "TALLY_CERT_FILE": self.connection["cert_file"],
            "TALLY_KEY_FILE": self.connection["key_file"],
            "TALLY_USER": user,
            "TALLY_PASSWORD_FILE": str(self.folder / "passwords" / user),
        }

    def tally(self, user: str, *arguments: str, **more: str) -> str:
        """What a command prints that this user calls; it must succeed unless `more` makes it fail."""
        answer = run_tally(*arguments, env={**self.settings(user), **self.reader_settings, **more})
        self.seen[f"{len(self.seen)}: tally {' '.join(arguments)}"] = answer.out + answer.err
        assert (answer.exit_code == 0) is not bool(more), answer.out + answer.err
        return answer.out + answer.err

    def client(self, *, token: str = "") -> httpx.Client:
        context = ssl.create_default_context(cafile=self.authority.ca_file)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(verify=context, trust_env=False, timeout=20.0, headers=headers)

    def start(self, name: str) -> Replica:
        replica = Replica(self, name)
        self.replicas.append(replica)
        found = wait_until(
            lambda: STATUS_URL.search(replica.output), f"{name}'s address", timeout=60, poll=0.1
        )
        assert found is not None
        replica.url = found[1]
        with self.client() as probe:
            wait_until(
                lambda: answers(probe, f"{replica.url}/readyz"), f"{name} being ready", timeout=60, poll=0.1
            )
        return replica

    def leader(self) -> Replica:
        def found() -> Replica | None:
            with self.client() as probe:
                alive = (replica for replica in self.replicas if replica.process.poll() is None)
                return next((replica for replica in alive if answers(probe, f"{replica.url}/leader")), None)

        leading = wait_until(found, "a leader", timeout=60, poll=0.1)
        assert leading is not None
        return leading

    def kept_secret(self) -> dict[str, str]:
        """Name → text that must be nowhere."""
        found = {"status token": self.token, "environment value": self.env_value}
        found |= {
            f"password of {file.name}": file.read_text().strip()
            for file in (self.folder / "passwords").iterdir()
        }
        for key in self.authority._folder.glob("*-key.pem"):
            found |= {
                f"{key.name}:{n}": line
                for n, line in enumerate(key.read_text().splitlines())
                if "-----" not in line
            }
        return {name: text for name, text in found.items() if len(text) >= 12}


def is_connected(replica: Replica, to: Replica) -> bool:
    """Whether the replica has a connection to the other's status endpoint: it watches whether that lives."""
    port = urlsplit(to.url).port
    connections = psutil.Process(replica.process.pid).net_connections("tcp")
    return any(
        each.raddr and each.raddr.port == port and each.status == psutil.CONN_ESTABLISHED
        for each in connections
    )


def answers(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def fortress(tmp_path: Path, etcd_binary: EtcdBinary) -> Iterator[Fortress]:
    factory = EtcdFactory(etcd_binary, tmp_path)
    built = Fortress(tmp_path, factory)
    built.server = factory.start(
        **built.authority.server_files(),
        client_cert_auth=True,
        unsafe_no_fsync=True,
        extra_args=(*QUICK_ELECTION, QUICK_SIGN_IN),
    )
    files = {
        name: value
        for name, value in built.settings("root").items()
        if "USER" not in name and "PASSWORD" not in name
    }
    members = [argument for role in ("root", *ROLES) for argument in ("--grant", f"{role}={role}")]
    made = run_tally(
        "auth", "init", *members, "--passwords", str(tmp_path / "passwords"), "--enable", env=files
    )
    assert made.exit_code == 0, made.err
    built.seen["tally auth init"] = made.out + made.err
    yield built
    for replica in built.replicas:
        if replica.process.poll() is None:
            replica.process.send_signal(signal.SIGTERM)
        replica.process.wait(60)
    factory.close()


def test_it_works_and_no_secret_leaves_it(fortress: Fortress, tmp_path: Path) -> None:
    fortress.start("r1")
    fortress.start("r2")
    pool = tmp_path / "pool.yaml"
    pool.write_text("{name: default, capacity: {cpu: 4}}")
    fortress.tally("admin", "apply", "-f", str(pool))
    show = 'test -n "$SECRET" && echo it is there'
    fortress.tally(
        "user", "submit", "first", "--env", f"SECRET={fortress.env_value}", "--wait", "--", "sh", "-c", show
    )
    assert "it is there" in fortress.tally("reader", "logs", "first")
    fortress.tally(
        "user", "submit", "fails", "--env", f"SECRET={fortress.env_value}", "--", "/nowhere/at/all"
    )
    fortress.tally("reader", "get", "tasks", "-o", "wide")
    fortress.tally("reader", "check")
    fortress.tally("reader", "audit")

    leader = fortress.leader()
    (other,) = [replica for replica in fortress.replicas if replica is not leader]
    wait_until(lambda: is_connected(other, leader), "the follower's connection to the leader")
    os.kill(leader.process.pid, signal.SIGKILL)
    leader.process.wait()
    wait_until(
        lambda: "the leader's process is gone: ending its term before its lease" in other.output,
        "the successor",
        timeout=60,
    )
    assert fortress.leader() is other
    fortress.tally("user", "submit", "second", "--wait", "--", "true")

    provoke(fortress, other, tmp_path)
    fortress.tally("user", "submit", "third", "--wait", "--", "true")
    serve(fortress, other)
    other.process.send_signal(signal.SIGTERM)
    assert other.process.wait(60) == 0
    fortress.seen |= {f"log of {replica.name}": replica.output for replica in fortress.replicas}

    hidden = fortress.kept_secret()
    assert len(hidden) > 8
    found = [
        (name, where)
        for where, text in fortress.seen.items()
        for name, secret in hidden.items()
        if secret in text
    ]
    assert found == []
    assert [
        (where, match[0])
        for where, text in fortress.seen.items()
        for match in [ETCD_TOKEN.search(text)]
        if match
    ] == []
    assert "Traceback" not in fortress.seen["log of r1"] + fortress.seen["log of r2"]


def provoke(fortress: Fortress, replica: Replica, tmp_path: Path) -> None:
    """Errors in which somebody might print what he was given."""
    password = fortress.folder / "passwords" / "controller"
    right = password.read_text()
    wrong = secrets.token_urlsafe(20)
    (fortress.folder / "passwords" / "wrong").write_text(wrong)
    fortress.tally(
        "user", "get", "tasks", TALLY_PASSWORD_FILE=str(fortress.folder / "passwords" / "wrong"), **ALL_OUT
    )
    fortress.tally("user", "get", "tasks", TALLY_CA_FILE=fortress.authority.stranger().ca_file, **ALL_OUT)
    fortress.tally("user", "get", "tasks", TALLY_KEY_FILE=fortress.authority.ca_file, **ALL_OUT)
    fortress.tally(
        "reader",
        "submit",
        "x",
        "--env",
        f"SECRET={fortress.env_value}",
        "--",
        "true",
        TALLY_PASSWORD_FILE="/nowhere",
    )
    fortress.tally(
        "root", "auth", "init", "--grant", "user=new", "--passwords", str(unusable(tmp_path)), **ALL_OUT
    )
    password.write_text(wrong)
    root = fortress.factory.store(
        fortress.server.url,
        user="root",
        password_file=str(fortress.folder / "passwords" / "root"),
        ca_file=fortress.authority.ca_file,
        **fortress.connection,
    )
    # forgets all its tokens
    admin(root, "/auth/user/changepw", {"name": "controller", "password": right.strip()})
    wait_until(
        lambda: "refuses to sign in the user 'controller'" in replica.output, "the complaint", timeout=60
    )
    password.write_text(right)
    key = Path(fortress.status_settings["TALLY_STATUS_KEY_FILE"])
    good = key.read_bytes()
    key.write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with fortress.client(token=fortress.token[:-1] + "x") as stranger:
        assert stranger.get(f"{replica.url}/v1/tasks").status_code == 401
    key.write_bytes(good)
    wait_until(lambda: "a file cannot be used" in replica.output, "the complaint")


def unusable(folder: Path) -> Path:
    """A folder in which nothing can be made."""
    (folder / "a-file").touch()
    return folder / "a-file" / "below"


def serve(fortress: Fortress, replica: Replica) -> None:
    """All that the endpoint tells, to those who are let in and to those who are not."""

    def note(who: str, client: httpx.Client) -> None:
        for route in ROUTES:
            path = route.path.format(id="first", name="default")
            if path == "/v1/events":
                with client.stream("GET", f"{replica.url}{path}?after=1") as stream:
                    body = next(iter(stream.iter_text()))
                    headers: Any = stream.headers
            else:
                answer = client.get(f"{replica.url}{path}", params={"verbose": ""} if route.is_probe else {})
                body, headers = answer.text, answer.headers
            fortress.seen[f"{who}: {path}"] = f"{body} {dict(headers)}"

    with fortress.client(token=fortress.token) as known, fortress.client() as stranger:
        note("known", known)
        note("stranger", stranger)
    assert '"***"' in fortress.seen["known: /v1/tasks/{id}".format(id="first")]
    for process in psutil.process_iter(["cmdline"]):
        if process.pid != os.getpid():
            fortress.seen[f"arguments of {process.pid}"] = " ".join(process.info["cmdline"] or [])


@pytest.mark.slow
def test_the_selftest_passes_with_everything_switched_on(fortress: Fortress, tmp_path: Path) -> None:
    fortress.start("r1")
    fortress.start("r2")
    said = fortress.tally("admin", "selftest")
    assert "2 replicas at revision" in said
    assert "etcd's access control refused the write" in said
