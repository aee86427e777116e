from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from controller.status.server import StatusServer
from tests.status.model_view import ModelView


@pytest.fixture
def view() -> ModelView:
    """A follower's view of an empty model."""
    return ModelView()


@pytest.fixture
def server(view: ModelView) -> Iterator[StatusServer]:
    """A running status endpoint on a free port."""
    server = StatusServer(view, "127.0.0.1", 0)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def http(server: StatusServer) -> Iterator[httpx.Client]:
    """A client of that endpoint."""
    with httpx.Client(base_url=server.url, timeout=20.0, trust_env=False) as client:
        yield client
