"""Fault 44 as a property: whatever stands under whatever key, a leader goes on, and the tasks of others
finish.

EXAMPLES=2000 draws as many, at random; without it they are few, and the same each time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

from hypothesis import given, note, settings
from hypothesis import strategies as st

from controller import bulkhead
from controller.audit.audit import run_audit
from controller.client import Client
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.endpoint.documents import encode
from controller.endpoint.summary import Waits, summarize
from controller.store.base import Delete, Put, Transaction
from controller.telemetry.metrics import Metrics
from tests.runtime.conftest import CLOCK, CLUSTER, Start
from tests.support.examples import examples
from tests.support.mutations import EXAMPLES, SETTINGS, anything, mutated
from tests.support.running import TIMINGS, RecordingEngine, RunningReplica, submit

KINDS = {
    "tasks": 1,
    "states": 1,
    "requests": 2,
    "arrays": 2,
    "awaits": 2,
    "pools": 1,
    "ledgers": 1,
    "capacities": 1,
    "repairs": 1,
    "repaired": 1,
    "quarantined": 1,
    "terms": 1,
    "replicas": 1,
    "gateways": 1,
    "notifier": 0,
    "schedules": 1,
    "schedule-states": 1,
    "attested-schedules": 1,
    "junk": 1,
}
NAMES = ["odd", "r1", "odd-1", "odd-2", "odd-3", "cancel", "retry", "999999999999", "A B", "a/b", ""]
Recorded = dict[str, list[bytes]]  # real values by kind


def values_of(kind: str, recorded: Recorded) -> st.SearchStrategy[bytes]:
    """Any bytes, any JSON, real values of the kind with changes, and of other kinds."""
    own = recorded.get(kind, [])
    every = [value for values in recorded.values() for value in values]
    return st.one_of(anything(every), *[mutated(own)] * (2 if own else 0))


@st.composite
def records(draw: st.DrawFn, recorded: Recorded) -> tuple[str, bytes]:
    """A key below the cluster's prefix, and its value."""
    kind = draw(st.sampled_from(list(KINDS)))
    names = [draw(st.sampled_from(NAMES)) for _ in range(KINDS[kind])]
    return "/".join([kind, *names]), draw(values_of(kind, recorded))


def write(client: Client, *writes: Put | Delete) -> None:
    """By hand."""
    client.store.commit(Transaction((), writes, Op("by-hand")), deadline=CLOCK.boottime() + 5)


def finished_run(start: Start, client: Client) -> tuple[RunningReplica, Recorded]:
    """A leader that has run tasks of a pool of their own; and every value that stands in the store then."""
    # a lease that no busy machine lets expire: values are drawn and shown in the same process
    timings = replace(TIMINGS, lease_ttl_seconds=60, heartbeat_limit_seconds=60)
    replica = start(engine=RecordingEngine(CLOCK, run_seconds=0.0), timings=timings)
    replica.until_leading()
    client.apply_pool({"name": "odd", "capacity": {"cpu": 4, "memory": "1Gi"}, "engine_options": {}})
    env = {"TALLY_NULL_SECONDS": "0"}
    submit(client, "odd-1", "odd-2", pool="odd", env=env, labels={"a": "b"}, retry={"max_attempts": 2})
    client.wait(["odd-1", "odd-2"], timeout_seconds=30)
    submit(client, "odd-3", pool="odd", env={"TALLY_NULL_SECONDS": "100000"})
    client.wait(["odd-3"], for_="running", timeout_seconds=30)
    recorded: Recorded = {}
    for item in client.store.load(client.keys.prefix, deadline=CLOCK.boottime() + 5).items:
        recorded.setdefault(item.key[len(client.keys.prefix) :].split("/")[0], []).append(item.value)
    assert recorded.keys() >= {
        "tasks",
        "states",
        "pools",
        "ledgers",
        "terms",
        "replicas",
        "leader",
        "epoch",
        "installation",
        "engine",
    }
    recorded["requests"] = [b'{"kind":"cancel","at":1.0,"by":"me","op":"x"}']
    recorded["repairs"] = [b'{"by":"me","at":1.0,"findings":[],"op":"x"}']
    recorded["quarantined"] = [b'{"error":"KeyError: 5","at":1.0,"where":"plan","mods":{},"op":"x"}']
    return replica, recorded


def everything_answers(replica: RunningReplica, client: Client, look: Callable[[], object]) -> None:
    """Whoever reads is served."""
    look()
    run_audit(client.store, None, CLUSTER, CLOCK)
    client.replicas.all()
    client.replicas.leader()
    client.replicas.gateways()
    client.tasks()
    client.pools()
    client.forecasts.of()
    with replica.replica.reading() as model:
        encode(summarize(model, replica.replica.facts(), "", Waits(), CLOCK.now(), CLOCK.wall()))


def test_any_value_under_any_key_costs_no_other_task_its_run(start: Start, client: Client) -> None:
    """No term is lost, nothing unexpected is caught, and everything can be read."""
    replica, recorded = finished_run(start, client)
    metrics = Metrics(CLOCK)
    metrics.observe(replica.replica)
    epoch, turns, before = replica.epoch, itertools.count(), dict(bulkhead.counts)

    @settings(max_examples=EXAMPLES or examples(300), **SETTINGS)
    @given(st.lists(records(recorded), min_size=1, max_size=4))
    def holds(drawn: list[tuple[str, bytes]]) -> None:
        turn = next(turns)
        found = {client.keys.prefix + key: value for key, value in drawn}
        note(f"{found}"[:5000])
        for key, value in found.items():
            write(client, Put(key, value[:1_000_000]))  # what etcd takes
        (task,) = submit(client, f"well-{turn}")
        assert client.wait([task], timeout_seconds=60)[task].state is State.SUCCEEDED
        if turn % 5 == 0:
            everything_answers(replica, client, metrics.exposition)
        write(
            client,
            *(Delete(key) for key in found),
            *(Delete(key) for key in (client.keys.task(task), client.keys.state(task))),
        )
        assert replica.epoch == epoch
        assert bulkhead.counts == before
        assert not replica.fatal

    holds()


def test_any_value_in_the_place_of_what_terms_stand_on_keeps_nobody_from_leading_for_ever(
    start: Start, client: Client
) -> None:
    """Who leads, the epoch, the installation, its engine: while it stands there or at the latest once it
    is put right.
    """
    replica, recorded = finished_run(start, client)
    turns, before = itertools.count(), dict(bulkhead.counts)
    singles = {
        "leader": client.keys.leader,
        "epoch": client.keys.epoch,
        "installation": client.keys.installation,
    }
    singles["engine"] = client.keys.engine

    @settings(max_examples=EXAMPLES // 10 or 30, **SETTINGS)
    @given(
        st.sampled_from([*singles]).flatmap(lambda kind: st.tuples(st.just(kind), values_of(kind, recorded)))
    )
    def holds(drawn: tuple[str, bytes]) -> None:
        kind, value = drawn
        note(f"{kind}: {value!r}"[:5000])
        right = client.store.get(singles[kind], deadline=CLOCK.boottime() + 5)[0]
        write(client, Put(singles[kind], value))
        everything_answers(replica, client, lambda: None)
        if kind in ("installation", "engine") and right is not None:
            write(client, Put(singles[kind], right.value))
        (task,) = submit(client, f"well-{next(turns)}")
        assert client.wait([task], timeout_seconds=60)[task].state is State.SUCCEEDED
        assert bulkhead.counts == before
        assert not replica.fatal

    holds()
