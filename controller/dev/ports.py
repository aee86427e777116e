"""Ports of 127.0.0.1."""

from __future__ import annotations

import socket


def is_free(port: int) -> bool:
    """Whether nobody listens on the port, or has just done so."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
