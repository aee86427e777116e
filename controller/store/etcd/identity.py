"""Checks which cluster answers, and that its revisions never go back (faults 15 and 24).

A cluster's id alone is not enough. etcd derives it from the members' names and URLs and the cluster's token,
so a wiped or restored cluster on the same machines may have the same id. A revision that is lower than one of
an earlier linearizable answer is certain evidence. A backup can be restored so that they go on (etcdutl's
`--bump-revision`): then a record that is older than it has been seen is the evidence, see Store.renounce.
Source: `computeMemberId` and `genID` in
https://github.com/etcd-io/etcd/tree/main/server/etcdserver/api/membership
"""

from __future__ import annotations

import threading

from controller.store.base import ClusterChanged
from controller.store.etcd.wire import Header


class ClusterIdentity:
    """Shared by all calls of one store; safe to use from several threads.

    Once a change was seen, every call in every thread fails with ClusterChanged, until `renew`: code that
    still acts on a model of the old cluster must not get through.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cluster = ""
        self._revision = 0
        self._changed = ""
        self._era = 0

    def floor(self) -> int:
        """The revision below which an answer must not be. Take it before the request is sent.

        Raises ClusterChanged.
        """
        with self._lock:
            self._raise_if_changed()
            return self._revision

    def confirm(self, header: Header, floor: int) -> None:
        """Check the header of a linearizable answer against the floor that was taken before it was sent.

        Raises ClusterChanged.
        """
        self.confirm_cluster(header)
        with self._lock:
            if header.revision < floor:
                self._changed = f"revisions have gone back from {floor} to {header.revision}"
            self._raise_if_changed()
            self._revision = max(self._revision, header.revision)

    def confirm_cluster(self, header: Header) -> None:
        """Check only which cluster answers: for watches and leases, which one member answers by itself.

        Raises ClusterChanged.
        """
        with self._lock:
            self._raise_if_changed()
            if not self._cluster:
                self._cluster = header.cluster_id
            elif header.cluster_id != self._cluster:
                self._changed = f"cluster {header.cluster_id} answers instead of {self._cluster}"
            self._raise_if_changed()

    def renounce(self, why: str) -> None:
        """A change that shows in what is stored: the history is another one."""
        with self._lock:
            self._changed = self._changed or why

    def renew(self) -> int:
        """Forget a change that was seen: the caller starts again from what the store holds now.

        Returns the era: how many changes were seen so far, by any call.
        """
        with self._lock:
            if self._changed:
                self._cluster, self._revision, self._changed = "", 0, ""
                self._era += 1
            return self._era

    def _raise_if_changed(self) -> None:
        if self._changed:
            raise ClusterChanged(
                f"this is not the same etcd as before: {self._changed} (a restored backup, or a wrong"
                " endpoint?)"
            )
