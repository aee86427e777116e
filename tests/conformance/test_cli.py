"""Both ways on the command line, by etcd and by a gateway: the same output and the same exit codes.

Each way has tasks of its own, whose names differ in one letter: what a command does by one way is compared
with what it does by the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from controller.cli.main import app
from controller.client import Client
from controller.core.model import codec
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.core.model.resources import Vector
from controller.dev.etcd import EtcdProcess
from tests.client.conftest import PutRaw, PutStatus
from tests.client.conftest import client as client
from tests.client.conftest import put_raw as put_raw
from tests.client.conftest import put_status as put_status
from tests.gateway.conftest import Served
from tests.gateway.conftest import _features as _features
from tests.gateway.conftest import served as served
from tests.support.waiting import wait_until

POOL = "name: {name}\ncapacity: {{cpu: 4}}\n"
SHARED = "name: shared-{way}\ncapacity: {{cpu: 4}}\nsharing: {{owners: {{vision: {{weight: 2}}}}}}\n"

Both = Callable[..., tuple[int, str, str]]


@pytest.fixture
def both(
    client: Client,
    served: Served,
    etcd: EtcdProcess,
    cluster_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    put_status: PutStatus,
    put_raw: PutRaw,
) -> Both:
    """Runs a command by both ways; `{}` in it is the letter of the way. The exit code, and both streams."""
    for name in ("TALLY_CONFIG", "TALLY_DEBUG", "TALLY_SERVER", "TALLY_ETCD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)  # where no `tally dev` has run
    token = tmp_path / "token"
    token.write_text(served.tokens["ops"])
    ways = {
        "e": ["--etcd", etcd.url, "--cluster", cluster_name],
        "g": ["--server", served.gateway.url, "--token-file", str(token)],
    }
    put_raw("ledgers/default", codec.encode_ledger(Vector({"cpu": 2000}), Op("x"), {}))
    for way in ways:
        file = tmp_path / f"pool-{way}.yaml"
        file.write_text(POOL.format(name=f"pool-{way}") + "---\n" + SHARED.format(way=way))
        for number, state in enumerate(("Running", "Succeeded", "Failed")):
            task = f"{state.lower()}-{way}"
            labels = {"way": way}
            client.submit({"id": task, "command": ["true"], "resources": {"cpu": 1}, "labels": labels})
            put_status(task, State(state), attempt=1, hold=Vector({} if number else {"cpu": 1000}))

    def run(*words: str, stdin: str | None = None) -> tuple[int, str, str]:
        found = []
        for way, connection in ways.items():
            _, revision = client.store.get(client.keys.leader, deadline=client.clock.boottime() + 5.0)
            wait_until(lambda: served.gateway._standby.revision >= revision, "the gateway's model")  # noqa: B023
            given = [*connection, *(word.replace("{}", way) for word in words)]
            result = CliRunner().invoke(app, given, input=stdin.replace("{}", way) if stdin else stdin)
            assert "Traceback" not in result.stdout + result.stderr
            found.append((result.exit_code, _plain(result.stdout, way), _plain(result.stderr, way)))
        assert found[0] == found[1], words
        return found[0]

    return run


def _plain(text: str, way: str) -> str:
    """Without the letter of the way, and without what no two calls have in common."""
    text = re.sub(rf"\b([a-z]+)-{way}\b", r"\1-WAY", text)
    text = re.sub(rf"(\bway\b\W+){way}\b", r"\1WAY", text)
    text = re.sub(r"set by \S+", "set by SOMEBODY", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-][\d:]+)?|\d{2}:\d{2}:\d{2}(\.\d+)?", "TIME", text)
    text = re.sub(r"\b\d+(\.\d+)? ?(ms|s|min|h)\b|\d+\.\d{3,}", "SPAN", text)
    return re.sub(r"(revision\D{0,3})\d+", r"\1N", text)


READS = [
    ("get", "task", "running-{}"),
    ("get", "task", "running-{}", "-o", "json"),
    ("get", "task", "running-{}", "-o", "yaml"),
    ("get", "task", "running-{}", "-o", "name"),
    ("get", "task", "none-{}"),
    ("get", "task", "No Name"),
    ("get", "tasks", "--state", "nonsense"),
    ("get", "tasks", "-l", "a b c ="),
    ("get", "pools"),
    ("get", "pool", "default"),
    ("get", "pool", "none"),
    ("get", "replicas"),
    ("get", "owners"),
    ("describe", "task", "running-{}"),
    ("describe", "task", "none-{}"),
    ("describe", "pool", "none"),
    ("explain", "running-{}"),
    ("explain", "none-{}"),
    ("history", "running-{}"),
    ("history", "none-{}"),
    ("usage",),
    ("usage", "--by", "label=x"),
    ("usage", "--since", "yesterday-ish"),
    ("top",),
    ("wait", "succeeded-{}", "--timeout", "5"),
    ("wait", "failed-{}", "--timeout", "5"),
    ("wait", "running-{}", "--timeout", "0.2"),
    ("wait", "none-{}", "--timeout", "0.2"),
    ("features",),
]  # fmt: skip


@pytest.mark.parametrize("words", READS, ids=" ".join)
def test_what_is_read(both: Both, words: tuple[str, ...]) -> None:
    both(*words)


def test_lists_have_the_tasks_of_both(both: Both) -> None:
    """Both ways show the same tasks, in the same order."""
    code, out, _ = both("get", "tasks", "-l", "way={}", "-o", "name")
    assert (code, out.split()) == (0, ["task/running-WAY", "task/succeeded-WAY", "task/failed-WAY"])
    both("get", "tasks", "-l", "way={}", "--state", "holding", "-o", "name")
    both("get", "tasks", "--owner", "nobody")


def test_what_is_written(both: Both, tmp_path: Path) -> None:
    """Submit and its outcomes, actions and their refusals, pools."""
    code, out, _ = both("submit", "new-{}", "--", "true")
    assert (code, out) == (0, "task/new-WAY created\n")
    assert both("submit", "new-{}", "--", "true")[1] == "task/new-WAY unchanged\n"
    assert both("submit", "Not A Name", "--", "true")[0] != 0
    assert both("submit", "dry-{}", "--dry-run", "--", "true")[0] == 0
    many = '[{"id": "m-{}", "command": ["true"]}, {"id": "n-{}", "command": [], "x": 1}]'
    assert both("submit", "-f", "-", stdin=many)[0] == 1
    assert both("cancel", "none-{}")[0] == 5
    assert both("cancel", "succeeded-{}")[0] == 0
    assert both("cancel", "running-{}", "--reason", "enough")[0] == 0
    assert both("retry", "failed-{}")[0] == 0
    both("retry", "new-{}")
    for verb in ("hold", "release"):
        assert both(verb, "new-{}")[0] == 0
        both(verb, "succeeded-{}")
    assert both("set", "priority", "7", "new-{}")[0] == 0
    both("set", "priority", "huge", "new-{}")
    many = '[{"id": "p-{}", "command": ["true"], "labels": {"way": "{}"}}]'
    assert both("submit", "-f", "-", stdin=many)[0] == 0
    for words, outcomes in {
        ("hold",): 1,
        ("set", "priority", "-3"): 1,
        ("set", "priority", "9999999999"): 1,
        ("release",): 1,
        ("retry",): 1,
        ("cancel",): 3,
    }.items():
        code, out, err = both(*words, "-l", "way={}", "--yes")
        assert len(out.splitlines()) + len(err.splitlines()) == outcomes, words
        assert code == ("9999999999" in words), words
    assert both("retry", "-l", "way={}", "--state", "succeeded", "--yes")[0] == 0
    assert both("cancel", "p-{}", "none-{}", "succeeded-{}")[0] == 5
    assert both("retry", "p-{}", "succeeded-{}")[0] == 1
    assert both("apply", "-f", str(tmp_path / "pool-{}.yaml"))[0] in (0, 1)
    assert both("get", "pool", "pool-{}")[0] == 0
    assert both("pause", "pool-{}")[0] == 0
    assert both("resume", "pool-{}")[0] == 0
    both("pause", "none")
    window = ("--at", "2999-01-01T00:00Z", "--for", "2h", "--reason", "new nodes")
    assert both("drain", "pool-{}", *window)[0] == 0
    assert both("get", "pool", "pool-{}")[0] == 0
    assert both("drain", "pool-{}", "--remove", "--at", "2998-01-01T00:00Z")[0] == 1
    assert both("drain", "pool-{}", "--remove")[0] == 0
    assert both("drain", "pool-{}", "--list")[0] == 0
    assert both("drain", "none", *window)[0] == 5
    assert both("delete", "pool", "pool-{}", "--yes")[0] in (0, 2)
    both("delete", "pool", "none")


def test_what_needs_etcd_says_so(both: Both, served: Served, tmp_path: Path) -> None:
    """By a gateway these fail with one sentence."""
    for words in (("audit",), ("selftest",), ("release-finalizers",), ("check",), ("engine", "show")):
        given = [*words, "--server", served.gateway.url, "--token-file", str(tmp_path / "token")]
        result = CliRunner().invoke(app, given)
        assert (result.exit_code, "needs etcd itself" in result.stderr) == (1, True), (words, result.stderr)
        assert "Traceback" not in result.stderr
