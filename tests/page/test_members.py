"""The members of an array in Chromium: the grid, its legend, the pointer and the keyboard."""

from __future__ import annotations

from typing import Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from controller.core.model.arrays import ArraySpec
from controller.core.model.blocks import LENGTH, Block, Fate, MemberOutcome
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from tests.page.browser import Browser
from tests.page.scenes import NOW, Scene, busy, spec_of, status_of
from tests.page.test_page import CONTRASTS, NAMELESS

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(300)]

WAITS, SUCCEEDED = Fate(MemberOutcome.WAITING), Fate(MemberOutcome.SUCCEEDED, 1, 0)
FAILED, CANCELLED = Fate(MemberOutcome.FAILED, 2, 3, "Failed"), Fate(MemberOutcome.CANCELLED)

PIXELS = """
const canvas = document.querySelector(".members-grid"), edge = arguments[0];
const scale = canvas.width / canvas.getBoundingClientRect().width;
const columns = Math.round(canvas.width / scale / edge);
const copy = document.createElement("canvas");
copy.width = canvas.width;
copy.height = canvas.height;
const context = copy.getContext("2d", { willReadFrequently: true });
context.drawImage(canvas, 0, 0);
return arguments[1].map((cell) => {
  const [x, y] = [(cell % columns) * edge + arguments[2], Math.floor(cell / columns) * edge + arguments[3]];
  return context.getImageData(Math.round(x * scale), Math.round(y * scale), 1, 1).data.join(" ");
});
"""
GREEN, RED, BLUE, EMPTY = "26 138 75 255", "207 53 43 255", "39 100 216 255", "0 0 0 0"


def array(scene: Scene, size: int, *fates: Fate, name: str = "render") -> Scene:
    """An array, of which the first members have these fates."""
    scene.write(("tasks", (name,), spec_of(name, NOW - 500, array=ArraySpec(size=size))))
    for number in range(0, len(fates), LENGTH):
        block = Block.of_fates("op", fates[number : number + LENGTH]).encode(Op("op"))
        scene.write(("arrays", (name, str(number // LENGTH)), block))
    return scene


def under_way(scene: Scene, index: int, state: State, name: str = "render") -> None:
    status = status_of(state, NOW - 100, array=name, index=index)
    scene.write(("states", (f"{name}-i{index}",), status))


def mixed() -> Scene:
    """Nine members, of which each is in another state, as far as there are states; two have failed."""
    scene = array(busy(), 9, SUCCEEDED, FAILED, CANCELLED, WAITS, WAITS, WAITS, FAILED)
    under_way(scene, 3, State.RUNNING)
    under_way(scene, 4, State.PENDING)
    under_way(scene, 5, State.WAITING_RETRY)
    return scene


def _open(browser: Browser, url: str, name: str = "render", **how: Any) -> None:
    browser.open(f"{url}/#task={name}", **how)
    browser.wait(lambda: browser.all(".members-grid"), "the grid")
    browser.wait(lambda: browser.js("return document.querySelector('.members-grid').width > 300"), "its size")


def click(browser: Browser, x: int, y: int) -> None:
    """Click into the grid, so many pixels from its corner."""
    canvas = browser.one(".members-grid")
    size = canvas.size
    actions = ActionChains(browser.driver)
    actions.move_to_element_with_offset(canvas, x - size["width"] // 2, y - size["height"] // 2)
    actions.click().perform()


def test_how_far_it_has_come(browser: Browser, serve: Any) -> None:
    _open(browser, serve(mixed()).url)
    assert browser.text(".members-progress") == "4 of 9 members ended, 2 failed, 2 to begin."
    legend = browser.texts(".members-legend li")
    assert [text.split() for text in legend] == [
        ["Failed", "2"],
        ["WaitingRetry", "1"],
        ["Running", "1"],
        ["Pending", "1"],
        ["Cancelled", "1"],
        ["Waiting", "2"],
        ["Succeeded", "1"],
    ]
    name = browser.one(".members-grid").get_attribute("aria-label")
    assert str(name).startswith("Members of render: 2 Failed, 1 WaitingRetry, 1 Running, 1 Pending,")


def test_each_state_has_a_colour_and_a_shape(browser: Browser, serve: Any) -> None:
    """No two are told apart by their colour alone: of some, other places are filled."""
    _open(browser, serve(mixed()).url)
    upper_left = browser.js(PIXELS, 16, [0, 1, 3], 2, 6)
    assert upper_left == [GREEN, RED, BLUE]
    cells = list(range(9))
    places = [(7, 7), (4, 7), (11, 7), (3, 3), (7, 12)]
    filled = [browser.js(PIXELS, 16, cells, *place) for place in places]
    shapes = [tuple(_is_filled(row[cell]) for row in filled) for cell in cells]
    assert shapes[1] == shapes[6], "both have failed"
    assert shapes[7] == shapes[8], "both wait"
    assert len(set(shapes)) == 7


def _is_filled(pixel: str) -> bool:
    return pixel != EMPTY and not pixel.startswith("255 255 255")


def test_a_click_shows_the_member(browser: Browser, serve: Any) -> None:
    _open(browser, serve(mixed()).url)
    click(browser, 3 * 16 + 5, 5)
    browser.wait(lambda: browser.text("#task-title") == "render-i3", "the member")
    browser.wait(lambda: browser.text("#task-state") == "Running", "its state")


def test_the_keyboard_chooses_a_member(browser: Browser, serve: Any) -> None:
    _open(browser, serve(mixed()).url)
    browser.tab_to(".members-grid")
    assert browser.text(".members-told") == "render-i0: Succeeded"
    browser.press(Keys.ARROW_RIGHT)
    assert browser.text(".members-told") == "render-i1: Failed"
    browser.press(Keys.END)
    assert browser.text(".members-told") == "render-i8: Waiting"
    browser.press(Keys.HOME, Keys.ARROW_RIGHT, Keys.ENTER)
    browser.wait(lambda: browser.text("#task-title") == "render-i1", "the member")
    browser.wait(lambda: browser.text("#task-state") == "Failed", "its state")


def test_the_legend_goes_through_the_members_of_a_state(browser: Browser, serve: Any) -> None:
    _open(browser, serve(mixed()).url)
    for index in (1, 6, 1):
        browser.one(".members-legend li:first-child button").click()
        assert browser.text(".members-told") == f"render-i{index}: Failed"


def test_what_changes_is_drawn_again(browser: Browser, serve: Any) -> None:
    """The place and the focus stay."""
    scene = mixed()
    _open(browser, serve(scene).url)
    browser.tab_to(".members-grid")
    browser.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    under_way(scene, 7, State.RUNNING)
    browser.wait(lambda: "1 to begin" in browser.text(".members-progress"), "the next member")
    browser.wait(lambda: browser.js(PIXELS, 16, [7], 2, 6) == [BLUE], "its cell")
    browser.press(Keys.ARROW_RIGHT)
    assert browser.text(".members-told") == "render-i3: Running"


def test_ten_thousand_can_be_read(browser: Browser, serve: Any) -> None:
    """Each has a cell of its own, which can be clicked, in one page of the dialog or a few."""
    fates = [SUCCEEDED if index % 100 else FAILED for index in range(6000)]
    scene = array(busy(), 10_000, *fates)
    _open(browser, serve(scene).url)
    progress = "6,000 of 10,000 members ended, 60 failed, 4,000 to begin."
    assert browser.text(".members-progress") == progress
    assert browser.js(PIXELS, 7, [0, 1, 4200, 4201], 0, 3) == [RED, GREEN, RED, GREEN]
    columns = browser.js("return Math.round(document.querySelector('.members-grid').clientWidth / 7)")
    click(browser, 100 % columns * 7 + 3, 100 // columns * 7 + 3)
    browser.wait(lambda: browser.text("#task-title") == "render-i100", "the member")


def test_a_grid_that_is_longer_than_its_frame_scrolls(browser: Browser, serve: Any) -> None:
    """To the member that is chosen; and it stays there when something changes."""
    scrolled = "return document.querySelector('.members-frame').scrollTop"
    scene = array(busy(), 10_000, *[SUCCEEDED] * 6000)
    _open(browser, serve(scene).url)
    assert browser.js(scrolled) == 0
    browser.tab_to(".members-grid")
    browser.press(Keys.END)
    assert browser.text(".members-told") == "render-i9999: Waiting"
    below = browser.js(scrolled)
    assert below > 100
    under_way(scene, 9999, State.RUNNING)
    browser.wait(lambda: "3,999 to begin" in browser.text(".members-progress"), "the change")
    browser.wait(lambda: abs(browser.js(scrolled) - below) < 20, "the same place")


def test_of_a_million_some_share_a_cell(browser: Browser, serve: Any) -> None:
    """A cell shows the state that matters most."""
    fates = [SUCCEEDED] * 5000
    fates[4217] = FAILED
    _open(browser, serve(array(busy(), 1_000_000, *fates)).url)
    assert "A cell is 84 neighbours." in browser.text(".members")
    browser.one(".members-legend li:first-child button").click()
    assert browser.text(".members-told") == "render-i4217: Failed"


def test_a_task_that_is_no_array_has_no_grid(browser: Browser, serve: Any) -> None:
    browser.open(f"{serve(busy()).url}/#task=sync-mirror")
    browser.wait(lambda: browser.all(".timeline li"), "the history")
    assert not browser.all(".members")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_grid_can_be_read(browser: Browser, serve: Any, dark: bool) -> None:
    """Its contrast and its names; on a phone it has more rows, and nothing is cut off."""
    browser.open(f"{serve(mixed()).url}/#task=render", dark=dark, width=320)
    browser.wait(lambda: browser.all(".members-grid"), "the grid")
    assert browser.js(CONTRASTS) == []
    assert browser.js(NAMELESS) == []
    assert browser.js("const e = document.querySelector('#task'); return e.scrollWidth - e.clientWidth") == 0
