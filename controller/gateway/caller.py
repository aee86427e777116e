"""Who asks a gateway, and what it may do."""

from __future__ import annotations

from typing import NamedTuple

from controller.gateway.identity import Identity
from controller.gateway.policy import Rights


class Caller(NamedTuple):
    """Who asks, and what it may do."""

    identity: Identity
    rights: Rights
