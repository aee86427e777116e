"""A submitted task that is ready to be stored, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec

from controller.core.model import codec
from controller.core.model.arrays import MemberName
from controller.core.model.op import NO_OP, Op
from controller.core.model.records import PoolRecord
from controller.core.model.submitted import fill_in
from controller.core.model.task import Spec
from controller.core.planning.reasons import unknown_reasons
from controller.errors import CorruptValue, InvalidField
from controller.store.base import KeyValue

Outcome = Literal["created", "unchanged", "conflict", "invalid", "denied"]


class SubmitResult(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one submitted task.

    `message` is a warning when the task was accepted, else the reason for its refusal. `index` is the task's
    position in the input, from 0. `field` is the path of the field that `message` is about, such as
    `retry.rules[0]`.
    """

    id: str
    outcome: Outcome
    message: str = ""
    index: int = 0
    field: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the task is stored as submitted."""
        return self.outcome in ("created", "unchanged")


class Prepared(NamedTuple):
    """A spec that is ready to be stored.

    `named` are the resources that the user named; the others were filled in. `raw` is the input, and
    `pool_mod` is the mod revision of the pool that the spec was checked against, and `engine_mod` that of the
    record of features; 0 if it needs none. `attests`: an attestation is stored with it.
    """

    spec: Spec
    named: frozenset[str]
    raw: object
    pool_mod: int
    position: int = 0
    engine_mod: int = 0
    attests: bool = False

    def encode(self, submitted_at: float, op: Op) -> bytes:
        """The value to store."""
        return codec.encode_spec(self.spec, submitted_at, op, self.spec.resources.keys() - self.named)

    def invalid(self, problem: InvalidField) -> SubmitResult:
        """The task is refused for this."""
        return SubmitResult(
            id=self.spec.id, outcome="invalid", message=str(problem), index=self.position, field=problem.field
        )

    def result(self, outcome: Outcome, message: str = "") -> SubmitResult:
        """The outcome, with a warning where a retry rule names unknown reasons."""
        if message:
            return SubmitResult(id=self.spec.id, outcome=outcome, message=message, index=self.position)
        doubts = list(unknown_reasons(self.spec.retry))
        warning, field = "; ".join(map(": ".join, doubts)), doubts[0][0] if doubts else ""
        return SubmitResult(
            id=self.spec.id, outcome=outcome, message=warning, index=self.position, field=field
        )


def prepare(raw: object, pools: Mapping[str, PoolRecord], position: int = 0) -> Prepared:
    """As `fill_in`. Raises InvalidField."""
    found = fill_in(raw, pools)
    return Prepared(found.spec, found.named, raw, found.pool_mod, position)


def has_member(stored: KeyValue | None, member: MemberName) -> bool:
    """Whether the stored task of that name is an array that has this member."""
    try:
        spec = codec.decode_spec(member.array, stored.value).spec if stored is not None else None
    except CorruptValue:
        return False
    return spec is not None and spec.array is not None and member.index < spec.array.size


def compare(new: Prepared, stored: KeyValue) -> SubmitResult:
    """Compare the stored task with the submitted one, except for resources that neither of them named."""
    task_id = new.spec.id
    filled_in = None
    try:
        old, _, error = codec.decode_spec(task_id, stored.value)
        filled_in = codec.filled_in(stored.value)
    except CorruptValue as corrupt:
        error = str(corrupt)
    if error:
        return new.result("conflict", f"a task {task_id} exists, but is not valid: {error}")
    # What JSON cannot hold as it is (a date in a pod template) is compared as it is stored.
    fresh = codec.decode_spec(task_id, codec.encode_spec(new.spec, 0.0, NO_OP)).spec
    named = new.named if filled_in is None else new.named | (old.resources.keys() - filled_in)
    same_named = all(fresh.resources.get(name) == old.resources.get(name) for name in named)
    if same_named and msgspec.structs.replace(fresh, resources=old.resources) == old:
        return new.result("unchanged")
    differing = [
        name
        for name in Spec.__struct_fields__
        if name != "resources" and getattr(fresh, name) != getattr(old, name)
    ]
    differing += [] if same_named else ["resources"]
    why = f"a task {task_id} exists with another spec (it differs in {', '.join(differing)})"
    return new.result("conflict", f"{why}: specs never change, so use another name")
