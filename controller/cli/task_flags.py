"""The flags of `tally submit` that describe a task."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from controller.cli.names import complete_pools
from controller.core.model.after import Index, When


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFlags:
    """The flags, one per field; None: not given."""

    pool: Annotated[
        str | None,
        typer.Option(help="The pool of the task (default: default).", autocompletion=complete_pools),
    ] = None
    owner: Annotated[
        str | None, typer.Option(help="Whom its resources are charged to (default: default).")
    ] = None
    image: Annotated[str | None, typer.Option(help="The container image.")] = None
    cpu: Annotated[str | None, typer.Option(help="CPU, such as 500m or 2.")] = None
    memory: Annotated[str | None, typer.Option(help="Memory, such as 64Mi or 2Gi.")] = None
    resource: Annotated[
        list[str] | None, typer.Option(help="NAME=QUANTITY of any resource of the pool; may be repeated.")
    ] = None
    priority: Annotated[int | None, typer.Option(help="Higher goes first (default 0).")] = None
    max_attempts: Annotated[
        int | None, typer.Option(help="How many attempts may run and fail (default 1).")
    ] = None
    backoff: Annotated[
        str | None,
        typer.Option(help="Back-off before the second attempt, then doubled each time (default 10s)."),
    ] = None
    deadline: Annotated[str | None, typer.Option(help="Stop an attempt that runs for longer than this.")] = (
        None
    )
    queue_deadline: Annotated[
        str | None, typer.Option(help="Fail the task if it is not admitted within this time.")
    ] = None
    start_deadline: Annotated[
        str | None, typer.Option(help="Stop an attempt that is not running within this time.")
    ] = None
    after: Annotated[
        list[str] | None,
        typer.Option(
            help="Tasks that must have ended before, such as load,check:finished or :failed. With :same, each"
            " member of an array waits for the one of its own index: render:same, render:finished:same. May"
            " be repeated."
        ),
    ] = None
    env: Annotated[
        list[str] | None, typer.Option(help="Environment variable NAME=VALUE; may be repeated.")
    ] = None
    label: Annotated[
        list[str] | None, typer.Option("--label", "-l", help="Label KEY=VALUE; may be repeated.")
    ] = None
    working_dir: Annotated[str | None, typer.Option(help="Working directory of the command.")] = None
    grace: Annotated[
        str | None,
        typer.Option(help="Time from SIGTERM to SIGKILL when an attempt is stopped (default 30s)."),
    ] = None
    retention: Annotated[
        str | None, typer.Option(help="How long the finished task is kept (default 1d).")
    ] = None
    on_lost: Annotated[
        str | None,
        typer.Option(
            help="hold, or the time after which a lost attempt is given up, even if it may still run."
        ),
    ] = None

    array: Annotated[
        str | None,
        typer.Option(
            help="Make it an array of so many members, which differ in their index; 1000%20: at most 20 run"
            " at once."
        ),
    ] = None
    max_running: Annotated[
        int | None, typer.Option(help="How many members of the array may run at once (default: all).")
    ] = None
    fail_fast: Annotated[
        bool | None, typer.Option("--fail-fast", help="Once a member has failed, cancel the others.")
    ] = None

    gang: Annotated[
        bool | None,
        typer.Option(
            "--gang", help="The members of the array begin all at once, or none does, and end together."
        ),
    ] = None

    def fields(self) -> dict[str, Any]:
        """The fields of a task, from the flags; None if not given."""
        if self.array is None and (self.max_running is not None or self.fail_fast or self.gang):
            raise typer.BadParameter("--max-running, --fail-fast and --gang go with --array SIZE")
        size, max_running = _parse_size(self.array)
        if max_running is not None and self.max_running is not None:
            raise typer.BadParameter(f"--array {self.array} says it already: leave --max-running out")
        own = {"cpu": self.cpu, "memory": self.memory}
        return {
            "pool": self.pool,
            "owner": self.owner,
            "array": without_none(
                {
                    "size": size,
                    "max_running": self.max_running if max_running is None else max_running,
                    "fail_fast": self.fail_fast or None,
                    "gang": self.gang or None,
                }
            )
            or None,
            "image": self.image,
            "priority": self.priority,
            "resources": parse_pairs(
                [
                    *(f"{name}={value}" for name, value in own.items() if value is not None),
                    *(self.resource or ()),
                ],
                "resource",
            )
            or None,
            "retry": without_none({"max_attempts": self.max_attempts, "backoff_seconds": self.backoff})
            or None,
            "deadlines": without_none(
                {"run": self.deadline, "queue": self.queue_deadline, "start": self.start_deadline}
            )
            or None,
            "after": _parse_after(self.after),
            "env": parse_pairs(self.env, "env") or None,
            "labels": parse_pairs(self.label, "label") or None,
            "working_dir": self.working_dir,
            "grace_seconds": self.grace,
            "retention_seconds": self.retention,
            "on_lost": self.on_lost if self.on_lost in (None, "hold") else {"replace_after": self.on_lost},
        }


def _parse_size(text: str | None) -> tuple[int | None, int | None]:
    """SIZE, or SIZE%MAX_RUNNING."""
    if text is None:
        return None, None
    size, percent, most = text.partition("%")
    if not _is_number(size) or (percent and not _is_number(most)):
        raise typer.BadParameter(
            f"--array: {text!r} is not SIZE, such as 10, nor SIZE%MAX_RUNNING, such as 10%3. Members are"
            " numbered from 0"
        )
    return int(size), int(most) if percent else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= len(str(sys.maxsize))


def _parse_after(texts: list[str] | None) -> list[dict[str, str]] | None:
    """TASK, TASK:WHEN, TASK:same or TASK:WHEN:same, for each part of these lists with commas."""
    if not texts:
        return None
    found = []
    for part in ",".join(texts).split(","):
        task, *words = part.strip().split(":")
        words = [word.lower() for word in words]
        same = {"index": words.pop()} if words and words[-1] == Index.SAME else {}
        if len(words) > 1:
            raise typer.BadParameter(
                f"--after: {part.strip()!r}: write TASK, TASK:WHEN, TASK:same or TASK:WHEN:same, where WHEN"
                f" is one of {', '.join(When)}"
            )
        found.append({"task": task, **({"when": ":".join(words)} if words else {}), **same})
    return found


def parse_pairs(texts: list[str] | None, option: str) -> dict[str, str]:
    """A mapping of NAME=VALUE texts. Raises BadParameter for a name with two values."""
    pairs: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"--{option}: {text!r} is not NAME=VALUE")
        if pairs.setdefault(name, value) != value:
            raise typer.BadParameter(f"--{option}: {name} is given as {pairs[name]!r} and as {value!r}")
    return pairs


def without_none(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}
