"""get, describe, explain, history, wait, logs: what users and scripts read."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from controller.client import Client
from controller.clock import SystemClock
from controller.core.model import codec
from controller.core.model.lifecycle import Event, State
from controller.core.model.op import Op
from controller.core.model.resources import Vector
from controller.core.model.task import AttemptId, Launch, Pool, Step
from controller.engine.process.engine import ProcessEngine
from tests.cli.conftest import Tally, reading
from tests.client.conftest import PutRaw, PutStatus
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def _tasks(client: Client) -> None:
    client.submit_many(
        {"id": name, "command": ["true"], "labels": {"n": name}, "resources": {"cpu": 1}}
        for name in ("a", "b")
    )


def test_tables_put_name_first_and_age_last(tally: Tally, put_status: PutStatus) -> None:
    """As kubectl does; what is absent is a dash."""
    put_status("b", State.RUNNING, lost_since=2.0, reason="NodeLost", message="gone\x1b[31m\nfor good")
    lines = tally("get", "tasks").out.splitlines()
    assert lines[0].split() == ["NAME", "STATE", "POOL", "ATTEMPT", "REASON", "AGE"]
    assert lines[1].split()[:5] == ["a", "Created", "default", "0", "-"]
    assert lines[2].split()[:6] == ["b", "Running", "(lost)", "default", "1", "NodeLost"]
    wide = tally("get", "tasks", "-o", "wide").out
    assert "cpu=1,memory" not in wide
    assert "gone [31m for good" in wide, "someone else's control sequences do not reach the terminal"


def test_names_filters_and_forms(tally: Tally, put_status: PutStatus) -> None:
    """For scripts: -o name, json, yaml; one object for one name, items for a list."""
    put_status("b", State.RUNNING)
    assert tally("get", "tasks", "-o", "name").out == "task/a\ntask/b\n"
    assert tally("get", "task", "b", "a", "-o", "name").out == "task/b\ntask/a\n"
    assert tally("get", "tasks", "--state", "running", "-o", "name").out == "task/b\n"
    assert tally("get", "tasks", "-l", "n=a", "-o", "name").out == "task/a\n"
    none = tally("get", "tasks", "--pool", "other").err
    assert none == "There is no pool other: see `tally get pools`.\nNo tasks found.\n"
    for flags in (("--state", "failed"), ("-l", "n=x"), ("--pool", "other"), ("--owner", "x", "-w")):
        refused = tally("get", "task", "a", *flags)
        assert (refused.exit_code, "give names, or flags that select" in refused.err) == (2, True)
    missing = tally("get", "tasks", "a", "nosuch", "-w")
    assert (missing.exit_code, "nosuch" in missing.err) == (5, True)
    assert tally("get", "task", "b", "-o", "json").document["status"]["state"] == "Running"
    assert [item["id"] for item in tally("get", "tasks", "-o", "json").document["items"]] == ["a", "b"]
    assert yaml.safe_load(tally("get", "task", "a", "-o", "yaml").out)["spec"]["command"] == ["true"]


def test_pools_show_capacity_held_and_free(tally: Tally, put_raw: PutRaw) -> None:
    """A row for each resource; an overcommit and a broken definition are said."""
    put_raw("ledgers/default", codec.encode_ledger(Vector.parse({"cpu": "8500m"}), Op("op"), {}))
    put_raw("pools/broken", b"x")
    rows = tally("get", "pools").rows()
    assert rows[1] == ["default", "strict", "cpu", "8", "8500m", "-500m", "overcommitted"]
    assert rows[2] == ["default", "strict", "memory", "1Gi", "0", "1Gi", "-"]
    assert rows[0][:2] == ["broken", "-"]
    assert tally("get", "pool", "default", "-o", "json").document["free"] == {"cpu": "-500m", "memory": "1Gi"}
    put_raw("ledgers/default", codec.encode_ledger(Vector.parse({"cpu": 8}), Op("op"), {}))
    assert tally("get", "pool", "default", "-o", "json").document["free"] == {"cpu": "0", "memory": "1Gi"}
    put_raw("ledgers/default", codec.encode_ledger(Vector.parse({"cpu": "8500m"}), Op("op"), {}))
    described = tally("describe", "pool", "default").out
    assert "Tasks:         2 Created" in described
    assert "Overcommitted: cpu" in described


def test_replicas_can_be_killed_by_role(tally: Tally, put_raw: PutRaw) -> None:
    """`kill -9 $(tally get replicas --role leader -o pid)` is what the README shows."""
    for number in (1, 2):
        put_raw(
            f"replicas/r{number}",
            msgspec.json.encode({"id": f"r{number}", "instance": f"i{number}", "pid": number}),
        )
    put_raw("leader", msgspec.json.encode({"id": "r2", "instance": "i2", "epoch": 1}))
    assert tally("get", "replicas", "--role", "leader", "-o", "pid").out == "2\n"
    assert [row[:2] for row in tally("get", "replicas").rows()] == [["r1", "follower"], ["r2", "leader"]]
    assert tally("get", "replica", "r3").exit_code == 5


def test_replicas_show_when_they_were_heard_of(tally: Tally, put_raw: PutRaw) -> None:
    """A killed one is registered for some seconds: it is no replica like the others, nor does `check` pass
    over it.
    """
    now = SystemClock().now()
    for name, seconds in (("alive", 1), ("killed", 8), ("gone", 60)):
        record = {"instance": name, "at": now - seconds, "started_at": now - 90, "version": "1"}
        engine = {"engine_answers": False, "engine_age_seconds": 130.0} if name == "alive" else {}
        put_raw(f"replicas/{name}", msgspec.json.encode(record | engine))
    put_raw("replicas/older", b'{"instance":"o"}')
    put_raw("leader", b'{"id":"alive","instance":"alive","epoch":1}')
    heard = {row[0]: " ".join(row[5:-1]) for row in tally("get", "replicas").rows()}
    assert heard.keys() == {"alive", "killed", "gone", "older"}
    assert heard["alive"].endswith("s ago")
    assert re.fullmatch(r"\d+s ago, stale", heard["killed"])
    assert heard["gone"].endswith("ago, dead")
    assert heard["older"] == "-"
    checked = tally("check").out
    assert re.search(r"replica killed: .*not been heard from for", checked)
    assert re.search(r"replica gone: .*not been heard from for 1m", checked)
    assert "replica alive" not in checked
    assert re.search(r"engine: does not answer alive, last heard from 2m", checked)


def test_check_tells_of_gateways_and_of_who_tells_receivers(tally: Tally, put_raw: PutRaw) -> None:
    assert "notifier" not in tally("check").out, "nobody has asked for one"
    put_raw("gateways/door", b'{"url":"http://door:1","ready":true}')
    put_raw("gateways/gate", b'{"ready":false,"problems":["store"]}')
    put_raw("gateways/port", b'{"url":"http://p:1","ready":true,"problems":["gateway_policy_file"]}')
    notice = {"task": "a", "owner": "o", "pool": "p", "urls": ["https://u"], "at": 1.0, "ending": "failed"}
    put_raw("outbox/a/00000000000000000001", msgspec.json.encode(notice))
    told = tally("check").out
    assert re.search(r"ok +gateway door: at http://door:1", told)
    assert re.search(r"warning +gateway gate: not ready, with problems: store", told)
    assert re.search(r"warning +gateway port: at http://p:1, with problems: gateway_policy_file", told)
    assert re.search(r"warning +notifier: none is on duty, and 1 notice to be told", told)
    put_raw("notifier", b'{"id":"herald","failing":{"hooks.example":"it answered 401"},"problem":"no TOML"}')
    told = tally("check").out
    assert re.search(r"warning +notifier: herald cannot tell hooks.example: it answered 401", told)
    assert re.search(r"warning +notifier: herald: no TOML", told)
    assert tally("notifier", "list").rows()[0][-1] == "-", "it waits for another host"
    put_raw("notifier", b'{"id":"herald"}')
    told = tally("check").out
    assert re.search(r"ok +notifier: herald is on duty, 1 notice to be told, 0 dead letters", told)
    put_raw("outbox/a/00000000000000000001", msgspec.json.encode(notice | {"dead": {"why": {}, "at": 2.0}}))
    assert re.search(r"warning +notifier: 0 notices to be told, 1 dead letter", tally("check").out)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["get", "nonsense"], 2),
        (["get", "tasks", "-o", "pid"], 2),
        (["get", "tasks", "-l", "n=a,"], 2),
        (["get", "tasks", "-l", "n in a"], 2),
        (["get", "tasks", "--sort-by", "odd"], 2),
        (["get", "tasks", "--role", "odd"], 2),
        (["get", "task/nope"], 5),
        (["get", "task", "pool/default"], 2),
        (["get", "odd/a"], 2),
        (["describe", "task"], 2),
        (["describe", "task/a", "b"], 2),
        (["delete", "pool"], 2),
        (["delete", "task/a"], 1),
        (["cancel", "pool/a"], 2),
        (["explain", "task/"], 2),
        (["get", "pools", "-w"], 2),
        (["get", "tasks", "--state", "odd"], 2),
        (["get", "task", "nope"], 5),
        (["get", "pool", "nope"], 5),
        (["describe", "task", "nope"], 5),
        (["describe", "pool", "nope"], 5),
        (["explain", "nope"], 5),
        (["history", "nope"], 5),
        (["logs", "nope"], 5),
        (["logs", "a"], 5),
        (["wait", "nope"], 5),
        (["wait", "a", "--for", "odd"], 2),
        (["wait", "a", "--timeout", "odd"], 2),
        (["wait", "a", "--timeout", "0.05"], 4),
    ],
)
def test_exit_codes(tally: Tally, arguments: list[str], code: int) -> None:
    """2 usage, 4 still waiting, 5 not found; each with words on stderr."""
    answer = tally(*arguments)
    assert answer.exit_code == code
    assert answer.err


def test_wait_exits_by_how_tasks_ended(tally: Tally, put_status: PutStatus) -> None:
    """0 when all succeeded, 1 when one did not, 0 when it is what was waited for."""
    put_status("a", State.SUCCEEDED, finished_at=2.0)
    put_status("b", State.FAILED, finished_at=2.0)
    assert tally("wait", "a").exit_code == 0
    answer = tally("wait", "a", "b")
    assert answer.exit_code == 1
    assert "1 of 2 did not reach succeeded: b is Failed" in answer.err
    assert tally("wait", "b", "--for=failed").exit_code == 0
    assert tally("wait", "a", "--for=running").exit_code == 0, "what has succeeded has run"
    assert tally("wait", "b", "--for=succeeded").exit_code == 1
    put_status("b", State.WAITING_RETRY)
    for word in ("waiting-retry", "waiting_retry", "WaitingRetry"):
        assert tally("wait", "b", f"--for={word}").exit_code == 0


def test_history_and_describe(tally: Tally, put_status: PutStatus) -> None:
    """Each step with time, reason and epoch; all of a task on one page."""
    step = Step(
        at=1.0,
        source="Created",
        event=Event.ADMITTED,
        state=State.PENDING,
        attempt=1,
        reason="Fits",
        message="go",
        epoch=7,
    )
    put_status("a", State.PENDING, admitted_at=1.0, steps=1, history=(codec.encode_step(step),))
    assert tally("history", "a").rows() == [
        ["1970-01-01T00:00:01Z", "Created", "admitted", "Pending", "1", "7", "Fits", "go"]
    ]
    assert tally("history", "a", "-o", "json").document["items"][0]["epoch"] == 7
    page = tally("describe", "task", "a").out
    for words in (
        "State:     Pending",
        "Why:       attempt 1 of a was admitted",
        "Holds:     cpu 100m",
        "  labels:",
        "Created   admitted",
    ):
        assert words in page


def test_a_broken_record_is_shown_and_the_rest_goes_on(tally: Tally, put_raw: PutRaw) -> None:
    """Fault 23: a value from someone else under the prefix."""
    put_raw("states/b", b"someone else's")
    put_raw("odd/key", b"x")
    put_raw("tasks/foreign", b"\xff")
    rows = {row[0]: row[1:] for row in tally("get", "tasks").rows()}
    assert rows["a"][0] == "Created"
    assert "Unreadable" in rows["b"]
    assert "Unreadable" in rows["foreign"]
    assert "cannot be read (states/b: " in tally("explain", "b").out
    assert tally("describe", "task", "foreign").exit_code == 0


def test_a_name_of_any_length_breaks_no_table(tally: Tally, put_raw: PutRaw) -> None:
    """A key that was written by hand; whole in the other forms."""
    put_raw(f"tasks/{'x' * 3000}", b"{}")
    assert max(map(len, tally("get", "tasks").out.splitlines())) < 200
    assert f"task/{'x' * 3000}" in tally("get", "tasks", "-o", "name").out


def test_logs_of_the_process_engine(
    tally: Tally, client: Client, put_raw: PutRaw, put_status: PutStatus, tmp_path: Path
) -> None:
    """From the folder that the replicas name; --attempt chooses, an attempt that never was is not found."""
    engine = ProcessEngine(tmp_path / "state", client.keys.cluster, SystemClock())
    spec = client.get("a").spec
    assert spec is not None
    spec = msgspec.structs.replace(spec, command=("sh", "-c", "echo out; echo err >&2"))
    try:
        attempt = AttemptId("a", 1)
        engine.start(
            Launch(
                attempt=attempt,
                cluster=client.keys.cluster,
                term=1,
                spec=spec,
                pool=Pool(name="p"),
                environment={},
            )
        )
        put_status("a", State.RUNNING)
        assert "give --state-dir" in tally("logs", "a").err
        put_raw(
            "replicas/r1",
            msgspec.json.encode(
                {"id": "r1", "engine": {"name": "process", "state_dir": str(tmp_path / "state")}}
            ),
        )
        assert tally("logs", "a", "-f").out == "out\nerr\n"
        assert tally("logs", "a", "--attempt", "2").exit_code == 5
        silent = Launch(
            attempt=AttemptId("a", 2),
            cluster=client.keys.cluster,
            term=1,
            spec=msgspec.structs.replace(spec, command=("true",)),
            pool=Pool(name="p"),
            environment={},
        )
        engine.start(silent)
        put_status("a", State.RUNNING, attempt=2)
        answer = tally("logs", "a", "-f")  # whose end the leader has not recorded yet
        assert (answer.exit_code, answer.out, answer.err) == (
            0,
            "",
            "a-2 has printed nothing, and has ended\n",
        )
        assert tally("logs", "a").err == "a-2 has printed nothing, and runs\n"
        put_status("a", State.PENDING, attempt=2)
        assert (
            tally("logs", "a").err
            == "a-2 has printed nothing, and does not run yet: `tally explain a` says why\n"
        )
        first = Step(at=1.0, source=State.CREATED, event=Event.ADMITTED, state=State.PENDING, attempt=1)
        put_status("a", State.SUCCEEDED, attempt=2, steps=1, history=(codec.encode_step(first),))
        assert tally("logs", "a", "--tail", "5").err == "a-2 has printed nothing, and has ended\n"
        assert tally("logs", "a", "--tail", "0").err == "", "as it was asked for"
        assert tally("logs", "a", "--attempt", "1").err == ""
        assert tally("logs", "a", "--state-dir", f"{tmp_path}/elsewhere").exit_code == 5
    finally:
        engine.close()


def test_watching_ends_quietly_with_ctrl_c(
    environment: dict[str, str], executable: list[str], put_status: PutStatus
) -> None:
    """`get tasks -w` prints changes as rows, if the row is another; Ctrl-C is exit 130 without a word."""
    with reading([*executable, "get", "tasks", "-w"], environment) as (process, lines):
        wait_until(lambda: len(lines) == 3, "the header and the tasks are printed")
        put_status("b", State.RUNNING)
        wait_until(lambda: len(lines) == 4, "the change is printed")
        assert lines[3].split()[:2] == ["b", "Running"]
        put_status("b", State.RUNNING, uid="another")  # which no column shows
        put_status("b", State.SUCCEEDED)
        wait_until(lambda: len(lines) >= 5, "the next change is printed")
        assert lines[4].split()[:2] == ["b", "Succeeded"]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_ctrl_c_while_the_process_ends_is_not_heard() -> None:
    """What the command did is known, and its exit code tells it: there is no traceback instead."""
    program = (
        "import atexit, signal; atexit.register(signal.raise_signal, signal.SIGINT);"
        " from controller.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "version"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_pipe_is_no_error(
    environment: dict[str, str], executable: list[str], client: Client
) -> None:
    """`tally get tasks | head -1`."""
    client.submit_many({"id": f"t-{i}", "command": ["x"]} for i in range(3000))
    command = f"{shlex.join(executable)} get tasks | head -1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env={**os.environ, **environment}, timeout=60
    )
    assert done.stdout.startswith("NAME")
    assert done.stderr == ""


@pytest.mark.parametrize(("form", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_a_document_is_the_same_in_any_encoding(
    environment: dict[str, str], executable: list[str], client: Client, form: str, read: Callable[[str], Any]
) -> None:
    """On a terminal of another encoding, the form's own escapes stand for what that lacks."""
    client.submit({"id": "greeting", "command": ["x"], "env": {"GREETING": "你好 🎉"}})
    done = shown_in_latin_1([*executable, "get", "task", "greeting", "-o", form], environment)
    assert "你" not in done
    assert read(done)["spec"]["env"] == {"GREETING": "你好 🎉"}


def test_words_are_escaped_where_the_encoding_lacks_them(
    environment: dict[str, str], executable: list[str], put_status: PutStatus
) -> None:
    put_status("a", State.FAILED, finished_at=2.0, reason="Error", message="内存不足")
    done = shown_in_latin_1([*executable, "get", "tasks", "-o", "wide"], environment)
    assert "\\u5185\\u5b58\\u4e0d\\u8db3" in done


def shown_in_latin_1(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        encoding="latin-1",
        env={**os.environ, **environment, "PYTHONIOENCODING": "latin-1", "LC_ALL": "C"},
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_selectors_are_kubectls(tally: Tally) -> None:
    """In each form; what is none is exit 2, with the place."""
    for selector, names in {
        "n!=a": "b",
        "n in (a,c)": "a",
        "n notin (a)": "b",
        "n": "ab",
        "!n": "",
        "m!=x": "ab",
        "n=a,n=b": "",
    }.items():
        assert tally("get", "tasks", "-l", selector, "-o", "name").out == "".join(
            f"task/{name}\n" for name in names
        ), selector
    answer = tally("get", "tasks", "-l", "n=a b")
    assert answer.exit_code == 2
    assert "does not parse at character 5" in " ".join(answer.err.replace("│", " ").split())


def test_order_is_as_asked_for(tally: Tally, client: Client) -> None:
    """By submission when nobody asks."""
    client.submit({"id": "0", "command": ["true"], "priority": 5, "resources": {"cpu": 1}})
    names = {
        order: tally("get", "tasks", "-o", "name", "--sort-by", order).out.split()
        for order in ("name", "-name", "-priority", "age")
    }
    assert names["name"] == ["task/0", "task/a", "task/b"]
    assert names["-name"] == names["name"][::-1]
    assert names["-priority"][0] == "task/0"
    assert names["age"] == ["task/0", "task/b", "task/a"]
    assert tally("get", "tasks", "-o", "name").out.split() == ["task/a", "task/b", "task/0"]


@pytest.mark.parametrize(
    "command",
    [
        "get task/a",
        "get tasks task/a",
        "describe task/a",
        "explain task/a",
        "history task/a",
        "cancel task/a",
        "wait task/a --for created",
        "get pool/default",
        "describe pool/default",
        "delete pool/default",
        "describe pool pool/default",
    ],
)
def test_what_o_name_prints_is_a_name_everywhere(tally: Tally, command: str) -> None:
    assert tally(*command.split()).exit_code == 0


def test_a_removed_pool_is_shown_as_long_as_something_is_held(
    tally: Tally, client: Client, put_raw: PutRaw
) -> None:
    """As `/v1/pools` does."""
    client.apply_pool({"name": "gone", "capacity": {"cpu": 1}})
    put_raw("ledgers/gone", codec.encode_ledger(Vector.parse({"cpu": 1}), Op("op"), {}))
    client.delete_pool("gone")
    assert ["gone", "-", "cpu", "0", "1", "-1", "not", "defined,", "overcommitted"] in tally(
        "get", "pools"
    ).rows()
    put_raw("ledgers/gone", codec.encode_ledger(Vector(), Op("op"), {}))
    assert "gone" not in tally("get", "pools").out


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("cancel ", "a b"),
        ("get tasks b", "b"),
        ("get pool ", "default"),
        ("describe task/", ""),
        ("cancel task/", "task/a task/b"),
        ("get tasks --state Suc", "Succeeded"),
        ("get tasks --pool d", "default"),
        ("submit x --pool ", "default"),
        ("get ta", "tasks"),
    ],
)
def test_the_shell_completes(
    executable: list[str], environment: dict[str, str], words: str, completed: str
) -> None:
    """Tasks, pools, states, kinds."""
    asked = {**os.environ, **environment, "_TALLY_COMPLETE": "complete_bash", "COMP_WORDS": f"tally {words}"}
    asked["COMP_CWORD"] = str(len(f"tally {words}x".split()) - 1)
    done = subprocess.run(executable, env=asked, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout.split(), done.stderr) == (completed.split(), "")


def test_the_shell_completes_nothing_without_etcd(executable: list[str], environment: dict[str, str]) -> None:
    """And says nothing: it is in the midst of a line that somebody types."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        asked = {**os.environ, **environment, "TALLY_ETCD": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        asked |= {"_TALLY_COMPLETE": "complete_bash", "COMP_WORDS": "tally cancel ", "COMP_CWORD": "2"}
        done = subprocess.run(executable, env=asked, capture_output=True, text=True, timeout=10, check=False)
    assert (done.stdout.strip(), done.stderr) == ("", "")


@pytest.mark.parametrize("command", ["submit c --wait --timeout 1s --cpu 1 -- true", "wait a b --timeout 1s"])
def test_who_waits_in_vain_is_told_why(tally: Tally, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """As `explain` says it, on stderr, once for each reason."""
    monkeypatch.setattr("controller.cli.wait.EXPLAIN_AFTER_SECONDS", 0.1)
    answer = tally(*command.split())
    assert answer.exit_code == 4
    lines = [line for line in answer.err.splitlines() if "no replica leads" in line]
    assert len(lines) == 1, answer.err


def test_what_runs_is_explained_only_while_nobody_leads(
    tally: Tally, put_status: PutStatus, put_raw: PutRaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes as long as it takes, but its end must be seen."""
    monkeypatch.setattr("controller.cli.wait.EXPLAIN_AFTER_SECONDS", 0.1)
    put_status("a", State.RUNNING)
    assert "no replica leads" in tally("wait", "a", "--timeout", "0.5").err
    put_raw("leader", msgspec.json.encode({"id": "r2", "instance": "i2", "epoch": 1}))
    assert tally("wait", "a", "--timeout", "0.5").err.startswith("error: still waiting for a (Running)\n")


EVIL = "\x1b]0;owned\x07\x9b2J\u202e\r\nName: fake"


READERS = (
    "get tasks -o wide;get tasks -o name;get tasks -o json;get tasks -o yaml;get pools;get replicas;describe"
    " task a;describe pool default;explain a;history a;history a -o json;audit --records-only;wait a"
    " --timeout 0.1;step-down"
)


@pytest.mark.parametrize("words", READERS.split(";"))
def test_nobody_elses_words_are_commands_to_the_terminal(
    tally: Tally, put_status: PutStatus, put_raw: PutRaw, words: str
) -> None:
    """Messages come from programs, keys and names from whoever may write."""
    put_status(
        "a", State.RUNNING, lost_since=2.0, reason=f"Lost{EVIL}", message=f"gone{EVIL}", node=f"n{EVIL}"
    )
    for part in ("tasks", "states", "pools", "ledgers", "replicas", "odd"):
        put_raw(f"{part}/x{EVIL}", b"not json")
    put_raw(
        "pools/default",
        codec.encode(
            {"name": "default", "capacity": {f"cpu{EVIL}": 1}, "engine_options": {f"a{EVIL}": EVIL}}
        ),
    )
    put_raw("leader", msgspec.json.encode({"id": f"r2{EVIL}", "instance": "i2", "epoch": 1}))
    answer = tally(*words.split())
    printed = (answer.out + answer.err).replace("\n", "")
    assert printed.isprintable(), repr(printed)
    assert not [line for line in answer.out.splitlines() if line.startswith("Name: fake")]


def test_a_form_for_programs_says_all(tally: Tally, put_status: PutStatus) -> None:
    """What is escaped is read back as it was."""
    message = f"gone{EVIL}\xa0\u200b\U000e0001"
    put_status("a", State.RUNNING, message=message)
    assert tally("get", "task", "a", "-o", "json").document["message"] == message
    assert yaml.safe_load(tally("get", "task", "a", "-o", "yaml").out)["message"] == message


def test_a_flag_that_selects_nothing_of_this_kind_is_refused(tally: Tally) -> None:
    """It is not ignored."""
    for words in (("owners", "--owner", "red"), ("pools", "-l", "a=b"), ("replicas", "--state", "waiting")):
        answer = tally("get", *words)
        assert (answer.exit_code, "does not select" in answer.err) == (2, True), words


def test_explain_goes_on_after_a_task_that_does_not_exist(tally: Tally) -> None:
    answer = tally("explain", "a", "nope", "b")
    assert answer.exit_code == 5
    assert [line.split()[0] for line in answer.out.splitlines()] == ["a", "b"]
    assert "there is no task 'nope'" in answer.err


def test_a_history_that_cannot_be_read_costs_nobody_else_an_answer(
    tally: Tally, put_status: PutStatus
) -> None:
    """It is named with its task; the others are told, and so is all else of this one."""
    put_status("b", State.SUCCEEDED, finished_at=2.0)
    put_status("a", State.PENDING, admitted_at=1.0, steps=1, history=(msgspec.Raw(b"7"),))
    items = {each["id"]: each for each in tally("get", "tasks", "-o", "json").document["items"]}
    assert items.keys() == {"a", "b"}
    assert "history" in items["a"]["problem"]
    assert items["a"]["status"]["history"] == []
    assert not items["b"].get("problem")
    page = tally("describe", "task", "a").out
    assert "State:     Pending" in page
    assert "History:   cannot be read: history: " in page
