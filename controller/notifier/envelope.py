"""Events as CloudEvents 1.0 has them, in structured mode: one JSON document with attributes and data."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from controller.core.model.notices import sequence_text

CONTENT_TYPE = "application/cloudevents+json"


def envelope(
    *,
    event_id: str,
    source: str,
    kind: str,
    subject: str,
    when: float,
    sequence: int,
    data: Mapping[str, object],
) -> bytes:
    """The document.

    `source` and `event_id` together are unique. `kind` is the type, such as `tally.task.succeeded`; `subject`
    a task's id; `when` seconds since the epoch. A larger `sequence` of one source is later.
    """
    moment = datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds")
    return msgspec.json.encode(
        {
            "specversion": "1.0",
            "id": event_id,
            "source": source,
            "type": kind,
            "subject": subject,
            "time": moment.replace("+00:00", "Z"),
            "sequence": sequence_text(sequence),
            "datacontenttype": "application/json",
            "data": data,
        }
    )
