"""What bounds the use of a connection."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from controller.notifier.line import AnswerTooLarge, Line
from tests.support.bench import HandClock


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection, as both sides have it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_each_wait_ends_with_the_whole(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    clock = HandClock(100.0)
    line = Line(ours, clock, 120.0, 15.0, 1000)
    theirs.sendall(b"abc")
    assert line.receive_into(bytearray(1)) == 1
    assert ours.gettimeout() == 15.0
    clock.move(10.0)
    line.sendall(b"x")
    assert ours.gettimeout() == 10.0
    line.shorten(60.0)
    line.shorten(4.0)
    assert line.receive_into(bytearray(1)) == 1
    assert ours.gettimeout() == 4.0
    clock.move(4.0)
    with pytest.raises(TimeoutError):
        line.receive_into(bytearray(1))
    with pytest.raises(TimeoutError):
        line.sendall(b"x")


def test_so_many_bytes_are_read_and_not_one_more(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    line = Line(ours, HandClock(), 1e9, 15.0, 5)
    theirs.sendall(b"abcdefgh")
    assert line.receive_into(bytearray(3)) == 3
    assert line.receive_into(bytearray(30)) == 2
    with pytest.raises(AnswerTooLarge):
        line.receive_into(bytearray(30))
    assert ours.recv(30) == b"fgh"
