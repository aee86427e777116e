"""The query parameters of the gateway's operations, beside those of the status endpoint."""

from __future__ import annotations

from controller.endpoint.query import LABEL, MAX_REVISION, Parameter, integer, parse_flag
from controller.engine.base import MOST_LINES, MOST_SECONDS
from controller.gateway.policy import Right
from controller.views.tasks import HELD_BACK, parse_states


def _act(text: str) -> Right:
    try:
        return Right(text)
    except ValueError:
        raise ValueError(f"expected one of {', '.join(Right)}") from None


def _name(text: str) -> str:
    if not 1 <= len(text) <= 253:
        raise ValueError("expected 1 to 253 characters")
    return text


_FLAG = {"type": "string", "enum": ["", "1", "true", "0", "false"]}
_NAME = {"type": "string", "minLength": 1, "maxLength": 253}
ACT = Parameter(
    "act", "What to ask about.", {"type": "string", "enum": list(Right)}, _act, default=Right.READ
)
TASK = Parameter("task", "With this task.", _NAME, _name, default="")
OWNER = Parameter("owner", "With a task of this owner.", _NAME, _name, default="")
POOL = Parameter("pool", "In this pool, for submit.", _NAME, _name, default="")


POOL_OF = Parameter("pool", "Of this pool only.", _NAME, _name)
_OWNER_OF = Parameter("owner", "Of this owner only.", _NAME, _name)
_STATE = Parameter(
    "state",
    "In these states only, separated by commas; also waiting, holding, finished and on-hold.",
    {"type": "string", "minLength": 1},
    lambda text: parse_states(text, HELD_BACK),
)
DRY_RUN = Parameter(
    "dry_run",
    "Tell what would become of what is sent, and store nothing.",
    _FLAG,
    parse_flag,
    default=False,
)
FOLLOW = Parameter("follow", "Until the attempt has ended.", _FLAG, parse_flag, default=False)
ATTEMPT = Parameter(
    "attempt",
    "The number of the attempt; the last one, if it is not given.",
    {"type": "integer", "minimum": 1, "maximum": 2**31},
    integer(1, 2**31),
)
CONTAINER = Parameter("container", "The container of the pod.", _NAME, _name, default="")
TAIL = Parameter(
    "tail",
    "Only this many last lines.",
    {"type": "integer", "minimum": 0, "maximum": MOST_LINES},
    integer(0, MOST_LINES),
)
SINCE = Parameter(
    "since_seconds",
    "Only what was printed in the last seconds.",
    {"type": "integer", "minimum": 1, "maximum": MOST_SECONDS},
    integer(1, MOST_SECONDS),
)
PREVIOUS = Parameter(
    "previous", "The previous run of a container that was restarted.", _FLAG, parse_flag, default=False
)
SKIP = Parameter(
    "skip",
    "Without so many bytes at its beginning: those that were received before the answer broke off.",
    {"type": "integer", "minimum": 0, "maximum": MAX_REVISION},
    integer(0, MAX_REVISION),
    default=0,
)
SELECTION = (POOL_OF, _OWNER_OF, _STATE, LABEL)
_TEXT = {"type": "string", "maxLength": 253}
USAGE = (
    Parameter("by", "owner, pool or label=KEY.", _TEXT, str, default="owner"),
    POOL_OF,
    Parameter("since", "A duration before now, or a date.", _TEXT, str, default=""),
    Parameter("until", "A duration before now, or a date.", _TEXT, str, default=""),
)
