"""What users saw, against what etcd committed: each answer must be true at one moment between its question
and its end.

The writes' order is known (it is etcd's), so no order has to be searched for: each answer is true at some
revisions, and of two calls of which one had returned before the other was made, the first must find a
revision that is not later. Going through the calls by their ends and giving each its lowest revision finds an
assignment if there is one.

A read from a replica need not be the newest, but nothing older than the revision in its header and the
`min_revision` that was asked for. A read from etcd is true at exactly its revision.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from controller.core.model.lifecycle import FINISHED, State
from tests.chaos.recorder import Version

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Call:
    """One call of a user about one task.

    `kind`: submit, cancel, retry, get (from etcd) or read (from a replica).

    `outcome` is the answer, UNKNOWN when there was none. The rest is what a read showed, at `revision`.
    """

    task: str
    kind: str
    invoked: float
    returned: float
    outcome: str
    revision: int = 0
    min_revision: int = 0
    state: str = ""
    attempt: int = 0

    def __str__(self) -> str:
        shown = (
            f" {self.state}/{self.attempt} at {self.revision} (asked for {self.min_revision})"
            if self.revision
            else ""
        )
        return f"{self.task}: {self.kind} [{self.invoked:.3f}–{self.returned:.3f}] → {self.outcome}{shown}"


_TRUE_WHEN: dict[tuple[str, str], Callable[[Version], bool]] = {
    ("submit", "unchanged"): lambda version: version.exists,
    ("cancel", "already finished"): lambda version: version.state in FINISHED,
    ("cancel", "already requested"): lambda version: "cancel" in version.requests,
    ("cancel", "not found"): lambda version: not version.exists,
    ("retry", "refused"): lambda v: (
        v.state is State.SUCCEEDED or (v.state not in FINISHED and not v.cancelling)
    ),
    ("retry", "already requested"): lambda version: "retry" in version.requests,
    ("retry", "not found"): lambda version: not version.exists,
}


def violations(
    calls: Iterable[Call],
    versions: Mapping[str, Sequence[Version]],
    requested: Mapping[tuple[str, str], Sequence[int]],
) -> list[str]:
    """The calls whose answers were true at no moment that they could be, and requests that were put too
    often or not at all.
    """
    by_task: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        by_task[call.task].append(call)
    found = []
    for task, its_calls in sorted(by_task.items()):
        found += _order(its_calls, [Version(0), *versions.get(task, ())], requested)
        found += _once(task, its_calls, requested)
    return found


def _order(
    calls: list[Call], versions: Sequence[Version], requested: Mapping[tuple[str, str], Sequence[int]]
) -> list[str]:
    found: list[str] = []
    points: list[tuple[float, int]] = []  # when a call returned, and the revision that it was given
    for call in sorted(calls, key=lambda call: call.returned):
        if call.outcome == UNKNOWN:
            continue
        lowest = max((point for returned, point in points if returned < call.invoked), default=0)
        if call.kind == "read":
            lowest = max(call.min_revision, call.revision)
        point = _point(call, lowest, versions, requested.get((call.task, call.kind), ()))
        if point is None:
            found.append(f"{call} is true at no revision from {lowest} on")
        elif call.kind != "read":
            points.append((call.returned, point))
    return found


def _point(call: Call, lowest: int, versions: Sequence[Version], puts: Sequence[int]) -> int | None:
    """The lowest revision, from `lowest` on, at which the answer is true."""
    begins = bisect_right(versions, lowest, key=lambda version: version.revision) - 1
    if call.kind == "get":
        seen = versions[bisect_right(versions, call.revision, key=lambda version: version.revision) - 1]
        return call.revision if call.revision >= lowest and _shows(call, seen) else None
    if call.kind == "read":
        return next(
            (max(version.revision, lowest) for version in versions[begins:] if _shows(call, version)), None
        )
    if call.outcome == "created":
        return (
            next((v.revision for v in versions if v.exists and v.revision >= lowest), None)
            if not versions[begins].exists
            else None
        )
    if call.outcome == "requested":
        return next((revision for revision in puts if revision >= lowest), None)
    is_true = _TRUE_WHEN.get((call.kind, call.outcome))
    if is_true is None:
        return None  # an answer that never should have been given
    return next((max(version.revision, lowest) for version in versions[begins:] if is_true(version)), None)


def _shows(call: Call, version: Version) -> bool:
    """Whether a read showed this version."""
    if call.outcome != "found" or not version.exists:
        return call.outcome != "found" and not version.exists
    return (call.state, call.attempt) == (str(version.state), version.attempt)


def _once(task: str, calls: list[Call], requested: Mapping[tuple[str, str], Sequence[int]]) -> list[str]:
    """One creation, and each acknowledged request put once; at most once one without an answer, or of which
    the user was told that an equal one had been there: that may have been its own, whose answer was lost."""
    outcomes = Counter((call.kind, call.outcome) for call in calls)
    found = [f"{task} was created {n} times"] if (n := outcomes["submit", "created"]) > 1 else []
    for kind in ("cancel", "retry"):
        sure, perhaps, put = (
            outcomes[kind, "requested"],
            outcomes[kind, UNKNOWN] + outcomes[kind, "already requested"],
            len(requested.get((task, kind), ())),
        )
        if not sure <= put <= sure + perhaps:
            found.append(
                f"{task}: {kind} was acknowledged {sure} times, {perhaps} without answer, and put {put} times"
            )
    return found
