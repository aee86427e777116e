"""The drawing of what a task waits for, in Chromium: nodes, arrows, states, words and the keyboard."""

from __future__ import annotations

from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from controller.core.model.after import Dependency, When
from controller.core.model.arrays import ArraySpec
from controller.core.model.lifecycle import State
from tests.page.browser import Browser
from tests.page.scenes import NOW, Scene, busy, spec_of, status_of
from tests.page.test_page import CONTRASTS, NAMELESS

NODES = """
return Object.fromEntries([...document.querySelectorAll(".graph .node")].map((node) => {
  const box = node.querySelector("rect").getBoundingClientRect();
  const fill = getComputedStyle(node.querySelector("circle")).fill;
  const { x, right, y, bottom } = box;
  return [node.dataset.task, { tone: node.dataset.tone, fill, x, right, y, bottom }];
}));
"""
EDGES = """
return [...document.querySelectorAll(".graph .edge")].map((edge) =>
  [edge.dataset.from, edge.dataset.to, edge.dataset.verdict, getComputedStyle(edge).strokeDasharray]);
"""


def _add(scene: Scene, name: str, *after: str | Dependency) -> None:
    wanted = tuple(Dependency(task=each) if isinstance(each, str) else each for each in after)
    scene.write(("tasks", (name,), spec_of(name, NOW - 50, after=wanted)))


def _end(scene: Scene, name: str, state: State) -> None:
    scene.write(("states", (name,), status_of(state, NOW - 40)))


def diamond() -> Scene:
    """`d` is after b and c, which are after a; `e` is after `d`, and after a task that does not exist."""
    scene = busy()
    _add(scene, "a")
    _add(scene, "b", "a")
    _add(scene, "c", "a")
    _add(scene, "d", "b", Dependency(task="c", when=When.FINISHED), "a")
    _add(scene, "e", "d", "nobody")
    _end(scene, "a", State.SUCCEEDED)
    _end(scene, "b", State.FAILED)
    _end(scene, "c", State.RUNNING)
    return scene


def _open(browser: Browser, url: str, name: str, **how: Any) -> None:
    browser.open(f"{url}/#task={name}", **how)
    browser.wait(lambda: browser.all(".graph .node"), "the drawing")


def test_each_task_and_each_arrow_is_drawn(browser: Browser, serve: Any) -> None:
    """From left to right by the longest way, in the colours of the states; dashed until it is met."""
    _open(browser, serve(diamond()).url, "d")
    nodes = browser.js(NODES)
    assert {name: node["tone"] for name, node in nodes.items()} == {
        "a": "Succeeded",
        "b": "Failed",
        "c": "Running",
        "d": "Created",
        "e": "Created",
    }
    fills = {name: node["fill"] for name, node in nodes.items()}
    assert fills["a"] == "rgb(26, 138, 75)"
    assert fills["b"] == "rgb(207, 53, 43)"
    assert len(set(fills.values())) == 4
    right = {name: nodes[name]["right"] for name in "abcd"}
    assert right["a"] < nodes["b"]["x"] == nodes["c"]["x"]
    assert right["b"] < nodes["d"]["x"]
    assert right["d"] < nodes["e"]["x"]
    assert nodes["b"]["bottom"] < nodes["c"]["y"], "two in a column do not cover each other"
    edges = {(source, target): (verdict, dashes) for source, target, verdict, dashes in browser.js(EDGES)}
    assert {pair: verdict for pair, (verdict, _) in edges.items()} == {
        ("a", "b"): "met",
        ("a", "c"): "met",
        ("a", "d"): "met",
        ("b", "d"): "unmet",
        ("c", "d"): "unfinished",
        ("d", "e"): "unfinished",
    }
    assert edges["a", "d"][1] == "none"
    assert edges["b", "d"][1] == "7px, 4px"
    assert edges["c", "d"][1] == "2px, 4px"


def test_the_list_and_the_details_say_for_how_many_it_waits(browser: Browser, serve: Any) -> None:
    browser.open(f"{serve(diamond()).url}/#search=d")
    browser.wait(lambda: "d" in browser.names(), "the list")
    assert "Waits for 1" in browser.text('#rows tr:has(a[href$="task=d"])')
    browser.js("location.hash = 'task=d'")
    browser.wait(lambda: browser.all(".graph .node"), "the drawing")
    told = browser.text("#task-body")
    assert "1 of the 3 tasks that it runs after has not ended. b is Failed, so it will be Failed once" in told


def test_the_drawing_in_words(browser: Browser, serve: Any) -> None:
    """Each arrow is a sentence, for who does not see it; a task that does not exist is named."""
    _open(browser, serve(diamond()).url, "e")
    browser.js("document.querySelector('.neighbours summary').click()")
    told = browser.texts(".edges li")
    assert "d runs after b has succeeded: b has ended otherwise than wanted." in told
    assert "d runs after c has finished: c has not ended." in told
    assert "e runs after nobody has succeeded: nobody does not exist." in told
    assert browser.js(NODES)["nobody"]["tone"] == "Unknown"
    assert not browser.all('.graph a[data-task="nobody"]')


def test_a_task_of_the_drawing_opens_by_the_keyboard(browser: Browser, serve: Any) -> None:
    """Each is a link with a name; the one that is shown is none."""
    _open(browser, serve(diamond()).url, "d")
    assert not browser.all('.graph a[data-task="d"]')
    browser.tab_to('.graph a[data-task="b"]')
    assert browser.js("return document.activeElement.getAttribute('aria-label')") == "b, Failed"
    browser.press(Keys.ENTER)
    browser.wait(lambda: browser.text("#task-title") == "b", "the other task")
    browser.wait(lambda: browser.all('.graph .own[data-task="b"]'), "its drawing")


def test_what_changes_is_drawn_again(browser: Browser, serve: Any) -> None:
    """Also if only a task further away changes; what was opened stays open, and the focus where it was."""
    scene = diamond()
    _open(browser, serve(scene).url, "e")
    browser.js("document.querySelector('.neighbours summary').click()")
    browser.tab_to('.graph a[data-task="c"]')
    _end(scene, "c", State.SUCCEEDED)
    browser.wait(lambda: browser.js(NODES)["c"]["tone"] == "Succeeded", "the end of c")
    assert ["c", "d", "met", "none"] in browser.js(EDGES)
    assert browser.js("return document.activeElement.dataset.task") == "c"
    assert browser.js("return document.querySelector('.neighbours details').open")


def test_a_task_alone_has_no_drawing(browser: Browser, serve: Any) -> None:
    browser.open(f"{serve(busy()).url}/#task=sync-mirror")
    browser.wait(lambda: browser.all(".timeline li"), "the history")
    assert not browser.all(".neighbours")


def test_of_very_many_the_nearest_are_drawn(browser: Browser, serve: Any) -> None:
    """And it says that there are more."""
    scene = busy()
    names = [f"part-{n:03}" for n in range(100)]
    for name in names:
        _add(scene, name)
    _add(scene, "all", *names)
    _open(browser, serve(scene).url, "all")
    assert len(browser.js(NODES)) == 60
    assert "These are the nearest 60, and there are more." in browser.text(".neighbours")


def test_names_that_wait_for_each_other_are_drawn(browser: Browser, serve: Any) -> None:
    """They do not wait: a younger task is no parent. The columns are found all the same."""
    scene = busy()
    _add(scene, "one", "two")
    _add(scene, "two", "one")
    _open(browser, serve(scene).url, "one")
    assert {(edge[0], edge[1], edge[2]) for edge in browser.js(EDGES)} == {
        ("two", "one", "unknown"),
        ("one", "two", "unfinished"),
    }


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_drawing_can_be_read(browser: Browser, serve: Any, dark: bool) -> None:
    """Its contrast and its names; on a phone it scrolls by itself, and the dialog does not."""
    _open(browser, serve(diamond()).url, "d", dark=dark, width=320)
    assert browser.js(CONTRASTS) == []
    assert browser.js(NAMELESS) == []
    assert browser.js("const e = document.querySelector('#task'); return e.scrollWidth - e.clientWidth") == 0


def test_around_a_member_is_what_is_around_its_array(browser: Browser, serve: Any) -> None:
    """And it says whose neighbourhood it is."""
    scene = busy()
    _add(scene, "cut")
    after = (Dependency(task="cut"),)
    scene.write(("tasks", ("render",), spec_of("render", NOW - 50, array=ArraySpec(size=3), after=after)))
    _open(browser, serve(scene).url, "render-i1")
    assert set(browser.js(NODES)) == {"cut", "render"}
    words = browser.one(".neighbours").text
    assert "This is the neighbourhood of render, of which render-i1 is a member." in words
