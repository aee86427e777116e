"""A token that etcd does not answer: one of before a backup was restored."""

from __future__ import annotations

import pytest

from controller.store.base import StoreUnavailable
from tests.auth.conftest import Guarded
from tests.support.etcd import in_seconds as soon


def test_a_token_that_gets_no_answer_is_replaced_at_the_next_call(guarded: Guarded) -> None:
    """etcd waits for the index that a simple token names, which a restored one has yet to reach."""
    store = guarded.store("reader")
    key = guarded.keys.leader
    store.get(key, deadline=soon())
    gateway = store.gateway
    name, _, index = gateway.token(soon()).rpartition(".")
    gateway._token = f"{name}.{int(index) + 100_000}"
    with pytest.raises(StoreUnavailable):
        store.get(key, deadline=soon(3))
    store.get(key, deadline=soon(3))
    assert gateway.token(soon()).startswith(name) is False
