"""What callers keep open, such as streams. Each sees its own, and takes nothing from others."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from controller.client import Client
from controller.core.model import codec
from controller.core.model.model import Model
from controller.core.model.op import Op
from controller.core.model.records import Change
from controller.core.model.task import Spec
from controller.endpoint.stream import FellBehind, Position
from controller.gateway.caller import Caller
from controller.gateway.changes import Changes
from controller.gateway.events import OwnedEvents
from controller.gateway.identity import Identity, Method
from controller.gateway.openings import LIMITS, BrokenOff, Limit, Opening
from controller.gateway.operation import CallerRequest
from controller.gateway.policy import Rights, parse_policy
from controller.gateway.reads import PAGE, _listed
from controller.gateway.task_owners import TaskOwners
from controller.store.mirror import Changed, Mirror
from tests.client.conftest import PutRaw
from tests.endpoint.model_view import ModelView
from tests.gateway.conftest import As, Served
from tests.gateway.test_gateway import task
from tests.support.etcd import in_seconds
from tests.support.waiting import wait_until


class Reader:
    """A reader of a stream, in a thread of its own."""

    def __init__(self, http: httpx.Client, **params: object) -> None:
        self.events: list[tuple[str, dict[str, object], str]] = []
        self.ended = threading.Event()
        self.begun = threading.Event()
        self._http, self._params = http, params
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        assert self.begun.wait(10)

    def _read(self) -> None:
        with suppress(httpx.ReadError):  # the test has ended
            self._follow()

    def _follow(self) -> None:
        with self._http.stream("GET", "/v1/events", params=self._params, timeout=60) as answer:  # type: ignore[arg-type]
            assert answer.status_code == 200, answer.read()
            fields: dict[str, str] = {}
            for line in answer.iter_lines():
                self.begun.set()
                if line and not line.startswith(":"):
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif fields:
                    if "event" in fields:
                        self.events.append(
                            (fields["event"], json.loads(fields["data"]), fields.get("id", ""))
                        )
                    fields = {}
        self.ended.set()

    def ids(self) -> list[object]:
        return [data.get("id") for _, data, _ in self.events]


def test_what_is_written_after_a_page_was_read_is_no_part_of_its_revision(
    served: Served, as_: As, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever lists, and resumes after that revision, misses nothing."""
    alice, written = as_("alice"), list[int]()
    service, standby = served.gateway._api.service, served.gateway._standby
    read = service.page

    def page(*args: Any) -> Any:
        found = read(*args)
        answer = as_("alice").post("/v1/tasks", json=task("late"))
        written.append(int(answer.headers["Tally-Revision"]))
        wait_until(lambda: standby.revision >= written[0], "the gateway to see it")
        return found

    monkeypatch.setattr(service, "page", page)
    listed = alice.get("/v1/tasks:page")
    assert listed.json()["items"] == []
    assert int(listed.headers["Tally-Revision"]) < written[0]


def test_each_reader_gets_what_it_may_read(as_: As, client: Client) -> None:
    """Also of a task that is removed, whose record is gone by then; nothing of others."""
    alice, bob, watcher = (Reader(as_(name)) for name in ("alice", "bob", "watcher"))
    client.submit(task("hers"))
    client.submit(task("his", owner="speech"))
    wait_until(lambda: "his" in bob.ids() and alice.ids() and len(watcher.ids()) >= 2, "the events")
    assert set(alice.ids()) == {"hers"}
    assert set(bob.ids()) == {"his"}
    assert {"hers", "his"} <= set(watcher.ids())
    assert [name for name, _, _ in alice.events] == ["submitted"]


def test_a_stream_resumes(as_: As, client: Client) -> None:
    """After the last id: nothing is missed."""
    first = Reader(as_("alice"))
    client.submit(task("a"))
    wait_until(lambda: first.ids() == ["a"], "the first event")
    client.submit(task("b"))
    client.submit(task("other", owner="speech"))
    client.submit(task("c"))
    resumed = Reader(as_("alice"), after=int(first.events[0][2]))
    wait_until(lambda: resumed.ids() == ["b", "c"], "what came meanwhile")


def test_who_has_seen_what_etcd_has_not_is_told_to_list_again(
    as_: As, served: Served, client: Client
) -> None:
    """At once: etcd was restored from a backup. A gateway that only lags behind takes the reader in."""
    alice = as_("alice")
    for asked in ({"params": {"after": 2**62}}, {"headers": {"Last-Event-ID": str(2**62)}}):
        refused = alice.get("/v1/events", **asked)
        assert (refused.status_code, refused.json()["parameter"]) == (410, "after")
    served.gateway._standby._follower.close()  # it hears no more
    client.submit(task("a"))
    _, newest = client.store.get(client.keys.task("a"), deadline=in_seconds())
    assert newest > served.gateway._standby.revision
    with alice.stream("GET", "/v1/events", params={"after": newest}) as answer:
        assert answer.status_code == 200
    assert alice.get("/v1/events", params={"after": newest + 1}).status_code == 410


def test_a_caller_that_is_removed_hears_no_more(
    as_: As, served: Served, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its stream ends, though it was opened while the caller was welcome."""
    monkeypatch.setattr("controller.gateway.server.RECHECK_SECONDS", 0.0)
    reader, other = Reader(as_("alice")), Reader(as_("watcher"))
    forget(served, "alice")
    client.submit(task("a"))
    assert reader.ended.wait(30)
    wait_until(lambda: "a" in other.ids(), "the other reader's event")
    assert reader.ids() == []


def forget(served: Served, name: str) -> None:
    """The caller's token is no longer valid."""
    entries = served.tokens_file.read_text().split("[[tokens]]")
    served.tokens_file.write_text("[[tokens]]".join(each for each in entries if name not in each))


def test_a_caller_that_is_removed_is_answered_no_more(
    as_: As, served: Served, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor what it has waited for since it was welcome."""
    monkeypatch.setattr("controller.gateway.server.RECHECK_SECONDS", 0.0)
    feed, alice = served.gateway._api.feed, as_("alice")
    revision = int(alice.post("/v1/tasks", json=task("a")).headers["Tally-Revision"])
    wait_until(lambda: feed.revision >= revision, "the task in the gateway's model")
    body = {"ids": ["a"], "since": revision, "timeout_seconds": 30}
    with ThreadPoolExecutor(2) as threads:
        waits = threads.submit(as_("alice").post, "/v1/tasks:wait", json=body)
        reads = threads.submit(as_("alice").get, f"/v1/tasks/a?min_revision={revision + 1}&wait=30")
        wait_until(lambda: feed.waiting == 2, "the requests that wait")
        forget(served, "alice")
        client.cancel("a")
        assert [waits.result().status_code, reads.result().status_code] == [401, 401]


def test_reads_that_wait_are_of_one_and_of_all(as_: As, served: Served, client: Client) -> None:
    """What else waits for changes, such as streams, takes nothing from them."""
    api = served.gateway._api
    api.openings._limits = {**LIMITS, Opening.READS: Limit(2, 1)}
    streams = [Reader(as_("alice")) for _ in range(3)]
    wait_until(lambda: api.feed.waiting == len(streams), "the streams")
    ahead = f"/v1/pools?min_revision={api.feed.revision + 1}&wait=30"
    with ThreadPoolExecutor(2) as threads:
        answers = []
        for name in ("alice", "bob"):
            assert as_(name).get("/v1/pools?min_revision=1&wait=30").status_code == 200
            answers.append(threads.submit(as_(name).get, ahead))
            wait_until(lambda: api.openings.counts()["reads"] == len(answers), "a read that waits")
            assert as_("alice").get(ahead).status_code == 429
        assert as_("watcher").get(ahead).status_code == 503
        client.submit(task("a"))
        assert [answer.result().status_code for answer in answers] == [200, 200]


def check_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has something open is asked again at once whether it may."""
    monkeypatch.setattr("controller.gateway.server.RECHECK_SECONDS", 0.0)
    for module in ("reads", "events"):
        monkeypatch.setattr(f"controller.gateway.{module}.RECHECK_SECONDS", 0.1)


@pytest.mark.parametrize("path", ["/v1/events", "/v1/tasks:watch"])
def test_a_caller_that_is_removed_is_cut_off_while_nothing_happens(
    path: str, as_: As, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No change wakes its stream, and nothing is to be told."""
    check_often(monkeypatch)
    monkeypatch.setattr("controller.gateway.events.KEEP_ALIVE_SECONDS", 3600.0)
    monkeypatch.setattr("controller.gateway.reads.ALIVE_SECONDS", 3600.0)
    with as_("alice").stream("GET", path) as answer:
        parts = answer.iter_bytes()
        next(parts)
        forget(served, "alice")
        list(parts)


def test_who_may_read_more_is_shown_it(
    as_: As, served: Served, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is open goes on with all that its caller may read by now, or tells it to look again."""
    check_often(monkeypatch)
    [result] = client.submit_many([task("his", owner="speech")])
    reader = Reader(as_("alice"))
    _, revision = client.store.get("a", deadline=in_seconds())
    path = f"/v1/tasks:watch?min_revision={revision}&wait=20"
    with as_("alice").stream("GET", path) as answer:
        looks = answer.iter_lines()
        assert json.loads(next(looks))["items"] == []
        more = '\n[[rules]]\nwho = ["alice"]\nowners = ["speech"]\nverbs = ["read-own"]\n'
        served.policy.write_text(served.policy.read_text() + more)
        items = next(json.loads(look)["items"] for look in looks if look)
    assert [item["id"] for item in items] == [result.id]
    assert reader.ended.wait(30)
    assert [name for name, _, _ in reader.events] == ["gap"]


def test_a_list_ends_with_its_readers_welcome(as_: As, served: Served, client: Client) -> None:
    """However slowly it is read."""
    pages = list[bytes]()
    assert len(list(client.submit_many([task(f"t{number}") for number in range(PAGE + 1)]))) > PAGE
    revision = client.store.get("a", deadline=in_seconds())[1]
    api = served.gateway._api
    wait_until(lambda: api.feed.revision >= revision, "the tasks in the gateway's model")
    alice = Caller(Identity("alice", frozenset(), Method.TOKEN), RIGHTS)
    answers = [alice, None]

    async def still() -> Caller | None:
        return answers.pop(0)

    values = {"pool": None, "state": None, "label": (), "owner": None}
    ask = CallerRequest(alice, {}, values, None, Request({"type": "http"}), still)

    async def read() -> None:
        async for page in _listed(api, ask):
            pages.append(page)

    with pytest.raises(BrokenOff):
        asyncio.run(read())
    assert len(pages) == 1


def test_limits_are_of_one_and_of_all(as_: As, served: Served) -> None:
    """429 for who has too much open, 503 when all have; both say when to try again. Others go on."""
    openings = served.gateway._api.openings
    openings._limits = {**LIMITS, Opening.STREAMS: Limit(3, 2)}
    readers = [Reader(as_("alice")), Reader(as_("alice"))]
    refused = as_("alice").get("/v1/events")
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "2")
    readers.append(Reader(as_("bob")))
    full = as_("watcher").get("/v1/events")
    assert (full.status_code, full.headers["Retry-After"]) == (503, "5")
    assert openings.counts()["streams"] == len(readers)
    assert as_("bob").get("/v1/whoami").status_code == 200


@pytest.mark.parametrize("path", ["/v1/events", "/v1/tasks:watch", "/v1/tasks", "/v1/tasks/mine/logs"])
def test_a_head_has_an_end(path: str, as_: As, client: Client, served: Served) -> None:
    """What would go on for ever is not opened for it; the next request on the connection is served."""
    client.submit(task("mine"))
    alice = as_("alice")
    last = {"min_revision": client.get("mine").create_revision, "wait": 5}
    assert alice.get("/v1/tasks/mine", params=last).status_code == 200
    told = alice.head(path, params={"follow": "true"} if path.endswith("logs") else {})
    assert (told.status_code, told.content) == (200, b"")
    assert set(served.gateway._api.openings.counts().values()) == {0}
    assert alice.get("/v1/whoami").status_code == 200


def test_a_wait_tells_nothing_of_tasks_of_others(as_: As, client: Client) -> None:
    """It ends for one's own task, also when that is removed; for another's as for one that is not there."""
    client.submit(task("his", owner="speech"))
    client.submit(task("hers"))
    alice = as_("alice")
    first = {"min_revision": client.get("hers").create_revision, "wait": 5}
    body = {"ids": ["his", "none", "hers"], "since": 0}
    now = alice.post("/v1/tasks:wait", json=body, params=first).json()
    assert ([view["id"] for view in now["items"]], sorted(now["missing"])) == (["hers"], ["his", "none"])
    answers: list[httpx.Response] = []

    def wait(ids: list[str]) -> None:
        body = {"ids": ids, "since": now["revision"], "timeout_seconds": 1.5}
        answers.append(alice.post("/v1/tasks:wait", json=body))

    waiting = threading.Thread(target=wait, args=(["his", "none"],))
    waiting.start()
    client.cancel("his")
    waiting.join()
    assert (answers[0].json()["items"], answers[0].json()["missing"]) == ([], {})
    assert answers[0].elapsed.total_seconds() >= 1.5
    waiting = threading.Thread(target=wait, args=(["his", "hers"],))
    waiting.start()
    client.cancel("hers")
    waiting.join()
    assert [view["id"] for view in answers[1].json()["items"]] == ["hers"]
    assert answers[1].elapsed.total_seconds() < 1.5


def test_pools_are_told_without_the_tasks_of_others(as_: As, client: Client) -> None:
    """Their counts are for who may read all; whoever may do nothing sees none."""
    client.apply_pool({"name": "gpu", "capacity": {"cpu": 4}})
    client.submit(task("his", owner="speech", pool="gpu"))
    revision = {"min_revision": client.get("his").create_revision, "wait": 5}

    def shown(name: str) -> dict[str, Any]:
        items = as_(name).get("/v1/pools", params=revision).json()["items"]
        return next(each for each in items if each["name"] == "gpu")

    assert shown("watcher")["counts"] == {"Created": 1}
    assert (shown("alice")["counts"], shown("alice")["on_hold"]) == ({}, None)


def test_the_urls_of_receivers_are_told_to_admins_alone(as_: As, client: Client, put_raw: PutRaw) -> None:
    """Their paths may be secrets, with which anybody can write to a chat."""
    rule = b'{"url":"https://hooks.example:8443/T0/SECRET?token=abc","on":["failed"]}'
    put_raw("pools/told", b'{"name":"told","capacity":{"cpu":"4"},"notify":[%s]}' % rule)

    def urls(who: str) -> list[str]:
        pools = as_(who).get("/v1/pools").json()["items"]
        return [rule["url"] for pool in pools for rule in pool["definition"].get("notify", [])]

    wait_until(lambda: urls("ops"), "the pool")
    assert urls("ops") == ["https://hooks.example:8443/T0/SECRET?token=abc"]
    for who in ("alice", "watcher"):
        assert urls(who) == ["https://hooks.example:8443/***"]


def test_variables_of_a_pools_pods_are_told_to_admins_alone(as_: As, client: Client, put_raw: PutRaw) -> None:
    """As those of a task: they may be secrets."""
    pod = b'{"spec":{"containers":[{"name":"task","env":[{"name":"KEY","value":"hunter2"}]}]}}'
    options = b'"engine_options":{"pod_template":%s}' % pod
    put_raw("pools/told", b'{"name":"told","capacity":{"cpu":"4"},%s}' % options)
    wait_until(lambda: "hunter2" in as_("ops").get("/v1/pools").text, "the pool")
    for who in ("alice", "watcher"):
        told = as_(who).get("/v1/pools").text
        assert "KEY" in told
        assert "hunter2" not in told


def test_a_new_owner_is_not_told_of_others(as_: As, client: Client) -> None:
    """Whoever submits learns of the owners that a pool names what it may learn by any other way."""
    owners = {"speech": {"weight": 1}, "film": {"weight": 1}}
    client.apply_pool({"name": "small", "capacity": {"cpu": 1}, "sharing": {"owners": owners}})
    answer = as_("alice").post("/v1/tasks", json=task("hers", pool="small"))
    assert answer.json()["message"] == "owner vision is new in pool small"


def test_who_may_nothing_learns_nothing(as_: As) -> None:
    """403 for all but who it is, and what it may do."""
    nobody = as_("nobody")
    for path in (
        "/v1/pools",
        "/v1/tasks",
        "/v1/events",
        "/v1/owners",
        "/v1/tasks/x",
        "/v1/replicas",
        "/metrics",
    ):
        assert nobody.get(path).status_code == 403, path
    assert nobody.get("/v1/whoami").json()["name"] == "nobody"
    assert nobody.get("/v1/can-i", params={"act": "submit"}).json()["allowed"] is False


def test_metrics(as_: As, client: Client) -> None:
    """For who may read all; what was asked is counted."""
    assert as_("alice").get("/metrics").status_code == 403
    as_("alice").post("/v1/tasks", json=task("a"))
    as_("alice").get("/nothing")
    as_("").get("/v1/whoami")
    text = as_("watcher").get("/metrics").text
    for line in (
        'tally_gateway_requests_total{code="201",operation="submitTasks"} 1.0',
        'tally_gateway_requests_total{code="404",operation="unknown"} 1.0',
        'tally_gateway_submitted_tasks_total{outcome="created"} 1.0',
        'tally_gateway_sign_ins_total{method="none"} 1.0',
        'tally_gateway_sign_in_problem{what="gateway_policy_file"} 0.0',
        "tally_gateway_ready 1.0",
    ):
        assert line in text.splitlines(), line


# -- the ring


POLICY = parse_policy("[[rules]]\nwho = ['alice']\nowners = ['vision']\nverbs = ['read-own']")
RIGHTS = POLICY.rights(Identity("alice", frozenset(), Method.TOKEN))
ALL = parse_policy("[[rules]]\nwho = ['*']\nverbs = ['read-any']").rights(
    Identity("w", frozenset(), Method.TOKEN)
)


OTHERS = parse_policy("[[rules]]\nwho = ['*']\nowners = ['speech']\nverbs = ['read-own']").rights(
    Identity("bob", frozenset(), Method.TOKEN)
)
NONE = POLICY.rights(Identity("bob", frozenset(), Method.TOKEN))


class Ring:
    """A ring, and a model that changes."""

    def __init__(self, capacity: int = 100) -> None:
        self.view = ModelView()
        self.events = OwnedEvents(TaskOwners(self.view.reading), capacity)
        self.view.subscribe(self.events.owners)
        self.view.subscribe(self.events)

    def change(self, name: str, owner: str) -> int:
        return self.view.submit(name, owner=owner)

    def remove(self, name: str) -> int:
        return self.view.write(("tasks", (name,), None))


def test_a_page_for_one_is_kept_for_the_next_with_the_same_rights() -> None:
    ring = Ring()
    begin = ring.events.position()
    ring.change("a", "vision")
    last = ring.change("b", "speech")
    page, end = ring.events.page(begin, RIGHTS)
    assert (b'"a"' in page, b'"b"' in page, end.revision) == (True, False, last)
    again, _ = ring.events.page(begin, RIGHTS)
    assert again is page
    everything, _ = ring.events.page(begin, ALL)
    assert b'"b"' in everything
    assert ring.events.page(begin, NONE)[0] == b"", (
        "who may read nothing does not share with who may read all"
    )
    ring.change("c", "vision")
    assert b'"c"' in ring.events.page(begin, RIGHTS)[0]


def test_a_removed_task_is_told_to_its_readers_alone() -> None:
    ring = Ring()
    ring.change("a", "vision")
    ring.change("b", "speech")
    begin = ring.events.position()
    ring.remove("a")
    ring.remove("b")
    page, _ = ring.events.page(begin, RIGHTS)
    assert page.count(b"removed") == 1
    assert ring.events.page(begin, NONE)[0] == b""
    ring.change("c", "speech")
    assert [ring.events.owners.of(name) for name in "abc"] == [None, None, "speech"]


def test_a_name_that_is_used_again_at_once_is_told_to_the_owners_in_turn() -> None:
    """Also if all of it is heard of in one batch, after which only the last one is known."""
    mirror = Mirror(Model())
    events = OwnedEvents(TaskOwners(mirror.reading))
    changes = Changes(events.owners)
    for listener in (events.owners, events, changes):
        mirror.subscribe(listener)

    def batch(*owners: str | None) -> int:
        """Tasks of these owners, one after the other: None for a removal."""
        revision, told = mirror.model.revision, list[Change]()
        for mod, owner in enumerate(owners, revision + 1):
            spec = Spec(id="x", owner=owner or "", command=("true",))
            value = codec.encode_spec(spec, 900.0, Op("op")) if owner is not None else None
            told.append(Change("tasks", ("x",), value, mod, mod if owner is not None else 0))
        mirror.take(Changed(told, revision + len(told)))
        return revision

    def heard(rights: Rights, since: int) -> tuple[int, int, bool]:
        page, _ = events.page(Position(since, events.position().era), rights)
        told = changes.since(since, rights) or ()
        return page.count(b"event: submitted"), page.count(b"event: removed"), "x" in told

    batch("vision")
    since = batch(None, "speech")
    assert heard(RIGHTS, since) == (0, 1, True)
    assert heard(OTHERS, since) == (1, 0, True)
    since = batch(None, "vision", None, "nlp", None)
    assert heard(OTHERS, since) == (0, 1, True)
    assert heard(RIGHTS, since) == (1, 1, True)
    assert heard(ALL, since) == (2, 3, True)
    since = batch("speech")
    assert heard(RIGHTS, since) == (0, 0, False)
    assert heard(OTHERS, since) == (1, 0, True)


def test_who_falls_behind_is_told() -> None:
    """It lists again; and after a reload everybody does."""
    ring = Ring(capacity=3)
    start = ring.events.position()
    for number in range(5):
        ring.change(f"t{number}", "vision")
    with pytest.raises(FellBehind):
        ring.events.page(start, RIGHTS)
    with pytest.raises(FellBehind):
        ring.events.position(start.revision)
    now = ring.events.position()
    ring.events.reloaded(now.revision + 1)
    with pytest.raises(FellBehind):
        ring.events.page(now, RIGHTS)
