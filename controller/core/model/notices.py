"""Notices: what is to be told about ended tasks to the receivers that their pool names (`Pool.notify`).

A notice is a record `outbox/<task-id>/<sequence>`, written in the transaction that records the end. The
sequence grows with each plan of each leader: notices sort as the ends came, also those of a later task of the
same name. A notifier tells the receivers, and then writes `delivered/<task-id>/<sequence>`. The leader
deletes both. If a receiver could not be told, the leader keeps the notice as a dead letter, which says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec
from msgspec import Struct

from controller.core.model import codec
from controller.core.model.notify_rules import Ending, NotifyRule
from controller.core.model.op import NO_OP, Op
from controller.core.model.task import SCHEMA_VERSION, Count, Pool, Spec, Status, Text, Time, Word
from controller.errors import CorruptValue

T = TypeVar("T")

OUTBOX = "outbox"
DELIVERED = "delivered"
NOTIFIER = "notifier"
"""The kinds of the records, and of the key that the working notifier holds."""

MAX_NOTICES = 10_000
"""Notices that are kept, in one installation. Further ones are counted, and not kept.

Those of one owner in one pool are at most as many as still fit: the dynamic threshold of Choudhury and Hahne
(1998).
"""
MAX_DEAD = 1_000
"""Dead letters that are kept. For each further one, the oldest is deleted."""
MESSAGE_CHARACTERS = 1000
SEQUENCE_DIGITS = 20
PLANS_IN_EPOCH = 10**12  # more than a leader can make
LABEL_BYTES = 4096  # larger labels are left out: the outbox is a part of the store


class Dead(Struct, frozen=True, kw_only=True):
    """Why a notice was given up, by receiver, and when."""

    why: dict[str, Text]
    at: Time = 0.0


class EndNotice(Struct, frozen=True, kw_only=True):
    """What is told about one end of a task, and to which URLs.

    `at`: when the end was recorded. `dead`: it was given up; `urls` are then those that have not been told.
    """

    task: str
    urls: tuple[str, ...]
    ending: Ending
    at: Time
    pool: str
    owner: str
    attempt: Count = 0
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    labels: dict[str, str] = {}
    dead: Dead | None = None
    version: int = SCHEMA_VERSION
    op: Op = NO_OP


class Delivery(Struct, frozen=True, kw_only=True):
    """What became of a notice: delivered to all, unless `dead` has why not, by URL.

    `again`: an admin wants a dead letter told again.
    """

    at: Time
    by: Word
    dead: dict[str, Text] = {}
    again: bool = False
    version: int = SCHEMA_VERSION
    op: Op = NO_OP


_notice_decoder = msgspec.json.Decoder(EndNotice)
_delivery_decoder = msgspec.json.Decoder(Delivery)


def sequence_of(epoch: int, op: Op) -> str:
    """The last part of the keys of a plan's notices: its epoch, and its number in the epoch, padded."""
    return sequence_text(epoch * PLANS_IN_EPOCH + int(op.rpartition("/")[2]))


def sequence_text(sequence: int) -> str:
    """As it stands in keys: padded, so that keys sort as the ends came."""
    return f"{sequence:0{SEQUENCE_DIGITS}d}"


def notice_of(task_id: str, spec: Spec | None, status: Status, pool: Pool, at: float) -> EndNotice | None:
    """What is to be told about this end; None if no rule of the pool asks for it."""
    ending = Ending(status.state.lower())
    labels = spec.labels if spec is not None else {}
    urls = dict.fromkeys(rule.url for rule in pool.notify if asks(rule, ending, labels))
    if not urls:
        return None
    return EndNotice(
        task=task_id,
        urls=tuple(urls),
        ending=ending,
        at=at,
        pool=pool.name,
        owner=status.owner,
        attempt=status.attempt,
        reason=status.reason,
        message=status.message[:MESSAGE_CHARACTERS],
        exit_code=status.exit_code,
        labels=labels if sum(map(len, (*labels, *labels.values()))) <= LABEL_BYTES else {},
    )


def asks(rule: NotifyRule, ending: Ending, labels: Mapping[str, str]) -> bool:
    """Whether the rule asks for a notice about such an end of a task with these labels."""
    return ending in rule.on and all(labels.get(key) == value for key, value in rule.labels.items())


def encode_notice(notice: EndNotice, op: Op) -> bytes:
    """The stored form."""
    return codec.encode(msgspec.structs.replace(notice, op=op))


def encode_delivery(delivery: Delivery, op: Op) -> bytes:
    """The stored form."""
    return codec.encode(msgspec.structs.replace(delivery, op=op))


def decode_notice(data: bytes) -> EndNotice:
    """A stored notice. Raises CorruptValue if it is not one."""
    return _decoded(_notice_decoder, data)


def decode_delivery(data: bytes) -> Delivery:
    """A stored delivery. Raises CorruptValue if it is not one."""
    return _decoded(_delivery_decoder, data)


def _decoded(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptValue(str(error)) from error


def kept_after(notice: EndNotice, delivery: Delivery) -> EndNotice | None:
    """What is kept of the notice: nothing if it was delivered, else a dead letter, or the notice again."""
    if delivery.again:
        return msgspec.structs.replace(notice, dead=None)
    return given_up(notice, delivery) if delivery.dead else None


def given_up(notice: EndNotice, delivery: Delivery) -> EndNotice:
    """The notice as a dead letter: those that could not be told, and why."""
    untold = tuple(url for url in notice.urls if url in delivery.dead)
    why = {url: words[:MESSAGE_CHARACTERS] for url, words in delivery.dead.items() if url in untold}
    return msgspec.structs.replace(notice, urls=untold, dead=Dead(why=why, at=delivery.at))
