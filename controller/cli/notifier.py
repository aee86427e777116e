"""The commands `tally notifier` and `tally notifier secret`."""

from __future__ import annotations

import typer

from controller.cli.session import CONNECTION, Session
from controller.terminal import say

SETTINGS = (
    *CONNECTION,
    "notifier",
    "notifier_secrets_file",
    "notifier_ca_file",
    "notifier_allow_http",
    "notifier_allowed_networks",
    "notifier_give_up_seconds",
)


def serve(session: Session) -> None:
    """Tell receivers about ended tasks (`notify` of their pools), in the foreground.

    Several may run: one delivers, and the others wait for their turn. SIGTERM, Ctrl-C and a closed terminal
    end it; what it was about to deliver, the next one delivers.
    """
    from controller.app import make_store
    from controller.clock import SystemClock
    from controller.notifier.run import run_notifier

    raise typer.Exit(run_notifier(session.settings, make_store(session.settings, SystemClock())))


def secret() -> None:
    """Print a new secret, for the file of secrets and for the receiver that checks signatures with it."""
    from controller.notifier.signing import new_secret

    say(new_secret())
