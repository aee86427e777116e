"""Who may do what, by etcd itself and by every command of Tally; an etcd with users, no stand-in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest
import typer.main

from controller.cli.main import app
from controller.core.model import codec
from controller.core.model.lifecycle import State
from controller.core.model.notices import Dead, EndNotice, encode_notice
from controller.core.model.notify_rules import Ending
from controller.core.model.op import Op
from controller.core.model.resources import Vector
from controller.core.model.task import Status
from controller.store.base import Committed, Delete, Guard, Put, Store, StoreDenied, Transaction
from controller.store.etcd.faults import RpcError
from tests.auth.conftest import ROLES, Guarded
from tests.support.etcd import admin
from tests.support.etcd import in_seconds as soon

WRITERS = {
    "tasks/a": ("controller", "user", "admin", "gateway"),
    "requests/a/cancel": ("controller", "user", "admin", "gateway"),
    "awaits/a/b": ("controller", "user", "admin", "gateway"),
    "attested/a": ("controller", "gateway"),
    "schedules/a": ("controller", "user", "admin", "gateway"),
    "attested-schedules/a": ("controller", "gateway"),
    "schedule-states/a": ("controller",),
    "arrays/a/0": ("controller",),
    "gateways/g1": ("controller", "gateway"),
    "outbox/a/00000000000000000001": ("controller",),
    "delivered/a/00000000000000000001": ("controller", "admin", "notifier"),
    "notifier": ("controller", "notifier"),
    "pools/p": ("controller", "admin"),
    "repairs/x": ("controller", "admin"),
    "leader": ("controller", "admin"),
    "epoch": ("controller",),
    "installation": ("controller",),
    "engine": ("controller", "admin"),
    "replicas/r1": ("controller",),
    "states/a": ("controller",),
    "ledgers/p": ("controller",),
    "shares/p/o": ("controller",),
    "claims/p/a": ("controller",),
    "capacities/p": ("controller",),
    "usage/2026-11-27/p": ("controller",),
    "quarantined/a": ("controller",),
    "terms/000000000001": ("controller",),
    "repaired/x": ("controller",),
    "logs/a": ("controller",),
    "foreign": ("controller",),
}
"""Design, section 4: each kind of key, and who writes it."""


def denied(call: Callable[[], Any]) -> bool:
    """Whether etcd refuses the call for want of a right."""
    try:
        call()
    except StoreDenied as error:
        return "lacks the right" in str(error)
    return False


def write(store: Store, *writes: Put | Delete) -> None:
    found = [store.get(each.key, deadline=soon())[0] for each in writes]
    guards = tuple(Guard(item.key, item.mod) for item in found if item is not None)
    assert len(guards) == len(writes)
    assert isinstance(store.commit(Transaction(guards, writes, Op("test")), deadline=soon()), Committed)


@pytest.mark.parametrize("role", ROLES)
def test_each_role_writes_its_keys_and_no_other(guarded: Guarded, role: str) -> None:
    """Put and delete, of every kind of key; nothing outside the cluster, and nothing of a cluster beside
    it.
    """
    root, store = guarded.store("root"), guarded.store(role)
    outside = [
        f"/tally/{guarded.keys.cluster}x/tasks/a",
        f"/tally/{guarded.keys.cluster}",
        "/other",
        "/tally/default/tasks/a",
    ]
    keys = {f"{guarded.keys.prefix}{key}": role in writers for key, writers in WRITERS.items()}
    for key in (*keys, *outside):
        put = Transaction((), (Put(key, b"before"),), Op("seed"))
        root.commit(put, deadline=soon())
    for key, allowed in keys.items():
        assert denied(partial(write, store, Put(key, b'{"op":"test"}'))) is not allowed, key
        assert denied(partial(write, store, Delete(key))) is not allowed, key
    for key in outside:
        put = Transaction((), (Put(key, b"x"),), Op("x"))
        assert denied(partial(store.get, key, deadline=soon())), key
        assert denied(partial(store.commit, put, deadline=soon())), key
    left = {item.key for item in root.load(guarded.keys.prefix, deadline=soon()).items}
    assert left == {key for key, allowed in keys.items() if not allowed}


def test_no_way_round_lets_a_user_write_a_state_or_a_ledger(guarded: Guarded) -> None:
    """Not by another call of etcd, nor by a transaction that also does what is allowed, nor by a lease."""
    keys, root, user = guarded.keys, guarded.store("root"), guarded.store("user")
    state, ledger = keys.state("a"), keys.ledger("p")
    for key in (state, ledger):
        root.commit(Transaction((), (Put(key, b"true"),), Op("seed")), deadline=soon())
    root.grant(4711, 60, deadline=soon())
    root.commit(Transaction((), (Put(keys.leader, b"{}", 4711),), Op("seed")), deadline=soon())
    below, end = keys.prefix.encode(), (keys.prefix[:-1] + "0").encode()
    for path, request in (
        ("/kv/put", {"key": state.encode(), "value": b"x"}),
        ("/kv/put", {"key": ledger.encode(), "value": b"x"}),
        ("/kv/put", {"key": ledger.encode(), "ignore_value": True}),
        ("/kv/deleterange", {"key": below, "range_end": end}),
        ("/kv/deleterange", {"key": keys.task("").encode(), "range_end": end}),
        ("/lease/revoke", {"ID": 4711}),  # the leader's key hangs on it
        ("/kv/txn", {"success": [], "failure": [{"request_put": {"key": state.encode(), "value": b"x"}}]}),
    ):
        with pytest.raises(Exception, match="permission denied"):
            admin(user, path, request)
    both = (Put(keys.task("a"), b"{}"), Put(state, b"x"))
    with pytest.raises(StoreDenied):
        user.commit(Transaction((Guard(keys.task("a"), 0),), both, Op("x")), deadline=soon())
    user.grant(4712, 60, deadline=soon())
    with pytest.raises(StoreDenied):
        user.commit(Transaction((), (Put(state, b"x", 4712),), Op("x")), deadline=soon())
    stored = {item.key: item.value for item in root.load(keys.prefix, deadline=soon()).items}
    assert stored == {state: b"true", ledger: b"true", keys.leader: b"{}"}


def test_an_etcd_whose_nested_transactions_ask_for_no_right_is_warned_of(guarded: Guarded) -> None:
    """Older releases let them through, whatever the roles say: nothing but a newer etcd helps, and `tally
    check` says so.
    """
    state = guarded.keys.state("a")
    nested = {"request_txn": {"success": [{"request_put": {"key": state.encode(), "value": b"x"}}]}}
    try:
        admin(guarded.store("user"), "/kv/txn", {"success": [nested]})
    except RpcError as error:
        assert "permission denied" in str(error)  # noqa: PT017  # either outcome is one that etcd has
        assert guarded.store("root").get(state, deadline=soon())[0] is None
    else:
        assert "a user who may write any key may write every key" in guarded.tally("reader", "check").out


def test_a_reader_watches_its_cluster_and_no_other(guarded: Guarded) -> None:
    from tests.support.watching import WatchReader

    after = guarded.store("root").get(guarded.keys.leader, deadline=soon())[1]
    reader = WatchReader(guarded.store("reader").watch(guarded.keys.prefix, after=after))
    guarded.store("controller").commit(
        Transaction((), (Put(guarded.keys.state("a"), b"x"),), Op("x")), deadline=soon()
    )
    reader.wait_for([guarded.keys.state("a")])
    reader.close()
    ended = WatchReader(guarded.store("reader").watch("/tally/", after=after)).wait_for_end()
    assert isinstance(ended, StoreDenied)


# -- Tally's own commands
# --------------------------------------------------------------------------------------------


class Verb(NamedTuple):
    """A command, who may call it beside those above (reader, user, admin, in this order), and what it says
    then.
    """

    role: str
    arguments: str
    says: str
    stdin: str | None = None


SCHEDULE = "{kind: Schedule, name: hourly, cron: 0 * * * *, task: {command: ['true']}}\n"
POOL = "name: {}\ncapacity: {{cpu: 4}}\n"
VERBS = (
    Verb("reader", "get tasks", "failed"),
    Verb("reader", "get pools", "default"),
    Verb("reader", "get replicas", "r1"),
    Verb("reader", "describe task failed", "Failed"),
    Verb("reader", "explain created", "created"),
    Verb("reader", "explain created --eta", "created"),
    Verb("reader", "plan -f -", "planned", "{id: planned, command: ['true']}\n"),
    Verb("reader", "what-if --cancel created", "WAITING"),
    Verb("reader", "history failed", ""),
    Verb("reader", "wait failed --timeout 10s --for failed", "failed"),
    Verb("reader", "audit --records-only", "findings"),
    Verb("reader", "check", "ok       read"),
    Verb("reader", "submit never-stored --dry-run -- true", "never-stored"),
    Verb("reader", "top", "PART"),
    Verb("reader", "usage", "Used since the beginning"),
    Verb("user", "submit new-task -- true", "task/new-task created"),
    Verb("user", "hold created", "task/created hold requested"),
    Verb("user", "release created", "task/created release requested"),
    Verb("user", "set priority 3 created", "task/created set priority 3 requested"),
    Verb("user", "cancel created", "task/created cancel requested"),
    Verb("user", "retry failed", "task/failed retry requested"),
    Verb("user", "confirm-stopped lost --yes", "task/lost confirm-stopped requested"),
    Verb("admin", "apply -f -", "pool/new-pool created", POOL.format("new-pool")),
    Verb("admin", "apply -f - ", "pool/default configured", "name: default\ncapacity: {cpu: 9}\n"),
    Verb("admin", "pause spare", "pool/spare paused"),
    Verb("admin", "resume spare", "pool/spare resumed"),
    Verb("admin", "drain spare", "pool/spare drained"),
    Verb("admin", "drain spare --at 2999-01-01T00:00Z --for 2h", "pool/spare maintenance from"),
    Verb("admin", "drain spare --remove", "pool/spare maintenance removed: from"),
    Verb("admin", "delete pool spare", "pool/spare deleted"),
    Verb("reader", "notifier list", "dead"),
    Verb("admin", "notifier retry told", "notice/told is told again"),
    Verb("admin", "notifier drop dropped", "notice/dropped dropped"),
    Verb("reader", "engine show --engine null", "installation: 0123abcd"),
    Verb("reader", "features", "1/1 replicas"),
    Verb("user", "submit -f -", "task/owned created", "{id: owned, owner: vision, command: ['true']}\n"),
    Verb("admin", "step-down", "replica/r1 no longer leads"),
    Verb("admin", "features enable claims", "feature/claims turned on"),
    Verb("admin", "features drop claims", "feature/claims turned off"),
    Verb("admin", "features enable schedules", "feature/schedules turned on"),
    Verb("user", "apply -f -  ", "schedule/hourly created", SCHEDULE),
    Verb("reader", "get schedules", "hourly"),
    Verb("reader", "describe schedule hourly", "0 * * * *"),
    Verb("user", "pause schedule/hourly", "schedule/hourly suspended"),
    Verb("user", "resume schedule/hourly", "schedule/hourly resumed"),
    Verb("user", "delete schedule hourly", "schedule/hourly deleted"),
    Verb("admin", "engine adopt --engine null --forget-running", "given up: 1 task: lost"),
)
ELSEWHERE = {
    "logs",  # with `describe`, what it reads of etcd
    "selftest",  # with all of the above: test_replica.py
    "auth init",  # etcd's root alone: test_init.py
    "controller",  # test_replica.py
    "dev",
    "demo",  # with an etcd of their own
    "release-finalizers",
    "config show",
    "completion",
    "version",  # write nothing to etcd
    "login",
    "logout",
    "whoami",
    "auth can-i",
    "gateway check-policy",
    "gateway token",
    "notifier secret",  # ask a gateway, or read its files: tests/gateway
}


def commands() -> Iterator[str]:
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        yield from (
            (f"{name} {inner}" for inner in getattr(command, "commands", {}))
            if hasattr(command, "commands")
            else (name,)
        )


def test_no_command_is_forgotten() -> None:
    known = set(commands())
    words = [verb.arguments.split() for verb in VERBS]
    covered = {" ".join(each[:2]) if " ".join(each[:2]) in known else each[0] for each in words}
    assert covered | ELSEWHERE == known


def dead_letter(name: str) -> bytes:
    """A notice that was given up."""
    url = "https://hooks.example/x"
    dead = Dead(why={url: "refused"}, at=2.0)
    told = EndNotice(
        task=name, urls=(url,), ending=Ending.FAILED, at=1.0, pool="default", owner="default", dead=dead
    )
    return encode_notice(told, Op("x"))


@pytest.fixture
def filled(guarded: Guarded) -> Guarded:
    """Tasks in all the states that verbs ask for, written by those who may; no replica changes them."""
    with guarded.client("admin") as client:
        for pool in ("default", "spare"):
            client.apply_pool({"name": pool, "capacity": {"cpu": 4}})
        client.submit_many({"id": name, "command": ["true"]} for name in ("created", "failed", "lost"))
    store = guarded.store("controller")
    record = {
        "id": "r1",
        "instance": "i",
        "epoch": 1,
        "features": ["changes", "claims", "maintenance", "owners", "schedules"],
        "op": "x",
    }
    parts = dict.fromkeys(("feature/changes", "feature/maintenance", "feature/owners"), "")
    engine = {"name": "null", "id": "null", "parts": parts}
    lost = Status(state=State.RUNNING, pool="default", attempt=1, lost_since=2.0, hold=Vector({"cpu": 100}))
    writes = (
        Put(guarded.keys.leader, codec.encode(record)),
        Put(guarded.keys.epoch, codec.encode({"epoch": 1, "op": "x"})),
        Put(guarded.keys.installation, codec.encode({"id": "0123abcd", "op": "x"})),
        Put(guarded.keys.engine, codec.encode({"engine": engine, "installation": "0123abcd", "op": "x"})),
        Put(guarded.keys.replica("r1"), codec.encode(record)),
        Put(
            guarded.keys.state("failed"),
            codec.encode_status(Status(state=State.FAILED, pool="default", finished_at=2.0), {}),
        ),
        Put(guarded.keys.state("lost"), codec.encode_status(lost, {})),
        *(Put(guarded.keys.notice(name, f"{1:020d}"), dead_letter(name)) for name in ("told", "dropped")),
    )
    assert isinstance(store.commit(Transaction((), writes, Op("x")), deadline=soon()), Committed)
    return guarded


def test_each_command_works_for_those_who_may_and_for_nobody_else(filled: Guarded) -> None:
    """Who lacks the right is told which, and nothing has changed."""
    order = ("reader", "user", "admin")
    root = filled.store("root")
    for verb in VERBS:
        below = order[: order.index(verb.role)]
        before = root.load(filled.keys.prefix, deadline=soon()).items
        for role in below:
            answer = filled.tally(role, *verb.arguments.split(), stdin=verb.stdin)
            assert answer.exit_code == 1, f"{role}: {verb.arguments}"
            assert f"the etcd user '{role}' lacks the right to write" in answer.err, (
                f"{role}: {verb.arguments}"
            )
        assert root.load(filled.keys.prefix, deadline=soon()).items == before, verb.arguments
        answer = filled.tally(verb.role, *verb.arguments.split(), stdin=verb.stdin)
        assert verb.says in answer.out, (verb.arguments, answer.err)
        # `wait`, `audit`: what was found
        assert answer.exit_code == 0 or verb.role == "reader", (verb.arguments, answer.err)
