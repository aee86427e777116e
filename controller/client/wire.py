"""The views as they travel between a gateway and its clients, in JSON: as the command line prints them.

`task_document` and `pool_document` make documents; `task_of` and `pool_of` make the same views of them again.
All other views are `codec.to_builtins`, and `view_of`.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from controller.client.views import PoolView, TaskView
from controller.core.model import codec
from controller.core.model.op import NO_OP
from controller.core.model.resources import Vector
from controller.core.model.task import Pool, Spec, Status, Step
from controller.errors import CorruptValue, InvalidField
from controller.views.step import StepView

V = TypeVar("V")


def task_document(view: TaskView) -> dict[str, Any]:
    """A task as `tally get -o json` prints it. A history that cannot be read is left out."""
    try:
        return view.to_builtins()
    except CorruptValue as error:
        assert view.status is not None
        plain = msgspec.structs.replace(view.status, history=())
        problem = "; ".join(filter(None, [view.problem, str(error)]))
        return msgspec.structs.replace(view, status=plain, problem=problem).to_builtins()


def task_of(document: object) -> TaskView:
    """The view of a document. Raises CorruptValue."""
    fields = _fields(document)
    spec, status = fields.pop("spec", None), fields.pop("status", None)
    try:
        view = view_of(TaskView, fields)
        if spec is not None:
            stored = codec.decode_spec(view.id, codec.encode({**spec, "id": view.id}))
            view = msgspec.structs.replace(view, spec=stored.spec and as_given(stored.spec))
        if status is not None:
            view = msgspec.structs.replace(view, status=_status_of(status))
    except (TypeError, InvalidField) as error:
        raise CorruptValue(str(error)) from None
    return view


def pool_document(view: PoolView) -> dict[str, Any]:
    """A pool."""
    plain: dict[str, Any] = codec.to_builtins(msgspec.structs.replace(view, definition=None))
    if view.definition is not None:
        plain["definition"] = codec.to_builtins(view.definition)
    return plain


def pool_of(document: object) -> PoolView:
    """The view of a document. Raises CorruptValue."""
    fields = _fields(document)
    definition = fields.pop("definition", None)
    view = view_of(PoolView, fields)
    if definition is None:
        return view
    pool: Pool = codec.decode_pool(view.name, codec.encode(definition))
    return msgspec.structs.replace(view, definition=pool)


def view_of(kind: type[V], document: object) -> V:
    """A view of this kind. Fields that this version does not know are left out. Raises CorruptValue."""
    try:
        return msgspec.convert(document, kind, dec_hook=_decode)
    except (msgspec.ValidationError, InvalidField) as error:
        raise CorruptValue(f"the gateway's answer is not a {kind.__name__}: {error}") from None


def _fields(document: object) -> dict[str, Any]:
    return dict(view_of(dict[str, Any], document))  # a copy: some are taken out


def _status_of(document: object) -> Status:
    fields = _fields(document)
    steps = [view_of(StepView, each) for each in fields.pop("history", ())]
    history = tuple(codec.encode_step(Step(**msgspec.structs.asdict(step))) for step in steps)
    epoch = fields.pop("epoch", 0)
    known = {name: value for name, value in fields.items() if name in Status.__struct_encode_fields__}
    return msgspec.structs.replace(view_of(Status, {"op": NO_OP, **known}), history=history, epoch=epoch)


def as_given(spec: Spec) -> Spec:
    """With the defaults themselves, which is how a spec is printed without them (msgspec's omit_defaults)."""
    given = {field.name: field.default for field in msgspec.structs.fields(Spec)}
    same = {name: default for name, default in given.items() if getattr(spec, name) == default}
    return msgspec.structs.replace(spec, **same)


def _decode(kind: type, value: object) -> object:
    if kind is Vector:
        return codec.parse_balance(value) if value else Vector()
    raise TypeError(f"cannot decode {kind}")
