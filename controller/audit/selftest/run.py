"""A run of the selftest: it reports each item in order, and removes everything at the end."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import NamedTuple

from controller.audit.selftest.acts import Acts
from controller.audit.selftest.proofs import Proofs
from controller.audit.selftest.stage import Skipped, Stage
from controller.client import Client
from controller.engine.base import Engine
from controller.errors import TallyError


class ItemOutcome(StrEnum):
    """How an item ended."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


class Item(NamedTuple):
    """One item of the selftest: its name, outcome, what was seen, and how long it took."""

    name: str
    verdict: ItemOutcome
    seen: str
    seconds: float


class SelfTest:
    """One run.

    `connect` makes a client; `engine` (None: not readable from here) is only listed; `status` opens status
    URLs.
    """

    def __init__(
        self,
        connect: Callable[[], Client],
        engine: Engine | None,
        *,
        image: str = "",
        timeout_seconds: float = 120.0,
        status: urllib.request.OpenerDirector | None = None,
    ) -> None:
        self._stage = Stage(connect, engine, image, timeout_seconds)
        self._status = status or urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self.name = self._stage.name

    def run(self) -> Iterator[Item]:
        """Try everything, and remove all that was made, whatever failed.

        Raises UserError when it cannot even begin.
        """
        self._stage.check_engine()
        acts, proofs = Acts(self._stage), Proofs(self._stage, self._status)
        items: tuple[tuple[str, Callable[[], str]], ...] = (
            ("a pool of its own", acts.make_pool),
            ("tasks run once, within the capacity", acts.run_tasks),
            ("the same submission many times at once", acts.submit_twice),
            ("a failing task is retried as its policy says", acts.retry_policy),
            ("cancels and retries at once", acts.race),
            ("step-down while tasks run", acts.step_down),
            ("a stale leader's transaction fails at the fence", acts.stale_leader),
            ("a watch that is cut misses nothing", proofs.cut_watch),
            ("the ledger equals the holds at every revision", proofs.balance),
            ("histories lead to the stored states", proofs.histories),
            ("all replicas give the same answers", proofs.replicas),
            ("audit", proofs.audit),
        )
        try:
            for name, item in items:
                tried = self._try(name, item)
                yield tried
                if item == acts.make_pool and tried.verdict is ItemOutcome.FAILED:
                    break
        finally:
            cleaned = self._try("removes what it created", self._stage.clean_up)
            self._stage.client.close()
        yield cleaned

    def _try(self, name: str, item: Callable[[], str]) -> Item:
        began = self._stage.client.clock.boottime()
        verdict = ItemOutcome.OK
        try:
            seen = item()
        except Skipped as error:
            verdict, seen = ItemOutcome.SKIPPED, str(error)
        except (TallyError, AssertionError) as error:
            verdict, seen = ItemOutcome.FAILED, str(error) or type(error).__name__
        return Item(name, verdict, seen, self._stage.client.clock.boottime() - began)
