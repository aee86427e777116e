"""What a gateway is sent: what JSON can hold as it is.

Libraries put something else in place of the rest, in silence: null for an infinity, text for bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec

from controller.core.model import codec
from controller.core.model.validation import MAX_SPEC_BYTES
from controller.errors import InvalidField

_MOST = 2**63  # beyond which no two libraries agree on integers


def encoded(value: object, parse: Callable[[Any], object]) -> bytes:
    """The value as JSON. `parse`, which a client of etcd uses, is asked about one that JSON cannot hold.

    It is asked about a large one, too. Raises InvalidField.
    """
    plain = codec.to_builtins(value) if isinstance(value, msgspec.Struct) else value
    if is_plain(plain) and len(data := codec.encode(plain)) <= MAX_SPEC_BYTES:
        return data
    return body_of(codec.to_builtins(parse(plain)))


def body_of(value: object) -> bytes:
    """The value as JSON. Raises InvalidField for one that JSON cannot hold."""
    if not is_plain(value):
        raise InvalidField("", "what is sent must be of texts, finite numbers, lists, and mappings of names")
    return codec.encode(value)


def is_plain(value: object) -> bool:
    """Whether JSON can hold it as it is; tuples are lists."""
    try:
        return _is_plain(value)
    except RecursionError:
        return False


def _is_plain(value: object) -> bool:
    match value:
        case None | bool():
            return True
        case str():
            return value.isascii() or _is_text(value)
        case int():
            return -_MOST <= value < _MOST
        case float():
            return math.isfinite(value)
        case list() | tuple():
            return all(map(_is_plain, value))
        case dict():
            return all(isinstance(name, str) and _is_plain(name) for name in value) and all(
                map(_is_plain, value.values())
            )
    return False


def _is_text(value: str) -> bool:
    try:
        return bool(value.encode())
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
