"""Bodies that are large, odd or slow: each is judged by itself, and holds up nobody else."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.requests import Request

from controller import bulkhead
from controller.client import Client
from controller.gateway import bodies
from controller.gateway.bodies import MAX_BODY_BYTES, NDJSON
from controller.gateway.openings import LIMITS, Limit, Opening, Openings
from controller.store.etcd.store import EtcdStore
from tests.gateway.conftest import As, Served, serving
from tests.support.busy import kept_busy
from tests.support.waiting import wait_until


def test_a_large_body_holds_up_nobody(as_: As, served: Served) -> None:
    """It is parsed by a thread, in a time that grows no faster than the body."""
    names = MAX_BODY_BYTES // 12
    body = "{" + ",".join(f'"{number:06}":0' for number in range(names)) + ',"zz":0,"zz":1}'
    api, answered = served.gateway._api, threading.Event()
    with ThreadPoolExecutor(1) as sender:
        with kept_busy(api.readers.pool):
            sent = sender.submit(as_("alice").post, "/v1/tasks:wait", content=body)
            sent.add_done_callback(lambda _: answered.set())
            wait_until(api.readers.pool._work_queue.qsize, "the body before the threads")
            assert as_("").get("/livez").status_code == 200
            assert not answered.is_set()
        assert sent.result().status_code == 400
    assert "'zz' is given twice" in sent.result().json()["detail"]


HALF = b"\xed\xa0\x80"  # of a surrogate pair, as no encoder of UTF-8 writes it


@pytest.mark.parametrize("line", [b'{"id":"%s"}' % HALF, b'{"%s":1}' % HALF, '{"id":"a"}'.encode("utf-16")])
def test_only_utf_8_is_json(line: bytes, as_: As, client: Client) -> None:
    """What is something else is refused by itself: it spoils no other line of an upload."""
    alice, before = as_("alice"), bulkhead.counts.total()
    for path in ("/v1/tasks", "/v1/tasks:wait", "/v1/forecast"):
        answer = alice.post(path, content=line)
        assert (answer.status_code, "not UTF-8" in answer.json()["detail"]) == (400, True)
    good = [json.dumps({"id": name, "owner": "vision", "command": ["a"]}).encode() for name in ("a", "b")]
    sent = b"\n".join([good[0], line.replace(b"\n", b""), good[1], b""])
    upload = alice.post("/v1/tasks", content=sent, headers={"Content-Type": NDJSON})
    told = [json.loads(each) for each in upload.text.splitlines()]
    assert [each.get("outcome") for each in told] == ["created", "invalid", "created", None]
    assert told[-1]["done"] == 3
    assert {task.id for task in client.tasks()} == {"a", "b"}
    assert bulkhead.counts.total() == before


@contextmanager
def uploading(served: Served, name: str, kind: str = NDJSON) -> Iterator[socket.socket]:
    """A connection whose body has begun, and has no end yet."""
    url = urlsplit(served.gateway.url)
    head = (
        f"POST /v1/tasks HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {served.tokens[name]}\r\n"
        f"Content-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with socket.create_connection((url.hostname, url.port), timeout=30) as connection:
        connection.sendall(head.encode())
        yield connection


def send_part(connection: socket.socket, part: bytes) -> None:
    connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))


def task_line(name: str) -> bytes:
    return json.dumps({"id": name, "owner": "vision", "command": ["a"]}).encode() + b"\n"


@pytest.mark.parametrize(
    ("head", "code"),
    [
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Encoding": "Identity"}, 201),
        ({"Content-Type": "application/json; charset=iso-8859-1"}, 415),
        ({"Content-Type": 'application/json;Charset="UTF-16"'}, 415),
        ({"Content-Type": "application/x-ndjson; charset=latin1"}, 415),
        ({"Content-Type": 'application/json; charset="UTF-8"'}, 201),
    ],
)
def test_a_body_is_not_taken_for_another(head: dict[str, str], code: int, as_: As, client: Client) -> None:
    """A body in another encoding may be JSON all the same, of other words."""
    alice, body = as_("alice"), b'{"id":"a","owner":"vision","command":["true"]}'
    assert alice.post("/v1/tasks", content=body, headers=head).status_code == code
    assert [view.id for view in client.tasks()] == (["a"] if code == 201 else [])
    if code == 415:
        client.submit({"id": "b", "owner": "vision", "command": ["true"]})
        assert alice.post("/v1/tasks/b/cancel", content=b"{}", headers=head).status_code == 415
        assert client.get("b").requests == ()


def test_whole_lines_are_submitted_as_they_arrive(served: Served, client: Client) -> None:
    """Whoever pauses hears of them."""
    with uploading(served, "alice") as connection:
        answered = connection.makefile("rb")
        send_part(connection, task_line("a") + b'{"id": "half')
        assert any(b'"id":"a","outcome":"created"' in line for line in answered)
    assert [task.id for task in client.tasks()] == ["a"]


def test_who_leaves_has_sent_its_whole_lines() -> None:
    """What was not ended is no line."""
    body = {"type": "http.request", "body": b"a\nb\n\nhal", "more_body": True}
    messages = iter([body, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    async def read() -> list[list[bytes]]:
        request = Request({"type": "http", "method": "POST"}, receive)
        return [found async for found in bodies.lines(request)]

    assert asyncio.run(read()) == [[b"a", b"b"]]


def test_lines_before_a_wrong_one_are_submitted(as_: As, client: Client) -> None:
    """The answer has a line for each of them, and then says what is wrong."""
    body = task_line("a") + b"x" * (MAX_BODY_BYTES + 1)
    answer = as_("alice").post("/v1/tasks", content=body, headers={"Content-Type": NDJSON})
    first, last = map(json.loads, answer.text.splitlines())
    assert (first["outcome"], last["problem"]["status"]) == ("created", 413)
    assert [task.id for task in client.tasks()] == ["a"]


def test_slow_bodies_keep_nobody_out(
    client: Client, store: EtcdStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If there is no other room, the one that has been sending longest gives way."""
    monkeypatch.setattr("controller.gateway.server.MOST_CONNECTIONS", 3)
    with serving(store, client.keys.cluster, tmp_path) as served, ExitStack() as stack:
        openings, sending = served.gateway._api.openings, list[socket.socket]()
        for count in range(1, 4):
            sending.append(stack.enter_context(uploading(served, "alice", "application/json")))
            send_part(sending[-1], b"{")
            wait_until(lambda: openings.counts()["bodies"] == count, "the body")  # noqa: B023
        assert httpx.get(f"{served.gateway.url}/livez", trust_env=False).status_code == 200
        with suppress(ConnectionResetError):
            assert sending[0].recv(1) == b""
        wait_until(lambda: openings.counts()["bodies"] == 2, "the end of the first")


def test_a_body_has_its_time(served: Served, as_: As, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it drips; and one caller has some at the same time, of which others see nothing."""
    openings = served.gateway._api.openings
    openings._limits = {**LIMITS, Opening.BODIES: Limit(2, 1)}
    with uploading(served, "alice", "application/json") as connection:
        send_part(connection, b"{")
        wait_until(lambda: openings.counts()["bodies"], "the body")
        refused = as_("alice").post("/v1/tasks:wait", json={"ids": ["a"]})
        assert refused.status_code == 429
        assert as_("bob").post("/v1/tasks:wait", json={"ids": ["a"]}).status_code == 200
    wait_until(lambda: not openings.counts()["bodies"], "the end of the body")
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.1)
    with uploading(served, "alice", "application/json") as connection:
        send_part(connection, b"{")
        assert b" 408 " in connection.makefile("rb").readline()


def test_what_is_open_leaves_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """For others, and for short requests, whatever each kind allows."""
    monkeypatch.setattr("controller.gateway.openings.TOGETHER", Limit(3, 2))
    openings = Openings()
    with openings.one(Opening.STREAMS, "alice"), openings.one(Opening.WAITS, "alice"):
        problem = openings.refusal(Opening.WATCHES, "alice")
        assert problem is not None
        assert problem.document.status == 429
        with openings.one(Opening.STREAMS, "bob"):
            problem = openings.refusal(Opening.WATCHES, "bob")
            assert problem is not None
            assert problem.document.status == 503
    assert openings.refusal(Opening.WATCHES, "alice") is None


def test_requests_that_wait_for_their_turn_are_of_one_and_of_all(as_: As, served: Served) -> None:
    """While etcd is silent, one caller's keep only some connections."""
    api = served.gateway._api
    api.openings._limits = {**LIMITS, Opening.CALLS: Limit(2, 1)}
    lines = {"alice": task_line("a"), "ops": task_line("b")}
    with ThreadPoolExecutor(2) as senders:
        with kept_busy(api.workers.pool):
            sent = list[Future[httpx.Response]]()
            for name, line in lines.items():
                sent.append(senders.submit(as_(name).post, "/v1/tasks", content=line))
                wait_until(lambda: api.openings.counts()["calls"] == len(sent), "the request")
                assert as_("alice").post("/v1/tasks/a/cancel", json={}).status_code == 429
            assert as_("bob").post("/v1/tasks", content=task_line("c")).status_code == 503
        assert [answer.result().status_code for answer in sent] == [201, 201]
