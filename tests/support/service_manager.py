"""What a service manager does for one service: a notification socket, and what arrived there."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator


class NotifySocket:
    """A bound datagram socket; `address` is what NOTIFY_SOCKET says ("@…" for an abstract one).

    `received` grows with `drain`.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.received: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)

    def drain(self) -> list[str]:
        """Assignments that arrived since the last call, oldest first."""
        new: list[str] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                new += self._socket.recv(65536).decode().split("\n")
        self.received += new
        return new

    def has(self, start: str) -> bool:
        """Whether an assignment that starts so has arrived."""
        self.drain()
        return any(each.startswith(start) for each in self.received)

    def close(self) -> None:
        """No one listens any more."""
        self._socket.close()


@contextlib.contextmanager
def notify_socket(address: str) -> Iterator[NotifySocket]:
    """A socket for the block."""
    listening = NotifySocket(address)
    try:
        yield listening
    finally:
        listening.close()
