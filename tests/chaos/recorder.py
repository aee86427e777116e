"""Everything that etcd ever committed, as it happened: judged revision by revision, and kept for the clients'
histories.

One watch at each member, of which the first to deliver a revision counts: a member may die or be stopped at
any time. A watch delivers all revisions in order, so whoever is ahead, nothing is left out; and history may
be compacted up to `applied`, since whoever falls behind that goes on from there.
"""

from __future__ import annotations

import itertools
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from controller.clock import SystemClock
from controller.core.model import codec
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.store.base import Compacted, KeyEvent, Put, StoreError, Transaction
from controller.store.etcd.gateway import GatewayOptions
from controller.store.etcd.store import EtcdStore
from controller.store.keys import ROOT, Keys
from tests.support.history import History
from tests.support.waiting import wait_until


class Version(NamedTuple):
    """What a task's records said from `revision` on."""

    revision: int
    exists: bool = False
    state: State = State.CREATED
    attempt: int = 0
    cancelling: bool = False
    requests: frozenset[str] = frozenset()


class Recorder:
    """Records from its creation, which comes before the first replica, until `close`."""

    def __init__(self, members: Iterable[GatewayOptions], cluster: str = "default") -> None:
        self.tell: Callable[[int, list[KeyEvent]], None] = lambda revision, changes: None
        """Is told of each revision; set before the first replica starts."""
        self.history = History(Keys(cluster))
        self.versions: dict[str, list[Version]] = defaultdict(list)
        # (task, kind) → revisions at which it was put
        self.requested: dict[tuple[str, str], list[int]] = defaultdict(list)
        self.applied = 0
        self.commits: list[float] = []  # boottime at which each write of a status was heard of
        self._clock = SystemClock()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._errors: list[BaseException] = []
        self.foreign: set[str] = set()  # keys that are there, and not the cluster's
        self.stores = [EtcdStore(member, self._clock) for member in members]
        """One for each member."""
        self._threads = [
            threading.Thread(target=self._run, args=(store,), name=f"recorder-{n}", daemon=True)
            for n, store in enumerate(self.stores)
        ]
        for thread in self._threads:
            thread.start()

    def commits_since(self, at: float) -> list[float]:
        """When statuses were written, from `at` (boottime) on."""
        with self._lock:
            return [commit for commit in self.commits if commit >= at]

    def catch_up(self, store: EtcdStore) -> None:
        """Wait until all that has been written by now is recorded."""
        key = f"{ROOT}~end-of-history/{uuid.uuid4().hex}"
        marker = store.commit(
            Transaction((), (Put(key, b""),), Op(key)), deadline=self._clock.boottime() + 30
        )
        wait_until(lambda: self.applied >= marker.revision, "the record of all revisions", timeout=60.0)
        assert not self._errors, self._errors

    def close(self) -> None:
        """End the watches."""
        self._closed.set()
        for store in self.stores:
            store.close()
        for thread in self._threads:
            thread.join(10)

    def _run(self, store: EtcdStore) -> None:
        while not self._closed.is_set():
            watch = store.watch(ROOT, after=self.applied, silence_seconds=2.0)
            try:
                for batch in watch:
                    for revision, changes in itertools.groupby(batch.events, key=lambda change: change.mod):
                        self._apply(revision, list(changes))
            except Compacted:
                continue  # this member is behind: another has told what was compacted
            except StoreError as error:
                if not self._closed.is_set():
                    self._errors.append(error)
                return
            except BaseException as error:
                self._errors.append(error)
                raise

    def _apply(self, revision: int, changes: list[KeyEvent]) -> None:
        with self._lock:
            if revision <= self.applied:
                return
            self.history.apply(revision, changes)
            self.tell(revision, changes)
            for change in changes:
                if not change.key.startswith(self.history.keys.prefix):
                    (self.foreign.discard if change.item is None else self.foreign.add)(change.key)
            self._keep_versions(revision, changes)
            self.applied = revision

    def _keep_versions(self, revision: int, changes: list[KeyEvent]) -> None:
        now: dict[str, Version] = {}
        for change in changes:
            record = self.history.keys.parse(change.key)
            if record is None or record.kind not in ("tasks", "states", "requests"):
                continue
            task_id = record.names[0]
            known = self.versions[task_id]
            version = now.get(task_id) or (known[-1] if known else Version(0))._replace(revision=revision)
            if record.kind == "tasks":
                version = version._replace(exists=change.item is not None)
            elif record.kind == "requests":
                kind = record.names[1]
                version = version._replace(
                    requests=version.requests - {kind} if change.item is None else version.requests | {kind}
                )
                if change.item is not None:
                    self.requested[task_id, kind].append(revision)
            elif change.item is not None:
                self.commits.append(self._clock.boottime())
                status, _ = codec.decode_status(change.item.value)
                version = version._replace(
                    state=status.state, attempt=status.attempt, cancelling=status.cancelling
                )
            now[task_id] = version
        for task_id, version in now.items():
            self.versions[task_id].append(version)
