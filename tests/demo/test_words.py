"""Both languages say the same: the same names in braces, and every text of one in the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields

import pytest

from controller.dev.demo.course import ACQUISITION, RELEASE, Design
from controller.dev.demo.words import CHINESE, ENGLISH, WORDS, Language, Words, filled
from tests.support.renew_demo import shown

LINES = re.compile(r"[▁-█]{8}")


def texts(words: Words) -> Iterator[tuple[str, str]]:
    """Each text, by where it is."""
    for field in fields(words):
        value = getattr(words, field.name)
        inner = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, tuple) else ()
        )
        yield from ((f"{field.name} {place}", text) for place, text in inner)
        if isinstance(value, str):
            yield field.name, value


def test_both_languages_have_the_same_texts() -> None:
    english, chinese = dict(texts(ENGLISH)), dict(texts(CHINESE))
    assert set(english) == set(chinese)
    assert set(ENGLISH.designs) == set(Design)
    for place, text in english.items():
        assert set(re.findall(r"\{(\w+)\}", text)) == set(re.findall(r"\{(\w+)\}", chinese[place])), place
    same = {place for place, text in english.items() if text == chinese[place]}
    assert same == {"audit", "designs tally-acquire"}


@pytest.mark.parametrize("language", Language)
def test_every_text_can_be_filled(language: Language) -> None:
    given = dict.fromkeys(("etcd", "units", "refused", "rounds", "of", "designs", "seconds", "file"), "x")
    for place, text in texts(WORDS[language]):
        assert "{" not in filled(text, **given), place


@pytest.mark.parametrize("language", Language)
def test_the_readme_shows_the_last_lines_of_a_run(language: Language) -> None:
    """As the demo would print them now: call `python -m tests.support.renew_demo` after a change."""
    words, lines = WORDS[language], shown(language)
    heads = [
        number for number, line in enumerate(lines) if line.startswith((words.release, words.acquisition))
    ]
    assert len(heads) == 2
    for head, designs in zip(heads, (RELEASE, ACQUISITION), strict=True):
        rows = lines[head + 1 : head + 2 + len(designs)]
        names = [re.split(r"  +|(?<=[^\d ]) (?=\d)", row)[0] for row in rows]
        assert names == [words.truth, *(words.designs[design] for design in designs)]
        assert all(LINES.search(row) for row in rows)
    assert words.audit in lines
    assert lines[-1] == words.as_claimed
    assert re.fullmatch(
        re.escape(filled(words.take_over, seconds="X")).replace("X", r"\d+\.\d\d"), lines[heads[1] + 6]
    )


def test_both_readmes_show_the_same_run() -> None:
    numbers = [[re.findall(r"\d+(?:\.\d+)?", line) for line in shown(language)] for language in Language]
    # texts have numbers in another order, rows do not
    assert [sorted(line) for line in numbers[0]] == [sorted(line) for line in numbers[1]]
