"""The facts of what gateways and notifiers have stored beside tasks: attestations, notices, dead letters."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from controller.core.model.model import Model
from controller.core.model.notices import OUTBOX, EndNotice
from controller.core.model.records import decode_or_empty

UNREADABLE_NAME = "?"


class NoticeFacts(NamedTuple):
    """A notice, the last part of its key, and the mod revision of its key."""

    sequence: str
    notice: EndNotice
    revision: int


class BesideCounts(NamedTuple):
    """How many there are."""

    attestations: int
    waiting_notices: int
    dead_notices: int
    schedules: int
    suspended: int  # of them


MAX_FAILING = 50  # hosts that are told of


class NotifierSummary(Struct, frozen=True, kw_only=True):
    """Who delivers notices ("": nobody; "?": its record cannot be read), and how many there are.

    `failing`: the hosts that could not be told at the last try, and why, as the notifier says.
    """

    on_duty: str
    waiting: int
    dead: int
    failing: dict[str, str] = {}
    problem: str = ""  # why the notifier's file of secrets cannot be used


def _text(value: object, otherwise: str) -> str:
    return value if isinstance(value, str) else otherwise


def notifier_summary(model: Model) -> NotifierSummary:
    """The notifier on duty, and what it has before it."""
    on_duty, failing, problem = "", {}, ""
    if model.notifier is not None:
        record = decode_or_empty(model.notifier)
        name, told = record.get("id"), record.get("failing")
        on_duty = name if isinstance(name, str) and name else UNREADABLE_NAME
        problem = _text(record.get("problem"), "")
        if isinstance(told, dict):
            failing = {host: _text(told[host], "not known") for host in sorted(told)[:MAX_FAILING]}
    counts = beside_counts(model)
    return NotifierSummary(
        on_duty=on_duty,
        waiting=counts.waiting_notices,
        dead=counts.dead_notices,
        failing=failing,
        problem=problem,
    )


def all_notices(model: Model) -> list[NoticeFacts]:
    """Those that are kept, by task and in the order of its ends."""
    return [
        NoticeFacts(names[1], notice, model.mod_of(OUTBOX, names))
        for names, notice in sorted(model.notices.items(), key=lambda each: each[0])
    ]


def beside_counts(model: Model) -> BesideCounts:
    """Counted from what the model keeps anyway."""
    dead = len(model.dead)
    schedules = model.schedules.defined.values()
    suspended = sum(record.schedule.suspended for record in schedules)
    return BesideCounts(len(model.attested), len(model.notices) - dead, dead, len(schedules), suspended)
