"""Counted nouns, and text from elsewhere made safe to print.

Control characters in text from elsewhere never reach a terminal, and never look like a line of Tally.
"""

from __future__ import annotations


def shown(text: str) -> str:
    """The text, with escapes for control characters and for those that change the direction of writing.

    Lines stay lines.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text
    )


def one_line(text: str) -> str:
    """As `shown`, with escapes for line ends as well."""
    return shown(text).replace("\n", "\\n")


def counted(number: int, noun: str, plural: str = "") -> str:
    """1 replica, 2 replicas. `plural` is for nouns whose plural is not formed with an s."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"
