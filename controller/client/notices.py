"""The notices about ended tasks that have yet to be told, and those that were given up."""

from __future__ import annotations

import msgspec

from controller.client.calls import Calls
from controller.client.errors import NotFound
from controller.client.reading import Reading
from controller.core.model.notices import NOTIFIER, OUTBOX, Delivery, EndNotice, encode_delivery
from controller.errors import UserError
from controller.store.base import Committed, Guard, Put, Transaction, new_op
from controller.views.notices import NotifierSummary, all_notices, notifier_summary

ADMIN = "an admin"
"""Who says what is to become of a notice; a notifier gives its name."""


class NoticeView(msgspec.Struct, frozen=True, kw_only=True):
    """A notice. `sequence` tells the notices of one task apart; later ones are larger.

    `revision` is the mod of its key.
    """

    sequence: str
    notice: EndNotice
    revision: int

    @property
    def is_dead(self) -> bool:
        """Whether it was given up."""
        return self.notice.dead is not None


class Notices:
    """The notices of one installation."""

    def __init__(self, calls: Calls, reading: Reading) -> None:
        self._calls = calls
        self._reading = reading

    def all(self) -> list[NoticeView]:
        """Those that are kept, by task and in the order of its ends."""
        return [NoticeView(**facts._asdict()) for facts in all_notices(self._reading.model(f"{OUTBOX}/"))]

    def summary(self) -> NotifierSummary:
        """Who tells receivers, and how many notices there are."""
        return notifier_summary(self._reading.model(f"{OUTBOX}/", NOTIFIER))

    def retry(self, view: NoticeView) -> None:
        """Have a dead letter told again to those who were not told. Raises UserError, NotFound."""
        if not view.is_dead:
            name = f"{view.notice.task}/{view.sequence}"
            raise UserError(f"the notice {name} is no dead letter: it is still being delivered")
        self._ask(view, Delivery(again=True, at=self._calls.clock.now(), by=ADMIN))

    def drop(self, view: NoticeView) -> None:
        """Have a notice deleted. A receiver that is being told just now may still be. Raises NotFound."""
        self._ask(view, Delivery(at=self._calls.clock.now(), by=ADMIN))

    def _ask(self, view: NoticeView, delivery: Delivery) -> None:
        names = view.notice.task, view.sequence
        key, op = self._calls.keys.delivery(*names), new_op()
        guards = (Guard(self._calls.keys.notice(*names), view.revision), Guard(key, 0))
        asked = Transaction(guards, (Put(key, encode_delivery(delivery, op)),), op)
        if not isinstance(self._calls.commit(asked), Committed):
            raise NotFound(f"the notice {'/'.join(names)} has changed, or somebody has asked already")
