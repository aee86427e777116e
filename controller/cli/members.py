"""The members of an array, as `tally get task NAME --members` lists them."""

from __future__ import annotations

import time
from itertools import islice

from controller.cli import output as out
from controller.cli.session import Session, as_usage
from controller.client.members import checked
from controller.core.model.codec import to_builtins
from controller.terminal import say
from controller.views.arrays import MAX_PAGE

FORMS = ("wide", "json", "yaml", "name")  # wide is the same table: it has all columns


def print_members(session: Session, array: str, ranges: str, state: str, output: str) -> None:
    """Print the members of these ranges and states (""; all), page by page. Raises as `Client.members`."""
    out.check_form(output, FORMS)
    if state:
        as_usage(lambda: checked(0, MAX_PAGE, state, ranges))
    found = session.client.members(array, state=state, members=ranges)
    if output in ("json", "yaml"):
        out.print_document({"items": [to_builtins(view) for view in found]}, output)
        return
    table: out.Table | None = None
    columns: tuple[str, ...] = ()
    printed = 0
    while page := list(islice(found, MAX_PAGE)):
        printed += len(page)
        if output == "name":
            for view in page:
                say(f"task/{view.name}")
        else:
            columns = columns or out.member_columns(page, are_all=len(page) < MAX_PAGE)
            table = table or out.Table(columns)
            table.print(out.member_rows(page, time.time(), columns))
    if not printed:
        say("No members found.", err=True)
