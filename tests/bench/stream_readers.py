"""`python -m tests.bench.stream_readers URL COUNT [TOKEN]`: so many readers of the stream of a replica, or
of a gateway, in a process of their own.

Says "ready" once each stream was answered, and reads until a line comes on standard input. This has the last
revision that is waited for: once all have heard it, or WAIT_SECONDS later, it prints what was seen as JSON:
streams served, refused and cut off by the server, the bytes that all received, the events and the seconds of
the first, and for each stream which revision it had heard in full, and when.

The readers share their cores with what is measured, and stand for other machines: they receive every byte of
every stream, and look in it for no more than where its last revision ends.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
from typing import IO
from urllib.parse import urlsplit

from controller.clock import SystemClock

CLOCK = SystemClock()
WAIT_SECONDS = 30.0
_ID = b"\nid: "
_KEPT = 32  # of what came before: an id that is cut in two
_BUFFER = bytearray(_KEPT + 2**20)


class Stream:
    """One reader. `heard` are revisions, each with when all up to it had come."""

    def __init__(self, url: str, token: str = "") -> None:
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=WAIT_SECONDS)
        self.socket.sendall(
            f"GET /v1/events HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: text/event-stream\r\n"
            f"{f'Authorization: Bearer {token}' if token else 'X-No: token'}\r\n\r\n".encode()
        )
        head = b""
        # the end of what each stream begins with
        while b"\n\n" not in head and (data := self.socket.recv(4096)):
            head += data
        self.served = head.startswith(b"HTTP/1.1 200 ")
        self.open = self.served
        self.bytes = self.events = 0
        self.heard: list[tuple[int, float]] = []
        self._rest = head[-_KEPT:]

    def receive(self, counts: bool) -> None:
        """What has come."""
        try:
            received = self.socket.recv_into(memoryview(_BUFFER)[_KEPT:])
        except ConnectionError:
            received = 0
        if not received:
            self.open = False
            return
        at = CLOCK.boottime()
        first, end = _KEPT - len(self._rest), _KEPT + received
        _BUFFER[first:_KEPT] = self._rest
        self.bytes += received
        if counts:
            self.events += _BUFFER.count(b"\ndata: ", _KEPT, end)
        begin = _BUFFER.rfind(_ID, first, end)
        if begin >= 0 and _BUFFER.find(b"\n", begin + len(_ID), end) < 0:  # the rest of it is still to come
            begin = _BUFFER.rfind(_ID, first, begin)
        if begin >= 0:
            revision = int(_BUFFER[begin + len(_ID) : _BUFFER.find(b"\n", begin + len(_ID), end)])
            if not self.heard or revision > self.heard[-1][0]:
                self.heard.append((revision, at))
        self._rest = bytes(_BUFFER[max(first, end - _KEPT) : end])


def main(url: str, count: int, asked: IO[str], token: str = "") -> None:
    """See the module's docstring."""
    began = CLOCK.boottime()
    streams = [Stream(url, token) for _ in range(count)]
    print("ready", flush=True)
    with selectors.DefaultSelector() as selector:
        selector.register(asked, selectors.EVENT_READ)
        for stream in streams:
            if stream.open:
                selector.register(stream.socket, selectors.EVENT_READ, stream)
        awaited, deadline = None, None
        while awaited is None or any(s.open and (not s.heard or s.heard[-1][0] < awaited) for s in streams):
            if deadline is not None and CLOCK.boottime() > deadline:
                break
            for key, _ in selector.select(1.0):
                if key.data is None:
                    awaited, deadline = int(asked.readline()), CLOCK.boottime() + WAIT_SECONDS
                    selector.unregister(asked)
                    continue
                key.data.receive(key.data is streams[0])
                if not key.data.open:
                    selector.unregister(key.data.socket)
    seconds = CLOCK.boottime() - began
    for stream in streams:
        stream.socket.close()
    served = [stream for stream in streams if stream.served]
    document = {
        "seconds": seconds,
        "served": len(served),
        "refused": count - len(served),
        "cut": sum(not stream.open for stream in served),
        "bytes": sum(stream.bytes for stream in served),
        "events": streams[0].events,
        "heard": [stream.heard for stream in served if stream.open],
    }
    print(json.dumps(document), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.stdin, *sys.argv[3:])
