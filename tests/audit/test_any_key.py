"""Whatever bytes stand at a key of whatever kind: they can be read, or the audit names the key."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from controller.audit.audit import run_audit
from controller.clock import SystemClock
from controller.core.model import codec, kept_log
from controller.core.model.dependencies import AWAITS
from controller.core.model.op import Op
from controller.errors import CorruptValue
from controller.store import keys
from controller.store.base import Put, Transaction
from controller.store.memory import MemoryStore

CLOCK = SystemClock()
LAYOUT = keys.Keys("test")


# a log is no part of the model; of what keeps a parent, only the key is read
@pytest.mark.parametrize("kind", sorted({*keys._NAMES, "foreign"} - {kept_log.KIND, AWAITS}))
@settings(max_examples=50, deadline=None, database=None, derandomize=True)
@given(value=st.binary(max_size=40))
@example(value=b"")
@example(value=b"[5]")
@example(value=b"[" * 100_000)
def test_no_bytes_are_passed_over(kind: str, value: bytes) -> None:
    name = "/".join([kind, *["cancel", "odd"][: keys._NAMES.get(kind, 0)][::-1]])
    store = MemoryStore(CLOCK)
    store.commit(
        Transaction((), (Put(LAYOUT.prefix + name, value),), Op("hand")), deadline=CLOCK.boottime() + 5
    )
    shown = any(name in finding.subject for finding in run_audit(store, None, "test", CLOCK).findings)
    try:
        codec.decode_mapping(value)
    except CorruptValue:
        assert shown, (name, value)
