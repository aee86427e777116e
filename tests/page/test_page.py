"""The live page in a real browser: what it says, how it stays current, and that everybody can use it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from controller.core.model import codec, kept_log
from controller.core.model.lifecycle import State
from controller.core.model.op import NO_OP, Op
from controller.core.model.own_labels import SCHEDULE
from controller.core.model.resources import Vector
from controller.core.model.schedules import (
    ScheduleState,
    TickOutcome,
    TickResult,
    encode_schedule,
    encode_state,
    parse_schedule,
)
from controller.core.model.sharing import OwnerPolicy, Sharing
from controller.core.model.task import Pool
from controller.errors import TallyError
from controller.views.freshness import RULE
from tests.page.browser import Browser
from tests.page.scenes import (
    GIB,
    NOW,
    SCENES,
    Scene,
    ahead,
    busy,
    empty,
    failing,
    large,
    shared,
    spec_of,
    status_of,
)

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(300)]

HOLD = Vector({"cpu": 1000, "memory": GIB})


def codes_of(browser: Browser) -> list[str]:
    """The notices that are shown, in one look: they may be drawn anew at any time."""
    found: list[str] = browser.js(
        "return [...document.querySelectorAll('.notice')].map((notice) => notice.dataset.code)"
    )
    return found


# -- what it says
# ----------------------------------------------------------------------------------------------------


def test_it_shows_all_at_a_glance(browser: Browser, serve: Any) -> None:
    server = serve(busy())
    browser.open(server.url)
    assert browser.text("#verdict") == "All is well"
    assert browser.text("#leader") == "tally-0"
    assert "for 1h23m" in browser.text("#leader-detail")
    assert browser.text("#work") == "20 Running"
    assert browser.text("#work-detail") == "7 Created · 2 Pending · 1 WaitingRetry"
    hint = browser.one("#work-detail span:nth-of-type(2)").get_attribute("title")
    assert "its resources are held" in str(hint)
    assert browser.texts("#pools .muted")[0] == "16 Running · 2 Pending · 1 WaitingRetry"
    browser.wait(lambda: browser.text("#audit") == "nothing wrong", "the audit's verdict")
    assert browser.texts(".pool-head strong") == ["default", "gpu", "nightly"]
    full = browser.one('[role="meter"][aria-label="nvidia.com/gpu held"]')
    assert (full.get_attribute("aria-valuenow"), full.get_attribute("aria-valuemax")) == ("4", "4")
    assert browser.js("return arguments[0].firstChild.style.width", full) == "100%"
    assert [text.split(" ")[0].split("(")[0] for text in browser.texts("#replicas strong")] == [
        "tally-0",
        "tally-1",
        "tally-2",
    ]
    assert browser.texts("#replicas .leads") == ["leader"]
    assert "1 revision behind" in browser.text("#replicas li:nth-child(2)")
    assert browser.text('#states [value="Succeeded"]') == "Succeeded120"
    assert browser.text("#range") == "1–25 of 152"


def test_gateways_and_the_notifier_are_shown_where_there_are_some(browser: Browser, serve: Any) -> None:
    """Whoever else works beside the replicas, and what is wrong with it."""
    scene = busy()
    browser.open(serve(scene).url)
    assert not browser.one("#access").is_displayed()
    scene.write(
        (
            "gateways",
            ("door",),
            b'{"url":"https://door:9190","host":"h","version":"1","ready":true,"problems":[]}',
        ),
        ("gateways", ("gate",), b'{"url":"javascript:alert(1)","ready":false,"problems":["store"]}'),
        ("notifier", (), b'{"id":"herald"}'),
    )
    browser.wait(lambda: browser.one("#access").is_displayed(), "the section")
    assert browser.texts("#gateways li") == [
        "doorready1 on h",
        "gatenot readystore · ",
    ]
    assert browser.one("#gateways a").get_attribute("href") == "https://door:9190/"
    assert len(browser.all("#gateways a")) == 1
    assert browser.text("#notifier") == "Notifier on duty: herald · 0 notices to be told"
    assert browser.one('[data-code="gateway-not-ready"]').is_displayed()


def test_schedules_are_shown_where_there_are_some(browser: Browser, serve: Any) -> None:
    """What is due next, and what became of the last tick; one that cannot be read says so."""
    scene = busy()
    browser.open(serve(scene).url)
    assert not browser.one("#schedules-card").is_displayed()
    fields = {"name": "nightly", "cron": "30 2 * * *", "timezone": "Europe/Berlin", "suspended": True}
    schedule = parse_schedule({**fields, "task": {"command": ["true"]}})
    outcome = TickOutcome(tick=60, result=TickResult.MADE, task="nightly-197001010001")
    state = ScheduleState(cursor=60, create=1, live=("nightly-197001010001",), recent=(outcome,))
    made = spec_of("nightly-197001010001", NOW - 50, labels={SCHEDULE: "nightly"})
    scene.write(
        ("schedules", ("nightly",), encode_schedule(schedule, Op("x"))),
        ("schedule-states", ("nightly",), encode_state(state, Op("x"))),
        ("tasks", ("nightly-197001010001",), made),
        ("schedules", ("odd",), b'{"<b>": 1}'),
    )
    browser.wait(lambda: browser.one("#schedules-card").is_displayed(), "the section")
    nightly, odd = browser.texts("#schedules li")
    assert nightly.startswith("nightlysuspended30 2 * * * Europe/Berlin · made nightly-197001010001 (")
    assert nightly.endswith(") · 1 task not ended")
    assert odd.startswith("oddcannot be readschedules: ")
    assert browser.one('[data-code="quarantined"]').is_displayed()
    assert browser.problems() == []


def test_a_shared_pool_shows_its_owners(browser: Browser, serve: Any) -> None:
    """What each holds, may hold and waits for; a task of an owner names it."""
    browser.open(serve(shared()).url)
    assert browser.texts(".owners thead th") == [
        *("Owner", "Held", "Guarantee", "Limit", "Share", "Waiting"),
        *("Used", "Lost", "Stopping"),
    ]
    rows = [browser.texts(f".owners tbody tr:nth-child({n}) > *") for n in (1, 2, 3)]
    assert rows[0] == ["team-00", "cpu 8", "cpu 8", "cpu 12", "0.250", "0", "cpu·h 90.000", "cpu·h 1.500", ""]
    assert rows[1] == ["team-01", "nothing", "", "", "0", "2 · 1 on hold", "", "", ""]
    bar = browser.one('[role="meter"][aria-label="team-00 holds"]')
    assert bar.get_attribute("aria-valuetext") == "cpu 8"
    assert browser.js("return arguments[0].firstChild.style.width", bar) == "50%"
    assert browser.texts(".owners .muted") == []
    browser.open(f"{browser.js('return location.origin')}/#task=deep-0")
    browser.wait(lambda: "team-00" in browser.text("#task-body"), "the owner of the task")
    assert browser.problems() == []


def test_of_many_owners_the_first_are_shown_and_the_others_counted(browser: Browser, serve: Any) -> None:
    browser.open(serve(shared(owners=53)).url, width=400)
    assert len(browser.all(".owners tbody tr")) == 50
    assert browser.texts(".owners .muted") == ["and 3 more: tally get owners --pool common"]
    assert (
        browser.js("return document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    )


def test_it_asks_nobody_but_its_replica(browser: Browser, serve: Any) -> None:
    server = serve(busy())
    browser.open(server.url)
    requests = browser.requests()
    assert len(requests) >= 6
    assert [url for url in requests if not url.startswith((f"{server.url}/", "about:"))] == []


def test_an_empty_installation_says_how_to_begin(browser: Browser, serve: Any) -> None:
    browser.open(serve(empty()).url)
    assert browser.text("#verdict") == "All is well"
    assert "tally submit" in browser.text("#tasks-empty")
    assert "tally apply" in browser.text("#pools-empty")


def test_troubles_stand_on_top_with_what_to_do(browser: Browser, serve: Any) -> None:
    browser.open(serve(failing()).url)
    assert browser.text("#verdict") == "Something is wrong"
    codes = codes_of(browser)
    assert codes[0] == "store-unreachable"
    assert "no-leader" not in codes, "who does not hear of etcd knows nothing of that"
    assert browser.text("#verdict-detail").startswith("This replica does not know what is happening now.")
    assert re.fullmatch(r"for \d+s", browser.texts(".notice .as-of")[0])
    assert all(" ago" in text for text in browser.texts(".notice .as-of")[1:]), (
        "what is told of the past carries its age"
    )
    assert browser.js("return document.querySelectorAll('.notice:not(:has(.as-of))').length") == 0
    assert {"attempts-lost", "quarantined", "undefined-pool", "overcommitted"} <= set(codes)
    assert "tally confirm-stopped NAME" in browser.texts('[data-code="attempts-lost"] code')
    without_action = (
        "return document.querySelectorAll('.notice:not([data-severity=info]):not(:has(.action))').length"
    )
    assert browser.js(without_action) == 0
    assert browser.text("#leader") == "not known"
    assert re.match(r"no replica led \d+s ago", browser.text("#leader-detail"))
    assert browser.driver.title.startswith("⚠")


def test_other_peoples_words_stay_words(browser: Browser, serve: Any) -> None:
    """Names, messages and addresses come from users, engines and registrations: none becomes markup,
    script or a foreign link.
    """
    scene = busy()
    evil = "<img src=x onerror=\"document.title='taken'\"><b>bold</b>"
    failed = status_of(State.FAILED, NOW - 10, reason="<i>Error", message=evil)
    scene.write(("tasks", ("a-first",), spec_of("a-first", NOW - 60, labels={"k": "v"})))
    scene.write(("states", ("a-first",), failed))
    record = {"id": "tally-9", "status_url": "javascript:document.title='taken'", "version": evil}
    scene.write(("replicas", ("tally-9",), json.dumps(record).encode()))
    browser.open(f"{serve(scene).url}/#task=a-first")
    browser.wait(lambda: "bold" in browser.text("#task-body"), "the task")
    assert evil in browser.text("#task-body")
    assert browser.all("main img, main b, dialog img, dialog b") == []
    assert browser.all('a[href^="javascript"]') == []
    assert "taken" not in browser.driver.title


@pytest.mark.parametrize("name", ["constructor", "valueof", "tostring"])
def test_names_may_be_words_of_the_language(browser: Browser, serve: Any, name: str) -> None:
    """Of a task, a pool, a resource and an owner."""
    scene = ahead()
    pool = Pool(
        name=name, capacity=Vector({"cpu": 1000, name: 2}), sharing=Sharing(owners={name: OwnerPolicy()})
    )
    scene.write(("pools", (name,), codec.encode_pool(pool, NO_OP)))
    for task, state in ((name, State.SUCCEEDED), ("waits", State.CREATED)):
        scene.write(("tasks", (task,), spec_of(task, NOW - 60, pool=name, owner=name)))
        if state is not State.CREATED:
            scene.write(("states", (task,), status_of(state, NOW - 10, pool=name)))
    browser.open(f"{serve(scene).url}/?search={name}#task={name}")
    browser.wait(lambda: browser.text("#task-state") == "Succeeded", "the task")
    browser.wait(lambda: name in browser.text("#pools"), "its pool")
    scene.write(("tasks", ("later",), spec_of("later", NOW, pool=name, owner=name)))
    browser.wait(lambda: "later" in browser.text("#activity"), "what happens later")
    assert browser.text("#connection-text") == "Live"


def test_times_that_no_calendar_has_do_not_stop_it(browser: Browser, serve: Any) -> None:
    """As a leader's record may have, by any hand: nanoseconds, say."""
    scene = busy()
    scene.register(engine_answers=True, engine_age_seconds=1e18)
    leader = {"id": "tally-0", "instance": "i", "since": NOW * 1e9}
    scene.write(("leader", (), json.dumps(leader).encode()))
    browser.open(serve(scene).url)
    browser.wait(lambda: browser.text("#connection-text") == "Live", "the page")
    scene.write(("tasks", ("later",), spec_of("later", NOW)))
    browser.wait(lambda: "later" in browser.text("#tasks"), "what happens later")


# -- how it stays current
# --------------------------------------------------------------------------------------------


def test_changes_appear_by_themselves(browser: Browser, serve: Any) -> None:
    scene = busy()
    browser.open(f"{serve(scene).url}/#task=train-5")
    browser.wait(lambda: browser.text("#task-state") == "Created", "the open task")
    scene.write(("states", ("train-5",), status_of(State.RUNNING, NOW, pool="gpu", hold=HOLD)))
    browser.wait(lambda: browser.text("#task-state") == "Running", "the change in the open task")
    browser.wait(
        lambda: browser.text('#states [value="Running"]') == "Running21", "the change in the numbers"
    )
    browser.wait(lambda: "train-5" in browser.text("#activity"), "the change among what happens")


def test_a_new_leader_appears_by_itself(browser: Browser, serve: Any) -> None:
    scene = busy()
    browser.open(serve(scene).url)
    scene.register(leader=None)
    browser.wait(lambda: browser.text("#leader") == "no replica", "the leader's end")
    assert browser.one('[data-code="no-leader"]').is_displayed()
    scene.register(leader="tally-2")
    browser.wait(lambda: browser.text("#leader") == "tally-2", "the new leader")
    browser.wait(lambda: browser.text("#verdict") == "All is well", "the verdict")
    assert "tally-2 was elected" in browser.text("#activity")


def test_it_says_since_when_it_is_stale_and_goes_on_by_itself(browser: Browser, serve: Any) -> None:
    """Its replica restarts: what is shown stays, marked as old, with links to the others; then it is
    current again.
    """
    scene = busy()
    server = serve(scene)
    browser.open(server.url)
    server.stop()
    browser.wait(lambda: browser.text("#connection-text").startswith("Stale since"), "the mark")
    assert browser.one("#stale").is_displayed()
    assert not browser.one("#health").is_displayed()  # an old verdict is no verdict
    assert browser.driver.title.startswith("⚠")
    assert "tally-0" in browser.texts("#stale-links a")
    assert browser.text("#leader-detail").startswith("tally-0 led ")
    assert browser.all("#replicas .leads") == []
    scene.set_state("train-5", State.CANCELLED, pool="gpu")
    serve(scene, int(server.url.rpartition(":")[2]))
    browser.wait(lambda: browser.text("#connection-text") == "Live", "the replica's return")
    assert not browser.one("#stale").is_displayed()
    assert browser.one("#health").is_displayed()
    browser.wait(
        lambda: browser.text('#states [value="Cancelled"]') == "Cancelled2", "what happened meanwhile"
    )
    scene.set_state("train-6", State.CANCELLED, pool="gpu")
    browser.wait(lambda: "train-6" in browser.text("#activity"), "events of the new stream")
    # of the restart itself: refused connections, and an event that is not kept any more
    problems = browser.problems()
    assert [problem for problem in problems if "net::ERR_" not in problem and " 410 " not in problem] == []


# -- how old it is
# ---------------------------------------------------------------------------------------------------


def freshness(browser: Browser) -> str:
    return str(browser.js("return document.body.dataset.freshness"))


def test_what_is_old_turns_grey_and_then_red(browser: Browser, serve: Any) -> None:
    """B6: the replica answers, but has heard nothing of etcd.

    It is neither live, nor are the others up to date.
    """
    scene = busy()
    scene.register(engine_answers=True, engine_age_seconds=RULE.engine.dead_seconds - 5)
    browser.open(f"{serve(scene).url}/#task=train-1")
    assert (browser.text("#connection-text"), freshness(browser)) == ("Live", "fresh")
    assert browser.texts("#replicas .leads") == ["leader"]
    assert not browser.one("#task-age").is_displayed()
    assert "up to date" in browser.text("#replicas li:nth-child(1)")

    scene.staleness = RULE.store.stale_seconds + 1
    scene.ages = {f"tally-{n}": RULE.replica.stale_seconds + 1 for n in range(3)}
    browser.wait(lambda: freshness(browser) == "stale", "the first mark")
    assert re.fullmatch(r"No answer from etcd for \d+s", browser.text("#connection-text"))
    assert browser.text("#verdict") == "Something needs attention"
    assert (
        browser.text("#verdict-detail")
        == "This replica does not know what is happening now. 1 thing to look at."
    )
    assert "up to date" not in browser.text("#replicas")
    assert browser.texts("#replicas li > :nth-child(2)") == [
        "led before",
        "followed before",
        "followed before",
    ]
    assert browser.text("#leader") == "not known"
    assert re.match(r"tally-0 led \d+s ago", browser.text("#leader-detail"))
    assert re.fullmatch(r"Engine null answered 2m\d*s? ago", browser.text("#engine")), (
        "nobody says that it is silent now"
    )
    assert codes_of(browser) == ["store-unreachable"]
    assert re.match(r"as it was \d+s ago", browser.text("#task-age"))
    assert re.search(r"silent for \d+s", browser.text("#replicas li:nth-child(2)"))
    assert "grayscale" in browser.js("return getComputedStyle(document.querySelector('.facts')).filter")
    assert not browser.one("#stale").is_displayed(), "its own replica answers"

    scene.staleness = RULE.store.dead_seconds
    browser.wait(lambda: freshness(browser) == "dead", "the second mark")
    assert browser.text("#verdict") == "Something is wrong"
    assert browser.driver.title.startswith("⚠")

    scene.staleness, scene.ages = 0.2, {}
    browser.wait(
        lambda: (browser.text("#connection-text"), freshness(browser)) == ("Live", "fresh"), "the end of it"
    )
    assert not browser.driver.title.startswith("⚠")


def test_an_old_audit_is_not_green(browser: Browser, serve: Any) -> None:
    """A verdict of 22 minutes ago says nothing of now; one that found something stays red."""
    scene = busy()
    browser.open(serve(scene).url)

    def tone() -> str | None:
        return browser.one("#audit").get_attribute("data-tone")

    browser.wait(lambda: browser.text("#audit") == "nothing wrong" and tone() == "ok", "the verdict")
    scene.report = TallyError("etcd does not answer")
    scene.time += 22 * 60
    browser.wait(lambda: tone() == "", "the end of the green")
    browser.wait(
        lambda: "This replica's last audit failed: etcd does not answer" in browser.text("#audit-detail"),
        "the try that failed",
    )
    assert re.search(r"checked 22m(\d+s)? ago by replica-a", browser.text("#audit-detail"))
    scene.time += 22 * 60
    browser.wait(
        lambda: (browser.text("#audit"), tone()) == ("nothing wrong long ago", "critical"), "the red"
    )
    assert all(" 503 " in problem for problem in browser.problems())


def test_a_killed_leader_is_shown_as_what_it_is(browser: Browser, serve: Any) -> None:
    """Its registration lingers for some seconds, in which it wrote that it leads; it is no follower that
    lags.
    """
    scene = busy()
    browser.open(serve(scene).url)
    scene.register(leader="tally-1", engine_answers=True, engine_age_seconds=2.0)
    killed = {
        "id": "tally-0",
        "version": "0.1.0",
        "phase": "leading",
        "engine_answers": True,
        "applied_revision": 1,
    }
    scene.write(("replicas", ("tally-0",), json.dumps(killed).encode()))
    browser.wait(lambda: "heard from" in browser.text("#replicas li:nth-child(1)"), "its age")
    assert "up to date" not in browser.text("#replicas li:nth-child(1)"), (
        "nor is it that until its silence is long"
    )
    scene.ages = {"tally-0": RULE.replica.stale_seconds + 1}
    scene.write(("replicas", ("tally-0",), json.dumps(killed).encode()))
    browser.wait(lambda: "silent for" in browser.text("#replicas li:nth-child(1)"), "the mark")
    assert "led before" in browser.text("#replicas li:nth-child(1)")
    assert "behind" not in browser.text("#replicas li:nth-child(1)")
    assert browser.texts("#replicas .leads") == ["leader"]
    assert browser.one('[data-code="replica-silent"]').is_displayed()
    assert re.fullmatch(r"Engine null answers · last heard from \d+s ago", browser.text("#engine"))


def test_a_leader_that_is_not_heard_of_is_none_that_leads(browser: Browser, serve: Any) -> None:
    """Killed or frozen, it has the key until its lease ends; nobody knows what it does, and its engine is
    not blamed.
    """
    scene = busy()
    scene.register(engine_answers=True, engine_age_seconds=RULE.engine.dead_seconds - 2)
    browser.open(serve(scene).url)
    scene.ages = {"tally-0": scene.staleness + RULE.replica.stale_seconds}
    browser.wait(lambda: browser.text("#leader") == "not known", "the doubt")
    assert freshness(browser) == "fresh", "all else is known"
    assert re.match(r"tally-0 led \d+s ago", browser.text("#leader-detail"))
    assert (
        browser.text("#verdict-detail")
        == "This replica does not know what is happening now. 1 thing to look at."
    )
    assert browser.all("#replicas .leads") == []
    assert browser.texts("#replicas li > :nth-child(2)") == ["led before", "follower", "follower"]
    scene.ages = {"tally-0": scene.staleness + RULE.replica.dead_seconds}
    browser.wait(lambda: browser.text("#verdict") == "Something is wrong", "the alarm")
    assert codes_of(browser) == ["leader-silent"]
    assert "is silent" not in browser.text("#engine")


def test_a_page_whose_replica_is_gone_turns_red_by_itself(browser: Browser, serve: Any) -> None:
    """Nobody tells it: it counts the time since its own last answer."""
    server = serve(busy())
    browser.open(server.url)
    server.stop()
    browser.wait(lambda: freshness(browser) == "stale", "the grey")
    dead = RULE.page.dead_seconds
    browser.js("Date.now = ((now, ms) => () => now() + ms)(Date.now, 1000 * arguments[0])", dead)
    browser.wait(lambda: freshness(browser) == "dead", "the red")
    assert browser.text("#connection-text").startswith("No answer since")
    assert all("net::ERR_" in problem for problem in browser.problems())


# -- orders and labels
# -----------------------------------------------------------------------------------------------


def test_columns_sort_all_tasks_and_not_a_page(browser: Browser, serve: Any) -> None:
    browser.open(serve(busy()).url)
    assert browser.one("th:last-child").get_attribute("aria-sort") == "ascending"
    browser.tab_to('th button[value="name"]')
    browser.press(Keys.ENTER)
    browser.wait(lambda: browser.names()[0] == "ingest-0000", "the order of names")
    assert browser.js("return location.hash") == "#sort=name"
    browser.press(Keys.SPACE)
    browser.wait(lambda: browser.names()[:2] == ["train-9", "train-8"], "the reverse")
    assert browser.one("th:nth-child(1)").get_attribute("aria-sort") == "descending"
    browser.one("#next").click()
    browser.wait(lambda: browser.text("#range") == "26–50 of 152", "the second page")
    assert browser.names()[0] == "render-005"
    browser.one('th button[value="state"]').click()
    browser.wait(lambda: browser.text("#range") == "1–25 of 152", "the first page again")
    browser.wait(lambda: browser.names()[0] == "train-10", "the order of states")
    browser.one('th button[value="-submitted"]').click()
    browser.wait(lambda: browser.names()[0] == "sync-mirror", "the newest")
    browser.one('th button[value="-submitted"]').click()
    browser.wait(lambda: browser.names()[0] == "old-batch", "the oldest")
    browser.open(f"{browser.js('return location.origin')}/#sort=-pool&search=train")
    browser.wait(lambda: browser.names()[:1] == ["train-0"], "the order of the address")


def test_tasks_are_filtered_by_label(browser: Browser, serve: Any) -> None:
    browser.open(serve(busy()).url)
    browser.tab_to("#label")
    browser.press(*"team=film")
    browser.wait(lambda: browser.text("#range") == "1–18 of 18", "the label's tasks")
    browser.press(*"!!")
    browser.wait(lambda: browser.one("#filter-problem").is_displayed(), "the complaint")
    assert "team=blue" in browser.text("#filter-problem")
    assert len(browser.names()) == 18, "what is listed stays"
    assert freshness(browser) == "fresh"
    assert all(" 400 " in problem for problem in browser.problems())
    browser.one("#clear").click()
    browser.wait(lambda: browser.text("#range") == "1–25 of 152", "all tasks")
    assert not browser.one("#filter-problem").is_displayed()


def test_where_the_output_is_read(browser: Browser, serve: Any) -> None:
    browser.open(f"{serve(busy()).url}/#task=train-1")
    browser.wait(lambda: "tally logs train-1 -f" in browser.text("#task-body"), "the command")


def test_what_is_kept_of_the_output(browser: Browser, serve: Any) -> None:
    """Its end is shown, as text whatever it is; a later attempt's takes its place, and a store that does
    not answer is said.
    """
    scene = busy()
    evil = (
        "<img src=x"
        " onerror=\"document.title='taken'\"></pre><script>document.title='taken'</script>\x1b[31m\u202e\x00"
    )
    scene.keep_log("report-weekly", "".join(f"line {n}\n" for n in range(500)) + evil, truncated=True)
    browser.open(f"{serve(scene).url}/#task=report-weekly", width=320)
    browser.wait(lambda: browser.all("#task-body pre"), "the output")
    assert browser.text("#task-body pre").endswith(" ".join(evil.split()))
    assert "Output of attempt 1: the last 64 KiB" in browser.text("#task-body .output")
    assert "tally logs report-weekly" in browser.text("#task-body .output")
    assert browser.all("dialog img, dialog script") == []
    assert "taken" not in browser.driver.title
    assert (
        browser.js(
            "const e = document.querySelector('#task-body pre'); return e.scrollHeight - e.scrollTop -"
            " e.clientHeight"
        )
        < 2
    )
    assert browser.js("const e = document.querySelector('#task'); return e.scrollWidth - e.clientWidth") == 0
    browser.tab_to("#task-body pre")
    assert browser.js(CONTRASTS) == []

    scene.keep_log("report-weekly", "", attempt=2)
    browser.wait(lambda: "Output of attempt 2: all" in browser.text("#task-body"), "the second attempt's")
    assert "It printed nothing." in browser.text("#task-body")
    scene.logs["report-weekly"] = TallyError("etcd does not answer")
    scene.write((kept_log.KIND, ("report-weekly",), b"{}"))
    browser.wait(lambda: "etcd does not answer" in browser.text("#task-body"), "the reason")
    assert freshness(browser) == "fresh"
    assert all(" 503 " in problem for problem in browser.problems())


# -- filters, pages, one task: with the keyboard alone
# ---------------------------------------------------------------


def test_states_search_and_pages_work_with_the_keyboard(browser: Browser, serve: Any) -> None:
    browser.open(serve(busy()).url)
    browser.press("/")
    browser.press("re")
    browser.wait(lambda: browser.names()[:1] == ["render-000"], "the search")
    assert browser.text("#range") == "1–19 of 19"
    browser.press(*[Keys.BACKSPACE] * 2)
    browser.wait(lambda: browser.text("#range") == "1–25 of 152", "all tasks")
    browser.tab_to("#next")
    browser.press(Keys.ENTER)
    browser.wait(lambda: browser.text("#range") == "26–50 of 152", "the second page")
    assert browser.names()[0] == "train-4", "the newest stand first"
    browser.tab_to("#previous")
    browser.press(Keys.SPACE)
    browser.wait(lambda: browser.names()[0] == "sync-mirror", "the first page")
    browser.tab_to('#states [value="Failed"]')
    browser.press(Keys.SPACE)
    browser.wait(lambda: browser.names() == ["report-weekly"], "the failed task")
    assert browser.js("return document.activeElement.getAttribute('aria-pressed')") == "true"
    assert browser.js("return location.hash") == "#state=Failed"


def test_a_task_opens_and_closes_with_the_keyboard(browser: Browser, serve: Any) -> None:
    browser.open(f"{serve(busy()).url}/#state=WaitingRetry")
    browser.wait(lambda: browser.names() == ["sync-mirror"], "the filter in the address")
    browser.tab_to("#rows a")
    browser.press(Keys.ENTER)
    browser.wait(lambda: browser.all(".timeline li"), "the history")
    steps = browser.texts(".timeline strong")
    assert steps == [
        "Submitted",
        "Admitted: resources are held",
        "Observed running",
        "Observed to have failed",
        "To be retried",
    ]
    durations = browser.texts(".durations .badge")
    assert durations[:4] == ["Created3m30s", "Pending3.4s", "Running3.4s", "Failed3.4s"]
    assert re.fullmatch(r"WaitingRetry\dm(\d+s)?", durations[4]), "it goes on, by the replica's clock"
    assert len(browser.all("#task .shares i")) == 5
    assert browser.js("return document.querySelector('#task').contains(document.activeElement)")
    browser.press(Keys.ESCAPE)
    # the dialog's event of its end comes after it is gone
    browser.wait(lambda: browser.js("return location.hash") == "#state=WaitingRetry", "the filter's address")
    assert not browser.one("#task").is_displayed()
    assert browser.js("return document.activeElement.textContent") == "sync-mirror"


def test_focus_survives_what_happens(browser: Browser, serve: Any) -> None:
    scene = busy()
    browser.open(f"{serve(scene).url}/#search=train")
    browser.wait(lambda: len(browser.names()) == 11, "the tasks")
    browser.tab_to('#rows a[href$="train-5"]')
    scene.set_state("train-5", State.CANCELLED, pool="gpu")
    browser.wait(lambda: "Cancelled" in browser.text('#rows tr:has(a[href$="train-5"])'), "the change")
    assert browser.js("return document.activeElement.textContent") == "train-5"


# -- for everybody
# ---------------------------------------------------------------------------------------------------

CONTRASTS = """
const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const parse = (c) => { const [r, g, b, a = 1] = c.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const ground = (e) => {
  for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor);
    if (c[3] === 1) return c;
  }
  return [255, 255, 255];
};
const poor = [];
for (const e of document.querySelectorAll("body *")) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || !e.checkVisibility() || e.disabled) continue;
  if (["OPTION", "NOSCRIPT", "SCRIPT"].includes(e.tagName)) continue;
  const style = getComputedStyle(e);
  const [a, b] = [luminance(parse(style.color)), luminance(ground(e))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05), big = parseFloat(style.fontSize) >= 24;
  const named = `${e.tagName}.${e.className} "${e.textContent.slice(0, 30)}"`;
  if (ratio < (big ? 3 : 4.5)) poor.push(`${named} ${ratio.toFixed(2)}`);
}
return poor;
"""
NAMELESS = """
return [...document.querySelectorAll("button, input, select, a, dialog, [role=meter]")]
  .filter((e) => !(e.getAttribute("aria-label") || e.getAttribute("aria-labelledby")))
  .filter((e) => !(e.labels?.length || e.textContent.trim()))
  .map((e) => e.outerHTML.slice(0, 80));
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("scene", ["empty", "busy", "failing"])
def test_every_text_can_be_read(browser: Browser, serve: Any, scene: str, dark: bool) -> None:
    """WCAG 2.2, 1.4.3: a contrast of 4.5 at least, in both colour schemes; and every control has a name
    (4.1.2).
    """
    browser.open(f"{serve(SCENES[scene]()).url}/#state=Failed", dark=dark)
    assert browser.js(CONTRASTS) == []
    assert browser.js(NAMELESS) == []
    expected = "rgb(16, 20, 28)" if dark else "rgb(245, 246, 248)"
    assert browser.js("return getComputedStyle(document.body).backgroundColor") == expected


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_tasks_text_can_be_read(browser: Browser, serve: Any, dark: bool) -> None:
    """The same of the dialog, here of a task that is lost; and it fits on a phone."""
    browser.open(f"{serve(failing()).url}/#task=render-001", dark=dark, width=320)
    browser.wait(lambda: browser.all(".timeline li"), "the history")
    assert browser.js(CONTRASTS) == []
    assert browser.js(NAMELESS) == []
    assert browser.js("const e = document.querySelector('#task'); return e.scrollWidth - e.clientWidth") == 0


@pytest.mark.parametrize("scene", ["empty", "busy", "failing"])
def test_it_fits_on_a_phone(browser: Browser, serve: Any, scene: str) -> None:
    """WCAG 2.2, 1.4.10: no scrolling sideways at a width of 320 pixels."""
    browser.open(serve(SCENES[scene]()).url, width=320)
    assert browser.js("return document.documentElement.scrollWidth") <= 320


# -- very many tasks
# -------------------------------------------------------------------------------------------------


def test_its_work_does_not_grow_with_the_tasks(browser: Browser, serve: Any) -> None:
    """Twenty times as many tasks: the same documents, as large, and a page of rows."""
    sizes: list[dict[str, int]] = []
    for number in (500, 10_000):
        scene: Scene = large(number)
        browser.open(serve(scene).url)
        assert browser.text("#tasks-total") == f"{number:,} tasks"
        assert len(browser.names()) == 25
        script = "return performance.getEntriesByType('resource').map((e) => [e.name, e.decodedBodySize])"
        sizes.append(
            {
                url.split("/", 3)[3]: size
                for url, size in browser.js(script)
                if "/v1/" in url and "events" not in url and "forecast" not in url
            }
        )
    few, many = sizes
    assert few.keys() == many.keys()
    assert all(many[path] <= few[path] * 1.1 for path in few), sizes


@pytest.mark.slow
def test_a_hundred_thousand_tasks_are_searched_and_paged(browser: Browser, serve: Any) -> None:
    browser.open(serve(large()).url)
    assert browser.text("#range") == "1–25 of 100,000"
    browser.press("/")
    browser.press("99999")
    browser.wait(lambda: browser.names() == ["job-099999"], "the search")
    browser.one("#clear").click()
    browser.wait(lambda: browser.text("#range") == "1–25 of 100,000", "all tasks")
    browser.one('th button[value="name"]').click()
    browser.one('#states [value="Failed"]').click()
    browser.wait(lambda: browser.names()[:2] == ["job-000000", "job-000097"], "the failed tasks")
    browser.one("#next").click()
    browser.wait(lambda: browser.text("#range") == "26–50 of 821", "their second page")
