"""A gateway and a notifier as processes, each with the role that `tally auth init` gives it, and no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest

from controller.client import Client, connect_to_gateway
from controller.client.errors import Refusal
from controller.core.model import attested, codec
from controller.core.model.notices import EndNotice, encode_notice
from controller.core.model.notify_rules import Ending
from controller.core.model.op import Op
from controller.errors import InvalidField
from controller.gateway.tokens import digest, new_token
from controller.notifier.signing import new_secret, parse_secret, verify
from controller.store.base import Delete, Put, StoreDenied, Transaction
from tests.auth.conftest import Guarded
from tests.auth.test_roles import denied, write
from tests.support.etcd import free_ports
from tests.support.etcd import in_seconds as soon
from tests.support.receiving import ReceivingServer, answer
from tests.support.waiting import wait_until

POLICY = '[[rules]]\nwho = ["alice"]\nowners = ["vision"]\nverbs = ["submit", "read-own", "cancel-own"]\n'


@contextmanager
def serving(guarded: Guarded, role: str, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of Tally that is signed in to etcd as the user of that role."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TALLY_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "controller.cli.main", *command],
        env={**environment, **guarded.settings(role)},
        stdout=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def engine_with(*features: str) -> bytes:
    """The record of an engine, with these features on."""
    parts = {f"feature/{name}": "" for name in features}
    engine = {"engine": {"name": "null", "id": "n", "parts": parts}, "installation": "0123abcd", "op": "x"}
    return codec.encode(engine)


def put(guarded: Guarded, key: str, value: bytes) -> None:
    guarded.store("root").commit(Transaction((), (Put(key, value),), Op("x")), deadline=soon())


def test_a_gateway_attests_and_can_do_no_more(guarded: Guarded, tmp_path: Path) -> None:
    """Who has etcd's credentials of a user cannot submit to the pool, attest, or withdraw an attestation; the
    gateway's own user cannot touch pools, states, ledgers, shares or the leader.
    """
    put(guarded, guarded.keys.engine, engine_with("owners"))
    with guarded.client("admin") as admin:
        admin.apply_pool({"name": "gpu", "capacity": {"cpu": 4}})
    token, tokens, policy = new_token(), tmp_path / "tokens.toml", tmp_path / "policy.toml"
    tokens.write_text(f'[[tokens]]\nname = "alice"\nsha256 = "{digest(token)}"\n')
    policy.write_text(POLICY)
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    files = ["--gateway-policy-file", str(policy), "--gateway-tokens-file", str(tokens)]
    task: dict[str, object] = {"id": "job", "pool": "gpu", "owner": "vision", "command": ["true"]}
    keys = guarded.keys
    with serving(guarded, "gateway", "gateway", "--gateway", address, *files):
        wait_until(partial(is_up, f"http://{address}/livez"), "the gateway")
        with connect_to_gateway(f"http://{address}", token=token) as alice:
            assert wait_until(partial(submitted, alice, {**task, "id": "early"}), "its model") == "created"
            assert alice.get("early").attested_by == "", "the feature is off"
            put(guarded, guarded.keys.engine, engine_with("attested", "owners"))
            with guarded.client("admin") as admin:
                admin.apply_pool({"name": "gpu", "capacity": {"cpu": 4}, "require_attested": True})
            assert wait_until(partial(submitted, alice, task), "its model") == "created"
            assert alice.get("job").attested_by == "alice"
    item, _ = guarded.store("user").get(keys.attested("job"), deadline=soon())
    assert item is not None
    spec, _ = guarded.store("user").get(keys.task("job"), deadline=soon())
    assert spec is not None
    assert item.mod == spec.mod
    assert attested.decode(item.value).owner == "vision"
    with guarded.client("user") as user, pytest.raises(InvalidField, match="require_attested"):
        user.submit({**task, "id": "other"})
    user_store, gateway_store = guarded.store("user"), guarded.store("gateway")
    assert denied(partial(write, user_store, Delete(keys.attested("job"))))
    both = (Put(keys.task("x"), b"{}"), Put(keys.attested("x"), b"{}"))
    with pytest.raises(StoreDenied):
        user_store.commit(Transaction((), both, Op("x")), deadline=soon())
    for key in (
        keys.pool("gpu"),
        keys.state("job"),
        keys.ledger("gpu"),
        keys.share("gpu", "vision"),
        keys.leader,
        keys.engine,
    ):
        blind = Transaction((), (Put(key, b"{}"),), Op("x"))
        assert denied(partial(gateway_store.commit, blind, deadline=soon())), key


def test_a_gateway_without_its_role_says_so_to_whoever_submits(guarded: Guarded, tmp_path: Path) -> None:
    """One task, or many: the reason is its own user's, and no silence of etcd."""
    put(guarded, guarded.keys.engine, engine_with("attested", "owners"))
    with guarded.client("admin") as admin:
        admin.apply_pool({"name": "default", "capacity": {"cpu": 4}})
    token, tokens, policy = new_token(), tmp_path / "tokens.toml", tmp_path / "policy.toml"
    tokens.write_text(f'[[tokens]]\nname = "alice"\nsha256 = "{digest(token)}"\n')
    policy.write_text(POLICY)
    (port,) = free_ports(1)
    address, files = f"127.0.0.1:{port}", [str(policy), "--gateway-tokens-file", str(tokens)]
    flags = ["--gateway", address, "--gateway-policy-file", *files]
    task = {"id": "job", "owner": "vision", "command": ["true"]}
    with serving(guarded, "user", "gateway", *flags):
        wait_until(partial(is_up, f"http://{address}/readyz"), "the gateway")
        signed = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=f"http://{address}", headers=signed, trust_env=False) as http:
            one = http.post("/v1/tasks", json=task)
            assert (one.status_code, "the gateway's own user" in one.json()["detail"]) == (403, True)
        with (
            connect_to_gateway(f"http://{address}", token=token) as alice,
            pytest.raises(Refusal, match="the gateway's own user of etcd may not do this"),
        ):
            alice.submit(task)


def test_a_notifier_reads_the_outbox_and_nothing_else(guarded: Guarded, tmp_path: Path) -> None:
    """It delivers with its own role, and says so; it cannot read a task, nor change what it is to tell."""
    secret, file, keys = new_secret(), tmp_path / "secrets.toml", guarded.keys
    file.write_text(f'default = ["{secret}"]')
    (port,) = free_ports(1)
    flags = ["--notifier-secrets-file", str(file), "--notifier-allow-http", "true"]
    flags += ["--notifier-allowed-networks", "127.0.0.0/8", "--notifier", f"127.0.0.1:{port}"]
    with ReceivingServer(answer(200)) as receiver, serving(guarded, "notifier", "notifier", *flags):
        told = EndNotice(
            task="job", urls=(receiver.url(),), ending=Ending.FAILED, at=1.0, pool="p", owner="vision"
        )
        key = keys.notice("job", f"{7:020d}")
        put(guarded, key, encode_notice(told, Op("x")))
        root = guarded.store("root")
        done = keys.delivery("job", f"{7:020d}")
        wait_until(lambda: root.get(done, deadline=soon())[0], "its word")
        [request] = receiver.requests
        verify([parse_secret(secret, "s")], request.headers, request.body, float(_now(request.headers)))
    store = guarded.store("notifier")
    for other in (keys.task("job"), keys.attested("job"), keys.leader, keys.engine):
        assert denied(partial(store.get, other, deadline=soon())), other
    for write_to in (key, keys.state("job"), keys.task("job"), keys.request("job", "cancel"), keys.leader):
        blind = Transaction((), (Put(write_to, b"{}"),), Op("x"))
        assert denied(partial(store.commit, blind, deadline=soon())), write_to


def _now(headers: dict[str, str]) -> str:
    return headers["webhook-timestamp"]


def is_up(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def submitted(alice: Client, task: dict[str, object]) -> str:
    [result] = list(alice.submit_many([task]))
    return result.outcome if result.outcome != "invalid" else ""
