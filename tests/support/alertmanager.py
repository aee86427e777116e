"""A real Alertmanager for tests, and a receiver for what it sends: both on free ports of 127.0.0.1."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.etcd import free_ports
from tests.support.waiting import wait_until

NAMES = ("prometheus-alertmanager", "alertmanager")  # Debian's, and everybody else's


class Receiver:
    """Takes what webhooks are sent: `alerts` has each alert that came, with the path under which it did."""

    def __init__(self) -> None:
        alerts: list[tuple[str, dict[str, Any]]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                alerts.extend((self.path, alert) for alert in body["alerts"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Quietly."""

        self.alerts = alerts
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class Alertmanager:
    """One server. `address` is where Prometheus finds it."""

    def __init__(self, address: str) -> None:
        self.address = address

    def suppressed(self) -> set[str]:
        """Names of the alerts that it has and does not send."""
        alerts = httpx.get(f"http://{self.address}/api/v2/alerts", timeout=30, trust_env=False).json()
        return {alert["labels"]["alertname"] for alert in alerts if alert["status"]["state"] == "suppressed"}


@contextmanager
def alertmanager(folder: Path, config: dict[str, Any]) -> Iterator[Alertmanager]:
    """A running one; skips where it is not installed."""
    binary = next(filter(None, map(shutil.which, NAMES)), None)
    if binary is None:
        pytest.skip("no Alertmanager is installed (Debian: prometheus-alertmanager)")
    folder.mkdir()
    (folder / "alertmanager.yaml").write_text(yaml.safe_dump(config))
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    options = [
        f"--config.file={folder}/alertmanager.yaml",
        f"--storage.path={folder}/data",
        f"--web.listen-address={address}",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [binary, *options, "--cluster.listen-address="], stdout=log, stderr=log, cwd=folder
        )

    def is_ready() -> bool:
        assert process.poll() is None, (folder / "log").read_text()[-2000:]
        try:
            return httpx.get(f"http://{address}/-/ready", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(is_ready, "Alertmanager")
        yield Alertmanager(address)
    finally:
        process.terminate()
        process.wait(30)
