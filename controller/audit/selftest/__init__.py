"""Safe faults against a live installation, so that its users can convince themselves: `tally selftest`.

Everything happens in a pool and to tasks of its own, under a name that nobody else has. What it does to
others: the leadership changes once, and a few hundred small writes. What it leaves: nothing in etcd but the
record that the leader keeps of the last clean-up, and in the engine the ended attempts, which the leader
removes when nothing of their names can come late any more (after an hour).

What it proves, it proves from etcd's own history of its keys and from what the replicas answer, not from one
replica's word.
"""

from controller.audit.selftest.run import Item, ItemOutcome, SelfTest

__all__ = ["Item", "ItemOutcome", "SelfTest"]
