"""Label and field selectors, compiled into predicates over documents."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from controller.dev.fake_kubernetes.apierrors import ApiError, Document, bad_request

Predicate = Callable[[Document], bool]
_Labels = Callable[[Mapping[str, str]], bool]

_TERM = re.compile(
    r"\s*(?:(?P<absent>!)\s*(?P<missing>[^\s,!=()]+)|(?P<key>[^\s,!=()]+)\s*(?P<rest>[^,(]*(?:\([^)]*\))?))\s*(?:,|$)"
)
_SET = re.compile(r"(?P<negated>not)?in\s*\((?P<values>[^)]*)\)\s*$")

FIELDS = {
    "pods": {
        "metadata.name",
        "metadata.namespace",
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "status.phase",
    },
    "events": {
        "metadata.name",
        "metadata.namespace",
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "reason",
        "type",
    },
    "namespaces": {"metadata.name", "status.phase"},
    "nodes": {"metadata.name"},
}


def compile_selectors(resource: str, labels: str, fields: str) -> Predicate | None:
    """What an object must be like; None: anything.

    Raises ApiError (400) for a selector that does not parse.
    """
    label_tests = _labels(labels)
    field_tests = _fields(resource, fields)
    if not label_tests and not field_tests:
        return None

    def matches(document: Document) -> bool:
        found = document["metadata"].get("labels") or {}
        return all(test(found) for test in label_tests) and all(test(document) for test in field_tests)

    return matches


def _labels(text: str) -> list[_Labels]:
    tests: list[_Labels] = []
    position = 0
    while position < len(text):
        match = _TERM.match(text, position)
        if match is None or match.end() == position:
            raise _unparsable(text)
        position = match.end()
        if match["absent"]:
            tests.append(lambda found, key=match["missing"]: key not in found)  # type: ignore[misc]  # mypy knows no default of a lambda
        else:
            tests.append(_label(match["key"], match["rest"].strip(), text))
    return tests


def _label(key: str, rest: str, text: str) -> _Labels:
    if not rest:
        return lambda found: key in found
    if in_set := _SET.match(rest):
        values = {value.strip() for value in in_set["values"].split(",")}
        if in_set["negated"]:
            return lambda found: found.get(key) not in values
        return lambda found: found.get(key) in values
    for operator in ("!=", "==", "="):
        if rest.startswith(operator):
            value = rest[len(operator) :].strip()
            if operator == "!=":
                return lambda found: found.get(key) != value
            return lambda found: found.get(key) == value
    raise _unparsable(text)


def _unparsable(text: str) -> ApiError:
    return bad_request(f"unable to parse requirement: found '{text}', expected: a label selector")


def _fields(resource: str, text: str) -> list[Predicate]:
    tests: list[Predicate] = []
    for term in filter(None, text.split(",")):
        name, operator, value = _split_field(term)
        if name not in FIELDS[resource]:
            raise bad_request(f"field label not supported: {name}")
        path = name.split(".")
        if operator == "!=":
            tests.append(lambda document, path=path, value=value: _field(document, path) != value)  # type: ignore[misc]  # as above
        else:
            tests.append(lambda document, path=path, value=value: _field(document, path) == value)  # type: ignore[misc]  # as above
    return tests


def _split_field(term: str) -> tuple[str, str, str]:
    for operator in ("!=", "==", "="):
        name, found, value = term.partition(operator)
        if found:
            return name.strip(), operator, value.strip()
    raise bad_request(f"invalid selector: '{term}'; can't understand '{term}'")


def _field(document: Document, path: list[str]) -> str:
    value: object = document
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return str(value) if value is not None else ""
