"""The logs of a real replica process: JSON off a terminal, one canonical line per transition, and no
secrets.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from controller.client import Client
from controller.core.model import codec
from controller.core.model.task import Step
from controller.dev.etcd import EtcdBinary
from tests.support.etcd import EtcdFactory, enable_authentication
from tests.support.waiting import wait_until

SECRET = "hunter2-in-the-environment"
PASSWORD = "hunter2-of-etcd"
ONE_RUN = pytest.mark.xdist_group("logs")  # of a replica, for all that have this mark


class Finished(NamedTuple):
    """What a replica left."""

    lines: list[str]
    history: list[Step]


@pytest.fixture(scope="module")
def finished(etcd_binary: EtcdBinary, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """What a replica logged from its start to its end, with a password, a task with a secret, and a retry."""
    folder = tmp_path_factory.mktemp("logs")
    etcd_factory = EtcdFactory(etcd_binary, folder)
    try:
        return _run_one(etcd_factory, folder)
    finally:
        etcd_factory.close()


def _run_one(etcd_factory: EtcdFactory, tmp_path: Path) -> Finished:
    etcd = etcd_factory.start()
    enable_authentication(etcd_factory.store(etcd.url), "tally", PASSWORD, "/tally/")
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    client = Client.of_store(
        etcd_factory.store(etcd.url, user="tally", password_file=str(password)), cluster="logs"
    )
    client.apply_pool({"name": "default", "capacity": {"cpu": 4}})
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TALLY_")} | {
        "TALLY_ETCD": etcd.url,
        "TALLY_CLUSTER": "logs",
        "TALLY_REPLICA": "r1",
        "TALLY_ENGINE": "process",
        "TALLY_STATE_DIR": str(tmp_path / "state"),
        "TALLY_STATUS": "127.0.0.1:0",
        "TALLY_USER": "tally",
        "TALLY_PASSWORD_FILE": str(password),
    }
    fails_once = ["sh", "-c", '[ "$TALLY_ATTEMPT" != 1 ]']
    client.submit(
        {
            "id": "twice",
            "command": fails_once,
            "env": {"PASSWORD": SECRET},
            "resources": {"cpu": 1},
            "retry": {"max_attempts": 2, "backoff_seconds": 0.1},
        }
    )
    log = tmp_path / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "controller.cli.main", "controller"], env=environment, stderr=sink
        )
        try:
            client.wait(["twice"], timeout_seconds=60)
            status = client.get("twice").status
            assert status is not None
            wait_until(lambda: b"Succeeded" in log.read_bytes(), "the last line")
        finally:
            process.terminate()
            process.wait(30)
    lines = log.read_text().splitlines()
    return Finished(lines, codec.decode_history(status))


@ONE_RUN
def test_each_transition_has_one_line_that_says_all(finished: Finished) -> None:
    entries = [json.loads(line) for line in finished.lines]  # every line is JSON, those of libraries too
    assert all({"event", "level", "timestamp", "replica", "cluster"} <= entry.keys() for entry in entries)
    transitions = [entry for entry in entries if entry["event"] == "transition"]
    told = [
        (e["task"], e["attempt"], e["epoch"], e["source"], e["event_kind"], e["state"]) for e in transitions
    ]
    expected = [("twice", s.attempt, s.epoch, s.source, s.event, s.state) for s in finished.history]
    assert told == expected
    assert max(Counter(told).values()) == 1
    assert [entry["revision"] for entry in transitions] == sorted(entry["revision"] for entry in transitions)
    assert {"elected", "phase", "replica starts", "replica stopped"} <= {entry["event"] for entry in entries}


@ONE_RUN
def test_no_line_holds_a_secret(finished: Finished) -> None:
    assert [line for line in finished.lines if SECRET in line or PASSWORD in line] == []


def logged(script: str) -> str:
    """What `script` writes to stderr after the logs were set up, off a terminal."""
    setup = "from controller.telemetry.logs import configure_logs; configure_logs(replica='r1')\n"
    done = subprocess.run([sys.executable, "-c", setup + script], capture_output=True, timeout=60, check=True)
    return done.stderr.decode()


def test_libraries_log_in_the_same_form() -> None:
    entry = json.loads(logged("import logging; logging.getLogger('urllib3').warning('retrying %s', 3)"))
    assert (entry["event"], entry["level"], entry["logger"], entry["replica"]) == (
        "retrying 3",
        "warning",
        "urllib3",
        "r1",
    )
    assert logged("import logging; logging.getLogger('urllib3').info('chatter')") == ""


def test_whatever_is_logged_becomes_one_line_of_json() -> None:
    script = (
        "import structlog; structlog.get_logger().info('odd', file='a\\udcff',"
        " path=__import__('pathlib').Path('/x'))"
    )
    entry = json.loads(logged(script))
    assert (entry["event"], entry["file"], entry["path"], entry["replica"]) == ("odd", "a\udcff", "/x", "r1")


@pytest.mark.parametrize("odd", ["'b'", r"'b\udcff'", "object"])
def test_an_event_of_several_lines_has_a_line_for_each(odd: str) -> None:
    """Each whole, with what all share; also if one has what is no text, and if there is one alone."""
    script = (
        "import structlog; from controller.lines import EACH\n"
        f"structlog.get_logger().info('moved', revision=7, **{{EACH: [dict(task='a'), dict(task={odd})]}})\n"
        "structlog.get_logger().info('moved', **{EACH: [dict(task='c')]})\n"
    )
    first, second, third = map(json.loads, logged(script).splitlines())
    shared = {
        "event": "moved",
        "level": "info",
        "replica": "r1",
        "timestamp": first["timestamp"],
        "revision": 7,
    }
    assert first == {"task": "a", **shared}
    assert second == {"task": second["task"], **shared}
    assert second["task"] in ("b", "b\udcff", "<class 'object'>")
    assert (third["task"], third["event"], "each" in third) == ("c", "moved", False)


def test_on_a_terminal_an_event_of_several_lines_has_a_line_for_each() -> None:
    script = (
        "import structlog; configure_logs(json=False); from controller.lines import EACH\n"
        "structlog.get_logger().info('moved', revision=7, **{EACH: [dict(task='a'), dict(task='b')]})\n"
    )
    lines = re.sub(r"\x1b\[[0-9;]*m", "", logged(script)).splitlines()
    assert [line.split()[-2:] for line in lines] == [["revision=7", "task=a"], ["revision=7", "task=b"]]


def test_on_a_terminal_lines_are_for_people() -> None:
    """Coloured, and no JSON; what is bound to all lines is left out, as the screen shows one replica."""
    screen, terminal = os.openpty()
    script = "from controller.telemetry.logs import configure_logs; configure_logs(replica='r1')\n"
    script += "import structlog; structlog.get_logger().info('phase', term=7)"
    environment = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")
    }
    subprocess.run([sys.executable, "-c", script], stderr=terminal, env=environment, timeout=60, check=True)
    os.close(terminal)
    text = os.read(screen, 65536).decode()
    os.close(screen)
    assert "\x1b[" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert re.search(r"\[info *\] phase +term=7\s*$", plain), plain
    assert "r1" not in plain


def test_tracebacks_do_not_show_what_variables_hold() -> None:
    script = (
        "import structlog\ndef work():\n    password = 'hunter' + str(2)\n    raise ValueError('odd')\ntry:\n"
        "    work()\nexcept ValueError as error:\n    structlog.get_logger().error('failed',"
        " exc_info=error)\n"
    )
    for form in (script, script.replace("import structlog", "import structlog; configure_logs(json=False)")):
        text = logged(form)
        assert "ValueError: odd" in text
        assert "hunter2" not in text
