"""Failpoints: named places where a test makes this process die, pause or hang.

Inert unless TALLY_FAILPOINTS is set.

`TALLY_FAILPOINTS=after-commit:exit@3,before-effect:sleep:5` ends the process by SIGKILL when it passes
`after-commit` for the third time, and holds up the first effect for 5 seconds. `plan-task:raise:NAME` raises
an error whenever that task's next step is derived, `before-commit:raise:NAME` whenever a plan that changes it
is persisted. They are part of the product, so that what is tested is what runs; a point that is not armed
costs one look into an empty dict.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from dataclasses import dataclass

import structlog

from controller.errors import InvalidField

VARIABLE = "TALLY_FAILPOINTS"
POINTS = ("plan-task", "before-commit", "after-commit", "before-effect", "after-effect", "before-observe")
_FORM = re.compile(r"([a-z-]+):(exit|hang|sleep:(\d+(?:\.\d+)?)|raise:([a-z0-9-]+))(?:@([1-9]\d*))?")

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Armed:
    """What happens when the point is passed for the `left`th time from now; once.

    `name`: raises whenever it is passed by that.
    """

    action: str
    seconds: float
    left: int
    name: str = ""


class Raised(Exception):
    """What a failpoint raises; nobody expects it."""


_armed: dict[str, _Armed] = {}
_lock = threading.Lock()


def arm(text: str) -> None:
    """Arm what `text` (of the form in the module's docstring) says, and nothing else. Raises InvalidField."""
    armed = {}
    for part in filter(None, text.split(",")):
        match = _FORM.fullmatch(part)
        if match is None or match[1] not in POINTS:
            form = "POINT:exit|hang|sleep:SECONDS|raise:NAME[@N]"
            raise InvalidField(VARIABLE, f"{part!r} is not {form} with a POINT of {', '.join(POINTS)}")
        armed[match[1]] = _Armed(
            match[2].partition(":")[0], float(match[3] or 0), int(match[5] or 1), match[4] or ""
        )
    with _lock:
        _armed.clear()
        _armed.update(armed)


def hit(point: str, *names: str) -> None:
    """The process passes `point`, one of POINTS, with the tasks of these names.

    Raises Raised if that is what is armed.
    """
    if point not in _armed:
        return
    with _lock:
        armed = _armed.get(point)
        if armed is None:
            return
        if armed.name:
            if armed.name in names:
                raise Raised(f"failpoint {point}, passed by {armed.name}")
            return
        armed.left -= 1
        if armed.left:
            return
        del _armed[point]
    log.warning("failpoint", point=point, action=armed.action)
    if armed.action == "exit":
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait(armed.seconds if armed.action == "sleep" else None)
