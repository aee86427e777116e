"""What a client cannot make the status endpoint do: wait, keep, or fail. Over plain TCP and over TLS."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from controller.core.model.lifecycle import State
from controller.endpoint import connections
from controller.endpoint.server import StatusServer
from tests.endpoint.conftest import Files, reader, serving
from tests.endpoint.model_view import ModelView, status_value
from tests.support.waiting import wait_until

Connect = Callable[[], socket.socket]
SECONDS = 20.0  # of any one wait; only what hangs comes near it


class Served:
    """An endpoint, and ways to it."""

    def __init__(
        self,
        server: StatusServer,
        http: httpx.Client,
        context: ssl.SSLContext | None,
        bearer: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.server = server
        self._monkeypatch = monkeypatch
        self.http = http
        self._context = context
        self.bearer = bearer
        self.address = ("127.0.0.1", int(server.url.rpartition(":")[2]))

    def accept(self, *, receive_buffer: int = 0) -> socket.socket:
        """A TCP connection, on which nothing has been said."""
        made = socket.socket()
        if receive_buffer:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        made.settimeout(SECONDS)
        made.connect(self.address)
        return made

    def connect(self, *, receive_buffer: int = 0) -> socket.socket:
        """A connection on which HTTP may be spoken."""
        if self._context is None:
            return self.accept(receive_buffer=receive_buffer)
        return wait_until(lambda: self._secured(receive_buffer), "a TLS handshake")

    def _secured(self, receive_buffer: int) -> socket.socket | None:
        assert self._context is not None
        try:
            return self._context.wrap_socket(
                self.accept(receive_buffer=receive_buffer), server_hostname="127.0.0.1"
            )
        except OSError:  # this machine is so busy that it was cut for its slowness
            return None

    def get(self, path: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{self.bearer}\r\n".encode()

    def is_well(self) -> None:
        """It answers, with the limits that it always has."""
        self._monkeypatch.undo()
        assert self.http.get("/v1/tasks").status_code == 200


@pytest.fixture(params=["plain", "TLS and token"])
def served(
    request: pytest.FixtureRequest, view: ModelView, files: Files, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Served]:
    is_protected = request.param != "plain"
    context = ssl.create_default_context(cafile=files.authority.ca_file) if is_protected else None
    protection: dict[str, Path] = files.tls | files.token if is_protected else {}
    bearer = f"Authorization: Bearer {files.secret}\r\n" if is_protected else ""
    with serving(view, protection) as server, reader(server, files) as http:
        yield Served(server, http, context, bearer, monkeypatch)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of time that need not be waited for."""
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.4)


def until_cut(opened: socket.socket) -> bytes:
    """What still comes, until the other side ends the connection. Raises TimeoutError when it does not."""
    received = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):  # a reset, which under TLS has no good-bye
        while chunk := opened.recv(1 << 16):
            received += chunk
    return received


def trickle(opened: socket.socket, endless: Iterator[bytes]) -> None:
    """Send piece after piece until the other side refuses."""
    pause = threading.Event()
    with contextlib.suppress(OSError):
        for piece in endless:
            opened.sendall(piece)
            pause.wait(0.005)
    opened.close()


@pytest.mark.usefixtures("impatient")
class TestSlowness:
    def test_a_silent_connection_is_cut(self, served: Served) -> None:
        """Under TLS before the first byte of its handshake."""
        assert until_cut(served.accept()) == b""
        served.is_well()

    def test_a_request_that_never_ends_is_cut_however_steadily_it_comes(self, served: Served) -> None:
        """Slowloris: a byte now and then, each in time."""

        def head() -> Iterator[bytes]:
            yield served.get("/v1/tasks")[:-2]
            while True:
                yield b"X"

        trickle(served.connect(), head())
        served.is_well()

    def test_a_tls_handshake_that_never_ends_is_cut(self, served: Served) -> None:
        def hello() -> Iterator[bytes]:
            yield b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03"  # of 16 KiB
            while True:
                yield b"\0"

        trickle(served.accept(), hello())
        served.is_well()

    def test_a_body_that_never_ends_is_cut(self, served: Served) -> None:
        """It is answered before; what still comes is dropped, and not for ever."""

        def body() -> Iterator[bytes]:
            yield served.get("/v1/tasks").replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                yield b"1\r\nx\r\n"

        trickle(served.connect(), body())
        served.is_well()


class TestTaking:
    @pytest.fixture(autouse=True)
    def _looks_often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connections, "LOOK_SECONDS", 0.2)

    def test_who_takes_nothing_of_an_answer_is_cut(self, served: Served, view: ModelView) -> None:
        for n in range(200):
            view.submit(f"t{n}", labels={f"label-{i}": "v" * 60 for i in range(60)})
        slow = served.connect(receive_buffer=4096)
        for _ in range(200):  # answers of about a megabyte; none is taken
            with contextlib.suppress(OSError):
                slow.sendall(served.get("/v1/tasks?limit=500"))
        wait_until(lambda: connected(served) == 0, "the slow reader being cut")
        slow.close()
        served.is_well()

    def test_who_takes_nothing_of_a_stream_is_cut(self, served: Served, view: ModelView) -> None:
        slow = served.connect(receive_buffer=4096)
        slow.sendall(served.get("/v1/events"))
        assert slow.recv(10)
        changes = tuple(
            ("states", (f"t{n}",), status_value(State.RUNNING, message="m" * 8000)) for n in range(64)
        )

        def is_cut() -> bool:
            view.write(*changes)  # more than the buffers between can hold
            return connected(served) == 0

        wait_until(is_cut, "the slow reader being cut", poll=0.05)
        slow.close()
        served.is_well()


def connected(served: Served) -> int:
    """Connections that the server knows of."""
    assert served.server._server is not None
    return len(served.server._server.server_state.connections)


class TestNumbers:
    def test_idle_connections_keep_nobody_out(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        """There are more than may be, a few thousand one after the other: a probe is answered all the
        while.
        """
        monkeypatch.setattr(connections, "MAX_CONNECTIONS", 32)
        kept: list[socket.socket] = []
        for n in range(3000):
            kept.append(served.accept())
            if len(kept) > 100:
                kept.pop(0).close()
            if n % 300 == 0:
                with httpx.Client(verify=False, trust_env=False, timeout=SECONDS) as probe:
                    assert probe.get(f"{served.server.url}/livez").status_code == 200
                assert connected(served) <= 32
        for opened in kept:
            opened.close()
        wait_until(lambda: connected(served) == 0, "the end of them")
        served.is_well()

    def test_connections_that_are_being_answered_are_not_cut_for_new_ones(
        self, served: Served, view: ModelView, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connections, "MAX_CONNECTIONS", 4)
        streams = []
        for _ in range(4):
            streams.append(served.connect())
            streams[-1].sendall(served.get("/v1/events"))
            assert streams[-1].recv(10)
        assert until_cut(served.accept()) == b""
        view.submit("a")
        for opened in streams:
            received = b""
            while b"submitted" not in received:
                received += opened.recv(4096)
            opened.close()

    def test_requests_that_wait_leave_room_for_others(
        self, served: Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("controller.endpoint.server.MAX_WAITING", 4)
        waiting = [served.connect() for _ in range(4)]
        for opened in waiting:
            opened.sendall(served.get("/v1/tasks?min_revision=1000000&wait=30"))
        wait_until(lambda: served.server._feed.waiting == 4, "all of them waiting")
        assert served.http.get("/v1/tasks?min_revision=1000000&wait=30").status_code == 503
        assert served.http.get("/v1/tasks").status_code == 200
        for opened in waiting:
            opened.close()


class TestSizes:
    def test_a_large_head_is_refused(self, served: Served) -> None:
        opened = served.connect()
        with contextlib.suppress(OSError):
            opened.sendall(
                served.get("/v1/tasks")[:-2] + b"X-Filler: " + b"x" * (connections.MAX_HEAD_BYTES + 1)
            )
        assert until_cut(opened)[:13] in (b"HTTP/1.1 400 ", b"")
        served.is_well()

    @pytest.mark.parametrize("more", ["X-Filler", "?x="])
    def test_a_large_head_that_comes_in_one_piece_is_refused(self, more: str, served: Served) -> None:
        """Nothing is incomplete then, and h11 bounds what it has to wait for."""
        filler = "x" * (connections.MAX_HEAD_BYTES + 1)
        if more == "?x=":
            answer = served.http.get(f"/v1/tasks?x={filler}")
        else:
            answer = served.http.get("/v1/tasks", headers={more: filler})
        assert answer.status_code == 431
        served.is_well()

    def test_a_long_request_line_is_refused(self, served: Served) -> None:
        opened = served.connect()
        with contextlib.suppress(OSError):
            opened.sendall(b"GET /" + b"x" * (connections.MAX_HEAD_BYTES + 1))
        assert until_cut(opened)[:13] in (b"HTTP/1.1 400 ", b"")
        served.is_well()

    def test_a_large_body_is_refused_when_it_is_announced(self, served: Served) -> None:
        opened = served.connect()
        announced = f"\r\nContent-Length: {10**12}\r\n\r\n".encode()
        opened.sendall(served.get("/v1/tasks").replace(b"\r\n\r\n", announced))
        assert until_cut(opened).startswith(b"HTTP/1.1 413 ")
        served.is_well()

    def test_a_large_body_that_is_not_announced_is_cut(self, served: Served) -> None:
        opened = served.connect()
        with contextlib.suppress(OSError):
            opened.sendall(
                served.get("/v1/tasks").replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n")
            )
            for _ in range(100):
                opened.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        until_cut(opened)
        served.is_well()

    def test_a_small_body_is_ignored(self, served: Served) -> None:
        assert served.http.request("GET", "/v1/tasks", content=b"{}").status_code == 200
        served.is_well()


# -- rubbish
# ---------------------------------------------------------------------------------------------------------

PIECES = [
    b"GET",
    b"HEAD",
    b"POST",
    b"GET / HTTP/1.1\r\n",
    b" ",
    b"/",
    b"/v1/tasks",
    b"/v1/events",
    b"?limit=",
    b"%00",
    b"%ff%fe",
    b"..",
    b"http://[",
    b" HTTP/1.1",
    b" HTTP/2.0",
    b" HTTP/1.",
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"\xff",
    b":",
    b"Host: localhost\r\n",
    b"*",
    b"Content-Length: 5\r\n",
    b"Content-Length: -1\r\n",
    b"Content-Length: " + b"9" * 5000 + b"\r\n",
    b"Content-Length: +1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"ffffffffffffffff\r\n",
    b"-1\r\n",
    b"0\r\n\r\n",
    b"Host: ",
    b"Upgrade: websocket\r\n",
    b"Connection: upgrade\r\n",
    b"Connection: close\r\n",
    b"Expect: 100-continue\r\n",
    b"\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"Authorization: Bearer ",
    b"Authorization: Basic ",
    b"Range: bytes=0-\r\n",
    b"x" * 3000,
    b"Last-Event-ID: -9\r\n",
    b"Cookie: " + b"a=b;" * 100 + b"\r\n",
    b"\x16\x03\x01\x00\xff",
]


def rubbish(seed: int) -> bytes:
    """Random bytes, or pieces of HTTP in any order, or a sound request that is damaged in places."""
    drawn = random.Random(seed)
    kind = drawn.randrange(3)
    if kind == 0:
        return drawn.randbytes(drawn.randrange(1, 400))
    if kind == 1:
        return b"".join(drawn.choices(PIECES, k=drawn.randrange(1, 12)))
    path = drawn.choice(
        [b"/", b"/livez", b"/v1/tasks?limit=2", b"/v1/tasks/a", b"/v1/events?after=0", b"/static/page.js"]
    )
    whole = bytearray(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n")
    for _ in range(drawn.randrange(4)):
        at = drawn.randrange(len(whole))
        whole[at : at + drawn.randrange(3)] = drawn.choice([b"", drawn.randbytes(2), drawn.choice(PIECES)])
    return bytes(whole[: drawn.randrange(1, len(whole) + 1)] if drawn.random() < 0.3 else whole)


@pytest.mark.usefixtures("impatient")
def test_rubbish_is_refused_or_cut_and_never_a_fault(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """No 5xx, nothing that hangs, no line in the log for each; afterwards all is as before.

    A failure names its seed.
    """
    with caplog.at_level(logging.WARNING):
        for batch in range(0, 300, 50):
            sent = {seed: speak(served, seed) for seed in range(batch, batch + 50)}
            for seed, opened in sent.items():
                with opened:
                    answer = first_line(opened)
                assert not answer.startswith(b"HTTP/1.1 5"), f"seed {seed}: {answer!r}"
    wait_until(lambda: connected(served) == 0, "the end of them")
    served.is_well()
    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.parametrize(
    "said", [b"hello\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n"]
)
def test_what_is_no_request_is_refused_as_all_else_is(served: Served, said: bytes) -> None:
    """A problem in words, with the headers that every answer has."""
    with served.connect() as opened:
        opened.sendall(said)
        received = b""
        while chunk := opened.recv(4096):
            received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"connection"] == b"close"
    for name, value in connections.PROTECTION.items():
        assert headers[name.lower().encode()] == value.lower().encode()
    assert json.loads(body)["status"] == 400


def speak(served: Served, seed: int) -> socket.socket:
    """A connection on which rubbish was said; each third says it in place of TLS."""
    opened = served.accept() if seed % 3 == 0 else served.connect()
    with contextlib.suppress(OSError):  # it was cut meanwhile
        opened.sendall(rubbish(seed))
        if seed % 2:
            opened.shutdown(socket.SHUT_WR)
    return opened


def first_line(opened: socket.socket) -> bytes:
    """Of the answer; raises TimeoutError when there is neither one nor an end."""
    received = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while b"\r\n" not in received and (chunk := opened.recv(4096)):
            received += chunk
    return received.partition(b"\r\n")[0]
