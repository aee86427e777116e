"""What the proxy makes of a network may happen on a real one."""

from __future__ import annotations

import socket
from collections.abc import Callable

from tests.support.proxy import Proxy
from tests.support.waiting import wait_until


class MeanwhileProxy(Proxy):
    """Does something while it heals, before connections are ended."""

    meanwhile: Callable[[], None] | None = None

    def disconnect(self) -> None:
        if self.meanwhile is not None:
            self.meanwhile()
        super().disconnect()


def test_a_connection_that_has_lost_bytes_passes_no_later_ones() -> None:
    """TCP has no holes: a watch would skip revisions, and could not know."""
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = MeanwhileProxy(listener.getsockname()[1])
        with proxy, socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client:
            server, _ = listener.accept()

            def answer_later() -> None:
                server.sendall(b"later")
                server.close()
                received.append(client.recv(100))

            proxy.drop_answers()
            server.sendall(b"earlier")
            wait_until(proxy.swallowed.is_set, "the answer to be lost")
            proxy.meanwhile = answer_later
            proxy.heal()
            proxy.meanwhile = None
            assert not proxy.swallowed.is_set()
    assert received == [b""]
