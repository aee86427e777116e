"""A real Chromium, driven for tests: it reaches nothing but this machine, and what it logs and asks for
can be read.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.support.waiting import wait_until

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
MISSING = (
    ""
    if CHROMIUM and DRIVER
    else "Chromium and its driver are not installed (Debian: chromium, chromium-driver)"
)

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,1000",
    "--lang=en",
)


class Browser:
    """One tab. `open` begins anew; `problems` and `requests` are of what happened since."""

    def __init__(self, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM or ""
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))

    def open(self, url: str, *, width: int = 1280, dark: bool = False) -> None:
        """Show `url`, and wait until the page has its first data."""
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(url)
        self.wait(lambda: self.js("return document.body.dataset.freshness !== undefined"), "the first data")
        self.wait(
            lambda: self.all("#rows tr") or self.one("#tasks-empty").is_displayed(), "the list of tasks"
        )

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """What stands there, visible or not, in one line."""
        return " ".join(
            str(self.js("return document.querySelector(arguments[0])?.textContent ?? ''", selector)).split()
        )

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.js(
            "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector
        )
        return found

    def names(self) -> list[str]:
        """The tasks that are listed."""
        return self.texts("#rows tr td:first-child")

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def press(self, *keys: str) -> None:
        """Type on the keyboard, wherever the focus is."""
        for key in keys:
            webdriver.ActionChains(self.driver).send_keys(key).perform()

    def tab_to(self, selector: str) -> None:
        """Go there with the tabulator alone, as far as a page may need."""
        for _ in range(120):
            if self.js("return document.activeElement.matches(arguments[0])", selector):
                return
            self.press(Keys.TAB)
        raise AssertionError(f"{selector} cannot be reached with the keyboard")

    def wait(self, condition: Callable[[], Any], what: str, **options: Any) -> Any:
        return wait_until(condition, what, poll=0.05, **options)

    def problems(self) -> list[str]:
        """What the console holds: errors, refusals by the security policy, failed requests.

        That nobody looks ahead for a page is no problem: it says so.
        """
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] in ("WARNING", "SEVERE")
            and not re.search(r"/forecast(\?\S*)? - .* (404|503) ", entry["message"])
        ]

    def requests(self) -> list[str]:
        """The addresses that were asked for."""
        messages = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]

    def close(self) -> None:
        self.driver.quit()
