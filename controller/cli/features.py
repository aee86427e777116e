"""The command `tally features`: which features stored data may use."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from controller.cli import output as out
from controller.cli.session import Session
from controller.core.model import codec
from controller.terminal import say

FEATURE_COLUMNS = ("NAME", "STATE", "KNOWN BY")


class Action(StrEnum):
    """What to do with a feature."""

    ENABLE = "enable"
    DROP = "drop"


def features(
    session: Session,
    action: Annotated[
        Action | None, typer.Argument(help="Turn a feature on or off.", show_default=False)
    ] = None,
    name: Annotated[str, typer.Argument(help="The feature.", show_default=False)] = "",
    output: Annotated[str, typer.Option("-o", "--output", help="json or yaml.")] = "",
) -> None:
    """Show the features that data may use, or turn one on or off.

    A replica whose release does not know a feature that is on does not lead. `enable` is refused while such a
    replica is registered, and ends the current term. `drop` is refused while data uses the feature.
    """
    out.check_form(output, ("json", "yaml"))
    if action is None:
        views = session.client.features.all()
        if output:
            out.print_document(codec.to_builtins(views), output)
            return
        out.Table(FEATURE_COLUMNS).print(
            (view.name, view.state, f"{view.replicas - len(view.unknown_to)}/{view.replicas} replicas")
            for view in views
        )
        return
    if not name or output:
        raise typer.BadParameter(f"give the NAME of a feature, and no --output: tally features {action} NAME")
    if action is Action.ENABLE:
        changed, state = session.client.features.enable(name), "on"
    else:
        changed, state = session.client.features.drop(name), "off"
    say(f"feature/{name} {'turned' if changed else 'is already'} {state}")
