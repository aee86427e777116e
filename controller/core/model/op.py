"""The identifier of a transaction, stored as `op` in each value that the transaction puts.

A refused transaction looks for its op to learn whether an earlier copy of itself was applied
(`store.base.Transaction.applied_in`).
"""

from __future__ import annotations

from typing import NewType

Op = NewType("Op", str)
"""The string as it is stored. `op_of` makes the op of a replica, `store.base.new_op` that of a client."""

NO_OP = Op("")
"""The op of a value that no transaction has put."""


def op_of(*parts: object) -> Op:
    """The op with these parts, which together must be unique to the transaction.

    The forms. An `instance` is one run of a replica, and a `term` is the create revision of the leader's key:

        {instance}/{term}/{n}           the nth plan of a term
        {instance}/{term}/{n}/blame     the task of a plan that ended its term is set aside
        log/{term}/{attempt}            an attempt's output is kept
        {instance}/election/{lease}     an election
        {instance}/release/{term}       a leadership is released
        {instance}/foreign-leader/{mod} a leader key without a lease is removed
        {instance}/beat/{n}             the nth write of a registration
        {call}/{n}                      a write for a caller of a gateway, who sends the call again
        {replica}/depose/{term}         a leader whose process is gone is deposed
        {selftest}/stale, …/remove      what `tally selftest` writes and removes
    """
    return Op("/".join(map(str, parts)))
