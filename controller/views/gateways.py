"""The registered gateways, as all readers show them.

Each wrote its own record, and one of another version may have written anything. A field that this version
does not understand is left out. A record expires soon after its writer has ended.
"""

from __future__ import annotations

import msgspec

from controller.core.model.model import Model
from controller.core.model.records import decode_or_empty
from controller.views.replicas import lenient


class GatewayView(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway as it registered itself. "" or 0: it did not say.

    `ready`: callers should go there. `problems` names the checks that fail, and the settings whose file or
    provider cannot be used, which need not keep it from serving. Its log has the reasons.
    """

    id: str = ""
    instance: str = ""
    host: str = ""
    pid: int = 0
    url: str = ""
    version: str = ""
    started_at: float = 0.0
    at: float = 0.0  # when it wrote this, by its own clock
    applied_revision: int = 0  # every change up to here is in what it answers
    behind_seconds: float = 0.0  # since it heard from the store
    ready: bool = False
    problems: tuple[str, ...] = ()


def gateway_views(model: Model) -> list[GatewayView]:
    """The registered gateways, by id."""
    return [
        msgspec.structs.replace(lenient(GatewayView, decode_or_empty(change)), id=name)
        for name, change in sorted(model.gateways.items())
    ]
