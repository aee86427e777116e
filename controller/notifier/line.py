"""A connection whose use is bounded: in time as a whole, between two bytes, and in what is read."""

from __future__ import annotations

import io
import socket
from typing import Any

from controller.clock import Clock

_SEND_BYTES = 16 * 1024  # with one limit of time: TLS counts it anew for each of its records


class AnswerTooLarge(OSError):
    """More bytes came than are read."""


class Line:
    """What `http.client` needs of a socket.

    `ends` is a boottime. The one that connected closes the socket.
    """

    def __init__(
        self, sock: socket.socket, clock: Clock, ends: float, read_seconds: float, most_bytes: int
    ) -> None:
        self._sock = sock
        self._clock = clock
        self._ends = ends
        self._read_seconds = read_seconds
        self._bytes_left = most_bytes

    def shorten(self, seconds: float) -> None:
        """End the use in so many seconds at the latest."""
        self._ends = min(self._ends, self._clock.boottime() + seconds)

    def sendall(self, data: Any) -> None:
        """Send everything. Raises OSError; TimeoutError if it takes too long."""
        view = memoryview(data).cast("B")
        for begin in range(0, len(view), _SEND_BYTES):
            self._limit()
            self._sock.sendall(view[begin : begin + _SEND_BYTES])

    def receive_into(self, buffer: Any) -> int:
        """Wait for some bytes; 0 at the end.

        Raises OSError; TimeoutError if none come for too long, AnswerTooLarge if too many came.
        """
        if self._bytes_left <= 0:
            raise AnswerTooLarge("the answer is too large")
        self._limit()
        number = self._sock.recv_into(memoryview(buffer)[: self._bytes_left])
        self._bytes_left -= number
        return number

    def makefile(self, mode: str) -> io.BufferedReader:  # noqa: ARG002  # the socket's own signature
        """What `http.client` reads from."""
        return io.BufferedReader(_Received(self))

    def close(self) -> None:
        """Nothing: `http.client` closes its socket before it has read the body."""

    def _limit(self) -> None:
        left = self._ends - self._clock.boottime()
        if left <= 0:
            raise TimeoutError("it took too long")
        self._sock.settimeout(min(left, self._read_seconds))


class _Received(io.RawIOBase):
    def __init__(self, line: Line) -> None:
        self._line = line

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._line.receive_into(buffer)
