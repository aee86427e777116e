"""Changes as server-sent events: order, resuming, gaps, slow readers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx
import pytest

from controller.core.model.blocks import Block
from controller.core.model.lifecycle import State
from controller.core.model.op import Op
from controller.core.model.records import Change
from controller.endpoint import stream
from controller.endpoint.api import MAX_STREAMS
from controller.endpoint.server import StatusServer
from tests.endpoint.model_view import ModelView, status_value
from tests.support.waiting import wait_until


class Reader:
    """Reads one stream in a thread, as a browser does: `events` are (name, data, last id seen)."""

    def __init__(self, url: str, **headers: str) -> None:
        self.events: list[tuple[str, dict[str, Any], str]] = []
        self.last_id = ""
        self.ended = False
        self._client = httpx.Client(trust_env=False, timeout=30.0)
        self._thread = threading.Thread(target=self._read, args=(url, headers), daemon=True)
        self._thread.start()
        wait_until(lambda: self.last_id or self.ended, "the stream's beginning")

    def _read(self, url: str, headers: dict[str, str]) -> None:
        name, data = "", ""
        try:
            with self._client.stream("GET", url, headers=headers) as answer:
                self._socket = answer.extensions["network_stream"].get_extra_info("socket")
                assert answer.headers["content-type"].startswith("text/event-stream")
                for line in answer.iter_lines():
                    key, _, value = line.partition(": ")
                    if key == "event":
                        name = value
                    elif key == "data":
                        data = value
                    elif key == "id":
                        self.last_id = value
                    elif not line and data:
                        self.events.append((name, json.loads(data), self.last_id))
                        name, data = "", ""
        except httpx.TransportError:
            pass  # closed by the test
        self.ended = True

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the server was faster
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(20)
        assert not self._thread.is_alive()
        self._client.close()


@contextmanager
def reading(server: StatusServer, path: str = "/v1/events", **headers: str) -> Iterator[Reader]:
    reader = Reader(server.url + path, **headers)
    yield reader
    reader.close()


def has_heard(reader: Reader, count: int) -> bool:
    return len(reader.events) >= count


def test_changes_arrive_in_order_with_what_they_mean(server: StatusServer, view: ModelView) -> None:
    with reading(server) as reader:
        view.submit("a")
        view.set_state("a", State.RUNNING)
        view.write(("states", ("a",), b"garbage"))
        view.write(("tasks", ("a",), None), ("states", ("a",), None))
        wait_until(lambda: len(reader.events) >= 4, "four events")
    assert [(name, data["id"], data["revision"]) for name, data, _ in reader.events] == [
        ("submitted", "a", 1),
        ("status", "a", 2),
        ("quarantined", "a", 3),
        ("removed", "a", 4),
    ]
    assert reader.events[1][1]["state"] == "Running"


def test_a_member_is_told_as_its_array(server: StatusServer, view: ModelView) -> None:
    member = status_value(State.RUNNING, array="a", index=3)
    with reading(server) as reader:
        view.write(("states", ("a-i3",), member))
        view.write(("arrays", ("a", "0"), Block("x", ()).encode(Op("op"))), ("states", ("a-i3",), None))
        view.submit("last")
        wait_until(lambda: len(reader.events) >= 3, "three events")
    assert [(name, data["id"]) for name, data, _ in reader.events] == [
        ("array", "a"),
        ("array", "a"),
        ("submitted", "last"),
    ]


def test_a_reader_resumes_where_it_was(server: StatusServer, view: ModelView) -> None:
    with reading(server) as first:
        view.submit("a")
        wait_until(lambda: first.last_id == "1", "the first event")
    view.submit("b")
    view.submit("c")
    for resumed in (
        reading(server, **{"Last-Event-ID": first.last_id}),
        reading(server, f"/v1/events?after={first.last_id}"),
    ):
        with resumed as reader:
            wait_until(partial(has_heard, reader, 2), "what was missed")
            assert [data["id"] for _, data, _ in reader.events] == ["b", "c"]


def test_a_browser_that_connects_again_resumes_after_what_it_heard_last(
    server: StatusServer, view: ModelView
) -> None:
    """Its address is still the one it began with; the header says how far it came, and counts."""
    for name in ("a", "b", "c"):
        view.submit(name)
    with reading(server, "/v1/events?after=0", **{"Last-Event-ID": "2"}) as reader:
        wait_until(lambda: reader.events, "what was missed")
        assert [data["id"] for _, data, _ in reader.events] == ["c"]


def test_who_leads_is_told(server: StatusServer, view: ModelView) -> None:
    with reading(server) as reader:
        view.write(("leader", (), b'{"id":"replica-b"}'))
        view.write(("leader", (), None))
        wait_until(lambda: len(reader.events) >= 2, "two events")
    assert [(name, data["replica"]) for name, data, _ in reader.events] == [
        ("leader", "replica-b"),
        ("leader", ""),
    ]


def test_a_reader_that_is_cut_again_and_again_misses_nothing(
    server: StatusServer, view: ModelView, http: httpx.Client
) -> None:
    """It lists, resumes after the list's revision, and then after what it heard last, while others write
    all the time.
    """
    view.submit("t0000")
    written = threading.Event()

    def write() -> None:
        for n in range(1, 450):
            view.write(
                ("tasks", (f"t{n:04}",), b"{}"), ("states", (f"t{n:04}",), status_value(State.RUNNING))
            )
        written.set()

    def has_news(reader: Reader, last: str) -> bool:
        return reader.last_id != last or written.is_set()

    writer = threading.Thread(target=write, name="writer")
    writer.start()
    listed = http.get("/v1/tasks?limit=500")
    seen = [task["id"] for task in listed.json()["items"]]
    last = listed.headers["Tally-Revision"]
    while not (written.is_set() and last == str(view.model.revision)):
        with reading(server, **{"Last-Event-ID": last}) as reader:
            wait_until(partial(has_news, reader, last), "some news")
        seen += [data["id"] for name, data, _ in reader.events if name == "status"]
        last = reader.last_id
    writer.join(20)
    assert set(seen) == {f"t{n:04}" for n in range(450)}


def test_an_id_stands_only_behind_a_whole_revision(server: StatusServer, view: ModelView) -> None:
    """Who stops within a revision of several changes hears all of it again."""
    view.submit("before")
    with reading(server, "/v1/events?after=0") as reader:
        view.write(*(("states", (name,), status_value(State.PENDING)) for name in ("a", "b", "c")))
        wait_until(lambda: len(reader.events) >= 4, "the revision")
    assert [last_id for _, _, last_id in reader.events] == ["1", "1", "1", "2"]


def test_what_is_no_longer_kept_is_answered_410(view: ModelView, http: httpx.Client) -> None:
    for listener in view.listeners:
        listener.reloaded(100)
    answer = http.get("/v1/events?after=99")
    assert answer.status_code == 410
    assert answer.json()["parameter"] == "after"
    assert http.get("/v1/events", headers={"Last-Event-ID": "junk"}).status_code == 400
    assert http.head("/v1/events?after=100").status_code == 200


def test_a_reload_of_the_model_ends_streams_with_a_gap(server: StatusServer, view: ModelView) -> None:
    with reading(server) as reader:
        view.listeners[0].reloaded(50)
        wait_until(lambda: reader.ended, "the end of the stream")
        assert [name for name, _, _ in reader.events] == ["gap"]


def test_a_reader_that_takes_nothing_costs_nothing_and_is_cut(
    server: StatusServer, view: ModelView, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 9: nobody waits for a slow reader, nothing is kept for it, and it learns that it missed
    something.
    """
    monkeypatch.setattr(stream, "PACE_SECONDS", 0.0)  # for this test's own time
    host, port = server.url.removeprefix("http://").split(":")
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect((host, int(port)))
    slow.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    with reading(server) as quick:
        written = 0
        changes = tuple(
            ("states", (f"t{n}",), status_value(State.RUNNING, message="m" * 8000)) for n in range(64)
        )
        # More than the ring and all buffers between can hold: the slow reader must have fallen behind.
        while written < stream.CAPACITY * 1.25:
            view.write(*changes)
            written += len(changes)
            wait_until(partial(has_heard, quick, written), "the quick reader")
        assert not quick.ended
    slow.settimeout(20.0)
    received = bytearray()
    while chunk := slow.recv(1 << 20):
        received += chunk
    slow.close()
    assert b"event: gap" in received
    assert received.count(b"event: status") < written


def open_stream(server: StatusServer, version: str = "1.1", receive_buffer: int = 0) -> socket.socket:
    """A stream that is answered, over a plain socket of which nobody has read more than the first bytes."""
    opened = socket.socket()
    if receive_buffer:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    host, port = server.url.removeprefix("http://").split(":")
    opened.settimeout(20.0)
    opened.connect((host, int(port)))
    opened.sendall(f"GET /v1/events HTTP/{version}\r\nHost: localhost\r\n\r\n".encode())
    assert opened.recv(1)
    return opened


def receive_until(opened: socket.socket, last: bytes) -> bytes:
    received = bytearray()
    while last not in received[-len(last) - 65536 :]:
        chunk = opened.recv(65536)
        assert chunk
        received += chunk
    return bytes(received)


def test_a_reader_that_pauses_for_a_while_misses_nothing_and_follows_again(
    server: StatusServer, view: ModelView
) -> None:
    """More than all buffers between can hold is kept for it in the ring, and told once, in order."""
    slow, feed = open_stream(server, receive_buffer=4096), server._feed
    wait_until(lambda: feed._followers, "the reader following")
    written = [[f"t{revision}-{n}" for n in range(64)] for revision in range(32)]
    for names in written:
        view.write(*(("states", (name,), status_value(State.RUNNING, message="m" * 8000)) for name in names))
    wait_until(lambda: not feed._followers, "the reader being left behind")
    received = receive_until(slow, b"\nid: 32\n")
    wait_until(lambda: feed._followers, "the reader following again")
    view.submit("last")
    received += receive_until(slow, b"\nid: 33\n")
    slow.close()
    assert re.findall(rb'data: {"id":"([^"]+)"', received) == [
        name.encode() for names in [*written, ["last"]] for name in names
    ]


def test_http_1_0_has_no_chunks(server: StatusServer, view: ModelView) -> None:
    old = open_stream(server, version="1.0")
    wait_until(lambda: server._feed._followers, "the reader following")
    view.submit("a")
    view.submit("b")
    received = receive_until(old, b"\nid: 2\n\n")
    old.close()
    told = [
        f'event: submitted\ndata: {{"id":"{name}","revision":{n}}}\nid: {n}\n\n'
        for n, name in enumerate("ab", 1)
    ]
    assert received.endswith("".join(told).encode())


def test_a_stream_of_which_nothing_is_to_be_told_is_kept_alive(
    server: StatusServer, view: ModelView, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the store moves: most revisions change no task."""
    monkeypatch.setattr(stream, "KEEP_ALIVE_SECONDS", 0.0)
    monkeypatch.setattr(stream, "PAUSE_SECONDS", 0.01)
    idle = open_stream(server)
    receive_until(idle, b": still here\nid: 0\n\n")
    view.define_pool("default", cpu=1000)
    receive_until(idle, b": still here\nid: 1\n\n")
    idle.close()


def test_who_resumes_from_a_replica_that_is_ahead_waits_for_this_one(
    server: StatusServer, view: ModelView
) -> None:
    with reading(server, "/v1/events?after=2") as reader, reading(server) as other:
        for name in ("a", "b", "c"):
            view.submit(name)
        wait_until(lambda: reader.events and len(other.events) >= 3, "what is new")
    assert [data["id"] for _, data, _ in reader.events] == ["c"]
    assert [data["id"] for _, data, _ in other.events] == ["a", "b", "c"]


def test_who_has_seen_more_than_there_is_learns_that_it_missed_something(
    server: StatusServer, view: ModelView, monkeypatch: pytest.MonkeyPatch
) -> None:
    """etcd was restored: what is written now has revisions that the reader has seen with other changes."""
    monkeypatch.setattr(stream, "KEEP_ALIVE_SECONDS", 0.0)
    view.submit("a")
    with reading(server, "/v1/events?after=1000") as reader:
        wait_until(lambda: reader.ended, "the end of the stream")
    assert [name for name, _, _ in reader.events] == ["gap"]


@pytest.mark.parametrize("head", [{}, {"Last-Event-ID": "1000"}])
def test_who_has_seen_what_the_store_has_not_is_told_to_list_again(
    http: httpx.Client, view: ModelView, head: dict[str, str]
) -> None:
    """At once. If nobody knows what the store has, a replica may lag behind: the reader waits."""
    view.submit("a")
    view.stored = 999
    refused = http.get(f"/v1/events?after={1 if head else 1000}", headers=head)
    assert (refused.status_code, refused.json()["parameter"]) == (410, "after")
    for view.stored in (1000, None):
        with http.stream("GET", "/v1/events?after=1", headers={"Last-Event-ID": "1000"}) as answer:
            assert answer.status_code == 200


def test_streams_are_limited_and_their_places_given_back(server: StatusServer, http: httpx.Client) -> None:
    sockets = []
    host, port = server.url.removeprefix("http://").split(":")
    for _ in range(MAX_STREAMS):
        sockets.append(socket.create_connection((host, int(port))))
        sockets[-1].sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        sockets[-1].settimeout(20.0)
        while b"retry:" not in sockets[-1].recv(4096):
            pass
    assert http.get("/v1/events").status_code == 503
    assert http.get("/livez").status_code == 200
    for opened in sockets:
        opened.close()
    wait_until(lambda: http.head("/v1/events").status_code == 200, "a place")


def test_stop_ends_streams(view: ModelView) -> None:
    server = StatusServer(view)
    server.start()
    with reading(server) as reader:
        server.stop()
        wait_until(lambda: reader.ended, "the end of the stream")


# -- the ring by itself
# ----------------------------------------------------------------------------------------------


def change(mod: int, task_id: str = "a") -> Change:
    return Change("tasks", (task_id,), b"{}", mod, mod)


def test_the_ring_is_bounded_and_knows_what_it_dropped() -> None:
    feed = stream.Feed(capacity=3)
    feed.reloaded(10)
    start = feed.position()
    for mod in (11, 12, 12, 13):
        feed.changed([change(mod)], mod)
    with pytest.raises(stream.FellBehind):
        feed.since(start)
    entries, position = feed.since(feed.position(11))
    assert [entry.mod for entry in entries] == [12, 12, 13]
    assert position.revision == 13


def test_the_ring_is_bounded_in_bytes_too() -> None:
    """Statuses with a long history fill it sooner."""
    feed = stream.Feed(capacity_bytes=10_000)
    feed.reloaded(10)
    for mod in range(11, 31):
        feed.changed([Change("states", ("a",), b"x" * 1000, mod, mod)], mod)
    with pytest.raises(stream.FellBehind):
        feed.position(19)
    assert len(feed.since(feed.position(20))[0]) == 10


def test_a_revision_that_was_dropped_in_part_is_not_resumed() -> None:
    feed = stream.Feed(capacity=2)
    feed.reloaded(10)
    feed.changed([change(11), change(11), change(11)], 11)
    with pytest.raises(stream.FellBehind):
        feed.position(10)
    assert feed.since(feed.position(11))[0] == []


def test_pages_end_with_a_revision() -> None:
    feed = stream.Feed()
    feed.reloaded(0)
    feed.changed([change(1 + n // 100, f"t{n}") for n in range(1000)], 10)
    position, seen = feed.position(0), 0
    while entries := feed.since(position)[0]:
        position = feed.since(position)[1]
        assert position.revision == entries[-1].mod
        seen += len(entries)
    assert seen == 1000


def test_a_store_with_lower_revisions_is_followed_from_its_own_beginning() -> None:
    """It was restored from a backup; who followed the one before learns that it missed something."""

    async def scenario() -> tuple[bytes, bytes]:
        feed, told = stream.Feed(), list[bytes]()

        def note(page: Any) -> bool:
            told.append(page.plain)
            return True

        feed.reloaded(500)
        before = stream.events(feed, feed.position(), lambda _: True)
        await anext(before)
        cut = asyncio.ensure_future(anext(before))
        await asyncio.sleep(0)
        feed.reloaded(20)
        after = stream.events(feed, feed.position(), note)
        await anext(after)
        following = asyncio.ensure_future(anext(after))
        await asyncio.sleep(0)
        feed.changed([change(21)], 21)
        gap = await cut
        while not told:
            await asyncio.sleep(0.001)
        feed.close()
        await asyncio.gather(following, return_exceptions=True)
        return gap, told[0]

    gap, page = asyncio.run(asyncio.wait_for(scenario(), 20.0))
    assert b"event: gap" in gap
    assert b"id: 21" in page


def test_waiting_for_a_revision_ends_with_it_with_time_or_with_the_feed() -> None:
    async def scenario() -> list[bool]:
        feed = stream.Feed()
        feed.reloaded(5)
        outcomes = [await feed.reached(5, 0.0), await feed.reached(6, 0.01)]
        waits = [asyncio.create_task(feed.reached(revision, 20.0)) for revision in (6, 7)]
        await asyncio.sleep(0)
        await asyncio.to_thread(feed.changed, [], 6)  # progress without a change of ours
        outcomes.append(await waits[0])
        feed.close()
        outcomes.append(await waits[1])
        assert not feed._waiting
        return outcomes

    assert asyncio.run(scenario()) == [True, False, True, False]
