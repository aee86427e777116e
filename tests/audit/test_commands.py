"""The commands over a damaged cluster, as an operator types them, and the leader's audit of itself."""

from __future__ import annotations

import json
import os
import signal

import httpx
import msgspec
import pytest
from typer.testing import CliRunner

from controller.cli.main import app
from controller.core.model import codec
from controller.core.model.lifecycle import State
from controller.core.model.resources import Vector
from tests.audit.conftest import CPU, Damaged
from tests.support.local import leader_of, logged, pid_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("audit: commands")  # one cluster serves all


def tally(damaged: Damaged, *arguments: str) -> tuple[int, str, str]:
    """Exit code and both streams of a command."""
    result = CliRunner().invoke(app, ["--etcd", damaged.cluster.endpoint, *arguments])
    assert "Traceback" not in result.stdout + result.stderr
    return result.exit_code, result.stdout, result.stderr


def test_dry_run_prints_the_transaction_and_writes_nothing(damaged: Damaged) -> None:
    damaged.runs()
    damaged.set_held(4000)
    item, revision = damaged.client.store.get(damaged.client.keys.ledger("default"), deadline=damaged.soon())
    leader = damaged.client.replicas.leader()
    assert item is not None
    assert leader is not None
    code, out, _ = tally(damaged, "audit", "--repair", "--dry-run")
    assert code == 1
    assert "REPAIRED I1 pool/default: the ledger was cpu 4, and is now what the tasks hold: cpu 500m" in out
    assert f"if     create_revision(/tally/default/leader) == {leader.term}" in out
    assert f"if     mod_revision(/tally/default/ledgers/default) == {item.mod}" in out
    assert 'put    /tally/default/ledgers/default {"version":1,"held":{"cpu":"500m"}' in out
    assert damaged.held() == Vector({"cpu": 4000})
    document = json.loads(tally(damaged, "audit", "--repair", "--dry-run", "-o", "json")[1])
    assert {write["put"] for write in document["preview"]["writes"] if "put" in write} >= {item.key}
    assert revision


def test_repair_goes_on_until_nothing_is_wrong(damaged: Damaged) -> None:
    """Exit 0 then, with what became of each finding."""
    name = damaged.runs()
    damaged.set_held(4000)
    damaged.put(
        f"states/{name}", codec.encode_status(msgspec.structs.replace(damaged.status(name), epoch=77), {})
    )
    code, out, err = tally(damaged, "audit", "--repair", "--reason", "a drill")
    assert (code, err) == (0, "")
    assert "REPAIRED I1 pool/default" in out
    assert f"REPAIRED I7 task/{name}" in out
    assert out.rstrip().endswith("Nothing is wrong.")
    assert damaged.held() == CPU
    assert codec.decode_history(damaged.status(name))[-1].reason == "Repaired"


def test_a_repair_that_no_leader_takes_up_is_no_success(damaged: Damaged) -> None:
    """Also where nothing else is wrong: what was to be deleted is there."""
    damaged.put("pools/No_Name", b"{}")
    pid = pid_of(leader_of(damaged.cluster))
    os.kill(pid, signal.SIGSTOP)
    try:
        code, out, err = tally(
            damaged, "audit", "--records-only", "--repair", "--delete", "pools/No_Name", "--timeout", "1"
        )
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (code, "Nothing is wrong" in out) == (1, True)
    assert "so it was withdrawn; does the leader hear its engine?" in err
    assert tally(damaged, "audit", "--records-only", "--repair", "--delete", "pools/No_Name")[0] == 0


def test_flags_that_do_not_go_together_are_wrong_usage(damaged: Damaged) -> None:
    assert tally(damaged, "audit", "--dry-run")[0] == 2
    code, _, err = tally(damaged, "audit", "--repair", "--delete", "states/nope")
    assert code == 1
    assert "no quarantined key is named 'states/nope'" in err


def test_history_is_verified(damaged: Damaged) -> None:
    """Exit 0 with the verdict; exit 1 saying where it breaks."""
    name = damaged.done()
    code, out, _ = tally(damaged, "history", name, "--verify")
    assert code == 0
    assert "steps from Created to Succeeded, the stored state" in out
    status = damaged.status(name)
    damaged.put(
        f"states/{name}", codec.encode_status(msgspec.structs.replace(status, state=State.FAILED), {})
    )
    code, _, err = tally(damaged, "history", name, "--verify")
    assert (code, "the steps lead to Succeeded, but it is stored as Failed" in err) == (1, True)
    assert json.loads(tally(damaged, "history", name, "--verify", "-o", "json")[1])["problems"]
    damaged.put(f"states/{name}", codec.encode_status(status, {}))


def test_the_leader_finds_damage_by_itself(damaged: Damaged) -> None:
    """Within its interval, in its log, its metrics and beside the audit of its endpoint; and it stops
    telling when it is mended.
    """
    name = damaged.done()
    status = damaged.status(name)
    damaged.set_held(123)
    damaged.put(f"states/{name}", codec.encode_status(msgspec.structs.replace(status, epoch=88), {}))
    wrong = {("I1", "pool/default"), ("I7", f"task/{name}")}
    (replica,) = damaged.cluster.replicas
    url = f"http://127.0.0.1:{replica.status_port}"

    def own() -> set[tuple[str, str]]:
        document = httpx.get(f"{url}/v1/audit", timeout=30, trust_env=False).json()["own"] or {"findings": []}
        return {(finding["invariant"], finding["subject"]) for finding in document["findings"]}

    wait_until(lambda: wrong <= own(), "the leader finding both", poll=0.5)
    for _, subject in wrong:
        assert logged(damaged.cluster, replica, event="audit", subject=subject)
    assert tally(damaged, "audit", "--repair")[0] == 0
    wait_until(lambda: not own(), "the leader finding nothing any more", poll=0.5)


def test_selftest_reports_item_by_item(damaged: Damaged) -> None:
    code, out, err = tally(damaged, "selftest", "--timeout", "60")
    assert (code, err) == (0, "")
    assert {line.split()[0] for line in out.splitlines()} == {"ok"}
