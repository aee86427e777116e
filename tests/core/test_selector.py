"""Label selectors, as kubectl takes them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.model.selector import TERM, InvalidSelector, parse_selector, selects

BLUE = {"team": "blue", "zone": "x", "gpu": ""}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("team=blue", True),
        ("team==blue", True),
        ("team = red", False),
        ("team!=red", True),
        ("team!=blue", False),
        ("tier!=test", True),  # no such label
        ("zone in (x, y)", True),
        ("zone in (y)", False),
        ("zone notin (y,z)", True),
        ("zone notin (x)", False),
        ("tier notin (x)", True),
        ("gpu", True),
        ("gpu=", True),
        ("!gpu", False),
        ("!spot", True),
        ("in", False),
        ("team=blue, zone in (x), !spot ", True),
        ("team=blue,zone=y", False),
    ],
)
def test_what_a_selector_selects(text: str, holds: bool) -> None:
    """As https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors has it."""
    assert selects(parse_selector(text), BLUE) is holds
    assert re.fullmatch(f"{TERM}(,{TERM})*", text), "what is described to others is the same grammar"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "its end"),
        ("team=a,", "its end"),
        ("team=a,,b", "character 8, at ',b'"),
        ("team=a b", "character 8, at 'b'"),
        ("team in a", "character 6, at 'in a'"),
        ("team in (a", "character 6, at 'in (a'"),
        ("team in (a b)", "character 10, at 'a b)'"),
        ("=a", "character 1, at '=a'"),
        ("team<3", "character 5, at '<3'"),
    ],
)
def test_what_is_none_is_refused_with_the_place(text: str, place: str) -> None:
    with pytest.raises(InvalidSelector, match=re.escape(f"does not parse at {place}")):
        parse_selector(text)


@given(
    st.text()
    | st.lists(st.sampled_from(["a", "=", "!", "in", "notin", "(", ")", ",", " ", "=="])).map("".join)
)
def test_any_text_is_a_selector_or_refused(text: str) -> None:
    """And what is taken is described."""
    try:
        parse_selector(text)
    except InvalidSelector:
        return
    assert re.fullmatch(f"{TERM}(,{TERM})*", text)
