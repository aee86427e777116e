# ruff: noqa: B023  # each function is called in the turn of the loop that makes it
"""Both ways to Tally, by etcd and by a gateway: each verb has the same results and the same errors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import msgspec
import pytest

from controller.client import Client, NotFound, RequestResult, gateway_bulk
from controller.client.bulk import MAX_ACTS, TaskAct
from controller.client.errors import GatewayUnavailable, NotSignedIn, Refusal
from controller.client.gateway_calls import GatewayCalls
from controller.client.gateway_client import GatewayClient
from controller.client.prepared import SubmitResult
from controller.client.stop_event import StopEvent
from controller.client.views import TasksLook, TaskView
from controller.core.model.features import KNOWN
from controller.core.model.lifecycle import State
from controller.core.model.maintenance import MaintenanceWindow
from controller.errors import TallyError, UserError
from controller.gateway.writing import Seen, Writing
from controller.store.base import StoreUnavailable
from tests.client.conftest import PutRaw, PutStatus
from tests.client.conftest import client as client
from tests.client.conftest import put_raw as put_raw
from tests.client.conftest import put_status as put_status
from tests.client.test_features import release
from tests.gateway.conftest import Served
from tests.gateway.conftest import _features as _features
from tests.gateway.conftest import served as served
from tests.support.waiting import wait_until


class Ways:
    """The client of etcd, and that of a gateway whose caller may do everything."""

    def __init__(self, direct: Client, gateway: GatewayClient) -> None:
        self.direct = direct
        self.gateway = gateway

    def both(self, what: Callable[[Client], Any]) -> Any:
        """The result of a verb that changes nothing, which is that of both ways."""
        one, other = outcome(self.direct, what), outcome(self.gateway, what)
        assert one == other
        return one

    def alike(self, what: Callable[[Client, str], Any], *names: str) -> Any:
        """The results of a verb that changes something, for a task of each way, but for its name."""
        one, other = (
            outcome(client, lambda client: what(client, name))
            for client, name in zip((self.direct, self.gateway), names, strict=True)
        )
        assert repr(one).replace(names[0], "NAME") == repr(other).replace(names[1], "NAME")
        return one


def outcome(client: Client, what: Callable[[Client], Any]) -> Any:
    """The result, or the text of the error."""
    try:
        return what(client)
    except TallyError as error:
        return f"{error}"


@pytest.fixture
def ways(client: Client, served: Served) -> Iterator[Ways]:
    with ExitStack() as stack:
        calls = GatewayCalls(served.gateway.url, lambda: served.tokens["ops"])
        gateway = stack.enter_context(GatewayClient(calls))
        yield Ways(client, gateway)


def task(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "command": ["true"], **more}


def test_submit(ways: Ways) -> None:
    """Created, unchanged, refused: the same results, and the same words of what is wrong."""
    ways.alike(lambda client, name: client.submit(task(name, owner="vision")), "one-x", "two-x")
    ways.alike(lambda client, name: client.submit(task(name, owner="vision")), "one-x", "two-x")
    for wrong in (
        {"retry": {"max_attempts": -1}},
        {"pool": "nope"},
        {"colour": 1},
        {"resources": {"cpu": "99"}},
    ):
        ways.both(lambda client: client.submit({**task("c"), **wrong}))
    ways.both(lambda client: client.submit(task("A")))
    results = ways.alike(
        lambda client, name: sorted(
            client.submit_many([task(f"{name}-{n}", priority=n) for n in range(3)] + [{"id": 1}]),
            key=lambda result: result.index,
        ),
        "one-m",
        "two-m",
    )
    assert [result.outcome for result in results] == ["created"] * 3 + ["invalid"]
    ways.both(lambda client: client.submit_many([task("one-x", owner="vision"), task("dry")], dry_run=True))
    assert "no task 'dry'" in ways.both(lambda client: client.get("dry"))


def test_reading(ways: Ways, put_status: PutStatus) -> None:
    """Tasks, selections, explanations, pools, owners, usage, replicas and features."""
    ways.gateway.submit_many(
        [task(f"t{n}", labels={"n": str(n % 2)}, env={"KEY": "secret"}, priority=n) for n in range(6)]
    )
    put_status("t0", State.SUCCEEDED)
    last = put_status("t1", State.FAILED)
    # what the gateway's client has written is there; what others wrote, it has to wait for
    ways.gateway._http._written = last
    for name in ("t0", "t1", "t5", "nope", "A b"):
        ways.both(lambda client: client.get(name))
        ways.both(lambda client: client.explain(name))
    for selection in (
        {},
        {"state": "waiting"},
        {"state": "failed,finished"},
        {"selector": "n=1"},
        {"labels": {"n": "0"}},
        {"pool": "nope"},
        {"owner": "default"},
        {"state": "flying"},
        {"selector": "=="},
    ):
        ways.both(lambda client: client.tasks(**selection))
    assert ways.both(lambda client: client.pools())
    assert ways.both(lambda client: client.pools(counts=True))
    ways.both(lambda client: client.owners.all())
    ways.both(lambda client: client.owners.sharing("default"))
    ways.both(lambda client: client.usage(pool="nope"))
    ways.both(lambda client: client.usage(by="colour"))
    ways.both(lambda client: client.replicas.all())
    assert ways.both(lambda client: client.replicas.leader())
    assert ways.both(lambda client: client.features.all())
    assert ways.both(lambda client: client.features.enable("gangs", "owners")) == ()
    assert "no feature 'tides'" in ways.both(lambda client: client.features.enable("gangs", "tides"))
    assert ways.both(lambda client: client.outputs.kept_log("t1")) is None


def test_features_are_turned_on_by_both(ways: Ways, put_raw: PutRaw) -> None:
    """Several at once, and what they require; the first that is turned on ends the term."""
    for way in (ways.direct, ways.gateway):
        put_raw("engine", b'{"engine":{"name":"null","id":"e"},"installation":"abc"}')
        put_raw("leader", release("r1", knows=list(KNOWN)))
        assert way.features.enable("gangs", "owners") == ("arrays", "gangs", "owners")
        assert ways.direct.replicas.leader() is None


def test_what_a_task_waits_for(ways: Ways, put_raw: PutRaw, put_status: PutStatus) -> None:
    """Its parents with verdicts, and the neighbourhood; what is wrong with a question."""
    client = ways.direct
    put_raw("leader", release("r1", knows=list(KNOWN)))
    client.features.enable("dependencies")
    put_raw("leader", release("r1", knows=list(KNOWN)))
    client.submit_many([task(name) for name in ("a", "b", "c")])
    client.submit_many([task("d", after=["a", {"task": "b", "when": "finished"}, "c"])])
    client.submit_many([task("e", after=["d"])])
    put_status("a", State.SUCCEEDED)
    ways.gateway._http._written = put_status("b", State.FAILED)  # which the gateway has to have seen
    view = ways.both(lambda client: client.get("d"))
    assert not isinstance(view, str), view
    assert [(each.task, each.verdict) for each in view.after] == [
        ("a", "met"),
        ("b", "met"),
        ("c", "unfinished"),
    ]
    assert (view.waits_for, view.reason) == (1, "WaitsForTasks")
    assert ways.both(lambda client: client.tasks())[3] == view
    found = ways.both(lambda client: client.neighbours("d"))
    assert [node.id for node in found.nodes] == ["d", "a", "e", "b", "c"]
    assert len(found.edges) == 4
    assert len(ways.both(lambda client: client.neighbours("d", direction="up", depth=1)).nodes) == 4
    assert ways.both(lambda client: client.neighbours("d", limit=2)).truncated
    for wrong in ({"direction": "left"}, {"depth": 0}, {"depth": 11}, {"limit": 0}, {"limit": 2001}):
        [name] = wrong
        assert name in ways.both(lambda client: client.neighbours("d", **wrong))
    assert "no task" in ways.both(lambda client: client.neighbours("nobody"))
    assert "id" in ways.both(lambda client: client.neighbours("No-Name"))


def test_requests(ways: Ways, put_status: PutStatus) -> None:
    """What can be asked for, what cannot, and why."""
    for name in ("one-x", "two-x", "one-run", "two-run", "one-end", "two-end"):
        ways.direct.submit(task(name))
    for name in ("one-run", "two-run"):
        put_status(name, State.RUNNING)
    for name in ("one-end", "two-end"):
        last = put_status(name, State.FAILED)
    ways.gateway._http._written = last
    for verb in ("cancel", "retry", "hold", "release", "confirm_stopped"):
        for names in (
            ("one-x", "two-x"),
            ("one-run", "two-run"),
            ("one-end", "two-end"),
            ("one-no", "two-no"),
        ):
            ways.alike(lambda client, name: getattr(client, verb)(name, reason="why"), *names)
    ways.alike(lambda client, name: client.set_priority(name, 7), "one-x", "two-x")
    ways.alike(lambda client, name: client.set_priority(name, 10**9), "one-x", "two-x")
    shown = {"one-x": ways.direct.get("one-x"), "two-x": ways.gateway.get("two-x")}
    ways.alike(lambda client, name: client.cancel(name, of=shown[name]), "one-x", "two-x")
    ways.alike(lambda client, name: client.cancel(name, of=another(shown[name])), "one-x", "two-x")


def test_tasks_that_wait_for_others(ways: Ways) -> None:
    """In any order, unchanged, refused: the same results, and the same words."""

    def submit(client: Client, name: str, *, dry_run: bool) -> list[SubmitResult]:
        tasks = [
            task(f"{name}-c", after=[f"{name}-b", {"task": f"{name}-a", "when": "finished"}]),
            task(f"{name}-b", after=[f"{name}-a"]),
            task(f"{name}-x", after=[f"{name}-y"]),
            task(f"{name}-y", after=[f"{name}-x"]),
            task(f"{name}-z", after=["nope", f"{name}-y"]),
            task(f"{name}-a"),
        ]
        return sorted(client.submit_many(tasks, dry_run=dry_run), key=lambda result: result.index)

    for dry_run, new in ((True, "created"), (False, "created"), (False, "unchanged")):
        results = ways.alike(lambda client, name: submit(client, name, dry_run=dry_run), "one-w", "two-w")
        assert [result.outcome for result in results] == [new, new, "invalid", "invalid", "invalid", new]
    ages = [ways.direct.get(f"two-w-{each}").submitted_at for each in "abc"]
    assert ages == sorted(set(ages))
    ways.both(lambda client: client.get("two-w-c"))
    ways.both(lambda client: client.submit(task("c", after=["c"])))
    ways.both(lambda client: client.submit(task("c", after=["none", "two-w-a", "nor"])))
    ways.both(lambda client: client.submit(task("c", after=[{"task": "two-w-a", "when": "never"}])))
    many = [f"two-m{n:04}" for n in range(1100)]
    tasks = [task(name, after=many[max(0, n - 1) : n]) for n, name in enumerate(many)]
    results = ways.gateway.submit_many(tasks[::-1])
    assert {result.outcome for result in results} == {"created"}
    assert [result.id for result in sorted(results, key=lambda result: result.index)] == many[::-1]
    tasks = [task(f"new-{name}", after=[f"new-{many[n - 1]}"] if n else []) for n, name in enumerate(many)]
    results = ways.gateway.submit_many(tasks, dry_run=True)
    assert {result.outcome for result in results} == {"created"}


def test_a_retry_with_what_waits(ways: Ways, put_status: PutStatus) -> None:
    """Behind what it waits for; what is refused is told."""

    def retry(client: Client, name: str) -> list[str]:
        asked = client.downstream.retry(f"{name}-a", reason="again")
        return [f"{each.task.id} {getattr(each.result, 'outcome', each.result)}" for each in asked]

    for name in ("one-p", "two-p"):
        ways.direct.submit_many(
            [
                task(f"{name}-c", after=[f"{name}-b", f"{name}-a"]),
                task(f"{name}-b", after=[f"{name}-a"]),
                task(f"{name}-d", after=[f"{name}-a"]),
                task(f"{name}-a"),
            ]
        )
        for each in "abc":
            last = put_status(f"{name}-{each}", State.FAILED)
        last = put_status(f"{name}-d", State.SUCCEEDED)
    ways.gateway._http._written = last
    for told in ("requested", "already requested"):
        results = ways.alike(retry, "one-p", "two-p")
        assert results == [f"one-p-{each} {told}" for each in "abc"]
    assert ways.direct.get("two-p-c").requests == ("retry",)
    assert ways.direct.get("two-p-d").requests == ()
    ways.both(lambda client: client.downstream.retry("none"))


def test_acts_on_many_tasks(ways: Ways, put_status: PutStatus) -> None:
    """The results have the order of the views, whatever became of each; none stops another."""
    views: dict[str, list[TaskView]] = {}
    for way in ("one-", "two-"):
        ways.direct.submit_many([task(f"{way}{name}") for name in ("x", "run", "end", "old")])
        put_status(f"{way}run", State.RUNNING)
        last = put_status(f"{way}end", State.SUCCEEDED)
        end, x, run, old = (ways.direct.get(f"{way}{name}") for name in ("end", "x", "run", "old"))
        none = msgspec.structs.replace(x, id=f"{way}none")
        views[way] = [end, none, x, another(old), run, another(end)]
    ways.gateway._http._written = last

    def act(act: TaskAct, priority: int | None = None) -> list[str]:
        def answers(client: Client, way: str) -> list[tuple[str, str]]:
            return [
                (each.outcome, each.message)
                if isinstance(each, RequestResult)
                else ("not found" if isinstance(each, NotFound) else "refused", str(each))
                for each in client.bulk.act(act, views[way], reason="why", priority=priority)
            ]

        return [kind for kind, _ in ways.alike(answers, "one-", "two-")]

    changed = ["refused", "not found", "requested", "not found", "refused", "not found"]
    assert act(TaskAct.HOLD) == changed
    assert act(TaskAct.SET_PRIORITY, 3) == changed
    assert act(TaskAct.RELEASE) == changed
    assert act(TaskAct.RETRY) == ["refused", "not found", "refused", "not found", "refused", "not found"]
    cancelled = ["already finished", "not found", "requested", "not found", "requested", "not found"]
    assert act(TaskAct.CANCEL) == cancelled
    ways.both(lambda client: list(client.bulk.act(TaskAct.CANCEL, [], priority=3)))
    ways.both(lambda client: list(client.bulk.act(TaskAct.SET_PRIORITY, [])))
    assert ways.both(lambda client: list(client.bulk.act(TaskAct.CANCEL, []))) == []


def test_more_than_one_request_takes(ways: Ways) -> None:
    """All of them, in their order."""
    names = [f"t{number}" for number in range(MAX_ACTS + 44)][::-1]
    ways.gateway.submit_many([task(name) for name in names])
    views = {view.id: view for view in ways.gateway.tasks()}
    found = list(ways.gateway.bulk.act(TaskAct.CANCEL, [views[name] for name in names]))
    assert found == [RequestResult(id=name, outcome="requested") for name in names]
    twice = [views["t0"], views["t0"]]  # a request names a task once: these are two
    assert list(ways.gateway.bulk.act(TaskAct.CANCEL, twice)) == [again("t0")] * 2
    repeated = list(ways.direct.bulk.act(TaskAct.CANCEL, [views[name] for name in names]))
    assert repeated == [again(name) for name in names]


def again(name: str) -> RequestResult:
    """The result of a request that waits for the leader."""
    return RequestResult(id=name, outcome="already requested", message="the leader has yet to act on it")


def test_tasks_of_others_among_many(ways: Ways, served: Served) -> None:
    """By a gateway: each has the error of who may not read it, may not change it, or has not signed in."""
    ways.direct.submit_many([task("a", owner="speech"), task("b", owner="vision")])
    views = [ways.direct.get(name) for name in "ab"]

    def as_(token: str) -> list[RequestResult | UserError]:
        with GatewayClient(GatewayCalls(served.gateway.url, lambda: token)) as client:
            return list(client.bulk.act(TaskAct.CANCEL, views))

    assert [type(each) for each in as_("wrong")] == [NotSignedIn, NotSignedIn]
    refused = as_(served.tokens["watcher"])
    assert [(type(each), "verb cancel-own" in str(each)) for each in refused] == [(Refusal, True)] * 2
    assert ["no rule gives" in str(each) for each in as_(served.tokens["nobody"])] == [True, True]
    hidden, own = as_(served.tokens["alice"])
    assert isinstance(hidden, NotFound)
    assert own == RequestResult(id="b", outcome="requested")


def test_what_is_so_for_now_is_asked_for_again(ways: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those alone that etcd gave no answer for; what has one keeps it, also if patience ends."""
    ways.direct.submit_many([task(name) for name in "abc"])
    views = [ways.direct.get(name) for name in "abc"]
    cancel, asked, failing = Writing.cancel, list[str](), {"b": 1}

    def unsteady(self: Writing, caller: Any, task_id: str, reason: str, seen: Seen) -> RequestResult:
        asked.append(task_id)
        if failing.get(task_id, 0):
            failing[task_id] -= 1
            raise StoreUnavailable("no endpoint")
        return cancel(self, caller, task_id, reason, seen)

    monkeypatch.setattr(Writing, "cancel", unsteady)
    monkeypatch.setattr(gateway_bulk, "PAUSE_SECONDS", 0.01)
    found = list(ways.gateway.bulk.act(TaskAct.CANCEL, views))
    assert found == [RequestResult(id=name, outcome="requested") for name in "abc"]
    assert sorted(asked) == ["a", "b", "b", "c"]
    failing["b"] = 10**6
    monkeypatch.setattr(gateway_bulk, "PATIENT_SECONDS", 0.0)
    answers = ways.gateway.bulk.act(TaskAct.CANCEL, views)
    assert next(answers) == again("a")
    with pytest.raises(GatewayUnavailable, match="etcd does not answer"):
        next(answers)


def another(view: TaskView) -> TaskView:
    """The view of an earlier task of that name."""
    return msgspec.structs.replace(view, create_revision=view.create_revision - 1)


def test_pools(ways: Ways) -> None:
    """Applied, unchanged, refused, paused, resumed, deleted."""

    def pool(name: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "capacity": {"cpu": "2"}, **more}

    for more in ({}, {}, {"capacity": {"cpu": "3"}}, {"capacity": 7}, {"colour": 1}):
        ways.alike(lambda client, name: client.apply_pool(pool(name, **more)), "one-p", "two-p")
    for verb in ("pause", "pause", "resume", "resume"):
        ways.alike(lambda client, name: getattr(client.admission, verb)(name), "one-p", "two-p")
    begin = float(int(ways.direct.clock.now())) + 600

    def drain(client: Client, name: str, **fields: Any) -> MaintenanceWindow:
        window = {"starts_at": begin, "ends_at": begin + 60, **fields}
        return msgspec.structs.replace(client.maintenance.drain(name, **window).window, by="")

    for fields in ({}, {}, {"reason": "new nodes"}, {"ends_at": begin}, {"starts_at": 0, "ends_at": 1}):
        ways.alike(lambda client, name: drain(client, name, **fields), "one-p", "two-p")
    for way, name in ((ways.direct, "one-p"), (ways.gateway, "two-p")):
        way.maintenance.drain(name, begin + 600, begin + 660)
        way.apply_pool(pool(name, capacity={"cpu": "5"}))
        [view] = [view for view in ways.direct.pools() if view.name == name]
        assert view.definition is not None
        assert len(view.definition.maintenance) == 2, "a definition that does not say them keeps them"
        assert view.definition.maintenance[0].by
        wait_until(  # a gateway's model may be behind what others write
            lambda: [each for each in ways.gateway.pools() if each.name == name] == [view],
            "the gateway shows the same",
        )
    for starts_at in (1.0, begin, None, None):
        ways.alike(
            lambda client, name: [each.starts_at for each in client.maintenance.undrain(name, starts_at)],
            "one-p",
            "two-p",
        )
    ways.alike(drain, "one-x", "two-x")
    ways.alike(lambda client, name: client.delete_pool(name), "one-p", "two-p")
    ways.alike(lambda client, name: client.delete_pool(name), "one-p", "two-p")
    ways.alike(lambda client, name: client.admission.pause(name), "one-p", "two-p")


def test_waiting(ways: Ways, put_status: PutStatus) -> None:
    """Until all have finished; for a state; until the time is over; for one that does not exist."""
    for name in ("a", "b"):
        ways.direct.submit(task(name))
    ways.gateway._http._written = put_status("a", State.SUCCEEDED)
    ways.both(lambda client: client.wait(["a"]))
    ways.both(lambda client: client.wait(["a", "b"], timeout_seconds=0.3))
    ways.both(lambda client: client.wait(["b"], for_="created", timeout_seconds=0.3))
    assert "no task 'nope'" in ways.both(lambda client: client.wait(["nope"]))
    seen: list[str] = []

    def note(view: TaskView) -> None:
        seen.append(str(view.state))
        if view.state is State.CREATED:
            put_status("b", State.RUNNING)
        elif view.state is State.RUNNING:
            put_status("b", State.SUCCEEDED)

    ways.gateway.wait(["b"], timeout_seconds=30, on_change=note)
    assert seen == ["Created", "Running", "Succeeded"]


def test_watching(ways: Ways, put_status: PutStatus) -> None:
    """First all, then what changes."""
    ways.gateway.submit_many([task("a"), task("b")])
    watch = ways.gateway.watch_tasks()
    assert [view.id for view in next(watch)] == ["a", "b"]
    put_status("b", State.RUNNING)
    [changed] = next(watch)
    assert (changed.id, changed.state) == ("b", State.RUNNING)
    watch.close()


def test_a_watch_ends_when_it_is_told_to_by_another_thread(ways: Ways) -> None:
    """Also while nothing comes."""
    for way in (ways.direct, ways.gateway):
        stop, looks = StopEvent(), list[TasksLook]()
        watch = way.watch_tasks(stop=stop)
        looks.append(next(watch))
        reading = threading.Thread(target=looks.extend, args=(watch,))
        reading.start()
        stop.set()
        reading.join(20)
        assert not reading.is_alive()
        assert [look.is_whole for look in looks] == [True]


def test_forecasts(ways: Ways) -> None:
    """What is to come, and what would come, by both ways; and what is wrong with what is supposed."""
    limits = {"deadlines": {"run": "5m"}, "resources": {"cpu": 8}}
    for name in ("fore-a", "fore-b", "fore-c"):
        ways.gateway.submit(task(name, owner="vision", **limits))

    def told(client: Client) -> Any:
        view = client.forecasts.of("fore-a", "fore-b")
        begins = [view.tasks[name].begins_at or 0.0 for name in ("fore-a", "fore-b")]
        return [*view.tasks], round(begins[1] - begins[0])

    assert ways.both(told) == (["fore-a", "fore-b"], 300)

    def supposed(client: Client) -> Any:
        new = task("fore-new", owner="vision", **limits)
        found = client.forecasts.suppose(tasks=[new], priorities={"fore-c": 9})
        return [each.id for each in found.tasks], {each.id for each in found.changed}, found.later

    assert ways.both(supposed) == (["fore-new"], {"fore-a", "fore-b", "fore-c"}, 2)
    assert "nosuch" in ways.both(lambda client: client.forecasts.of("nosuch"))
    assert "held[0]" in ways.both(lambda client: client.forecasts.suppose(held=["A b"]))
    assert "held[0]" in ways.both(lambda client: client.forecasts.suppose(held=["nosuch"]))
    assert "priorities.a" in ways.both(lambda client: client.forecasts.suppose(priorities={"a": 10**10}))
    assert "tasks[0].pool" in ways.both(
        lambda client: client.forecasts.suppose(tasks=[task("x", pool="nosuch")])
    )
