"""A receiver on loopback that does with each connection what the test wants, down to the bytes."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from ipaddress import ip_network
from typing import NamedTuple

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


class Received(NamedTuple):
    """A whole request: its first line, its headers (names in lower case) and its body."""

    line: str
    headers: dict[str, str]
    body: bytes


def read_request(sock: socket.socket) -> Received:
    """The request that comes. Raises ConnectionError if it ends early."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(sock)
    head, _, body = data.partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
    while len(body) < int(headers.get("content-length", 0)):
        body += _some(sock)
    return Received(line, headers, body)


def _some(sock: socket.socket) -> bytes:
    chunk = sock.recv(65536)
    if not chunk:
        raise ConnectionError("the request ended early")
    return chunk


def answer(status: int, *fields: str, body: bytes = b"") -> bytes:
    """An answer as bytes."""
    lines = [f"HTTP/1.1 {status} Words", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


class ReceivingServer:
    """Accepts connections until it is closed, each with a thread of its own.

    `act` is called with each connection and with the request that came by it, and `greet` before anything is
    read. `hold` is set when the server closes: what hangs on purpose waits for it.
    """

    def __init__(
        self,
        act: Callable[[socket.socket, Received], None] | bytes = b"",
        *,
        greet: Callable[[socket.socket], None] | None = None,
        certificate: dict[str, str] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self._act = act
        self._greet = greet
        self._context = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificate["cert_file"], certificate["key_file"])
        self.requests: list[Received] = []
        self.connections = 0
        self.hold = threading.Event()
        self._lock = threading.Lock()
        self._socket = socket.create_server(
            (host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> ReceivingServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        """Where it listens."""
        return f"{'https' if self._context else 'http'}://{host}:{self.port}{path}"

    def close(self) -> None:
        """Accept no more, and let go what hangs."""
        self.hold.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._socket.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock:  # the client may leave at any time
            if self._greet is not None:
                self._greet(sock)
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
            with sock:
                request = read_request(sock)
                with self._lock:
                    self.requests.append(request)
                if isinstance(self._act, bytes):
                    sock.sendall(self._act)
                else:
                    self._act(sock, request)
