"""A store that was restored, whose revisions go on: what it holds tells."""

from __future__ import annotations

import pytest

from controller.client import Client
from controller.core.model.records import Change, RevisionWentBack
from controller.store.base import ClusterChanged
from controller.store.mirror import Changed, Loaded, Mirror
from tests.client.conftest import client as client

POOL = b'{"name":"p","capacity":{"cpu":"%d"}}'


def pool(cpu: int, mod: int) -> Change:
    return Change("pools", ("p",), POOL % cpu, mod, 1)


def is_loaded(mirror: Mirror) -> bool:
    return mirror.loaded


def test_a_record_that_is_older_than_it_was_seen_is_of_another_history() -> None:
    """Nothing is concluded from the model any more, until all is loaded as of another store."""
    mirror = Mirror()
    mirror.take(Loaded([pool(1, 5)], 6))
    mirror.take(Changed([pool(2, 58)], 58))
    with pytest.raises(RevisionWentBack, match="pools/p is at revision 5, but revision 58 was seen"):
        mirror.take(Loaded([pool(1, 5)], 1_000_000))
    for later in (Loaded([], 1_000_000, is_first=False), Changed([pool(3, 1_000_001)], 1_000_001)):
        mirror.take(later)
        assert not is_loaded(mirror)
    mirror.take(Loaded([pool(1, 5)], 1_000_002, fresh=True))
    assert is_loaded(mirror)
    assert mirror.model.mod_of("pools", ("p",)) == 5


def test_what_was_seen_after_a_snapshot_may_be_newer_than_it() -> None:
    """A leader knows its own commits before a load that began earlier has ended."""
    mirror = Mirror()
    mirror.take(Loaded([pool(1, 5)], 6))
    mirror.take(Changed([pool(2, 58)], 58))
    mirror.take(Loaded([pool(1, 5)], 57))
    assert mirror.model.mod_of("pools", ("p",)) == 58


def test_a_client_that_only_submits_begins_anew(client: Client) -> None:
    """A call that fails may be repeated, as after every error."""
    task = {"id": "a", "command": ["true"]}
    client.submit(task)
    client.store.renounce("it was restored")
    with pytest.raises(ClusterChanged, match="it was restored"):
        client.submit({**task, "id": "b"})
    assert client.submit({**task, "id": "b"}).outcome == "created"
