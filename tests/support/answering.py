"""A server that answers whatever a test wants, to whoever asks it for anything."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """An HTTP server that says what the test wants, whatever is asked; a list is sent in chunks."""

    def __init__(self) -> None:
        outer = self
        self.answer: Callable[[str], tuple[int, bytes | list[bytes]]] = lambda _: (200, b"{}")
        self.headers: dict[str, str] = {}

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                code, data = outer.answer(self.path)
                self.send_response(code)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                if isinstance(data, bytes):
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                    return
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for part in (*data, b""):
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815  # the library's names

            def log_message(self, *args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
