"""The Retry-After header of an HTTP answer (RFC 9110, 10.2.3), whatever stands in it."""

from __future__ import annotations

from email.utils import parsedate_to_datetime


def retry_after_seconds(text: str, now: float, most: float) -> float | None:
    """What it asks for: seconds, or the time until a date; from 0 to `most`. `now` is the wall time.

    None for no header, and for one that says neither.
    """
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), most)
    try:
        until = parsedate_to_datetime(text).timestamp() - now
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return min(max(until, 0.0), most)
