"""Arrays on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.client import Client
from controller.core.model.lifecycle import State
from controller.core.model.requests import RequestKind
from tests.cli.conftest import Tally
from tests.client.conftest import PutRaw, PutStatus
from tests.client.test_array_requests import _feature as _feature
from tests.support.array_records import begin_array, submit_array


@pytest.fixture
def render(client: Client, put_raw: PutRaw, put_status: PutStatus) -> str:
    submit_array(client, "render", 100)
    begin_array(client, put_raw, put_status, "render")
    return "render"


def request(client: Client, kind: RequestKind) -> tuple[str, bool]:
    found, _ = client._reading.tasks("render").tasks["render"].requests[kind]
    return found.members, found.only_failed


def test_submit(tally: Tally, client: Client) -> None:
    asked = ("submit", "render", "--array", "100", "--max-running", "10", "--fail-fast", "--", "true")
    assert tally(*asked).exit_code == 0
    spec = client.get("render").spec
    assert spec is not None
    assert spec.array is not None
    assert (spec.array.size, spec.array.max_running, spec.array.fail_fast) == (100, 10, True)
    assert "go with --array" in tally("submit", "other", "--fail-fast", "--", "true").err


def test_get_and_describe(tally: Tally, render: str) -> None:
    [row] = tally("get", "tasks").rows()
    assert row[:2] == ["render", "Running"]
    assert "3/100, 1 failed, 1 cancelled" in tally("get", "tasks").out
    shown = tally("get", "task", render, "--members", "--state", "finished,holding")
    assert shown.out.split()[:3] == ["INDEX", "NAME", "STATE"]
    assert [row[2] for row in shown.rows()] == ["Succeeded", "Failed", "Cancelled", "Running"]
    assert len(tally("get", "task", render, "--members").rows()) == 100
    names = tally("get", "task", render, "--members", "--state", "failed", "-o", "name").out
    assert names == "task/render-i1\n"
    odd = tally("get", "task", render, "--members", "--state", "odd")
    assert "is not a state of a member" in odd.err
    assert "unexpected" not in odd.err
    assert odd.exit_code == 2
    assert "is no array" in tally("get", "task", "render-i1", "--members").err
    told = tally("describe", "task", render).out
    assert "3 of 100 have ended: 96 Waiting, 1 Running, 1 Succeeded, 1 Failed, 1 Cancelled" in told
    assert "First failed" in told
    assert tally("get", "task", "render[1]").rows()[0][:2] == ["render-i1", "Failed"]
    assert "several members" in tally("get", "task", "render[1-2]").err
    assert "Member of" in tally("describe", "task", "render[1]").out


def test_history_of_a_member(tally: Tally, render: str) -> None:
    told = tally("history", "render[1]")
    assert told.exit_code == 0
    assert "render-i1 is Failed after 2 attempts, exit code 3" in told.err
    assert tally("history", "render[1]", "--verify").exit_code == 0
    assert "Nothing has happened" in tally("history", "render[50]").err


def test_cancel_a_part(tally: Tally, client: Client, render: str) -> None:
    assert tally("cancel", "render[10-20]").out == "task/render cancel members 10-20 requested\n"
    assert request(client, RequestKind.CANCEL) == ("10-20", False)
    assert tally("cancel", "render[0-1]").out == "task/render[0-1] ended already\n"
    beyond = tally("cancel", "render[99-100]")
    assert beyond.exit_code == 1
    assert "render has 100 members, 0 to 99: it has no 99-100" in beyond.err
    assert tally("cancel", "render[").exit_code == 2
    assert "only the whole array" in tally("hold", "render[3]").err


def test_retry(tally: Tally, client: Client, render: str) -> None:
    assert tally("retry", render, "--failed").exit_code == 0
    assert request(client, RequestKind.RETRY) == ("", True)


def test_retry_of_some(tally: Tally, client: Client, render: str) -> None:
    refused = tally("retry", "render[5,0]")
    assert refused.exit_code == 1
    assert "no member of render[0,5] is Failed or Cancelled" in refused.err
    assert tally("retry", "render[1,2]").exit_code == 0
    assert request(client, RequestKind.RETRY) == ("1,2", False)


def test_brackets_behind_a_plain_task(tally: Tally, client: Client) -> None:
    client.submit({"id": "plain", "command": ["true"]})
    assert "plain is no array, and has no members" in tally("cancel", "plain[1]").err
    assert "plain is no array, and has no members" in tally("retry", "plain", "--failed").err


def test_wait_for_a_member(tally: Tally, render: str, put_status: PutStatus) -> None:
    assert tally("wait", "render[0]").exit_code == 0
    assert tally("wait", "render-i1").exit_code == 1
    put_status("render", State.FAILED, attempt=0)
    assert tally("wait", "render").exit_code == 1


def test_a_kept_log_of_a_folded_member(tally: Tally, render: str, put_raw: PutRaw, tmp_path: Path) -> None:
    from controller.core.model import kept_log
    from controller.core.model.op import Op

    kept = kept_log.KeptLog(attempt=2, text="its last words\n", truncated=False, at=1.0)
    put_raw("logs/render-i1", kept_log.encode(kept, Op("a leader")))
    assert tally("logs", "render[1]", "--state-dir", str(tmp_path)).out == "its last words\n"


def test_wait_and_logs_of_an_array_name_its_members(tally: Tally, render: str, put_status: PutStatus) -> None:
    put_status(render, State.FAILED, message="1 of 100 members failed: 1")
    told = tally("wait", render, "--timeout", "5")
    assert "1 of 100 members failed: 1: `tally get task render --members`" in told.err.replace("\n", " ")
    assert "never ran" not in told.err
    assert "is an array, and has no output of its own: name a member" in tally("logs", render).err
