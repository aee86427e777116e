"""A replica against real etcd that falls silent, is replaced by an empty one, or is restored from a
backup.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest

from controller.audit.audit import run_audit
from controller.client import Client
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.dev.etcd import EtcdProcess
from controller.store.base import Delete, KeyValue, Transaction
from tests.support.etcd import CLOCK, EtcdFactory, admin, in_seconds
from tests.support.history import replay
from tests.support.proxy import Proxy
from tests.support.running import POOL, TIMINGS, RecordingEngine, RunningReplica, submit
from tests.support.waiting import wait_until
from tests.support.watching import WatchReader

CLUSTER = "runtime"


@pytest.fixture
def etcd(etcd_factory: EtcdFactory) -> EtcdProcess:
    """One of the test's own."""
    return etcd_factory.start()


@pytest.fixture
def client(etcd: EtcdProcess) -> Iterator[Client]:
    with Client(etcd.url, cluster=CLUSTER) as made:
        made.apply_pool(POOL)
        yield made


def is_past(moment: float) -> bool:
    return CLOCK.now() > moment


def test_a_leader_cut_off_by_silence_stops_before_the_store_lets_go_of_its_lease(
    etcd: EtcdProcess, etcd_factory: EtcdFactory, client: Client, proxy_to: Callable[[int], Proxy]
) -> None:
    """Its own deadline comes first, by the margin; after it no effect begins, although there is enough to
    do.
    """
    proxy = proxy_to(etcd.config.client_port)
    engine = RecordingEngine(CLOCK)
    # so long may a busy machine keep us from looking
    timings = replace(TIMINGS, lease_ttl_seconds=5, deadline_margin_seconds=2.5)
    with RunningReplica(
        etcd_factory.store(proxy.url), cluster=CLUSTER, engine=engine, timings=timings
    ) as replica:
        replica.until_leading()
        _, revision = client.store.get(client.keys.leader, deadline=CLOCK.boottime() + 5)
        submit(client, *(f"t{n}" for n in range(150)), env={"TALLY_NULL_SECONDS": "0.02"})
        wait_until(lambda: len(engine.started) > 20, "attempts")
        deleted = client.store.watch(client.keys.leader, after=revision)
        reader = WatchReader(deleted)
        proxy.black_hole()
        ended_at = wait_until(lambda: not replica.leads and CLOCK.boottime(), "its own end", poll=0.001)
        assert reader.events == [], "the store let go of the lease first"
        began_last = max(at for _, at in engine.started)
        assert began_last <= ended_at
        reader.wait_for([client.keys.leader])
        gone_at = CLOCK.boottime()
        assert max(at for _, at in engine.started) == began_last < gone_at
        reader.close()
        proxy.heal()
        assert wait_until(lambda: client.get("t149").state is State.SUCCEEDED, "the rest", timeout=60)
    assert not replica.fatal
    assert replay(etcd.url, CLUSTER).findings == []


def test_an_empty_etcd_in_its_place_is_taken_as_new(
    etcd: EtcdProcess, etcd_factory: EtcdFactory, client: Client
) -> None:
    """Nothing of the old model survives: no task, no revision, no term."""
    engine = RecordingEngine(CLOCK)
    with RunningReplica(etcd_factory.store(etcd.url), cluster=CLUSTER, engine=engine) as replica:
        replica.until_leading()
        client.wait(submit(client, *(f"old-{n}" for n in range(20))), timeout_seconds=30)
        etcd.kill()
        shutil.rmtree(etcd.config.data_dir)
        etcd.start()
        with Client(etcd.url, cluster=CLUSTER) as fresh:
            fresh.apply_pool(POOL)
            ids = submit(fresh, "new", "old-0")
            views = fresh.wait(ids, timeout_seconds=60)
            assert {view.state for view in views.values()} == {State.SUCCEEDED}
            with replica.replica.reading() as model:
                assert set(model.tasks) == {"new", "old-0"}
            assert replica.until_leading() == 1
    assert not replica.fatal
    assert replay(etcd.url, CLUSTER).findings == []


def test_a_restored_backup_is_noticed_and_terms_go_on_from_it(
    etcd: EtcdProcess, etcd_factory: EtcdFactory, client: Client
) -> None:
    """The cluster's id is the same, its revisions go back: what ran since is adopted from the engine, and
    runs no second time.
    """
    engine = RecordingEngine(CLOCK)
    backup = etcd.config.data_dir.with_name("backup")
    with RunningReplica(etcd_factory.store(etcd.url), cluster=CLUSTER, engine=engine) as replica:
        epoch = replica.until_leading()
        client.wait(submit(client, "before"), timeout_seconds=30)
        submit(client, "running", env={"TALLY_NULL_SECONDS": "600"})
        wait_until(lambda: client.get("running").state is State.RUNNING, "the attempt")
        etcd.stop()
        shutil.copytree(etcd.config.data_dir, backup)
        etcd.start()
        replica.until_leading()
        engine.end(engine.started[-1][0])
        client.wait(["running", *submit(client, *(f"after-{n}" for n in range(30)))], timeout_seconds=30)
        last = replica.epoch

        etcd.stop()
        shutil.rmtree(etcd.config.data_dir)
        shutil.copytree(backup, etcd.config.data_dir)
        etcd.start()
        with Client(etcd.url, cluster=CLUSTER) as restored:
            views = restored.wait(["before", "running", *submit(restored, "later")], timeout_seconds=60)
            assert {view.state for view in views.values()} == {State.SUCCEEDED}
            with replica.replica.reading() as model:
                assert set(model.tasks) == {"before", "running", "later"}
        assert epoch < replica.until_leading() <= last + 1
    assert not replica.fatal
    assert len(engine.started) == len({attempt for attempt, _ in engine.started}) == 33


def test_an_etcd_without_space_is_still_relieved_of_what_can_go(
    etcd: EtcdProcess, etcd_factory: EtcdFactory, client: Client
) -> None:
    """What only deletes is committed although what became due with it cannot be; that follows once there
    is room.
    """
    engine, store = RecordingEngine(CLOCK), etcd_factory.store(etcd.url)
    with RunningReplica(store, cluster=CLUSTER, engine=engine) as replica:
        replica.until_leading()
        client.wait(submit(client, "old"), timeout_seconds=30)
        submit(client, "running", env={"TALLY_NULL_SECONDS": "600"})
        wait_until(lambda: client.get("running").state is State.RUNNING, "the attempt")
        alarm = {
            "memberID": admin(store, "/maintenance/status", {})["header"]["member_id"],
            "alarm": "NOSPACE",
        }
        admin(store, "/maintenance/alarm", {"action": "ACTIVATE", **alarm})
        engine.end(engine.started[-1][0])
        store.commit(
            Transaction((), (Delete(client.keys.task("old")),), Op("by hand")), deadline=in_seconds()
        )
        wait_until(
            lambda: store.get(client.keys.state("old"), deadline=in_seconds())[0] is None, "the removal"
        )
        assert client.get("running").state is State.RUNNING
        admin(store, "/maintenance/alarm", {"action": "DEACTIVATE", **alarm})
        client.wait(["running"], timeout_seconds=30)
        assert replica.epoch == 1
    assert not replica.fatal


def test_a_retry_that_lands_while_its_task_is_removed_is_kept(
    etcd: EtcdProcess, etcd_factory: EtcdFactory, client: Client, proxy_to: Callable[[int], Proxy]
) -> None:
    """What the leader hears of etcd comes 0.6 s late: each of six retries is stored before the removal,
    which it refuses (I8).
    """
    proxy = proxy_to(etcd.config.client_port)
    timings = replace(TIMINGS, lease_ttl_seconds=5, request_timeout_seconds=3.0)
    with RunningReplica(etcd_factory.store(proxy.url), cluster=CLUSTER, timings=timings) as replica:
        replica.until_leading()
        ids = submit(
            client, *(f"t{n}" for n in range(6)), env={"TALLY_NULL_SECONDS": "600"}, retention_seconds=6
        )
        proxy.delay(0.6)
        for task_id in ids:
            client.cancel(task_id)
        ended = client.wait(ids, timeout_seconds=60)
        for finished_at, task_id in sorted(
            (view.status.finished_at or 0.0, view.id) for view in ended.values() if view.status
        ):
            wait_until(partial(is_past, finished_at + 6 - 0.3), "the moment before its removal")
            assert client.retry(task_id).outcome == "requested"
        proxy.heal()
        for task_id in ids:

            def retried(task_id: str = task_id) -> bool:
                return any(step.event == "retry-requested" for step in client.get(task_id).history())

            wait_until(retried, f"the retry of {task_id}")
    assert not replica.fatal
    assert replay(etcd.url, CLUSTER).findings == []


def test_who_it_is_is_put_back_in_the_term_in_which_it_was_deleted(
    etcd: EtcdProcess, etcd_factory: EtcdFactory, client: Client
) -> None:
    """The installation's key and the engine's, by hand: nothing of what runs is given up, and no election
    is needed.
    """
    store, keys = etcd_factory.store(etcd.url), client.keys

    def read(key: str) -> KeyValue | None:
        return store.get(key, deadline=in_seconds())[0]

    with RunningReplica(etcd_factory.store(etcd.url), cluster=CLUSTER) as replica:
        epoch = replica.until_leading()
        submit(client, "running", env={"TALLY_NULL_SECONDS": "600"})
        client.wait(["running"], for_="running", timeout_seconds=30)
        before = {}
        for key in (keys.installation, keys.engine):
            before[key] = read(key)
        store.commit(
            Transaction((), tuple(Delete(key) for key in before), Op("by hand")), deadline=in_seconds()
        )
        for key, was in before.items():
            found = wait_until(partial(read, key), f"{key} again")
            assert was is not None
            assert json.loads(found.value) | {"op": ""} == json.loads(was.value) | {"op": ""}
        assert replica.epoch == epoch
        assert client.get("running").state is State.RUNNING
        assert not run_audit(store, None, CLUSTER, CLOCK).findings
    assert not replica.fatal
    assert replay(etcd.url, CLUSTER).findings == []
