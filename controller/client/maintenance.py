"""Sets and removes the maintenance windows of pools. A guard compares each pool with what was read."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from controller.client.calls import Calls
from controller.client.features import Features
from controller.client.pools import no_pool
from controller.client.reading import Reading
from controller.client.requests import requester
from controller.core.model import codec
from controller.core.model.features import MAINTENANCE
from controller.core.model.maintenance import (
    MAX_WINDOWS,
    MaintenanceWindow,
    Windows,
    not_passed,
    parse_windows,
)
from controller.core.model.scalars import is_number, parse_name, shown
from controller.errors import InvalidField
from controller.store.base import Committed, Guard, Put, StoreError, Transaction
from controller.views.maintenance import kept_back

WHO = 200  # characters of the name of who has set a window


class DrainResult(msgspec.Struct, frozen=True, kw_only=True):
    """A window that is set, and the features that it needs and that were off.

    `kept_back`: how many tasks the pool's windows keep back from now on, since they could run into one; None:
    they could not be counted, and the window is set.
    """

    window: MaintenanceWindow
    turned_on: tuple[str, ...] = ()
    kept_back: int | None = None


class Maintenance:
    """See the module's docstring. Times are seconds since the Unix epoch.

    Whatever is written drops the windows that have passed. `client.pools()` shows those that are stored.
    """

    def __init__(self, calls: Calls, features: Features, reading: Reading) -> None:
        self._calls = calls
        self._features = features
        self._reading = reading

    def drain(
        self, pool: str, starts_at: float, ends_at: float, *, reason: str = "", by: str = ""
    ) -> DrainResult:
        """Set a window, in place of one that starts at the same time. `by`: the user of this process, or who
        else asks for it.

        The feature `maintenance` is turned on. Raises NotFound, CorruptValue, InvalidField, and UserError if
        a replica does not know the feature.
        """
        added = new_window(starts_at, ends_at, reason, by or requester(), self._calls.clock.now())

        def put(windows: Windows) -> Windows:
            others = [each for each in windows if each.starts_at != added.starts_at]
            if len(others) >= MAX_WINDOWS:
                problem = f"has {MAX_WINDOWS} windows in pool {pool!r}, the most that are allowed: remove one"
                raise InvalidField("maintenance", problem)
            return parse_windows([*others, added], "maintenance")

        turned_on = tuple(self._change(pool, put))
        try:
            kept = kept_back(self._reading.model(""), pool, self._calls.clock.now())
        except StoreError:  # told as not known: an error would say that no window was set
            kept = None
        return DrainResult(window=added, turned_on=turned_on, kept_back=kept)

    def undrain(self, pool: str, starts_at: float | None = None) -> Windows:
        """Remove the window that starts then; None: all. Returns what was removed.

        Raises NotFound, CorruptValue, InvalidField.
        """
        start, removed = parse_start(starts_at), tuple[MaintenanceWindow, ...]()

        def drop(windows: Windows) -> Windows:
            nonlocal removed
            removed = tuple(each for each in windows if start in (None, each.starts_at))
            return tuple(each for each in windows if each not in removed)

        self._change(pool, drop)
        return removed

    def _change(self, name: str, what: Callable[[Windows], Windows]) -> list[str]:
        """Change this field alone; whatever else is stored, also by a newer release, stays.

        Returns the features that it has turned on.
        """
        turned_on: list[str] = []
        keys = self._calls.keys
        key = keys.pool(parse_name(name, "name", "a pool's name"))
        while True:
            item, op = self._calls.stored(key), self._calls.new_op()
            if item is None:
                raise no_pool(keys.cluster, name)
            is_done = self._calls.has_written(item)
            if is_done and (earlier := self._calls.before(item)) is not None:
                item = earlier
            stored = codec.decode_pool(name, item.value).maintenance
            windows = what(not_passed(stored, self._calls.clock.now()))
            if is_done or windows == stored:
                return turned_on
            guards = [Guard(key, item.mod)]
            if windows:
                features_mod, new = self._features.ensure({MAINTENANCE: "maintenance"})
                guards.append(Guard(keys.engine, features_mod))
                turned_on += new
            value = {**codec.decode_mapping(item.value), "maintenance": codec.to_builtins(windows), "op": op}
            if not windows:
                del value["maintenance"]
            answer = self._calls.commit(Transaction(tuple(guards), (Put(key, codec.encode(value)),), op))
            if isinstance(answer, Committed):
                return turned_on


def parse_start(raw: object) -> float | None:
    """When the window starts that is meant; None: all. Raises InvalidField."""
    if raw is not None and not is_number(raw):
        raise InvalidField("starts_at", f"is {shown(raw)}, expected seconds since 1970, or None for all")
    return raw


def new_window(starts_at: float, ends_at: float, reason: str, by: str, now: float) -> MaintenanceWindow:
    """A window that is to be set. Raises InvalidField, naming the field."""
    raw = {"starts_at": starts_at, "ends_at": ends_at, "reason": reason, "by": by[:WHO]}
    try:
        [window] = parse_windows([raw], "")
    except InvalidField as error:
        raise InvalidField(error.field.removeprefix("[0]."), error.problem) from None
    if window.ends_at <= now:
        raise InvalidField("ends_at", "has passed: give a window that ends later")
    return window
