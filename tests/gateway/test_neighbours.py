"""What the gateway tells of the tasks around one's own: of those of others nothing but how many there are."""

from __future__ import annotations

import pytest

from controller.client import Client
from controller.core.model.features import KNOWN
from controller.core.model.lifecycle import State
from tests.client.conftest import PutRaw, PutStatus
from tests.client.conftest import put_status as put_status
from tests.client.test_features import release
from tests.gateway.conftest import As
from tests.gateway.test_gateway import task


@pytest.fixture(autouse=True)
def _tasks(client: Client, put_raw: PutRaw, _features: None) -> None:
    """`mine` waits for one of the same owner and one of another; another one of theirs waits for it."""
    put_raw("leader", release("r1", knows=list(KNOWN)))
    client.features.enable("dependencies")
    put_raw("leader", release("r1", knows=list(KNOWN)))
    client.submit(task("far", owner="vision"))
    client.submit(task("theirs", owner="speech", after=["far"]))
    client.submit(task("own", owner="vision"))
    client.submit(task("mine", owner="vision", after=["own", "theirs"]))
    client.submit(task("secret-child", owner="speech", after=["mine"]))


def test_only_tasks_that_one_may_read_are_there(as_: As, client: Client) -> None:
    """Neither as nodes nor as ends of edges, and nothing is found behind them."""
    seen = {"min_revision": client.get("secret-child").create_revision, "wait": 5, "depth": 9}
    answer = as_("alice").get("/v1/tasks/mine/neighbours", params=seen)
    assert answer.status_code == 200
    told = answer.json()
    assert [node["id"] for node in told["nodes"]] == ["mine", "own"]
    assert [(edge["from"], edge["to"]) for edge in told["edges"]] == [("own", "mine")]
    assert told["hidden"] == 2
    assert "theirs" not in answer.text
    assert "secret-child" not in answer.text
    everything = as_("watcher").get("/v1/tasks/mine/neighbours", params=seen).json()
    assert {node["id"] for node in everything["nodes"]} == {"mine", "own", "theirs", "secret-child", "far"}
    assert everything["hidden"] == 0


def test_a_task_of_others_has_no_neighbourhood(as_: As, client: Client) -> None:
    """As if it did not exist: the same words as for one that does not."""
    seen = {"min_revision": client.get("secret-child").create_revision, "wait": 5}
    theirs = as_("alice").get("/v1/tasks/theirs/neighbours", params=seen)
    nobody = as_("alice").get("/v1/tasks/nobody/neighbours", params=seen)
    assert (theirs.status_code, nobody.status_code) == (404, 404)
    assert theirs.json()["detail"].replace("theirs", "nobody") == nobody.json()["detail"]


def test_the_states_of_others_are_not_told(as_: As, client: Client, put_status: PutStatus) -> None:
    """The names of parents are in one's own spec; where the parents of others stand is theirs."""
    seen = {"min_revision": put_status("theirs", State.RUNNING, owner="speech"), "wait": 5}
    told = as_("alice").get("/v1/tasks/mine", params=seen).json()
    assert {each["task"]: each["state"] for each in told["after"]} == {"own": "Created", "theirs": None}
    text = as_("alice").get("/v1/tasks/mine/explain", params=seen).json()["text"]
    assert "own (Created), theirs (of another owner)" in text
    full = as_("watcher").get("/v1/tasks/mine/explain", params=seen).json()["text"]
    assert "theirs (Running)" in full
    listed = as_("alice").get("/v1/tasks", params=seen).text
    assert '"state":"Running"' not in listed.replace(" ", "")


def test_the_failures_of_others_are_not_told(as_: As, client: Client, put_status: PutStatus) -> None:
    """Neither in why one's own task will fail, nor in why it has failed."""
    told = {}
    last = put_status("theirs", State.FAILED, owner="speech")
    told["waits"] = _explained(as_, last)
    words = "it was to run after the success of theirs, which is Failed"
    last = put_status("mine", State.FAILED, owner="vision", reason="DependencyFailed", message=words)
    told["ended"] = _explained(as_, last)
    assert "theirs is not as it wants (theirs is of another owner)" in told["waits"]
    assert "the success of theirs (of another owner)" in told["ended"]
    assert "a retry would not help before theirs has ended as it wants" in told["ended"]
    for text in told.values():
        assert "theirs is Failed" not in text
        assert "tally retry" not in text


def _explained(as_: As, revision: int) -> str:
    seen = {"min_revision": revision, "wait": 5}
    return str(as_("alice").get("/v1/tasks/mine/explain", params=seen).json()["text"])


def test_what_keeps_a_task_of_ones_own_names_no_others(
    as_: As, client: Client, put_status: PutStatus
) -> None:
    """It is kept since a task waits for it, and not which."""
    last = put_status("mine", State.SUCCEEDED, owner="vision")
    text = as_("alice").get("/v1/tasks/mine/explain", params={"min_revision": last, "wait": 5}).json()["text"]
    assert "since 1 task (of other owners) waits for it" in text


@pytest.mark.parametrize("query", ["direction=left", "depth=0", "depth=11", "limit=0", "limit=2001"])
def test_a_wrong_question_is_named(as_: As, query: str) -> None:
    answer = as_("alice").get(f"/v1/tasks/mine/neighbours?{query}")
    assert (answer.status_code, answer.json()["parameter"]) == (400, query.partition("=")[0])
