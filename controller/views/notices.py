"""The facts of what gateways and notifiers have stored beside tasks: attestations, notices, dead letters."""

from __future__ import annotations

from typing import NamedTuple

from controller.core.model.model import Model
from controller.core.model.notices import OUTBOX, EndNotice


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


def all_notices(model: Model) -> list[NoticeFacts]:
    """Those that are kept, by task and in the order of its ends."""
    return [
        NoticeFacts(names[1], notice, model.mod_of(OUTBOX, names))
        for names, notice in sorted(model.notices.items(), key=lambda each: each[0])
    ]


def beside_counts(model: Model) -> BesideCounts:
    """Counted from what the model keeps anyway."""
    dead = len(model.dead)
    return BesideCounts(len(model.attested), len(model.notices) - dead, dead)
