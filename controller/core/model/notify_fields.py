"""Parses the field `notify` of a pool. Each parser raises InvalidField with the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controller.core.model.fields import Parse, mapping, read_fields
from controller.core.model.notify_rules import Ending, NotifyRule
from controller.core.model.notify_url import parse_notify_url
from controller.core.model.scalars import parse_text, shown
from controller.errors import InvalidField

MAX_RULES = 8


def parse_notify(raw: object, field: str) -> tuple[NotifyRule, ...]:
    """The rules of a pool. Raises InvalidField."""
    if not isinstance(raw, list | tuple):
        raise InvalidField(
            field, "expected a list of rules, such as [{url: https://hooks.example.org/x, on: [failed]}]"
        )
    if len(raw) > MAX_RULES:
        raise InvalidField(field, f"has {len(raw)} rules, but at most {MAX_RULES} are allowed")
    return tuple(_rule(item, f"{field}[{index}]") for index, item in enumerate(raw))


def _rule(raw: object, field: str) -> NotifyRule:
    if isinstance(raw, NotifyRule):
        return raw
    fields = dict(mapping(raw, field, "expected a mapping such as {url: https://…, on: [failed]}"))
    known = read_fields(fields, _RULE, f"{field}.")
    for name in ("url", "on"):
        if known.get(name) is None:
            raise InvalidField(f"{field}.{name}", "is missing")
    return NotifyRule(**known)


def _url(raw: object, field: str) -> str:
    parse_notify_url(raw, field, allow_http=True)  # whether http is allowed, the notifier decides
    assert isinstance(raw, str)
    return raw


def _on(raw: object, field: str) -> tuple[str, ...]:
    if not isinstance(raw, list | tuple) or not raw:
        raise InvalidField(field, f"expected a list of {', '.join(Ending)}")
    for item in raw:
        if item not in tuple(Ending):
            raise InvalidField(field, f"has {shown(item)}, expected {', '.join(Ending)}")
    return tuple(dict.fromkeys(map(str, raw)))


def _labels(raw: object, field: str) -> dict[str, str]:
    labels: Mapping[str, Any] = mapping(raw, field, "expected a mapping of labels to values")
    return {key: parse_text(value, f"{field}.{key}"[:100]) for key, value in labels.items()}


_RULE: dict[str, Parse] = {"url": _url, "on": _on, "labels": _labels}
