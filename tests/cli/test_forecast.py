"""`tally plan`, `tally what-if` and `tally explain --eta`: what would come, while nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from controller.cli.forecast import CHANGE_COLUMNS
from controller.client import Client
from controller.core.forecast.durations import NAME_LABEL
from controller.core.model.features import KNOWN
from controller.core.model.lifecycle import State
from controller.store.base import KeyValue, Store, StoreDenied, Transaction
from tests.cli.conftest import Tally
from tests.client.conftest import PutRaw, PutStatus
from tests.client.test_features import release

KIND = {NAME_LABEL: "train"}


@pytest.fixture(autouse=True)
def _installation(client: Client, put_raw: PutRaw, put_status: PutStatus) -> None:
    """All features are on; three runs of ten minutes have succeeded, and three tasks wait."""
    parts = {f"feature/{name}": "" for name in KNOWN}
    engine = {"engine": {"name": "null", "id": "e", "parts": parts}, "installation": "abc"}
    put_raw("engine", json.dumps(engine).encode())
    put_raw("leader", release("r1", knows=list(KNOWN)))
    nightly = {"name": "nightly", "cron": "0 3 * * *", "suspended": True, "task": {"command": ["train"]}}
    put_raw("schedules/nightly", json.dumps(nightly).encode())
    client.submit_many(task(f"old-{n}") for n in range(3))
    for n in range(3):
        put_status(f"old-{n}", State.SUCCEEDED, started_at=1000.0, finished_at=1600.0)
    client.submit_many(task(f"t{n}", resources={"cpu": 8}) for n in range(3))


@pytest.fixture(autouse=True)
def stored(client: Client, _installation: None) -> Iterator[Callable[[], None]]:
    """Whatever is asked, the store is as it was, to the revision. Called by a test that stores more first."""

    def load() -> tuple[KeyValue, ...]:
        return client.store.load(client.keys.prefix, deadline=client.clock.boottime() + 5).items

    before = load()

    def again() -> None:
        nonlocal before
        before = load()

    yield again
    assert load() == before


def task(name: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, "command": ["train"], "labels": KIND, **fields}


def yaml(*documents: dict[str, Any]) -> str:
    return "\n".join(f"---\n{json.dumps(each)}" for each in documents)


def test_a_plan_tells_when_and_what_it_does_to_others(tally: Tally) -> None:
    """Begin, end and what that rests on, by JSON, too; a task of a higher priority delays others."""
    answer = tally("plan", "-f", "-", stdin=yaml(task("new", resources={"cpu": 8}, priority=5)))
    assert answer.exit_code == 0, answer.err
    header, row, _, delayed, first, *_, others, error = answer.out.splitlines()
    assert header.split() == ["TASK", "POOL", "BEGINS", "ENDS", "RESTS-ON"]
    assert row.startswith("new    default   2")
    assert "(now)" in row
    assert "(in 10m)" in row
    assert row.endswith(f"3 runs of the same {NAME_LABEL}")
    assert delayed.split() == list(CHANGE_COLUMNS)
    assert first.split() == ["t0", "default", "now", "in", "10m", "in", "10m", "in", "20m"]
    assert others == "Of those that wait, 3 tasks begin later, the most t0: by 10m."
    assert error == "How far off such times are is not known yet."
    answer = tally("plan", "-f", "-", stdin=yaml(task("odd", command=["odd"], labels={})))
    assert "Nothing tells how long 1 task (odd) will run: none of the kind has succeeded" in answer.out
    text = yaml(task("new", resources={"cpu": 8}))
    found = tally("plan", "-f", "-", "-o", "json", stdin=text).document
    assert [(each["id"], each["before"]) for each in found["tasks"]] == [("new", {"name": 3})]
    assert (found["later"], found["differing"], found["is_whole"]) == (0, 0, True)
    assert found["waits"] == [
        {
            "pool": "default",
            "owner": "default",
            "waiting": 3,
            "begin_now": 3,
            "begin_then": 3,
            "wait_now": 600.0,
            "wait_then": 600.0,
        }
    ]


def test_a_plan_may_have_pools_and_tasks_in_any_order(tally: Tally) -> None:
    """Parents behind their children, arrays, gangs, a new pool, and a stored one with other fields."""
    answer = tally(
        "plan",
        "-f",
        "-",
        stdin=yaml(
            task("last", after=["first", "t0"], pool="spare"),
            task("first", pool="spare"),
            task("many", array={"size": 5}, resources={"cpu": 1}, pool="spare"),
            task("together", array={"size": 2, "gang": True}, resources={"cpu": 1}, pool="spare"),
            {"name": "spare", "capacity": {"cpu": 4, "memory": "4Gi"}},
            {"name": "default", "capacity": {"cpu": 16, "memory": "1Gi"}},
        ),
    )
    assert answer.exit_code == 0, answer.err
    rows = {line.split()[0]: line for line in answer.out.splitlines()[1:5]}
    assert list(rows) == ["first", "last", "many", "together"]
    assert "(in 10m)" in rows["last"]
    assert "2 tasks begin sooner, the most t1: by 10m" in answer.out


@pytest.mark.parametrize(
    ("documents", "says"),
    [
        (
            [task("x", resources={"cpu": "9"})],
            "standard input:2: resources.cpu: asks for 9, but pool 'default' has 8",
        ),
        ([task("x", pool="nope")], "pool: there is no pool 'nope'; the pools are default"),
        ([task("x"), task("x")], "standard input:4: id: x is named twice"),
        ([task("t0")], "id: there is a task t0 already"),
        ([task("x", after=["none"])], "after[0].task: there is no task none"),
        ([task("x", after=["y"]), task("y", after=["x"])], "after: these tasks wait for each other"),
        ([task("a", array={"size": 3}), task("a-i2")], "id: a-i2 is the name of a member of the array a"),
        ([task("a", array={"size": 3}), task("x", after=["a-i2"])], "a task cannot wait for one member"),
        ([{"kind": "Schedule", "name": "s", "cron": "* * * * *"}], "kind: is Schedule"),
        ([{"name": "default", "capacity": {"cpu": -1}}], "capacity.cpu: '-1' is not a quantity"),
        ([task("x", colour=1)], "colour: is not a field"),
        ([[1]], "expected a mapping"),
    ],
)
def test_what_could_not_be_submitted_is_refused_by_its_place(
    tally: Tally, documents: list[Any], says: str
) -> None:
    answer = tally("plan", "-f", "-", stdin=yaml(*documents))
    assert answer.exit_code == 1
    assert says in answer.err
    assert answer.out == ""


def test_what_never_begins_says_why(tally: Tally) -> None:
    """What would be; of too small a pool, in the words of `explain`."""
    answer = tally(
        "plan",
        "-f",
        "-",
        stdin=yaml(
            task("x", pool="spare"),
            {"name": "spare", "capacity": {"cpu": 4, "memory": "1Gi"}, "paused": True},
        ),
    )
    assert answer.exit_code == 0, answer.err
    assert "\nx does not begin while pool spare is paused.\n" in answer.out
    answer = tally("what-if", "--pool", "default:cpu=4")
    assert answer.exit_code == 0, answer.err
    assert "t0 cannot run: it asks for cpu 8 (4 in all) of pool default" in answer.out
    assert "3 tasks (t0, t1, t2) do not begin any more" in answer.out


def test_what_if_shows_before_and_after(tally: Tally) -> None:
    """A wider pool keeps its other resources; a cancel, a priority, a hold, and all together in a file."""
    answer = tally("what-if", "--pool", "default:cpu=16")
    assert answer.exit_code == 0, answer.err
    assert [line.split() for line in answer.out.splitlines()[:2]] == [
        ["TASK", "POOL", "BEGINS", "THEN-BEGINS", "ENDS", "THEN-ENDS"],
        ["t1", "default", "in", "10m", "now", "in", "20m", "in", "10m"],
    ]
    assert ["default", "default", "3", "10m", "3m20s"] in answer.rows()
    assert "2 tasks begin sooner, the most t1: by 10m" in answer.out
    answer = tally("what-if", "--cancel", "task/t0", "-o", "json")
    assert [each["id"] for each in answer.document["changed"]] == ["t0", "t1", "t2"]
    assert (answer.document["never"], answer.document["sooner"]) == (1, 2)
    answer = tally("what-if", "--priority", "t2=9", "-o", "json")
    assert {each["id"]: each["later_seconds"] for each in answer.document["changed"]} == {
        "t0": 600,
        "t1": 600,
        "t2": -1200,
    }
    answer = tally("what-if", "--hold", "t0")
    assert "2 tasks begin sooner, the most t1: by 10m; 1 task (t0) does not begin any more" in answer.out
    answer = tally("what-if", "-f", "-", stdin=yaml(task("new")))
    assert answer.out.startswith("TASK")
    said = "No task that is stored begins or ends otherwise by more than a minute and 1 % of the time ahead."
    assert answer.out.count("No task that") == answer.out.count(said) == 1


def test_of_what_does_not_begin_any_more_it_is_said_what_would_be(
    tally: Tally, client: Client, stored: Callable[[], None]
) -> None:
    """Nothing of what the end of the look would make of it, such as its retention."""
    client.submit_many([task("child", after=["t0"]), task("waits", after=["t1"])])
    stored()
    answer = tally("what-if", "--cancel", "t0", "--hold", "t1")
    lines = answer.out.splitlines()
    assert "t0 would be cancelled." in lines
    assert "child would end as Failed (DependencyFailed)." in lines
    assert "t1 would be on hold." in lines
    [waits] = [each for each in lines if each.startswith("waits does not begin before ")]
    assert waits.endswith(": it would wait for t1.")
    for word in ("retention", "tally retry", "supposed", "since"):
        assert word not in answer.out


def test_a_plan_lists_those_that_it_delays_most(
    tally: Tally, client: Client, stored: Callable[[], None]
) -> None:
    """Ten of them, and how many more there are."""
    client.submit_many(task(f"u{n:02}", resources={"cpu": 8}) for n in range(10))
    stored()
    answer = tally("plan", "-f", "-", stdin=yaml({"name": "default", "paused": True}))
    assert len([row for row in answer.rows() if row[1:2] == ["default"]]) == 10
    assert answer.out.startswith("TASK")
    assert "and 3 more that begin later, or not any more" in answer.err
    answer = tally("plan", "-f", "-", stdin=yaml(task("new", resources={"cpu": 8}, priority=-1)))
    assert "THEN-BEGINS" not in answer.out


def test_a_window_may_be_supposed(tally: Tally, client: Client, stored: Callable[[], None]) -> None:
    """Beside those that are stored, and with another capacity of that pool."""
    now = client.clock.now()
    client.maintenance.drain("default", now + 5000, now + 6000)
    stored()
    begin = datetime.fromtimestamp(now + 1).astimezone().isoformat()
    answer = tally("what-if", "--drain", f"default@{begin}+2h", "--pool", "default:cpu=16", "-o", "json")
    assert answer.exit_code == 0, answer.err
    changed = {each["id"]: each["begins_then"] for each in answer.document["changed"]}
    assert changed["t0"] == pytest.approx(now + 7201, abs=30)
    assert changed["t1"] == changed["t0"]
    answer = tally("what-if", "--drain", f"default@{begin}+9d")
    assert "t0 does not begin before" in answer.out
    assert ": by then, t0 is kept back by the maintenance window of pool default" in answer.out
    file = yaml({"name": "default", "paused": True})
    answer = tally("what-if", "--drain", f"default@{begin}+2h", "-f", "-", stdin=file)
    assert (answer.exit_code, answer.out) == (1, "")
    assert "--drain default: name: default is named twice" in answer.err
    answer = tally("what-if", "--pool", "default:cpu=9", "-f", "-", stdin=file)
    assert "--pool default: name: default is named twice" in answer.err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ("", 2, "give --pool, --drain, --cancel"),
        ("--pool default", 2, "is not POOL:RESOURCE=AMOUNT"),
        ("--pool default:cpu=x", 2, "--pool default.cpu"),
        ("--pool nope:cpu=1", 5, "there is no pool 'nope'"),
        ("--cancel nope", 5, "error: --cancel nope: there is no task 'nope'"),
        ("--priority nope=1", 5, "error: --priority nope: there is no task 'nope'"),
        ("--priority t1", 2, "is not TASK=PRIORITY"),
        ("--priority t1=9999999999", 1, "error: --priority t1: "),
        ("--cancel old-0", 1, "error: --cancel old-0: old-0 is already Succeeded"),
        ("--hold old-0", 1, "error: --hold old-0: old-0 is Succeeded: only a task that waits"),
        ("--hold t0 --release t0", 1, "error: --release t0: t0 is named twice"),
        ("--hold t0 --cancel t0", 1, "error: --hold t0: t0 is cancelled, too"),
        ("--cancel t0 --cancel t0", 1, "error: --cancel t0: t0 is named twice"),
        ("--release t1", 1, "error: --release t1: t1 is not on hold, so this changes nothing: leave it out"),
        ("--drain default", 2, "--drain: 'default' is not POOL@TIME+SPAN, such as gpu@22:00+2h"),
        ("--drain default@25:00+2h", 2, "--drain: is '25:00', expected now, a time such as 22:00"),
        ("--drain default@22:00+x", 2, "--drain: "),
        ("--drain default@2020-01-01T00:00Z+2h", 2, "ends_at: has passed"),
        ("--drain nope@22:00+2h", 5, "there is no pool 'nope'"),
        ("--cancel t0 --horizon x", 2, "--horizon"),
        ("--cancel t0 --horizon 0s", 2, "--horizon: is 0"),
        ("--cancel t0 --horizon 367d", 2, "--horizon"),
    ],
)
def test_what_if_refuses_what_could_not_be_done(tally: Tally, arguments: str, code: int, says: str) -> None:
    answer = tally("what-if", *arguments.split())
    assert answer.exit_code == code
    assert says in answer.err


def test_several_names_are_explained_by_one_look(tally: Tally) -> None:
    """Each says what is true of it, also what has ended, or is no task."""
    answer = tally("explain", "--eta", "t0", "t1", "old-0", "nope")
    assert answer.exit_code == 5
    lines = answer.out.splitlines()
    assert "t0 is expected to begin at" in lines[0]
    assert (
        f"Before it begins, 1 attempt of pool default is to end: 1 as others of the same {NAME_LABEL}."
        in lines[1]
    )
    assert lines[2].endswith("Nothing is to come of old-0: it neither waits nor runs.")


def test_a_schedule_is_no_task(tally: Tally) -> None:
    """Its name is known all the same, and where to look."""
    answer = tally("explain", "--eta", "nightly")
    assert answer.exit_code == 5
    assert "there is no task 'nightly'" in answer.err
    assert "`tally describe schedule nightly` tells of its ticks" in answer.err


class ReadOnly:
    """A store that refuses each write."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def commit(self, transaction: Transaction, *, deadline: float) -> None:
        raise StoreDenied("read only")


def test_a_look_writes_nothing(client: Client) -> None:
    reader = Client.of_store(ReadOnly(client.store), cluster=client.cluster)  # type: ignore[arg-type]
    with pytest.raises(StoreDenied):
        reader.submit(task("x"))
    found = reader.forecasts.suppose(tasks=[task("x")], pools=[{"name": "default", "paused": True}])
    assert [each.id for each in found.tasks] == ["x"]
    assert reader.forecasts.of("t0").tasks["t0"].begins_at is not None
