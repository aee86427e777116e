"""A leader whose process is gone is replaced before its lease ends; one that is only silent, or only hung
up, is not.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from controller.clock import SystemClock
from controller.core.model.op import Op
from controller.election.sentinel import LOOK_SECONDS, Sentinel, Target
from controller.store.base import Committed, Delete, Guard, Put, Transaction
from controller.store.keys import Keys
from controller.store.memory import MemoryStore
from tests.support.waiting import wait_until

KEYS = Keys("sentinel")
QUIET_SECONDS = 1.5  # long enough for a sentinel that would act wrongly to have acted several times
LISTEN = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
connections = []
while True:
    connections.append(server.accept()[0])
"""


@contextmanager
def process() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that listens, as a leader does, and its port."""
    child = subprocess.Popen([sys.executable, "-c", LISTEN], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        yield child, int(child.stdout.readline())
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


class Stage:
    """A store with a leader key, and a sentinel that watches that leader."""

    def __init__(self, port: int) -> None:
        self.clock = SystemClock()
        self.store = MemoryStore(self.clock)
        self.term = self.elect()
        self.host, self.port = "127.0.0.1", port
        self.woken = threading.Event()
        self.sentinel = Sentinel(self.store, KEYS, self.clock, "me", self.target, self.woken.set)
        self.sentinel.start()

    def target(self) -> Target | None:
        return Target(self.term, self.host, self.port)

    def commit(self, transaction: Transaction) -> int:
        result = self.store.commit(transaction, deadline=self.clock.boottime() + 5)
        assert isinstance(result, Committed)
        return result.revision

    def elect(self) -> int:
        return self.commit(Transaction((Guard(KEYS.leader, 0),), (Put(KEYS.leader, b'{"op":"x"}'),), Op("x")))

    def has_leader(self) -> bool:
        return self.store.get(KEYS.leader, deadline=self.clock.boottime() + 5)[0] is not None


@contextmanager
def stage(port: int) -> Iterator[Stage]:
    """A stage whose sentinel is ended."""
    built = Stage(port)
    try:
        yield built
    finally:
        built.sentinel.close()


def connected(port: int) -> bool:
    """Whether we have a connection to this port."""
    connections = psutil.Process().net_connections("tcp")
    return any(c.raddr and c.raddr.port == port and c.status == psutil.CONN_ESTABLISHED for c in connections)


def test_a_killed_leader_is_deposed_at_once() -> None:
    """The connection ends and a new one is refused: the key is deleted and the election is woken."""
    with process() as (leader, port), stage(port) as here:
        wait_until(lambda: connected(port), "the connection")
        assert here.has_leader()
        leader.kill()
        assert here.woken.wait(10)
        assert not here.has_leader()
        assert here.sentinel.deposed == 1


def test_a_stopped_leader_is_not_deposed() -> None:
    """SIGSTOP is silence, and silence proves nothing."""
    with process() as (leader, port), stage(port) as here:
        wait_until(lambda: connected(port), "the connection")
        leader.send_signal(signal.SIGSTOP)
        assert not here.woken.wait(QUIET_SECONDS)
        assert here.has_leader()


def test_a_leader_that_hangs_up_is_not_deposed() -> None:
    """A server that closes idle connections takes new ones: it lives."""
    with socket.create_server(("127.0.0.1", 0)) as server, stage(server.getsockname()[1]) as here:
        for _ in range(5):
            connection, _ = server.accept()
            connection.close()
        assert not here.woken.is_set()
        assert here.has_leader()


@pytest.mark.parametrize("held_seconds", [0.0, LOOK_SECONDS])
def test_what_takes_connections_only_to_end_them_is_not_asked_without_pause(held_seconds: float) -> None:
    """A proxy with nobody behind it: it proves nothing, and is spared, also where somebody was behind it
    before.
    """
    with socket.create_server(("127.0.0.1", 0)) as server, stage(server.getsockname()[1]) as here:
        with server.accept()[0]:
            assert not here.woken.wait(held_seconds)
        server.settimeout(QUIET_SECONDS)
        until, taken = here.clock.boottime() + QUIET_SECONDS, 0
        while here.clock.boottime() < until:
            with contextlib.suppress(TimeoutError):
                server.accept()[0].close()
                taken += 1
        # without a pause there are thousands; with it some tens at most, however often the machine stalls
        assert taken < 100
        assert not here.woken.is_set()


def test_a_leader_that_dies_after_it_hung_up_is_deposed() -> None:
    """As a killed process does: for a moment after our connection has ended, its kernel still takes new
    ones.
    """
    with socket.create_server(("127.0.0.1", 0)) as server, stage(server.getsockname()[1]) as here:
        for _ in range(2):  # our connection, and the question whether a new one is refused
            connection, _ = server.accept()
            connection.close()
        server.close()
        assert here.woken.wait(10)
        assert not here.has_leader()


def test_without_an_established_connection_nothing_is_concluded() -> None:
    """An address where nobody ever listened is a wrong address, and no evidence."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with stage(port) as here:
        assert not here.woken.wait(QUIET_SECONDS)
        assert here.has_leader()


def test_another_term_is_left_alone() -> None:
    """The leader died and another was elected meanwhile: the deletion is fenced by the old term, and
    fails.
    """
    with process() as (leader, port), stage(port) as here:
        wait_until(lambda: connected(port), "the connection")
        here.commit(Transaction((Guard(KEYS.leader, here.term),), (Delete(KEYS.leader),), Op("z")))
        here.elect()
        leader.kill()
        assert not here.woken.wait(QUIET_SECONDS)
        assert here.has_leader()
        assert here.sentinel.deposed == 0


@pytest.mark.parametrize("url", ["", None, "nonsense", "http://[::1", "http://host"])
def test_a_leader_that_does_not_say_where_it_listens(url: object) -> None:
    """No address, or one that is none: nobody is watched, nothing fails."""
    assert Target.of(1, url) is None


def test_it_watches_whatever_the_number_of_open_files() -> None:
    """A follower with a thousand readers has file descriptors that select() cannot take."""
    with contextlib.ExitStack() as readers:
        for _ in range(520):
            for end in socket.socketpair():
                readers.enter_context(end)
        with process() as (leader, port), stage(port) as here:
            wait_until(lambda: connected(port), "the connection")
            leader.kill()
            assert here.woken.wait(10)
            assert not here.has_leader()


@pytest.mark.parametrize("host", ["a" * 70, "a..b", "a\0b"])
def test_a_name_that_no_machine_can_have_ends_no_follower(host: str) -> None:
    """It is not connected to, nothing is concluded, and the thread goes on."""
    with process() as (leader, port), stage(port) as here:
        wait_until(lambda: connected(port), "the connection")
        here.host = host
        here.sentinel.wake()
        wait_until(lambda: not connected(port), "the end of the connection")
        here.host = "127.0.0.1"
        here.sentinel.wake()
        wait_until(lambda: connected(port), "the connection to the one that has a name")
        leader.kill()
        assert here.woken.wait(10)
