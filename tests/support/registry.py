"""A registry with one image on loopback, enough of the distribution API for `docker pull`."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@contextmanager
def registry(root_filesystem: bytes) -> Iterator[str]:
    """The reference of an image that has this tar archive as its only layer."""
    layer = gzip.compress(root_filesystem)
    rootfs = {"type": "layers", "diff_ids": [_digest(root_filesystem)]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode()
    parts = [
        {"mediaType": f"application/vnd.docker.{kind}", "size": len(data), "digest": _digest(data)}
        for data, kind in ((config, "container.image.v1+json"), (layer, "image.rootfs.diff.tar.gzip"))
    ]
    manifest = json.dumps(
        {"schemaVersion": 2, "mediaType": MANIFEST, "config": parts[0], "layers": [parts[1]]}
    ).encode()
    blobs = {_digest(data): data for data in (config, layer, manifest)}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            found = b"{}" if self.path == "/v2/" else manifest if name == "1" else blobs.get(name)
            self.send_response(404 if found is None else 200)
            body = found or b""
            self.send_header("Content-Type", MANIFEST if body is manifest else "application/octet-stream")
            self.send_header("Docker-Content-Digest", _digest(body))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815  # as the server looks for it

        def log_message(self, format: str, *args: object) -> None:
            pass

    with serving(Handler) as port:
        yield f"127.0.0.1:{port}/pulled:1"


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """A server on loopback; gives its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(
        target=server.serve_forever, name=f"http-{server.server_port}", kwargs={"poll_interval": 0.02}
    )
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
