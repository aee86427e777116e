"""What a task waits for: other tasks, and how they must have ended (`after`)."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from controller.core.model.fields import Parse, mapping, one_of, read_fields
from controller.core.model.scalars import parse_name
from controller.errors import InvalidField

MAX_PARENTS = 1000
"""Tasks that one task may wait for."""


class When(StrEnum):
    """How a task must have ended for another one to run after it."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    FINISHED = "finished"  # in whatever way


class Index(StrEnum):
    """Which part of an array another one waits for."""

    ALL = "all"
    SAME = "same"  # each member waits for the member of its own index, of an array of as many members


class Dependency(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A task that must have ended in this way before."""

    task: str
    when: When = When.SUCCEEDED
    index: Index = Index.ALL

    @property
    def is_paired(self) -> bool:
        """Whether each member waits for one member alone."""
        return self.index is Index.SAME


def parse_after(raw: object, field: str) -> tuple[Dependency, ...]:
    """A list of names of tasks, or of mappings with `task`, `when` and `index`. Raises InvalidField."""
    if isinstance(raw, str) or not isinstance(raw, list | tuple):
        raise InvalidField(field, "expected a list of tasks, such as [load, {task: check, when: finished}]")
    if len(raw) > MAX_PARENTS:
        raise InvalidField(
            field,
            f"names {len(raw)} tasks, but at most {MAX_PARENTS} are allowed: put a task in between that"
            " waits for some of them",
        )
    named: dict[str, Dependency] = {}
    for index, item in enumerate(raw):
        path = f"{field}[{index}]"
        dependency = _dependency(item, path)
        if dependency.task in named:
            raise InvalidField(path, f"names {dependency.task} a second time: keep one")
        named[dependency.task] = dependency
    return tuple(named.values())


def _dependency(item: object, path: str) -> Dependency:
    if isinstance(item, str):
        return Dependency(task=_task(item, path))
    fields = mapping(item, path, "expected a task's name, or a mapping such as {task: load, when: failed}")
    if fields.get("task") is None:
        _task(None, f"{path}.task")
    return Dependency(**read_fields(fields, _FIELDS, f"{path}."))


def _task(raw: object, field: str) -> str:
    return parse_name(raw, field, "the name of a task")


_FIELDS: dict[str, Parse] = {"task": _task, "when": one_of(When), "index": one_of(Index)}
