"""A replica with the rights of its role alone, whose tokens end, and whose password and certificates are
rotated while it leads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from controller.client import Client, NotFound
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.store.base import Put, Transaction
from controller.store.etcd.store import EtcdStore
from tests.auth.conftest import QUICK_SIGN_IN, ROLES, Guarded, run_tally
from tests.support.etcd import QUICK_ELECTION, EtcdFactory, admin
from tests.support.etcd import in_seconds as soon
from tests.support.proxy import Proxy
from tests.support.running import POOL, TIMINGS, RunningReplica, submit
from tests.support.tls import Authority
from tests.support.waiting import wait_until

STEADY = {
    "timings": dataclasses.replace(
        TIMINGS, lease_ttl_seconds=60, request_timeout_seconds=20.0, heartbeat_limit_seconds=60.0
    ),
    "silence_seconds": 60.0,
}
"""Of a replica that keeps its office on however busy a machine, unless it is taken away."""


@contextmanager
def leading(store: EtcdStore, cluster: str, **options: Any) -> Iterator[RunningReplica]:
    with RunningReplica(store, cluster=cluster, **options) as replica:
        replica.until_leading()
        yield replica


def runs(client: Client, task_id: str, **fields: object) -> None:
    """A task is submitted, admitted, run and recorded."""
    submit(client, task_id, **fields)
    assert client.wait([task_id], timeout_seconds=60)[task_id].state is State.SUCCEEDED


def test_the_role_is_enough_to_lead_run_retry_cancel_remove_and_repair(guarded: Guarded) -> None:
    """All that a leader writes, each at the word of whoever may ask for it."""
    boss, user = guarded.client("admin"), guarded.client("user")
    boss.apply_pool(POOL)
    with leading(guarded.store("controller"), guarded.keys.cluster) as replica:
        runs(user, "short", retention_seconds=1)
        submit(user, "long", env={"TALLY_NULL_SECONDS": "600"}, grace_seconds=1)
        user.wait(["long"], for_="running", timeout_seconds=60)
        user.cancel("long")
        assert user.wait(["long"], timeout_seconds=60)["long"].state is State.CANCELLED
        user.retry("long")
        user.wait(["long"], for_="running", timeout_seconds=60)
        epoch = replica.epoch
        boss.replicas.step_down()
        replica.until_leading(epoch)
        user.cancel("long")
        user.wait(["long"], timeout_seconds=60)
        wait_until(lambda: is_gone(user, "short"), "its removal after its retention")
        foreign = f"{guarded.keys.prefix}of-nobody"
        guarded.store("root").commit(Transaction((), (Put(foreign, b"?"),), Op("x")), deadline=soon())
        repair = ("audit", "--records-only", "--repair", "--delete", foreign)
        assert "REPAIRED" in guarded.tally("admin", *repair).out
        assert guarded.store("reader").get(foreign, deadline=soon())[0] is None


def is_gone(client: Client, task_id: str) -> bool:
    try:
        client.get(task_id)
    except NotFound:
        return True
    return False


def test_a_damaged_pool_is_removed_at_an_admins_word(guarded: Guarded) -> None:
    """The leader deletes it, and stays in office: it would lose that over a right that it lacks."""
    key = f"{guarded.keys.prefix}pools/No_Name"
    guarded.store("admin").commit(Transaction((), (Put(key, b"{}"),), Op("x")), deadline=soon())
    with leading(guarded.store("controller"), guarded.keys.cluster, **STEADY) as replica:
        epoch = replica.epoch
        answer = guarded.tally("admin", "audit", "--records-only", "--repair", "--delete", "pools/No_Name")
        assert "REPAIRED" in answer.out, answer.out + answer.err
        assert guarded.store("reader").get(key, deadline=soon())[0] is None
        assert replica.epoch == epoch


def test_a_password_is_rotated_under_a_leader(guarded: Guarded) -> None:
    boss, user = guarded.client("admin"), guarded.client("user")
    boss.apply_pool(POOL)
    with leading(guarded.store("controller"), guarded.keys.cluster):
        runs(user, "before")
        file = guarded.folder / "controller"
        file.write_text("another password\n")
        admin(
            guarded.store("root"),
            "/auth/user/changepw",
            {"name": "controller", "password": "another password"},
        )
        runs(user, "after")


def test_a_leader_stays_in_office_while_its_tokens_end(etcd_factory: EtcdFactory, tmp_path: Path) -> None:
    """Tokens that end at their time, however much they are used: the leader, its watch and its lease sign
    in again.
    """
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = serialization.Encoding.PEM
    private, public = tmp_path / "jwt.key", tmp_path / "jwt.pub"
    private.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    )
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    server = etcd_factory.start(
        extra_args=(
            *QUICK_ELECTION,
            QUICK_SIGN_IN,
            f"--auth-token=jwt,pub-key={public},priv-key={private},sign-method=RS256,ttl=1s",
        ),
        unsafe_no_fsync=True,
    )
    members = [argument for role in ("root", *ROLES) for argument in ("--grant", f"{role}={role}")]
    made = run_tally(
        "auth", "init", "--etcd", server.url, *members, "--passwords", str(tmp_path / "passwords"), "--enable"
    )
    assert made.exit_code == 0, made.err
    guarded = Guarded(server, etcd_factory, tmp_path / "passwords", "default")
    boss, store = guarded.client("admin"), guarded.store("controller")
    boss.apply_pool(POOL)
    with leading(store, "default", **STEADY) as replica:
        tokens, epoch = {store.gateway.token(soon())}, replica.epoch

        def renewed() -> int:
            tokens.add(store.gateway.token(soon()))
            return len(tokens) > 2

        wait_until(renewed, "two new tokens")
        runs(guarded.client("user"), "task")
        assert replica.epoch == epoch


def test_users_are_switched_on_under_a_leader(etcd_factory: EtcdFactory, tmp_path: Path) -> None:
    """Who has been told a user before goes on; nothing is restarted."""
    server = etcd_factory.start(extra_args=(*QUICK_ELECTION, QUICK_SIGN_IN), unsafe_no_fsync=True)
    guarded = Guarded(server, etcd_factory, tmp_path, "default")
    for user in ("root", *ROLES):
        (tmp_path / user).write_text(f"password of {user}")
    client = guarded.client("user")
    guarded.client("admin").apply_pool(POOL)
    with leading(guarded.store("controller"), "default"):
        runs(client, "before")
        answer = guarded.init("--grant", "root=root", "--enable")
        assert answer.exit_code == 0, answer.err
        runs(client, "after")
        assert run_tally("get", "tasks", "--etcd", server.url).exit_code == 1


def test_all_certificates_are_rotated_under_a_leader(
    etcd_factory: EtcdFactory, authority: Authority, tmp_path: Path, proxy_to: Callable[[int], Proxy]
) -> None:
    """Server, client and authority, one after the other, as it is done: first trust both, then change,
    then trust the new one.
    """
    server = etcd_factory.start(**authority.server_files(), client_cert_auth=True, unsafe_no_fsync=False)
    new, trusted = Authority(tmp_path / "new"), tmp_path / "trusted.pem"
    trusted.write_bytes(Path(authority.ca_file).read_bytes())
    proxy = proxy_to(server.config.client_port)
    own = authority.issue("replica")
    url = proxy.url.replace("http:", "https:")
    store = etcd_factory.store(url, ca_file=str(trusted), **own)

    def swap(old: dict[str, str], issued: dict[str, str]) -> None:
        for kind, file in old.items():
            Path(file).write_bytes(Path(issued[kind]).read_bytes())

    with (
        leading(store, "default"),
        Client.of_store(etcd_factory.store(url, ca_file=str(trusted), **own)) as client,
    ):
        client.apply_pool(POOL)
        runs(client, "before")
        trusted.write_bytes(Path(authority.ca_file).read_bytes() + Path(new.ca_file).read_bytes())
        swap({"cert_file": server.config.cert_file, "key_file": server.config.key_file}, new.issue("server"))
        proxy.disconnect()  # etcd reads its certificate for each new connection
        runs(client, "new-server-certificate")
        server.kill()  # but its clients' authority only when it starts
        Path(authority.ca_file).write_bytes(Path(new.ca_file).read_bytes())
        swap(own, new.issue("replica"))
        server.start()
        runs(client, "new-client-certificate")
        trusted.write_bytes(Path(new.ca_file).read_bytes())
        runs(client, "new-authority")


@pytest.mark.parametrize("role", ["reader", "user", "admin"])
def test_no_other_role_can_lead(guarded: Guarded, role: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever starts a replica with another's password gets no office, and is told what is missing."""
    with RunningReplica(guarded.store(role), cluster=guarded.keys.cluster) as replica:
        told: list[str] = []

        def is_told() -> bool:
            told.append(capsys.readouterr().out)
            return any(
                "election failed" in line and "lacks the right to write" in line
                for line in "".join(told).splitlines()
            )

        wait_until(is_told, "the refusal")
        assert not replica.leads
        assert guarded.store("root").get(guarded.keys.leader, deadline=soon())[0] is None
