"""What is done to an installation: each fault is injected by a function, and undone by what that returns."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from controller.client import NotFound
from controller.dev import ReplicaProcess
from controller.embedded_etcd import EtcdProcess
from controller.failpoints import POINTS
from controller.store.base import Delete, Transaction
from tests.chaos.installation import Installation
from tests.chaos.recorder import Recorder
from tests.support.etcd import admin, compact, in_seconds
from tests.support.proxy import Proxy


@dataclass
class Ground:
    """What a fault finds: `leader` is the replica that led when the step began, `destroyed` collects the tasks it killed."""

    installation: Installation
    recorder: Recorder
    leader: ReplicaProcess
    rng: random.Random
    destroyed: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def follower(self) -> ReplicaProcess:
        """Any other replica that is up; the leader when there is none."""
        return self.rng.choice([r for r in self.installation.up() if r is not self.leader] or [self.leader])

    def members(self, count: int) -> list[EtcdProcess]:
        """Some members."""
        return self.rng.sample(self.installation.members, count)


Inject = Callable[[Ground], Iterator[None]]


class Fault(NamedTuple):
    """A fault: what it is called, which rows of the table of faults it is, what it strikes, and how."""

    name: str
    rows: tuple[int, ...]
    strikes: str
    inject: Inject


FAULTS: dict[str, Fault] = {}


def fault(strikes: str, *rows: int) -> Callable[[Inject], Inject]:
    """Register a fault. Two that strike the same are never injected at once."""

    def register(inject: Inject) -> Inject:
        name = inject.__name__.replace("_", " ")
        FAULTS[name] = Fault(name, rows, strikes, inject)
        return inject

    return register


# -- replicas ------------------------------------------------------------------------------------------------------------


@fault("replicas", 1)
def leader_killed(ground: Ground) -> Iterator[None]:
    _signal(ground, ground.leader, signal.SIGKILL)
    yield


@fault("replicas", 1)
def leader_killed_at_a_step(ground: Ground) -> Iterator[None]:
    """Another replica is started with a failpoint, and made to lead: there it dies, pauses or hangs."""
    victim = ground.follower()
    action = ground.rng.choice(["exit", "exit", "sleep:4", "hang"])
    point = f"{ground.rng.choice(POINTS)}:{action}@{ground.rng.randint(1, 4)}"
    ground.installation.armed[victim.name] = point
    ground.notes.append(point)
    _signal(ground, victim, signal.SIGKILL)
    yield
    with suppress(NotFound), ground.installation.client() as client:
        client.step_down()


@fault("replicas", 2)
def follower_killed(ground: Ground) -> Iterator[None]:
    _signal(ground, ground.follower(), signal.SIGKILL)
    yield


@fault("replicas", 2)
def all_replicas_killed(ground: Ground) -> Iterator[None]:
    for replica in ground.installation.up():
        _signal(ground, replica, signal.SIGKILL)
    yield


@fault("replicas", 3)
def leader_stopped(ground: Ground) -> Iterator[None]:
    with _stopped(ground, ground.leader):
        yield


@fault("replicas", 3)
def all_replicas_stopped(ground: Ground) -> Iterator[None]:
    with _stopped(ground, *ground.installation.up()):
        yield


@fault("replicas", 7)
def leader_terminated(ground: Ground) -> Iterator[None]:
    _signal(ground, ground.leader, signal.SIGTERM)
    yield


@fault("replicas", 7)
def all_replicas_terminated(ground: Ground) -> Iterator[None]:
    for replica in ground.installation.up():
        _signal(ground, replica, signal.SIGTERM)
    yield


# -- etcd ----------------------------------------------------------------------------------------------------------------


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


@fault("etcd", 21)
def out_of_space(ground: Ground) -> Iterator[None]:
    """The alarm is raised as etcd raises it when its quota is used up."""
    store = ground.installation.store
    member = admin(store, "/maintenance/status", {})["header"]["member_id"]
    alarm = {"memberID": member, "alarm": "NOSPACE"}
    admin(store, "/maintenance/alarm", {"action": "ACTIVATE", **alarm})
    yield
    admin(store, "/maintenance/alarm", {"action": "DEACTIVATE", **alarm})


@fault("history", 16)
def compacted(ground: Ground) -> Iterator[None]:
    """All history that is recorded goes; whoever is cut off now finds it gone."""
    yield
    compact(ground.installation.store, ground.recorder.applied)


# -- the leader's key ----------------------------------------------------------------------------------------------------


@fault("key", 19)
def lease_revoked(ground: Ground) -> Iterator[None]:
    store = ground.installation.store
    item, _ = store.get(ground.recorder.history.keys.leader, deadline=in_seconds())
    if item is not None and item.lease:
        store.revoke(item.lease, deadline=in_seconds())
    yield


@fault("key", 19)
def leader_key_deleted(ground: Ground) -> Iterator[None]:
    delete = Transaction((), (Delete(ground.recorder.history.keys.leader),), "by hand")
    ground.installation.store.commit(delete, deadline=in_seconds())
    yield


@fault("key", 19)
def step_down(ground: Ground) -> Iterator[None]:
    with suppress(NotFound), ground.installation.client() as client:
        client.step_down()
    yield


# -- the network ---------------------------------------------------------------------------------------------------------


def _of_leader(ground: Ground) -> list[Proxy]:
    return ground.installation.links[ground.leader.name]


def _of_user(ground: Ground) -> list[Proxy]:
    return ground.installation.links[ground.rng.choice(ground.installation.users)]


@fault("leader's links", 10, 17)
def leader_cut_off(ground: Ground) -> Iterator[None]:
    with _bad(_of_leader(ground), Proxy.black_hole):
        yield


@fault("leader's links", 12)
def leader_hears_no_answers(ground: Ground) -> Iterator[None]:
    with _bad(_of_leader(ground), Proxy.drop_answers):
        yield


@fault("leader's links", 12)
def leader_answers_reset(ground: Ground) -> Iterator[None]:
    with _bad(_of_leader(ground), Proxy.reset_answers):
        yield


@fault("leader's links", 12)
def leader_answers_late(ground: Ground) -> Iterator[None]:
    with _bad(_of_leader(ground), lambda link: link.delay(0.4)):
        yield


@fault("leader's links", 11)
def leader_loses_two_members(ground: Ground) -> Iterator[None]:
    with _bad(ground.rng.sample(_of_leader(ground), 2), Proxy.black_hole):
        yield


@fault("follower's links", 10, 17)
def follower_cut_off(ground: Ground) -> Iterator[None]:
    with _bad(ground.installation.links[ground.follower().name], Proxy.black_hole):
        yield


@fault("users' links", 12)
def user_cut_off(ground: Ground) -> Iterator[None]:
    """What was sent arrives when nobody waits for it any more."""
    with _bad(_of_user(ground), Proxy.black_hole):
        yield


@fault("users' links", 12)
def user_hears_no_answers(ground: Ground) -> Iterator[None]:
    with _bad(_of_user(ground), Proxy.drop_answers):
        yield


@fault("users' links", 12)
def user_hears_one_member(ground: Ground) -> Iterator[None]:
    """The answers of the others are lost: what they carried out is sent again, when the leader has acted on it."""
    with _bad(ground.rng.sample(_of_user(ground), 2), Proxy.drop_answers):
        yield


@fault("users' links", 12)
def user_answers_late(ground: Ground) -> Iterator[None]:
    with _bad(_of_user(ground), lambda link: link.delay(0.7)):
        yield


# -- the engine ----------------------------------------------------------------------------------------------------------


@fault("engine", 33)
def supervisors_killed(ground: Ground) -> Iterator[None]:
    attempts = ground.installation.supervised()
    for attempt in ground.rng.sample(sorted(attempts), min(2, len(attempts))):
        ground.destroyed.add(attempt.task_id)
        with suppress(ProcessLookupError):
            os.kill(attempts[attempt], signal.SIGKILL)
    yield


# -- how -----------------------------------------------------------------------------------------------------------------


def _signal(ground: Ground, replica: ReplicaProcess, number: int) -> None:
    if replica.process is not None and replica.process.poll() is None:
        ground.notes.append(replica.name)
        replica.process.send_signal(number)


@contextmanager
def _stopped(ground: Ground, *replicas: ReplicaProcess) -> Iterator[None]:
    processes = [replica.process for replica in replicas if replica.process is not None]
    for replica in replicas:
        _signal(ground, replica, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


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


@contextmanager
def _bad(links: list[Proxy], harm: Callable[[Proxy], None]) -> Iterator[None]:
    for link in links:
        harm(link)
    try:
        yield
    finally:
        for link in links:
            link.heal()
