"""A pipeline in a real replica: in any order, cancelled at its beginning, and run again from there."""

from __future__ import annotations

from typing import Any

from controller.client import Client
from controller.core.model.lifecycle import State
from tests.runtime.conftest import CLOCK, Start
from tests.support.running import RecordingEngine
from tests.support.waiting import wait_until


def task(name: str, *after: Any, seconds: str = "0") -> dict[str, Any]:
    env = {"TALLY_NULL_SECONDS": seconds}
    return {"id": name, "command": ["x"], "env": env, "after": list(after), "resources": {"cpu": "100m"}}


def test_a_pipeline_is_run_again_from_where_it_broke(start: Start, client: Client) -> None:
    engine = RecordingEngine(CLOCK)
    replica = start(engine=engine)
    epoch = replica.until_leading()
    client.features.enable("dependencies")
    replica.until_leading(epoch)
    client.submit_many(
        [
            task("report", "train", {"task": "alarm", "when": "finished"}),
            task("train", "load"),
            task("alarm", {"task": "load", "when": "failed"}),
            task("load", seconds="100000"),
        ]
    )
    client.wait(["load"], for_="running", timeout_seconds=30)
    client.cancel("load")
    views = client.wait(["load", "train", "alarm", "report"], timeout_seconds=30)
    assert {view.id: (view.state, view.reason) for view in views.values() if view.id != "load"} == {
        "train": (State.FAILED, "DependencyFailed"),
        "alarm": (State.CANCELLED, "Skipped"),
        "report": (State.FAILED, "DependencyFailed"),
    }
    asked = [each.task.id for each in client.downstream.retry("load")]
    assert (asked[0], sorted(asked[1:3]), asked[3]) == ("load", ["alarm", "train"], "report")
    client.wait(["load"], for_="running", timeout_seconds=30)
    [again] = [attempt for attempt, _ in engine.started if attempt.task_id == "load"][1:]
    assert [attempt.task_id for attempt, _ in engine.started] == ["load", "load"]
    engine.end(again)
    views = client.wait(["load", "train", "alarm", "report"], timeout_seconds=30)
    assert {view.id: view.state for view in views.values()} == {
        "load": State.SUCCEEDED,
        "train": State.SUCCEEDED,
        "alarm": State.CANCELLED,
        "report": State.SUCCEEDED,
    }
    deadline = CLOCK.boottime() + 30
    wait_until(lambda: not client.store.load(client.keys.awaits, deadline=deadline).items, "nothing is kept")
