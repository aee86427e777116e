"""The live page of a replica that asks for a token: a browser asks its user once, and all parts of the
page are let in.
"""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from controller.endpoint.access import EndpointAccess, StatusFiles
from controller.endpoint.server import StatusServer
from tests.page.browser import Browser
from tests.page.scenes import busy

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(300)]


def test_the_token_is_the_password_of_the_page(browser: Browser, tmp_path: Path) -> None:
    """Its scripts, what they fetch and the stream of events send it along: the page shows data, and stays
    live.
    """
    token = secrets.token_hex(16)
    (tmp_path / "token").write_text(token)
    scene = busy()
    server = StatusServer(
        scene, "127.0.0.1", 0, access=EndpointAccess(StatusFiles(token_file=tmp_path / "token"))
    )
    server.start()
    try:
        # What its user would type into the browser's question; from then on the browser knows it for this
        # address.
        browser.driver.get(server.url.replace("http://", f"http://anyone:{token}@") + "/v1/leader")
        browser.open(server.url)
        assert browser.text("#leader") == "tally-0"
        assert browser.names()
        scene.submit("a-new-one")
        browser.wait(
            lambda: "a-new-one" in browser.names() or browser.text("#range").endswith("153"), "the new task"
        )
        browser.driver.get("about:blank")
    finally:
        server.stop()
