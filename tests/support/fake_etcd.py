"""An HTTP server that answers as the test says, where etcd's own gateway does; for answers that a healthy
etcd never gives.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CLUSTER = "1234"


def header(revision: int = 1, cluster: str = CLUSTER) -> dict[str, Any]:
    """A response header."""
    return {"cluster_id": cluster, "member_id": "1", "revision": str(revision), "raft_term": "2"}


def line(**result: Any) -> bytes:
    """One message of a stream."""
    return json.dumps({"result": result}).encode() + b"\n"


@dataclass
class Reply:
    """An answer in one piece."""

    body: dict[str, Any] | bytes
    status: int = 200


@dataclass
class Stream:
    """An answer in pieces; with `hold` the connection then stays open, silent, until the server is closed."""

    pieces: Iterable[bytes] = field(default_factory=list)
    hold: bool = False


Answer = Callable[[str, dict[str, Any]], Reply | Stream]


class FakeEtcd:
    """Serves `answer(path, request)`; keeps what was asked in `requests`."""

    def __init__(self, answer: Answer) -> None:
        self.version = "3.5.0"
        self.metrics: bytes | None = None  # None: it serves none
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self._ended = threading.Event()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path == "/metrics":
                    self._reply(Reply(fake.metrics or b"not found", 200 if fake.metrics is not None else 404))
                    return
                self._reply(Reply({"etcdserver": fake.version, "etcdcluster": fake.version}))

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fake.requests.append((self.path, request))
                result = answer(self.path, request)
                if isinstance(result, Reply):
                    self._reply(result)
                    return
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for piece in result.pieces:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                if result.hold:
                    fake._ended.wait()
                self.close_connection = True  # without the last chunk: cut off

            def _reply(self, reply: Reply) -> None:
                body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                self.send_response(reply.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Keep the test's output clean."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="fake-etcd", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> FakeEtcd:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
