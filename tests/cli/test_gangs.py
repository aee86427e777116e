"""Gangs on the command line."""

from __future__ import annotations

import pytest

from controller.client import Client
from controller.core.model.gangs import Reserved
from controller.core.model.lifecycle import State
from controller.core.model.resources import Vector
from tests.cli.conftest import Tally
from tests.client.conftest import PutRaw, PutStatus
from tests.client.test_features import release
from tests.support.gang_records import begin_gang, submit_gang


@pytest.fixture(autouse=True)
def _features(client: Client, put_raw: PutRaw) -> None:
    put_raw("engine", b'{"engine":{"name":"null","id":"e"},"installation":"abc"}')
    put_raw("leader", release("r1", knows=["arrays", "gangs", "owners"]))
    client.features.enable("gangs")


@pytest.fixture
def train(client: Client, put_status: PutStatus) -> str:
    """A gang whose launcher runs."""
    submit_gang(client, "train")
    begin_gang(put_status, "train")
    return "train"


def test_submit(tally: Tally, client: Client) -> None:
    assert tally("submit", "train", "--array", "8", "--gang", "--", "true").exit_code == 0
    spec = client.get("train").spec
    assert spec is not None
    assert spec.array is not None
    assert (spec.array.size, spec.array.gang) == (8, True)
    assert "--gang go with --array SIZE" in tally("submit", "other", "--gang", "--", "true").err
    refused = tally("submit", "other", "--array", "8", "--gang", "--max-running", "2", "--", "true")
    assert "array.max_running: means nothing for a gang" in refused.err
    assert tally("get", "task", "train", "--members").out.split()[:3] == ["INDEX", "NAME", "STATE"]


def test_get_and_describe(tally: Tally, train: str, put_status: PutStatus) -> None:
    [row] = tally("get", "tasks").rows()
    assert row[:2] == ["train", "Pending"]
    assert "1/4 running" in tally("get", "tasks").out
    shown = tally("get", "task", train, "--members")
    assert shown.out.split()[:4] == ["INDEX", "NAME", "ROLE", "STATE"]
    assert [row[2:4] for row in shown.rows()] == [
        ["launcher", "Running"],
        ["worker", "Pending"],
        ["worker", "Waiting"],
        ["worker", "Waiting"],
    ]
    told = tally("describe", "task", train).out
    assert "0 of 4 have ended: 2 Waiting, 1 Pending, 1 Running" in told
    assert "launcher (0), worker (1-3)" in told
    what = "2 members under way hold: the sum is told by Why"
    assert f" cpu 100m for 2 members that have not begun, and what {what}\n" in told
    left = (Reserved(0, Vector({"cpu": 100})), Reserved(0, Vector({"cpu": 50})))
    put_status(train, State.RUNNING, reserved=left)
    told = tally("describe", "task", train).out
    assert "0 of 4 members have ended, and it holds cpu " in told
    assert f" what {what}\n" in told
    put_status(train, State.RUNNING, reserved=())
    assert "0/4" in tally("get", "tasks").out


def test_a_part_is_refused(tally: Tally, client: Client, train: str) -> None:
    whole = "which runs and ends whole: ask for all of it, as train"
    for verb, name in (("cancel", "train[3]"), ("retry", "train[3]"), ("cancel", "train[0-2]")):
        refused = tally(verb, name)
        assert refused.exit_code == 1
        assert f"{name} is part of a gang, {whole}" in refused.err
    assert f"train is a gang, {whole}" in tally("retry", "--failed", train).err
    for verb in ("cancel", "retry"):
        refused = tally(verb, "train-i3")
        assert refused.exit_code == 1
        assert f"train-i3 is a member of the gang train, {whole}" in refused.err
    assert "only the whole array" in tally("hold", "train[3]").err
    assert not client._reading.tasks(train).tasks[train].requests
    assert tally("cancel", train).out == "task/train cancel requested\n"


def test_wait_and_logs_of_a_member(tally: Tally, train: str, put_status: PutStatus) -> None:
    assert tally("wait", train, "--for=running", "--timeout", "0.1s").exit_code == 4
    assert tally("wait", "train[0]", "--for=running").exit_code == 0
    put_status(train, State.SUCCEEDED, attempt=1)
    assert tally("wait", train).exit_code == 0


def test_explain(tally: Tally, train: str) -> None:
    assert "1 of 4 members (1 launcher, 3 worker) runs" in tally("explain", train).out
    assert "it is member 0 of the gang train (launcher)" in tally("explain", "train[0]").out


def test_the_feature_turns_on_what_it_requires(tally: Tally, put_raw: PutRaw) -> None:
    """And says so; several are turned on at once."""
    put_raw("engine", b'{"engine":{"name":"null","id":"e"},"installation":"abc"}')
    put_raw("leader", release("r1", knows=["arrays", "gangs", "owners"]))
    assert tally("features", "enable", "gangs", "owners").out.splitlines() == [
        "feature/arrays turned on, since gangs requires it",
        "feature/gangs turned on",
        "feature/owners turned on",
    ]
    assert tally("features", "enable", "gangs", "arrays").out.splitlines() == [
        "feature/gangs is already on",
        "feature/arrays is already on",
    ]
    refused = tally("features", "drop", "arrays")
    assert refused.exit_code == 1
    assert "`tally features drop gangs` first" in refused.err
    assert tally("features", "drop", "gangs", "arrays").out.splitlines() == [
        "feature/gangs turned off",
        "feature/arrays turned off",
    ]
    assert "give the NAMES of features" in tally("features", "enable").err
