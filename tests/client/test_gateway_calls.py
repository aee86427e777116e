"""What a gateway, or a proxy before it, may answer to a client, whatever stands in its headers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from controller.client import gateway_calls
from controller.client.errors import GatewayUnavailable
from controller.client.gateway_calls import GATEWAY_HEADER, GatewayCalls

Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture
def answering() -> Iterator[Callable[[Callable[[str, dict[str, list[str]]], Answer]], GatewayCalls]]:
    """Makes the calls of a client to a server that answers so, by method and parameters."""
    ends: list[Callable[[], None]] = []

    def make(answer: Callable[[str, dict[str, list[str]]], Answer]) -> GatewayCalls:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, headers, body = answer(self.command, parse_qs(urlsplit(self.path).query))
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815  # the library's name

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        calls = GatewayCalls(f"http://127.0.0.1:{server.server_port}", lambda: "t", timeout_seconds=0.5)
        ends.extend((calls.close, server.shutdown, thread.join, server.server_close))
        return calls

    yield make
    for end in ends:
        end()


@pytest.mark.parametrize(
    "told", ["Wed, 21 Oct 2026 07:28:00 GMT", "soon", "-1", "nan", "1e3", "", "Fri, 99 Foo 2026"]
)
def test_retry_after_may_be_anything(
    answering: Callable[[Callable[[str, dict[str, list[str]]], Answer]], GatewayCalls], told: str
) -> None:
    calls = answering(lambda *_: (503, {"Retry-After": told}, b""))
    with pytest.raises(GatewayUnavailable):
        calls.get("/v1/pools")


def test_a_client_reads_again_after_etcd_was_restored(
    answering: Callable[[Callable[[str, dict[str, list[str]]], Answer]], GatewayCalls],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its last write is of a history that is gone: no gateway ever reaches that revision."""
    headers = {GATEWAY_HEADER: "1"}

    def answer(method: str, parameters: dict[str, list[str]]) -> Answer:
        if method == "POST":
            return 200, {**headers, "Tally-Revision": "900"}, b"{}"
        if int(parameters.get("min_revision", ["0"])[0]) > 20:
            return 412, {**headers, "Tally-Revision": "20"}, b'{"detail": "not reached"}'
        return 200, {**headers, "Tally-Revision": "20"}, b'{"pools": []}'

    calls = answering(answer)
    calls.post("/v1/tasks")
    with pytest.raises(GatewayUnavailable, match="not reached"):  # it may lag behind
        calls.get("/v1/pools")
    monkeypatch.setattr(gateway_calls, "PATIENT_SECONDS", 0.0)
    assert calls.get("/v1/pools") == {"pools": []}
    assert calls.get("/v1/pools") == {"pools": []}
