"""The owners of pools with `sharing`: what they hold, and what they have used."""

from __future__ import annotations

from controller.client.calls import Calls
from controller.client.pools import no_pool
from controller.client.reading import OF_OWNERS, OF_POOLS, OF_SHARES, OF_TASKS, Reading, parse_filter
from controller.client.views import OwnerView, SharingView, owner_view, sharing_view
from controller.core.model.model import Model
from controller.core.model.scalars import parse_name
from controller.views.pools import all_owners, is_known, owners_of, shared_pools, sharing_facts
from controller.views.usage import (
    ClosedDay,
    Usage,
    by_label,
    by_share,
    closed_days,
    day_before,
    label_of,
    parse_span,
)


class Owners:
    """The owners of pools with `sharing`. Pools without it keep no shares."""

    def __init__(self, calls: Calls, reading: Reading) -> None:
        self._calls = calls
        self._reading = reading

    def all(self, pool: str = "", *, counts: bool = True) -> list[OwnerView]:
        """The owners of this pool, or of all pools with `sharing`; by pool and name.

        Without `counts` no tasks are read: `waiting` and `on_hold` are 0, owners that only wait are left out,
        and `lost` and `stopping` are of holds that have ended.
        """
        pool, parts = parse_filter(pool, "pool"), OF_OWNERS if counts else OF_SHARES
        model, now = self._reading.model(*parts), self._calls.clock.now()
        found = owners_of(model, pool, now) if pool else all_owners(model, now)
        return [owner_view(facts) for facts in found]

    def sharing(self, pool: str) -> SharingView:
        """How this pool is shared; nothing for a pool without `sharing`."""
        parse_name(pool, "name", "a pool's name")
        model = self._reading.model(*OF_OWNERS, "claims/")
        return sharing_view(sharing_facts(model, pool, self._calls.clock.now()))

    def usage(self, *, by: str = "owner", pool: str = "", since: str = "", until: str = "") -> Usage:
        """What was used of pools with `sharing`, by `owner`, `pool` or `label=KEY`.

        `since` and `until` are durations before now (`7d`) or dates (`2026-11-27`, UTC: its beginning); ""
        for the beginning and for now. Each stands for the end of the last day that was closed before:
        `Usage.since` and `Usage.until` say when that was. By label it is counted from the histories of the
        tasks that are still stored, to the millisecond. If the clock is behind what was charged last, `now`
        is then. Raises InvalidField, and NotFound if there is no such pool, and was none.
        """
        now = round(self._calls.clock.now() * 1000)
        begin, end = span = parse_span(since, until, now)
        label, pool = label_of(by), parse_filter(pool, "pool")
        if label is not None:
            model = self._reading.model(*OF_POOLS, *OF_TASKS)
            self._check_pool(model, pool)
            return by_label(model, label, pool, span, now)
        model = self._reading.model(*OF_SHARES, *(() if until else ("states/",)))  # of what has not ended
        self._check_pool(model, pool)
        closed = self._closed(model, pool, begin) if begin is not None else {}
        ended = self._closed(model, pool, end) if end is not None else {}
        return by_share(model, by, pool, span, closed, ended, now)

    def _check_pool(self, model: Model, pool: str) -> None:
        if pool and not is_known(model, pool):
            raise no_pool(self._calls.keys.cluster, pool)

    def _closed(self, model: Model, pool: str, begin: int) -> dict[str, ClosedDay]:
        """For each pool, the last day that was closed before `begin` (ms); absent if there was none."""
        day = day_before(begin)
        closed = closed_days(self._load(f"usage/{day}/"), day)
        if not closed.keys() >= set([pool] if pool else shared_pools(model)):
            closed = closed_days(self._load("usage/"), day)  # an earlier day is next best
        return closed

    def _load(self, part: str) -> list[tuple[str, str, bytes]]:
        """The day, the name and the value of each record of closed days under this part of the prefix."""
        prefix = self._calls.keys.prefix
        snapshot = self._calls.store.load(prefix + part, deadline=self._calls.deadline())
        names = (item.key.removeprefix(prefix).split("/") for item in snapshot.items)
        return [
            (name[1], name[2], item.value)
            for name, item in zip(names, snapshot.items, strict=True)
            if len(name) == 3
        ]
