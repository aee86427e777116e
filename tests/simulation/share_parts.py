"""The judge of what was lost or stopping, of what an owner has used: with sums of its own, for `shares`.

It takes the time of each attempt from the statuses as they pass: lost, from the step that sets `lost_since`
to the one that takes it away or ends the hold; stopping, from the first stop to the end, without what is
lost. The share is charged at the end, with what was held, and never with more than the owner has used.
"""

from __future__ import annotations

from typing import NamedTuple

from controller.core.model.task import Status
from tests.simulation.oracle import HOLDING, Move, Violation

Amounts = dict[str, int]


class Time(NamedTuple):
    """Of one attempt, in ms, up to `at`."""

    lost: int = 0
    stopping: int = 0
    at: int = 0


class TimeOfAttempts:
    """What each attempt that holds something was lost or stopping. See the module's docstring."""

    def __init__(self) -> None:
        self._times: dict[str, Time] = {}

    def move(self, move: Move) -> tuple[Amounts, Amounts]:
        """Take over what a leader wrote. What is charged if a hold ended: lost, and stopping."""
        old, new, at = move.old, move.new, move.at
        time = self._times.pop(move.task_id, Time())
        if old is None or not _holds(old):
            time = Time()
        else:
            time = _passed(time, old, at)
        if not _holds(new):
            return (_times(old, time.lost), _times(old, time.stopping)) if old is not None else ({}, {})
        if old is not None and _holds(old) and (old.hold, old.pool) != (new.hold, new.pool):
            time = Time()  # a repair
        if _kind(new) or (old is not None and _holds(old) and _kind(old)):
            time = time._replace(at=max(time.at, at))
        self._times[move.task_id] = time
        return {}, {}

    def of(self, task_id: str, status: Status, at: int) -> tuple[Amounts, Amounts]:
        """What a hold that has not ended has come to by then: lost, and stopping."""
        time = _passed(self._times.get(task_id, Time()), status, at)
        return _times(status, time.lost), _times(status, time.stopping)


def charged(
    used: Amounts, before: tuple[Amounts, Amounts], more: tuple[Amounts, Amounts]
) -> tuple[Amounts, Amounts]:
    """Both parts with more of them: first what was lost, as far as there is use of which it can be a part."""
    lost, stopping = dict(before[0]), dict(before[1])
    for name in sorted({*more[0], *more[1]}):
        left = max(0, used.get(name, 0) - lost.get(name, 0) - stopping.get(name, 0))
        first = min(left, more[0].get(name, 0))
        lost[name] = lost.get(name, 0) + first
        stopping[name] = stopping.get(name, 0) + min(left - first, more[1].get(name, 0))
    return _without_zeros(lost), _without_zeros(stopping)


def cut(parts: tuple[Amounts, Amounts], used: Amounts) -> tuple[Amounts, Amounts]:
    """The parts, where they are more than was used: then no more than that."""
    lost, stopping = parts
    stopping = {name: min(amount, max(0, used.get(name, 0))) for name, amount in stopping.items()}
    left = {name: max(0, used.get(name, 0) - stopping.get(name, 0)) for name in lost}
    lost = {name: min(amount, left[name]) for name, amount in lost.items()}
    return _without_zeros(lost), _without_zeros(stopping)


def check_parts(what: str, used: Amounts, lost: Amounts, stopping: Amounts) -> None:
    """Both are parts of what was used."""
    for name in {*lost, *stopping}:
        if lost.get(name, 0) + stopping.get(name, 0) > used.get(name, 0):
            raise Violation("I10", f"{what}: {lost} is lost and {stopping} stopping, of {used}")


def _passed(time: Time, status: Status, at: int) -> Time:
    elapsed = max(0, at - time.at)
    if _kind(status) == "lost":
        return time._replace(lost=time.lost + elapsed)
    if _kind(status) == "stopping":
        return time._replace(stopping=time.stopping + elapsed)
    return time


def _kind(status: Status) -> str:
    return "lost" if status.lost_since is not None else "stopping" if status.stopping else ""


def _holds(status: Status) -> bool:
    return status.state in HOLDING


def _times(status: Status | None, elapsed: int) -> Amounts:
    hold = dict(status.hold.items()) if status is not None and elapsed else {}
    return {name: amount * elapsed for name, amount in hold.items()}


def _without_zeros(amounts: Amounts) -> Amounts:
    return {name: amount for name, amount in sorted(amounts.items()) if amount}
