"""Label selectors in kubectl's grammar. All terms must hold.

An example: `team=a,tier!=test,zone in (x, y),zone notin (z),gpu,!spot`. The command line, the library and the
status endpoint share this grammar.
Source:
https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from controller.errors import UserError

_KEY = r"[A-Za-z0-9][-A-Za-z0-9_./]{0,316}"
_VALUE = r"[-A-Za-z0-9_.]{0,63}"
_SET = rf"\s+(in|notin)\s*\(\s*{_VALUE}\s*(,\s*{_VALUE}\s*)*\)"
TERM = rf"\s*(!\s*{_KEY}|{_KEY}(\s*(==?|!=)\s*{_VALUE}|{_SET})?)\s*"
"""One term as a regular expression, for descriptions of the grammar."""

# No two of these may match the same space, or a long run of spaces takes quadratic time.
_EXISTS = re.compile(rf"\s*(?:(?P<absent>!)\s*)?(?P<key>{_KEY})\s*")
_EQUALS = re.compile(rf"\s*(?P<key>{_KEY})\s*(?P<operator>==|=|!=)\s*(?P<value>{_VALUE})\s*")
_AMONG = re.compile(rf"\s*(?P<key>{_KEY})\s+(?P<operator>in|notin)\s*\((?P<values>[^()]*)\)\s*")


class Requirement(NamedTuple):
    """One term: the label's value must be (or not be) one of `values`.

    `values` None: a label with this key must be there (or not).
    """

    key: str
    values: frozenset[str] | None
    negated: bool

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether `labels` satisfy it. As in Kubernetes, `k!=v` and `k notin (v)` hold if there is no k."""
        found = self.key in labels and (self.values is None or labels[self.key] in self.values)
        return found is not self.negated


class InvalidSelector(UserError):
    """A text that is not a selector. The error says where it does not parse."""


def parse_selector(text: str) -> tuple[Requirement, ...]:
    """The terms. Raises InvalidSelector, naming the place."""
    terms, at = [], 0
    while True:
        found = _longest(text, at)
        if found is None:
            break
        if found.re is _AMONG and not all(
            re.fullmatch(_VALUE, value.strip()) for value in found["values"].split(",")
        ):
            at = found.start("values")
            break
        terms.append(_requirement(found))
        at = found.end()
        if at == len(text):
            return tuple(terms)
        if text[at] != ",":
            break
        at += 1
    where = f"character {at + 1}, at {text[at : at + 20]!r}" if at < len(text) else "its end"
    raise InvalidSelector(
        f"the label selector {text[:80]!r} does not parse at {where}: write terms such as"
        " team=blue,tier!=test,zone in (a,b),gpu,!spot"
    )


def selects(terms: Iterable[Requirement], labels: Mapping[str, str]) -> bool:
    """Whether all terms hold."""
    return all(term.holds(labels) for term in terms)


def _longest(text: str, at: int) -> re.Match[str] | None:
    found = (pattern.match(text, at) for pattern in (_AMONG, _EQUALS, _EXISTS))
    return next((match for match in found if match is not None), None)


def _requirement(term: re.Match[str]) -> Requirement:
    if term.re is _AMONG:
        return Requirement(
            term["key"],
            frozenset(value.strip() for value in term["values"].split(",")),
            term["operator"] == "notin",
        )
    if term.re is _EQUALS:
        return Requirement(term["key"], frozenset([term["value"]]), term["operator"] == "!=")
    return Requirement(term["key"], None, bool(term["absent"]))
