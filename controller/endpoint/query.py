"""The parameters of the status endpoint, each with its parser and its schema for the OpenAPI document."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from controller.core.model.arrays import ALL, MAX_SIZE, Ranges
from controller.core.model.lifecycle import State
from controller.core.model.selector import TERM, InvalidSelector, Requirement, parse_selector
from controller.endpoint.order import SORTS, Sort, parse_token
from controller.endpoint.problems import Problem
from controller.errors import InvalidField
from controller.views.arrays import MAX_PAGE, MEMBER_STATES, PAGE, parse_member_states
from controller.views.dependencies import DEPTH, MAX_DEPTH, MAX_NODES, NODES, Direction
from controller.views.tasks import parse_states

MAX_LIMIT = 500
MAX_WAIT_SECONDS = 30.0
MAX_REVISION = 2**63 - 1
MAX_NAMES = 100


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter.

    `parse` raises ValueError that says what is valid. `default` is the value if it is not given.
    """

    name: str
    description: str
    schema: Mapping[str, Any]
    parse: Callable[[str], Any]
    default: Any = None


def parse_parameters(known: Iterable[Parameter], given: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """All parameters by name.

    Raises Problem (400) that names the parameter that is unknown, repeated or invalid.
    """
    by_name = {parameter.name: parameter for parameter in known}
    values: dict[str, Any] = {}
    for name, text in given:
        if name not in by_name:
            choice = f"the parameters are {', '.join(by_name)}" if by_name else "this path has no parameters"
            raise _bad(name, f"there is no parameter {name[:80]!r}: {choice}")
        if name in values:
            raise _bad(name, f"{name} is given twice: give it once")
        try:
            values[name] = by_name[name].parse(text)
        except ValueError as error:
            raise _bad(name, f"{name} is {text[:80]!r}: {error}") from None
    return {parameter.name: parameter.default for parameter in by_name.values()} | values


def parse_flag(text: str) -> bool:
    """A boolean; `?verbose` alone means true."""
    if text in ("", "1", "true"):
        return True
    if text in ("0", "false"):
        return False
    raise ValueError("expected nothing, true or false")


def integer(low: int, high: int) -> Callable[[str], int]:
    """A parser of integers in plain digits."""

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or len(text) > 19 or not low <= int(text) <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return int(text)

    return parse


def parse_wait(text: str) -> float:
    """Seconds to wait."""
    if re.fullmatch(r"-?[0-9]{1,30}(\.[0-9]{1,30})?([eE][-+]?[0-9]{1,3})?", text):
        seconds = float(text)
        if math.isfinite(seconds) and 0 <= seconds <= MAX_WAIT_SECONDS:
            return seconds
    raise ValueError(f"expected seconds from 0 to {MAX_WAIT_SECONDS:g}")


def parse_labels(text: str) -> tuple[Requirement, ...]:
    """A label selector, as for kubectl."""
    try:
        return parse_selector(text)
    except InvalidSelector as error:
        raise ValueError(str(error)) from None


def parse_sort(text: str) -> Sort:
    """An order, by its name."""
    if text not in SORTS:
        raise ValueError(f"expected one of {', '.join(SORTS)}")
    return SORTS[text]


def parse_direction(text: str) -> Direction:
    """Which neighbours."""
    try:
        return Direction(text)
    except ValueError:
        raise ValueError(f"expected one of {', '.join(Direction)}") from None


def parse_ranges(text: str) -> Ranges:
    """Ranges of members."""
    try:
        return Ranges.parse(text[:4097])
    except InvalidField as error:
        raise ValueError(str(error)) from None


def _bad(name: str, detail: str) -> Problem:
    return Problem(HTTPStatus.BAD_REQUEST, detail, parameter=name)


def _text(text: str) -> str:
    if not 1 <= len(text) <= 253:
        raise ValueError("expected 1 to 253 characters")
    return text


def parse_names(text: str) -> tuple[str, ...]:
    """Names of tasks."""
    names = tuple(dict.fromkeys(text.split(",")))
    if len(names) > MAX_NAMES or not all(1 <= len(name) <= 253 for name in names):
        raise ValueError(f"expected up to {MAX_NAMES} names of tasks, separated by commas")
    return names


VERBOSE = Parameter(
    "verbose",
    "List every check.",
    {"type": "string", "enum": ["", "1", "true", "0", "false"]},
    parse_flag,
    default=False,
)
MIN_REVISION = Parameter(
    "min_revision",
    "Answer only from a model that has applied this revision of the store, such as the one a write returned.",
    {"type": "integer", "minimum": 0, "maximum": MAX_REVISION},
    integer(0, MAX_REVISION),
    default=0,
)
WAIT = Parameter(
    "wait",
    "Seconds to wait for min_revision.",
    {"type": "number", "minimum": 0, "maximum": MAX_WAIT_SECONDS, "default": 0},
    parse_wait,
    default=0.0,
)
POOL = Parameter(
    "pool", "Only tasks of this pool.", {"type": "string", "minLength": 1, "maxLength": 253}, _text
)
OWNER = Parameter(
    "owner", "Only tasks of this owner.", {"type": "string", "minLength": 1, "maxLength": 253}, _text
)
POOL_OF_OWNERS = Parameter(
    "pool", "Only owners of this pool.", {"type": "string", "minLength": 1, "maxLength": 253}, _text
)
STATE = Parameter(
    "state",
    "Only tasks in these states, separated by commas.",
    {"type": "array", "items": {"type": "string", "enum": [state.value for state in State]}, "minItems": 1},
    parse_states,
)
LABEL = Parameter(
    "label",
    "Only tasks whose labels match, such as `team=blue,tier!=test,zone in (a,b),gpu,!spot`.",
    {"type": "string", "pattern": f"^{TERM}(,{TERM})*$"},
    parse_labels,
    default=(),
)
SEARCH = Parameter(
    "search",
    "Only tasks whose id contains this text.",
    {"type": "string", "minLength": 1, "maxLength": 253},
    _text,
    default="",
)
LIMIT = Parameter(
    "limit",
    "Tasks on a page.",
    {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": 100},
    integer(1, MAX_LIMIT),
    default=100,
)
SORT = Parameter(
    "sort",
    "What to sort tasks by; a leading - reverses the order. States sort in the order of the lifecycle, and"
    " equal tasks by name.",
    {"type": "string", "enum": list(SORTS), "default": str(Sort())},
    parse_sort,
    default=Sort(),
)
CONTINUE = Parameter(
    "continue",
    "The `continue` of the previous page, which had the same `sort`.",
    {"type": "string", "pattern": "^([0-9a-f]{2}){1,1024}$"},
    parse_token,
)
AFTER = Parameter(
    "after",
    "Start after this revision. The header Last-Event-ID takes precedence. Without either, the stream starts"
    " now.",
    {"type": "integer", "minimum": 0, "maximum": MAX_REVISION},
    integer(0, MAX_REVISION),
)
TASKS = Parameter(
    "tasks",
    f"Up to {MAX_NAMES} names of tasks of which to tell what is to come, separated by commas.",
    {
        "type": "array",
        "items": {"type": "string", "minLength": 1, "maxLength": 253},
        "minItems": 1,
        "maxItems": MAX_NAMES,
    },
    parse_names,
    default=(),
)
HERE = Parameter(
    "here",
    "Answer here, also if this replica leads: it would send you to a follower.",
    {"type": "string", "enum": ["", "1", "true", "0", "false"]},
    parse_flag,
    default=False,
)
MEMBERS = (
    Parameter(
        "offset",
        "The index to begin with.",
        {"type": "integer", "minimum": 0, "maximum": MAX_SIZE, "default": 0},
        integer(0, MAX_SIZE),
        default=0,
    ),
    Parameter(
        "limit",
        "Members on a page.",
        {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": PAGE},
        integer(1, MAX_PAGE),
        default=PAGE,
    ),
    Parameter(
        "state",
        "Only members in these states, separated by commas; also holding and finished.",
        {"type": "array", "items": {"type": "string", "enum": list(MEMBER_STATES)}, "minItems": 1},
        parse_member_states,
    ),
    Parameter(
        "members",
        "Only these members, such as `7` or `100-200,300`.",
        {"type": "string", "pattern": "^(0|[1-9][0-9]{0,5})$", "maxLength": 4096},
        parse_ranges,
        default=ALL,
    ),
)
NEIGHBOURS = (
    Parameter(
        "direction",
        "up: what the task waits for; down: what waits for it; or both.",
        {"type": "string", "enum": list(Direction), "default": Direction.BOTH},
        parse_direction,
        default=Direction.BOTH,
    ),
    Parameter(
        "depth",
        "Over how many steps.",
        {"type": "integer", "minimum": 1, "maximum": MAX_DEPTH, "default": DEPTH},
        integer(1, MAX_DEPTH),
        default=DEPTH,
    ),
    Parameter(
        "limit",
        "Tasks in the answer; the nearest come first.",
        {"type": "integer", "minimum": 1, "maximum": MAX_NODES, "default": NODES},
        integer(1, MAX_NODES),
        default=NODES,
    ),
)
