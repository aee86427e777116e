from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from controller.endpoint.access import EndpointAccess, StatusFiles
from controller.endpoint.server import StatusServer
from tests.endpoint.model_view import ModelView
from tests.support.tls import Authority


class Files:
    """What protects an endpoint, in files that a test may replace: settings of StatusFiles."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder / "authority")
        self.clients = Authority(folder / "clients")
        self.secret = secrets.token_hex(16)
        token_file = folder / "token"
        token_file.write_text(f"{self.secret}\n")
        self.tls = {kind: Path(file) for kind, file in self.authority.issue("status").items()}
        self.client_ca = {"client_ca_file": Path(self.clients.ca_file)}
        self.token = {"token_file": token_file}

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret}"}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@contextmanager
def serving(view: ModelView, protection: Mapping[str, Path] = {}) -> Iterator[StatusServer]:  # never changed
    """A running status endpoint on a free port; `protection` are StatusFiles' fields."""
    server = StatusServer(
        view,
        "127.0.0.1",
        0,
        access=EndpointAccess(StatusFiles(**protection)),
        kept_log=view.kept_log,
        look=view.look,
        has_come_to=view.has_come_to,
    )
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def reader(server: StatusServer, files: Files, **options: Any) -> Iterator[httpx.Client]:
    """A client of that endpoint that knows its authority and its token."""
    import ssl

    trusted = ssl.create_default_context(cafile=files.authority.ca_file)
    made: dict[str, Any] = {
        "base_url": server.url,
        "timeout": 20.0,
        "trust_env": False,
        "verify": trusted,
        "headers": files.bearer,
        **options,
    }
    with httpx.Client(**made) as client:
        yield client


@pytest.fixture
def view() -> ModelView:
    """A follower's view of an empty model."""
    return ModelView()


@pytest.fixture
def server(view: ModelView) -> Iterator[StatusServer]:
    """A running status endpoint on a free port."""
    with serving(view) as server:
        yield server


@pytest.fixture
def http(server: StatusServer) -> Iterator[httpx.Client]:
    """A client of that endpoint."""
    with httpx.Client(base_url=server.url, timeout=20.0, trust_env=False) as client:
        yield client
