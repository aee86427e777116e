"""The audit that the endpoint serves: made on request, at most once in a few seconds."""

from __future__ import annotations

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

from controller.endpoint.problems import Problem
from controller.errors import TallyError
from controller.views.replica import ReadableReplica

AUDIT_SECONDS = 5.0  # an audit is answered again for so long, so that asking cannot load the engine


class LastAudit:
    """Makes one audit at a time, in a thread of its own."""

    def __init__(self, view: ReadableReplica) -> None:
        self._view = view
        self._auditor = ThreadPoolExecutor(1, "tally-status-audit")
        self._auditing = asyncio.Lock()
        # the last report, and when it was made (boottime)
        self._made: tuple[float, dict[str, Any]] | None = None
        # when and why the last try failed; None if it did not
        self._failed: tuple[float, str] | None = None

    def close(self) -> None:
        """Shut down the thread, without waiting for a running audit."""
        self._auditor.shutdown(wait=False, cancel_futures=True)

    async def report(self) -> dict[str, Any]:
        """A report made now or a few seconds ago. Raises Problem when none could be made."""
        async with self._auditing:
            now = self._view.facts().boottime
            last = max(made[0] for made in (self._made, self._failed, (-math.inf, "")) if made is not None)
            if now - last >= AUDIT_SECONDS:
                await self._make()
        if self._failed is not None:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, f"the audit failed: {self._failed[1]}")
        assert self._made is not None
        return self._made[1]

    def problem(self) -> str:
        """Why the last audit failed, or could check etcd alone; "" if neither."""
        if self._failed is not None:
            return self._failed[1]
        problem = self._made[1].get("checked", {}).get("engine_problem") if self._made is not None else ""
        return f"the engine was not checked, because {problem}" if problem else ""

    async def _make(self) -> None:
        try:
            report = await asyncio.get_running_loop().run_in_executor(self._auditor, self._view.audit)
        except TallyError as error:
            self._failed = (self._view.facts().boottime, str(error))
        else:
            self._made, self._failed = (self._view.facts().boottime, report), None
