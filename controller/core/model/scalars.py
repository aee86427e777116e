"""Single values as users write them: names, durations, numbers, strings.

Each parser raises InvalidField with the name of the field. A duration is a number of seconds (`30`, `1.5`) or
a string (`90s`, `10m`, `1h30m`, `2d`).
"""

from __future__ import annotations

import re
from typing import TypeGuard
from urllib.parse import urlsplit

from controller.errors import InvalidField

MAX_DURATION_SECONDS = 10 * 365 * 86400.0
MAX_NUMBER = 1e18

_ID = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", re.ASCII
)


def parse_duration(raw: object, field: str) -> float:
    """Seconds, from a number or from a string such as `1h30m`.

    Raises InvalidField for anything negative or not finite.
    """
    given = raw
    if isinstance(raw, str):
        match = _DURATION.fullmatch(raw)
        if raw and match and any(match.groups()):
            parts = (
                float(part) * unit
                for part, unit in zip(match.groups(), (86400, 3600, 60, 1), strict=True)
                if part
            )
            return in_range(sum(parts), field, 0.0, MAX_DURATION_SECONDS)
        try:
            raw = float(raw) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", raw) else None
        except ValueError:
            raw = None
    if not is_number(raw):
        problem = "expected a duration: seconds (30) or a string such as 90s, 10m or 1h30m"
        raise InvalidField(field, f"is {shown(given)}, {problem}")
    return in_range(float(raw), field, 0.0, MAX_DURATION_SECONDS)


def parse_name(raw: object, field: str, what: str = "a name", limit: int = 63) -> str:
    """A DNS-1123 label of at most `limit` characters (RFC 1123, as Kubernetes names objects)."""
    if raw is None:
        raise InvalidField(field, f"is missing: expected {what} such as train-1")
    if not isinstance(raw, str) or not raw:
        quotes = ": put it in quotes" if isinstance(raw, int | float) else ""
        raise InvalidField(field, f"is {shown(raw)}, expected {what} such as train-1{quotes}")
    if len(raw) > limit:
        raise InvalidField(field, f"{raw[:20]!r}… has {len(raw)} characters, but at most {limit} are allowed")
    if _ID.fullmatch(raw) is None:
        raise InvalidField(
            field, f"{raw!r} may hold only a-z, 0-9 and '-', and must begin and end with a letter or digit"
        )
    return raw


def is_name(text: str, limit: int = 63) -> bool:
    """Whether `parse_name` accepts it."""
    return len(text) <= limit and _ID.fullmatch(text) is not None


def parse_etcd_url(text: str, field: str) -> tuple[str, str, int]:
    """Scheme, host (IPv6 in brackets) and port of the client URL of an etcd member."""
    try:
        url = urlsplit(text)
        port = 2379 if url.port is None else url.port
    except ValueError:
        url, port = urlsplit(""), 0
    if (
        url.scheme not in ("http", "https")
        or not url.hostname
        or url.path.strip("/")
        or url.query
        or url.fragment
        or url.username
        or not port
    ):
        raise InvalidField(
            field, f"{text[:80]!r} is not the URL of an etcd member, such as http://127.0.0.1:2379"
        )
    return url.scheme, f"[{url.hostname}]" if ":" in url.hostname else url.hostname, port


def is_number(raw: object) -> TypeGuard[int | float]:
    """Whether it is a number: not a bool, not infinite or NaN, not an integer too large to calculate with."""
    return isinstance(raw, int | float) and not isinstance(raw, bool) and -MAX_NUMBER < raw < MAX_NUMBER


def shown(raw: object) -> str:
    """A given value, short enough for a message."""
    try:
        text = repr(raw)
    except (ValueError, RecursionError):  # more digits, or deeper, than Python writes
        return f"{type(raw).__name__} too large to be shown"
    return text if len(text) <= 80 else f"{text[:79]}…"


def json_problem(error: ValueError | RecursionError) -> str:
    """Why a text or value is no JSON. Python's own limits are told in words for its users."""
    if isinstance(error, RecursionError) or "ecursion" in str(error):
        return "it is nested too deep"
    return "a number in it has too many digits" if "set_int_max_str_digits" in str(error) else str(error)


def in_range(value: float, field: str, low: float, high: float) -> float:
    """The value, if it lies within the bounds."""
    if not low <= value <= high:
        raise InvalidField(field, f"is {value:.15g}, expected {low:.15g} to {high:.15g}")
    return value


def parse_integer(raw: object, field: str, low: int, high: int) -> int:
    """A whole number within the bounds. A bool is not one."""
    if not is_number(raw) or not isinstance(raw, int):
        raise InvalidField(field, f"is {shown(raw)}, expected a whole number")
    return int(in_range(raw, field, low, high))


def parse_boolean(raw: object, field: str) -> bool:
    """True or false, and nothing that only looks like it."""
    if not isinstance(raw, bool):
        raise InvalidField(field, f"is {shown(raw)}, expected true or false")
    return raw


def parse_text(raw: object, field: str) -> str:
    """A string that UTF-8 can encode, without NUL."""
    if not isinstance(raw, str):
        quotes = ": put it in quotes" if isinstance(raw, int | float) else ""
        raise InvalidField(field, f"is {shown(raw)}, expected a string{quotes}")
    if "\0" in raw:
        raise InvalidField(field, "contains a NUL character, which no process can receive: remove it")
    try:
        raw.encode()
    except UnicodeEncodeError:
        raise InvalidField(
            field, "contains a character that UTF-8 cannot encode (a lone surrogate): remove it"
        ) from None
    return raw


def parse_strings(raw: object, field: str) -> tuple[str, ...]:
    """A list of strings. Raises InvalidField."""
    if isinstance(raw, str) or not isinstance(raw, list | tuple):
        raise InvalidField(
            field, f'expected a list of strings, such as ["sh", "-c", "echo hello"], not {type(raw).__name__}'
        )
    return tuple(parse_text(item, f"{field}[{index}]") for index, item in enumerate(raw))


def positive_duration(raw: object, field: str) -> float | None:
    """A limit in seconds, above 0."""
    seconds = parse_duration(raw, field)
    if seconds <= 0:
        raise InvalidField(field, "is 0, a limit that no task can meet; remove it for no limit")
    return seconds
