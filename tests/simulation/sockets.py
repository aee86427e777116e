"""TCP between replicas, as far as the sentinel uses it: `socket` and `select` twins, and the status endpoints
they reach.

A process that ends takes its listener and its connections with it, and its machine's kernel says so; a
process that is stopped does not, and its kernel goes on taking connections. An endpoint can also be lost by a
leader that lives on, hang up, or fall silent. What each replica was told is kept, so that the judge knows who
had reason to depose whom.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from types import SimpleNamespace

from tests.simulation.concurrency import Waiters, deadline_of, has_passed
from tests.simulation.scheduler import Process, Scheduler

PORT = 80


class Endpoints:
    """The status endpoint of every machine: who listens there, and what becomes of connections to it."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        # (process, machine) → when it was connected there last
        self.connected_at: dict[tuple[str, str], float] = {}
        self.refused_at: dict[tuple[str, str], float] = {}  # and when it was refused there last
        self._listening: dict[str, Process] = {}  # machine → the process that serves its endpoint
        self._lost: dict[str, None] = {}  # machines where nobody listens, though the process lives
        self._silent: dict[str, None] = {}  # machines that answer nothing
        self._connections: list[tuple[str, SimulatedSocket]] = []  # machine, the client's side
        self._sockets = 0

    def listen(self, process: Process) -> None:
        """The process serves its machine's endpoint from now on, until it ends."""
        self._listening[process.machine.name] = process
        process.at_end.append(lambda: self.hang_up(process.machine.name))

    def hang_up(self, machine: str) -> None:
        """All connections to a machine end."""
        mine = [client for name, client in self._connections if name == machine]
        self._connections = [(name, client) for name, client in self._connections if name != machine]
        if machine not in self._silent:
            for client in mine:
                self.scheduler.after(self._delay(), client.end)

    def lose(self, machine: str) -> Callable[[], None]:
        """The process lives on, and has lost its endpoint; returns what gives it back."""
        self._lost[machine] = None
        self.hang_up(machine)
        return lambda: self._lost.pop(machine, None)

    def silence(self, machine: str) -> Callable[[], None]:
        """What is sent to the machine vanishes, and connections to it tell nothing; returns what ends
        that.
        """
        self._silent[machine] = None
        return lambda: self._silent.pop(machine, None)

    def connect(self, address: tuple[str, int], timeout: float) -> SimulatedSocket:
        """socket.create_connection."""
        fiber = self.scheduler.current
        assert fiber is not None, "only a simulated thread can connect"
        machine = address[0]
        fiber.sleep(self._delay())
        if machine in self._silent:
            fiber.sleep(timeout)
            raise TimeoutError("timed out")
        listening = self._listening.get(machine)
        if listening is None or not listening.alive or machine in self._lost:
            self.refused_at[fiber.process.name, machine] = self.scheduler.now
            self.scheduler.note(f"{machine} refuses {fiber.process.name}")
            raise ConnectionRefusedError(f"nobody listens on {machine}")
        self.connected_at[fiber.process.name, machine] = self.scheduler.now
        client = self.new_socket()
        self._connections.append((machine, client))
        return client

    def new_socket(self) -> SimulatedSocket:
        """A socket with a descriptor of its own."""
        self._sockets += 1
        return SimulatedSocket(self._sockets)

    def modules(self) -> dict[str, SimpleNamespace]:
        """What stands for the modules `socket` and `select`."""

        def pair() -> tuple[SimulatedSocket, SimulatedSocket]:
            one, other = self.new_socket(), self.new_socket()
            one.peer, other.peer = other, one
            return one, other

        return {
            "socket": SimpleNamespace(socket=socket.socket, socketpair=pair, create_connection=self.connect),
            "select": SimpleNamespace(POLLIN=select.POLLIN, poll=lambda: SimulatedPoll(self.scheduler)),
        }

    def _delay(self) -> float:
        return 0.0005 + self.scheduler.rng.random() ** 3 * 0.02


class SimulatedSocket:
    """socket.socket, of which only arrivals and the end matter."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._arrived: list[bytes] = []
        self._ended = False
        self._closed = False
        self.peer: SimulatedSocket | None = None
        self.polled_by: Waiters | None = None

    @property
    def readable(self) -> bool:
        """Whether `recv` would return at once."""
        return bool(self._arrived) or self._ended

    def end(self) -> None:
        """The other side has ended the connection."""
        self._ended = True
        self._wake()

    def fileno(self) -> int:
        return -1 if self._closed else self._descriptor

    def setblocking(self, flag: bool) -> None:
        """`recv` never waits here: whoever uses it has polled before."""

    def send(self, data: bytes) -> int:
        if self._closed or self.peer is None:
            raise OSError("Bad file descriptor")
        self.peer._arrived.append(data)
        self.peer._wake()
        return len(data)

    def recv(self, size: int) -> bytes:
        if self._arrived:
            return self._arrived.pop(0)
        if self._ended:
            raise ConnectionResetError("Connection reset by peer")
        raise BlockingIOError("Resource temporarily unavailable")

    def close(self) -> None:
        self._closed = True

    def __enter__(self) -> SimulatedSocket:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _wake(self) -> None:
        if self.polled_by is not None:
            self.polled_by.wake()


class SimulatedPoll:
    """select.poll."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._waiters = Waiters(scheduler)
        self._sockets: list[SimulatedSocket] = []

    def register(self, polled: SimulatedSocket, events: int) -> None:
        if polled.fileno() < 0:
            raise ValueError("file descriptor cannot be a negative integer (-1)")
        polled.polled_by = self._waiters
        self._sockets.append(polled)

    def poll(self, milliseconds: float) -> list[tuple[int, int]]:
        give_up_at = deadline_of(self._scheduler, milliseconds / 1000)
        while not (ready := [polled for polled in self._sockets if polled.readable]):
            if has_passed(self._scheduler, give_up_at):
                break
            self._waiters.wait(give_up_at)
        return [(polled.fileno(), select.POLLIN) for polled in ready]
