"""The wire: HTTP/1.1 with keep-alive and chunked streams, one thread per connection.

`http.server` rather than a framework, because the faults need the socket itself: an answer dropped after the
request took effect, a connection cut in the middle of a stream, a request parked while its client goes away.
"""

from __future__ import annotations

import itertools
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from controller.dev.fake_kubernetes import discovery, fault_routes
from controller.dev.fake_kubernetes.access import ANONYMOUS
from controller.dev.fake_kubernetes.api import REVIEWS, TOKEN_REVIEWS, Answer, LogStream, read_request
from controller.dev.fake_kubernetes.apierrors import ApiError, unauthorized
from controller.dev.fake_kubernetes.cluster_state import ClusterState
from controller.dev.fake_kubernetes.faults import Dropped
from controller.dev.fake_kubernetes.watching import Cut, WatchStream

MAX_BODY_BYTES = 3 * 1024 * 1024  # as kube-apiserver's limit


class ConnectionServer(ThreadingHTTPServer):
    """Listens on one address of this machine; `end` closes every connection and joins every thread."""

    daemon_threads = False
    request_queue_size = 256

    def __init__(self, host: str, port: int, state: ClusterState, tls: ssl.SSLContext | None) -> None:
        self.state = state
        self.failure: BaseException | None = None
        """An error of the fake itself, raised when it is stopped."""
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        super().__init__((host, port), Handler)
        if tls is not None:  # hands are shaken in the connection's own thread, with its first byte
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread of its own, with a name, for each connection."""
        name = f"fake-kubernetes-{next(self._numbers)}"
        thread = threading.Thread(
            target=self.process_request_thread, args=(request, client_address), name=name, daemon=True
        )
        with self._lock:
            self._connections[request] = thread
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        """Note that a connection has ended."""
        with self._lock:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def drop_connections(self) -> None:
        """Close all connections, as a server that goes down does."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with suppress(OSError):
                # Not ssl's own shutdown: it removes TLS under the thread that reads, which then continues in
                # the clear.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def restart(self) -> None:
        """See FakeCluster."""
        self.state.storage.compact()
        self.state.watches.cut()
        self.drop_connections()

    def end(self) -> None:
        """Stop the server. No thread and no socket is left afterwards.

        `serve_forever` must run, or have run, in another thread.
        """
        self.shutdown()
        self.server_close()
        with self._lock:
            threads = list(self._connections.values())
        self.drop_connections()
        for thread in threads:
            thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - as socketserver calls it
        """Record a handler's error, which fails the test (see FakeCluster.stop), unless the client left."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | ssl.SSLError):
            self.failure = self.failure or error


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = "fake-kubernetes"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: ConnectionServer

    def do_GET(self) -> None:
        """Handle all methods alike."""
        self._serve()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - http.server's names

    def log_message(self, *args: Any) -> None:
        """Say nothing: tests and `tally dev` have their own output."""

    def _serve(self) -> None:
        try:
            self._handle()
            self.wfile.flush()
        except ApiError as error:
            self._send_error(error)
        except (Dropped, Cut):
            self._close()
        except ConnectionError:
            self.close_connection = True

    def _send_error(self, error: ApiError) -> None:
        body = error.message.encode() + b"\n" if error.plain else msgspec.json.encode(error.document())
        with suppress(ConnectionError):
            self._send(
                Answer(body, error.code, "text/plain; charset=utf-8" if error.plain else "application/json"),
                error.headers,
            )
            self.wfile.flush()

    def _close(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            socket.socket.shutdown(self.connection, socket.SHUT_RDWR)  # see drop_connections

    def _handle(self) -> None:
        state = self.server.state
        url = urlsplit(self.path)
        body = self._body()
        if url.path.startswith("/_faults"):
            if state.access.authenticate(self.headers.get("Authorization", "")) == ANONYMOUS:
                raise unauthorized()  # a web page can post here, too
            told = fault_routes.answer(state, self.server.restart, self.command, url.path, body)
            self._send(Answer(msgspec.json.encode(told)), {})
            return
        if url.path in ("/healthz", "/livez", "/readyz"):
            self._send(Answer(b"ok", content_type="text/plain; charset=utf-8"), {})
            return
        user = state.access.authenticate(self.headers.get("Authorization", ""))
        described = discovery.document(url.path.rstrip("/"), state.version) if self.command == "GET" else None
        if described is not None:
            self._send(Answer(msgspec.json.encode(described)), {})
            return
        request = read_request(self.command, url.path, dict(parse_qsl(url.query, keep_blank_values=True)))
        state.faults.before(request.access)
        if request.resource == REVIEWS:
            reviewed = state.access.review(user, msgspec.json.decode(body))
            self._send(Answer(msgspec.json.encode(reviewed), 201), {})
            return
        if not state.access.allows(user, request.access):
            raise state.access.refusal(user, request.access)
        if request.resource == TOKEN_REVIEWS:
            reviewed = state.access.review_token(msgspec.json.decode(body))
            self._send(Answer(msgspec.json.encode(reviewed), 201), {})
            return
        with state.storage.lock:
            answer = state.api.answer(request, body, self.headers.get("Content-Type", ""))
            if isinstance(answer, WatchStream):
                state.watches.add(answer)
        if isinstance(answer, WatchStream):
            self._watch(answer)
            return
        state.faults.after(request.access)
        if isinstance(answer, LogStream):
            self._stream(answer.logs.follow(answer.uid, answer.tail), "text/plain")
        else:
            self._send(answer, {})

    def _body(self) -> bytes:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        if length > MAX_BODY_BYTES:
            message = f"Request entity too large: limit is {MAX_BODY_BYTES}"
            raise ApiError(413, "RequestEntityTooLarge", message, details={})
        return body

    def _send(self, answer: Answer, headers: dict[str, str]) -> None:
        self.send_response(answer.code)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def _watch(self, watch: WatchStream) -> None:
        state = self.server.state
        try:
            self._stream(watch.batches(), "application/json")
        finally:
            state.watches.discard(watch)

    def _stream(self, parts: Iterator[bytes], content_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        for part in parts:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")
