"""What an audit finds: one value for each thing that does not hold, and its repair."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

INVARIANTS = (*(f"I{number}" for number in range(1, 19)), "layout", "identity")
"""What a finding may be of.

layout: records that cannot be read; identity: what is not this installation's.
"""


class FindingSeverity(StrEnum):
    """`WRONG` breaks the promise. A `NOTICE` is worth an operator's look, and fails no audit."""

    WRONG = "wrong"
    NOTICE = "notice"


class Mender(StrEnum):
    """Who mends a finding. Tally leaves what it does not understand to an operator."""

    OPERATOR = "operator"  # `--repair` leaves it alone
    # the leader does by itself; `--repair` makes it list the engine at once
    LEADER = "leader"
    REPAIR = "repair"  # a transaction of the leader, on request: `tally audit --repair`
    # the same, but only for a key that the operator names: `tally audit --repair --delete KEY`
    DELETION = "deletion"


class Finding(Struct, frozen=True, kw_only=True):
    """Something that does not hold.

    Findings of the same subject and invariant are the same finding at different times.
    """

    # I1 … I18, "layout" for records that cannot be read, "identity" for what is not this installation's
    invariant: str
    # "task/NAME", "pool/NAME", "attempt/NAME-N", "request/NAME/KIND", "key/KIND/NAME", "schedule/NAME",
    # "installation/ID"
    subject: str
    what: str  # a sentence, with the numbers
    since_revision: int  # the last write that can have caused it; 0 if none is known
    likely_cause: str
    repair: str  # what `tally audit --repair` does about it, or what is left to the operator
    mender: Mender = Mender.OPERATOR
    severity: FindingSeverity = FindingSeverity.WRONG
    transient: bool = False  # counts only if a second look finds it again
