"""`python -m tests.bench.stream_readers URL COUNT`: so many readers of a replica's event stream, in a process of their own.

Says "ready" once each stream was answered, reads until a line comes on standard input, and then prints what was seen as JSON:
streams served, refused and cut off by the server, all events, the seconds, and when the first had heard all of each revision.
Plain sockets, so that the readers cost little beside what is measured.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from controller.clock import SystemClock

CLOCK = SystemClock()


@dataclass
class Seen:
    """What all readers have seen."""

    served: int = 0
    refused: int = 0
    cut: int = 0
    events: int = 0
    revisions: list[tuple[int, float]] = field(default_factory=list)


async def read(url: str, seen: Seen, answered: asyncio.Queue[None]) -> None:
    """One stream, to its end."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(f"GET /v1/events HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: text/event-stream\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        served = b" 200 " in head.split(b"\r\n", 1)[0]
        first = served and not seen.served
        seen.served += served
        seen.refused += not served
        answered.put_nowait(None)
        rest = b""
        while served and (data := await reader.read(65536)):
            seen.events += data.count(b"\ndata:")
            if first:
                *lines, rest = (rest + data).split(b"\n")
                at = CLOCK.boottime()
                seen.revisions += [(int(line[3:]), at) for line in lines if line.startswith(b"id:")]
        seen.cut += served
    finally:
        writer.close()


async def main(url: str, count: int) -> None:
    """See the module's docstring."""
    seen, answered = Seen(), asyncio.Queue[None]()
    began = CLOCK.boottime()
    readers = [asyncio.create_task(read(url, seen, answered)) for _ in range(count)]
    for _ in readers:
        await answered.get()
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    for reader in readers:
        reader.cancel()
    outcomes = await asyncio.gather(*readers, return_exceptions=True)
    if errors := [outcome for outcome in outcomes if isinstance(outcome, Exception)]:
        print(f"{len(errors)} streams broke, the first with {errors[0]!r}", file=sys.stderr)
    document = {"seconds": CLOCK.boottime() - began, "served": seen.served, "refused": seen.refused, "cut": seen.cut}
    print(json.dumps(document | {"events": seen.events, "revisions": seen.revisions}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
