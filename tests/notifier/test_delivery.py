"""One request to one receiver, whatever that does."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from email.utils import formatdate
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from controller.clock import SystemClock
from controller.core.model.notify_url import parse_notify_url
from controller.errors import InvalidField
from controller.notifier.addresses import Resolver
from controller.notifier.delivery import (
    MAX_ANSWER_BYTES,
    Delivered,
    Postman,
    PostTimes,
    Undelivered,
    _by_turns,
)
from controller.notifier.line import Line
from controller.retry_after import retry_after_seconds
from tests.support.receiving import LOOPBACK, Received, ReceivingServer, answer
from tests.support.tls import Authority

SECRET = "s3cret"
NOW, HOUR = 1_700_000_000.0, 3600.0
HASTE = PostTimes(connect=5.0, read=0.2, total=0.6)
PATIENT = PostTimes(connect=20.0, read=20.0, total=20.0)


def postman(times: PostTimes = PATIENT, **options: Any) -> Postman:
    return Postman(SystemClock(), allowed=LOOPBACK, allow_http=True, times=times, **options)


def post(
    url: str, times: PostTimes = PATIENT, body: bytes = b"{}", **options: Any
) -> Delivered | Undelivered:
    return postman(times, **options).post(url, body, {"webhook-signature": f"v1,{SECRET}"})


def undelivered(url: str, times: PostTimes = PATIENT, **options: Any) -> Undelivered:
    """The failure, which has no secret in its words."""
    result = post(url, times, **options)
    assert isinstance(result, Undelivered)
    assert SECRET not in result.why
    return result


def leading_to(*answers: str) -> Callable[..., list[Any]]:
    """A resolver that answers one address each time it is asked, and the last one from then on."""
    left = list(answers)

    def resolve(host: str, port: int, *, type: int) -> list[Any]:
        address = left.pop(0) if len(left) > 1 else left[0]
        return socket.getaddrinfo(address, port, type=type, flags=socket.AI_NUMERICHOST)

    return resolve


def test_the_request() -> None:
    with ReceivingServer(answer(204)) as server:
        assert post(server.url("/a/b?q=s3cret"), body=b'{"a": 1}') == Delivered(204)
        (request,) = server.requests
    assert request.line == "POST /a/b?q=s3cret HTTP/1.1"
    assert request.headers["host"] == f"127.0.0.1:{server.port}"
    assert request.headers["webhook-signature"] == f"v1,{SECRET}"
    assert request.headers["user-agent"].startswith("Tally/")
    assert request.body == b'{"a": 1}'


def test_nothing_is_sent_when_it_may_not_begin_any_more() -> None:
    """Names and connections may take long: the turn of a notifier may be over by then."""
    with ReceivingServer() as receiver:
        outcome = postman().post(receiver.url(), b"{}", {}, lambda: False)
    assert isinstance(outcome, Undelivered)
    assert "was over" in outcome.why
    assert not receiver.requests


@contextmanager
def swallowing(hosts: Sequence[str], port: int) -> Iterator[None]:
    """Listeners whose queue is full: the kernel drops what asks for a connection, as where no way leads."""
    with ExitStack() as held:
        for host in hosts:
            listener = held.enter_context(socket.socket())
            listener.bind((host, port))
            listener.listen(0)
            for _ in range(4):
                queued = held.enter_context(socket.socket())
                queued.setblocking(False)
                with suppress(BlockingIOError):
                    queued.connect((host, port))
        yield


def test_addresses_that_are_dead_leave_time_for_one_that_works() -> None:
    """A name may have many of which some have no way, such as IPv6 where there is none."""
    dead = [f"127.0.0.{number}" for number in range(2, 6)]

    def resolve(host: str, port: int, *, type: int) -> list[Any]:
        return [(socket.AF_INET, type, 6, "", (each, port)) for each in (*dead, "127.0.0.1")]

    times = PostTimes(connect=1.0, read=4.0, total=4.0)
    with ReceivingServer(answer(204)) as server, swallowing(dead, server.port):
        url = server.url(host="hooks.example.org")
        assert post(url, times, resolve=resolve) == Delivered(204)


def test_addresses_of_both_families_are_tried_by_turns() -> None:
    """None of either family is passed over because there are many of the other."""
    six, four = [ip_address(f"2001:4860::{number}") for number in range(1, 10)], ip_address("8.8.8.8")
    assert _by_turns([*six, four])[:3] == [six[0], four, six[1]]
    assert _by_turns([four, *six])[:3] == [four, six[0], six[1]]
    assert set(_by_turns([*six, four])) == {*six, four}


def test_a_large_body_arrives_whole() -> None:
    body = bytes(range(256)) * 8192
    with ReceivingServer(answer(200)) as server:
        assert post(server.url(), body=body) == Delivered(200)
        assert server.requests[0].body == body


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_success(status: int) -> None:
    with ReceivingServer(answer(status, body=b"ok" if status != 204 else b"")) as server:
        assert post(server.url()) == Delivered(status)


@pytest.mark.parametrize("status", [100, 103, 199, 300, 304, 400, 401, 404, 422, 500, 502, 599, 999])
def test_failure_is_not_final(status: int) -> None:
    with ReceivingServer(answer(status, "Retry-After: 7") + answer(status)) as server:
        result = undelivered(server.url(f"/{SECRET}?x={SECRET}"))
    assert not result.is_final
    assert result.retry_after_seconds is None
    if status != 100:  # an interim answer, and another, and no final one
        assert result.status == status
        assert f"127.0.0.1:{server.port} answers {status}" in result.why


def test_gone_is_final() -> None:
    with ReceivingServer(answer(410)) as server:
        assert undelivered(server.url()).is_final


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("7200", 3600.0),
        ("9" * 5000, 3600.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
    ],
)
def test_retry_after_in_seconds(status: int, value: str, seconds: float | None) -> None:
    with ReceivingServer(answer(status, f"Retry-After: {value}")) as server:
        assert undelivered(server.url()) == Undelivered(
            f"127.0.0.1:{server.port} answers {status}", seconds, False, status
        )


@pytest.mark.parametrize(("later", "seconds"), [(90, 90.0), (-90, 0.0), (90000, 3600.0)])
def test_retry_after_as_a_date(later: int, seconds: float) -> None:
    assert retry_after_seconds(formatdate(NOW + later, usegmt=True), NOW, HOUR) == seconds
    assert retry_after_seconds(formatdate(NOW + later), NOW, HOUR) == seconds


@given(st.text(max_size=40) | st.from_regex(r"\w{3}, \d{1,9} \w{3} \d{1,9} \d{1,9}:\d\d:\d\d [-+]?\w{0,6}"))
def test_whatever_retry_after_says_it_is_at_most_an_hour(text: str) -> None:
    seconds = retry_after_seconds(text, NOW, HOUR)
    assert seconds is None or 0.0 <= seconds <= 3600.0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status: int) -> None:
    with ReceivingServer(answer(200)) as inner:
        location = f"Location: {inner.url('/s3cret?t=s3cret', 'localhost')}"
        with ReceivingServer(answer(status, location)) as server:
            result = undelivered(server.url())
        assert inner.connections == 0
    assert result.why == (
        f"127.0.0.1:{server.port} answers {status}, a redirect to localhost, which is not followed"
    )


@pytest.mark.parametrize(
    "location",
    ["", "/s3cret", "http://s3cret@[", "http://s3cret:s3cret@", "//s3cret<script>/", "s3cret:s3cret"],
)
def test_an_odd_redirect_is_not_shown(location: str) -> None:
    with ReceivingServer(answer(302, f"Location: {location}")) as server:
        assert "which is not followed" in undelivered(server.url()).why


def test_the_connection_goes_to_the_address_that_was_judged() -> None:
    """A name that means something else when it is asked for again: it is not asked again."""
    with ReceivingServer(answer(200), host="127.0.0.2") as outer, ReceivingServer(answer(200)) as inner:
        resolve = leading_to("127.0.0.2", "127.0.0.1")
        assert post(outer.url(host="hooks.example.org"), resolve=resolve) == Delivered(200)
        assert outer.requests[0].headers["host"] == f"hooks.example.org:{outer.port}"
        result = undelivered(
            inner.url(host="hooks.example.org"), resolve=leading_to("127.0.0.2", "127.0.0.1")
        )
        assert "cannot be reached" in result.why
        assert (outer.connections, inner.connections) == (1, 0)


@pytest.mark.parametrize(
    ("host", "resolve"),
    [
        ("127.0.0.1", socket.getaddrinfo),
        ("localhost", socket.getaddrinfo),
        ("hooks.example.org", leading_to("127.0.0.1")),
    ],
)
def test_a_refused_address_gets_no_connection(host: str, resolve: Resolver) -> None:
    careful = Postman(SystemClock(), allow_http=True, times=PATIENT, resolve=resolve)
    with ReceivingServer(answer(200)) as server:
        result = careful.post(server.url(f"/{SECRET}", host), b"{}", {})
        assert server.connections == 0
    assert isinstance(result, Undelivered)
    assert "not public" in result.why
    assert SECRET not in result.why


def test_http_needs_leave() -> None:
    with ReceivingServer(answer(200)) as server:
        strict = Postman(SystemClock(), allowed=LOOPBACK, times=PATIENT)
        result = strict.post(server.url(f"/{SECRET}"), b"{}", {})
        assert isinstance(result, Undelivered)
        assert "must begin with https" in result.why
        assert server.connections == 0


def test_the_next_address_is_tried_if_one_accepts_no_connection() -> None:
    def resolve(host: str, port: int, *, type: int) -> list[Any]:
        return [(socket.AF_INET, type, 6, "", (address, port)) for address in ("127.0.0.9", "127.0.0.1")]

    with ReceivingServer(answer(200)) as server:
        assert post(server.url(host="hooks.example.org"), resolve=resolve) == Delivered(200)


def test_a_machine_without_ipv6_takes_the_other_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, port: int, *, type: int) -> list[Any]:
        return [
            (socket.AF_INET6, type, 6, "", ("::1", port, 0, 0)),
            (socket.AF_INET, type, 6, "", ("127.0.0.1", port)),
        ]

    class Ipv4Socket(socket.socket):
        def __init__(self, family: int = -1, *rest: Any, **options: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *rest, **options)

    with ReceivingServer(answer(200)) as server:
        monkeypatch.setattr(socket, "socket", Ipv4Socket)
        assert post(server.url(host="hooks.example.org"), resolve=resolve) == Delivered(200)


def drip(data: bytes) -> Callable[[socket.socket, Received], None]:
    """One byte at a time, faster than the limit between two, for as long as anyone reads."""

    def act(sock: socket.socket, _: Received) -> None:
        for byte in data:
            sock.sendall(bytes([byte]))
            if has_left(sock):
                return

    return act


def has_left(sock: socket.socket) -> bool:
    """Whether the client has left, within a tenth of a second."""
    sock.settimeout(0.1)
    try:
        return sock.recv(1) == b""
    except TimeoutError:
        return False


def test_a_receiver_that_drips_its_head_is_cut_off() -> None:
    with ReceivingServer(drip(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000)) as server:
        assert undelivered(server.url(), HASTE).why.endswith("does not answer in time")


def test_a_receiver_that_drips_interim_answers_is_cut_off() -> None:
    def act(sock: socket.socket, _: Received) -> None:
        while not has_left(sock):
            sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    with ReceivingServer(act) as server:
        assert undelivered(server.url(), HASTE).why.endswith("does not answer in time")


def test_a_receiver_that_drips_its_body_has_taken_the_request() -> None:
    def act(sock: socket.socket, request: Received) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
        drip(b"x" * 9999)(sock, request)

    with ReceivingServer(act) as server:
        assert post(server.url(), PostTimes(60.0, 3600.0, 3600.0)) == Delivered(200)


def test_a_receiver_that_says_nothing_is_cut_off() -> None:
    def hang(*_: object) -> None:
        server.hold.wait()

    with ReceivingServer(hang) as server:
        assert undelivered(server.url(), HASTE).why.endswith("does not answer in time")


def test_a_receiver_that_reads_nothing_is_cut_off() -> None:
    def hang(_: socket.socket) -> None:
        server.hold.wait()

    with ReceivingServer(greet=hang) as server:
        result = undelivered(server.url(), HASTE, body=b"x" * 50_000_000)
    assert result.why.endswith("does not answer in time")


def test_a_handshake_that_hangs_is_cut_off(tmp_path: Path) -> None:
    certificate = Authority(tmp_path).issue("server")
    hasty = PostTimes(connect=0.2, read=0.2, total=5.0)

    def hang(_: socket.socket) -> None:
        server.hold.wait()

    with ReceivingServer(certificate=certificate, greet=hang) as server:
        assert undelivered(server.url(), hasty).why.endswith("does not answer in time")


def test_a_resolver_that_answers_too_late_sends_nothing() -> None:
    clock = SystemClock()
    with ReceivingServer(answer(200)) as server:

        def resolve(host: str, port: int, *, type: int) -> list[Any]:
            ends = clock.boottime() + 0.1
            while clock.boottime() < ends:
                server.hold.wait(0.05)
            return socket.getaddrinfo("127.0.0.1", port, type=type)

        result = undelivered(server.url(host="a.example"), PostTimes(5.0, 5.0, 0.1), resolve=resolve)
        assert result.why.endswith("does not answer in time")
        assert server.connections == 0


def test_no_more_is_read_than_the_limit() -> None:
    """But what the kernel takes in besides."""
    sent: list[int] = []

    def endless(head: bytes) -> Callable[[socket.socket, Received], None]:
        def act(sock: socket.socket, _: Received) -> None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            sock.sendall(head)
            try:
                while not server.hold.is_set():
                    sent.append(sock.send(b"x" * 4096))
            finally:
                server.hold.set()

        return act

    with ReceivingServer(endless(b"HTTP/1.1 200 OK\r\n\r\n")) as server:
        assert post(server.url()) == Delivered(200)
        assert server.hold.wait(30)
    with ReceivingServer(
        endless(b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n")
    ) as server:
        assert undelivered(server.url()).status == 500
        assert server.hold.wait(30)
    assert sum(sent) < 16 * 2**20
    with ReceivingServer(answer(200, *[f"X: {'y' * 60_000}"] * 3)) as server:
        assert undelivered(server.url()).why.endswith(
            f"answers with more than {MAX_ANSWER_BYTES} bytes before its answer is complete"
        )


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "closes the connection without an answer"),
        (b"s3cret\r\n\r\n", "answers what is not HTTP"),
        (b"HTTP/1.1 s3cret OK\r\n\r\n", "answers what is not HTTP"),
        (b"HTTP/9.9 200 OK\r\n\r\n", "answers what is not HTTP"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "answers what is not HTTP"),
        (b"\x00" * 1000, "answers what is not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: s3cret\r\n" * 500, "answers what is not HTTP"),
        (b"SSH-2.0-s3cret\r\n", "answers what is not HTTP"),
    ],
)
def test_a_broken_answer_is_a_failure(data: bytes, why: str) -> None:
    with ReceivingServer(lambda sock, _: sock.sendall(data)) as server:
        assert undelivered(server.url()).why == f"127.0.0.1:{server.port} {why}"


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda data: b"HTTP/1.1 " + data))
def test_whatever_comes_is_a_result(data: bytes) -> None:
    with ReceivingServer(lambda sock, _: sock.sendall(data)) as server:
        result = post(server.url())
    assert isinstance(result, Undelivered) or 200 <= result.status < 300


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    ],
)
def test_a_broken_body_after_success_changes_nothing(data: bytes) -> None:
    with ReceivingServer(lambda sock, _: sock.sendall(data)) as server:
        assert post(server.url()) == Delivered(200)


def test_an_answer_before_the_request_is_read_counts() -> None:
    def greet(sock: socket.socket) -> None:
        sock.sendall(answer(413))
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass

    with ReceivingServer(greet=greet) as server:
        assert undelivered(server.url(), body=b"x" * 1_000_000).status == 413


def test_an_answer_counts_though_the_request_cannot_be_sent() -> None:
    """A pair of sockets loses nothing that was sent before the other side closed, as TCP may."""
    ours, theirs = socket.socketpair()
    with ours:
        theirs.sendall(answer(413))
        theirs.close()
        line = Line(ours, SystemClock(), SystemClock().boottime() + 60.0, 60.0, MAX_ANSWER_BYTES)
        target = parse_notify_url("https://a.example/", "target")
        result = postman()._asked(target, line, b"{}", {})
    assert result == Undelivered("a.example answers 413", status=413)


def test_nobody_there() -> None:
    with ReceivingServer() as server:
        url = server.url(f"/{SECRET}")
    assert undelivered(url).why == f"127.0.0.1:{server.port} cannot be reached: Connection refused"


def test_tls_is_verified_for_the_hosts_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with ReceivingServer(answer(200), certificate=authority.issue("server")) as server:
        trusting: dict[str, Any] = {"ca_file": authority.ca_file, "resolve": leading_to("127.0.0.1")}
        assert post(server.url(), **trusting) == Delivered(200)
        assert post(server.url(host="localhost"), **trusting) == Delivered(200)
        wrong = undelivered(server.url(host="hooks.example.org"), **trusting)
        assert "certificate that is not trusted: Hostname mismatch" in wrong.why
        assert "certificate that is not trusted" in undelivered(server.url()).why
        stranger = authority.stranger().ca_file
        assert "certificate that is not trusted" in undelivered(server.url(), ca_file=stranger).why
        assert len(server.requests) == 2


def test_a_common_name_is_no_name(tmp_path: Path) -> None:
    ca = trustme.CA()
    issued = ca.issue_cert(common_name="hooks.example.org")
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    certificate = dict.fromkeys(("cert_file", "key_file"), str(tmp_path / "server.pem"))
    with ReceivingServer(answer(200), certificate=certificate) as server:
        trusting: dict[str, Any] = {"ca_file": str(tmp_path / "ca.pem"), "resolve": leading_to("127.0.0.1")}
        result = undelivered(server.url(host="hooks.example.org"), **trusting)
    assert "not trusted" in result.why


def test_what_does_not_speak_tls_gets_no_request() -> None:
    with ReceivingServer(greet=lambda sock: sock.sendall(answer(400))) as server:
        assert "does not speak TLS" in undelivered(server.url().replace("http:", "https:")).why
        assert server.requests == []


def test_the_file_of_authorities_can_be_exchanged(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    chosen = tmp_path / "chosen.pem"
    chosen.write_bytes(Path(authority.stranger().ca_file).read_bytes())
    with ReceivingServer(answer(200), certificate=authority.issue("server")) as server:
        sender = postman(ca_file=str(chosen))
        assert isinstance(sender.post(server.url(), b"{}", {}), Undelivered)
        chosen.write_bytes(Path(authority.ca_file).read_bytes())
        assert sender.post(server.url(), b"{}", {}) == Delivered(200)
        chosen.unlink()
        result = sender.post(server.url(), b"{}", {})
        assert isinstance(result, Undelivered)
        assert result.why == "the file of trusted authorities cannot be read: No such file or directory"


def test_a_file_without_authorities_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    for name in ("empty.pem", "missing.pem"):
        with pytest.raises(InvalidField, match=r"^notifier_ca_file: "):
            postman(ca_file=str(tmp_path / name))


def test_the_environment_chooses_no_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    with (
        ReceivingServer(answer(200)) as proxy,
        ReceivingServer(answer(200), certificate=authority.issue("server")) as server,
    ):
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url())
            monkeypatch.setenv(name.upper(), proxy.url())
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            monkeypatch.setenv(name, authority.ca_file)
        assert "not trusted" in undelivered(server.url()).why
        assert post(server.url(), ca_file=authority.ca_file) == Delivered(200)
        assert proxy.connections == 0
