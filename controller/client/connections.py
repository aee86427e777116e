"""The connections of a gateway's client. Their end also wakes who waits on one for an answer."""

from __future__ import annotations

import re
import socket
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import urllib3
from requests.adapters import HTTPAdapter


class Connections(HTTPAdapter):
    """See the module's docstring. After `close`, none can be made."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = weakref.WeakSet[Any]()
        self._closed = False
        super().__init__()

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        """See HTTPAdapter."""
        super().init_poolmanager(*args, **more)
        kinds = self.poolmanager.pool_classes_by_scheme
        self.poolmanager.pool_classes_by_scheme = {
            scheme: _noting(kind, self._note) for scheme, kind in kinds.items()
        }

    def close(self) -> None:
        """See HTTPAdapter. Whoever reads from one of them reads its end. Idempotent."""
        with self._lock:
            self._closed = True
            found = list(self._open)
        for connection in found:
            _cut(connection)
        super().close()

    def _note(self, connection: Any) -> None:
        with self._lock:
            self._open.add(connection)
            is_closed = self._closed
        if is_closed:
            _cut(connection)


def _noting(kind: Any, note: Callable[[Any], None]) -> Any:
    """The class of a pool, each connection of which is noted when it has been made."""

    class NotedConnection(kind.ConnectionCls):  # type: ignore[misc]  # of requests' own pools
        def connect(self) -> None:
            super().connect()
            note(self)

    class NotingPool(kind):  # type: ignore[misc]
        ConnectionCls = NotedConnection

    return NotingPool


def _cut(connection: Any) -> None:
    """Wake the thread that reads from it: to close a socket would not."""
    with suppress(OSError):  # it has ended meanwhile
        if (opened := connection.sock) is not None:
            socket.socket.shutdown(opened, socket.SHUT_RDWR)  # also of TLS, whose own would forget its state


def is_unsent(error: Exception) -> bool:
    """Whether there was no connection that a request could have been sent on."""
    inner: Any = error.args[0] if error.args else error
    reason = getattr(inner, "reason", inner)
    return isinstance(reason, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError)


def plain(error: Exception) -> str:
    """What a user is told of it."""
    if "WRONG_VERSION_NUMBER" in str(error):
        return "it does not speak TLS; is it http://?"
    if re.search("unable to get local issuer|self-signed", str(error)):
        return (
            "no authority that is known here has signed its certificate: give --ca-file, to login --authority"
        )
    inner: Any = error.args[0] if error.args else error
    return str(getattr(inner, "reason", inner))[:200]
