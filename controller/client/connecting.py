"""Chooses between the two ways to an installation: etcd, or a gateway."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from controller.client.client import Client, of_settings

if TYPE_CHECKING:
    from controller.client.gateway_client import GatewayClient
    from controller.config import ResolvedConfig


def connect(config: str | None = None) -> Client:
    """A client with the settings that the command `tally` would use: of etcd, or of a gateway.

    Settings come from the environment, then from a TOML file: `config`, or the file that `tally` finds by
    default, such as the one that `tally login` writes. Raises InvalidField.
    """
    from controller.config import load_settings

    return client_of(load_settings({}, os.environ, config))


def client_of(loaded: ResolvedConfig) -> Client:
    """The client that the settings lead to. Raises InvalidField."""
    if not loaded.uses_gateway:
        return Client(**of_settings(loaded.settings))
    settings = loaded.settings
    # a file may name the cluster of an etcd that is not gone by here, such as that of `tally dev`
    is_given = loaded.origins["cluster"].startswith(("flag", "environment"))
    return connect_to_gateway(
        settings.server,
        token_file=str(settings.token_file or ""),
        ca_file=str(settings.ca_file or ""),
        cert_file=str(settings.cert_file or ""),
        key_file=str(settings.key_file or ""),
        timeout_seconds=settings.request_timeout_seconds,
        cluster=settings.cluster if is_given else "",
    )


def connect_to_gateway(
    url: str,
    *,
    token_file: str = "",
    token: str = "",
    ca_file: str = "",
    cert_file: str = "",
    key_file: str = "",
    timeout_seconds: float = 5.0,
    cluster: str = "",
) -> GatewayClient:
    """A client of the gateway at `url`: with a token, its file (read again for each call), or a certificate.

    The gateway must serve `cluster`, if one is named. `timeout_seconds` limits each request. One that
    writes is sent again for half a minute while a gateway is restarted, or says that etcd does not answer.
    Raises InvalidField.
    """
    from controller.client.gateway_calls import GatewayCalls, read_token
    from controller.client.gateway_client import GatewayClient

    file = Path(token_file) if token_file else None
    return GatewayClient(
        GatewayCalls(
            url,
            (lambda: read_token(file)) if file is not None else (lambda: token),
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
            timeout_seconds=timeout_seconds,
            cluster=cluster,
        )
    )
