"""Names as parts of the paths that a gateway is asked for: those that are none are refused here."""

from __future__ import annotations

from urllib.parse import quote

from controller.core.model.scalars import parse_name
from controller.errors import InvalidField


def task_part(task_id: object) -> str:
    """A task's name as a part of a path. Raises InvalidField, as a client of etcd does."""
    return parse_name(task_id, "id", "a task id")


def pool_part(name: object) -> str:
    """A pool's name as a part of a path. Raises InvalidField, as a client of etcd does."""
    return parse_name(name, "name", "a pool's name")


def feature_part(name: str) -> str:
    """Names of features as a part of a path. Raises InvalidField for what would be another path."""
    if name in ("", ".", ".."):
        raise InvalidField("name", f"is {name!r}, which is no name")
    return quote(name, safe="")
