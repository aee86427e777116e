"""The model: whatever the order, the doubling or the delay of changes, it ends as the store is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.model import codec
from controller.core.model.lifecycle import HOLDING, State
from controller.core.model.model import Model
from controller.core.model.op import Op
from controller.core.model.packed_history import PackedHistory
from controller.core.model.queue import Queue
from controller.core.model.records import Change, Ledger, RevisionWentBack
from controller.core.model.requests import Request, RequestKind
from controller.core.model.resources import Vector
from controller.core.model.shares import Share, encode_share
from controller.core.model.task import Deadlines, Pool, Spec, Status, Step
from controller.views.tasks import task_facts
from tests.support.examples import examples

FOREVER = 1e12


def spec_value(task_id: str, **fields: Any) -> bytes:
    return codec.encode_spec(Spec(id=task_id, command=("true",), **fields), 100.0, Op("op"))


def status_value(state: State, **fields: Any) -> bytes:
    return codec.encode_status(
        Status(**{"state": state, "pool": "default", "attempt": 1, "finished_at": 150.0, **fields}), {}
    )


def step(state: State) -> msgspec.Raw:
    return codec.encode_step(Step(at=120.5, source="Created", event="noted", state=state))


def pool_value(cpu: int) -> bytes:
    return codec.encode_pool(Pool(name="default", capacity=Vector({"cpu": cpu})), Op("op"))


def ledger_value(cpu: int) -> bytes:
    return codec.encode_ledger(Vector({"cpu": cpu}), Op("op"), {})


VALUES: dict[tuple[str, tuple[str, ...]], list[bytes | None]] = {
    ("tasks", ("a",)): [spec_value("a"), spec_value("a", priority=3), b"junk", None],
    ("tasks", ("b",)): [spec_value("b", pool="other"), None],
    ("states", ("a",)): [
        *(status_value(state) for state in (State.PENDING, State.RUNNING, State.SUCCEEDED)),
        b"junk",
        None,
    ],
    ("states", ("b",)): [
        status_value(State.WAITING_RETRY, retry_at=200.0),
        *(status_value(State.WAITING_RETRY, on_hold=True, owner=owner) for owner in ("x", "y")),
        None,
    ],
    ("requests", ("a", "cancel")): [codec.encode(Request(kind=RequestKind.CANCEL)), b"junk", None],
    ("pools", ("default",)): [pool_value(1), pool_value(2), b"{}", None],
    ("ledgers", ("default",)): [ledger_value(0), ledger_value(1), b"{}", None],
    ("leader", ()): [b'{"id":"x"}', None],
    ("epoch", ()): [b'{"epoch":1}'],
    ("replicas", ("x",)): [b"{}", None],
    ("unknown", ("/tally/t/junk",)): [b"?", None],
}


def picture(model: Model) -> dict[str, Any]:
    """All that the model says, its indexes included, once every timer has rung.

    Of a record that does not parse only its revision counts: a model may still have what it said before.
    """
    model.advance(FOREVER)
    tasks = {}
    for task in model.tasks.values():
        spec = (
            (task.spec, task.spec_error, task.submitted_at)
            if task.spec_mod and "tasks" not in task.frozen
            else None
        )
        status = task.status if "states" not in task.frozen else None
        tasks[task.id] = (
            spec,
            task.spec_mod,
            task.spec_create,
            status,
            task.status_mod,
            dict(task.requests),
            task.frozen,
        )
    return {
        "tasks": tasks,
        "pools": model.pools,
        "ledgers": {name: (ledger.held, ledger.mod) for name, ledger in model.ledgers.items()},
        "installation": (model.leader, model.epoch, model.replicas, model.terms),
        "quarantine": model.quarantine,
        "holding": sorted(model.holding),
        "counts": {key: number for key, number in model.counts.items() if number},
        "on_hold": {name: owners for name, owners in model.indexes.on_hold.items() if owners},
        "queues": {name: sorted(queue._places) for name, queue in model.queues.items() if len(queue)},
    }


def fresh(changes: Iterable[Change]) -> Model:
    """A model that is loaded with the latest of each record."""
    latest: dict[Any, Change] = {}
    for change in sorted(changes, key=lambda change: change.mod):
        latest[change.kind, change.names] = change
    model = Model()
    revision = max((change.mod for change in latest.values()), default=0)
    model.load([change for change in latest.values() if change.value is not None], revision)
    return model


@st.composite
def histories(draw: st.DrawFn) -> list[Change]:
    """A store's history: one change a revision; values as a store could hold them, damaged ones included."""
    changes: list[Change] = []
    created: dict[Any, int] = {}
    for mod in range(1, draw(st.integers(1, 25)) + 1):
        record = draw(st.sampled_from(list(VALUES)))
        value = draw(st.sampled_from(VALUES[record]))
        if value is None:
            created.pop(record, None)
        else:
            created.setdefault(record, mod)
        changes.append(Change(*record, value, mod, created.get(record, 0)))
    return changes


# A task's create revision decides its place in the queue, which is why deletions keep their order with what
# follows them.
@given(histories(), st.randoms(use_true_random=False))
@settings(max_examples=examples(300))
def test_any_order_doubled_or_late_ends_the_same(history: list[Change], random: Any) -> None:
    """Fault 18."""
    model = Model()
    delivered = history + random.sample(history, len(history) // 2)
    random.shuffle(delivered)
    for change in delivered:
        model.apply(change)
    model.advance_revision(history[-1].mod)
    assert picture(model) == picture(fresh(history))


@given(histories(), st.randoms(use_true_random=False))
def test_what_is_late_beyond_the_applied_revision_brings_nothing_back(
    history: list[Change], random: Any
) -> None:
    """A removed task must not look Created again, however late an old put of it comes."""
    model = Model()
    for change in history:
        model.apply(change)
        model.advance_revision(change.mod)
    before = picture(model)
    for change in random.sample(history, len(history)):
        model.apply(change)
    assert picture(model) == before


def shifted(history: list[Change], revisions: int) -> list[Change]:
    return [
        change._replace(mod=change.mod + revisions, create=change.create + revisions) for change in history
    ]


@given(histories(), histories(), histories(), st.integers(0, 25), st.integers(0, 10))
def test_a_reload_takes_over_what_the_store_is(
    history: list[Change], missed: list[Change], own: list[Change], seen: int, cut: int
) -> None:
    """Whatever part of the history was missed, and whatever comes between two pages: the model is the
    store's then.
    """
    missed, own = shifted(missed, 25), shifted(own, 50)
    model = Model()
    for change in history[:seen]:
        model.apply(change)
        model.advance_revision(change.mod)
    latest = {(change.kind, change.names): change for change in history + missed}
    snapshot = sorted(
        (change for change in latest.values() if change.value is not None), key=lambda c: (c.kind, c.names)
    )
    revision = missed[-1].mod
    model.load(snapshot[:cut], revision, is_last=False)
    for change in own:
        model.apply(change)
    model.load(snapshot[cut:], revision, is_first=False)
    assert picture(model) == picture(fresh(history + missed + own))
    assert model.revision == revision


def model_with(*changes: tuple[str, tuple[str, ...], bytes | None]) -> Model:
    model = Model()
    for mod, (kind, names, value) in enumerate(changes, 1):
        model.apply(Change(kind, names, value, mod, mod))
        model.advance_revision(mod)
    return model


# -- own commits
# -----------------------------------------------------------------------------------------------------


def test_an_own_commit_and_its_echo_are_one_change() -> None:
    model = model_with(("tasks", ("a",), spec_value("a")))
    status = codec.decode_status(status_value(State.PENDING))[0]
    model.put_status("a", status, 5)
    assert "a" not in model.queue("default")
    assert list(model.holding) == ["a"]
    assert model.apply(Change("states", ("a",), status_value(State.PENDING), 5, 5)) is None


def test_an_own_end_is_kept_as_one_that_is_read() -> None:
    model = model_with(("tasks", ("a",), spec_value("a")))
    value = status_value(State.SUCCEEDED, history=[step(State.PENDING), step(State.SUCCEEDED)], steps=2)
    read, own = codec.decode_status(value)[0], msgspec.json.decode(value, type=Status)
    model.put_status("a", own, 5)
    status = model.tasks["a"].status
    assert status is not None
    assert status == read
    assert isinstance(status.history, PackedHistory)
    assert codec.encode_status(status, {}) == value


def test_an_own_commit_that_the_watch_overtook_changes_nothing() -> None:
    model = model_with(("tasks", ("a",), spec_value("a")))
    model.apply(Change("states", ("a",), status_value(State.RUNNING), 7, 5))
    model.put_status("a", codec.decode_status(status_value(State.PENDING))[0], 5)
    assert model.tasks["a"].state is State.RUNNING


@pytest.mark.parametrize("forgotten", [False, True])
def test_an_own_commit_does_not_bring_back_what_was_deleted_since(forgotten: bool) -> None:
    """Somebody deletes a record by hand, and the watch tells of that before the commit's own answer comes."""
    model = model_with(("tasks", ("a",), spec_value("a")))
    status, share = Status(state=State.PENDING, pool="default", attempt=1), Share(Vector({"cpu": 1}))
    for kind, names, value in (
        ("states", ("a",), codec.encode_status(status, {})),
        ("shares", ("default", "blue"), encode_share(share, Op("x"))),
        ("ledgers", ("default",), ledger_value(1)),
    ):
        model.apply(Change(kind, names, value, 50, 50))
        model.apply(Change(kind, names, None, 51))
    if forgotten:
        model.advance_revision(60)
    model.put_status("a", status, 50)
    model.put_share("default", "blue", share, 50)
    model.put_ledger("default", Ledger(Vector({"cpu": 1})), 50)
    assert model.tasks["a"].status is None
    assert model.shares.get("default", {}) == {}
    assert model.ledgers == {}
    model.put_share("default", "blue", share, 70)
    assert model.share("default", "blue").mod == 70


def test_an_own_removal_is_not_undone_by_an_older_event() -> None:
    """The watch is behind the leader's own commits: what it brings of the past must not bring the task
    back.
    """
    model = model_with(("tasks", ("a",), spec_value("a")), ("states", ("a",), status_value(State.SUCCEEDED)))
    model.put_status("a", None, 9)
    model.apply(Change("tasks", ("a",), None, 9))
    assert "a" not in model.tasks
    model.apply(Change("states", ("a",), status_value(State.RUNNING), 8, 2))
    assert "a" not in model.tasks
    model.put_ledger("default", Ledger(Vector({"cpu": 1})), 9)
    assert not model.apply(Change("ledgers", ("default",), ledger_value(0), 8, 1))
    assert model.ledger("default").held == Vector({"cpu": 1})


def test_a_store_that_is_older_than_the_model_is_another_store() -> None:
    model = model_with(("epoch", (), b'{"epoch":1}'), ("tasks", ("a",), spec_value("a")))
    model.check_not_newer("tasks", ("a",), 2)
    with pytest.raises(RevisionWentBack):
        model.check_not_newer("tasks", ("a",), 1)


# -- quarantine
# ------------------------------------------------------------------------------------------------------


def test_a_damaged_status_freezes_its_task_until_it_is_mended() -> None:
    model = model_with(("tasks", ("a",), spec_value("a")), ("states", ("a",), b"junk"))
    assert ("states", ("a",)) in model.quarantine
    assert model.tasks["a"].frozen == {"states"}
    assert "a" not in model.queue("default"), "a task whose status cannot be read is not Created"
    assert not model.holding
    touched = model.apply(Change("states", ("a",), status_value(State.RUNNING), 3, 2))
    assert not model.quarantine
    assert list(model.holding) == ["a"]
    assert touched is not None
    assert list(touched.tasks) == ["a"]


def test_a_damaged_spec_is_not_an_absent_one() -> None:
    model = model_with(("tasks", ("a",), spec_value("a")), ("tasks", ("a",), b"junk"))
    assert model.tasks["a"].frozen == {"tasks"}
    assert "a" not in model.queue("default")
    model.apply(Change("tasks", ("a",), spec_value("a"), 3, 1))
    assert "a" in model.queue("default")


def test_a_damaged_ledger_freezes_its_pool_until_it_is_mended() -> None:
    model = model_with(("states", ("a",), status_value(State.RUNNING)), ("ledgers", ("default",), b"junk"))
    assert model.pool_is_frozen("default")
    touched = model.apply(Change("ledgers", ("default",), ledger_value(0), 3, 2))
    assert not model.pool_is_frozen("default")
    assert touched is not None
    assert list(touched.pools) == ["default"]
    assert list(touched.tasks) == ["a"]  # it waited for a ledger that can be read


@pytest.mark.parametrize(
    "record",
    [
        ("pools", ("p",)),
        ("requests", ("a", "cancel")),
        ("requests", ("a", "explode")),
        ("unknown", ("x",)),
        ("tasks", ("Not-A-Name",)),
    ],
)
def test_damage_is_shown_with_its_reason_and_goes_with_its_key(record: tuple[str, tuple[str, ...]]) -> None:
    model = model_with((*record, b"junk"))
    assert model.quarantine[record]
    model.apply(Change(*record, None, 2))
    assert not model.quarantine
    assert not model.tasks


# -- specs
# ------------------------------------------------------------------------------------------------------------


def test_tasks_that_say_the_same_share_a_spec_that_names_none() -> None:
    records = [("tasks", (name,), spec_value(name, priority=len(name))) for name in ("a", "b", "cc")]
    model = model_with(*records)
    a, b, cc = (model.tasks[name].spec for name in ("a", "b", "cc"))
    assert a is not None
    assert cc is not None
    assert a is b
    assert (a.id, cc.id, a.priority, cc.priority) == ("", "", 1, 2)
    shown = [task_facts(model, model.tasks[name]).spec for name in ("a", "b", "cc")]
    assert [spec.id for spec in shown if spec is not None] == ["a", "b", "cc"]


# -- time
# ------------------------------------------------------------------------------------------------------------


def test_a_back_off_ends_with_its_timer() -> None:
    status = status_value(State.WAITING_RETRY, retry_at=200.0)
    model = model_with(("tasks", ("a",), spec_value("a")), ("states", ("a",), status))
    assert model.timers.next_due() == 200.0
    assert not model.advance(199.9).tasks
    assert "a" not in model.queue("default")
    touched = model.advance(200.0)
    assert "a" in model.queue("default")
    assert list(touched.tasks) == ["a"]
    assert model.timers.next_due() is None


def test_a_timer_that_was_overtaken_by_events_does_not_ring() -> None:
    model = model_with(
        ("tasks", ("a",), spec_value("a", deadlines=Deadlines(queue_seconds=50.0))),
        ("states", ("a",), status_value(State.RUNNING)),
    )
    assert not model.advance(FOREVER).tasks


@pytest.mark.parametrize(
    ("state", "fields", "due"),
    [
        (None, {"deadlines": Deadlines(queue_seconds=50.0)}, 150.0),
        (State.PENDING, {"deadlines": Deadlines(start_seconds=5.0)}, 125.0),
        (State.RUNNING, {"deadlines": Deadlines(run_seconds=7.0)}, 137.0),
        (State.SUCCEEDED, {"retention_seconds": 60.0}, 210.0),
        (State.RUNNING, {"deadlines": Deadlines(start_seconds=5.0)}, None),
        (None, {}, None),
    ],
)
def test_each_deadline_has_its_timer(state: State | None, fields: dict[str, Any], due: float | None) -> None:
    model = model_with(("tasks", ("a",), spec_value("a", **fields)))
    if state is not None:
        model.apply(Change("states", ("a",), status_value(state, admitted_at=120.0, started_at=130.0), 2, 2))
    assert model.timers.next_due() == due


def test_timers_that_are_set_again_and_again_do_not_pile_up() -> None:
    model = model_with(("tasks", ("a",), spec_value("a")))
    task = model.tasks["a"]
    for n in range(10_000):
        model.timers.schedule(task, 1000.0 + n)
    assert len(model.timers._heap) < 200
    assert model.timers.next_due() == 10_999.0


def test_what_is_on_hold_is_counted_by_pool_and_owner() -> None:
    """Those that are on hold, whatever they were before; nothing is left of an owner that has none."""
    model = Model()
    owners = {"a": "x", "b": "x", "c": "y"}
    for mod, (task_id, owner) in enumerate(owners.items(), 1):
        value = status_value(State.WAITING_RETRY, on_hold=True, owner=owner, steps=1)
        model.apply(Change("states", (task_id,), value, mod, mod))
    assert model.indexes.on_hold == {"default": {"x": 2, "y": 1}}
    moved = status_value(State.WAITING_RETRY, on_hold=True, owner="y", pool="other", steps=2)
    model.apply(Change("states", ("a",), moved, 4, 1))
    model.apply(Change("states", ("b",), status_value(State.WAITING_RETRY, owner="x", steps=2), 5, 2))
    model.apply(Change("states", ("c",), None, 6))
    assert model.indexes.on_hold == {"default": {}, "other": {"y": 1}}


def test_counts_follow_every_change() -> None:
    model = model_with(("tasks", ("a",), spec_value("a")), ("tasks", ("b",), spec_value("b")))
    for mod, state in enumerate(
        (State.PENDING, State.RUNNING, State.FAILED, State.WAITING_RETRY, State.PENDING), 3
    ):
        model.put_status("a", Status(state=state, pool="default", attempt=1), mod)
        counts = {key[1]: number for key, number in model.counts.items() if number}
        assert counts == {state: 1, State.CREATED: 1}
        assert ("a" in model.holding) is (state in HOLDING)
    assert isinstance(model.queue("nobody"), Queue)
    assert len(model.queue("nobody")) == 0


def test_a_task_that_waits_without_a_back_off_is_queued_on_every_replica() -> None:
    """Followers ring no timers, and show how many tasks wait, too."""
    model = model_with(("tasks", ("a",), spec_value("a")), ("tasks", ("b",), spec_value("b")))
    for task, reason in (("a", "Preempted"), ("b", "Error")):
        status = Status(
            state=State.WAITING_RETRY, pool="default", attempt=1, reason=reason, created_at=1.0, retry_at=9.0
        )
        model.apply(Change("states", (task,), codec.encode_status(status, {}), 9, 9))
    assert [*model.queue("default")] == ["a"]
