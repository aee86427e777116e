"""The identifier of a transaction. It stands as `op` in each value that the transaction puts.

By it, a refused transaction tells whether an earlier copy of itself was applied
(`store.base.Transaction.applied_in`).
"""

from __future__ import annotations

from typing import NewType

Op = NewType("Op", str)
"""The text as it is stored. `op_of` makes a replica's, `store.base.new_op` a client's."""

NO_OP = Op("")
"""Of a value that no transaction has put."""


def op_of(*parts: object) -> Op:
    """The op that has these parts. Together they must be unique to the transaction.

    The forms. An `instance` is one run of a replica, and a `term` is the create revision of the leader's key:

        {instance}/{term}/{n}           the nth plan of a term
        {instance}/{term}/{n}/blame     the task of a plan that ended its term is set aside
        log/{term}/{attempt}            an attempt's output is kept
        {instance}/election/{lease}     an election
        {instance}/release/{term}       a leadership is released
        {instance}/foreign-leader/{mod} a leader key without a lease is removed
        {instance}/beat/{n}             the nth write of a registration
        {replica}/depose/{term}         a leader whose process is gone is deposed
        {selftest}/stale, …/remove      what `tally selftest` tries and clears away
    """
    return Op("/".join(map(str, parts)))
