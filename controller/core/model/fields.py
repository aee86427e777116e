"""Reads the fields of a mapping that a user wrote, each with its own parser."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from typing import Any

from controller.core.model.scalars import shown
from controller.errors import InvalidField

SIMILAR = 0.75  # of difflib's ratio: below it, the known name is probably not what was meant

Parse = Callable[[object, str], Any]


def read_fields(fields: Mapping[str, Any], parsers: Mapping[str, Parse], prefix: str = "") -> dict[str, Any]:
    """Each given field, parsed. None counts as not given, as in YAML's `key:`."""
    values = {}
    for name, raw in fields.items():
        parse = parsers.get(name)
        if parse is None:
            raise not_a_field(name, parsers, prefix)
        if raw is not None:
            values[name] = parse(raw, f"{prefix}{name}")
    return values


def not_a_field(name: str, known: Collection[str], prefix: str = "") -> InvalidField:
    """The error of a field that is none of these."""
    meant = difflib.get_close_matches(name, known, 1, SIMILAR) or [
        each
        for each in known
        if each.startswith(f"{name}_")  # without its unit
    ]
    advice = f"did you mean {meant[0]}?" if meant else f"the fields are {', '.join(known)}"
    return InvalidField(f"{prefix}{name}"[:100], f"is not a field; {advice}")


def mapping(raw: object, field: str, problem: str) -> Mapping[str, Any]:
    """The mapping, if all its keys are strings. Raises InvalidField with `problem`."""
    if not isinstance(raw, Mapping) or not all(isinstance(key, str) for key in raw):
        raise InvalidField(field, problem)
    return raw


def one_of(kind: type[StrEnum]) -> Parse:
    """The parser of a field that has one of these values."""

    def parse(raw: object, field: str) -> StrEnum:
        try:
            return kind(raw)  # type: ignore[arg-type]  # anything else is refused
        except ValueError:
            raise InvalidField(field, f"is {shown(raw)}, expected one of {', '.join(kind)}") from None

    return parse
