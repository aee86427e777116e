"""What is to come, the last hour, and who has ended, on the live page in a real browser."""

from __future__ import annotations

import re
from typing import Any

import pytest
from msgspec.structs import replace
from selenium.webdriver.common.keys import Keys

from controller.core.model.lifecycle import State
from controller.core.model.maintenance import MaintenanceWindow
from controller.core.model.resources import Vector
from controller.errors import TallyError
from controller.views.forecast import ForecastView
from controller.views.replica import EndedRegistration
from tests.page.browser import Browser
from tests.page.scenes import GIB, NOW, ahead, busy, spec_of, status_of
from tests.page.test_page import CONTRASTS, NAMELESS

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(300)]

HOLD = Vector({"cpu": 1000, "memory": GIB})
COURSE = ".ahead:not([hidden]) svg"
HOUR = ".hour:not([hidden]) svg"


def label(browser: Browser, selector: str) -> str:
    return str(
        browser.js("return document.querySelector(arguments[0])?.getAttribute('aria-label') ?? ''", selector)
    )


def test_a_pools_next_hours_are_drawn_and_told(browser: Browser, serve: Any) -> None:
    """Of the resource of which most is held, or another one that is chosen; the choice stays."""
    browser.open(serve(ahead()).url)
    browser.wait(lambda: browser.all(COURSE), "the chart")
    assert len(browser.all(COURSE)) == 1, "of the others nothing is known"
    words = label(browser, COURSE)
    assert words.startswith("nvidia.com/gpu of pool gpu in the next 5h")
    assert "Now 4 of 4 · empty at " in words
    assert "7 tasks in the queue now. 2 are guaranteed." in words
    assert browser.texts(".ahead:not([hidden]) .chart-legend li") == [
        "runs now",
        "planned",
        "capacity",
        "guaranteed",
    ]
    area = browser.js("return document.querySelector('.ahead .running').getAttribute('d')")
    assert re.match(r"M0 8H[\d.]+ V8H[\d.]+ V100", area), "all of it for two hours, and then nothing"
    assert "durations were off by 8\u00a0%" in " ".join(browser.texts("#ahead-note"))
    browser.tab_to('.ahead:not([hidden]) button[value="cpu"]')
    browser.press(Keys.SPACE)
    browser.wait(lambda: label(browser, COURSE).startswith("cpu of pool gpu"), "the other resource")
    assert browser.js("return document.activeElement.getAttribute('aria-pressed')") == "true"
    assert browser.texts(".ahead:not([hidden]) .chart-legend li") == ["runs now", "planned", "capacity"]


def test_maintenance_is_a_band(browser: Browser, serve: Any) -> None:
    scene = ahead()
    assert isinstance(scene.foreseen, ForecastView)
    window = MaintenanceWindow(starts_at=NOW + 7200, ends_at=NOW + 9000, reason="new switches")
    course = replace(scene.foreseen.pools["gpu"], maintenance=[window])
    scene.foreseen = replace(scene.foreseen, pools={"gpu": course})
    browser.open(serve(scene).url)
    browser.wait(lambda: browser.all(f"{COURSE} .maintenance"), "the band")
    assert len(browser.all(f"{COURSE} .maintenance")) == 1
    assert re.search(r"Maintenance from \S.* to \S.*: new switches\.", label(browser, COURSE))
    assert "maintenance" in browser.texts(".ahead:not([hidden]) .chart-legend li")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_charts_can_be_read_on_a_phone(browser: Browser, serve: Any, dark: bool) -> None:
    """WCAG 2.2, 1.4.3 and 1.4.10, once all is there."""
    browser.open(serve(ahead()).url, width=320, dark=dark)
    browser.wait(lambda: browser.all(COURSE) and browser.all(HOUR), "the charts")
    assert browser.js(CONTRASTS) == []
    assert browser.js(NAMELESS) == []
    assert browser.js("return document.documentElement.scrollWidth") <= 320


def test_what_waits_is_told_its_time(browser: Browser, serve: Any) -> None:
    """In its row, and in its details with what that rests on; and why nothing is known of another one."""
    scene = ahead()
    browser.open(f"{serve(scene).url}/#search=train")
    row = '#rows tr:has(a[href$="train-4"]) .coming'
    browser.wait(lambda: browser.text(row).startswith("begins about "), "the time")
    assert not browser.one('#rows tr:has(a[href$="train-5"]) .coming').is_displayed()
    assert "train-4" in scene.looks[-1]
    assert "train-0" not in scene.looks[-1], "it runs"
    browser.js("location.hash = '#task=train-4'")
    browser.wait(lambda: browser.all(".expected"), "the details")
    told = browser.text(".coming-part")
    assert "To begin " in told
    assert "in 1h59m" in told
    assert "To end " in told
    assert "Before it begins, 4 attempts will have ended: 4 as others of the same command." in told
    assert "It takes as long as 3 runs of the same command did." in told
    browser.js("location.hash = '#task=train-5'")
    browser.wait(
        lambda: "As things stand, train-5 does not begin before" in browser.text(".coming-part"), "why"
    )


def test_nothing_waits_for_who_looks_ahead(browser: Browser, serve: Any) -> None:
    """The page is current while a look takes its time, and says why there is none."""
    scene = ahead()
    scene.may_look.clear()
    try:
        browser.open(serve(scene).url)
        browser.wait(lambda: scene.looks, "the question")
        scene.write(("states", ("train-5",), status_of(State.RUNNING, NOW, pool="gpu", hold=HOLD)))
        browser.wait(lambda: browser.text('#states [value="Running"]') == "Running21", "the change")
        assert browser.all(COURSE) == []
        scene.foreseen = TallyError("its process has ended")
    finally:
        scene.may_look.set()
    browser.wait(lambda: browser.text("#ahead-note") == "No look ahead: its process has ended", "the reason")
    assert len(scene.looks) == 1, "it is not asked again at each change"
    assert browser.all(COURSE) == []


def test_the_last_hour_of_a_pool_is_drawn_and_told(browser: Browser, serve: Any) -> None:
    scene = busy()
    server = serve(scene)
    for n in range(3):
        scene.write(("states", (f"train-{n + 4}",), status_of(State.PENDING, NOW - 5, pool="gpu", hold=HOLD)))
    for name, state in (
        ("train-0", State.SUCCEEDED),
        ("train-1", State.SUCCEEDED),
        ("train-2", State.FAILED),
    ):
        scene.write(("states", (name,), status_of(state, NOW, pool="gpu")))
    browser.open(server.url)
    browser.wait(lambda: len(browser.all(HOUR)) == 2, "the charts")
    queue, ended = [str(each.get_attribute("aria-label")) for each in browser.all(HOUR)]
    assert queue == "Queue of gpu in the last hour: 4 tasks now, at most 4, at least 4."
    assert ended == (
        "Of gpu ended in the last hour: 2 Succeeded, 1 Failed. 3 attempts begun. At most 3 in a minute."
    )
    assert browser.texts(".waits tbody tr > *")[:2] == ["default", "3"]
    assert "known since" in browser.text(".hour:not([hidden]) .part-head")


def test_lists_sort_and_filter_by_owner(browser: Browser, serve: Any) -> None:
    """The column is there once there is another owner; each head sorts; the address keeps it all."""
    scene = busy()
    browser.open(serve(scene).url)
    assert not browser.one("th.owner").is_displayed()
    scene.write(("tasks", ("a-film",), spec_of("a-film", NOW - 1, owner="film")))
    browser.wait(lambda: browser.one("th.owner").is_displayed(), "the column")
    assert browser.texts("#rows tr:first-child td")[3] == "film"
    browser.tab_to('th button[value="owner"]')
    browser.press(Keys.ENTER)
    browser.wait(lambda: browser.names()[0] == "ingest-0000", "the order of owners")
    browser.press(Keys.ENTER)
    browser.wait(lambda: browser.names()[0] == "a-film", "the reverse")
    assert browser.one("th.owner").get_attribute("aria-sort") == "descending"
    browser.one('th button[value="reason"]').click()
    browser.wait(lambda: browser.js("return location.hash") == "#sort=reason", "the order of reasons")
    browser.wait(lambda: browser.names()[0] == "a-film", "those without")
    browser.one('th button[value="reason"]').click()
    browser.wait(lambda: browser.names()[0] == "sync-mirror", "an error")
    browser.one('th button[value="attempt"]').click()
    browser.wait(lambda: browser.names()[0] == "a-film", "what has not begun")
    browser.tab_to("#owner")
    browser.press(*"film")
    browser.wait(lambda: browser.names() == ["a-film"], "the owner's tasks")
    assert browser.js("return location.hash") == "#owner=film&sort=attempt"
    browser.open(f"{browser.js('return location.origin')}/#owner=nobody")
    browser.wait(lambda: browser.one("#tasks-empty").is_displayed(), "the filter of the address")


def test_a_replica_whose_lease_has_ended_is_said_to_have_ended(browser: Browser, serve: Any) -> None:
    scene = busy()
    browser.open(serve(scene).url)
    scene.ended = (
        EndedRegistration(
            "tally-1", {"phase": "leading", "version": "0.1.0", "host": "node-2"}, NOW - 47, NOW - 40
        ),
    )
    scene.write(("replicas", ("tally-1",), None))
    browser.wait(lambda: browser.all("#ended li"), "the word")
    assert browser.texts("#ended li > :nth-child(2)") == ["ended, led before"]
    told = browser.text("#ended li .muted")
    assert told.startswith("ended 4")
    assert "last heard from 4" in told
    assert told.endswith("0.1.0 on node-2")
    assert len(browser.texts("#replicas li")) == 2
