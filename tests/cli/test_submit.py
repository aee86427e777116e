"""`tally submit`: flags, files and streams; every refusal names where it stands."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from controller.cli.yaml12 import YamlError, read_yaml, write_yaml
from controller.client import Client
from controller.core.model.lifecycle import State
from controller.core.model.printable import shown
from tests.cli.conftest import Tally
from tests.client.conftest import PutStatus
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("client")

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in itertools.pairwise("abcdefghi")
)
"""Nine lines that name 387 million values."""

YAML_WORDS = [*"a[]{}!|>'\"#%1~\n", ": ", "- ", "  ", ", ", "&a ", "*a", "!!str ", "<<", "? ", "---\n"]


def is_stored(client: Client, name: str) -> bool:
    return name in [view.id for view in client.tasks()]


def test_every_flag_reaches_the_spec(tally: Tally, client: Client) -> None:
    """What is given on the command line is what is stored."""
    answer = tally(
        *shlex.split(
            "submit train-1 --cpu 500m --memory 32Mi --image img:1 --priority 7 --max-attempts 3 --backoff 1m"
            " --deadline 1h --queue-deadline 2h --start-deadline 5m --env A=1 --env B=x=y --label team=ml"
            " --working-dir /tmp --grace 5s --retention 2d --on-lost 10m --resource cpu=500m -- sh -c"
        ),
        "echo $HOME",
    )
    assert (answer.exit_code, answer.out) == (0, "task/train-1 created\n")
    view = client.get("train-1").to_builtins()["spec"]
    assert view["command"] == ("sh", "-c", "echo $HOME")
    assert view["env"] == {"A": "1", "B": "x=y"}
    assert view["labels"] == {"team": "ml"}
    assert (
        view["retry"]["max_attempts"],
        view["retry"]["backoff_seconds"],
        view["retry"]["max_seconds"],
    ) == (3, 60.0, 300.0)
    assert view["deadlines"] == {"queue_seconds": 7200.0, "start_seconds": 300.0, "run_seconds": 3600.0}
    assert view["on_lost"] == {"replace_after_seconds": 600.0}
    assert (view["grace_seconds"], view["retention_seconds"], view["priority"]) == (5.0, 172800.0, 7)
    assert (view["resources"], view["image"], view["working_dir"]) == (
        {"cpu": "500m", "memory": "32Mi"},
        "img:1",
        "/tmp",
    )


def test_again_unchanged_and_conflict(tally: Tally) -> None:
    """Exit 0 for the same, 1 for another content under the same name."""
    assert tally("submit", "a", "--", "true").exit_code == 0
    assert tally("submit", "a", "--", "true").out == "task/a unchanged\n"
    answer = tally("submit", "a", "--", "false")
    assert (answer.exit_code, answer.out) == (1, "")
    assert "error: a: a task a exists with another spec (it differs in command)" in answer.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a", "--pool", "nope", "--", "x"], "there is no pool 'nope'; the pools are default"),
        (["a", "--cpu", "1e999", "--", "x"], "resources.cpu: '1e999' is not a quantity"),
        (["a", "--cpu", "99", "--", "x"], "asks for 99, but pool 'default' has 8 in all"),
        (["A", "--", "x"], "id: 'A' may hold only"),
        (["a"], "command: give a command to run"),
        (["-f", "/nonexistent"], "/nonexistent cannot be read: No such file or directory"),
        (["-f", "/"], "cannot be read: Is a directory"),
    ],
)
def test_what_cannot_be_submitted_is_named(
    tally: Tally, client: Client, arguments: list[str], says: str
) -> None:
    """Exit 1, the reason on stderr, nothing stored."""
    answer = tally("submit", *arguments)
    assert answer.exit_code == 1
    assert says in answer.err
    assert client.tasks() == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a", "-f", "x", "--", "y"],
        ["-f", "x", "--cpu", "1"],
        ["a", "--env", "X", "--", "y"],
        ["a", "-o", "wide", "--", "y"],
        ["--nope"],
    ],
)
def test_wrong_usage_is_exit_2(tally: Tally, arguments: list[str]) -> None:
    """As everywhere on a command line."""
    assert tally("submit", *arguments).exit_code == 2


def test_a_yaml_file_of_all_shapes(tally: Tally, tmp_path: Path) -> None:
    """Several documents and lists; each refusal names line and field, and the others are submitted."""
    file = tmp_path / "tasks.yaml"
    file.write_text(
        "id: a\ncommand: [x]\n---\nid: b\ncommand: x\n---\n- {id: c, command: [y], env: {N: 1}}\n- 7\n---\n"
    )
    answer = tally("submit", "-f", str(file))
    assert answer.exit_code == 1
    assert answer.out == "task/a created\ntask/c created\n"
    assert f"{file}:5: command: expected a list of strings" in answer.err
    assert f"{file}:7, item 2: a task is a mapping" in answer.err


@pytest.mark.parametrize(
    "text", ["", "\n\n", "[]", "[]\n", "# later\n", "---\n---\n", "null\n", '{"items": []}\n', "items: []\n"]
)
def test_a_file_of_nothing_is_an_error(tally: Tally, tmp_path: Path, text: str) -> None:
    """As kubectl has it: who submits a file meant something. A stream likewise, and pools."""
    (tmp_path / "t.yaml").write_text(text)
    answer = tally("submit", "-f", str(tmp_path / "t.yaml"))
    assert (answer.exit_code, answer.out, answer.err) == (
        1,
        "",
        f"error: no tasks found in {tmp_path / 't.yaml'}\n",
    )
    answer = tally("submit", "-f", "-", "-o", "json", "--wait", stdin=text)
    assert (answer.exit_code, answer.out, answer.err) == (1, "", "error: no tasks found in standard input\n")
    answer = tally("apply", "-f", "-", stdin=text)
    assert (answer.exit_code, answer.out, answer.err) == (
        1,
        "",
        "error: no pools or schedules found in standard input\n",
    )


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("t.yaml", "id: a\n  x: [\n", ":2: is neither YAML nor JSON: mapping values are not allowed"),
        (
            "t.yaml",
            "a: !!python/object:os.system x\n",
            ":1: is neither YAML nor JSON: the tag tag:yaml.org,2002:python/object",
        ),
        ("t.json", "[{]", "is not JSON"),
        ("t.yaml", "\x00", "is neither YAML nor JSON"),
        ("t.json", "[" * 100_000, "is not JSON"),
        (
            "t.yaml",
            "[" * 100_000,
            ":1: is neither YAML nor JSON: lists and mappings are nested more than 100 deep",
        ),
        ("t.yaml", "- " * 100_000, "nested more than 100 deep"),
        (
            "t.yaml",
            "id: a\ncommand: [x]\nid: b\n",
            ":3: is neither YAML nor JSON: id: is given twice, here and in line 1",
        ),
        ("t.json", '{"id": "a",\n"id": "b"}', "id: is given twice"),
        ("t.yaml", BOMB, "aliases expand to more than 100,000 values"),
        ("t.yaml", "id: &a [*a]\n", "the alias *a refers to a value that contains it"),
        ("t.yaml", "? [a]\n: b\n", "a key must be a string"),
    ],
)
def test_a_malformed_file_is_refused_whole(
    tally: Tally, client: Client, tmp_path: Path, name: str, text: str, says: str
) -> None:
    """Names the file and what is wrong with it, and submits nothing of it."""
    (tmp_path / name).write_text(text)
    answer = tally("submit", "-f", str(tmp_path / name))
    assert answer.exit_code == 1
    assert f"error: {tmp_path / name}" in answer.err
    assert says in answer.err
    assert client.tasks() == []


def test_binary_rubbish(tally: Tally, tmp_path: Path) -> None:
    """Not even text."""
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8 text" in tally("submit", "-f", str(tmp_path / "x.yaml")).err


def test_json_of_one_and_many(tally: Tally, tmp_path: Path) -> None:
    """An object, spread over lines, and a list."""
    (tmp_path / "one.json").write_text(json.dumps({"id": "one", "command": ["x"]}, indent=2))
    (tmp_path / "many.json").write_text(json.dumps([{"id": f"m-{i}", "command": ["x"]} for i in range(3)]))
    assert tally("submit", "-f", str(tmp_path / "one.json"), "-o", "name").out == "task/one\n"
    assert tally("submit", "-f", str(tmp_path / "many.json"), "-o", "json").document == {
        "items": [{"id": f"m-{i}", "outcome": "created"} for i in range(3)]
    }


def test_json_lines_from_standard_input(tally: Tally) -> None:
    """A broken line is named by its number, and the lines after it count."""
    lines = '{"id":"a","command":["x"]}\n\n{broken\n{"id":"b","command":["x"]}\n{"id":"c","command":"x"}\n'
    answer = tally("submit", "-f", "-", stdin=lines)
    assert (answer.exit_code, answer.out) == (1, "task/a created\ntask/b created\n")
    assert "standard input:3: is not JSON" in answer.err
    assert "standard input:5: command: expected a list of strings" in answer.err


@pytest.mark.slow
def test_ten_thousand_tasks_with_progress(tally: Tally, client: Client, tmp_path: Path) -> None:
    """Counted, not listed; again is unchanged."""
    file = tmp_path / "many.ndjson"
    file.write_text("".join(json.dumps({"id": f"t-{i}", "command": ["true"]}) + "\n" for i in range(10_000)))
    answer = tally("submit", "-f", str(file))
    assert (answer.exit_code, answer.out) == (0, "10,000 created\n")
    assert "3,000 created so far" in answer.err
    assert tally("submit", "-f", str(file)).out == "10,000 unchanged\n"
    assert len(client.tasks()) == 10_000


def test_many_refusals_are_counted_after_the_first(tally: Tally) -> None:
    """A file that is wrong throughout does not flood the terminal."""
    answer = tally("submit", "-f", "-", stdin="".join(f'{{"id":"t-{i}"}}\n' for i in range(100)))
    assert answer.exit_code == 1
    assert answer.err.count("give a command to run") == 20
    assert "80 more were refused" in answer.err


def test_a_file_with_some_that_are_refused_is_summed_up(tally: Tally) -> None:
    """On stderr: stdout has a line for each that was accepted."""
    text = '{"id":"a","command":["x"]}\n{"id":"b"}\n{"id":"c","command":["x"]}\nrubbish\n'
    answer = tally("submit", "-f", "-", stdin=text)
    assert (answer.exit_code, answer.out) == (1, "task/a created\ntask/c created\n")
    assert answer.err.endswith("\n2 created, 2 invalid\n")
    assert "invalid" not in tally("submit", "b", "--cpu", "-1", "--", "x").err, (
        "of one alone there is nothing to sum up"
    )


def test_dry_run(tally: Tally, client: Client) -> None:
    """Says what would be, and stores nothing."""
    assert tally("submit", "a", "--dry-run", "--", "x").out == "task/a created (dry run)\n"
    assert tally("submit", "b", "--dry-run", "--cpu", "99", "--", "x").exit_code == 1
    assert client.tasks() == []


def test_a_stream_is_submitted_as_it_arrives(
    environment: dict[str, str], executable: list[str], client: Client
) -> None:
    """A producer that stays open gets each task stored when it writes it."""
    process = subprocess.Popen(
        [*executable, "submit", "-f", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        assert process.stdin is not None
        for name in ("first", "second"):
            process.stdin.write(json.dumps({"id": name, "command": ["x"]}) + "\n")
            process.stdin.flush()
            wait_until(partial(is_stored, client, name), f"{name} is stored")
        out, _ = process.communicate(timeout=30)
        assert (process.returncode, out) == (0, "task/first created\ntask/second created\n")
    finally:
        process.kill()
        process.wait()


def test_bytes_that_are_no_text_are_said_to_be_none(
    environment: dict[str, str], executable: list[str]
) -> None:
    """Whatever the locale: in that of C, any bytes would pass for text."""
    for locale in ("C", "C.UTF-8"):
        done = subprocess.run(
            [*executable, "submit", "-f", "-"],
            input=b"\xff\xfe{}",
            capture_output=True,
            timeout=60,
            check=False,
            env={**os.environ, **environment, "LC_ALL": locale},
        )
        assert done.returncode == 1
        assert b"standard input is not UTF-8 text" in done.stderr


def test_an_interrupted_stream_says_how_far_it_came(
    environment: dict[str, str], executable: list[str], client: Client
) -> None:
    process = subprocess.Popen(
        [*executable, "submit", "-f", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        # whoever runs the tests may ignore it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdin is not None
        for name in ("first", "second"):  # the first is counted before the second is read
            process.stdin.write(json.dumps({"id": name, "command": ["x"]}) + "\n")
            process.stdin.flush()
            wait_until(partial(is_stored, client, name), f"{name} is stored")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "created before this: submit the same again" in err
        assert "Traceback" not in err
    finally:
        process.kill()
        process.wait()


def test_streams_that_the_caller_closed_lead_nowhere(
    environment: dict[str, str], executable: list[str], client: Client
) -> None:
    """No message goes into a connection that was given a closed stream's number."""
    task = [*executable, "submit", "quiet", "--", "x"]
    done = subprocess.run(
        ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *task],
        env={**os.environ, **environment},
        check=False,
        timeout=60,
    )
    assert done.returncode == 0
    assert [view.id for view in client.tasks()] == ["quiet"]


@pytest.mark.parametrize(("state", "code"), [(State.SUCCEEDED, 0), (State.FAILED, 1)])
def test_submit_and_wait(tally: Tally, put_status: PutStatus, state: State, code: int) -> None:
    """The exit code is the task's: what exists already is waited for too."""
    tally("submit", "a", "--", "x")
    put_status("a", state, finished_at=2.0)
    answer = tally("submit", "a", "--wait", "--", "x")
    assert answer.exit_code == code
    assert f"task/a {state}" in answer.out


def test_texts_stay_as_they_are_written(tally: Tally, client: Client, tmp_path: Path) -> None:
    """YAML 1.1 makes 493, 750, 1116, 1000, true, a date and 31 of these; what is a number in YAML 1.2 too
    wants quotes.
    """
    file = tmp_path / "t.yaml"
    written = {
        "MODE": "0755",
        "AT": "12:30",
        "ZIP": "02134",
        "BIG": "1_000",
        "ON": "yes",
        "DAY": "2024-01-01",
        "HEX": "0x1F",
        "N": "7",
    }
    env = ", ".join(f"{name}: {text}" for name, text in written.items())
    file.write_text(f"id: a\ncommand: [x]\nlabels: {{on: no, v: 1_0}}\nenv: {{{env}}}\n")
    assert tally("submit", "-f", str(file)).exit_code == 0
    spec = client.get("a").spec
    assert spec is not None
    assert spec.env == written
    assert spec.labels == {"on": "no", "v": "1_0"}
    file.write_text("id: b\ncommand: [x]\nenv:\n  A: x\n  VERSION: 1.10\n")
    answer = tally("submit", "-f", str(file))
    assert (answer.exit_code, answer.err) == (
        1,
        f"error: {file}:5: env.VERSION: is 1.1, expected a string: put it in quotes\n",
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id: a\ncomand: [x]\n", ":2: comand: is not a field; did you mean command?\n"),
        ("id: a\ncommand: [x]\nqqq: 1\n", ":3: qqq: is not a field; the fields are id, pool"),
        (
            "id: a\ncommand: [x]\nretry:\n  max_atempts: 3\n",
            ":4: retry.max_atempts: is not a field; did you mean max_attempts?\n",
        ),
        (
            (
                "id: a\ncommand: [x]\nretry:\n  rules:\n  - {exit_codes: [1], action: fail}\n  - exit_codes:"
                " [999]\n    action: fail\n"
            ),
            ":6: retry.rules[1].exit_codes[0]: is 999",
        ),
        (
            "id: a\ncommand: [x]\nlabels:\n  a.b/c: ok\n  a.b: '?'\n",
            ":5: labels.a.b: '?' is not a label value",
        ),
        ('{\n"id": "a",\n"command": "x"\n}', ":3: command: expected a list"),
    ],
)
def test_what_does_not_hold_is_named_with_its_line(
    tally: Tally, tmp_path: Path, text: str, says: str
) -> None:
    """As compilers do: FILE:LINE: field: what is wrong."""
    (tmp_path / "t").write_text(text)
    answer = tally("submit", "-f", str(tmp_path / "t"))
    assert answer.exit_code == 1
    assert f"error: {tmp_path / 't'}{says}" in answer.err


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_what_get_prints_can_be_submitted_and_applied_again(
    tally: Tally, client: Client, tmp_path: Path, form: str
) -> None:
    """Of one, and of a list; the status is left aside."""
    client.submit_many(
        [
            {"id": name, "command": ["x"], "env": {"MODE": "0755", "ON": "yes", "N": "1e3"}}
            for name in ("a", "b")
        ]
    )
    for arguments, out in ((["a"], "task/a unchanged\n"), ([], "task/a unchanged\ntask/b unchanged\n")):
        printed = tally("get", "tasks", *arguments, "-o", form).out
        assert tally("submit", "-f", "-", stdin=printed).out == out
    printed = tally("get", "pool", "default", "-o", form).out
    assert tally("apply", "-f", "-", stdin=printed).out == "pool/default unchanged\n"


def test_a_byte_order_mark_is_no_part_of_the_text(tally: Tally, tmp_path: Path) -> None:
    """As some editors write it."""
    line = '{"id":"a","command":["x"]}\n{"id":"b","command":["x"]}\n'
    (tmp_path / "t.ndjson").write_text(line, encoding="utf-8-sig")
    assert tally("submit", "-f", str(tmp_path / "t.ndjson")).out == "task/a created\ntask/b created\n"
    assert tally("submit", "-f", "-", stdin=f"\ufeff{line}").out == "task/a unchanged\ntask/b unchanged\n"


@given(st.text() | st.lists(st.sampled_from(YAML_WORDS)).map("".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No other error than the reader's own, and what it gives can be stored."""
    with contextlib.suppress(YamlError):
        for value, line in read_yaml(text):
            assert line >= 1
            json.dumps(value)


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"])) | st.text(
    "0123456789.e-+_:xyn~"
)
SCALARS = TEXTS | st.integers(-(10**9), 10**9) | st.booleans() | st.none()


@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner)))
def test_what_yaml_prints_is_read_as_it_was(value: object) -> None:
    """`get -o yaml` quotes what either version of YAML would take for something else."""
    assert yaml.safe_load(write_yaml([value])) == [value]
    printed = shown(write_yaml([value]))
    assert printed.replace("\n", "").isprintable()
    assert [read for read, _ in read_yaml(printed)] == [[value]]


def test_a_reason_that_nobody_gives_is_warned_of(tally: Tally, client: Client, tmp_path: Path) -> None:
    """And no more: a cluster may have reasons of its own. Where it stands is named as what is refused is."""
    file = tmp_path / "t.yaml"
    file.write_text(
        "id: a\ncommand: [x]\nretry:\n  rules:\n  - action: retry\n    reasons:\n    - OOMKiled\n"
    )
    where = f"warning: {file}:6: retry.rules[0].reasons[0]: "
    for flags, out in (
        (["--dry-run"], "task/a created (dry run)\n"),
        ([], "task/a created\n"),
        ([], "task/a unchanged\n"),
    ):
        answer = tally("submit", "-f", str(file), *flags)
        assert (answer.exit_code, answer.out) == (0, out)
        assert answer.err == f"{where}'OOMKiled' is not a reason that Tally knows; did you mean OOMKilled?\n"
    rule = {"action": "fail", "reasons": ["Evicted", "CompanyPolicy"]}
    task = {"id": "b", "command": ["x"], "retry": {"rules": [rule]}}
    assert client.submit(task).message.startswith("retry.rules[0].reasons[1]: 'CompanyPolicy' is not")
    many = "".join(json.dumps({**task, "id": f"t-{n}"}) + "\n" for n in range(30))
    answer = tally("submit", "-f", "-", stdin=many)
    assert answer.err.count("warning: ") == 20
    assert answer.out == "30 created, 30 warned of\n"
