"""Numbers of things and somebody else's words, as text.

What somebody else's words hold of control characters never reaches a terminal, nor looks like a line of ours.
"""

from __future__ import annotations


def shown(text: str) -> str:
    """The text with escapes for its control characters, and for those that turn the direction of writing;
    lines stay lines.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text
    )


def one_line(text: str) -> str:
    """The same, with the ends of lines as escapes too."""
    return shown(text).replace("\n", "\\n")


def counted(number: int, noun: str, plural: str = "") -> str:
    """1 replica, 2 replicas; with the plural where it is not the noun with an s."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"
