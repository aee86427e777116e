"""The gateway's page in a real browser, against a gateway, a replica and attempts that run."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from controller.core.model.lifecycle import State
from controller.dev.cluster import LocalCluster
from tests.gateway.test_whole import Process, job, running
from tests.gateway.test_whole import cluster as cluster
from tests.gateway.test_whole import gateway as gateway
from tests.page.browser import Browser
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(300)]

MARKUP = '<img src=x onerror="document.title=1"><script>document.title=2</script>'


class GatewayPage:
    """One reader of the page."""

    def __init__(self, browser: Browser, gateway: Process) -> None:
        self.browser = browser
        self.gateway = gateway

    def visit(self, path: str = "/") -> None:
        """As somebody who has not been here."""
        self.browser.driver.get("about:blank")
        self.browser.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
        self.browser.problems()
        self.browser.driver.get(self.gateway.url + path)
        self.wait_for_sign_in()

    def wait_for_sign_in(self) -> None:
        # in one call: the page may be loaded anew between two
        shown = "return (document.querySelector('#sign-in')?.getClientRects().length ?? 0) > 0"
        self.browser.wait(lambda: self.browser.js(shown), "the form to sign in")

    def sign_in(self, name: str) -> None:
        self.type_token(self.gateway.tokens[name])
        self.browser.wait(lambda: self.browser.text("#who") == name, "being signed in")
        self.browser.wait(lambda: self.browser.text("#connection-text") == "Live", "the first answers")

    def type_token(self, token: str) -> None:
        self.browser.one("#token").send_keys(token, Keys.ENTER)

    def open_task(self, task_id: str) -> None:
        self.browser.js("location.hash = '#task=' + arguments[0]", task_id)
        self.browser.wait(lambda: self.browser.all("#task-body dl"), "the task")

    def fill(self, **fields: str) -> None:
        for name, text in fields.items():
            self.browser.one(f"#{name.replace('_', '-')}").clear()
            self.browser.one(f"#{name.replace('_', '-')}").send_keys(text)

    def shows(self, selector: str, text: str) -> None:
        try:
            self.browser.wait(lambda: text in self.browser.text(selector), f"{text!r} in {selector}")
        except AssertionError as error:
            output = self.browser.text("#output-state")
            raise AssertionError(f"{error}: it is {self.browser.text(selector)!r}; {output}") from error


@pytest.fixture
def page(chromium: Browser, gateway: Process) -> Iterator[GatewayPage]:
    """A reader; a test that leaves something in the console fails, but for refusals that it provokes."""
    page = GatewayPage(chromium, gateway)
    yield page
    problems = [each for each in chromium.problems() if not re.search(r"status of 40[0134]", each)]
    chromium.driver.get("about:blank")
    assert problems == []


def test_from_signing_in_to_a_cancel(page: GatewayPage, gateway: Process, tmp_path: Path) -> None:
    """Submit, see the task, follow its output, search in it, cancel it; the history names who did."""
    browser, go = page.browser, tmp_path / "go"
    page.visit()
    page.sign_in("alice")
    browser.one("#submitting summary").click()
    assert browser.js("return document.querySelector('#new-owner').value") == "vision"
    script = f"for n in 1 2 3; do echo line $n needle; done; until [ -e {go} ]; do sleep 0.1; done;"
    page.fill(new_id="of-the-page", new_cpu="1", new_command=f"{script} echo later Needle; sleep 600")
    browser.one("#submit").click()
    page.shows("#submit-told", "of-the-page: created")
    browser.wait(lambda: "of-the-page" in browser.names(), "the task in the list")
    page.shows("#task-state", "Running")
    page.shows("#output-text", "line 3 needle")
    page.shows("#output-state", "Following")
    assert "later Needle" not in browser.text("#output-text")
    page.fill(find="needle")
    page.shows("#hits", "3 hits")
    go.touch()
    page.shows("#output-text", "later Needle")
    page.shows("#hits", "4 hits")
    for hit in ("1 of 4 hits", "2 of 4 hits"):
        browser.one("#find-next").click()
        page.shows("#hits", hit)
    browser.one("#find-previous").click()
    page.shows("#hits", "1 of 4 hits")
    assert browser.texts("mark.current") == ["needle"]
    page.fill(find="line 2")
    page.shows("#hits", "1 hit")
    browser.one("#only-hits").click()
    seen = [line.text for line in browser.all("#output-text .line") if line.is_displayed()]
    assert seen == ["line 2 needle"]
    page.fill(reason="not needed")
    browser.one("#do-cancel").click()
    assert gateway.client(gateway.tokens["alice"]).get("of-the-page").requests == ()
    browser.one("#cancel-yes").click()
    page.shows("#told", "cancel: requested")
    page.shows("#task-state", "Cancelled")
    page.shows(".timeline", "cancelled by alice: not needed")
    page.shows("#output-state", "The attempt has ended")
    assert not browser.one("#do-cancel").is_displayed()
    assert browser.one("#do-retry").is_displayed()


def test_a_task_waits_as_its_reader_says(page: GatewayPage, gateway: Process) -> None:
    """Hold, release, another priority, and why it waits; by the buttons that its state allows."""
    alice = gateway.client(gateway.tokens["alice"])
    alice.submit({**job("waits", "true"), "resources": {"cpu": 8}, "priority": 1})
    alice.wait(["waits"], timeout_seconds=60)
    blocker, waiting = {**job("blocks", "sleep 600"), "resources": {"cpu": 8}}, job("held", "true")
    alice.submit(blocker)
    wait_until(lambda: alice.get("blocks").state is State.RUNNING, "the one before")
    alice.submit(waiting)
    page.visit()
    page.sign_in("alice")
    browser = page.browser
    page.open_task("held")
    page.shows("#explanation", "cpu")
    browser.wait(lambda: browser.one("#do-hold").is_displayed(), "the buttons")
    assert not browser.one("#do-release").is_displayed()
    assert not browser.one("#do-retry").is_displayed()
    assert not browser.one("#output").is_displayed()
    page.fill(priority="7")
    browser.one("#set-priority button").click()
    page.shows("#told", "priority: requested")
    page.shows(".fields", "Priority7")
    browser.one("#do-hold").click()
    page.shows("#task-body", "On hold.")
    browser.wait(lambda: browser.one("#do-release").is_displayed(), "the button")
    assert not browser.one("#do-hold").is_displayed()
    browser.one("#do-release").click()
    browser.wait(lambda: browser.one("#do-hold").is_displayed(), "the release")
    assert alice.get("held").priority == 7
    for name in ("held", "blocks"):
        alice.cancel(name)
    assert set(alice.wait(["held", "blocks"], timeout_seconds=60)) == {"held", "blocks"}


def test_a_task_waits_for_another_and_then_runs(
    page: GatewayPage, cluster: LocalCluster, gateway: Process, tmp_path: Path
) -> None:
    """The drawing, the list and the reason follow what happens, without a reload."""
    alice, go, browser = gateway.client(gateway.tokens["alice"]), tmp_path / "go", page.browser
    with cluster.client() as admin:
        admin.features.enable("dependencies")
    alice.submit(job("first-of-two", f"until [ -e {go} ]; do sleep 0.1; done"))
    alice.submit({**job("second-of-two", "true"), "after": ["first-of-two"]})
    page.visit()
    page.sign_in("alice")
    page.open_task("second-of-two")
    page.shows("#explanation", "second-of-two waits for 1 task to end: first-of-two (Running)")
    page.shows("#task-body", "1 of the 1 task that it runs after has not ended.")
    verdict = "return document.querySelector('.graph .edge')?.dataset.verdict"
    assert browser.js(verdict) == "unfinished"
    assert "Waits for 1" in browser.text('#rows tr:has(a[href$="second-of-two"])')
    go.touch()
    page.shows("#task-state", "Succeeded")
    browser.wait(lambda: browser.js(verdict) == "met", "the arrow of what is met")
    tones = "return [...document.querySelectorAll('.graph .node')].map((node) => node.dataset.tone)"
    browser.wait(lambda: browser.js(tones) == ["Succeeded", "Succeeded"], "both states")
    begun = alice.get("second-of-two").status
    ended = alice.get("first-of-two").status
    assert begun is not None
    assert ended is not None
    assert (begun.admitted_at or 0.0) >= (ended.finished_at or 0.0)


def test_nothing_that_tasks_say_becomes_markup(page: GatewayPage, gateway: Process) -> None:
    """In labels, commands, output, reasons, messages, and what is looked for."""
    alice = gateway.client(gateway.tokens["alice"])
    spec = {**job("markup", f"echo '{MARKUP}'; exit 3"), "labels": {"a": "b"}}
    spec["env"] = {"A": MARKUP}
    alice.submit(spec)
    alice.wait(["markup"], timeout_seconds=60)
    alice.submit(job("markup-2", "sleep 600"))
    wait_until(lambda: alice.get("markup-2").state is State.RUNNING, "the attempt")
    alice.cancel("markup-2", reason=MARKUP)
    alice.wait(["markup-2"], timeout_seconds=60)
    page.visit()
    page.sign_in("alice")
    browser = page.browser
    page.open_task("markup")
    page.shows("#output-text", MARKUP)
    page.shows("#task-body code", MARKUP)
    tag = MARKUP.partition("<script")[0]
    page.fill(find=tag)
    page.shows("#hits", "1 hit")
    assert browser.texts("mark") == [tag]
    page.open_task("markup-2")
    page.shows(".timeline", MARKUP)
    page.shows("#rows", MARKUP)
    assert browser.js("return document.querySelectorAll('main img, dialog img, dialog script').length") == 0
    assert browser.js("return document.title") == "Tally default"
    browser.js("location.hash = '#task=' + encodeURIComponent(arguments[0])", MARKUP)
    page.shows("#task-title", MARKUP)
    page.shows("#task-body", "There is no such task")


def test_who_may_only_look_is_told_so(page: GatewayPage, gateway: Process) -> None:
    """The buttons are not there, and the verb that is lacking is named."""
    alice = gateway.client(gateway.tokens["alice"])
    alice.submit(job("looked-at", "true"))
    alice.wait(["looked-at"], timeout_seconds=60)
    page.visit()
    page.sign_in("watcher")
    page.open_task("looked-at")
    page.shows("#may-not", "you lack the verb cancel-own for owner vision")
    assert not page.browser.one("#buttons").is_displayed()
    page.browser.one("#task-close").click()
    page.browser.one("#submitting summary").click()
    assert page.browser.one("#may-not-submit").is_displayed()
    assert not page.browser.one("#submission").is_displayed()


def test_the_list_is_filtered_and_paged(page: GatewayPage, gateway: Process) -> None:
    """By the gateway: what others own is not among it."""
    alice, ops = (gateway.client(gateway.tokens[name]) for name in ("alice", "ops"))
    for n in range(30):
        labels = {"even": str(n % 2 == 0).lower()}
        alice.submit({**job(f"many-{n:02}", "true"), "labels": labels})
    ops.submit(job("many-of-others", "true", owner="speech"))
    names = [f"many-{n:02}" for n in range(30)]
    alice.wait(names, timeout_seconds=120)
    page.visit("/#search=many-&sort=name")
    page.sign_in("alice")
    browser = page.browser
    browser.wait(lambda: browser.names() == names[:25], "the first page")
    browser.one("#next").click()
    browser.wait(lambda: browser.names() == names[25:], "the second page")
    page.fill(label="even=true")
    browser.wait(lambda: browser.names() == names[::2], "the filtered list")
    browser.one('#states [value="Failed"]').click()
    browser.wait(lambda: browser.names() == [], "an empty list")
    page.fill(label="=")
    browser.wait(lambda: browser.one("#filter-problem").is_displayed(), "what is wrong")
    browser.one("#clear").click()
    page.fill(owner="speech")
    browser.wait(lambda: browser.names() == [], "nothing of others")


def test_schedules_are_shown_to_who_may_read_their_tasks(
    page: GatewayPage, cluster: LocalCluster, gateway: Process
) -> None:
    """What is due next, and what became of the last tick; nothing of others."""
    with cluster.client() as client:
        client.features.enable("schedules")
        task = {"owner": "vision", "command": ["true"]}
        client.schedules.apply({"name": "paused", "cron": "0 6 * * *", "suspended": True, "task": task})
        client.schedules.apply({"name": "yearly", "cron": "30 2 1 1 *", "task": task})
        client.schedules.apply({"name": "others", "cron": "30 2 1 1 *", "task": {**task, "owner": "speech"}})
    page.visit()
    page.sign_in("alice")
    browser = page.browser
    browser.wait(lambda: browser.one("#schedules-card").is_displayed(), "the section")
    paused, yearly = browser.texts("#schedules li")
    assert paused == "pausedsuspended0 6 * * * UTC"
    assert yearly.startswith("yearlyJan 1, ")
    assert yearly.endswith("30 2 1 1 * UTC")
    words = browser.js(
        "return import('/static/facts.js').then((facts) => facts.scheduleOf(arguments[0]))",
        {
            "upcoming": [],
            "live": ["a", "b"],
            "recent": [{"tick": 60, "result": "skipped", "why": "missed", "count": 3, "more": True}],
        },
    )
    assert (words["last"], words["last_tick"], words["live"]) == ("skipped ×3 or more: missed", 60, 2)
    with cluster.client() as client:
        for name in ("paused", "yearly", "others"):
            client.schedules.delete(name)


def test_a_session_ends(page: GatewayPage, cluster: LocalCluster, gateway: Process) -> None:
    """By a wrong token it does not begin; it survives a reload, and ends when one signs out, or when the
    token is revoked. No script of the page can read the token.
    """
    browser = page.browser
    page.visit()
    page.type_token("tally_wrong")
    page.shows("#sign-in-problem", "is not valid here")
    page.sign_in("alice")
    kept = browser.js("return [document.cookie, localStorage.length, sessionStorage.length]")
    assert kept == ["", 0, 0]
    browser.driver.refresh()
    browser.wait(lambda: browser.text("#who") == "alice", "the same session")
    browser.wait(lambda: browser.text("#connection-text") == "Live", "the answers")
    browser.one("#sign-out").click()
    page.wait_for_sign_in()
    assert browser.driver.get_cookies() == []
    page.sign_in("bob")
    entries = gateway.tokens_file.read_text()
    try:
        gateway.tokens_file.write_text(
            "\n".join(part for part in re.split(r"(?=\[\[tokens)", entries) if '"bob"' not in part)
        )
        page.wait_for_sign_in()
        page.shows("#sign-in-problem", "sign in again")
        assert browser.driver.get_cookies() == []
    finally:
        gateway.tokens_file.write_text(entries)


def test_much_output_is_read_as_it_is_drawn(page: GatewayPage, gateway: Process) -> None:
    """Its last lines are shown, however much it is; what follows comes, too."""
    alice = gateway.client(gateway.tokens["alice"])
    alice.submit(job("flood", "yes 'a line of a flood' | head -n 400000; echo the end; sleep 600"))
    wait_until(lambda: alice.get("flood").state is State.RUNNING, "the attempt")
    page.visit()
    page.sign_in("alice")
    browser = page.browser
    page.open_task("flood")
    page.shows("#output-text", "the end")
    assert browser.js("return document.querySelectorAll('#output-text .line').length") <= 10_000
    browser.one("#do-cancel").click()
    browser.one("#cancel-yes").click()
    page.shows("#task-state", "Cancelled")


def test_what_is_old_is_said_to_be(chromium: Browser, cluster: LocalCluster, tmp_path: Path) -> None:
    """While no gateway answers; then the page goes on with another one that has the same key, and so does the
    output that is followed.
    """
    keys, go = tmp_path / "keys", tmp_path / "go"
    keys.write_text("ab" * 32)
    with running(cluster, tmp_path / "it", "--gateway-session-key-file", str(keys)) as gateway:
        page, alice = GatewayPage(chromium, gateway), gateway.client(gateway.tokens["alice"])
        alice.submit(job("goes-on", f"echo first; until [ -e {go} ]; do sleep 0.1; done; echo last"))
        wait_until(lambda: alice.get("goes-on").state is State.RUNNING, "the attempt")
        page.visit()
        page.sign_in("alice")
        page.open_task("goes-on")
        page.shows("#output-text", "first")
        assert gateway.end() == 0
        page.shows("#connection-text", "No answer")
        assert page.browser.js("return document.body.dataset.freshness") == "stale"
        page.shows("#task-age", "as it was")
        page.shows("#output-state", "broke off")
        again = subprocess.Popen(gateway.command, stderr=subprocess.DEVNULL, env=gateway.environ)
        try:
            page.browser.wait(
                lambda: page.browser.text("#connection-text") == "Live", "the other gateway", timeout=60.0
            )
            go.touch()
            page.shows("#output-text", "last")
            assert page.browser.text("#output-text").count("first") == 1
            page.shows("#task-state", "Succeeded")
        finally:
            chromium.driver.get("about:blank")
            chromium.problems()
            again.terminate()
            again.wait(20)


def test_another_tab_signs_in(page: GatewayPage, gateway: Process) -> None:
    """As the same person: the buttons go on working. As another one: the page becomes that one's."""
    alice = gateway.client(gateway.tokens["alice"])
    alice.submit(job("of-two-tabs", "sleep 600"))
    wait_until(lambda: alice.get("of-two-tabs").state is State.RUNNING, "the attempt")
    page.visit()
    page.sign_in("alice")
    page.open_task("of-two-tabs")
    browser = page.browser
    browser.wait(lambda: browser.one("#do-cancel").is_displayed(), "the button")
    begin = (
        "const done = arguments[1]; fetch('/session', {method: 'POST',"
        " headers: {Authorization: 'Bearer ' + arguments[0]}}).then((answer) => done(answer.status))"
    )
    assert browser.driver.execute_async_script(begin, gateway.tokens["alice"]) == 201
    browser.one("#do-cancel").click()
    browser.one("#cancel-yes").click()
    page.shows("#told", "cancel: requested")
    assert browser.driver.execute_async_script(begin, gateway.tokens["bob"]) == 201
    page.shows("#who", "bob")
