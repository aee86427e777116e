"""One fact, one answer: the client, the command line, the endpoint and the metrics read the same records, and
none tells of them what another does not.

The client loads what stands; the endpoint and the metrics have followed all that led there. EXAMPLES=2000
draws as many, at random; without it they are few, and the same each time.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import httpx
import pytest
from hypothesis import example, given, note, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from controller.cli import output
from controller.client import Client, NotFound, TaskView
from controller.clock import SystemClock
from controller.core.model import codec, quarantine
from controller.core.model.claims import Claim, ClaimKind, encode_claim
from controller.core.model.codec import to_builtins
from controller.core.model.lifecycle import HOLDING, State
from controller.core.model.model import Model
from controller.core.model.op import Op
from controller.core.model.requests import Request, RequestKind
from controller.core.model.resources import Vector
from controller.core.model.shares import Share, encode_share
from controller.core.model.sharing import Ceiling, OwnerPolicy, Sharing
from controller.core.model.task import Pool, Spec, Status
from controller.endpoint.server import StatusServer
from controller.store.base import Delete, Put, Transaction
from controller.store.memory import MemoryStore
from controller.store.records import to_change
from controller.telemetry.label_words import OTHER
from controller.telemetry.metrics import Metrics
from tests.endpoint.model_view import ModelView
from tests.support.mutations import EXAMPLES, SETTINGS

CLOCK = SystemClock()
TASKS, POOLS, REPLICAS = ("a", "b"), ("p", "q"), ("r1", "r1-2222", "r2")
OWNERS = ("default", "vision", "nlp")
SHARING = Sharing(
    owners={
        "vision": OwnerPolicy(weight=2, guarantee=Vector({"cpu": 500}), limit=Ceiling({"cpu": 900})),
        "nlp": OwnerPolicy(max_running=3),
    }
)
SELECTORS = ("team=x", "team!=x", "!team", "team")

Record = tuple[str, tuple[str, ...], bytes | None]


def spec(pool: str, labels: dict[str, str], at: float, owner: str = "default") -> bytes:
    made = Spec(id="-", command=("true",), pool=pool, labels=labels, owner=owner)
    return codec.encode_spec(made, at, Op("op"))


def status(
    state: State, pool: str, cpu: int, *, lost: bool, owner: str = "default", on_hold: bool = False
) -> bytes:
    hold = Vector({"cpu": cpu}) if state in HOLDING else Vector()
    value = Status(
        state=state,
        pool=pool,
        owner=owner,
        on_hold=on_hold,
        attempt=1,
        hold=hold,
        created_at=40.0,
        reason="Told",
        message="so it is",
        exit_code=3,
        finished_at=60.0,
        lost_since=50.0 if lost and hold else None,
    )
    return codec.encode_status(value, {})


def pool_of(name: str, capacity: dict[str, int], *, paused: bool, sharing: Sharing | None = None) -> bytes:
    pool = Pool(name=name, capacity=Vector(capacity), paused=paused, sharing=sharing)
    return codec.encode_pool(pool, Op("op"))


def share(held: dict[str, int], used: int, at: int) -> bytes:
    return encode_share(Share(Vector(held), 1, Vector({"cpu": used}), Vector(held), at), Op("op"))


def claim(asked: dict[str, int], victims: list[str]) -> bytes:
    made = Claim(kind=ClaimKind.RECLAIM, asked=Vector(asked), short=Vector(asked), victims=tuple(victims))
    return encode_claim(made, Op("op"))


def ledger(held: dict[str, int]) -> bytes:
    return codec.encode_ledger(Vector(held), Op("op"), {})


AMOUNTS = st.dictionaries(st.sampled_from(["cpu", "memory"]), st.integers(0, 3000))
LABELS = st.sampled_from([{}, {"team": "x"}, {"team": "y"}])
BROKEN = st.sampled_from([b"{not json", b"[5]", b"{}"])
TOLD = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(REPLICAS),
        "instance": st.sampled_from(["1111", "2222", 5, ""]),
        "phase": st.sampled_from(["leading", "following", None]),
        "version": st.sampled_from(["1", 7]),
        "host": st.sampled_from(["h", []]),
        "status_url": st.sampled_from(["http://h:1", {}]),
        "started_at": st.sampled_from([70.0, 70, "soon", 1e308, 10**400]),
        "applied_revision": st.sampled_from([0, 3, "x", -5, -(10**400)]),
        "engine_problem": st.sampled_from(["", "another", 3]),
    },
).map(lambda record: json.dumps(record).encode())
ASIDE = st.integers(1, 12).map(
    lambda mod: quarantine.encode(quarantine.Aside(reason="an error", seen=(mod, 0, 0)), Op("op"))
)


@st.composite
def records(draw: st.DrawFn) -> Record:
    """Something is written, or deleted, or is written so that it cannot be read."""
    kind = draw(
        st.sampled_from(
            [
                *("tasks", "states", "requests", "quarantined"),
                *("pools", "ledgers", "shares", "claims"),
                *("replicas", "leader"),
            ]
        )
    )
    task, pool = draw(st.sampled_from(TASKS)), draw(st.sampled_from(POOLS))
    names: dict[str, tuple[str, ...]] = {
        "requests": (task, draw(st.sampled_from(list(RequestKind)))),
        "pools": (pool,),
        "ledgers": (pool,),
        "shares": (pool, draw(st.sampled_from(OWNERS))),
        "claims": (pool, task),
        "replicas": (draw(st.sampled_from(REPLICAS)),),
        "leader": (),
    }
    values: dict[str, st.SearchStrategy[bytes]] = {
        "tasks": st.builds(
            spec, st.just(pool), LABELS, st.sampled_from([10.0, 20.0]), st.sampled_from(OWNERS)
        ),
        "states": st.builds(
            status,
            st.sampled_from(list(State)),
            st.just(pool),
            st.sampled_from([0, 500]),
            lost=st.booleans(),
            owner=st.sampled_from(OWNERS),
            on_hold=st.booleans(),
        ),
        "requests": st.just(codec.encode(Request(kind=RequestKind.CANCEL))),
        "quarantined": ASIDE,
        "pools": st.builds(
            pool_of, st.just(pool), AMOUNTS, paused=st.booleans(), sharing=st.sampled_from([None, SHARING])
        ),
        "shares": st.builds(share, AMOUNTS, st.sampled_from([0, 10**30]), st.sampled_from([0, 10**12])),
        "claims": st.builds(claim, AMOUNTS, st.lists(st.sampled_from(["a-1", "b-2", "?"]), max_size=2)),
        "ledgers": st.builds(ledger, AMOUNTS),
        "replicas": TOLD,
        "leader": TOLD,
    }
    what = draw(st.sampled_from(["value", "value", "value", "broken", "none"]))
    value = None if what == "none" else draw(BROKEN if what == "broken" else values[kind])
    return kind, names.get(kind, (task,)), value


class Readers(NamedTuple):
    client: Client
    http: httpx.Client

    def get(self, path: str, **params: str) -> Any:
        answer = self.http.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def metrics(self) -> dict[str, list[tuple[dict[str, str], float]]]:
        """Samples by name."""
        found: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in text_string_to_metric_families(self.http.get("/metrics").text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
        return found


class World:
    """A store that is written to, and a view that follows it."""

    def __init__(self) -> None:
        self.view = ModelView()
        self.metrics = Metrics(CLOCK)
        self.metrics.observe(self.view)

    def fill(self, found: Iterable[Record]) -> Client:
        """Begin anew with these records; returns a client of their store."""
        store, view = MemoryStore(CLOCK), self.view
        client = Client.of_store(store, cluster="test", clock=CLOCK)
        with view.lock:
            view.model = Model()
            for listener in view.listeners:
                listener.reloaded(0)
        for kind, names, value in found:
            key = client.keys.of(kind, names)
            write = Delete(key) if value is None else Put(key, value)
            store.commit(Transaction((), (write,), Op("hand")), deadline=CLOCK.boottime() + 5)
            item, revision = store.get(key, deadline=CLOCK.boottime() + 5)
            with view.lock:
                change = to_change(client.keys, key, item, item.mod if item is not None else revision)
                view.model.apply(change)
                view.model.advance_revision(revision)
                for listener in view.listeners:
                    listener.changed([change], revision)
        return client


def agree_on_tasks(readers: Readers) -> None:
    told = {task["id"]: task for task in readers.get("/v1/tasks", limit="500")["items"]}
    listed = {view.id: view for view in readers.client.tasks()}
    assert listed.keys() == told.keys()
    for task_id in TASKS:
        sentence = ""
        try:
            view = readers.client.get(task_id)
            sentence = readers.client.explain(task_id)
        except NotFound:
            assert task_id not in told
            assert readers.http.get(f"/v1/tasks/{task_id}").status_code == 404
            continue
        assert sentence.startswith(f"There is no task {task_id}") is False
        detail = readers.get(f"/v1/tasks/{task_id}")
        assert detail.items() >= told[task_id].items()
        agree_on_task(view, detail)
        assert view == listed[task_id]


def agree_on_task(view: TaskView, told: dict[str, Any]) -> None:
    of_status = {
        name: getattr(view.status, name, None) for name in ("started_at", "finished_at", "lost_since")
    }
    assert told.items() >= of_status.items()
    for name in ("id", "pool", "state", "attempt", "reason", "message", "submitted_at"):
        assert getattr(view, name) == told[name], name
    assert (view.owner, output.task_row(view, 100.0, wide=True)[3]) == (told["owner"], told["owner"])
    assert told["exit_code"] == (view.status.exit_code if view.status is not None else None)
    assert told["labels"] == (dict(view.spec.labels) if view.spec is not None else {})
    assert (told["spec"] is None) is (view.spec is None)
    assert bool(told["problem"]) is bool(view.problem)
    assert sorted(request["kind"] for request in told["requests"]) == list(view.requests)
    row_name, state, pool, attempt, *_ = output.task_row(view, 100.0, wide=False)
    assert (row_name, pool, attempt) == (told["id"], told["pool"], told["attempt"])
    assert str(state).partition(" ")[0] == str(told["state"])


def agree_on_which_match(readers: Readers) -> None:
    def told(**params: str) -> set[str]:
        return {task["id"] for task in readers.get("/v1/tasks", **params)["items"]}

    for pool in POOLS:
        assert {view.id for view in readers.client.tasks(pool=pool)} == told(pool=pool)
    for state in State:
        assert {view.id for view in readers.client.tasks(state=state)} == told(state=state)
    for owner in OWNERS:
        assert {view.id for view in readers.client.tasks(owner=owner)} == told(owner=owner)
    for selector in SELECTORS:
        assert {view.id for view in readers.client.tasks(selector=selector)} == told(label=selector), selector


def agree_on_pools(readers: Readers) -> None:
    told = {pool["name"]: pool for pool in readers.get("/v1/pools")["items"]}
    seen = {pool["name"]: pool for pool in readers.get("/v1/summary")["pools"]}
    views = {view.name: view for view in readers.client.pools(counts=True)}
    metrics = readers.metrics()
    assert list(views) == list(told) == list(seen) == [view.name for view in readers.client.pools()]
    holding = {
        task.pool for task in readers.client.tasks() if task.status is not None and task.status.is_holding
    }
    assert {labels["pool"] for labels, _ in metrics.get("tally_tasks_lost", [])} <= {*told, *holding}
    assert {labels["pool"] for labels, _ in metrics.get("tally_tasks", [])} <= {*told, OTHER}
    held = {(m["pool"], m["resource"]): number for m, number in metrics.get("tally_pool_held", [])}
    for name, view in views.items():
        assert (view.definition is not None) is seen[name]["defined"]
        assert (
            view.capacity.format(),
            view.held.format(),
            view.free.format(view.resources),
            view.overcommitted,
        ) == (
            told[name]["capacity"],
            told[name]["held"],
            told[name]["free"],
            told[name]["overcommitted"],
        )
        assert view.counts == told[name]["tasks"] == seen[name]["tasks"]
        if view.definition is not None:
            assert bool(view.problem) is bool(told[name]["problem"])
        rows = [row for row in output.pool_rows(view) if row[2]]
        assert [(row[2], *row[3:6]) for row in rows] == [
            (each["name"], each["capacity"], each["held"], each["free"]) for each in seen[name]["resources"]
        ]
        for resource in view.held:
            assert held[name, resource] * (1000 if resource == "cpu" else 1) == view.held[resource]


def agree_on_owners(readers: Readers) -> None:
    told = readers.get("/v1/owners")["items"]
    views = readers.client.owners.all()
    timed = {"used"}  # what is held grows with time, and the readers ask one after the other
    assert [to_builtins(view).keys() for view in views] == [owner.keys() for owner in told]
    for view, owner in zip(views, told, strict=True):
        plain = to_builtins(view)
        assert {name: value for name, value in plain.items() if name not in timed} == {
            name: value for name, value in owner.items() if name not in timed
        }
        assert plain["used"].keys() == owner["used"].keys()
        assert output.owner_row(view, wide=False)[:2] == (owner["pool"], owner["owner"])
    seen = {pool["name"]: pool for pool in readers.get("/v1/summary")["pools"]}
    for pool in readers.client.pools():
        detail = readers.get(f"/v1/pools/{pool.name}")
        of_pool = [view.owner for view in views if view.pool == pool.name]
        assert [owner["owner"] for owner in detail["owners"]] == of_pool
        assert [owner["owner"] for owner in readers.get("/v1/owners", pool=pool.name)["items"]] == of_pool
        assert [owner["name"] for owner in seen[pool.name]["owners"]] == of_pool
        assert detail["shared"] is (pool.definition is not None and pool.definition.sharing is not None)
        sharing = readers.client.owners.sharing(pool.name)
        assert (sharing.rebuilding, sharing.stopped) == (detail["rebuilding"], detail["stopped"])
        told_by_client = [to_builtins(claim) for claim in sharing.claims]
        assert [claim | {"victims": list(claim["victims"])} for claim in told_by_client] == detail["claims"]


def agree_on_counts(readers: Readers) -> None:
    """Tasks that the model can count: those whose records can all be read."""
    summary, metrics = readers.get("/v1/summary"), readers.metrics()
    states: Counter[str] = Counter()
    for labels, number in metrics.get("tally_tasks", []):
        states[labels["state"]] += int(number)
    assert +states == +Counter(summary["tasks"])
    in_pools: Counter[str] = Counter()
    for view in readers.client.pools(counts=True):
        in_pools.update(view.counts)
    assert not in_pools - Counter(summary["tasks"])
    quarantined = sum(number for _, number in metrics["tally_quarantined_records"])
    assert quarantined == summary["quarantined"]


def agree_on_replicas(readers: Readers) -> None:
    summary = readers.get("/v1/summary")
    views, told = readers.client.replicas.all(), readers.get("/v1/replicas")["items"]
    leading = [(view.id, view.role == "leader") for view in views]
    assert leading == [(replica["id"], replica["leads"]) for replica in told]
    assert leading == [(replica["id"], replica["leads"]) for replica in summary["replicas"]]
    lags = {
        labels["replica"]: lag for labels, lag in readers.metrics().get("tally_replica_lag_revisions", [])
    }
    assert lags == {replica["id"]: replica["lag_revisions"] for replica in summary["replicas"]}
    for view, seen in zip(views, summary["replicas"], strict=True):
        for name in ("host", "version", "status_url", "applied_revision", "engine_problem"):
            assert getattr(view, name) == seen[name], name
        assert view.started_at == (seen["started_at"] or 0.0)
        assert str(output.replica_row(view, 100.0, wide=False)[1]).startswith(view.role)
    leader, said = readers.client.replicas.leader(), readers.get("/v1/leader")
    assert (leader.id if leader else "", leader.term if leader else 0) == (said["replica"], said["term"])
    assert (summary["leader"]["replica"], summary["leader"]["term"]) == (said["replica"], said["term"])
    assert said["known"] is bool(said["replica"])


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[World, httpx.Client]]:
    made = World()
    server = StatusServer(made.view, "127.0.0.1", 0, made.metrics.exposition)
    server.start()
    try:
        with httpx.Client(base_url=server.url, timeout=20.0, trust_env=False) as http:
            yield made, http
    finally:
        server.stop()


DELETED_POOL: list[Record] = [
    ("pools", ("p",), pool_of("p", {"cpu": 1000}, paused=False)),
    ("ledgers", ("p",), ledger({})),
    ("pools", ("p",), None),
]
TWO_OF_ONE_NAME: list[Record] = [
    ("leader", (), b'{"id":"r1","instance":"2222"}'),
    ("replicas", ("r1",), b'{"id":"r1","instance":"1111"}'),
    ("replicas", ("r1-2222",), b'{"id":"r1","instance":"2222"}'),
]


@pytest.mark.parametrize(
    "agree",
    [
        agree_on_tasks,
        agree_on_which_match,
        agree_on_pools,
        agree_on_owners,
        agree_on_counts,
        agree_on_replicas,
    ],
    ids=lambda agree: str(agree.__name__),
)
def test_all_readers_tell_the_same(world: tuple[World, httpx.Client], agree: Any) -> None:
    made, http = world

    @settings(max_examples=EXAMPLES or 60, **SETTINGS)
    @given(st.lists(records(), min_size=1, max_size=12))
    @example(DELETED_POOL)
    @example(TWO_OF_ONE_NAME)
    def holds(found: list[Record]) -> None:
        note(f"{found}")
        agree(Readers(made.fill([("tasks", ("well",), spec("p", {}, 5.0)), *found]), http))

    holds()


def test_a_deleted_pool_of_which_nothing_is_held_is_listed_nowhere(world: tuple[World, httpx.Client]) -> None:
    """D11. Its ledger stays, with nothing in it."""
    made, http = world
    readers = Readers(made.fill(DELETED_POOL), http)
    assert (
        readers.client.pools()
        == readers.get("/v1/pools")["items"]
        == readers.get("/v1/summary")["pools"]
        == []
    )
    assert not any(labels.get("pool") for series in readers.metrics().values() for labels, _ in series)


def test_of_two_replicas_of_one_name_the_process_that_leads_is_marked(
    world: tuple[World, httpx.Client],
) -> None:
    """D11. The second registers under another name."""
    made, http = world
    readers = Readers(made.fill(TWO_OF_ONE_NAME), http)
    expected = {"r1": False, "r1-2222": True}
    assert {view.id: view.role == "leader" for view in readers.client.replicas.all()} == expected
    assert {each["id"]: each["leads"] for each in readers.get("/v1/replicas")["items"]} == expected
