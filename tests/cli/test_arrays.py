"""Arrays on the command line."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from controller.client import Client
from controller.core.model.blocks import WAITS, Fate, MemberOutcome
from controller.core.model.lifecycle import State
from controller.core.model.requests import RequestKind
from tests.cli.conftest import Tally, reading
from tests.client.conftest import PutRaw, PutStatus
from tests.client.test_array_requests import _feature as _feature
from tests.support.array_records import begin_array, put_block, submit_array
from tests.support.waiting import wait_until


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
    assert "Attempt" not in told, "it has none of its own"
    assert tally("get", "task", render, "--members", "-o", "wide").out.split()[0] == "INDEX"
    assert tally("get", "task", "render[1]").rows()[0][:2] == ["render-i1", "Failed"]
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


def test_how_many_ranges_and_characters_at_once(tally: Tally, client: Client) -> None:
    """Of six digits, the characters are what is used up first."""
    submit_array(client, "large", 1_000_000)

    def ranges(number: int, first: int) -> str:
        return ",".join(f"{first + 10 * n}-{first + 10 * n + 1}" for n in range(number))

    assert tally("cancel", f"large[{ranges(100, 10)}]").exit_code == 0
    many = tally("cancel", f"large[{ranges(101, 10)}]")
    assert (many.exit_code, "has 101 ranges, but at most 100" in many.err.replace("\n", " ")) == (2, True)
    long = tally("cancel", f"large[{ranges(74, 100_000)}]")
    assert (long.exit_code, "characters, but at most 1,024" in long.err) == (1, True)
    assert tally("get", "task", f"large[{ranges(100, 100_000)}]").exit_code == 0


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


def test_ranges_of_members(tally: Tally, client: Client, render: str) -> None:
    """As cancel and retry take them."""
    rows = tally("get", "task", "render[0-2,4]").rows()
    assert [row[:3] for row in rows] == [
        ["0", "render-i0", "Succeeded"],
        ["1", "render-i1", "Failed"],
        ["2", "render-i2", "Cancelled"],
        ["4", "render-i4", "Waiting"],
    ]
    named = tally("get", "task/render[0-2,4]", "--state", "failed", "-o", "name")
    assert named.out == "task/render-i1\n"
    assert [row[0] for row in tally("get", "task", "render[7]", "--members").rows()] == ["7"]
    assert "No members found" in tally("get", "task", "render[100-200]").err
    assert "is no array" in tally("get", "task", "render-i1[1-2]").err
    for asked in (("render[1-2]", "--spec"), ("render[1-2]", "--tree"), ("render[1-2]", "render")):
        refused = tally("get", "tasks", *asked)
        assert refused.exit_code == 2, refused.err
    for verb in ("logs", "explain", "history", "describe task"):
        refused = tally(*verb.split(), "render[1-2]")
        assert refused.exit_code == 2
        assert "names several members: name one, as in render[7]" in refused.err.replace("\n", " ")


def test_a_downstream_retry_takes_no_members(tally: Tally, render: str) -> None:
    refused = tally("retry", "render[1]", "--downstream")
    assert refused.exit_code == 2
    assert "--downstream" in refused.err
    assert "whole" in refused.err
    by_name = tally("retry", "render-i1", "--downstream")
    assert by_name.exit_code == 2
    assert "name render, of which render-i1 is a member" in " ".join(by_name.err.split())


def test_wait_for_ranges(tally: Tally, render: str) -> None:
    ended = tally("wait", "render[0-2]")
    assert ended.exit_code == 1
    assert "2 of 3 did not reach succeeded: render-i1 is Failed, render-i2 is Cancelled" in ended.err
    assert "task/render-i0 Succeeded" in ended.out
    assert tally("wait", "render[0]", "render-i0").exit_code == 0
    assert tally("wait", "render[0-2,50]", "--timeout", "0.1s").exit_code == 4
    beyond = tally("wait", "render[99-100]")
    assert beyond.exit_code == 5
    assert "render has 100 members, 0 to 99: it has no 100" in " ".join(beyond.err.split())
    many = tally("wait", "render[0-10000]")
    assert (many.exit_code, "10,001 members, but at most 10,000" in many.err.replace("\n", " ")) == (2, True)


@pytest.mark.parametrize(
    ("text", "size", "max_running"), [("10%3", 10, 3), ("10", 10, None)], ids=["with a limit", "without"]
)
def test_size_and_limit_in_one(
    tally: Tally, client: Client, text: str, size: int, max_running: int | None
) -> None:
    assert tally("submit", "frames", "--array", text, "--", "true").exit_code == 0
    spec = client.get("frames").spec
    assert spec is not None
    assert spec.array is not None
    assert (spec.array.size, spec.array.max_running) == (size, max_running)


@pytest.mark.parametrize("text", ["0-9", "10%", "%3", "10%3%3", "ten", "-1", "1.5", "", "²"])
def test_odd_sizes(tally: Tally, text: str) -> None:
    refused = tally("submit", "frames", f"--array={text}", "--", "true")
    assert refused.exit_code == 2
    assert "is not SIZE, such as 10, nor SIZE%MAX_RUNNING" in refused.err.replace("\n", " ")


def test_a_limit_that_is_given_twice_or_is_none(tally: Tally) -> None:
    twice = tally("submit", "frames", "--array", "10%3", "--max-running", "3", "--", "true")
    assert "leave --max-running out" in twice.err
    assert "array.max_running" in tally("submit", "frames", "--array", "10%0", "--", "true").err
    gang = tally("submit", "frames", "--array", "10%3", "--gang", "--", "true")
    assert "means nothing for a gang" in gang.err


def test_what_is_not_kept_of_members_that_ended(tally: Tally, render: str) -> None:
    """Their nodes and times have no column, and their failures no number."""
    ended = tally("get", "task", render, "--members", "--state", "finished").out
    assert ended.split()[:6] == ["INDEX", "NAME", "STATE", "ATTEMPTS", "EXIT", "REASON"]
    assert "NODE" not in ended
    assert "AGE" not in ended
    assert "NODE   AGE" in tally("get", "task", render, "--members").out
    told = tally("describe", "task", "render[1]").out
    assert "Attempt:   2\n" in told
    assert "Failures" not in told
    assert "Failures" in tally("describe", "task", "render[3]").out


def test_all_that_is_under_way_is_in_back_off(tally: Tally, render: str, put_status: PutStatus) -> None:
    """The array is Running then, though none of its members runs."""
    back_off = {"array": render, "retry_at": 9e9, "attempt": 1}
    put_status("render-i3", State.WAITING_RETRY, index=3, **back_off)
    [row] = tally("get", "tasks").rows()
    assert row[:2] == ["render", "Running"]
    assert "3/100, 1 failed, 1 cancelled, 1 waits for its next attempt" in " ".join(row)
    put_status("render-i4", State.WAITING_RETRY, index=4, **back_off)
    assert "1 cancelled, 2 wait for their next attempt" in tally("get", "tasks").out
    put_status("render-i4", State.RUNNING, array=render, index=4)
    assert "next attempt" not in tally("get", "tasks").out


def test_a_member_that_ended_unrun_has_no_output(tally: Tally, client: Client, render: str) -> None:
    """As any task that did; and one that has not begun may have some later."""
    ended = tally("logs", "render[2]")
    assert ended.exit_code == 5
    assert "'render-i2' ended as Cancelled without an attempt, and has no output" in ended.err
    assert "'render-i50' has not started yet" in tally("logs", "render[50]").err


def test_another_task_has_the_name_of_a_member(tally: Tally, client: Client, put_raw: PutRaw) -> None:
    client.submit({"id": "col-i1", "command": ["true"]})
    submit_array(client, "col", 3)
    put_block(client, put_raw, "col", WAITS, Fate(MemberOutcome.FAILED, reason="NameTaken"))
    words = "Member 1 of col never ran, since that task has its name."
    for verb in ("get task", "get task -o json", "history"):
        told = tally(*verb.split(), "col[1]")
        assert (told.exit_code, words in " ".join(told.err.split())) == (0, True), verb
    for verb in ("explain", "describe task"):
        assert (
            "member 1 of col never ran, since another task has its name" in tally(*verb.split(), "col[1]").out
        )
    client.submit({"id": "plain-i1", "command": ["true"]})
    assert "never ran" not in tally("get", "task", "plain-i1").err
    assert "never ran" not in tally("get", "task", "col-i0").err


def test_members_are_watched(
    environment: dict[str, str], executable: list[str], tally: Tally, render: str, put_status: PutStatus
) -> None:
    """Those that are named, each when it changes."""
    with reading([*executable, "get", "task", "render[2-4]", "-w"], environment) as (process, lines):
        wait_until(lambda: len(lines) == 4, "the header and the members are printed")
        put_status("render-i9", State.RUNNING, array=render, index=9)
        put_status("render-i4", State.RUNNING, array=render, index=4, node="n7")
        wait_until(lambda: len(lines) == 5, "the change is printed, and no other")
        assert lines[4].split()[:3] == ["4", "render-i4", "Running"]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert "is no array" in tally("get", "task", "render-i1", "--members", "-w").err
    assert tally("get", "task", "nobody", "--members", "-w").exit_code == 5


def test_how_many_members_are_watched_at_once(tally: Tally, client: Client) -> None:
    submit_array(client, "large", 1001)
    many = tally("get", "task", "large", "--members", "-w")
    assert (many.exit_code, "at most 1,000 members can be watched" in many.err.replace("\n", " ")) == (
        1,
        True,
    )
