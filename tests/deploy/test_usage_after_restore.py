"""What owners have used, across a restore from a backup: real etcd, its own tools, and a real replica.

What is expected is computed here from the stored histories alone, with no code of Tally.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from controller.audit.audit import run_audit
from controller.client import Client
from controller.clock import SystemClock
from controller.core.model.lifecycle import State
from controller.core.model.task import AttemptId
from controller.dev.etcd import EtcdProcess
from tests.support.backups import restore_etcd, save_snapshot, shell
from tests.support.etcd import EtcdFactory, in_seconds
from tests.support.running import RecordingEngine, RunningReplica
from tests.support.share_auditor import audit
from tests.support.share_records import HOLDING, mapping, ms_of, quantities, read
from tests.support.waiting import wait_until

CLUSTER = "usage"
HOUR = 3600.0
DAY_MS = 86_400_000
KEPT = {"retention_seconds": 90 * 24 * HOUR}
ENDLESS = {"TALLY_NULL_SECONDS": "86400000"}


class ShiftedClock(SystemClock):
    """A machine's clock that somebody sets."""

    shift = 0.0

    def wall(self) -> float:
        return super().wall() + self.shift

    now = wall


class Place:
    """An etcd, what runs on it, and the users: owners `vision` and `nlp` of one pool."""

    def __init__(self, etcd: EtcdProcess, factory: EtcdFactory) -> None:
        self.clock = ShiftedClock()
        self.engine = RecordingEngine(self.clock)
        self._etcd, self._factory = etcd, factory
        self.client = self._new_client()

    def _new_client(self) -> Client:
        return Client.of_store(self._factory.store(self._etcd.url), cluster=CLUSTER, clock=self.clock)

    def replica(self, name: str) -> RunningReplica:
        store = self._factory.store(self._etcd.url)
        return RunningReplica(store, name, cluster=CLUSTER, engine=self.engine, clock=self.clock)

    def restore(self, folder: Path) -> None:
        """Nobody runs meanwhile, and the users come again."""
        restore_etcd(self._etcd, folder)
        self.client = self._new_client()

    def start(self, task_id: str, owner: str, cpu: int = 1) -> None:
        """Submit it, and wait until it runs."""
        fields = {"command": ["x"], "resources": {"cpu": cpu}, "env": ENDLESS, **KEPT}
        self.client.submit({"id": task_id, "owner": owner, **fields})
        self.until(task_id, State.RUNNING)

    def end(self, task_id: str) -> None:
        """Its attempt ends by itself."""
        self.engine.end(AttemptId(task_id, self.client.get(task_id).attempt))
        self.until(task_id, State.SUCCEEDED)

    def until(self, task_id: str, state: State) -> None:
        wait_until(lambda: self.client.get(task_id).state is state, f"{task_id} {state}", timeout=60)

    def used(self, since: str = "") -> tuple[int, Counter[str], list[str]]:
        """Until when (ms) each owner has used how much, in milli-cpu × ms, as `tally usage` says."""
        told = self.client.usage(since=since)
        return told.until, Counter({line.name: int(line.used["cpu"]) for line in told.items}), told.notes

    def told(self, until: int, since: int = 0) -> Counter[str]:
        """The same, from the histories and the requests of the stored tasks."""
        keys, found = self.client.keys, Counter[str]()
        items = self.client.store.load(keys.prefix, deadline=in_seconds()).items
        specs = {item.key: mapping(item.value) for item in items if item.key.startswith(keys.task(""))}
        for item in items:
            if item.key.startswith(keys.state("")):
                status, task = mapping(item.value), item.key.removeprefix(keys.state(""))
                cpu = quantities(specs[keys.task(task)]["resources"])["cpu"]
                for begin, end in spans(status["history"], until):
                    found[status["owner"]] += cpu * max(0, min(end, until) - max(begin, since))
        return found


def spans(history: list[dict[str, Any]], until: int) -> list[tuple[int, int]]:
    """From when to when (ms) each attempt held."""
    found, began = [], None
    for step in history:
        if step["event"] == "admitted":
            began = ms_of(step)
        elif began is not None and step["state"] not in HOLDING:
            found.append((began, ms_of(step)))
            began = None
    return [*found, (began, max(began, until))] if began is not None else found


@pytest.mark.parametrize(
    "shift",
    [
        pytest.param(0.0, id="clock-as-it-was", marks=pytest.mark.slow),
        pytest.param(-HOUR, id="clock-set-back"),
        pytest.param(50 * HOUR, id="two-days-later", marks=pytest.mark.slow),
    ],
)
def test_usage_is_what_the_histories_say_across_a_restore(
    etcd_factory: EtcdFactory, tmp_path: Path, shift: float
) -> None:
    """Some end, one is retried and one is submitted between the backup and its restore."""
    etcd = etcd_factory.start()
    place = Place(etcd, etcd_factory)
    with place.replica("before") as replica:
        replica.until_leading()
        assert place.client.features.enable("owners")
        replica.until_leading(1)
        place.client.apply_pool({"name": "default", "capacity": {"cpu": 16}, "sharing": {}})
        place.start("ended", "vision", 2)
        place.end("ended")
        for task_id, owner, cpu in (("ends", "vision", 3), ("again", "nlp", 1), ("goes-on", "nlp", 2)):
            place.start(task_id, owner, cpu)
        save_snapshot(etcd.binary, etcd.url, tmp_path)
        until, found, notes = place.used()
        assert (found, notes) == (place.told(until), [])
        place.start("unknown", "vision", 4)
        place.end("ends")
        place.client.cancel("again")
        place.until("again", State.CANCELLED)
        place.client.retry("again")
        place.until("again", State.RUNNING)
        at_the_end, lost, _ = place.used()
        assert lost == place.told(at_the_end)
    place.restore(tmp_path)
    until, found, _ = place.used()
    assert found == place.told(until), "nobody has led since"
    assert all(found[owner] > 0 for owner in ("vision", "nlp"))

    place.clock.shift = shift
    with place.replica("after") as replica:
        replica.until_leading()
        place.until("ends", State.SUCCEEDED)
        place.until("again", State.FAILED)  # that attempt was stopped, as the engine knows
        wait_until(lambda: AttemptId("unknown", 1) in place.engine.stopped, "the stop of what is not known")
        place.start("later", "vision")
        place.end("later")
        place.end("goes-on")
        until, found, notes = place.used()
        assert (found, notes) == (place.told(until), [])
        assert place.client.usage(by="pool").items[0].used == {"cpu": str(sum(found.values()))}
        check_days(place, shift)
        if not shift:  # the command has the machine's own clock
            command = f"tally usage --etcd {etcd.url} --cluster {CLUSTER} -o json"
            printed = json.loads(shell(etcd.binary, command, {}, tmp_path).stdout)
            assert Counter({line["name"]: int(line["used"]["cpu"]) for line in printed["items"]}) == found
        assert not run_audit(place.client.store, place.engine, CLUSTER, place.clock).findings
    assert not replica.fatal
    auditor = audit(read(etcd.url), CLUSTER)
    assert auditor.findings == []
    assert auditor.rebuilds == 0, "nothing was estimated"
    assert auditor.unfinished() == []


def check_days(place: Place, shift: float) -> None:
    """What was used since each day that has ended, to the millisecond, too."""
    today = round(place.clock.now() * 1000) // DAY_MS
    prefix = f"{place.client.keys.prefix}usage/"
    days = [item.key for item in place.client.store.load(prefix, deadline=in_seconds()).items]
    assert len(days) >= (2 if shift > 0 else 0)
    for key in days:
        day = key.removeprefix(prefix).partition("/")[0]
        item, _ = place.client.store.get(key, deadline=in_seconds())
        assert item is not None
        end = json.loads(item.value)["at"]
        assert end <= today * DAY_MS
        since = {name: int(amounts["cpu"]) for name, amounts in json.loads(item.value)["used"].items()}
        assert since == place.told(end), day
