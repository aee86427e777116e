from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from controller.endpoint.server import StatusServer
from tests.page.browser import MISSING, Browser
from tests.page.scenes import Scene


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests of a process."""
    if MISSING:
        pytest.skip(MISSING)
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


Serve = Callable[[Scene], StatusServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves a scene on a free port."""
    with ExitStack() as stack:

        def start(scene: Scene, port: int = 0) -> StatusServer:
            server = StatusServer(scene, "127.0.0.1", port, kept_log=scene.kept_log, look=scene.look)
            server.start()
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def browser(chromium: Browser, serve: Serve) -> Iterator[Browser]:
    """The browser; a test that leaves something in its console fails.

    (It leaves the page before what serves it ends.)
    """
    yield chromium
    problems = chromium.problems()
    chromium.driver.get("about:blank")
    assert problems == []
