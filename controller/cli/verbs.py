"""typer's groups and commands, with help panels in plain text, and suggestions only for close matches.

typer draws panels with rich, which takes a quarter of a second. Its own rule would suggest `logs` for `ls`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from controller.core.model.fields import SIMILAR

_UsageError: Any = typer.BadParameter.__base__  # typer does not export it


CONNECTION = "Connection"  # the panel of the flags of every command; only `tally --help` describes them


class Verbs(TyperGroup):
    """A group of commands."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "suggest_commands": False})

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """See the base class. Raises its usage error for a flag that is repeated and takes one value."""
        _refuse_repeated(self, ctx, args)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """See the base class, which may take words out of `args` before it raises."""
        word = args[0]
        try:
            return super().resolve_command(ctx, args)
        except _UsageError as error:
            close = difflib.get_close_matches(word, self.list_commands(ctx), 1, SIMILAR)
            if close:
                error.message = f"{error.message.rstrip('.')}. Did you mean '{close[0]}'?"
            raise

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the flags, then the commands by panel."""
        _write_panels(formatter, _parameters(self, ctx))
        commands = [
            command
            for name in self.list_commands(ctx)
            if (command := self.get_command(ctx, name)) is not None
        ]
        rows = [
            (getattr(one, "rich_help_panel", None) or "Commands", (one.name, one.get_short_help_str(80)))
            for one in commands
        ]
        _write_panels(formatter, rows)


class Verb(TyperCommand):
    """A command."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and flags by panel. For the connection's flags, refer to `tally --help`."""
        rows = list(_parameters(self, ctx))
        _write_panels(formatter, [row for row in rows if row[0] != CONNECTION])
        if any(panel == CONNECTION for panel, _ in rows):
            with formatter.section(CONNECTION):
                formatter.write_text(
                    "--config, --etcd, --cluster and the other flags that `tally --help` lists."
                )

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """See the base class. Raises its usage error for a flag that is repeated and takes one value."""
        try:
            _refuse_repeated(self, ctx, args)
            return super().parse_args(ctx, args)
        except _UsageError as error:
            if getattr(error, "possibilities", None):
                error.possibilities = difflib.get_close_matches(
                    error.option_name, error.possibilities, 2, SIMILAR
                )
            raise


def _refuse_repeated(command: Any, ctx: Any, args: list[str]) -> None:
    """Refuse a flag that is given twice and keeps one value, since the first would be lost in silence."""
    if ctx.resilient_parsing:  # the shell completes a line that may be changed still
        return
    _, _, order = command.make_parser(ctx).parse_args(args=list(args))
    for parameter in dict.fromkeys(order):
        if parameter.param_type_name != "option" or parameter.multiple or parameter.count:
            continue
        means_one_thing = parameter.is_flag and not parameter.secondary_opts
        if order.count(parameter) > 1 and not means_one_thing:
            flags = "/".join((*parameter.opts, *parameter.secondary_opts))
            raise typer.BadParameter(f"{flags} is given more than once, and takes one value: give it once")


def _parameters(command: Any, ctx: Any) -> Iterable[tuple[str, Any]]:
    """The panel and the help record (names and help text) of each visible parameter."""
    for parameter in command.get_params(ctx):
        default = "Arguments" if parameter.param_type_name == "argument" else "Options"
        if (record := parameter.get_help_record(ctx)) is not None:
            yield getattr(parameter, "rich_help_panel", None) or default, record


def _write_panels(formatter: Any, rows: Iterable[tuple[str, Any]]) -> None:
    panels: dict[str, list[Any]] = {}
    for panel, record in rows:
        panels.setdefault(panel, []).append(record)
    for panel, records in panels.items():
        with formatter.section(panel):
            formatter.write_dl(records)
