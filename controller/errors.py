"""The errors of the core, sorted by who must react.

All that Tally raises on purpose is a `TallyError`; the command line prints its text and nothing else. The
store, the engine and the election define branches of their own.
"""

from importlib.util import find_spec


class TallyError(Exception):
    """Root of all errors that Tally raises on purpose. `str(error)` is a sentence for the user."""


class UserError(TallyError):
    """The user must react: the request cannot be carried out as given, and nothing was changed."""


class InvalidField(UserError):
    """A value that was given is not valid. The error names the field.

    `field` is a path such as `retry.rules[0].action`. `problem` says what is wrong and what would be right.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.field = field
        self.problem = problem


class Closed(TallyError):
    """The client was closed before, or while it was asked; the same for its store."""

    def __init__(self) -> None:
        super().__init__("the client has been closed: make another one")


class MissingExtra(UserError, ImportError):
    """What was asked for needs packages that are not installed. The error names the extra that has them."""

    def __init__(self, needed_by: str, extra: str, missing: list[str]) -> None:
        super().__init__(
            f"{needed_by} needs packages that are not installed ({', '.join(missing)}): "
            f"pip install 'tally-controller[{extra}]'"
        )
        self.extra = extra


def need_extra(needed_by: str, extra: str, *packages: str) -> None:
    """Call this in the `__init__` of a package, before an optional dependency is imported.

    Raises MissingExtra if one of `packages` is not installed.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise MissingExtra(needed_by, extra, missing)


class CorruptValue(TallyError):
    """A stored value does not parse. Its reader quarantines the key: it is counted, shown, and left alone."""


class IllegalTransition(TallyError):
    """The lifecycle table has no row for the event. This is a bug of the caller, never a user's fault."""
