"""`tally audit` where the engine cannot be looked at: all that etcd tells is told, nothing of attempts,
and the verdict says so.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from controller.client import Client
from controller.clock import SystemClock
from controller.core.model import codec, installation
from controller.core.model.installation import EngineRecord, Installation
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.core.model.resources import Vector
from controller.engine.process.engine import ProcessEngine
from tests.cli.conftest import Tally
from tests.client.conftest import PutRaw, PutStatus

MINE = Installation(id="abc123")


@pytest.fixture
def home(client: Client, put_raw: PutRaw, tmp_path: Path) -> Path:
    """A state folder with its records, a replica that names it, and a task that waits."""
    state_dir = tmp_path / "state"
    engine = ProcessEngine(state_dir, client.keys.cluster, SystemClock())
    engine.bind(MINE, claim=True)
    put_raw("installation", installation.encode(MINE, Op("op")))
    put_raw(
        "engine", installation.encode(EngineRecord(engine=engine.identity(), installation=MINE.id), Op("op"))
    )
    put_raw(
        "replicas/r1",
        msgspec.json.encode({"id": "r1", "engine": {"name": "process", "state_dir": str(state_dir)}}),
    )
    put_raw("epoch", b'{"epoch":1,"op":"e"}')
    engine.close()
    client.apply_pool({"name": "default", "capacity": {"cpu": 4}})
    client.submit({"id": "runs", "command": ["true"], "resources": {"cpu": "500m"}})
    return state_dir / client.keys.cluster


def attempts_is_a_file(home: Path) -> None:
    shutil.rmtree(home / "attempts")
    (home / "attempts").write_text("")


def the_folder_is_a_file(home: Path) -> None:
    shutil.rmtree(home)
    home.write_text("")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "attempts is a file": attempts_is_a_file,
    "attempts is gone": lambda home: shutil.rmtree(home / "attempts"),
    "the folder is gone": shutil.rmtree,
    "its parent is gone": lambda home: shutil.rmtree(home.parent),
    "the folder is a file": the_folder_is_a_file,
    "engine.json is garbage": lambda home: (home / "engine.json").write_bytes(b"\xff{"),
    "engine.json is too deep": lambda home: (home / "engine.json").write_bytes(b"[" * 100_000),
    "engine.json is gone": lambda home: (home / "engine.json").unlink(),
    "another folder in its place": lambda home: (home / "engine.json").write_bytes(
        b'{"id":"other","first":"abc123"}'
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_state_folder(
    tally: Tally, home: Path, put_raw: PutRaw, put_status: PutStatus, damage: Callable[[Path], object]
) -> None:
    """A task runs by the records, and has no attempt: while that cannot be seen nothing is said of it.

    Nothing is made either.
    """
    put_status("runs", State.RUNNING)
    before = tally("audit", "-o", "json")
    assert "I5" in {finding["invariant"] for finding in before.document["findings"]}
    damage(home)
    left = (
        sorted(path for path in home.parent.rglob("*") if path.name != "supervisors.log")
        if home.parent.exists()
        else None
    )
    put_raw("ledgers/default", codec.encode_ledger(Vector({"cpu": 4000}), Op("op"), {}))
    found = tally("audit", "-o", "json")
    invariants = {finding["invariant"] for finding in found.document["findings"]}
    assert (found.exit_code, found.document["verdict"]) == (1, "wrong")
    assert "I1" in invariants
    assert not invariants & {"I4", "I5"}
    assert (found.document["checked"]["attempts"], bool(found.document["checked"]["engine_problem"])) == (
        None,
        True,
    )
    assert "The engine was not checked, because " in tally("audit").out
    assert left == (
        sorted(path for path in home.parent.rglob("*") if path.name != "supervisors.log")
        if left is not None
        else None
    )
    assert home.parent.exists() is (left is not None)


@pytest.mark.parametrize("engine", ["docker", "kubernetes", "process"])
def test_an_engine_in_vain(
    tally: Tally, home: Path, put_raw: PutRaw, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is wrong by the records: exit 3, and a text that is no all-clear."""
    kubeconfig = tmp_path / "kubeconfig"
    cluster = {"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "n"}}
    document = {
        "clusters": [cluster],
        "contexts": [context],
        "users": [{"name": "u", "user": {}}],
        "current-context": "c",
    }
    kubeconfig.write_bytes(msgspec.json.encode({"apiVersion": "v1", "kind": "Config", **document}))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-daemon")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    put_raw(
        "replicas/r1",
        msgspec.json.encode({"id": "r1", "engine": {"name": engine, "state_dir": f"{home}/none"}}),
    )
    found = tally("audit")
    assert found.exit_code == 3, found.out + found.err
    assert "The engine was not checked, because " in found.out
    assert "Nothing is wrong in the records" in found.out
    assert "does not cover attempts" in found.out
    assert tally("audit", "--records-only").exit_code == 0
    assert tally("audit", "-o", "json").document["verdict"] == "incomplete"
    assert tally("check").exit_code == 1  # nobody leads, and all is told up to there
    assert "leader" in tally("check").out
    assert tally("explain", "runs").exit_code == 0
