"""Whatever is sent: no answer of 5xx, none that the document does not describe, and nobody who gets in."""

from __future__ import annotations

import base64
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance

from controller import bulkhead
from controller.client import Client
from controller.core.model.lifecycle import State
from controller.gateway.operations import OPERATIONS
from tests.client.conftest import PutStatus
from tests.client.conftest import put_status as put_status
from tests.gateway.conftest import As, Served
from tests.support.examples import examples

STREAMS = {"streamEvents", "watchTasks", "streamLogs", "waitForTasks"}
"""These have no end, or wait for one."""

FUZZED = [each for each in OPERATIONS if each.operation not in STREAMS]


def test_answers_hold_what_the_document_says(
    served: Served, as_: As, client: Client, put_status: PutStatus
) -> None:
    """Generated requests, valid and not, of a caller who may do everything."""
    client.apply_pool({"name": "0", "capacity": {"cpu": 4}, "sharing": {"owners": {"a": {}}}})
    for name, state in (("0", State.FAILED), ("1", State.RUNNING)):
        client.submit({"id": name, "command": ["true"], "env": {"A": "1"}})
        put_status(name, state)
    schema = schemathesis.openapi.from_dict(as_("ops").get("/openapi.json").json())
    schema.config.update(base_url=served.gateway.url)
    session = requests.Session()
    session.trust_env = False
    session.headers["Authorization"] = f"Bearer {served.tokens['ops']}"
    before, answered = bulkhead.counts.total(), set()

    @given(st.data())
    @settings(
        max_examples=150,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def requests_hold(data: st.DataObject) -> None:
        operation = data.draw(st.sampled_from(FUZZED))
        case = data.draw(schema[operation.path][operation.method].as_strategy())
        case.query.pop("wait", None)  # it would be waited for
        answer = case.call(session=session, timeout=30)
        answered.add(answer.status_code)
        # what a valid document asks for may be impossible now: another task, a state, a revision to come
        excluded: list[Any] = [positive_data_acceptance]
        case.validate_response(answer, excluded_checks=excluded)

    with session:
        requests_hold()
    assert {200, 400} <= answered
    assert not {each for each in answered if each >= 500}
    assert bulkhead.counts.total() == before


BYTES = st.binary(max_size=200)


def forged(name: str) -> list[str]:
    """Tokens that somebody may make who knows the names of callers."""
    said = {"sub": name, "name": name, "iss": "https://idp.example", "aud": "tally", "exp": 4e9}
    head = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    body = base64.urlsafe_b64encode(json.dumps(said).encode()).rstrip(b"=").decode()
    return [name, f"tally_{name}", f"{head}.{body}.", jwt.encode(said, "k" * 32), "", " ", "null", "*"]


def test_nobody_gets_in_without_a_token(served: Served) -> None:
    """Whatever is sent as one; nor is it told whether it was close."""
    answers = set()
    good = served.tokens["alice"]
    near = [good[:-1], good + "x", good.upper(), good[::-1], " ".join(good), f"{good}, {good}"]
    tries = [*near, *(token for name in served.tokens for token in forged(name))]
    basic = base64.b64encode(f"alice:{good}".encode()).decode()
    headers = [f"Bearer {token}".strip() for token in tries] + [f"Basic {basic}", good, f"Token {good}"]
    with httpx.Client(base_url=served.gateway.url, trust_env=False) as http:
        for header in headers:
            answer = http.get("/v1/tasks", headers={"Authorization": header})
            assert answer.status_code == 401, header
            answers.add(answer.content)
        assert len(answers) == 1
        for name in ("X-Remote-User", "X-Forwarded-User", "Impersonate-User", "Cookie", "Forwarded"):
            assert http.get("/v1/tasks", headers={name: "alice"}).status_code == 401
        twice = [("Authorization", "Bearer wrong"), ("Authorization", f"Bearer {good}")]
        assert http.get("/v1/tasks", headers=twice).status_code in (400, 401)


def answer_to(url: str, request: bytes) -> bytes:
    """The status of the answer, to bytes as they are; b"" if the connection was closed without one."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=30) as connection:
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(65536)
        except ConnectionError:
            return b""
    return answer.split(b" ", 2)[1] if answer.startswith(b"HTTP/1.") else answer[:20]


HEADER = st.binary(max_size=60).filter(lambda value: b"\n" not in value)


@given(HEADER, st.sampled_from([b"Bearer ", b"bearer\t", b"BEARER", b"Basic ", b""]), BYTES)
@settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck))
def test_any_header_and_any_body(served: Served, value: bytes, scheme: bytes, body: bytes) -> None:
    """Refused, whatever they are, also as a second header."""
    for headers in (
        b"Authorization: " + scheme + value + b"\r\n",
        b"Authorization: x\r\nAuthorization: " + scheme + value + b"\r\n",
        scheme + value + b"\r\n",
    ):
        length = f"Content-Length: {len(body)}\r\n\r\n".encode()
        request = b"POST /v1/tasks HTTP/1.1\r\nHost: x\r\n" + headers + length + body
        assert answer_to(served.gateway.url, request) in (b"400", b"401", b"431", b"")


@given(BYTES)
@settings(max_examples=examples(200), deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_as_a_body(served: Served, body: bytes) -> None:
    """For each operation that takes one: refused or done, and never an error of the gateway."""
    headers = {"Authorization": f"Bearer {served.tokens['alice']}"}
    with httpx.Client(base_url=served.gateway.url, headers=headers, trust_env=False) as http:
        for path in (
            "/v1/tasks",
            "/v1/tasks/x/cancel",
            "/v1/tasks/x/priority",
            "/v1/tasks:act",
            "/v1/tasks:wait",
        ):
            assert http.post(path, content=body).status_code in (400, 403, 404), path
        lines = {"Content-Type": "application/x-ndjson"}
        answer = http.post("/v1/tasks", content=body, headers=lines)
        assert answer.status_code == 200
        assert "done" in json.loads(answer.text.splitlines()[-1])
