"""Failpoints: named places where a test makes this process die, pause, hang or fail.

They are inert unless TALLY_FAILPOINTS is set. `TALLY_FAILPOINTS=after-commit:exit@3,before-effect:sleep:5`
ends the process by SIGKILL when it passes `after-commit` for the third time, and delays the first effect by 5
seconds. `plan-task:raise:NAME` raises an error whenever that task's next step is derived.
`before-commit:raise:NAME` raises one whenever a plan that changes the task is persisted. Failpoints are part
of the product, so that what is tested is what runs. A point that is not armed costs one look into an empty
dict.
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
_FORM = re.compile(r"([a-z-]+):(?:raise:([a-z0-9-]+)|(exit|hang|sleep:(\d+(?:\.\d+)?))(?:@([1-9]\d*))?)")

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Armed:
    """What happens, once, when the point is passed for the `left`th time from now.

    With a `name`: it raises whenever that task passes the point.
    """

    action: str
    seconds: float
    left: int
    name: str = ""


class Raised(Exception):
    """The error that a failpoint raises. No code expects it."""


_armed: dict[str, _Armed] = {}
_lock = threading.Lock()


def arm(text: str) -> None:
    """Arm what `text` says (see the module's docstring), and nothing else. Raises InvalidField."""
    armed = {}
    for part in filter(None, text.split(",")):
        match = _FORM.fullmatch(part)
        if match is None or match[1] not in POINTS:
            form = "POINT:exit|hang|sleep:SECONDS[@N] or POINT:raise:NAME"
            raise InvalidField(VARIABLE, f"{part!r} is not {form} with a POINT of {', '.join(POINTS)}")
        armed[match[1]] = _Armed(
            (match[3] or "raise").partition(":")[0],
            float(match[4] or 0),
            int(match[5] or 1),
            match[2] or "",
        )
    with _lock:
        _armed.clear()
        _armed.update(armed)


def hit(point: str, *names: str) -> None:
    """Pass `point`, one of POINTS, with the tasks of these names. Raises Raised if that is armed."""
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
