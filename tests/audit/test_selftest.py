"""The selftest on a live cluster: everything holds, nothing is left behind; and what does not hold is
told.
"""

from __future__ import annotations

import pytest

from controller.audit.selftest import ItemOutcome, SelfTest
from controller.client import Client
from controller.store.base import Committed, Transaction
from tests.audit.conftest import Damaged

pytestmark = pytest.mark.xdist_group("audit: selftest")  # one cluster serves all


def test_a_sound_installation_passes_and_is_left_as_it_was(damaged: Damaged) -> None:
    """Of its pool, tasks, statuses, requests and ledger no key remains."""
    run = SelfTest(damaged.cluster.client, damaged.engine, timeout_seconds=60)
    items = list(run.run())
    assert [(item.name, item.seen) for item in items if item.verdict is not ItemOutcome.OK] == []
    assert len(items) == 13
    keys = [
        item.key
        for item in damaged.client.store.load(damaged.client.keys.prefix, deadline=damaged.soon()).items
    ]
    assert [key for key in keys if run.name in key] == []
    assert damaged.wrong() == []


def test_a_fence_that_does_not_hold_is_told(damaged: Damaged, monkeypatch: pytest.MonkeyPatch) -> None:
    """The item can fail: here the term's compare is dropped on the way to etcd."""

    def connect() -> Client:
        client = damaged.cluster.client()
        commit = client.store.commit

        def unfenced(transaction: Transaction, *, deadline: float) -> object:
            if transaction.op.endswith("/stale"):
                guards = tuple(guard for guard in transaction.guards if not guard.on_create)
                transaction = Transaction(guards, transaction.writes, transaction.op)
                result = commit(transaction, deadline=deadline)
                assert isinstance(result, Committed)
                return result
            return commit(transaction, deadline=deadline)

        monkeypatch.setattr(client.store, "commit", unfenced)
        return client

    items = {item.name: item for item in SelfTest(connect, None, timeout_seconds=60).run()}
    failed = items["a stale leader's transaction fails at the fence"]
    assert failed.verdict is ItemOutcome.FAILED
    assert "was APPLIED" in failed.seen
    assert items["removes what it created"].verdict is ItemOutcome.OK
