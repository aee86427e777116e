"""The command `tally selftest`: tries safe faults on a live installation."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from controller.cli import output as out
from controller.cli.engines import open_engine_or_warn
from controller.cli.session import ERROR, Session, as_usage
from controller.terminal import say


def selftest(
    session: Session,
    image: Annotated[str, typer.Option(help="An image with a shell, if the engine needs an image.")] = "",
    timeout: Annotated[str, typer.Option(help="How long to wait for each step, such as 5m.")] = "120",
    output: Annotated[str, typer.Option("-o", "--output", help="json or yaml.")] = "",
) -> None:
    """Try safe faults on this installation.

    These are races, a step-down, a stale leader and a cut watch. They use their own tasks and pool, which are
    removed afterwards. Exits with 1 on failure.
    """
    from controller.audit.selftest import ItemOutcome, SelfTest
    from controller.cli.status_reader import status_reader
    from controller.client import Client
    from controller.client.client import of_settings
    from controller.config.values import positive_seconds

    out.check_form(output, ("json", "yaml"))
    seconds = as_usage(lambda: positive_seconds(timeout, "--timeout"))
    session.need_etcd()
    run = SelfTest(
        lambda: Client(**of_settings(session.settings)),
        open_engine_or_warn(session)[0],
        image=image,
        timeout_seconds=seconds,
        status=status_reader(session.settings),
    )
    items: list[dict[str, Any]] = []
    for item in run.run():
        items.append({**item._asdict(), "verdict": item.verdict.value})
        if not output:
            say(f"{item.verdict:<8} {item.seconds:6.1f} s  {item.name}: {item.seen}", flush=True)
    if output:
        out.print_document({"name": run.name, "items": items}, output)
    if any(item["verdict"] == ItemOutcome.FAILED for item in items):
        raise typer.Exit(ERROR)
