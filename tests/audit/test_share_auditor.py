"""The auditor of shared pools finds nothing in a true history, and each lie that is put into it."""

from __future__ import annotations

import ast
import base64
import copy
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import share_auditor
from tests.support.etcd import EtcdFactory
from tests.support.share_auditor import Auditor, audit
from tests.support.share_records import Event, quantities, read

History = dict[int, dict[str, Any]]


def ledger(op: str, held: int, used: int, at: int, **fields: Any) -> dict[str, Any]:
    return {"held": cpu(held), "used": {"cpu": str(used)}, "at": at, "op": op, "shares_op": op, **fields}


def share(op: str, held: int, running: int, used: int, at: int, **parts: int) -> dict[str, Any]:
    told = {part: {"cpu": str(amount)} for part, amount in parts.items()}
    return {"held": cpu(held), "running": running, "used": {"cpu": str(used)}, "at": at, "op": op, **told}


def cpu(cores: int) -> dict[str, str]:
    return {"cpu": str(cores)} if cores else {}


def status(
    owner: str,
    state: str,
    hold: int,
    *steps: tuple[int, str, str, str],
    spent: tuple[int, int] = (0, 0),
    **fields: Any,
) -> dict[str, Any]:
    """`steps`: at (ms), source, event, state. `spent`: what the last one says, lost and stopping."""
    history: list[dict[str, Any]] = [
        {"at": at / 1000, "source": source, "event": event, "state": to, "attempt": 1}
        for at, source, event, to in steps
    ]
    history[-1] |= {name: ms for name, ms in zip(("lost_ms", "stopping_ms"), spent, strict=True) if ms}
    if "reason" in fields:
        history[-1]["reason"] = fields["reason"]
    told = {
        "state": state,
        "pool": "p",
        "owner": owner,
        "attempt": 1,
        "steps": len(steps),
        "history": history,
    }
    return {**told, "hold": cpu(hold), **fields}


ADMIT_A = (1000, "Created", "admitted", "Pending")
ADMIT_B = (2000, "Created", "admitted", "Pending")
STOP_B = (3000, "Pending", "stop-requested", "Pending")
ADMIT_C, LOST_C = (6000, "Created", "admitted", "Pending"), (7500, "Pending", "noted", "Pending")
CLAIM = {"kind": "reclaim", "asked": cpu(2), "short": cpu(1), "victims": ["b-1"], "at": 3000}
END_A, END_C = (
    (7000, "Pending", "succeeded-observed", "Succeeded"),
    (8000, "Pending", "failed-observed", "Failed"),
)
GOOD: History = {
    2: {"pools/p": {"capacity": cpu(4), "sharing": {}, "preemption": {"per_minute": 1}}},
    3: {"tasks/a": {"owner": "x"}, "tasks/b": {"owner": "y"}, "tasks/c": {"owner": "x"}},
    4: {"states/a": status("x", "Pending", 2, ADMIT_A), "shares/p/x": share("1", 2, 1, 0, 1000)}
    | {"ledgers/p": ledger("1", 2, 0, 1000)},
    5: {"states/b": status("y", "Pending", 1, ADMIT_B), "shares/p/y": share("2", 1, 1, 0, 2000)}
    | {"ledgers/p": ledger("2", 3, 2_000_000, 2000)},
    6: {"states/b": status("y", "Pending", 1, ADMIT_B, STOP_B, stopping="preempted"), "claims/p/c": CLAIM}
    | {"ledgers/p": ledger("3", 3, 2_000_000, 2000, minute=0, stopped=1)},
    7: {
        "states/b": status(
            "y", "WaitingRetry", 0, ADMIT_B, STOP_B,
            (5000, "Pending", "preempted", "WaitingRetry"), reason="Preempted", spent=(0, 2000),
        ),
        "shares/p/y": share("4", 0, 0, 3_000_000, 5000, stopping=2_000_000),
        "ledgers/p": ledger("4", 2, 11_000_000, 5000),
    },
    8: {"states/c": status("x", "Pending", 2, ADMIT_C), "claims/p/c": None}
    | {"shares/p/x": share("5", 4, 2, 10_000_000, 6000), "ledgers/p": ledger("5", 4, 13_000_000, 6000)},
    9: {"states/a": status("x", "Succeeded", 0, ADMIT_A, END_A)}
    | {"shares/p/x": share("6", 2, 1, 14_000_000, 7000), "ledgers/p": ledger("6", 2, 17_000_000, 7000)},
    10: {"states/c": status("x", "Pending", 2, ADMIT_C, LOST_C, lost_since=7.5)},
    11: {"states/c": status("x", "Failed", 0, ADMIT_C, LOST_C, END_C, failures=1, spent=(500, 0))}
    | {"shares/p/x": share("7", 0, 0, 16_000_000, 8000, lost=1_000_000)}
    | {"ledgers/p": ledger("7", 0, 19_000_000, 8000)},
}  # fmt: skip
"""a holds 2 cpu from 1 s to 7 s, b 1 cpu from 2 s until it was preempted at 5 s, c 2 cpu from 6 s to 8 s.

b was being stopped from 3 s on, and c was lost from 7.5 s on.
"""


def audited(history: History) -> Auditor:
    events = [
        Event(f"/tally/main/{key}", None if value is None else json.dumps(value).encode(), revision)
        for revision, keys in sorted(history.items())
        for key, value in keys.items()
    ]
    return audit(events, "main")


def test_nothing_is_found_in_a_true_history() -> None:
    auditor = audited(GOOD)
    assert auditor.findings == []
    assert (auditor.revisions, auditor.preemptions, auditor.rebuilds) == (10, 1, 0)
    assert auditor.unfinished() == ["b"]


Path_ = tuple[Any, ...]
STEP_END = ("states/b", "history", 2)
LIES: list[tuple[str, int, Path_, Any]] = [
    # what is found; the revision; the path to a value there; what it becomes
    ("I1: ledgers/p: holds cpu 3000, its tasks cpu 2000", 4, ("ledgers/p", "held"), cpu(3)),
    ("I1: states/a: holds cpu 2000, but is Succeeded", 9, ("states/a", "hold"), cpu(2)),
    ("I1: states/a: holds cpu 2000 without a step that admits it", 4, ("states/a", "history"), []),
    ("I1: states/a: attempt 1 gives up cpu 2000 without a step", 9, ("states/a", "history"), []),
    ("I2: ledgers/p: cpu was taken to 3000, above 2000", 2, ("pools/p", "capacity"), cpu(2)),
    ("I9: states/a: is charged to x, but its spec says z", 3, ("tasks/a", "owner"), "z"),
    ("I9: shares/p/x: holds cpu 1000 in 1 tasks, but they hold cpu 2000", 4, ("shares/p/x", "held"), cpu(1)),
    ("I9: ledgers/p: holds cpu 2000, its shares cpu 1000", 4, ("shares/p/x", "held"), cpu(1)),
    ("I9: shares/p/x: holds cpu 2000 in 2 tasks", 4, ("shares/p/x", "running"), 2),
    ("I10: shares/p/x: used.cpu fell from 10000000 to 9", 9, ("shares/p/x", "used"), {"cpu": "9"}),
    ("I10: ledgers/p: used.cpu fell", 9, ("ledgers/p", "used"), {"cpu": "9"}),
    ("I10: ledgers/p: at fell from 6000 to 5000", 9, ("ledgers/p", "at"), 5000),
    ("I10: ledgers/p: used - held × at is cpu 2999999", 9, ("ledgers/p", "used"), {"cpu": "16999999"}),
    ("I10: shares/p/x: used cpu 14000001 by 7000, but the histories say cpu 14000000", 9,
     ("shares/p/x", "used"), {"cpu": "14000001"}),
    ("I10: shares/p/y: used cpu 3000000 by 5000, but the histories say cpu 2999000", 7,
     (*STEP_END, "at"), 4.999),
    ("I10: shares/p/x: lost nothing, but the histories say cpu 1000000", 11, ("shares/p/x", "lost"), {}),
    ("I10: shares/p/x: lost cpu 2000000, but the histories say cpu 1000000", 11,
     ("shares/p/x", "lost"), {"cpu": "2000000"}),
    ("I10: shares/p/x: stopping cpu 1, but the histories say nothing", 11,
     ("shares/p/x", "stopping"), {"cpu": "1"}),
    ("I10: shares/p/x: cpu: lost 16000001 and stopping 0 of 16000000", 11,
     ("shares/p/x", "lost"), {"cpu": "16000001"}),
    ("I10: shares/p/x: lost.cpu fell from 5 to 0", 8, ("shares/p/x", "lost"), {"cpu": "5"}),
    ("I10: shares/p/y: stopping cpu 2000000, but the histories say cpu 1000000", 6,
     ("states/b", "history", 1, "at"), 4.0),
    ("I10: shares/p/x: lost cpu 1000000, but the histories say cpu 600000", 10,
     ("states/c", "history", 1, "at"), 7.7),
    ("I10: shares/p/x: lost cpu 1000000, but the histories say nothing", 10,
     ("states/c", "lost_since"), None),
    ("I10: states/c: lost and stopping: its end says (0, 0) ms, its steps (500, 0)", 11,
     ("states/c", "history", 2, "lost_ms"), 0),
    ("I11: claims/p/c: outlives the admission of attempt 1", 8, ("claims/p/c",), CLAIM),
    ("I11: claims/p/c: is of a task that is Pending", 8, ("claims/p/c",), CLAIM),
    ("I11: claims/p/c: is left over", 8, ("claims/p/c",), CLAIM),
    ("I11: states/b: b-1 is preempted, and no claim names it", 6, ("claims/p/c", "victims"), []),
    ("I11: states/b: attempt 1 gives up cpu 1000 without a step", 7, (*STEP_END, "source"), "WaitingRetry"),
    ("I11: states/b: was preempted, and counts (0, 0, 0) became (1, 0, 0)", 7, ("states/b", "failures"), 1),
    ("I11: states/b: was preempted into Failed, 'Preempted'", 7, (*STEP_END, "state"), "Failed"),
    ("I11: states/b: was preempted into WaitingRetry, ''", 7, (*STEP_END, "reason"), ""),
    ("I11: states/b: was preempted, but was not being stopped", 6, ("states/b", "stopping"), ""),
    ("per_minute: states/b: is preemption 1 of minute 0, of at most 0", 2,
     ("pools/p", "preemption", "per_minute"), 0),
    ("layout: shares/p/x: cannot be read", 4, ("shares/p/x", "held"), {"cpu": "two"}),
]  # fmt: skip


@pytest.mark.parametrize(("found", "revision", "path", "value"), LIES, ids=[lie[0][:60] for lie in LIES])
def test_each_lie_is_found(found: str, revision: int, path: Path_, value: Any) -> None:
    history: Any = copy.deepcopy(GOOD)
    place = history[revision]
    for name in path[:-1]:
        place = place[name]
    assert place[path[-1]] != value if not isinstance(place, dict) else place.get(path[-1]) != value
    place[path[-1]] = value
    findings = audited(history).findings
    assert [f for f in findings if found in f], findings
    assert all(f.startswith("revision ") for f in findings)


def test_what_was_used_before_a_rebuild_is_taken_from_the_shares() -> None:
    """A pool is shared while a task holds some of it: it is charged from then on, and judged from then on."""
    history = copy.deepcopy({revision: GOOD[revision] for revision in (2, 3, 4)})
    del history[2]["pools/p"]["sharing"], history[4]["shares/p/x"]
    history[4]["ledgers/p"] = {"held": cpu(2), "op": "1"}
    history[5] = {"pools/p": GOOD[2]["pools/p"]}
    history[6] = {"shares/p/x": share("r", 2, 1, 0, 3000), "ledgers/p": ledger("r", 2, 0, 3000)}
    history[7] = {"states/a": status("x", "Succeeded", 0, ADMIT_A, END_A)}
    history[7] |= {
        "shares/p/x": share("7", 0, 0, 8_000_000, 7000),
        "ledgers/p": ledger("7", 0, 8_000_000, 7000),
    }
    auditor = audited(history)
    assert (auditor.findings, auditor.rebuilds) == ([], 1)
    history[7]["shares/p/x"] = share("7", 0, 0, 12_000_000, 7000)
    assert any("I10: shares/p/x" in finding for finding in audited(history).findings)


def test_it_reads_an_etcd_from_its_first_revision(etcd_factory: EtcdFactory, cluster_name: str) -> None:
    etcd = etcd_factory.start()  # that of the session may have been compacted
    prefix = f"/tally/{cluster_name}/"
    with httpx.Client(base_url=etcd.url, trust_env=False) as client:
        for key, value in (("pools/p", b"rubbish"), ("pools/p", b"{}"), ("pools/p", None)):
            body = {"key": base64.b64encode((prefix + key).encode()).decode()}
            if value is None:
                client.post("/v3/kv/deleterange", json=body).raise_for_status()
            else:
                put = {**body, "value": base64.b64encode(value).decode()}
                client.post("/v3/kv/put", json=put).raise_for_status()
    events = [event for event in read(etcd.url) if event.key.startswith(prefix)]
    assert [(event.key, event.value) for event in events] == [
        (f"{prefix}pools/p", b"rubbish"),
        (f"{prefix}pools/p", b"{}"),
        (f"{prefix}pools/p", None),
    ]
    assert [event.mod for event in events] == sorted({event.mod for event in events})
    (finding,) = audit(events, cluster_name).findings
    assert f"revision {events[0].mod}: layout: pools/p" in finding


def test_quantities_are_read_exactly() -> None:
    read_back = quantities({"cpu": "1500m", "memory": "64Mi", "disk": "3k", "gpu": "2", "below": "-1"})
    assert read_back == {"cpu": 1500, "memory": 64 * 2**20, "disk": 3000, "gpu": 2, "below": -1}


@pytest.mark.parametrize("module", ["share_auditor.py", "share_records.py"])
def test_it_imports_nothing_of_tally(module: str) -> None:
    tree = ast.parse((Path(share_auditor.__file__).with_name(module)).read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours = {name for name in names if name.partition(".")[0] in ("controller", "tests")}
    assert ours <= {"tests.support.share_records"}
    assert names
