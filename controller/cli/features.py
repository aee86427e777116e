"""The command `tally features`: which features stored data may use."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from controller.cli import output as out
from controller.cli.session import Session
from controller.core.model import codec
from controller.core.model.features import REQUIRES
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
    names: Annotated[list[str] | None, typer.Argument(help="The features.", show_default=False)] = None,
    output: Annotated[str, typer.Option("-o", "--output", help="json or yaml.")] = "",
) -> None:
    """Show the features that data may use, or turn some on or off.

    A replica whose release does not know a feature that is on does not lead. `enable` is refused while such a
    replica is registered, and ends the current term. It turns on all of them or none, and also what they
    require: `gangs` requires `arrays`, and `claims` requires `owners`. `drop` is refused while data uses the
    feature, and takes one after the other.
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
    if not names or output:
        raise typer.BadParameter(
            f"give the NAMES of features, and no --output: tally features {action} NAME…"
        )
    names = list(dict.fromkeys(names))
    if action is Action.DROP:
        for name in names:
            say(f"feature/{name} {'turned' if session.client.features.drop(name) else 'is already'} off")
        return
    turned_on = session.client.features.enable(*names)
    for name in dict.fromkeys((*turned_on, *names)):
        asked = "" if name in names else f", since {_requiring(name, names)} requires it"
        say(f"feature/{name} {'turned' if name in turned_on else 'is already'} on{asked}")


def _requiring(required: str, names: list[str]) -> str:
    return ", ".join(name for name in names if REQUIRES.get(name) == required)
