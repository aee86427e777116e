"""Which tasks a command acts on: those that are named, or those that match its flags."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Annotated

import typer

from controller.cli.names import (
    NAMES_OR_FLAGS,
    Kind,
    Selectors,
    States,
    bare,
    complete_pools,
    complete_tasks,
    split_members,
)
from controller.cli.session import ERROR, NOT_FOUND, Session, as_usage, complain, confirm, joined
from controller.client import NotFound, RequestResult, TaskAct, TaskView
from controller.client.downstream import check_whole, parents_first
from controller.client.reading import wanted_states
from controller.core.model.printable import counted
from controller.core.model.selector import parse_selector
from controller.errors import UserError
from controller.terminal import say

Ask = Callable[[list[TaskView]], Iterator[RequestResult | UserError]]
Outcome = RequestResult | UserError
AskMembers = Callable[[TaskView, str], RequestResult | UserError | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The arguments and flags that choose tasks, one per field."""

    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="The tasks, or members of an array as NAME[100-200].",
            show_default=False,
            autocompletion=complete_tasks,
        ),
    ] = None
    selector: Selectors = None
    pool: Annotated[str, typer.Option(help="All tasks of this pool.", autocompletion=complete_pools)] = ""
    owner: Annotated[str, typer.Option(help="All tasks of this owner.")] = ""
    state: States = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show which tasks these are, and at which revision.")
    ] = False
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False

    def for_each(
        self,
        session: Session,
        act: TaskAct,
        may: Callable[[TaskView], bool],
        reason: str,
        priority: int | None = None,
        *,
        only_failed: bool = False,
    ) -> None:
        """Make the request for each of the tasks. An error for one does not stop the others.

        A task that is named is asked for whatever its state. Of those that match the flags, `may` says which
        the command can act on. They are shown, and confirmed on a terminal, and each request is for the very
        task that was shown. `only_failed` is for members of arrays that are named.
        """
        verb = act.replace("-", " ") if priority is None else f"{act.replace('-', ' ')} {priority}"

        def ask(views: list[TaskView]) -> Iterator[RequestResult | UserError]:
            if act is not TaskAct.RETRY or not any(view.spec and view.spec.after for view in views):
                return session.client.bulk.act(act, views, reason=reason, priority=priority)
            # a child that is retried before its parents would be refused for them once more
            answers = dict[str, RequestResult | UserError]()
            for group in parents_first(views):
                ids = (view.id for view in group)
                answers |= zip(ids, session.client.bulk.act(act, group, reason=reason), strict=True)
            return iter(answers[view.id] for view in views)

        if self.names:
            if self._filters:
                raise typer.BadParameter(NAMES_OR_FLAGS)
            self._named(session, verb, partial(_members_verb(session, act), reason, only_failed), ask)
        elif only_failed:
            raise typer.BadParameter("--failed goes with the names of arrays")
        elif self._filters:
            self._matching(session, verb, may, ask)
        else:
            raise typer.BadParameter("name tasks, or select them with -l, --pool, --owner or --state")

    def with_downstream(self, session: Session, reason: str) -> None:
        """Retry each task that is named, and what waits for it. An error for one does not stop the others."""
        if not self.names or self._filters:
            raise typer.BadParameter("--downstream goes with names of tasks, and with no flag that selects")
        code, named = 0, list[TaskView]()
        for name, members in dict.fromkeys(split_members(text) for text in self.names):
            if members:
                raise typer.BadParameter(
                    f"--downstream is for whole tasks, since others wait for these: leave [{members}] out"
                )
            try:
                view = session.client.get(name)
                as_usage(partial(check_whole, view))
                named.append(view)
            except NotFound as error:
                complain(str(error))
                code = NOT_FOUND
        groups = session.client.downstream.retryable(*named) if named else []
        asked = {view.id for view in chain.from_iterable(groups)}
        names = [view.id for view in named]
        for name in names:
            if name not in asked:
                say(f"task/{name} is neither Failed nor Cancelled, and is left as it is", err=True)
        if self.dry_run:
            for view in chain.from_iterable(groups):
                _show(view, "retry")
            groups = []
        for view, result in session.client.downstream.retry(*names, reason=reason, groups=groups):
            code = max(code, _tell(view, "retry", result))
        if code:
            raise typer.Exit(code)

    @property
    def _filters(self) -> bool:
        return bool(joined(self.selector) or self.pool or self.owner or joined(self.state))

    def _named(self, session: Session, verb: str, ask_members: AskMembers, ask: Ask) -> None:
        code = 0
        for name, members in dict.fromkeys(split_members(text) for text in self.names or ()):
            try:
                view = session.client.get(name)
            except NotFound as error:
                complain(str(error))
                code = max(code, NOT_FOUND)
                continue
            about = f"{verb} members {members}" if members else verb
            if self.dry_run:
                code = max(code, _show(view, about))
                continue
            result = ask_members(view, members)
            code = max(code, _tell(view, about, *ask([view]) if result is None else (result,)))
        if code:
            raise typer.Exit(code)

    def _matching(self, session: Session, verb: str, may: Callable[[TaskView], bool], ask: Ask) -> None:
        selector, state = joined(self.selector), joined(self.state)
        as_usage(lambda: parse_selector(selector) if selector else ())
        as_usage(lambda: wanted_states(state))
        found = session.client.tasks(
            pool=bare(self.pool, Kind.POOLS),
            owner=bare(self.owner, Kind.OWNERS),
            state=state,
            selector=selector,
        )
        views = [view for view in found if may(view)]
        many = counted(len(views), "task")
        if not views:
            matched = f"none of the {counted(len(found), 'task')} that match" if found else "no task matches"
            say(f"Nothing to do: {matched}{' can be acted on' if found else ''}.", err=True)
            return
        if self.dry_run or not self.yes:
            for view in views:
                _show(view, verb)
        if self.dry_run:
            say(f"{many}; nothing was requested.", err=True)
            return
        if not self.yes:
            if not sys.stdin.isatty():
                raise UserError(f"this would act on {many}: add --yes")
            confirm(f"{many}: {verb}?")
        code = max(_tell(view, verb, answer) for view, answer in zip(views, ask(views), strict=True))
        if code:
            raise typer.Exit(code)


def _members_verb(
    session: Session, act: TaskAct
) -> Callable[[str, bool, TaskView, str], RequestResult | UserError | None]:
    """Asks for members of an array; None for what is asked for the whole task."""

    def ask(reason: str, only_failed: bool, view: TaskView, members: str) -> Outcome | None:
        if not members and not only_failed:
            return None
        try:
            if act is TaskAct.CANCEL:
                return session.client.cancel(view.id, members=members, reason=reason, of=view)
            if act is TaskAct.RETRY:
                return session.client.retry(
                    view.id, members=members, only_failed=only_failed, reason=reason, of=view
                )
        except UserError as error:
            return error
        return UserError(f"{view.id}[{members}]: only the whole array can be asked for this: leave [ ] out")

    return ask


def _show(view: TaskView, verb: str) -> int:
    state = f"{view.state}{', on hold' if view.on_hold else ''}"
    which = f"pool {view.pool}, owner {view.owner}, created at revision {view.create_revision}"
    say(f"task/{view.id} ({state}, {which}): {verb}")
    return 0


def _tell(view: TaskView, verb: str, result: RequestResult | UserError) -> int:
    """Print what became of the request. Returns the exit code."""
    if isinstance(result, UserError):
        complain(str(result))
        return NOT_FOUND if isinstance(result, NotFound) else ERROR
    needless = result.outcome in ("already finished", "unchanged")
    say(f"task/{result.message}" if needless else f"task/{view.id} {verb} {result.outcome}")
    return 0
