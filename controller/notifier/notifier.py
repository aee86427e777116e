"""Tells the receivers of one installation about ended tasks, while this process is on duty."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import msgspec
import structlog

from controller.clock import Clock
from controller.core.model.notices import Delivery, EndNotice, encode_delivery, sequence_text
from controller.core.model.notify_url import host_of, parse_notify_url
from controller.endpoint.reloaded import Reloaded
from controller.errors import InvalidField
from controller.notifier.courier import Courier, CourierCounts
from controller.notifier.delivery import Delivered, Postman, Undelivered
from controller.notifier.duty import Duty, DutyLost
from controller.notifier.envelope import CONTENT_TYPE, envelope
from controller.notifier.outbox import Names, Outbox
from controller.notifier.parcel import Parcel, ParcelKey
from controller.notifier.secrets import SigningSecrets
from controller.notifier.signing import signed_headers
from controller.store.base import Guard, Put, Refused, Store, StoreError, Transaction, new_op
from controller.store.keys import Keys

COMMIT_SECONDS = 5.0
PAUSE_SECONDS = 1.0
MAX_TOLD_HOSTS = 100
MAX_TOLD_CHARACTERS = 200

log = structlog.get_logger(__name__)


class Untold(msgspec.Struct):
    """A notice that some receivers are still to be told: the mod of its key, and who was given up."""

    mod: int
    left: set[str]
    dead: dict[str, str] = {}


class Notifier:
    """See the module's docstring. `run` serves until `ended` is set; several processes take turns."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        clock: Clock,
        name: str,
        postman: Postman,
        secrets: Reloaded[SigningSecrets],
        give_up_after_seconds: float,
    ) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._name = name
        self._postman = postman
        self._secrets = secrets
        self._give_up_after_seconds = give_up_after_seconds
        self._duty = Duty(store, keys, clock, name, self._told)
        self._untold: dict[Names, Untold] = {}
        self._failing: dict[str, str] = {}  # host → why it was not told
        self._lock = threading.Lock()
        self._courier: Courier | None = None
        self._leaving = threading.Event()

    def counts(self) -> CourierCounts | None:
        """How this turn of duty stands; None off duty."""
        courier = self._courier
        return courier.counts() if courier is not None else None

    def run(self, ended: threading.Event) -> None:
        """Take turns on duty until `ended` is set."""
        while self._duty.take_up(ended):
            self._serve(ended)
        self._duty.give_up()

    def _serve(self, ended: threading.Event) -> None:
        self._untold, self._failing = {}, {}
        self._leaving = threading.Event()
        courier = self._courier = Courier(
            self._deliver, self._clock, self._heard, give_up_after_seconds=self._give_up_after_seconds
        )
        came, went = partial(self._came, courier), partial(self._went, courier)
        outbox = Outbox(self._store, self._keys, self._clock, came, went)
        outbox.start()
        try:
            self._duty.keep(ended)
        finally:
            self._leaving.set()
            courier.close()  # first, so that nothing begins while the rest is closed
            outbox.close()
            self._courier = None
            self._duty.give_up()

    # -- what the outbox shows

    def _came(self, courier: Courier, names: Names, notice: EndNotice, mod: int) -> None:
        with self._lock:
            self._untold[names] = Untold(mod, set(notice.urls))
        for url in notice.urls:
            courier.take(_parcel(self._keys.cluster, names, notice, url))

    def _went(self, courier: Courier, names: Names) -> None:
        with self._lock:
            known = self._untold.pop(names, None)
        for url in known.left if known is not None else ():
            courier.forget(ParcelKey(names[0], url, int(names[1])))

    # -- what the courier does

    def _deliver(self, parcel: Parcel) -> Delivered | Undelivered:
        try:
            host = parse_notify_url(parcel.target, "url", allow_http=True).host
            keys = self._secrets.current().of(host)
            if not keys:
                self._note(host, "there is no secret for it: see notifier_secrets_file")
                return Undelivered(f"the notifier has no secret for {host}: see notifier_secrets_file")
            headers = signed_headers(keys, parcel.event_id, self._clock.wall(), parcel.body)
        except InvalidField as error:
            return Undelivered(str(error), is_final=True)
        headers["Content-Type"] = CONTENT_TYPE
        outcome = self._postman.post(parcel.target, parcel.body, headers, self._duty.is_held)
        self._note(host, "" if isinstance(outcome, Delivered) else outcome.why)
        return outcome

    def _told(self) -> dict[str, Any]:
        """What the key of the notifier on duty says besides its name: which receivers fail, and what else."""
        with self._lock:
            urls = {url for untold in self._untold.values() for url in untold.left}
            waited_for = set(map(host_of, urls))
            failing = sorted(each for each in self._failing.items() if each[0] in waited_for)[:MAX_TOLD_HOSTS]
        self._secrets.current()  # also while there is nothing to sign
        told = {
            "failing": {host: why[:MAX_TOLD_CHARACTERS] for host, why in failing},
            "problem": self._secrets.error[:MAX_TOLD_CHARACTERS],
        }
        return {name: value for name, value in told.items() if value}

    def _note(self, host: str, why: str) -> None:
        """Tell in the log when a host begins to fail, fails otherwise, and answers again."""
        with self._lock:
            before = self._failing.pop(host, "")
            if why:
                self._failing[host] = why
        if why and why != before:
            log.warning("a receiver was not told, and is tried again", host=host, why=why)
        elif before and not why:
            log.info("a receiver is told again", host=host)

    def _heard(self, parcel: Parcel, outcome: Delivered | Undelivered) -> None:
        """One receiver has been told, or was given up. After the last one, the leader is told."""
        names = parcel.task_id, sequence_text(parcel.sequence)
        with self._lock:
            found = self._untold.get(names)
            if found is None:
                return
            found.left.discard(parcel.target)
            if isinstance(outcome, Undelivered):
                found.dead = {**found.dead, parcel.target: outcome.why}
                log.warning("a receiver was given up", task=parcel.task_id, why=outcome.why)
            if found.left:
                return
        self._report(names, found)

    def _report(self, names: Names, told: Untold) -> None:
        """Write what became of a notice. It waits for etcd as long as this process is on duty."""
        delivery = Delivery(dead=told.dead, at=self._clock.wall(), by=self._name)
        key, notice = self._keys.delivery(*names), self._keys.notice(*names)
        op, there = new_op(), 0  # the mod of what stands there already: written by hand
        while not self._leaving.is_set():
            try:
                guards = (self._duty.guard(), Guard(notice, told.mod), Guard(key, there))
                writing = Transaction(guards, (Put(key, encode_delivery(delivery, op)),), op)
                answer = self._store.commit(writing, deadline=self._clock.boottime() + COMMIT_SECONDS)
                if not isinstance(answer, Refused):
                    return
                current = {name: item.mod if item is not None else 0 for name, item in answer.current.items()}
                if current.get(notice) != told.mod or current.get(key, 0) == there:
                    log.info("a delivery is not recorded: the notice or the duty has gone", task=names[0])
                    return
                op, there = new_op(), current.get(key, 0)
            except DutyLost:
                return
            except StoreError as error:
                log.warning("a delivery cannot be recorded now", error=str(error))
                self._leaving.wait(PAUSE_SECONDS)


def _parcel(cluster: str, names: Names, notice: EndNotice, url: str) -> Parcel:
    task_id, sequence = names
    data = msgspec.to_builtins(notice)
    for ours in ("urls", "dead", "version", "op", "at"):
        data.pop(ours)
    event_id = f"{cluster}-{task_id}-{sequence}"
    body = envelope(
        event_id=event_id,
        source=f"/tally/{cluster}",
        kind=f"tally.task.{notice.ending}",
        subject=task_id,
        when=notice.at,
        sequence=int(sequence),
        data=data,
    )
    return Parcel(task_id, int(sequence), url, body, event_id, notice.at)
