"""`keep_logs` in whole replicas: what is written of real output, and what a log that cannot be read or
written costs: nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller import bulkhead
from controller.client import Client
from controller.core.model.kept_log import LIMIT_BYTES, KeptLog
from controller.core.model.op import Op
from controller.core.model.task import AttemptId
from controller.core.planning.events import LogKept
from controller.core.planning.plan import KeepLog
from controller.election.term import Leadership
from controller.engine.base import ALL_LOGS, EngineUnavailable, LogOptions
from controller.engine.process.engine import ProcessEngine
from controller.runtime.inbox import Inbox
from controller.runtime.log_keeper import LogKeeper
from controller.store.base import Committed, Delete, Guard, Put, Refused, Transaction
from controller.store.memory import MemoryStore
from tests.runtime.conftest import CLOCK, CLUSTER, Start
from tests.support.running import RecordingEngine, submit
from tests.support.waiting import wait_until


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[ProcessEngine]:
    engine = ProcessEngine(tmp_path, CLUSTER, CLOCK)
    yield engine
    engine.close()


def kept_of(client: Client, task_id: str, attempt: int) -> KeptLog:
    """The kept log of that attempt, once it is there."""

    def look() -> KeptLog | None:
        kept = client.outputs.kept_log(task_id)
        return kept if kept is not None and kept.attempt == attempt else None

    return wait_until(look, f"the log of {task_id}-{attempt}")


def test_the_end_of_the_last_attempts_output_is_kept(
    client: Client, start: Start, processes: ProcessEngine
) -> None:
    """At most 64 KiB, of any bytes; that of a retried task is its last attempt's."""
    start(engine=processes).until_leading()
    whole = "echo out; echo err >&2; printf '\\377'"
    submit(client, "short", command=["sh", "-c", whole], keep_logs=True)
    submit(
        client,
        "long",
        command=["sh", "-c", "head -c 300000 /dev/zero | tr '\\0' y; echo end"],
        keep_logs=True,
    )
    submit(
        client,
        "again",
        command=["sh", "-c", "echo attempt $TALLY_ATTEMPT; exit 1"],
        keep_logs=True,
        retry={"max_attempts": 2, "backoff_seconds": 0},
    )
    submit(client, "plain", command=["echo", "out"])
    client.wait(["short", "long", "again", "plain"], timeout_seconds=30)
    short = kept_of(client, "short", 1)
    assert (short.text, short.truncated) == ("out\nerr\n\N{REPLACEMENT CHARACTER}", False)
    assert abs(short.at - CLOCK.now()) < 600
    long = kept_of(client, "long", 1)
    assert (len(long.text), long.text[-6:], long.truncated) == (LIMIT_BYTES, "yyend\n", True)
    assert kept_of(client, "again", 2).text == "attempt 2\n"
    assert client.outputs.kept_log("plain") is None


class Mute(RecordingEngine):
    """An engine whose output cannot be read: it does not answer, or breaks."""

    def __init__(self, error: Exception) -> None:
        super().__init__(CLOCK, 0.01)
        self._error = error

    def logs(
        self,
        attempt: AttemptId,
        *,
        follow: bool,
        stop: threading.Event | None = None,
        options: LogOptions = ALL_LOGS,
    ) -> Iterator[bytes]:
        raise self._error


@pytest.mark.parametrize("error", [EngineUnavailable("no answer"), ZeroDivisionError("a bug")])
def test_output_that_cannot_be_read_costs_no_task_and_no_term(
    client: Client, start: Start, error: Exception
) -> None:
    before = bulkhead.counts["keep-log", type(error).__name__]
    replica = start(engine=Mute(error))
    epoch = replica.until_leading()
    ids = submit(client, *(f"t{n}" for n in range(10)), keep_logs=True)
    assert {view.state for view in client.wait(ids, timeout_seconds=30).values()} == {"Succeeded"}
    wait_until(lambda: bulkhead.counts["keep-log", type(error).__name__] == before + 10, "each to be counted")
    assert replica.epoch == epoch
    assert all(client.outputs.kept_log(task_id) is None for task_id in ids)


# -- the write's guards
# ----------------------------------------------------------------------------------------------


def keep(client: Client, engine: ProcessEngine, *, term: int, spec_create: int, attempt: int = 1) -> int:
    """What becomes of the log of `job-1` (or another `attempt`): the revision at which it was written, 0
    when it was not.
    """
    inbox = Inbox()
    leadership = Leadership(term, 1, 0, CLOCK.boottime() + 30, CLOCK)
    keeper = LogKeeper(engine, leadership, client.store, client.keys, inbox, CLOCK)
    keeper.keep(KeepLog(AttemptId("job", attempt), "job", spec_create))
    (message,) = inbox.take(20)
    assert keeper.close(20)
    assert isinstance(message, LogKept)
    return message.revision


def test_only_the_leader_writes_and_only_for_a_task_that_is_there(
    memory: MemoryStore, client: Client, start: Start, processes: ProcessEngine
) -> None:
    """A past term writes nothing, and nothing is written for a task that was removed, or that is another
    one of the name.
    """
    replica = start(engine=processes)
    replica.until_leading()
    submit(client, "job", command=["echo", "out"])
    client.wait(["job"], timeout_seconds=30)
    store = memory.client()
    spec, _ = store.get(client.keys.task("job"), deadline=CLOCK.boottime() + 5)
    leader, _ = store.get(client.keys.leader, deadline=CLOCK.boottime() + 5)
    assert spec is not None
    assert leader is not None
    term, create = leader.create, spec.create
    assert keep(client, processes, term=term - 1, spec_create=create) == 0
    assert keep(client, processes, term=term, spec_create=create - 1) == 0
    assert client.outputs.kept_log("job") is None
    first = keep(client, processes, term=term, spec_create=create)
    kept = client.outputs.kept_log("job")
    assert kept is not None
    assert kept == KeptLog(attempt=1, text="out\n", at=kept.at)
    assert keep(client, processes, term=term, spec_create=create) > first
    replica.close()
    guard = Guard(client.keys.task("job"), spec.mod)
    store.commit(
        Transaction((guard,), (Delete(client.keys.task("job")),), Op("gone")), deadline=CLOCK.boottime() + 5
    )
    store.commit(
        Transaction((Guard(client.keys.leader, 0),), (Put(client.keys.leader, b"{}"),), Op("led")),
        deadline=CLOCK.boottime() + 5,
    )
    again, _ = store.get(client.keys.leader, deadline=CLOCK.boottime() + 5)
    assert again is not None
    assert keep(client, processes, term=again.create, spec_create=create) == 0


def test_a_late_copy_of_an_earlier_write_is_refused(
    memory: MemoryStore,
    client: Client,
    start: Start,
    processes: ProcessEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that was sent twice, and arrives again when the next attempt's log stands there."""
    replica = start(engine=processes)
    replica.until_leading()
    submit(client, "job", command=["false"], retry={"max_attempts": 2, "backoff_seconds": 0})
    client.wait(["job"], timeout_seconds=30)
    spec, _ = client.store.get(client.keys.task("job"), deadline=CLOCK.boottime() + 5)
    leader, _ = client.store.get(client.keys.leader, deadline=CLOCK.boottime() + 5)
    assert spec is not None
    assert leader is not None
    sent: list[Transaction] = []
    real = client.store.commit

    def commit(transaction: Transaction, **options: Any) -> Committed | Refused:
        sent.append(transaction)
        return real(transaction, **options)

    monkeypatch.setattr(client.store, "commit", commit)
    first = keep(client, processes, term=leader.create, spec_create=spec.create)
    assert keep(client, processes, term=leader.create, spec_create=spec.create, attempt=2) > first > 0
    late, _ = sent
    assert isinstance(real(late, deadline=CLOCK.boottime() + 5), Refused)
