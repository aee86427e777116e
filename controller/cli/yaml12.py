"""Reads and writes YAML 1.2. Strings stay as written, fields know their lines, and hostile input stays cheap.

Scalars follow the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema), but a number must
be written as in JSON: `0755`, `1_000`, `12:30`, `02134`, `0x1F`, `yes` and `2024-01-01` are strings. PyYAML's
own loader follows YAML 1.1, and reads them as 493, 1000, 750, 1116, 31, true and a date. Repeated keys, keys
that are not strings, and tags are refused. Merge keys (`<<`) are supported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from controller.errors import UserError

MAX_DEPTH = 100  # of nested lists and mappings; a pod template may use half of it
# the total number of values that aliases may stand for: nine lines of aliases can name a billion
MAX_ALIASED = 100_000

_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,30})(?P<fraction>\.[0-9]+)?(?P<exponent>[eE][-+]?[0-9]{1,4})?")
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None} | {
    word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")
}
# tags that do not change a value
_TAGS = {"!", "tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"}


class Lined(dict[str, Any]):
    """A mapping that knows the lines of its start and of its keys, from 1."""

    line: int
    lines: dict[str, int]


class YamlError(UserError):
    """The input cannot be read; `line` counts from 1, and is 0 if not known."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


def read_yaml(text: str) -> Iterator[tuple[Any, int]]:
    """Each document that is not empty, and its line. Raises YamlError."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, if installed, is ten times faster
    reader = _Reader(yaml.parse(text, Loader=loader))
    try:
        yield from reader.documents()
    except yaml.MarkedYAMLError as error:
        words = " ".join(filter(None, [error.problem, error.context]))
        raise YamlError(error.problem_mark.line + 1 if error.problem_mark else 0, words) from None
    except (yaml.YAMLError, ValueError) as error:
        raise YamlError(0, " ".join(str(error).split())) from None


def write_yaml(value: Any, *, only_ascii: bool = False) -> str:
    """A value of builtins as YAML that `read_yaml` and readers of YAML 1.1 read back unchanged."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=not only_ascii))


class _Dumper(yaml.SafeDumper):
    """Also quotes strings that YAML 1.2 would read as another type (`1e3`), and writes no aliases.

    PyYAML itself quotes only those of YAML 1.1.
    """

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # as PyYAML calls it
        """See the base class."""
        return True

    def text(self, text: str) -> yaml.ScalarNode:
        """The node of a string."""
        style = None if isinstance(plain(text), str) and text != "<<" else "'"
        if not text.replace("\n", "").isprintable():
            style = '"'  # the escapes that `printable.shown` prints are valid YAML, too
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _Dumper.text)


class _Reader:
    """Makes values of parser events, so that an error is found before the rest is read."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._anchors: dict[str, tuple[Any, int] | None] = {}  # value and size; None while it is being read
        self._aliased = 0
        self._size = 0  # the number of values made so far, with those of aliases

    def documents(self) -> Iterator[tuple[Any, int]]:
        for event in self._events:
            if type(event) is yaml.DocumentStartEvent:
                self._anchors = {}
                first = next(self._events)
                value = self._value(first, 0)
                if value is not None:
                    yield value, _line(first)

    def _value(self, event: Any, depth: int) -> Any:
        self._size += 1
        if type(event) is yaml.AliasEvent:
            return self._alias(event)
        if event.tag is not None and event.tag not in _TAGS:
            raise YamlError(_line(event), f"the tag {event.tag} is not supported: leave it out")
        if depth > MAX_DEPTH:
            raise YamlError(_line(event), f"lists and mappings are nested more than {MAX_DEPTH} deep")
        before = self._size
        if event.anchor:
            self._anchors[event.anchor] = None
        value: Any
        if type(event) is yaml.ScalarEvent:
            # `implicit[0]`: a plain scalar; others are quoted, a block, or have a tag
            value = plain(event.value) if event.implicit[0] else event.value
        elif type(event) is yaml.SequenceStartEvent:
            value = [self._value(item, depth + 1) for item in self._until(yaml.SequenceEndEvent)]
        else:
            value = self._mapping(event, depth)
        if event.anchor:
            self._anchors[event.anchor] = value, self._size - before + 1
        return value

    def _until(self, end: type) -> Iterator[Any]:
        while type(event := next(self._events)) is not end:
            yield event

    def _alias(self, event: Any) -> Any:
        known = self._anchors.get(event.anchor)
        if known is None:
            is_inside = event.anchor in self._anchors
            why = "refers to a value that contains it" if is_inside else "has no anchor before it"
            raise YamlError(_line(event), f"the alias *{event.anchor} {why}")
        value, size = known
        self._aliased += size
        self._size += size
        if self._aliased > MAX_ALIASED:
            raise YamlError(_line(event), f"aliases expand to more than {MAX_ALIASED:,} values")
        return value

    def _mapping(self, start: Any, depth: int) -> Lined:
        mapping, merged = Lined(), Lined()
        mapping.line, mapping.lines, merged.lines = _line(start), {}, {}
        for event in self._until(yaml.MappingEndEvent):
            key = self._key(event)
            value = self._value(next(self._events), depth + 1)
            if key == "<<" and not event.style:
                self._merge(merged, value, _line(event))
                continue
            if key in mapping:
                raise YamlError(_line(event), f"{key}: is given twice, here and in line {mapping.lines[key]}")
            mapping[key], mapping.lines[key] = value, _line(event)
        _take_missing(mapping, merged)
        return mapping

    def _key(self, event: Any) -> str:
        if type(event) is not yaml.ScalarEvent or (not event.value and not event.style):
            raise YamlError(_line(event), "a key must be a string")
        return str(event.value)

    def _merge(self, merged: Lined, value: Any, line: int) -> None:
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, Lined):
                raise YamlError(line, "<<: expected an alias of a mapping, or a list of them")
            self._aliased += len(one)
            _take_missing(merged, one)


def _take_missing(mapping: Lined, other: Lined) -> None:
    for key, value in other.items():
        if key not in mapping:
            mapping[key], mapping.lines[key] = value, other.lines[key]


def plain(text: str) -> str | int | float | bool | None:
    """The value of a plain scalar, which is one without quotes."""
    if text in _WORDS:
        return _WORDS[text]
    number = _NUMBER.fullmatch(text)
    if number is None or text == "-0":
        return text
    return float(text) if number["fraction"] or number["exponent"] else int(text)


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1
