"""Changing things, settings, checks, and errors that say what to do."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from controller import __version__
from controller.cli import get
from controller.cli.documents import CHUNK
from controller.cli.main import app
from controller.client import Client
from controller.core.model.lifecycle import State
from controller.core.model.resources import Vector
from controller.core.model.task import Status
from tests.cli.conftest import Tally
from tests.client.conftest import PutRaw, PutStatus
from tests.client.test_features import release
from tests.support.etcd import EtcdFactory, enable_authentication, free_ports
from tests.support.examples import examples


@pytest.fixture(autouse=True)
def _task(client: Client) -> None:
    client.submit_many({"id": name, "command": ["true"]} for name in ("a", "b"))


def test_cancel_and_retry(tally: Tally, put_status: PutStatus) -> None:
    """Each name on its own: what cannot be done for one is done for the others, and tells in the exit
    code.
    """
    put_status("b", State.SUCCEEDED, finished_at=2.0)
    answer = tally("cancel", "a", "b", "nope", "--reason", "enough")
    assert answer.exit_code == 5
    assert answer.out == "task/a cancel requested\ntask/b is already Succeeded\n"
    assert "there is no task 'nope'" in answer.err
    assert tally("cancel", "a").out == "task/a cancel already requested\n"
    assert tally("cancel", "b").exit_code == 0
    assert tally("retry", "b").exit_code == 1
    put_status("b", State.FAILED, finished_at=2.0)
    assert tally("retry", "b").out == "task/b retry requested\n"


def test_retry_with_what_waits(tally: Tally, client: Client, put_raw: PutRaw, put_status: PutStatus) -> None:
    """Each once, behind what it waits for; a named task that needs no retry is left, and that is said."""
    put_raw("engine", b'{"engine":{"name":"null","id":"e"},"installation":"abc"}')
    put_raw("leader", release("r1", knows=["dependencies"]))
    client.features.enable("dependencies")
    text = """
- {id: load, command: [x], after: [fetch]}
- {id: fetch, command: [x]}
- {id: report, command: [x], after: [load, {task: fetch, when: finished}]}
"""
    assert tally("submit", "-f", "-", stdin=text).exit_code == 0
    put_status("fetch", State.SUCCEEDED)
    put_status("load", State.FAILED)
    put_status("report", State.CANCELLED, reason="Skipped")
    shown = tally("retry", "fetch", "--downstream", "--dry-run")
    assert [line.split()[0] for line in shown.out.splitlines()] == ["task/load", "task/report"]
    assert client.get("load").requests == ()
    answer = tally("retry", "fetch", "load", "none", "--downstream", "--reason", "again")
    assert answer.out.splitlines() == ["task/load retry requested", "task/report retry requested"]
    assert answer.exit_code == 5
    assert "task/fetch is neither Failed nor Cancelled, and is left as it is" in answer.err
    assert tally("retry", "--owner", "default", "--downstream").exit_code == 2


def test_a_selection_is_retried_parents_first(
    tally: Tally, client: Client, put_raw: PutRaw, put_status: PutStatus
) -> None:
    """A child that is retried before its parent would fail for it again."""
    put_raw("engine", b'{"engine":{"name":"null","id":"e"},"installation":"abc"}')
    put_raw("leader", release("r1", knows=["dependencies"]))
    client.features.enable("dependencies")
    text = """
- {id: s-3, command: [x], labels: {run: r}}
- {id: s-2, command: [x], labels: {run: r}, after: [s-3]}
- {id: s-1, command: [x], labels: {run: r}, after: [s-2]}
"""
    names = ("s-3", "s-2", "s-1")
    assert tally("submit", "-f", "-", stdin=text).exit_code == 0
    for name in names:
        put_status(name, State.FAILED)
    assert tally("retry", "-l", "run=r", "--yes").exit_code == 0
    keys = [client.keys.request(name, "retry") for name in names]
    deadline = client.clock.boottime() + 5
    items = [client.store.get(key, deadline=deadline)[0] for key in keys]
    mods = [item.mod for item in items if item is not None]
    assert len(mods) == 3
    assert mods == sorted(mods)


def test_a_file_with_dependencies_names_the_place_of_what_is_wrong(
    tally: Tally, client: Client, put_raw: PutRaw
) -> None:
    """Its tasks may be in any order, however many there are."""
    put_raw("engine", b'{"engine":{"name":"null","id":"e"},"installation":"abc"}')
    put_raw("leader", release("r1", knows=["dependencies"]))
    client.features.enable("dependencies")
    text = """- id: load
  command: [x]
  after:
  - task: fetch
  - task: none
- {id: fetch, command: [x]}
"""
    for dry_run in (["--dry-run"], []):
        answer = tally("submit", "-f", "-", *dry_run, stdin=text)
        assert answer.exit_code == 1
        assert "standard input:5: after[1].task: there is no task none" in answer.err
    assert tally("submit", "-f", "-", stdin=text.replace("none", "a")).exit_code == 0
    more = "".join(f"- {{id: t{n}, command: [x], after: [t{n + 1}]}}\n" for n in range(CHUNK))
    many = f"{more}- {{id: t{CHUNK}, command: [x]}}\n"
    assert tally("submit", "-f", "-", "--dry-run", stdin=many).out == f"{CHUNK + 1:,} created (dry run)\n"
    assert tally("submit", "-f", "-", stdin=many).out == f"{CHUNK + 1:,} created\n"


def test_confirm_stopped_wants_an_explicit_word(tally: Tally, put_status: PutStatus) -> None:
    """Without a terminal it is not asked for, so it must be given."""
    put_status("a", State.RUNNING, lost_since=2.0)
    answer = tally("confirm-stopped", "a")
    assert (answer.exit_code, "--yes" in answer.err) == (1, True)
    assert tally("confirm-stopped", "a", "--yes").out == "task/a confirm-stopped requested\n"


def test_apply_and_delete_pools(tally: Tally) -> None:
    """kubectl's words; a broken document does not keep the others from being applied."""
    text = (
        "name: p\ncapacity: {cpu: 8, nvidia.com/gpu: 2}\n---\nname: q\ncapacity: {cpu: -1}\n---\n- {name: r,"
        " capacity: {cpu: 1}}\n"
    )
    answer = tally("apply", "-f", "-", stdin=text)
    assert (answer.exit_code, answer.out) == (1, "pool/p created\npool/r created\n")
    assert "standard input:5: capacity.cpu: '-1' is not a quantity" in answer.err
    assert answer.err.endswith("\n2 created, 1 invalid\n")
    assert (
        tally("apply", "-f", "-", stdin="name: p\ncapacity: {cpu: 8, nvidia.com/gpu: 2}\n").out
        == "pool/p unchanged\n"
    )
    assert tally("apply", "-f", "-", stdin="name: p\ncapacity: {cpu: 9}\n").out == "pool/p configured\n"
    assert tally("delete", "pool", "p").out == "pool/p deleted\n"
    assert tally("delete", "pool", "p").exit_code == 5
    assert tally("delete", "task", "a").exit_code == 1
    assert tally("step-down").exit_code == 5


ASKING = (
    "get tasks",
    "get pools",
    "get replicas",
    "get tasks -w",
    "describe task a",
    "explain a",
    "explain a --eta",
    "plan -f deploy/examples/tasks.yaml",
    "what-if --cancel a",
    "history a",
    "logs a",
    "wait a",
    "submit a -- true",
    "cancel a",
    "retry a",
    "delete pool p",
    "step-down",
    "confirm-stopped a --yes",
    "audit",
    "check",
    "selftest",
    "engine show",
    "engine show --engine process",
    "engine adopt --engine null",
    "auth init --grant root=root",
)


@pytest.mark.parametrize("words", ASKING)
def test_without_etcd_each_command_says_where_to_look(
    tally: Tally, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    """A replica's endpoint answers without etcd, from what it has seen."""
    monkeypatch.setenv("TALLY_REQUEST_TIMEOUT_SECONDS", "0.1")
    monkeypatch.setenv("TALLY_STATUS", "127.0.0.1:9999")
    answer = tally("--etcd", "http://127.0.0.1:1", *shlex.split(words))
    assert answer.exit_code == 1
    assert (
        "see the page of one, such as http://127.0.0.1:9999/, or its /readyz?verbose, /v1/replicas"
        in answer.out + answer.err
    )


def test_flags_stand_before_or_after_the_verb(tally: Tally, etcd_factory: EtcdFactory) -> None:
    """The later one wins, and both win over the environment."""
    port = free_ports(1)[0]
    dead = f"http://127.0.0.1:{port}"
    answer = tally("--etcd", dead, "get", "pools", "--request-timeout-seconds", "0.3")
    assert answer.exit_code == 1
    assert f"etcd cannot be reached: {dead}" in answer.err
    assert (
        f"Is etcd running at {dead}? Give --etcd or TALLY_ETCD, start a local cluster (tally dev)"
        in answer.err
    )
    alive = etcd_factory.start().url
    assert tally("--etcd", dead, "get", "pools", "--etcd", f"{dead},{alive}").exit_code == 0, (
        "the next endpoint is tried"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["get", "tasks", "--etcd", "http://"], "etcd: 'http://' is not the URL of an etcd member"),
        (["get", "tasks", "--cluster", "Bad_"], "cluster: 'Bad_' may hold only"),
        (
            ["get", "tasks", "--password-file", "/nope"],
            "password_file: /nope is not a readable file",
        ),
        (["get", "tasks", "--user", "u"], "password_file: is missing, but user is given"),
        (["get", "tasks", "--config", "/nope"], "config: /nope cannot be read"),
        (["get", "tasks", "--config", "~nobody-here/x"], "config: ~nobody-here/x: the home directory is not"),
        (["get", "tasks", "--config", "\0"], "config: a path cannot contain a NUL character"),
        (["get", "tasks", "--password-file", "~nobody-here/x"], "password_file: ~nobody-here/x: the home"),
        (["get", "tasks", "--password-file", "a\0"], "password_file: a path cannot contain a NUL character"),
    ],
)
def test_a_bad_setting_is_named_with_its_source(tally: Tally, arguments: list[str], says: str) -> None:
    """And is a matter of usage."""
    answer = tally(*arguments)
    assert answer.exit_code == 2
    assert says in answer.err


def test_wrong_password_and_missing_rights(tally: Tally, etcd_factory: EtcdFactory, tmp_path: Path) -> None:
    """What etcd refuses is said with the user, the file and the key."""
    etcd = etcd_factory.start()
    enable_authentication(etcd_factory.store(etcd.url), "tally", "right", "/tally/mine/")
    password = tmp_path / "password"
    password.write_text("right\n")
    given = ("--etcd", etcd.url, "--user", "tally", "--password-file", str(password))
    assert tally("get", "pools", "--cluster", "mine", *given).exit_code == 0
    other = tally("get", "pools", "--cluster", "other", *given)
    assert other.exit_code == 1
    assert "lacks the right to read /tally/other/" in other.err
    password.write_text("wrong")
    wrong = tally("get", "pools", "--cluster", "mine", *given)
    assert wrong.exit_code == 1
    assert f"refuses to sign in the user 'tally' with the password in {password}" in wrong.err
    anonymous = tally("get", "pools", "--etcd", etcd.url)
    assert anonymous.exit_code == 1
    assert "requires a user and a password" in anonymous.err


def test_config_show_tells_where_each_value_comes_from(
    tally: Tally, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flag, environment, file, default, in this order of precedence."""
    file = tmp_path / "tally.toml"
    file.write_text(
        'cluster = "from-file"\nlease_ttl_seconds = 7\nrelist_seconds = "1m"\nreplica = "from-file"\n'
    )
    monkeypatch.delenv("TALLY_CLUSTER")
    monkeypatch.setenv("TALLY_LEASE_TTL_SECONDS", "8")
    shown = tally("config", "show", "--config", str(file), "--replica", "from-flag", "-o", "json").document
    assert shown["cluster"] == {"value": "from-file", "from": f"file {file}"}
    assert shown["lease_ttl_seconds"] == {"value": "8", "from": "environment TALLY_LEASE_TTL_SECONDS"}
    assert shown["relist_seconds"]["value"] == "60"
    assert shown["replica"] == {"value": "from-flag", "from": "flag --replica"}
    assert shown["engine"] == {"value": "process", "from": "default"}
    assert "from-flag" in tally("config", "show", "--replica", "from-flag").out


def test_audit_passes_its_verdict_on(tally: Tally, put_raw: PutRaw) -> None:
    """Exit 1 when something is wrong: here a hold without a ledger. Exit 3 when there is no engine to ask."""
    from controller.core.model import codec

    assert tally("audit", "--records-only").exit_code == 0
    unchecked = tally("audit")
    assert unchecked.exit_code == 3
    assert "no registered replica names it" in unchecked.out
    status = Status(state=State.RUNNING, pool="default", attempt=1, hold=Vector({"cpu": 100}))
    put_raw("states/a", codec.encode_status(status, {}))
    answer = tally("audit", "-o", "json")
    assert answer.exit_code == 1
    assert answer.document["verdict"] == "wrong"
    assert tally("audit").exit_code == 1


def test_check_says_what_it_sees(tally: Tally, etcd_factory: EtcdFactory) -> None:
    """Every point with a verdict; nothing to reach is wrong."""
    answer = tally("check")
    assert answer.exit_code == 0
    assert "ok       read: prefix /tally/" in answer.out
    assert "replicas: none registered" in answer.out
    assert {point["name"] for point in tally("check", "-o", "json").document["points"]} >= {
        "read",
        "space",
        "clocks",
        "replicas",
    }
    port = free_ports(1)[0]
    dead = tally("check", "--etcd", f"http://127.0.0.1:{port}", "--request-timeout-seconds", "0.2")
    assert dead.exit_code == 1
    assert dead.out.startswith("wrong    http://127.0.0.1:")


def test_an_unexpected_error_is_one_line(tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    """No traceback, but the way to one; and with it, on demand."""

    def explode(*_: object, **__: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(get, "_print_pools", explode)
    answer = tally("get", "pools")
    assert answer.exit_code == 1
    assert (
        answer.err
        == "error: unexpected RuntimeError: boom\nRun the command again with TALLY_DEBUG=1 to get a"
        " traceback, and report it.\n"
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(tally: Tally, shell: str, executable: list[str]) -> None:
    """A script for the shell, that the shell itself can read."""
    answer = tally("completion", shell)
    assert answer.exit_code == 0
    assert "_TALLY_COMPLETE" in answer.out
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=answer.out, text=True, check=True)
    assert tally("completion", "csh").exit_code == 2


def test_version_needs_no_etcd_and_imports_little(executable: list[str]) -> None:
    """What makes each command slow to start is imported by those that need it."""
    heavy = (
        "requests",
        "pydantic",
        "yaml",
        "starlette",
        "kubernetes",
        "docker",
        "structlog",
        "rich",
    )
    run = "import sys; from controller.cli.main import app; app(['version'], standalone_mode=False)"
    code = f"{run}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([executable[0], "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "words",
    ["version", "--version", "completion bash", "--help", "get -h", "config show", "notifier secret"],
)
def test_an_output_that_is_full_is_said_to_be(words: str, executable: list[str]) -> None:
    """And where nobody reads, all end as by SIGPIPE."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*executable, *words.split()], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: standard output")
    assert done.stderr.endswith(b"No space left on device\n")
    if not words.endswith(("-h", "--help", "--version")):
        ours, theirs = os.pipe()
        os.close(ours)
        with open(theirs, "wb") as unread:
            done = subprocess.run(
                [*executable, *words.split()], stdout=unread, stderr=subprocess.PIPE, check=False
            )
        assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("words", ["audit --repair", "selftest"])
@pytest.mark.parametrize("given", ["nan", "0", "-1", "inf", "soon"])
def test_a_timeout_is_a_duration(tally: Tally, words: str, given: str) -> None:
    """With one that is none, nothing is asked for."""
    refused = tally(*words.split(), f"--timeout={given}")
    assert (refused.exit_code, "--timeout: " in refused.err) == (2, True), refused.err


def test_help_names_every_verb(tally: Tally) -> None:
    """All of the design's commands, and each explains itself."""
    verbs = (
        "submit get describe wait logs history cancel retry explain apply delete step-down audit"
        " confirm-stopped check "
    )
    for verb in shlex.split(verbs + "dev controller completion version config"):
        assert verb in tally("--help").out
        answer = tally(verb, "--help")
        assert answer.exit_code == 0
        assert "Usage" in answer.out


def test_help_describes_what_all_commands_have_once(tally: Tally) -> None:
    """A command's help is about the command; the flags work behind it all the same."""
    assert "certificate" in tally("--help").out
    for verb, own in (("explain", ""), ("logs", "--state-dir"), ("controller", "--lease-ttl-seconds")):
        help_text = tally(verb, "--help").out
        assert "--config, --etcd, --cluster and the other flags that `tally --help` lists." in " ".join(
            help_text.split()
        )
        assert "--cert-file" not in help_text
        assert own in help_text


def test_only_what_is_likely_is_suggested(tally: Tally) -> None:
    """Nothing rather than nonsense."""

    def said(*words: str) -> str:
        answer = tally(*words)
        assert answer.exit_code == 2
        return " ".join(answer.err.replace("│", " ").split())

    assert "Did you mean 'submit'?" in said("sumbit", "x")
    assert "Did you mean" not in said("lance")
    assert "Did you mean" not in said("list")
    assert "--timeout" in said("wait", "a", "--timeot", "3")
    assert "Possible" not in said("get", "tasks", "--limit", "3")


def test_the_version_is_a_flag_too(tally: Tally) -> None:
    assert tally("--version").out == f"tally {__version__}\n"
    assert tally("--etcd", "http://127.0.0.1:1").exit_code == 2


VERBS = [
    "get",
    "describe",
    "explain",
    "history",
    "cancel",
    "retry",
    "wait",
    "submit",
    "apply",
    "delete",
    "config",
    "completion",
    "nope",
]
FLAGS = [
    "-o",
    "json",
    "name",
    "-l",
    "--state",
    "--sort-by",
    "--pool",
    "--for",
    "--dry-run",
    "-f",
    "--cpu",
    "--timeout",
    "--config",
    "--etcd",
    "--cluster",
    "task",
    "pools",
    "task/a",
    "pool/",
    "--",
    "-1",
    "1s",
    "../x",
    "a=b",
    "--verify",
    "show",
]
WORDS = st.sampled_from([*FLAGS, ""]) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@settings(max_examples=examples(100))
@example("auth", ["--", "--"])
@example("get", ["--config", "\0", "task"])
@example("auth", ["init", "--passwords", "~nobody-here"])
@given(st.sampled_from(VERBS), st.lists(WORDS, max_size=5))
def test_whatever_is_given_ends_with_a_code_of_the_table(verb: str, words: list[str]) -> None:
    """0, 1, 2, 4 or 5, and never a traceback or an unexpected error. Nothing listens where etcd should be."""
    assume(not any(word.startswith(("-w", "--w", "-h", "--h")) for word in words))
    environment = {
        "TALLY_ETCD": "http://127.0.0.1:1",
        "TALLY_REQUEST_TIMEOUT_SECONDS": "0.05",
        "TALLY_CONFIG": "/dev/null",
    }
    result = CliRunner().invoke(app, [verb, *words], input="", env=environment)
    assert result.exit_code in (0, 1, 2, 4, 5), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert "Traceback" not in result.output
    assert "error: unexpected" not in result.output


@pytest.mark.parametrize("grace", ["nan", "inf"])
def test_a_grace_is_a_number_of_seconds(tally: Tally, grace: str) -> None:
    answer = tally("engine", "adopt", "--installation", "old", "--yes", "--grace-seconds", grace)
    assert (answer.exit_code, "expected a number of seconds" in answer.err) == (2, True)


def test_what_a_local_cluster_sets_itself_is_said_to_be_ignored(
    tally: Tally, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In one line, with what to use; what is handed on to the replicas is not."""
    monkeypatch.setenv("TALLY_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TALLY_HEARTBEAT_SECONDS", "1")
    # of the process engine: before anything starts
    refused = ("dev", "--fake-cluster", "--data-dir", str(tmp_path / "data"))
    [ignored, *_] = tally(*refused).err.splitlines()
    assert (
        ignored == "warning: ignored, since `tally dev` sets these itself: TALLY_ETCD, TALLY_CLUSTER,"
        " TALLY_STATE_DIR; "
        "use --etcd-port, --data-dir"
    )
    for name in ("TALLY_ETCD", "TALLY_CLUSTER", "TALLY_STATE_DIR"):
        monkeypatch.delenv(name)
    assert "ignored" not in tally(*refused).err
