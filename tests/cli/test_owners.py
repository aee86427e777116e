"""Owners of shared pools at the command line: get owners, describe pool, usage, and who owns a task."""

from __future__ import annotations

import csv
import io
import signal
import subprocess
from pathlib import Path

import pytest

from controller.client import Client
from controller.core.model import codec
from controller.core.model.claims import Claim, ClaimKind, encode_claim
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.core.model.records import Ledger
from controller.core.model.resources import Vector
from controller.core.model.shares import Account, Share, encode_share
from tests.cli.conftest import Tally
from tests.client.conftest import POOL, PutRaw, PutStatus
from tests.support.etcd import in_seconds

POLICY = {"weight": 2, "guarantee": {"cpu": 3}, "limit": {"cpu": 6}, "max_running": 9}
SHARING = {"half_life_seconds": 60, "owners": {"vision": POLICY}}
AT = 1_764_000_000_000  # 2025-11-24T16:00:00Z
HELD = Vector({"cpu": 2000, "memory": 2**30 // 4})


@pytest.fixture(autouse=True)
def _shared(client: Client, put_raw: PutRaw, put_status: PutStatus) -> None:
    parts = b'"parts":{"feature/owners":"","feature/claims":""}'
    put_raw("engine", b'{"engine":{"name":"null","id":"e",%b},"installation":"abc"}' % parts)
    client.apply_pool({**POOL, "sharing": SHARING, "preemption": {"reclaim": True}})
    client.submit_many(
        {"id": name, "command": ["true"], "owner": owner, "resources": {"cpu": 1}}
        for name, owner in (("a", "vision"), ("b", "vision"), ("c", "nlp"))
    )
    put_status("a", State.RUNNING, owner="vision")
    op = Op("share")
    recent = Vector({name: amount * 1024 for name, amount in HELD.items()})
    share = Share(held=HELD, running=1, used=Vector({"cpu": 3_600_000_000}), recent=recent, at=AT)
    put_raw("shares/default/vision", encode_share(share, op))
    put_raw("ledgers/default", Ledger(HELD, account=Account(share.used, AT, op)).encode(op))


def test_owners_are_listed_with_their_policies_and_shares(tally: Tally, put_status: PutStatus) -> None:
    """One row for each owner of each pool, in the forms of all lists."""
    lines = tally("get", "owners").out.splitlines()
    heads = "POOL OWNER WEIGHT HELD GUARANTEE LIMIT SHARE RUNNING WAITING ON-HOLD"
    assert lines[0].split() == heads.split()
    nlp = ["default", "nlp", "1", "-", "-", "-", "0", "0", "1", "0"]
    vision = ["default", "vision", "2", "cpu=2,memory=256Mi", "cpu=3", "cpu=6", "0.125", "1", "1", "0"]
    assert [line.split() for line in lines[1:]] == [nlp, vision]
    assert tally("get", "owners", "-o", "wide").rows()[1] == [*vision, "9", "-", "-"]
    assert tally("get", "owners", "--pool", "default", "-o", "name").out == "owner/nlp\nowner/vision\n"
    [told] = tally("get", "owner/vision", "-o", "json").document["items"]
    assert (told["limit"], told["running"]) == ({"cpu": "6"}, 1)
    assert told["held"] == {"cpu": "2", "memory": "256Mi"}
    assert int(told["used"]["cpu"]) > 3_600_000_000
    put_status("b", State.WAITING_RETRY, owner="vision", on_hold=True)
    assert tally("get", "owner", "vision").rows()[0][-3:] == ["1", "0", "1"]
    assert tally("get", "owners", "--pool", "none").err.startswith("No owners found")
    assert tally("get", "owner", "nobody").exit_code == 5


def test_tasks_show_their_owner_and_are_selected_by_it(tally: Tally) -> None:
    assert tally("get", "tasks", "--owner", "vision", "-o", "name").out == "task/a\ntask/b\n"
    assert tally("get", "tasks", "--owner", "owner/nlp", "-o", "name").out == "task/c\n"
    lines = tally("get", "tasks", "-o", "wide").out.splitlines()
    at = lines[0].split().index("OWNER")
    assert [line.split()[at] for line in lines[1:]] == ["vision", "vision", "nlp"]
    assert "Owner:     vision" in tally("describe", "task", "b").out


def test_a_task_is_submitted_for_an_owner(tally: Tally, client: Client) -> None:
    assert tally("submit", "mine", "--owner", "nlp", "--", "true").exit_code == 0
    assert client.get("mine").owner == "nlp"
    answer = tally("submit", "typo", "--owner", "visoin", "-o", "name", "--", "true")
    assert (answer.exit_code, answer.out) == (0, "task/typo\n")
    assert answer.err == "warning: typo: owner visoin is new in pool default (the pool names: vision)\n"
    again = tally("submit", "typo", "--owner", "visoin", "--", "true")
    assert (again.out, again.err) == ("task/typo unchanged\n", "")
    assert "owner" in tally("submit", "yours", "--owner", "No One", "--", "true").err


def test_a_pool_is_described_with_its_owners_and_claims(tally: Tally, put_raw: PutRaw) -> None:
    claim = Claim(
        kind=ClaimKind.RECLAIM,
        asked=Vector({"cpu": 2000}),
        short=Vector({"cpu": 1000}),
        victims=("a-1", "gone-1"),
        at=AT,
    )
    put_raw("claims/default/c", encode_claim(claim, Op("claim")))
    told = tally("describe", "pool", "default").out
    assert "Sharing: half-life 1m, priority within-owner\n" in told
    assert "Preemption: reclaim; none younger than 5m; 0 of 60 stops used in this minute\n" in told
    rows = [line.split() for line in told.splitlines()]
    assert [
        "vision",
        "2",
        "cpu=2,memory=256Mi",
        "cpu=3",
        "cpu=6",
        "0.125",
        "1",
        "1",
        "0",
        "9",
        "-",
        "-",
    ] in rows
    assert ["c", "reclaim", "cpu=2", "cpu=1", "1", "of", "2", "2025-11-24T16:00:00Z", "-"] in rows
    put_raw("ledgers/default", codec.encode_ledger(HELD, Op("hand"), {}))
    assert "shares are being rebuilt" in tally("describe", "pool", "default").out


def test_top_shows_who_holds_most(tally: Tally, client: Client) -> None:
    client.apply_pool({"name": "idle", "capacity": {"cpu": 1}})
    lines = [line.split() for line in tally("top").out.splitlines()]
    assert lines == [
        ["POOL", "PART", "HELD", "CAPACITY"],
        ["default", "25%", "cpu=2,memory=256Mi", "cpu=8,memory=1Gi"],
        ["idle", "0%", "-", "cpu=1"],
        [],
        ["POOL", "OWNER", "PART", "HELD", "SHARE", "RUNNING"],
        ["default", "vision", "25%", "cpu=2,memory=256Mi", "0.125", "1"],
    ]
    assert tally("top", "--pool", "idle").out.splitlines()[1:] == ["idle   0%     -      cpu=1"]


def test_top_refreshes_until_it_is_interrupted(executable: list[str], environment: dict[str, str]) -> None:
    """Not on a terminal, the tables follow each other."""
    process = subprocess.Popen([*executable, "top", "-w"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    heads = 0
    while heads < 4:  # two of each
        heads += process.stdout.readline().startswith("POOL")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130


def test_a_pool_is_paused_and_resumed_and_else_unchanged(
    tally: Tally, client: Client, put_raw: PutRaw
) -> None:
    """What this release does not know of a pool stays as well."""
    item, _ = client.store.get(client.keys.pool("default"), deadline=in_seconds())
    assert item is not None
    stored = {**codec.decode_mapping(item.value), "newer": [1]}
    put_raw("pools/default", codec.encode(stored))
    assert tally("pause", "default").out == "pool/default paused\n"
    assert tally("pause", "pool/default").out == "pool/default unchanged\n"
    assert tally("get", "pools").rows()[0][-1] == "paused"
    assert "to resume it, run `tally resume default`" in tally("explain", "c").out
    assert tally("resume", "default").out == "pool/default resumed\n"
    item, _ = client.store.get(client.keys.pool("default"), deadline=in_seconds())
    assert item is not None
    assert {**codec.decode_mapping(item.value), "op": ""} == {**stored, "paused": False, "op": ""}
    assert tally("pause", "none").exit_code == 5


def test_guarantees_that_a_pool_cannot_give_are_refused_by_name(tally: Tally, tmp_path: Path) -> None:
    file = tmp_path / "pool.yaml"
    owners = "{vision: {guarantee: {cpu: 3}}, nlp: {guarantee: {cpu: 2}}}"
    file.write_text(f"name: small\ncapacity: {{cpu: 4}}\nsharing: {{owners: {owners}}}\n")
    refused = tally("apply", "-f", str(file))
    assert refused.exit_code == 1
    assert "sharing.owners: guarantees 5 of cpu in all, but the capacity is 4" in refused.err
    assert tally("get", "pool", "small").exit_code == 5


@pytest.mark.parametrize("command", [["usage"], ["usage", "--by", "label=team"], ["top"]])
def test_a_pool_that_is_not_there_is_an_error(tally: Tally, command: list[str]) -> None:
    answer = tally(*command, "--pool", "nope")
    assert (answer.exit_code, answer.out) == (5, "")
    assert "there is no pool 'nope'" in answer.err


def test_usage_in_hours_and_in_exact_integers(tally: Tally, put_raw: PutRaw) -> None:
    """The table is rounded; JSON and CSV are exact, as text."""
    used = Vector({"cpu": 3_600_000_001, "memory": 2**30 * 5_400_000})
    share = Share(
        used=used, at=AT, lost=Vector({"cpu": 1_800_000_000}), stopping=Vector({"cpu": 360_000_000})
    )
    put_raw("shares/default/vision", encode_share(share, Op("share")))
    shown = tally("usage")
    assert shown.out.splitlines()[0].startswith("Used since the beginning, until 20")
    assert [line.split() for line in shown.out.splitlines()[1:]] == [
        ["OWNER", "UNIT", "USED", "LOST", "STOPPING"],
        ["vision", "cpu·h", "1.000", "0.500", "0.100"],
        ["vision", "memory", "GiB·h", "1.500", "-", "-"],
    ]
    exact = {"cpu": "3600000001", "memory": str(2**30 * 5_400_000)}
    parts = {"lost": {"cpu": "1800000000"}, "stopping": {"cpu": "360000000"}}
    told = tally("usage", "--by", "pool", "-o", "json").document
    assert (told["by"], told["since"], told["items"]) == (
        "pool",
        None,
        [{"name": "default", "used": exact, **parts}],
    )
    rows = list(csv.reader(io.StringIO(tally("usage", "-o", "csv").out)))
    assert rows[0] == ["owner", "resource", "unit_milliseconds", "lost", "stopping"]
    assert rows[1:] == [
        ["vision", "cpu", exact["cpu"], "1800000000", "360000000"],
        ["vision", "memory", exact["memory"], "0", "0"],
    ]
    assert "no day was closed before" in tally("usage", "--since", "7d").err
    assert "nothing is counted" in tally("usage", "--until", "7d").err
    assert "is not after since" in tally("usage", "--since", "1d", "--until", "2d").err
    for wrong in (("--by", "team"), ("--since", "soon"), ("--until", "later"), ("-o", "yaml")):
        assert tally("usage", *wrong).exit_code == 2, wrong
