"""The members of an array, as `tally get task NAME --members` lists them."""

from __future__ import annotations

import time
from itertools import islice

from controller.cli import output as out
from controller.cli.session import Session, as_usage
from controller.client.members import checked
from controller.core.model.codec import to_builtins
from controller.errors import UserError
from controller.terminal import say
from controller.views.arrays import MAX_PAGE, MemberView

MOST_WATCHED = 1000
FORMS = ("wide", "json", "yaml", "name")  # wide is the same table: it has all columns


def print_members(session: Session, array: str, ranges: str, state: str, output: str) -> None:
    """Print the members of these ranges and states (""; all), page by page. Raises as `Client.members`."""
    out.check_form(output, FORMS)
    _check_state(state, ranges)
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


def watch_members(session: Session, array: str, ranges: str, state: str, output: str) -> None:
    """Print these members, and then each that changes, until Ctrl-C.

    Raises as `Client.members`, and UserError for more than MOST_WATCHED, as each change reads them all.
    """
    out.check_form(output, ("wide", "name"))
    _check_state(state, ranges)
    session.client.members.page(array, limit=1)  # what is wrong is raised here
    printed: dict[int, MemberView] = {}
    table: out.Table | None = None
    columns: tuple[str, ...] = ()
    for _ in session.client.watch_tasks(task_id=array):
        found = list(islice(session.client.members(array, state=state, members=ranges), MOST_WATCHED + 1))
        if len(found) > MOST_WATCHED:
            raise UserError(
                f"at most {MOST_WATCHED:,} members can be watched: name some, as in {array}[0-99]"
            )
        rows = [view for view in found if printed.get(view.index) != view]
        printed = {view.index: view for view in found}
        if output == "name":
            for view in rows:
                say(f"task/{view.name}", flush=True)
        elif rows:
            columns = columns or out.member_columns(rows, are_all=False)
            table = table or out.Table(columns)
            table.print(out.member_rows(rows, time.time(), columns))


def _check_state(state: str, ranges: str) -> None:
    if state:
        as_usage(lambda: checked(0, MAX_PAGE, state, ranges))
