"""Real values, and what may have become of them, for hypothesis: fields gone, moved or of another type,
bytes cut or changed.
"""

from __future__ import annotations

import json
import os
from typing import Any

from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("EXAMPLES", "0"))
SETTINGS: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "derandomize": not EXAMPLES,
    "phases": [Phase.explicit, Phase.generate],
    "suppress_health_check": list(HealthCheck),
}
"""Of a test that draws such values: always the same ones, but EXAMPLES=2000 draws as many at random."""

# control characters and lone surrogates included
TEXT = st.text(st.characters(exclude_categories=[]), max_size=12)
NUMBERS = st.one_of(
    st.integers(-5, 5),
    st.integers(),
    st.integers(-(10**400), 10**400),
    st.floats(),
    st.sampled_from([2**53, 2**63 - 1, 2**64, 1e308]),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=12,
)
DEEP, LONG = "<deep>", "<long>"  # in the place of what is too deep to be drawn, or for json, and too long


def encoded(document: Any) -> bytes:
    """As JSON."""
    text = json.dumps(document).replace(f'"{DEEP}"', "[" * 20_000 + "]" * 20_000)
    return text.replace(f'"{LONG}"', '"' + "x" * 300_000 + '"').encode()


def _twist(draw: st.DrawFn, document: Any) -> None:
    """Change one place, at any depth: it is gone, of another type, or beside one of a new name."""
    while True:
        places = list(document) if isinstance(document, dict) else list(range(len(document)))
        if not places:
            return
        place = draw(st.sampled_from(places))
        if isinstance(document[place], dict | list) and document[place] and draw(st.booleans()):
            document = document[place]
            continue
        action = draw(st.sampled_from(["drop", "replace", "replace", "move"]))
        if action == "drop":
            del document[place]
        elif action == "move" and isinstance(document, dict):
            document[draw(TEXT)] = document.pop(place)
        else:
            document[place] = draw(
                st.one_of(JSON, st.sampled_from([DEEP, LONG, float("nan"), "default", "Running", "odd"]))
            )
        return


@st.composite
def mutated(draw: st.DrawFn, values: list[bytes]) -> bytes:
    """One of the values, and what has become of it."""
    document = json.loads(draw(st.sampled_from(values)))
    for _ in range(draw(st.integers(0, 3))):
        _twist(draw, document)
    value = encoded(document)
    if document and draw(st.integers(0, 9)) == 0:  # a field twice
        name = draw(st.sampled_from(list(document)))
        value = b"{" + json.dumps(name).encode() + b":" + encoded(draw(JSON)) + b"," + value[1:]
    if draw(st.integers(0, 9)) == 0:  # other bytes, among them such as are no UTF-8
        at = draw(st.integers(0, len(value)))
        value = value[:at] + draw(st.binary(max_size=4)) + value[at + draw(st.integers(0, 4)) :]
    return value[: draw(st.integers(0, len(value)))] if draw(st.integers(0, 19)) == 0 else value


def anything(values: list[bytes]) -> st.SearchStrategy[bytes]:
    """Any bytes, any JSON, any depth, and the values with changes."""
    depths = st.integers(1, 100_000).map(lambda depth: b'{"a":' * depth)
    return st.one_of(st.binary(max_size=40), JSON.map(encoded), depths, mutated(values))
