"""A TCP proxy on loopback whose network can be made bad: `proxy.drop_answers()`, `proxy.black_hole()`, …
`proxy.heal()`.

Switches act on connections that are open and on new ones, from the next byte on. Threads end with `close`.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class _Pair:
    """One client's connection and its way on to the server."""

    client: socket.socket
    server: socket.socket
    answered: int = 0
    has_lost: bool = False  # bytes of answers: TCP passes none that come after them
    before_reset: Callable[[], None] | None = None  # its next answer is lost, after this

    def close(self, *, reset: bool = False) -> None:
        for side in (self.client, self.server):
            with contextlib.suppress(OSError):
                if reset:  # a linger of 0 makes close send RST instead of FIN
                    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    if side is self.client:
                        side.shutdown(socket.SHUT_RD)
                else:
                    side.shutdown(socket.SHUT_RDWR)
                side.close()


class Proxy:
    """Listens on `port` of 127.0.0.1 (0: a free one) and passes everything on to `target` (a port of
    127.0.0.1).
    """

    def __init__(self, target: int, port: int = 0) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._pairs: list[_Pair] = []
        self._threads: list[threading.Thread] = []
        self._closed = threading.Event()
        self._passing = threading.Event()  # cleared: bytes are held back in both directions
        self._passing.set()
        self._listening = threading.Event()
        self._listening.set()
        self._refuse = False
        self._swallow = False
        self._reset_on_answer = False
        self._cut_after: int | None = None
        self._lost: tuple[bytes, Callable[[], None]] | None = None
        self._delay = 0.0
        self.swallowed = threading.Event()
        """Set when an answer has been dropped, reset or cut since `heal`."""
        self._spawn(self._accept, "accept")

    @property
    def url(self) -> str:
        """As an endpoint."""
        return f"http://127.0.0.1:{self.port}"

    def drop_answers(self) -> None:
        """Requests arrive, answers do not: silence."""
        self._swallow = True

    def reset_answers(self) -> None:
        """Requests arrive; instead of the answer, the connection is reset."""
        self._reset_on_answer = True

    def lose_answer(self, mark: bytes, meanwhile: Callable[[], None]) -> None:
        """Lose the answer to the next request that has the mark. Its sender learns it after `meanwhile`."""
        self._lost = mark, meanwhile

    def cut_answers(self, after: int) -> None:
        """Requests arrive; the connection ends after so many bytes of answers."""
        with self._lock:
            for pair in self._pairs:
                pair.answered = 0
        self._cut_after = after

    def black_hole(self) -> None:
        """Nothing passes in either direction, connections stay open."""
        self._passing.clear()

    def delay(self, seconds: float) -> None:
        """Hold back each answer for a while."""
        self._delay = seconds

    def refuse(self) -> None:
        """End what is open; a new connection is closed as soon as it was made."""
        self._refuse = True
        self.disconnect()

    def shut(self) -> None:
        """End what is open; a new connection is refused, as where nobody listens.

        Linux keeps only a port that was given.
        """
        if self._listening.is_set():
            self._listening.clear()
            self._listener.shutdown(socket.SHUT_RDWR)
        self.disconnect()

    def open(self) -> None:
        """Listen again after `shut`."""
        if not self._listening.is_set():
            self._listener.listen()
            self._listening.set()

    def heal(self) -> None:
        """Behave again. Connections that lost bytes are closed."""
        self.open()
        lossy = self._swallow
        self._refuse = self._swallow = self._reset_on_answer = False
        self._cut_after, self._delay = None, 0.0
        self._passing.set()
        if lossy:
            self.disconnect()
        self.swallowed.clear()

    def disconnect(self) -> None:
        """End all open connections."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            pair.close()

    def close(self) -> None:
        """Stop listening, end all connections and threads."""
        self._closed.set()
        self._passing.set()
        self._listening.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.disconnect()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive(), f"{thread.name} does not end"

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _spawn(self, run: Callable[..., None], name: str, *args: object) -> None:
        thread = threading.Thread(target=run, args=args, name=f"proxy-{self.port}-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while self._listening.wait() and not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                continue  # shut, or closed
            if self._refuse:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self.target), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            # else Nagle holds back a request's body until its head is acknowledged, 40 ms later
            for side in (client, server):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(client, server)
            with self._lock:
                self._pairs.append(pair)
            if self._closed.is_set():  # since it was accepted
                pair.close()
            self._spawn(self._pump_requests, "requests", pair)
            self._spawn(self._pump_answers, "answers", pair)

    def _pump_requests(self, pair: _Pair) -> None:
        with contextlib.suppress(OSError):
            while data := pair.client.recv(65536):
                self._passing.wait()
                if self._lost is not None and self._lost[0] in data:
                    pair.before_reset, self._lost = self._lost[1], None
                pair.server.sendall(data)
        if self._passing.is_set():
            pair.close()

    def _pump_answers(self, pair: _Pair) -> None:
        with contextlib.suppress(OSError):
            while data := pair.server.recv(65536):
                self._passing.wait()
                if self._delay:
                    threading.Event().wait(self._delay)
                if pair.before_reset is not None:
                    pair.before_reset()
                    self.swallowed.set()
                    pair.close(reset=True)
                    return
                if self._swallow:
                    pair.has_lost = True
                    self.swallowed.set()
                if pair.has_lost:
                    continue
                if self._reset_on_answer:
                    self.swallowed.set()
                    pair.close(reset=True)
                    return
                if self._cut_after is not None and pair.answered + len(data) > self._cut_after:
                    pair.client.sendall(data[: max(0, self._cut_after - pair.answered)])
                    self.swallowed.set()
                    break
                pair.client.sendall(data)
                pair.answered += len(data)
        self._passing.wait()
        pair.close()
