"""The notices that wait, as the store has them: loaded once, and then followed by a watch."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

import structlog

from controller import bulkhead
from controller.clock import Clock
from controller.core.model.notices import DELIVERED, OUTBOX, SEQUENCE_DIGITS, EndNotice, decode_notice
from controller.errors import CorruptValue
from controller.store.base import ClusterChanged, Compacted, KeyValue, Store, StoreDenied, StoreError, Watch
from controller.store.keys import Keys

LOAD_SECONDS = 30.0
PAUSE_SECONDS = 1.0
SILENCE_SECONDS = 30.0
_SEQUENCE = f"[0-9]{{{SEQUENCE_DIGITS}}}"

log = structlog.get_logger(__name__)

Names = tuple[str, str]
"""Of a notice: its task, and its sequence as the key has it."""


class Outbox:
    """Follows the outbox in a thread of its own, from `start` to `close`.

    `came` is called for each notice that is to be delivered, with the mod revision of its key, and `went` for
    each that is not any more. A notice that cannot be read is counted as `unreadable`, and left to the audit.
    """

    def __init__(
        self,
        store: Store,
        keys: Keys,
        clock: Clock,
        came: Callable[[Names, EndNotice, int], None],
        went: Callable[[Names], None],
    ) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._came = came
        self._went = went
        self._known: dict[Names, int] = {}
        self._closing = threading.Event()
        self._watch: Watch | None = None
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self.unreadable = 0

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def close(self) -> None:
        """End the watch and the thread."""
        self._closing.set()
        if self._watch is not None:
            self._watch.close()
        self._thread.join(PAUSE_SECONDS + 5.0)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._follow(self._load())
            except (Compacted, ClusterChanged) as error:
                log.info("the outbox is loaded again", why=str(error))
            except StoreDenied as error:
                log.warning("the outbox may not be read", error=str(error))
            except StoreError as error:
                log.warning("the outbox cannot be read now", error=str(error))
            except Exception as error:  # noqa: BLE001  # counted; else nobody would be told any more
                bulkhead.caught("outbox", error)
            self._closing.wait(PAUSE_SECONDS)

    def _load(self) -> int:
        deadline = self._clock.boottime() + LOAD_SECONDS
        outbox = self._store.load(f"{self._keys.prefix}{OUTBOX}/", deadline=deadline)
        # what was delivered, and what the leader has yet to delete
        done = self._store.load(
            f"{self._keys.prefix}{DELIVERED}/", deadline=deadline, revision=outbox.revision
        )
        delivered = {names for item in done.items if (names := self._names(item.key)) is not None}
        found = dict[Names, KeyValue]()
        for item in outbox.items:
            names = self._names(item.key)
            if names is not None and names not in delivered:
                found[names] = item
        for names in [each for each in self._known if each not in found]:
            self._gone(names)
        for names, item in found.items():
            self._take(names, item)
        return outbox.revision

    def _follow(self, revision: int) -> None:
        prefix = f"{self._keys.prefix}{OUTBOX}/"
        self._watch = self._store.watch(prefix, after=revision, silence_seconds=SILENCE_SECONDS)
        try:
            if self._closing.is_set():
                return
            for batch in self._watch:
                for event in batch.events:
                    names = self._names(event.key)
                    if names is not None and event.item is not None:
                        self._take(names, event.item)
                    elif names is not None:
                        self._gone(names)
        finally:
            self._watch.close()

    def _take(self, names: Names, item: KeyValue) -> None:
        if self._known.get(names) == item.mod:
            return
        self._gone(names)
        try:
            notice = decode_notice(item.value)
        except CorruptValue as error:
            self.unreadable += 1
            log.warning("a notice cannot be read", key=item.key, error=str(error))
            return
        if notice.dead is None:
            self._known[names] = item.mod
            self._came(names, notice, item.mod)

    def _gone(self, names: Names) -> None:
        if self._known.pop(names, None) is not None:
            self._went(names)

    def _names(self, key: str) -> Names | None:
        """None for a key that no leader has written."""
        parsed = self._keys.parse(key)
        if parsed is None or len(parsed.names) != 2 or not re.fullmatch(_SEQUENCE, parsed.names[1]):
            return None
        return parsed.names[0], parsed.names[1]
