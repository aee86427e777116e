"""`explain` says in one sentence, with numbers, why a task is where it is."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from controller.core.model import codec
from controller.core.model.lifecycle import State
from controller.core.model.model import Model
from controller.core.model.op import Op
from controller.core.model.records import Change
from controller.core.model.requests import Request, RequestKind
from controller.core.model.resources import Vector
from controller.core.model.task import Status, StopReason
from controller.core.model.validation import parse_pool, parse_spec
from controller.core.planning import transitions
from controller.core.planning.transitions import Moment
from controller.views.explain import at, explain, span

NOW = 1_700_000_000.0


class Scene:
    """A model built as the store would: each change at a revision of its own."""

    def __init__(self, *, leader: bool = True, **pool: Any) -> None:
        self.model = Model()
        self._revision = 0
        if leader:
            self.put("leader", (), b'{"id":"r1"}')
        self.pool(capacity={"cpu": 4, "memory": "1Gi"}, **pool)

    def put(self, kind: str, names: tuple[str, ...], value: bytes) -> Scene:
        self._revision += 1
        self.model.apply(Change(kind, names, value, self._revision, self._revision))
        return self

    def pool(self, **fields: Any) -> Scene:
        return self.put("pools", ("p",), codec.encode_pool(parse_pool({"name": "p", **fields}), Op("op")))

    def held(self, **amounts: Any) -> Scene:
        return self.put("ledgers", ("p",), codec.encode_ledger(Vector.parse(amounts), Op("op"), {}))

    def task(self, task_id: str, *, cpu: Any = 1, submitted_at: float = NOW, **fields: Any) -> Scene:
        spec = parse_spec({"id": task_id, "pool": "p", "command": ["x"], "resources": {"cpu": cpu}, **fields})
        return self.put("tasks", (task_id,), codec.encode_spec(spec, submitted_at, Op("op")))

    def status(self, task_id: str, state: State, **fields: Any) -> Scene:
        status = Status(state=state, pool="p", created_at=NOW, **fields)
        return self.put("states", (task_id,), codec.encode_status(status, {}))

    def request(self, task_id: str, kind: RequestKind) -> Scene:
        return self.put("requests", (task_id, kind), codec.encode(Request(kind=kind)))

    def __call__(self, task_id: str, now: float = NOW) -> str:
        self.model.advance(now)
        return explain(self.model, task_id, now)


def test_no_task() -> None:
    """A name that nobody submitted."""
    assert Scene()("a") == "There is no task a."


def test_next_in_line() -> None:
    """It fits and no task is ahead."""
    assert (
        Scene().task("a")("a")
        == "a is next in pool p and fits (cpu 1 of cpu 4, memory 1Gi free): it is admitted in the leader's"
        " next pass."
    )


def test_does_not_fit() -> None:
    """Asked and free of each lacking resource, who holds the rest, and nobody ahead."""
    scene = (
        Scene()
        .held(cpu="3500m")
        .task("b")
        .status("b", State.RUNNING, attempt=1, hold=Vector({"cpu": 3500}))
        .task("a")
    )
    assert (
        scene("a")
        == "a waits for resources: it asks for cpu 1 (500m free) of pool p (1 task there holds the rest), and"
        " no task is ahead."
    )


def test_who_holds_something_else_is_not_told() -> None:
    """Only those that hold of what is lacking."""
    scene = Scene().held(cpu="3500m", memory="1Mi")
    for name, hold in (("b", {"cpu": 3500}), ("c", {"memory": 1 << 20})):
        scene.task(name).status(name, State.RUNNING, attempt=1, hold=Vector(hold))
    assert "asks for cpu 1 (500m free) of pool p (1 task there holds the rest)" in scene.task("a")("a")


def test_a_ledger_that_nobody_holds() -> None:
    """It blocks a queue until it is repaired: explain says so."""
    told = Scene().held(cpu=4).task("a")("a")
    assert "0 tasks there hold the rest; its ledger says that cpu 4 is held, but they hold nothing" in told
    assert "run `tally audit`" in told


def test_overcommitted_pool() -> None:
    """What is free may be below zero, after a capacity was lowered."""
    assert "cpu 1 (-2 free)" in Scene().held(cpu=6).task("a")("a")


def test_tasks_ahead_block_under_strict() -> None:
    """It would fit, but the head does not, and no task passes the head."""
    scene = Scene().held(cpu=2).task("head", cpu=3)
    for name in ("b", "c", "d", "e"):
        scene.task(name)
    assert (
        scene("e")
        == "e would fit, but waits for its turn: 4 tasks (head, b, c and 1 more) are ahead in pool p; the"
        " head, head, asks for cpu 3 (2 free), and the pool's policy is strict: no task passes the head."
    )


@pytest.mark.parametrize(
    ("waited", "says"),
    [
        (60, "smaller ones may pass it for another 4m"),
        (301, "has waited 5m1s: after 5m, the resources that it needs are reserved"),
    ],
)
def test_backfill_until_the_head_has_waited(waited: float, says: str) -> None:
    """Under backfill the head can be passed, for a stated time."""
    scene = (
        Scene(policy="backfill")
        .held(cpu=2)
        .task("head", cpu=3, submitted_at=NOW - waited)
        .task("b")
        .task("a")
    )
    assert says in scene("a")


def test_backfill_names_the_head_whose_resources_are_set_aside() -> None:
    """A head that has waited keeps what it asks for; the resource that this task would take of it is
    named, with what is left.
    """
    scene = Scene(policy="backfill").held(cpu=2)
    scene.task("young", cpu=4).task("head", cpu=3, submitted_at=NOW - 400, priority=-1).task("a", priority=-2)
    assert "the head, head, asks for cpu 3 (2 free), and has waited 6m40s" in scene("a")
    assert scene("a").endswith(
        "the resources that it needs are reserved, and a asks for cpu 1 (0 beside them)."
    )


def test_with_reserve_lacking_the_first_that_does_not_fit_reserves_alone() -> None:
    """A second one that has waited as long blocks nobody."""
    for reserve, blocks in (("asked", True), ("lacking", False)):
        scene = Scene(policy="backfill", reserve=reserve).held(cpu=2, memory="1Gi")
        scene.task("first", resources={"memory": "1Gi"}, submitted_at=NOW - 400)
        scene.task("second", cpu=3, submitted_at=NOW - 400, priority=-1).task("a", priority=-2)
        assert ("and a asks for" in scene("a")) is blocks, reserve


def test_backfill_counts_a_retried_head_from_the_end_of_its_back_off() -> None:
    """As the planner does: a task that ran for hours and failed has not waited for hours."""
    scene = Scene(policy="backfill").held(cpu=2).task("head", cpu=3, submitted_at=NOW - 9000)
    scene.status("head", State.WAITING_RETRY, attempt=1, retry_at=NOW - 60).task("a")
    assert "smaller ones may pass it for another 4m" in scene("a")


def test_one_ahead_is_singular() -> None:
    """Grammar, since people read it."""
    assert "1 task (b) is ahead in pool p, and the leader admits them first" in Scene().task("b").task("a")(
        "a"
    )


def test_larger_than_the_pool() -> None:
    """The pool was shrunk since: it cannot run, and blocks no other task."""
    scene = Scene().task("a", cpu=4).pool(capacity={"cpu": 2})
    assert (
        scene("a")
        == "a cannot run: it asks for cpu 4 (2 in all) of pool p; raise the pool's capacity, or cancel the"
        " task."
    )


def test_pool_missing_paused_or_unreadable() -> None:
    """Nothing is admitted, and the sentence says what to do."""
    scene = Scene().task("a", pool="q")
    assert "its pool q does not exist (existing pools: p): create it with `tally apply`" in scene("a")
    assert "its pool p is paused" in Scene(paused=True).task("a")("a")
    assert "the definition of its pool p cannot be read" in Scene().task("a").put("pools", ("p",), b"{")("a")
    assert "the ledger of its pool p cannot be read" in Scene().task("a").put("ledgers", ("p",), b"{}")("a")


def test_back_off() -> None:
    """When, in how long, and after what."""
    scene = Scene().task("a")
    scene.status(
        "a",
        State.WAITING_RETRY,
        attempt=1,
        retry_at=NOW + 42,
        reason="Error",
        message="it broke.",
        exit_code=3,
    )
    assert (
        scene("a")
        == "a is in back-off after Error: it broke (exit code 3); it is retried at 2023-11-14T22:14:02Z, in"
        " 42s."
    )
    assert "a is next in pool p" in scene("a", NOW + 42), "afterwards it stands in the queue"


@pytest.mark.parametrize("pool", ["open", "paused", "missing", "unreadable"])
@pytest.mark.parametrize("backs_off", [False, True])
@pytest.mark.parametrize("on_hold", [False, True])
def test_all_that_keeps_a_task_is_named(on_hold: bool, backs_off: bool, pool: str) -> None:
    """Who releases it, or waits for the end of its back-off, knows whether it then goes on."""
    scene = Scene(paused=pool == "paused").task("a")
    due = {"retry_at": NOW + 42 if backs_off else NOW, "reason": "Error"}
    scene.status("a", State.WAITING_RETRY, attempt=1, on_hold=on_hold, **due)
    if pool == "unreadable":
        scene.put("pools", ("p",), b"{")
    if pool == "missing":
        scene.model.apply(Change("pools", ("p",), None, 99))
    told = scene("a")
    assert ("on hold" in told) is on_hold
    assert ("`tally release a` puts it into the queue of pool p again" in told) is on_hold
    assert ("back-off after Error" in told) is backs_off
    assert ("2023-11-14T22:14:02Z, in 42s" in told) is backs_off
    words = {"paused": "its pool p is paused", "missing": "its pool p does not exist"}
    words["unreadable"] = "the definition of its pool p cannot be read"
    assert [name for name, said in words.items() if said in told] == ([pool] if pool in words else [])
    assert ("is next in pool p" in told) is (not on_hold and not backs_off and pool == "open")
    assert ("it is retried at" in told) is (backs_off and not on_hold), "on hold, no time brings it back"


def test_a_priority_that_was_set_stands_against_that_of_the_spec() -> None:
    """Whether it is in the queue or on hold."""
    words = "; its priority was set to 7 (its spec says 2)"
    scene = Scene().task("a", priority=2)
    assert "priority" not in scene("a")
    assert words in scene.status("a", State.CREATED, steps=1, priority=7)("a")
    assert words in scene.status("a", State.CREATED, steps=1, priority=7, on_hold=True)("a")
    assert "priority" not in scene.status("a", State.CREATED, steps=1, priority=2)("a")


def test_without_a_leader() -> None:
    """Nothing happens until one leads, and a finished task does not care."""
    scene = Scene(leader=False).task("a")
    assert scene("a").endswith(
        "; no replica leads, and nothing changes until one does (see `tally get replicas`)."
    )
    scene.status("a", State.SUCCEEDED, attempt=1, finished_at=NOW)
    assert "no replica leads" not in scene("a")


def test_holding() -> None:
    """Pending and Running: since when, what it holds, and when it will be stopped."""
    scene = Scene().task("a", deadlines={"start": "1m", "run": "1h"})
    hold = Vector.parse({"cpu": 1})
    scene.status(
        "a", State.PENDING, attempt=2, hold=hold, admitted_at=NOW - 5, reason="ImagePull", message="pulling"
    )
    assert (
        scene("a")
        == "attempt 2 of a was admitted 5s ago, holds cpu 1 of pool p and has not been seen running yet; the"
        " engine says: ImagePull: pulling; it is stopped in 55s if it is not running by then."
    )
    scene.status(
        "a", State.RUNNING, attempt=2, hold=hold, admitted_at=NOW - 65, started_at=NOW - 60, node="n1"
    )
    assert (
        scene("a") == "attempt 2 of a on n1 has been running since 2023-11-14T22:12:20Z (1m),"
        " and holds cpu 1 of pool p; "
        "it is stopped in 59m if it has not ended by then."
    )
    scene.status("a", State.RUNNING, attempt=2, hold=hold, started_at=NOW, stopping="cancel")
    assert (
        "is being stopped because a cancel was requested, and holds cpu 1 of pool p until its end is observed"
        in scene("a")
    )
    scene.status("a", State.RUNNING, attempt=2, hold=hold, started_at=NOW, stopping="deadline-run")
    assert "is being stopped because its run deadline has passed" in scene("a")


def test_a_stop_that_the_engine_fails_to_carry_out_says_why() -> None:
    """As without the right to delete pods."""
    held = Status(state=State.RUNNING, pool="p", attempt=1, hold=Vector({"cpu": 1000}), created_at=NOW)
    stopping = transitions.stop_requested(held, "cancel", "requested by ann", Moment(NOW, 3, Op("op-3")))
    delayed = transitions.stop_delayed(stopping, "403: pods: delete is forbidden", Moment(NOW, 3, Op("op-4")))
    scene = Scene().task("a").put("states", ("a",), codec.encode_status(delayed, {}))
    assert scene("a").endswith(
        "until its end is observed; the engine fails to stop it, and is asked again:"
        " 403: pods: delete is forbidden."
    )


def test_a_last_step_that_cannot_be_read_is_said_to_be_so() -> None:
    """As one of a newer release may be; its words are in it."""
    held = Status(state=State.RUNNING, pool="p", attempt=1, hold=Vector({"cpu": 1000}), created_at=NOW)
    stopping = transitions.stop_requested(held, "cancel", "requested by ann", Moment(NOW, 3, Op("op-3")))
    step = msgspec.Raw(b'{"reason":"StopDelayed","at":"soon"}')
    value = codec.encode_status(replace(stopping, history=(*stopping.history, step)), {})
    said = Scene().task("a").put("states", ("a",), value)("a")
    assert "the engine fails to stop it, and is asked again: its last step cannot be read" in said


@pytest.mark.parametrize("why", sorted(set(StopReason) - {StopReason.CANNOT_START}))
def test_each_reason_of_a_stop_has_words(why: str) -> None:
    scene = Scene().task("a")
    scene.status("a", State.RUNNING, attempt=1, hold=Vector({"cpu": 1}), started_at=NOW, stopping=why)
    assert "is being stopped because " in scene("a")
    assert f"since {why}," not in scene("a")


def test_lost() -> None:
    """Since when, that its resources stay held, and what to do about it."""
    scene = Scene().task("a", on_lost={"replace_after": "10m"})
    scene.status(
        "a", State.RUNNING, attempt=1, hold=Vector({"cpu": 1000}), lost_since=NOW - 60, reason="NodeLost"
    )
    assert (
        scene("a") == "attempt 1 of a holds cpu 1 of pool p and has been lost since 2023-11-14T22:12:20Z (1m)"
        " (NodeLost): nothing proves that it stopped, so its resources stay held; it is given up in 9m,"
        " as its on_lost allows; if you know that it no longer runs, confirm it with `tally confirm-stopped"
        " a`."
    )


@pytest.mark.parametrize("why", ["cancel", "deadline-run", f"{StopReason.CANNOT_START}: InvalidImageName"])
def test_lost_and_then_stopped(why: str) -> None:
    """The stop's words do not hide the engine's of the loss, which say what helps; in whatever order the
    two came.
    """
    held = Status(state=State.RUNNING, pool="p", attempt=1, hold=Vector({"cpu": 1000}), created_at=NOW)
    loss, stop = Moment(NOW - 600.0004, 3, Op("op-3")), Moment(NOW - 60, 3, Op("op-4"))
    lost = transitions.lost(held, "SupervisorLost", "processes 7, 8 of it still run: end them. ", loss)
    scene = Scene().task("a")
    scene.put(
        "states",
        ("a",),
        codec.encode_status(transitions.stop_requested(lost, why, "requested by ann", stop), {}),
    )
    says = (
        "attempt 1 of a holds cpu 1 of pool p and has been lost since 2023-11-14T22:03:19Z (10m)"
        " (SupervisorLost: processes 7, 8 of it still run: end them): nothing proves that it stopped,"
        " so its resources stay held; it was told to stop 1m ago, because "
    )
    assert scene("a").startswith(says)
    assert scene("a").endswith(
        "; if you know that it no longer runs, confirm it with `tally confirm-stopped a`."
    )
    stopped = transitions.stop_requested(held, why, "requested by ann", loss)
    later = transitions.lost(stopped, "SupervisorLost", "processes 7, 8 of it still run: end them", stop)
    scene.put("states", ("a",), codec.encode_status(later, {}))
    assert "(1m) (SupervisorLost: processes 7, 8 of it still run: end them)" in scene("a")
    assert "it was told to stop 10m ago, because " in scene("a")
    assert scene("a").count("processes 7, 8") == 1
    damaged = msgspec.structs.replace(later, history=(msgspec.Raw(b"7"),))
    scene.put("states", ("a",), codec.encode_status(damaged, {}))
    assert "; it was told to stop, because " in scene("a")


def test_finished() -> None:
    """How it ended, until when it is kept, and that it can be retried."""
    scene = Scene().task("a", retention_seconds="1h")
    scene.status("a", State.FAILED, attempt=3, finished_at=NOW - 60, reason="Error", exit_code=1)
    assert (
        scene("a")
        == "a ended as Failed at 2023-11-14T22:12:20Z, after 3 attempts: Error (exit code 1); it will be"
        " removed in 59m, and `tally retry a` runs it again before that."
    )
    scene.status("a", State.SUCCEEDED, attempt=1, finished_at=NOW - 7200)
    assert scene("a").endswith("after 1 attempt; its retention has passed, and it is about to be removed.")


def test_requests_and_unreadable_records() -> None:
    """A pending request is mentioned, a record that cannot be read is named."""
    scene = Scene().task("a").request("a", RequestKind.CANCEL)
    assert scene("a").endswith("; the request to cancel it waits for the leader.")
    assert "a record of it cannot be read (tasks/a: " in Scene().put("tasks", ("a",), b"\xff")("a")
    invalid = msgspec.json.encode({"id": "a", "pool": "p", "command": ["x"], "priority": "high"})
    assert "is invalid (priority: is 'high', expected a whole number)" in Scene().put(
        "tasks", ("a",), invalid
    )("a")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0s"), (0.9, "0s"), (59.9, "59s"), (60, "1m"), (303, "5m3s"), (11520, "3h12m"), (86400 * 4, "4d")],
)
def test_spans(seconds: float, text: str) -> None:
    """As kubectl shows ages."""
    assert span(seconds) == text


def test_a_time_that_no_calendar_has() -> None:
    """Stored by someone else; shown, not raised."""
    assert at(1e300) == "1e+300"


def test_every_state_has_a_sentence() -> None:
    """No state is left without words, with or without times."""
    for state in State:
        for fields in ({}, {"finished_at": NOW, "admitted_at": NOW, "started_at": NOW, "retry_at": NOW}):
            sentence = Scene().task("a").status("a", state, **fields)("a")
            assert "a" in sentence
            assert sentence.endswith(".")


def test_an_engine_that_is_silent_is_named_with_its_words() -> None:
    """By what the leader registered of it, and nobody else."""
    model = Model()
    told = b'{"instance":"i","at":90.0,"engine_silence":"process answered last 20s ago: the folder is gone"}'
    model.load([Change("leader", (), b'{"instance":"i"}', 1, 1), Change("replicas", ("r",), told, 2, 2)], 3)
    model.apply(Change("tasks", ("t",), b'{"id":"t","command":["true"]}', 4, 4))
    words = (
        "nothing is admitted, because the engine does not answer (process answered last 20s ago: the folder"
        " is gone"
    )
    assert f"{words}, as the leader reported 10s ago)" in explain(model, "t", 100.0)
    held = Status(state=State.RUNNING, pool="p", attempt=1, started_at=80.0)
    model.apply(Change("states", ("t",), codec.encode_status(held, {}), 5, 5))
    words = "no end is seen, and neither a deadline nor on_lost takes effect"
    assert f"; {words}, because the engine does not answer (process answered last 20s ago" in explain(
        model, "t", 100.0
    )
    model.apply(Change("leader", (), b'{"instance":"another"}', 6, 6))
    assert "does not answer" not in explain(model, "t", 100.0)
