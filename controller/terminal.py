"""The one place that prints."""

from __future__ import annotations

import sys

from controller.core.model.printable import one_line, shown


def say(text: object = "", *, err: bool = False, end: str = "\n", flush: bool = False) -> None:
    """Print one line on stdout, or stderr. Words of others in it cannot break out of the line."""
    print(one_line(str(text)), file=sys.stderr if err else sys.stdout, end=end, flush=flush)  # the one place


def say_lines(text: str, *, err: bool = False) -> None:
    """Print a text of several lines, each written by Tally."""
    print(shown(text.removesuffix("\n")), file=sys.stderr if err else sys.stdout)  # the one place
