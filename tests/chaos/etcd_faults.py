"""What is done to etcd: its processes, its space, its history, and who may use it."""

from __future__ import annotations

import base64
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from controller.core.model.op import Op
from controller.store.base import Put, Transaction
from controller.store.etcd.gateway import ErrorClass as Refusal
from controller.store.etcd.gateway import RpcError
from controller.store.etcd.wire import prefix_range
from controller.store.keys import ROOT
from tests.chaos.ground import Ground, fault
from tests.chaos.installation import USER
from tests.support.etcd import admin, compact, in_seconds

BALLAST = f"{ROOT}~ballast"


@fault("etcd", 13)
def member_killed(ground: Ground) -> Iterator[None]:
    with _killed(ground, 1):
        yield


@fault("etcd", 14)
def quorum_killed(ground: Ground) -> Iterator[None]:
    with _killed(ground, 2):
        yield


@fault("etcd", 13)
def all_members_killed(ground: Ground) -> Iterator[None]:
    with _killed(ground, 3):
        yield


@fault("etcd", 11, 15)
def member_stopped(ground: Ground) -> Iterator[None]:
    with _members_stopped(ground, 1):
        yield


@fault("etcd", 14, 15)
def quorum_stopped(ground: Ground) -> Iterator[None]:
    with _members_stopped(ground, 2):
        yield


@fault("etcd", 13)
def etcd_leader_moved(ground: Ground) -> Iterator[None]:
    """Another member leads from now on; its clients need not notice."""
    members = {
        int(admin(store, "/maintenance/status", {})["header"]["member_id"]): store
        for store in ground.recorder.stores
    }
    leader = int(admin(ground.installation.store, "/maintenance/status", {})["leader"])
    heir = ground.rng.choice(sorted(members.keys() - {leader}))
    admin(members[leader], "/maintenance/transfer-leadership", {"targetID": str(heir)})
    yield


@fault("etcd", 21)
def out_of_space(ground: Ground) -> Iterator[None]:
    """Somebody fills etcd up to its quota.

    What an operator does then: remove it, compact, defragment, disarm.
    """
    store, recorder = ground.installation.store, ground.recorder
    store.commit(Transaction((), (Put(BALLAST, b"by hand"),), Op("by hand")), deadline=in_seconds())
    megabyte = base64.b64encode(os.urandom(2**20)).decode()
    sent = 0
    while _put(ground, f"{BALLAST}/{sent}", megabyte):
        sent += 1
    yield
    key, range_end = prefix_range(BALLAST.encode())
    # which etcd takes when it takes nothing else
    admin(store, "/kv/deleterange", {"key": key, "range_end": range_end})
    ground.installation.until(lambda: BALLAST not in recorder.foreign, "the record of the last revision")
    _compact(ground)
    for member in recorder.stores:
        admin(member, "/maintenance/defragment", {})
    for alarm in admin(store, "/maintenance/alarm", {"action": "GET"})["alarms"]:
        admin(store, "/maintenance/alarm", {**alarm, "action": "DEACTIVATE"})


@fault("history", 16)
def compacted(ground: Ground) -> Iterator[None]:
    """All history that is recorded goes; whoever is cut off now finds it gone."""
    yield
    _compact(ground)


# -- who may use it
# ----------------------------------------------------------------------------------------------------


@fault("access", 22)
def tokens_forgotten(ground: Ground) -> Iterator[None]:
    """etcd forgets all tokens of a user whose password is set, even to the same: as when all have expired."""
    _set_password(ground, ground.installation.password)
    yield


@fault("access", 22, 25)
def password_changed(ground: Ground) -> Iterator[None]:
    """And the file some time after: until then nobody can sign in."""
    password = f"{ground.rng.getrandbits(64):x}"
    _set_password(ground, password)
    yield
    ground.installation.write_password(password)


@fault("access", 22)
def role_taken_away(ground: Ground) -> Iterator[None]:
    store, role = ground.installation.store, {"name": USER, "role": USER}
    admin(store, "/auth/user/revoke", role)
    yield
    admin(store, "/auth/user/grant", {"user": USER, "role": USER})


# -- how
# ----------------------------------------------------------------------------------------------------


def _set_password(ground: Ground, password: str) -> None:
    admin(ground.installation.store, "/auth/user/changepw", {"name": USER, "password": password})


def _compact(ground: Ground) -> None:
    """Compact away all history that is recorded, unless another fault has just done that."""
    try:
        compact(ground.installation.store, ground.recorder.applied)
    except RpcError as error:
        if error.fault is not Refusal.COMPACTED:
            raise


def _put(ground: Ground, key: str, value: str) -> bool:
    """Whether etcd had room for it; `value` is base64."""
    try:
        admin(
            ground.installation.store,
            "/kv/put",
            {"key": base64.b64encode(key.encode()).decode(), "value": value},
        )
    except RpcError as error:
        if error.fault is not Refusal.FULL:
            raise
        return False
    return True


@contextmanager
def _killed(ground: Ground, count: int) -> Iterator[None]:
    members = ground.members(count)
    for member in members:
        member.kill()
    try:
        yield
    finally:
        for member in members:
            member.launch()
        for member in members:
            member.wait_healthy()


@contextmanager
def _members_stopped(ground: Ground, count: int) -> Iterator[None]:
    members = ground.members(count)
    for member in members:
        os.kill(member.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for member in members:
            os.kill(member.pid, signal.SIGCONT)
