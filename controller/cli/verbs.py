"""typer's groups and commands, suggesting only what is likely to be meant: by their own rule `logs` for `ls`."""

from __future__ import annotations

import difflib
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from controller.core.validation import SIMILAR

_UsageError: Any = typer.BadParameter.__base__  # typer does not export it


class Verbs(TyperGroup):
    """A group of commands."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "suggest_commands": False})

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """See the base class."""
        try:
            return super().resolve_command(ctx, args)
        except _UsageError as error:
            close = difflib.get_close_matches(args[0], self.list_commands(ctx), 1, SIMILAR)
            if close:
                error.message = f"{error.message.rstrip('.')}. Did you mean '{close[0]}'?"
            raise


class Verb(TyperCommand):
    """A command."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """See the base class."""
        try:
            return super().parse_args(ctx, args)
        except _UsageError as error:
            if getattr(error, "possibilities", None):
                error.possibilities = difflib.get_close_matches(error.option_name, error.possibilities, 2, SIMILAR)
            raise
