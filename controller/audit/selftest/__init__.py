"""Tries safe faults on a live installation, for `tally selftest`.

The selftest uses a pool and tasks of its own, under a unique name. Others see one change of the leadership,
and a few hundred small writes. Afterwards, etcd has only the record that the leader keeps of the last
clean-up. The engine has the ended attempts, which the leader removes after an hour, when no late start of
them is possible any more.

The proofs come from etcd's own history of the keys and from the answers of all replicas, not from one
replica alone.
"""

from controller.audit.selftest.run import Item, ItemOutcome, SelfTest

__all__ = ["Item", "ItemOutcome", "SelfTest"]
