"""A real Prometheus for tests: on a free port of 127.0.0.1, scraping as often as a test wants."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.etcd import free_ports
from tests.support.waiting import wait_until

SCRAPE = "1s"  # also the limit of a scrape, which a busy machine must be able to keep
Series = dict[str, Any]


class Prometheus:
    """One server with its data in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (port,) = free_ports(1)
        self._url = f"http://127.0.0.1:{port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, targets: Iterable[str], rules: dict[str, Any], alertmanagers: Iterable[str]) -> None:
        """Scrape `targets` as the job `tally`, evaluate `rules` as often, and tell `alertmanagers`."""
        (self.folder / "alerts.yaml").write_text(yaml.safe_dump(rules))
        (self.folder / "targets.json").write_text("[]")
        config = {
            "global": {"scrape_interval": SCRAPE, "evaluation_interval": SCRAPE, "scrape_timeout": SCRAPE},
            "rule_files": ["alerts.yaml"],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": list(alertmanagers)}]}]},
            "scrape_configs": [
                {
                    "job_name": "tally",
                    "scrape_timeout": SCRAPE,
                    "static_configs": [{"targets": list(targets)}],
                },
            ],
        }
        (self.folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        command = [
            "prometheus",
            f"--config.file={self.folder}/prometheus.yaml",
            f"--storage.tsdb.path={self.folder}/data",
        ]
        # what fires before Alertmanager is known is told again
        command.append(f"--rules.alert.resend-delay={SCRAPE}")
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, f"--web.listen-address={self._url.removeprefix('http://')}"],
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        wait_until(self._ready, "Prometheus")

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
        try:
            return httpx.get(f"{self._url}/-/ready", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def query(self, expression: str) -> list[Series]:
        """The instant vector now. Raises AssertionError with the server's words when it is no query."""
        answer = httpx.get(
            f"{self._url}/api/v1/query", params={"query": expression}, timeout=30, trust_env=False
        ).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        return list(answer["data"]["result"])

    def firing(self) -> set[str]:
        """Names of the alerts that fire."""
        alerts = httpx.get(f"{self._url}/api/v1/alerts", timeout=30, trust_env=False).json()["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)


@contextmanager
def prometheus(
    folder: Path, targets: Iterable[str], rules: dict[str, Any], alertmanagers: Iterable[str] = ()
) -> Iterator[Prometheus]:
    """A running one; skips where it is not installed."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (Debian: prometheus)")
    folder.mkdir()
    server = Prometheus(folder)
    try:
        server.start(targets, rules, alertmanagers)
        yield server
    finally:
        server.stop()
