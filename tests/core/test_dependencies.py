"""The index of dependencies, in whatever order records come; and what a user may write in `after`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.model import codec
from controller.core.model.after import MAX_PARENTS, Dependency, When
from controller.core.model.dependencies import AWAITS
from controller.core.model.lifecycle import FINISHED, State
from controller.core.model.model import Model
from controller.core.model.op import Op
from controller.core.model.records import Change
from controller.core.model.requests import Request, RequestKind
from controller.core.model.task import Status
from controller.core.model.validation import parse_spec
from controller.errors import InvalidField
from tests.support.examples import examples

NAMES = ["a", "b", "c", "d"]


def spec(task_id: str, after: list[dict[str, str]]) -> bytes:
    fields = {"id": task_id, "command": ["true"], "after": after}
    return codec.encode_spec(parse_spec(fields), 5.0, Op("s"))


def status(state: State, *, gated: bool) -> bytes:
    made = Status(
        state=state,
        pool="default",
        attempt=0 if state in (State.CREATED, State.WAITING_RETRY) else 1,
        steps=1,
        gated=gated,
        finished_at=7.0 if state in FINISHED else None,
    )
    return codec.encode_status(made, {})


@st.composite
def changes(draw: st.DrawFn, *, rubbish: bool) -> list[Change]:
    """Records of a few tasks, put and deleted, each at a revision of its own or with others."""
    made, revision = list[Change](), 1
    create = dict[tuple[str, tuple[str, ...]], int]()
    for _ in range(draw(st.integers(1, 25))):
        revision += draw(st.integers(0, 1))
        name = draw(st.sampled_from(NAMES))
        kind = draw(st.sampled_from(["tasks", "tasks", "states", "states", "requests", AWAITS]))
        names: tuple[str, ...] = (name,)
        value: bytes | None = None
        if kind == "requests":
            names = (name, RequestKind.RETRY)
        elif kind == AWAITS:
            names = (draw(st.sampled_from(NAMES)), name)
        if any(each.mod == revision and (each.kind, each.names) == (kind, names) for each in made):
            revision += 1
        if draw(st.integers(0, 3)):
            if kind == "tasks":
                parents = draw(st.lists(st.sampled_from([n for n in NAMES if n != name]), unique=True))
                value = spec(name, [{"task": p, "when": draw(st.sampled_from(When))} for p in parents])
            elif kind == "states":
                value = status(draw(st.sampled_from(State)), gated=draw(st.booleans()))
            elif kind == "requests":
                value = codec.encode(Request(kind=RequestKind.RETRY))
            else:
                value = b"{}"
            if rubbish or kind == AWAITS:
                value = draw(st.sampled_from([value] * 6 + [b"rubbish"]))
        born = 0 if value is None else create.setdefault((kind, names), revision)
        if value is None:
            create.pop((kind, names), None)
        made.append(Change(kind, names, value, revision, born))
    return made


def facts(model: Model) -> dict[str, Any]:
    dependencies = model.dependencies
    gates = {
        task.id: (sorted(gate.unfinished), sorted(gate.unmet.items()), sorted(gate.unknown), gate.never_opens)
        for task in model.tasks.values()
        if (gate := task.gate) is not None
    }
    return {
        "gates": gates,
        "queued": sorted(task_id for queue in model.queues.values() for task_id in queue),
        "kept": {name: dependencies.keeps(name) for name in NAMES},
        "children": {name: sorted(dependencies.children(name)) for name in NAMES},
        "records": (sorted(dependencies.stale), sorted(dependencies.early)),
        "closed": {pool: number for pool, number in dependencies.closed.items() if number},
        "attention": sorted(model.attention),
    }


@settings(max_examples=examples(300), deadline=None)
@given(changes(rubbish=False))
def test_the_index_follows_from_the_records(made: list[Change]) -> None:
    """However they came: one at a time, or all at once."""
    one_by_one = Model()
    last: dict[tuple[str, tuple[str, ...]], Change] = {}
    for change in made:
        one_by_one.apply(change)
        last[change.kind, change.names] = change
    revision = made[-1].mod
    one_by_one.advance_revision(revision)
    at_once = Model()
    at_once.load([change for change in last.values() if change.value is not None], revision)
    assert facts(one_by_one) == facts(at_once)


@settings(max_examples=examples(300), deadline=None)
@given(changes(rubbish=True))
def test_nobody_waits_in_a_circle(made: list[Change]) -> None:
    """Whatever is stored: who follows the tasks that are waited for comes to an end."""
    model = Model()
    for change in made:
        model.apply(change)
    for name in NAMES:
        seen, ahead = set[str](), [name]
        while ahead:
            task = model.tasks.get(ahead.pop())
            if task is not None and task.gate is not None:
                fresh = [each for each in task.gate.unfinished if each not in seen]
                assert name not in task.gate.unfinished, f"{name} waits for itself"
                seen.update(fresh)
                ahead += fresh


def test_a_name_alone_wants_success() -> None:
    parsed = parse_spec({"id": "t", "command": ["x"], "after": ["a", {"task": "b", "when": "finished"}]})
    assert parsed.after == (Dependency(task="a"), Dependency(task="b", when=When.FINISHED))


@pytest.mark.parametrize(
    ("after", "field", "words"),
    [
        ("a", "after", "list of tasks"),
        ({"a": 1}, "after", "list of tasks"),
        ([1], "after[0]", "a task's name"),
        ([{"when": "failed"}], "after[0].task", "the name of a task"),
        (["A"], "after[0]", "may hold only"),
        ([{"task": "a", "when": "done"}], "after[0].when", "succeeded, failed, finished"),
        ([{"task": "a", "wen": "failed"}], "after[0].wen", "did you mean when?"),
        (["a", "b", "a"], "after[2]", "a second time"),
        (["t"], "after", "itself"),
        ([f"t{n}" for n in range(MAX_PARENTS + 1)], "after", "at most 1000"),
    ],
)
def test_what_after_cannot_be(after: Any, field: str, words: str) -> None:
    with pytest.raises(InvalidField, match=words) as error:
        parse_spec({"id": "t", "command": ["x"], "after": after})
    assert error.value.field == field
