"""What all parts of a gateway's client have in common."""

from __future__ import annotations

from typing import NoReturn

from controller.client.gateway_calls import GatewayCalls
from controller.errors import UserError


class NeedsEtcd(UserError):
    """What was asked for needs etcd itself."""

    def __init__(self) -> None:
        super().__init__(
            "this needs etcd itself, and a gateway does not give that: give --etcd, in place of --server or"
            " of the gateway that `tally login` has kept"
        )


class ByGateway:
    """A part of a client that has a gateway, and neither calls of etcd nor records."""

    def __init__(self, http: GatewayCalls) -> None:
        self._http = http

    def __getattr__(self, name: str) -> NoReturn:
        """Raises NeedsEtcd for what the same part of a client of etcd has, and works with."""
        if name.startswith("_") and not name.startswith("__"):
            raise NeedsEtcd
        raise AttributeError(name)
