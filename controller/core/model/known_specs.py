"""Specs that were decoded before, by their texts: many tasks differ only in their names and times.

The stored form of a spec begins with the task's name, and ends with what belongs to its submission. Two texts
with the same bytes in between say the same, whatever these bytes are: the rules below let no other field name
the task, and the end closes just one mapping. A text in any other form is decoded as a whole, each time.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from controller.core.model.scalars import is_name
from controller.core.model.task import SCHEMA_VERSION, Spec
from controller.core.model.validation import MAX_ID

MOST_BYTES = 4096  # of a text that is known again
MOST_KNOWN = 1024  # texts: 4 MiB at most
_END = b',"version":%d,"submitted_at":' % SCHEMA_VERSION


class _Submission(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    submitted_at: float
    op: str
    filled_in: tuple[str, ...] = ()


_submission_decoder = msgspec.json.Decoder(_Submission)


class Text(NamedTuple):
    """What a stored spec says beside the task's name, and when it was submitted."""

    content: bytes
    submitted_at: float


def split(task_id: str, data: bytes) -> Text | None:
    """The parts of a stored spec; None: it is to be decoded as a whole."""
    begin, end = b'{"id":"%b",' % task_id.encode(errors="replace"), data.rfind(_END)
    if len(data) > MOST_BYTES or end < 0 or not data.startswith(begin) or not is_name(task_id, MAX_ID):
        return None
    content = data[len(begin) : end]
    if b'"id"' in content or b"\\u" in content:  # `\\u0069d` is a name of it, too
        return None
    try:
        submission = _submission_decoder.decode(b"{" + data[end + 1 :])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return Text(content, submission.submitted_at)


def named(spec: Spec, task_id: str) -> Spec:
    """The same, for the task of this name."""
    return msgspec.structs.replace(spec, id=task_id)


class KnownSpecs:
    """Some of the specs that were decoded, without names. They are shared, and nobody changes them."""

    def __init__(self) -> None:
        self._specs: dict[bytes, Spec] = {}

    def get(self, content: bytes) -> Spec | None:
        """The spec of that content."""
        return self._specs.get(content)

    def note(self, content: bytes, spec: Spec) -> None:
        """Keep the spec, unless what it says rests on the task's name."""
        if spec.after or spec.array is not None:
            return
        if len(self._specs) >= MOST_KNOWN:
            self._specs.clear()
        self._specs[content] = spec
