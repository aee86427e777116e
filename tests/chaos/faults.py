"""What is done to replicas, to the leader's key and to the network; `etcd_faults` and `engine_faults` have
the rest.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from controller.client import NotFound
from controller.core.model.op import Op
from controller.dev.cluster import ReplicaProcess
from controller.runtime.failpoints import POINTS
from controller.store.base import Delete, LeaseNotFound, Put, StoreError, Transaction
from tests.chaos import engine_faults, etcd_faults
from tests.chaos.ground import FAULTS, Fault, Ground, fault
from tests.support.etcd import free_ports, in_seconds
from tests.support.proxy import Proxy

__all__ = ["FAULTS", "Fault", "engine_faults", "etcd_faults"]


# -- replicas
# ----------------------------------------------------------------------------------------------------


@fault("replicas", 1)
def leader_killed(ground: Ground) -> Iterator[None]:
    ground.signal(ground.leader, signal.SIGKILL)
    yield


@fault("replicas", 1)
def leader_killed_at_a_step(ground: Ground) -> Iterator[None]:
    """Another replica is started with a failpoint, and made to lead: there it dies, pauses or hangs."""
    victim = ground.follower()
    action = ground.rng.choice(["exit", "exit", "sleep:4", "hang"])
    point = f"{ground.rng.choice(POINTS)}:{action}@{ground.rng.randint(1, 4)}"
    ground.installation.armed[victim.name] = point
    ground.notes.append(point)
    ground.signal(victim, signal.SIGKILL)
    yield
    with suppress(NotFound, StoreError), ground.installation.client() as client:  # which may be denied, too
        client.replicas.step_down()


@fault("replicas", 2)
def follower_killed(ground: Ground) -> Iterator[None]:
    ground.signal(ground.follower(), signal.SIGKILL)
    yield


@fault("replicas", 2)
def all_replicas_killed(ground: Ground) -> Iterator[None]:
    for replica in ground.installation.up():
        ground.signal(replica, signal.SIGKILL)
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
    ground.signal(ground.leader, signal.SIGTERM)
    yield


@fault("replicas", 7)
def all_replicas_terminated(ground: Ground) -> Iterator[None]:
    for replica in ground.installation.up():
        ground.signal(replica, signal.SIGTERM)
    yield


@fault("replicas", 8)
def two_of_one_name(ground: Ground) -> Iterator[None]:
    """A second process of the leader's name, started by mistake and ended by who noticed."""
    installation = ground.installation
    (port,) = free_ports(1)
    twin = ReplicaProcess(ground.leader.name, port)
    installation.start_replica(twin)
    assert twin.process is not None
    try:
        yield
    finally:
        twin.process.send_signal(ground.rng.choice([signal.SIGKILL, signal.SIGTERM]))
        installation.until(
            lambda: twin.process is not None and twin.process.poll() is not None,
            "the end of the second process",
        )


# -- the leader's key
# ----------------------------------------------------------------------------------------------------


@fault("key", 19)
def lease_revoked(ground: Ground) -> Iterator[None]:
    store = ground.installation.store
    item, _ = store.get(ground.recorder.history.keys.leader, deadline=in_seconds())
    if item is not None and item.lease:
        store.revoke(item.lease, deadline=in_seconds())
    yield


@fault("key", 19)
def leader_key_deleted(ground: Ground) -> Iterator[None]:
    delete = Transaction((), (Delete(ground.recorder.history.keys.leader),), Op("by hand"))
    ground.installation.store.commit(delete, deadline=in_seconds())
    yield


@fault("key", 19)
def leader_key_overwritten(ground: Ground) -> Iterator[None]:
    """By hand, with what may be a leader's record or nothing of the kind, with a lease that ends by itself
    or without.
    """
    store, rng = ground.installation.store, ground.rng
    lease = rng.choice([0, rng.getrandbits(62) | 1])
    if lease:
        store.grant(lease, 2, deadline=in_seconds())
    value = rng.choice([b'{"id": "by-hand", "instance": "by-hand"}', b"by hand"])
    ground.notes.append(f"{value.decode()}, {'leased' if lease else 'without a lease'}")
    with suppress(LeaseNotFound):
        store.commit(
            Transaction((), (Put(ground.recorder.history.keys.leader, value, lease),), Op("by hand")),
            deadline=in_seconds(),
        )
    yield


@fault("key", 19)
def step_down(ground: Ground) -> Iterator[None]:
    with suppress(NotFound, StoreError), ground.installation.client() as client:  # which may be denied, too
        client.replicas.step_down()
    yield


# -- the network
# ----------------------------------------------------------------------------------------------------


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
    """The answers of the others are lost: what they carried out is sent again, when the leader has acted
    on it.
    """
    with _bad(ground.rng.sample(_of_user(ground), 2), Proxy.drop_answers):
        yield


@fault("users' links", 12)
def user_answers_late(ground: Ground) -> Iterator[None]:
    with _bad(_of_user(ground), lambda link: link.delay(0.7)):
        yield


# -- the leader's endpoint, which followers watch
# ------------------------------------------------------------------------


@fault("endpoints")
def leader_unseen(ground: Ground) -> Iterator[None]:
    """Its status endpoint ends all connections and refuses new ones, and it lives: it is deposed for
    nothing.
    """
    with _unseen(ground, ground.leader, flickering=False):
        yield


@fault("endpoints")
def endpoints_flicker(ground: Ground) -> Iterator[None]:
    """Whoever leads is seen and not seen by turns."""
    with _unseen(ground, *ground.installation.replicas, flickering=True):
        yield


# -- how
# ----------------------------------------------------------------------------------------------------


@contextmanager
def _stopped(ground: Ground, *replicas: ReplicaProcess) -> Iterator[None]:
    processes = [replica.process for replica in replicas if replica.process is not None]
    for replica in replicas:
        ground.signal(replica, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


@contextmanager
def _bad(links: list[Proxy], harm: Callable[[Proxy], None]) -> Iterator[None]:
    for link in links:
        harm(link)
    try:
        yield
    finally:
        for link in links:
            link.heal()


@contextmanager
def _unseen(ground: Ground, *replicas: ReplicaProcess, flickering: bool) -> Iterator[None]:
    unseen = ground.installation.unseen
    unseen.update((replica.name, flickering) for replica in replicas)
    try:
        yield
    finally:
        unseen.clear()
